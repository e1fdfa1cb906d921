"""A gateway that sells models by usage, in front of an upstream, for the tests of the SDKs.

Needs the binary's path in FAREBOX_BIN.
"""

import json
import os
import socket
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from decimal import Decimal
from pathlib import Path

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
SETTLE_TIMEOUT_S = 20
ADMIN_TOKEN = "0123456789abcdef0123456789abcdef"

# The model of the worked cases, credits for a million tokens, and one whose streams hold little at first.
MODELS = """
[[models]]
match = "m"
input = 250
cached_input = 25
cache_write = 312.5
cache_write_1h = 500
output = 1000
above = [{ input_tokens = 200000, input = 500, output = 1500 }]
max_output_tokens = 8000
max_input_tokens = 400000

[[models]]
match = "small-holds"
input = 250
output = 1000
max_output_tokens = 8000
hold_output_tokens = 100
"""

ROUTES = [
    ("/v1/chat/completions", "openai", 'price = "models"'),
    ("/v1/responses", "openai", 'price = "models"'),
    ("/v1/embeddings", "openai", 'price = "models"'),
    ("/v1/images/generations", "openai", "price = { request = 0.5, image = 4 }"),
    ("/v1/messages", "anthropic", 'price = "models"'),
]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def read_json(text):
    """Amounts are decimals, never floating point."""
    return json.loads(text, parse_float=Decimal, parse_int=int)


def wait_for(condition, limit_s, what):
    end = time.monotonic() + limit_s
    while time.monotonic() < end:
        found = condition()
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {limit_s} s: {what}")


class Running:
    """A process of farebox that is stopped with SIGTERM."""

    def __init__(self, arguments, folder):
        self.log = open(Path(folder) / f"{arguments[0]}.log", "wb")
        self.process = subprocess.Popen(
            [os.path.abspath(os.environ["FAREBOX_BIN"]), *arguments],
            cwd=folder, stdout=self.log, stderr=subprocess.STDOUT,
        )

    def stop(self):
        self.process.terminate()
        try:
            return self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        finally:
            self.log.close()


class Gateway:
    """`farebox serve` in front of `upstream`, or of the demo's upstream where none is given."""

    def __init__(self, upstream=None, models=MODELS, routes=ROUTES, headers="{}"):
        self.folder = tempfile.TemporaryDirectory(prefix="farebox-sdk-")
        self.running = []
        self._key_of = {}
        if upstream is None:
            address = f"127.0.0.1:{free_port()}"
            self.running.append(Running(["demo", "--upstream-only", address], self.folder.name))
            upstream = f"http://{address}"
        self.upstream = upstream
        listen, admin = f"127.0.0.1:{free_port()}", f"127.0.0.1:{free_port()}"
        self.address, self.admin = f"http://{listen}", f"http://{admin}"
        table = "".join(
            f'[[routes]]\npath = "{path}"\nmethods = ["POST"]\nupstream = "ai"\nmeter = "{meter}"\n{price}\n\n'
            for path, meter, price in routes
        )
        self.config = Path(self.folder.name) / "gateway.toml"
        self.config.write_text(
            f'[server]\nlisten = "{listen}"\nadmin = "{admin}"\nadmin_token = "{ADMIN_TOKEN}"\n'
            'shutdown_timeout = "5s"\nmax_connections = 500\n\n'
            '[ledger]\npath = "ledger.db"\n\n[auth.api_keys]\nenabled = true\n\n'
            f'[[upstreams]]\nname = "ai"\nurl = "{upstream}"\nheaders = {headers}\n\n'
            f'{table}[[routes]]\npath = "/v1/models"\nmethods = ["GET"]\nanswer = "models"\n\n{models}'
        )
        self.running.append(Running(["serve", "--config", str(self.config)], self.folder.name))
        try:
            wait_for(self._is_ready, START_TIMEOUT_S, "the gateway is ready")
        except BaseException:
            self.stop()
            raise

    def _is_ready(self):
        if self.running[-1].process.poll() is not None:
            raise AssertionError((Path(self.folder.name) / "serve.log").read_text())
        try:
            return self.ask_admin("/readyz") is not None
        except (urllib.error.URLError, ConnectionError):
            return False

    def stop(self):
        codes = [running.stop() for running in reversed(self.running)]
        self.folder.cleanup()
        if any(codes):
            raise AssertionError(f"exit codes {codes}, the gateway's first")

    def ask_admin(self, path, body=None):
        return self._ask(self.admin + path, ADMIN_TOKEN, body)

    @staticmethod
    def _ask(url, token, body=None):
        request = urllib.request.Request(
            url,
            data=None if body is None else json.dumps(body).encode(),
            headers={"authorization": f"Bearer {token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            text = answer.read().decode()
        try:
            return read_json(text)
        except ValueError:
            return text

    def fund(self, account, credits):
        """Gives an account credits; its key."""
        # The body is written by hand, so that the amount is what was asked for.
        request = urllib.request.Request(
            f"{self.admin}/admin/accounts/{account}/grants",
            data=f'{{"credits":{credits},"id":"fund-{account}","reason":"test"}}'.encode(),
            headers={"authorization": f"Bearer {ADMIN_TOKEN}"},
        )
        urllib.request.urlopen(request, timeout=10).close()
        key = self.ask_admin(f"/admin/accounts/{account}/keys", {"name": "test"})["key"]
        self._key_of[account] = key
        return key

    def balance(self, account):
        """The balance at rest: nothing is held, and the entries say the same."""
        return self._at_rest(account)[0]

    def entries(self, account):
        """All entries of an account at rest, the newest first."""
        return self._at_rest(account)[1]

    def charges(self, account):
        """The entries of an account's calls, the newest first."""
        return [entry for entry in self.entries(account) if entry["kind"] == "capture"]

    def _at_rest(self, account):
        def settled():
            balance = self._ask(f"{self.address}/credits/balance", self._key_of[account])
            entries = self._entries(account)
            is_same = sum(Decimal(entry["amount"]) for entry in entries) == balance["balance"]
            return (Decimal(balance["balance"]), entries) if balance["held"] == 0 and is_same else None

        return wait_for(settled, SETTLE_TIMEOUT_S, f"{account} is at rest")

    def _entries(self, account):
        entries, cursor = [], ""
        while True:
            url = f"{self.address}/credits/transactions?limit=100{cursor}"
            page = self._ask(url, self._key_of[account])
            entries += page["transactions"]
            if not page["next_cursor"]:
                return entries
            cursor = f"&cursor={page['next_cursor']}"
