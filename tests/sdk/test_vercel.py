"""Vercel's AI SDK for Node through Farebox, and the same without it: the same answers, paid as computed by
hand.

Needs the binary's path in FAREBOX_BIN, and in FAREBOX_SDK_NODE the folder with the SDK's node_modules;
`make test-sdk` sets up both and calls this.
"""

import unittest
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

from gateway import Gateway
from node import run_node

PROVIDERS = ("chat", "responses", "anthropic")


def node(provider, base, key, case):
    return run_node("vercel.mjs", provider, base, key, case)


class Vercel(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway()
        cls.addClassCleanup(cls.gateway.stop)

    def through(self, case, funds=100):
        """What each provider of the SDK reads through Farebox, and its account."""
        def ask(provider):
            account = f"{case}-{provider}"
            key = self.gateway.fund(account, funds)
            return provider, account, node(provider, self.gateway.address, key, case)
        with ThreadPoolExecutor() as pool:
            yield from pool.map(ask, PROVIDERS)

    def same(self, case, expected):
        """The same without Farebox; `expected` is the sum that is paid."""
        with ThreadPoolExecutor() as pool:
            direct = dict(zip(PROVIDERS, pool.map(
                lambda provider: node(provider, self.gateway.upstream, "none", case), PROVIDERS
            )))
        for provider, account, answer in self.through(case):
            self.assertEqual(answer, direct[provider])
            self.assertEqual(100 - self.gateway.balance(account), expected)
            yield answer["read"]

    def test_a_whole_answer_is_the_same(self):
        # 2 × 250 and 4 × 1 000 for a million tokens.
        for read in self.same("whole", Decimal("0.0045")):
            self.assertEqual(read["text"], "You said: Hello there")
            self.assertEqual(read["usage"]["outputTokens"], 4)

    def test_a_stream_is_the_same(self):
        for read in self.same("streamed", Decimal("0.0045")):
            self.assertEqual(read[-1]["type"], "finish")
            self.assertEqual(read[-1]["totalUsage"]["outputTokens"], 4)

    def test_tools_are_called_and_answered(self):
        for _, account, answer in self.through("tools"):
            self.assertEqual(answer["read"]["text"], "You said: rain in Paris")
            self.assertEqual(answer["read"]["calls"][0], [["weather", {"city": "Paris"}]])
            self.assertEqual(len(self.gateway.charges(account)), 2)

    def test_a_stream_that_is_aborted_pays_for_what_was_delivered(self):
        for _, account, answer in self.through("aborted"):
            self.assertEqual(answer["read"], {"saidSo": True, "few": True})
            paid = 100 - self.gateway.balance(account)
            self.assertGreater(paid, 0)
            self.assertLess(paid, 4)

    def test_an_account_that_runs_dry_in_a_stream_is_an_error_of_the_stream(self):
        for _, account, answer in self.through("dry", funds="0.5"):
            self.assertEqual(len(answer["read"]["errors"]), 1, answer)
            self.assertIn("credits", answer["read"]["errors"][0])
            self.assertGreater(answer["read"]["words"], 50)
            self.assertEqual(answer["requests"], 1)
            self.assertGreaterEqual(self.gateway.balance(account), 0)

    def test_a_402_is_the_sdks_own_error_and_not_tried_again(self):
        for _, account, answer in self.through("refused", funds="0.001"):
            self.assertEqual(answer["requests"], 1)
            self.assertTrue(answer["read"]["isOfTheSdk"])
            self.assertEqual(answer["read"]["status"], 402)
            self.assertFalse(answer["read"]["isRetryable"])
            self.assertIn("credits", answer["read"]["message"])
            self.assertEqual(self.gateway.charges(account), [])

    def test_a_model_without_a_price_is_not_found(self):
        for _, _, answer in self.through("unknown"):
            self.assertEqual((answer["read"]["status"], answer["requests"]), (404, 1))
            self.assertIn("unknown", answer["read"]["message"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
