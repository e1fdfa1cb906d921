"""The official SDKs of OpenAI and Anthropic for Python with a timeout that is shorter than the upstream's answer: they
send the call again by themselves. The upstream is asked once, the account pays once, and the answer arrives.
`test_retries_node.py` has the same for Node.

Needs the binary's path in FAREBOX_BIN; `make test-sdk` builds it and calls this.
"""

import json
import threading
import time
import unittest
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anthropic
import openai

from gateway import Gateway, wait_for

ANSWER_AFTER_S = 3
TIMEOUT_S = 1
REPLAY_WRITTEN_S = 10
# 200 tokens of input and 100 of output on the model `m`.
COST = Decimal("-0.15")


class SlowUpstream(BaseHTTPRequestHandler):
    """Answers in OpenAI's or Anthropic's shape, after some seconds, with the number of the call."""

    protocol_version = "HTTP/1.1"
    calls = []
    lock = threading.Lock()

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with self.lock:
            self.calls.append(body)
            text = f"answer {len(self.calls)}"
        if self.path == "/v1/messages":
            answer = {
                "id": "msg_1", "type": "message", "role": "assistant", "model": "m",
                "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
                "stop_sequence": None, "usage": {"input_tokens": 200, "output_tokens": 100},
            }
        else:
            message = {"role": "assistant", "content": text, "refusal": None}
            answer = {
                "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
                "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
                "usage": {"prompt_tokens": 200, "completion_tokens": 100, "total_tokens": 300},
            }
        time.sleep(ANSWER_AFTER_S)
        sent = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(sent)))
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_):
        pass


class Retries:
    """The tests of the SDKs of one language, which says how they ask: `ask(sdk, timeout, key, times)` sends so
    many equal prompts in parallel, with an idempotency key if there is one, and returns the texts of the answers.
    """

    @classmethod
    def setUpClass(cls):
        server = ThreadingHTTPServer(("127.0.0.1", 0), SlowUpstream)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        cls.addClassCleanup(server.server_close)
        cls.addClassCleanup(server.shutdown)
        cls.gateway = Gateway(upstream=f"http://127.0.0.1:{server.server_port}")
        cls.addClassCleanup(cls.gateway.stop)

    def setUp(self):
        self.account = self.id().rsplit(".", 1)[-1][:100]
        self.key = self.gateway.fund(self.account, 100)
        # No other test asks the upstream the same.
        self.prompt = f"question of {self.account}"

    def calls(self):
        with SlowUpstream.lock:
            return [call for call in SlowUpstream.calls if call["messages"][0]["content"] == self.prompt]

    def pays(self, calls):
        charges = self.gateway.charges(self.account)
        self.assertEqual([Decimal(entry["amount"]) for entry in charges], [COST] * calls)
        self.assertEqual(len(self.calls()), calls)

    def gets_the_answer_of_the_one_call(self, sdk):
        [text] = self.ask(sdk)
        self.assertRegex(text, r"^answer \d+$")
        self.pays(1)
        # A moment later the entry says that its answer was sent again.
        replays = lambda: self.gateway.charges(self.account)[0].get("replays") == 1
        wait_for(replays, REPLAY_WRITTEN_S, "the entry has one replay")

    def test_openai_s_retries_get_the_answer_of_the_one_call(self):
        self.gets_the_answer_of_the_one_call("openai")

    def test_anthropic_s_retries_get_the_answer_of_the_one_call(self):
        self.gets_the_answer_of_the_one_call("anthropic")

    def test_with_a_key_the_retries_are_that_call_too(self):
        for sdk in ("openai", "anthropic"):
            with self.subTest(sdk):
                key = str(uuid.uuid4())
                before = len(self.calls())
                first = self.ask(sdk, key=key)
                # Later, with patience, the same key still has that answer.
                self.assertEqual(self.ask(sdk, timeout=30, key=key), first)
                self.assertEqual(len(self.calls()), before + 1)
        self.pays(2)

    def test_equal_prompts_in_parallel_are_calls_of_their_own(self):
        for timeout in (30, TIMEOUT_S):
            with self.subTest(timeout=timeout):
                before = len(self.calls())
                answers = self.ask("openai", timeout=timeout, times=2)
                self.assertEqual(len(set(answers)), 2, answers)
                self.assertEqual(len(self.calls()), before + 2)
        self.pays(4)


class OfPython(Retries, unittest.TestCase):
    def ask(self, sdk, timeout=TIMEOUT_S, key=None, times=1):
        headers = {"Idempotency-Key": key} if key else None
        ask = {"openai": self.openai, "anthropic": self.anthropic}[sdk]
        with ThreadPoolExecutor() as pool:
            return list(pool.map(lambda _: ask(timeout, headers), range(times)))

    def openai(self, timeout, headers):
        client = openai.OpenAI(
            base_url=f"{self.gateway.address}/v1", api_key=self.key, timeout=timeout, max_retries=4
        )
        answer = client.chat.completions.create(
            model="m", max_tokens=500, messages=[{"role": "user", "content": self.prompt}], extra_headers=headers
        )
        return answer.choices[0].message.content

    def anthropic(self, timeout, headers):
        client = anthropic.Anthropic(
            base_url=self.gateway.address, api_key=self.key, timeout=timeout, max_retries=4
        )
        answer = client.messages.create(
            model="m", max_tokens=500, messages=[{"role": "user", "content": self.prompt}], extra_headers=headers
        )
        return answer.content[0].text


if __name__ == "__main__":
    unittest.main(verbosity=2)
