"""A few hundred mixed metered calls through a real gateway: the ledger has exactly what the upstream's log
and the table of prices make, call by call, computed by recompute.py.

Needs the binary's path in FAREBOX_BIN; FAREBOX_SEED repeats what a run chose.
"""

import http.client
import json
import os
import random
import sys
import tempfile
import threading
import time
import tomllib
import unittest
from decimal import Decimal
from pathlib import Path
from urllib.parse import urlsplit

import recompute
from dice import Dice
from gateway import Gateway, wait_for

CALLS = 400
THREADS = 16
ACCOUNTS = ["alice", "bob", "carol"]
FUNDS = 1_000_000
# In place of a status: the answer broke off.
BROKEN = 0

# Prices that leave much to round, tiers, a pattern, and prices by the tier that served the call.
MODELS = """
[[models]]
match = "m"
input = 250
cached_input = 25
cache_write = 312.5
output = 1000
above = [{ input_tokens = 200000, input = 500, output = 1500 }]
max_output_tokens = 8000

[[models]]
match = "fine"
input = 0.3
cached_input = 0.000000001
cache_write = 0.123456789
cache_write_1h = 0.7
output = 1.1
reasoning = 3.3
request = 0.0000001

[[models]]
match = "fine-*"
input = 33.3
output = 77.7
above = [
    { input_tokens = 1000, input = 44.4 },
    { input_tokens = 200000, input = 55.5, output = 88.8 },
]
when = [
    { if = { service_tier = "priority" }, input = 99.9, output = 111.1 },
    { if = { service_tier = "flex" }, input = 11.1 },
]
"""

# Usage is thrown with dice and has nothing to do with the request, so every amount is believed.
BELIEVED = 'price = "models"\nmax_overrun = 1000000'
ROUTES = [
    ("/v1/chat/completions", "openai", BELIEVED),
    ("/v1/responses", "openai", BELIEVED),
    ("/v1/embeddings", "openai", BELIEVED),
    ("/v1/images/generations", "openai", "price = { request = 0.5, image = 4.0000001 }"),
    ("/v1/messages", "anthropic", BELIEVED),
]


class Recomputed(unittest.TestCase):
    def test_the_worked_cases_are_recomputed_as_by_hand(self):
        models = tomllib.loads(MODELS, parse_float=Decimal)["models"]
        routes = [
            {"path": "/chat", "meter": "openai", "price": "models"},
            {"path": "/messages", "meter": "anthropic", "price": "models"},
            {"path": "/images", "meter": "openai", "price": {"request": Decimal("0.5"), "image": 4}},
        ]
        def due(path, usage, model="m", **more):
            line = {"path": path, "request": {"model": model}, "answer": "whole", "usage": usage}
            return recompute.due({"models": models, "routes": routes}, line | more)
        chat = {
            "prompt_tokens": 1000, "prompt_tokens_details": {"cached_tokens": 400},
            "completion_tokens": 300, "completion_tokens_details": {"reasoning_tokens": 200},
        }
        message = {
            "input_tokens": 600, "cache_read_input_tokens": 400, "cache_creation_input_tokens": 100,
            "output_tokens": 300,
        }
        for expected, found in [
            ("0.46", due("/chat", chat)),
            ("0.49125", due("/messages", message)),
            ("50.3", due("/chat", {"prompt_tokens": 200_000, "completion_tokens": 300})),
            ("100.4505", due("/chat", {"prompt_tokens": 200_001, "completion_tokens": 300})),
            ("0.000001", due("/chat", {"prompt_tokens": 1, "completion_tokens": 0}, "fine")),
            ("0.0999", due("/chat", {"prompt_tokens": 1000, "completion_tokens": 0}, "fine-x",
                           service_tier="priority")),
            ("4.5", due("/images", None, images=1)),
            ("0", due("/chat", chat, answer="429")),
        ]:
            self.assertEqual(found, Decimal(expected))


class Sums(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="farebox-sums-")
        self.addCleanup(folder.cleanup)
        self.seed = int(os.environ.get("FAREBOX_SEED") or random.SystemRandom().randrange(2**32))
        print(f"FAREBOX_SEED={self.seed}", file=sys.stderr)
        self.log = Path(folder.name) / "upstream.jsonl"
        self.upstream = Dice(self.log, self.seed)
        self.addCleanup(self.upstream.stop)
        self.gateway = Gateway(self.upstream.address, MODELS, ROUTES)
        self.addCleanup(self.gateway.stop)

    def requests(self):
        dice = random.Random(self.seed + 1)
        for _ in range(CALLS):
            path = dice.choice([route[0] for route in ROUTES])
            body = {"model": dice.choice(["m", "M", "fine", "fine-grained"])}
            if path == "/v1/images/generations":
                body = {"model": "dall-e-3", "prompt": "x", "n": dice.randint(1, 4)}
            elif path == "/v1/embeddings":
                body["input"] = "x" * dice.randrange(500)
            elif path == "/v1/responses":
                body |= {"input": "x", "stream": dice.random() < 0.5}
            else:
                body |= {
                    "messages": [{"role": "user", "content": "x"}], "max_tokens": 500,
                    "stream": dice.random() < 0.5,
                }
            # A client that leaves an answer that does not stream is charged all the same, once the
            # upstream has its call.
            leaves = None
            if not body.get("stream") and dice.random() < 0.2:
                leaves = dice.uniform(0, 0.05)
            yield dice.choice(ACCOUNTS), path, body, leaves

    def lines_in_the_log(self):
        return self.log.read_text().count("\n")

    def call(self, key, path, body, leaves):
        at = urlsplit(self.gateway.address)
        connection = http.client.HTTPConnection(at.hostname, at.port, timeout=30)
        headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
        connection.request("POST", path, json.dumps(body), headers)
        if leaves is not None:
            time.sleep(leaves)
        else:
            try:
                answer = connection.getresponse()
                answer.read()
                self.statuses.append(answer.status)
            except (http.client.HTTPException, ConnectionError):
                self.statuses.append(BROKEN)
        connection.close()

    def test_the_entries_are_what_the_upstream_reported_times_the_table(self):
        keys = {account: self.gateway.fund(account, FUNDS) for account in ACCOUNTS}
        self.statuses, requests, lock = [], self.requests(), threading.Lock()

        def work():
            while True:
                with lock:
                    request = next(requests, None)
                if request is None:
                    return
                account, *call = request
                self.call(keys[account], *call)

        threads = [threading.Thread(target=work) for _ in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        # Calls whose client left may still be on their way, or never have been forwarded.
        wait_for(lambda: self.lines_in_the_log() >= len(self.statuses), 20, "the calls in the log")
        left = [self.gateway.balance(account) for account in ACCOUNTS]

        self.assertGreater(self.lines_in_the_log(), len(self.statuses), "clients that left")
        log = [json.loads(line) for line in self.log.read_text().splitlines()]
        entries = [entry for account in ACCOUNTS for entry in self.gateway.entries(account)]
        config = recompute.read_config(self.gateway.config)
        due, charged, differing = recompute.compare(config, log, entries)
        self.assertEqual(differing, [], f"FAREBOX_SEED={self.seed}")
        self.assertEqual(due, charged)
        self.assertGreater(due, 0)
        # The balances say the same.
        self.assertEqual(sum(left, Decimal(0)), FUNDS * len(ACCOUNTS) - due)
        for status in (200, 429, BROKEN):
            self.assertIn(status, self.statuses)
        print(f"{CALLS} calls, {due} credits", file=sys.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
