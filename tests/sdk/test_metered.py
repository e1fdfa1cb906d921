"""The official SDKs of OpenAI and Anthropic through Farebox, on routes that are priced by usage: they
read exactly what they read from the upstream itself, and pay for it what a person computes by hand.

The upstream is the demo's: a word is a token, and it answers "You said: " and the question. Needs the
binary's path in FAREBOX_BIN; `make test-sdk` builds it and calls this.
"""

import unittest
from decimal import ROUND_CEILING, Decimal

import anthropic
import openai

from gateway import Gateway

HELLO = [{"role": "user", "content": "Hello there"}]
ENDLESS = [{"role": "user", "content": "count to 8000"}]
CONVERSATION = [
    {"role": "user", "content": "one two three"},
    {"role": "assistant", "content": "four"},
    {"role": "user", "content": "five"},
]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
CHAT_TOOL = {
    "type": "function",
    "function": {"name": "weather", "description": "Looks it up.", "parameters": SCHEMA},
}
RESPONSES_TOOL = {"type": "function", "name": "weather", "parameters": SCHEMA, "strict": True}
MESSAGES_TOOL = {"name": "weather", "description": "Looks it up.", "input_schema": SCHEMA}


def credits(input=0, cached=0, written=0, written_1h=0, output=0):
    """The price of a call of these tokens on the model `m`: credits, rounded up once to a millionth."""
    parts = [(input, "250"), (cached, "25"), (written, "312.5"), (written_1h, "500"), (output, "1000")]
    price = sum(tokens * Decimal(price) for tokens, price in parts) / 1_000_000
    return price.quantize(Decimal("0.000001"), ROUND_CEILING)


def dumped(parts):
    # The SDK's own types of parsed parts do not fit its declarations, of which pydantic would warn.
    return [part.model_dump(warnings=False) for part in parts]


class Metered(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.gateway = Gateway()
        cls.addClassCleanup(cls.gateway.stop)

    def setUp(self):
        self.account = self.id().rsplit(".", 1)[-1][:100]

    def pays(self, expected, calls=1):
        """The newest entries of the account: exactly this many, exactly this sum."""
        charges = self.gateway.charges(self.account)
        self.assertEqual(len(charges), calls, charges)
        self.assertEqual(sum(Decimal(entry["amount"]) for entry in charges), -expected)

    def never_tried_again(self, refusal):
        self.assertEqual(refusal.status_code, 402)
        self.assertEqual(refusal.response.headers["x-should-retry"], "false")
        # The SDK says in each request which try it is.
        self.assertEqual(refusal.request.headers["x-stainless-retry-count"], "0")
        self.assertEqual(self.gateway.charges(self.account), [])


class OpenAi(Metered):
    def clients(self, funds=100, **more):
        """The SDK through Farebox, and the same without it."""
        key = self.gateway.fund(self.account, funds)
        through = openai.OpenAI(base_url=self.gateway.address + "/v1", api_key=key, **more)
        direct = openai.OpenAI(base_url=self.gateway.upstream + "/v1", api_key="none", **more)
        self.addCleanup(through.close)
        self.addCleanup(direct.close)
        return through, direct

    def same(self, ask, expected, calls=1):
        """What `ask` reads of a client, which is the same through Farebox and without it."""
        through, direct = self.clients()
        read = ask(through)
        self.assertEqual(read, ask(direct))
        self.pays(expected, calls)
        return read

    def test_a_whole_chat_is_the_same_and_its_head_has_the_exact_cost(self):
        through, direct = self.clients()
        raw = through.chat.completions.with_raw_response.create(model="m", messages=HELLO)
        said = direct.chat.completions.create(model="m", messages=HELLO)
        self.assertEqual(raw.parse().model_dump(), said.model_dump())
        self.assertEqual(said.choices[0].message.content, "You said: Hello there")
        expected = credits(input=2, output=4)
        self.assertEqual(expected, Decimal("0.0045"))
        self.assertEqual(Decimal(raw.headers["x-credits-cost"]), expected)
        self.assertEqual(Decimal(raw.headers["x-credits-remaining"]), 100 - expected)
        self.pays(expected)

    def test_cached_and_reasoning_tokens_are_counted_once(self):
        def ask(client):
            return client.chat.completions.create(
                model="m", messages=CONVERSATION, reasoning_effort="low"
            ).model_dump()
        usage = self.same(ask, credits(input=1, cached=4, output=19))["usage"]
        self.assertEqual((usage["prompt_tokens"], usage["completion_tokens"]), (5, 19))

    def test_several_answers_are_paid_each(self):
        def ask(client):
            return client.chat.completions.create(model="m", messages=HELLO, n=3).model_dump()
        self.same(ask, credits(input=2, output=12))

    def test_a_stream_is_the_same_chunks_without_usage_that_was_not_asked_for(self):
        def ask(client):
            return dumped(client.chat.completions.create(model="m", messages=HELLO, stream=True))
        chunks = self.same(ask, credits(input=2, output=4))
        self.assertTrue(all(chunk["choices"] and not chunk["usage"] for chunk in chunks))

    def test_a_stream_that_asks_for_usage_reads_it(self):
        def ask(client):
            return dumped(client.chat.completions.create(
                model="m", messages=HELLO, stream=True, stream_options={"include_usage": True}
            ))
        self.assertEqual(self.same(ask, credits(input=2, output=4))[-1]["usage"]["total_tokens"], 6)

    def test_the_report_line_in_a_stream_is_read_over(self):
        def ask(client):
            return dumped(client.chat.completions.create(
                model="m", messages=HELLO, stream=True, extra_headers={"x-credits-report": "true"}
            ))
        self.same(ask, credits(input=2, output=4))

    def test_tools_are_called_and_answered_whole_and_streamed(self):
        asked = [{"role": "user", "content": "Paris"}]
        def ask(client):
            ask = lambda messages, **more: client.chat.completions.create(
                model="m", messages=messages, tools=[CHAT_TOOL], **more
            )
            first = ask(asked).choices[0].message
            result = {"role": "tool", "tool_call_id": first.tool_calls[0].id, "content": "rain"}
            second = ask([*asked, first.model_dump(exclude_none=True), result])
            return [first.model_dump(), second.model_dump(), dumped(ask(asked, stream=True))]
        # `{"city":"Paris"}` is one word.
        first, second, streamed = self.same(
            ask, 2 * credits(input=1, output=1) + credits(input=1, cached=1, output=3), calls=3
        )
        self.assertEqual(first["tool_calls"][0]["function"]["arguments"], '{"city":"Paris"}')
        self.assertEqual(second["choices"][0]["message"]["content"], "You said: rain")
        self.assertEqual(streamed[-1]["choices"][0]["finish_reason"], "tool_calls")

    def test_responses_are_the_same_whole_and_streamed_and_with_tools(self):
        def ask(client):
            ask = lambda **more: client.responses.create(model="m", input="Hello there", **more)
            with client.responses.stream(model="m", input="Hello there") as stream:
                helped = dumped(stream)
            return [
                ask(reasoning={"effort": "low"}).model_dump(),
                dumped(ask(stream=True)),
                helped,
                ask(tools=[RESPONSES_TOOL]).model_dump(),
                dumped(ask(tools=[RESPONSES_TOOL], stream=True)),
            ]
        # `{"city":"Hello there"}` are two words.
        read = self.same(
            ask,
            credits(input=2, output=20) + 2 * credits(input=2, output=4) + 2 * credits(input=2, output=2),
            calls=5,
        )
        self.assertEqual(read[1][-1]["type"], "response.completed")

    def test_a_response_that_is_cut_by_its_limit_is_paid_as_far_as_it_goes(self):
        def ask(client):
            return dumped(client.responses.create(
                model="m", input="count to 500", max_output_tokens=20, stream=True
            ))
        self.assertEqual(
            self.same(ask, credits(input=3, output=20))[-1]["type"], "response.incomplete"
        )

    def test_embeddings_are_the_same(self):
        def ask(client):
            return client.embeddings.create(model="m", input=["one two", "three"]).model_dump()
        self.assertEqual(len(self.same(ask, credits(input=3))["data"][0]["embedding"]), 8)

    def test_images_are_paid_by_the_piece(self):
        def ask(client):
            return client.images.generate(model="dall-e-3", prompt="A cat", n=2).model_dump()
        self.assertEqual(len(self.same(ask, Decimal("8.5"))["data"]), 2)

    def test_a_stream_that_the_client_leaves_pays_for_what_was_delivered(self):
        through, _ = self.clients()
        with through.chat.completions.create(model="m", messages=ENDLESS, stream=True) as stream:
            for chunk, _ in zip(stream, range(20)):
                self.assertTrue(chunk.choices)
        paid = 100 - self.gateway.balance(self.account)
        self.assertGreater(paid, 0)
        # Far less than the whole answer, of 8 000 tokens.
        self.assertLess(paid, credits(output=4000))
        self.pays(paid)

    def test_a_402_is_the_sdks_own_error_and_not_tried_again(self):
        through, _ = self.clients(funds="0.001")
        for stream in (False, True):
            with self.assertRaises(openai.APIStatusError) as raised:
                through.chat.completions.create(model="m", messages=HELLO, stream=stream)
            self.never_tried_again(raised.exception)
            self.assertEqual(raised.exception.code, "INSUFFICIENT_CREDITS")
            self.assertEqual(raised.exception.type, "insufficient_quota")

    def test_an_account_that_runs_dry_in_a_stream_raises_the_sdks_error(self):
        through, _ = self.clients(funds="0.5")
        read = 0
        with self.assertRaises(openai.APIError) as raised:
            for _ in through.chat.completions.create(
                model="small-holds", messages=ENDLESS, stream=True
            ):
                read += 1
        self.assertGreater(read, 50)
        self.assertIn("credits", str(raised.exception))
        # What was delivered is charged, and nothing that was not there.
        self.assertGreaterEqual(self.gateway.balance(self.account), 0)
        self.assertEqual(len(self.gateway.charges(self.account)), 1)

    def test_a_response_stream_that_runs_dry_raises_the_sdks_error(self):
        through, _ = self.clients(funds="0.5")
        with self.assertRaises(openai.APIError) as raised:
            for _ in through.responses.create(model="small-holds", input="count to 8000", stream=True):
                pass
        self.assertIn("credits", str(raised.exception))

    def test_a_model_without_a_price_is_not_found(self):
        through, _ = self.clients()
        with self.assertRaises(openai.NotFoundError) as raised:
            through.chat.completions.create(model="unknown", messages=HELLO)
        self.assertEqual(raised.exception.code, "MODEL_NOT_PRICED")
        self.assertEqual(
            sorted(model.id for model in through.models.list()), ["m", "small-holds"]
        )


class Anthropic(Metered):
    def clients(self, funds=100):
        key = self.gateway.fund(self.account, funds)
        through = anthropic.Anthropic(base_url=self.gateway.address, api_key=key)
        direct = anthropic.Anthropic(base_url=self.gateway.upstream, api_key="none")
        self.addCleanup(through.close)
        self.addCleanup(direct.close)
        return through, direct

    def same(self, ask, expected, calls=1):
        through, direct = self.clients()
        read = ask(through)
        self.assertEqual(read, ask(direct))
        self.pays(expected, calls)
        return read

    def test_a_whole_message_is_the_same(self):
        def ask(client):
            return client.messages.create(model="m", max_tokens=50, messages=HELLO).model_dump()
        self.assertEqual(
            self.same(ask, credits(input=2, output=4))["content"][0]["text"], "You said: Hello there"
        )

    def test_a_stream_is_the_same_events(self):
        def ask(client):
            raw = client.messages.create(model="m", max_tokens=50, messages=HELLO, stream=True)
            with client.messages.stream(model="m", max_tokens=50, messages=HELLO) as stream:
                text = list(stream.text_stream)
                return [dumped(raw), text, stream.get_final_message().model_dump()]
        read = self.same(ask, 2 * credits(input=2, output=4), calls=2)
        self.assertEqual(read[2]["usage"]["output_tokens"], 4)

    def test_the_cache_is_written_once_and_then_read(self):
        def block(text, **more):
            return {"type": "text", "text": text, **more}
        kept = block("a b c", cache_control={"type": "ephemeral"})
        an_hour = block("d e", cache_control={"type": "ephemeral", "ttl": "1h"})
        first = {"role": "user", "content": "one two"}
        def ask(client):
            ask = lambda messages: client.messages.create(
                model="m", max_tokens=50, system=[kept, an_hour], messages=messages
            ).model_dump()
            return [ask([first]), ask([first, {"role": "assistant", "content": "x"}, first])]
        self.same(
            ask,
            credits(input=2, written=3, written_1h=2, output=4) + credits(input=5, cached=5, output=4),
            calls=2,
        )

    def test_tools_are_called_and_answered_whole_and_streamed(self):
        asked = [{"role": "user", "content": "Paris"}]
        def ask(client):
            more = {"model": "m", "max_tokens": 50, "tools": [MESSAGES_TOOL]}
            first = client.messages.create(messages=asked, **more)
            call = first.content[0]
            result = {"type": "tool_result", "tool_use_id": call.id, "content": "rain"}
            turns = [
                {"role": "assistant", "content": [call.model_dump(exclude_none=True)]},
                {"role": "user", "content": [result]},
            ]
            second = client.messages.create(messages=asked + turns, **more)
            with client.messages.stream(messages=asked, **more) as stream:
                streamed = stream.get_final_message().model_dump()
            return [first.model_dump(), second.model_dump(), streamed]
        read = self.same(
            ask, 2 * credits(input=1, output=1) + credits(input=2, output=3), calls=3
        )
        self.assertEqual(read[0]["content"][0]["input"], {"city": "Paris"})
        self.assertEqual(read[2]["content"][0]["input"], {"city": "Paris"})

    def test_a_stream_that_the_client_leaves_pays_its_input_and_what_was_delivered(self):
        through, _ = self.clients()
        with through.messages.stream(model="m", max_tokens=8000, messages=ENDLESS) as stream:
            for text, _ in zip(stream.text_stream, range(20)):
                self.assertTrue(text)
        paid = 100 - self.gateway.balance(self.account)
        self.assertGreater(paid, credits(input=3))
        self.assertLess(paid, credits(output=4000))
        self.pays(paid)

    def test_a_402_is_the_sdks_own_error_in_its_own_shape_and_not_tried_again(self):
        through, _ = self.clients(funds="0.001")
        with self.assertRaises(anthropic.PaymentRequiredError) as raised:
            through.messages.create(model="m", max_tokens=50, messages=HELLO)
        refusal = raised.exception
        self.never_tried_again(refusal)
        self.assertEqual(refusal.body["type"], "error")
        self.assertEqual(refusal.body["error"]["type"], "billing_error")
        self.assertIn("credits", refusal.body["error"]["message"])
        self.assertEqual(refusal.body["code"], "INSUFFICIENT_CREDITS")

    def test_other_refusals_have_anthropics_shape(self):
        through, _ = self.clients()
        with self.assertRaises(anthropic.NotFoundError) as raised:
            through.messages.create(model="unknown", max_tokens=50, messages=HELLO)
        self.assertEqual(raised.exception.body["error"]["type"], "not_found_error")
        self.assertEqual(raised.exception.body["code"], "MODEL_NOT_PRICED")
        stranger = anthropic.Anthropic(base_url=self.gateway.address, api_key="fb_neverMade")
        with self.assertRaises(anthropic.AuthenticationError):
            stranger.messages.create(model="m", max_tokens=50, messages=HELLO)

    def test_an_account_that_runs_dry_in_a_stream_raises_the_sdks_error(self):
        through, _ = self.clients(funds="0.5")
        read = 0
        with self.assertRaises(anthropic.APIStatusError) as raised:
            for _ in through.messages.create(
                model="small-holds", max_tokens=8000, messages=ENDLESS, stream=True
            ):
                read += 1
        self.assertGreater(read, 50)
        self.assertEqual(raised.exception.body["error"]["type"], "billing_error")
        self.assertGreaterEqual(self.gateway.balance(self.account), 0)
        self.assertEqual(len(self.gateway.charges(self.account)), 1)


del Metered

if __name__ == "__main__":
    unittest.main(verbosity=2)
