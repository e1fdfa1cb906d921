"""The official OpenAI SDK as a client of `farebox demo`: what a user's own program would see.

Needs the binary's path in FAREBOX_BIN; `make test-sdk` builds it and calls this.
"""

import os
import re
import subprocess
import threading
import unittest

import openai

MODEL = "demo"
HELLO = [{"role": "user", "content": "Hello"}]

START_TIMEOUT_S = 30
STOP_TIMEOUT_S = 30
# More calls than the demo's account can pay for; it bounds the loop that spends.
MAX_CALLS = 1000


class Demo:
    """A `farebox demo` of its own, on ports that the system chose."""

    # What is read from the demo's output; if its wording changes, change it here and nowhere else.
    # The address of its public listener, and the key of its funded account.
    ADDRESS = re.compile(r"listening on (http://127\.0\.0\.1:\d+)")
    KEY = re.compile(r"api key: (fb_[A-Za-z0-9_-]+)")
    # Where the OpenAI-compatible demo upstream is under that address.
    API_ROOT = "/v1"

    def __init__(self):
        self.process = subprocess.Popen(
            [os.environ["FAREBOX_BIN"], "demo", "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines = []
        self.address = self.key = None
        self._known = threading.Event()
        # It reads on after the start, so that the demo never waits for room in the pipe.
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._known.wait(START_TIMEOUT_S) or not (self.address and self.key):
            self.stop()
            raise RuntimeError("farebox demo printed no address and key:\n" + "".join(self.lines))

    def _read(self):
        for line in self.process.stdout:
            self.lines.append(line)
            self.address = self.address or self._first(self.ADDRESS, line)
            self.key = self.key or self._first(self.KEY, line)
            if self.address and self.key:
                self._known.set()
        self._known.set()

    @staticmethod
    def _first(pattern, line):
        found = pattern.search(line)
        return found and found.group(1)

    def client(self, api_key=None):
        # The SDK tries again by itself on 409, 429 and 5xx; here every call is one call.
        return openai.OpenAI(
            base_url=self.address + self.API_ROOT, api_key=api_key or self.key, max_retries=0
        )

    def stop(self):
        """SIGTERM, and its exit code."""
        self.process.terminate()
        try:
            code = self.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        self._reader.join(STOP_TIMEOUT_S)
        self.process.stdout.close()
        return code


class OpenAiSdk(unittest.TestCase):
    def setUp(self):
        self.demo = Demo()
        self.addCleanup(self.stop_demo)

    def stop_demo(self):
        self.assertEqual(self.demo.stop(), 0, "".join(self.demo.lines[-20:]))

    def test_a_plain_completion_tells_what_it_cost_and_what_is_left(self):
        raw = self.demo.client().chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO
        )
        cost = float(raw.headers["x-credits-cost"])
        left = float(raw.headers["x-credits-remaining"])
        self.assertGreater(cost, 0)
        self.assertTrue(raw.headers["x-request-id"])
        self.assertTrue(raw.parse().choices[0].message.content)

        again = self.demo.client().chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO
        )
        self.assertEqual(float(again.headers["x-credits-remaining"]), left - cost)

    def test_a_streamed_completion_arrives_in_chunks_and_is_paid(self):
        client = self.demo.client()
        raw = client.chat.completions.with_raw_response.create(
            model=MODEL, messages=HELLO, stream=True
        )
        self.assertGreater(float(raw.headers["x-credits-cost"]), 0)
        self.assertTrue(raw.headers["content-type"].startswith("text/event-stream"))
        said = [
            chunk.choices[0].delta.content
            for chunk in raw.parse()
            if chunk.choices and chunk.choices[0].delta.content
        ]
        self.assertGreater(len(said), 1)
        self.assertTrue("".join(said).strip())

    def test_an_account_that_is_spent_gets_402_as_the_sdks_own_error(self):
        client = self.demo.client()
        paid = 0
        with self.assertRaises(openai.APIStatusError) as raised:
            for _ in range(MAX_CALLS):
                client.chat.completions.create(model=MODEL, messages=HELLO)
                paid += 1
        refusal = raised.exception
        self.assertGreater(paid, 0)
        self.assertEqual(refusal.status_code, 402)
        self.assertEqual(refusal.code, "INSUFFICIENT_CREDITS")
        self.assertEqual(refusal.type, "insufficient_quota")
        # The same sentence for those who read `error` and for those who read `detail`.
        problem = refusal.response.json()
        self.assertEqual(refusal.body["message"], problem["detail"])
        self.assertRegex(problem["detail"], r"credits")
        self.assertIn(problem["detail"], str(refusal))
        self.assertLess(problem["available"], problem["required"])
        self.assertEqual(refusal.request_id, problem["request_id"])

    def test_a_refused_stream_is_the_same_error_before_the_first_chunk(self):
        client = self.demo.client()
        with self.assertRaises(openai.APIStatusError) as raised:
            for _ in range(MAX_CALLS):
                for _chunk in client.chat.completions.create(
                    model=MODEL, messages=HELLO, stream=True
                ):
                    pass
        self.assertEqual(raised.exception.status_code, 402)
        self.assertEqual(raised.exception.code, "INSUFFICIENT_CREDITS")

    def test_a_wrong_key_gets_401_as_the_sdks_own_error(self):
        client = self.demo.client(api_key="fb_thisKeyWasNeverMade")
        with self.assertRaises(openai.AuthenticationError) as raised:
            client.chat.completions.create(model=MODEL, messages=HELLO)
        refusal = raised.exception
        self.assertEqual(refusal.code, "UNAUTHENTICATED")
        self.assertEqual(refusal.body["message"], refusal.response.json()["detail"])
        self.assertNotIn("fb_thisKeyWasNeverMade", refusal.response.text)

    def test_the_sdk_does_not_try_a_402_again(self):
        # With the SDK's own default of retries: asking again would not help, and must not happen.
        patient = openai.OpenAI(
            base_url=self.demo.address + self.demo.API_ROOT, api_key=self.demo.key
        )
        with self.assertRaises(openai.APIStatusError) as raised:
            for _ in range(MAX_CALLS):
                patient.chat.completions.create(model=MODEL, messages=HELLO)
        self.assertEqual(raised.exception.status_code, 402)
        # The SDK says in each request which try it is.
        self.assertEqual(raised.exception.request.headers["x-stainless-retry-count"], "0")


if __name__ == "__main__":
    unittest.main(verbosity=2)
