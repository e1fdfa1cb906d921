"""LiteLLM's proxy as the upstream, with its mock answers: what it counts and what Farebox charges for it.

It is heavy (760 MB), so `make test-litellm` alone calls this, with LiteLLM's own Python and the binary's
path in FAREBOX_BIN.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
import unittest
import urllib.error
import urllib.request
from decimal import ROUND_CEILING, Decimal
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "sdk"))
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm  # noqa: E402

from gateway import Gateway, free_port, read_json, wait_for  # noqa: E402

START_TIMEOUT_S = 120
MASTER_KEY = "sk-litellm-for-tests-0123456789abcdef"
SAID = "It is mocked, and counted by LiteLLM."

# A credit is a dollar here, so that LiteLLM's own costs are Farebox's credits.
PROXY = f"""
model_list:
  - model_name: m
    litellm_params:
      model: openai/gpt-4o
      api_key: none
      mock_response: "{SAID}"
      input_cost_per_token: 0.00025
      output_cost_per_token: 0.001
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: none
      mock_response: "{SAID}"
"""
MODELS = """
[[models]]
match = "m"
input = 250
output = 1000

[[models]]
match = "claude"
input = 250
output = 1000
"""
ROUTES = [
    ("/v1/chat/completions", "openai", 'price = "models"'),
    ("/v1/embeddings", "openai", 'price = "models"'),
    ("/v1/messages", "anthropic", 'price = "models"'),
]

DICE = random.Random(1)
TEXTS = {
    "English": "The hold is taken before anything is sent upstream, and the rest is given back. " * 40,
    "French": "Le solde est réservé avant que l'appel ne parte, et le reste est rendu ensuite. " * 40,
    "code": "pub fn charge(&self, usage: &Usage) -> Result<Credits, Refusal> { self.rules.price(usage) }\n" * 40,
    "Chinese": "预付费积分在转发调用之前会被预留，然后按照实际使用量收费。" * 40,
    "digits": "".join(DICE.choice("0123456789") for _ in range(3000)),
    "random signs": "".join(DICE.choice("aZ9#!$%&*+=?xQ7") for _ in range(3000)),
    "emoji": "😀🚀🎉🧩🦊🪐🫠🥝" * 100,
}


def price(input, output):
    """The credits for tokens as LiteLLM counted them, rounded up to a millionth."""
    exact = input * Decimal("0.00025") + output * Decimal("0.001")
    return exact.quantize(Decimal("0.000001"), ROUND_CEILING)


class LiteLlm(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory(prefix="farebox-litellm-")
        cls.addClassCleanup(folder.cleanup)
        (Path(folder.name) / "config.yaml").write_text(PROXY)
        cls.upstream = f"http://127.0.0.1:{free_port()}"
        port = cls.upstream.rsplit(":", 1)[1]
        log = open(Path(folder.name) / "log", "wb")
        cls.addClassCleanup(log.close)
        cls.proxy = subprocess.Popen(
            [Path(sys.executable).with_name("litellm"), "--config", "config.yaml",
             "--host", "127.0.0.1", "--port", port],
            cwd=folder.name, env={**os.environ, "LITELLM_MASTER_KEY": MASTER_KEY},
            stdout=log, stderr=subprocess.STDOUT,
        )
        cls.addClassCleanup(cls.proxy.wait)
        cls.addClassCleanup(cls.proxy.terminate)

        def lives():
            try:
                with urllib.request.urlopen(f"{cls.upstream}/health/liveliness", timeout=5):
                    return True
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                return False

        wait_for(lives, START_TIMEOUT_S, "LiteLLM answers")
        cls.gateway = Gateway(
            cls.upstream, MODELS, ROUTES, headers=f'{{ authorization = "Bearer {MASTER_KEY}" }}'
        )
        cls.addClassCleanup(cls.gateway.stop)

    def setUp(self):
        self.account = self.id().rsplit(".", 1)[-1]
        self.key = self.gateway.fund(self.account, 1000)

    def ask(self, path, body):
        request = urllib.request.Request(
            self.gateway.address + path, json.dumps(body, ensure_ascii=False).encode(),
            {"authorization": f"Bearer {self.key}", "content-type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.headers, answer.read().decode()

    def newest(self):
        """The charge of the newest call."""
        return -Decimal(self.gateway.charges(self.account)[0]["amount"])

    def test_a_whole_chat_costs_what_litellm_says_that_it_costs(self):
        heads, text = self.ask(
            "/v1/chat/completions", {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
        )
        usage = read_json(text)["usage"]
        self.assertEqual(Decimal(heads["x-credits-cost"]), Decimal(heads["x-litellm-response-cost"]))
        self.assertEqual(self.newest(), price(usage["prompt_tokens"], usage["completion_tokens"]))

    def test_a_stream_costs_what_litellm_counts_with_its_own_tokenizer(self):
        print("\n  text: LiteLLM's tokens, Farebox's estimate before the call")
        for name, text in TEXTS.items():
            messages = [{"role": "user", "content": text}]
            body = {
                "model": "m", "messages": messages, "stream": True, "max_tokens": 100,
                "stream_options": {"include_usage": True},
            }
            heads, answer = self.ask("/v1/chat/completions", body)
            events = [line[6:] for line in answer.splitlines() if line.startswith("data: {")]
            usage = read_json(events[-1])["usage"]
            counted = litellm.token_counter(model="gpt-4o", messages=messages)
            tokens = usage["prompt_tokens"]
            self.assertEqual(self.newest(), price(tokens, usage["completion_tokens"]), name)
            # The proxy adds none or a few tokens for the form of the messages.
            self.assertLessEqual(abs(counted - tokens), 10, name)
            held = (Decimal(heads["x-credits-held"]) - Decimal("0.1")) / Decimal("0.00025")
            print(f"  {name}: {tokens}, {held:.0f}: {held / tokens:.2f} times")
            # No text is under-estimated by more than half.
            self.assertGreater(held * 2, tokens, name)

    def test_a_stream_without_include_usage_is_charged_all_the_same(self):
        body = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "stream": True}
        _, answer = self.ask("/v1/chat/completions", body)
        self.assertTrue(answer.rstrip().endswith("data: [DONE]"))
        # One word, in LiteLLM's form of a message, and its answer.
        said = litellm.token_counter(model="gpt-4o", text=SAID)
        asked = litellm.token_counter(model="gpt-4o", messages=body["messages"])
        paid = self.newest()
        print(f"\n  asked {asked}, said {said}, paid {paid}")
        self.assertGreater(paid, price(0, said - 1))
        self.assertLess(paid, price(asked + 10, said + 1))

    def test_a_message_is_charged_by_the_usage_that_it_names(self):
        # Its mock of Anthropic answers in JSON, also where a stream is asked for.
        for stream in (False, True):
            body = {
                "model": "claude", "max_tokens": 1000, "stream": stream,
                "messages": [{"role": "user", "content": "hello"}],
            }
            heads, text = self.ask("/v1/messages", body)
            usage, paid = read_json(text)["usage"], self.newest()
            self.assertEqual(paid, price(usage["input_tokens"], usage["output_tokens"]))
            self.assertEqual(Decimal(heads["x-credits-cost"]), paid)

    def test_embeddings_are_charged_by_their_input(self):
        _, text = self.ask("/v1/embeddings", {"model": "m", "input": "hello there"})
        self.assertEqual(self.newest(), price(read_json(text)["usage"]["prompt_tokens"], 0))


if __name__ == "__main__":
    unittest.main(verbosity=2)
