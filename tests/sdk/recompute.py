"""Computes once more what metered calls must have cost, from the upstream's own log and the table of
prices, and compares it with the entries of the ledger.

    recompute.py gateway.toml upstream.jsonl entries.json

It shares no code with Farebox: decimals, the upstream's own words for its usage, and the rules of
docs/metered-prices.md. A line of the log is a JSON object: `request_id`, `path`, `request` (the body that
arrived), `answer` (`whole`, `broken` or the status of a refusal), `usage` and `service_tier` as they were
reported, `images` (how many were made). The entries are those of /credits/transactions, of all accounts.
"""

import json
import sys
import tomllib
from decimal import ROUND_CEILING, Decimal, localcontext

MILLION = Decimal(1_000_000)
MICRO = Decimal("0.000001")
# A kind without a price of its own costs as its parent.
PARENTS = {
    "cached_input": "input", "cache_write": "input", "cache_write_1h": "cache_write",
    "input_audio": "input", "input_image": "input",
    "reasoning": "output", "output_audio": "output", "output_image": "output",
}
INPUT = ("input", "cached_input", "cache_write", "cache_write_1h", "input_audio", "input_image")
TOKENS = (*INPUT, "output", "reasoning", "output_audio", "output_image")
PIECES = ("image", "second", "character", "search")


def openai_kinds(usage):
    """OpenAI's totals contain their parts."""
    def count(table, name):
        return int((table or {}).get(name) or 0)
    chat = "prompt_tokens" in usage
    asked = usage.get("prompt_tokens_details" if chat else "input_tokens_details")
    made = usage.get("completion_tokens_details" if chat else "output_tokens_details")
    cached, written = count(asked, "cached_tokens"), count(asked, "cache_write_tokens")
    heard = count(asked, "audio_tokens")
    thought, spoken = count(made, "reasoning_tokens"), count(made, "audio_tokens")
    return {
        "input": count(usage, "prompt_tokens" if chat else "input_tokens") - cached - written - heard,
        "cached_input": cached, "cache_write": written, "input_audio": heard,
        "output": count(usage, "completion_tokens" if chat else "output_tokens") - thought - spoken,
        "reasoning": thought, "output_audio": spoken,
    }


def anthropic_kinds(usage):
    """Anthropic's counts stand beside each other."""
    by_time = usage.get("cache_creation") or {}
    hour = by_time.get("ephemeral_1h_input_tokens", 0)
    return {
        "input": usage.get("input_tokens", 0),
        "cached_input": usage.get("cache_read_input_tokens", 0),
        "cache_write": usage.get("cache_creation_input_tokens", 0) - hour,
        "cache_write_1h": hour,
        "output": usage.get("output_tokens", 0),
        "search": (usage.get("server_tool_use") or {}).get("web_search_requests", 0),
    }


def model_of(config, name):
    """The `[[models]]` of a name: the exact one, else that of the longest pattern."""
    def fits(pattern):
        pattern, asked = pattern.lower(), name.lower()
        if "*" not in pattern:
            return pattern == asked
        before, after = pattern.split("*", 1)
        return (
            len(asked) >= len(pattern) - 1 and asked.startswith(before) and asked.endswith(after)
        )
    found = [model for model in config["models"] if fits(model["match"])]
    return max(found, key=lambda model: ("*" not in model["match"], len(model["match"])))


def prices_of(table, line, kinds):
    """The prices of one call: first `when`, then the tier of `above`."""
    prices = {unit: table[unit] for unit in (*TOKENS, *PIECES, "request") if unit in table}
    for case in table.get("when", []):
        facts = dict(line["request"])
        # What was used counts, not what was asked for.
        if line.get("service_tier") is not None:
            facts["service_tier"] = line["service_tier"]
        if all(facts.get(member) == value for member, value in case["if"].items()):
            prices |= {unit: price for unit, price in case.items() if unit != "if"}
            break
    total = sum(kinds.get(kind, 0) for kind in INPUT)
    tiers = sorted(table.get("above", []), key=lambda tier: tier["input_tokens"])
    for tier in reversed(tiers):
        if total > tier["input_tokens"]:
            prices |= {unit: price for unit, price in tier.items() if unit != "input_tokens"}
            break
    return prices


def price(prices, kind):
    while kind not in prices and kind in PARENTS:
        kind = PARENTS[kind]
    return Decimal(prices.get(kind, 0))


def due(config, line):
    """The credits that the call of this line of the log costs."""
    if line["answer"] != "whole":
        return Decimal(0)
    route = next(route for route in config["routes"] if route["path"] == line["path"])
    table = route["price"]
    if table == "models":
        table = model_of(config, line["request"]["model"])
    read = anthropic_kinds if route["meter"] == "anthropic" else openai_kinds
    kinds = read(line["usage"]) if line.get("usage") else {}
    kinds["image"] = line.get("images", 0)
    prices = prices_of(table, line, kinds)
    with localcontext() as context:
        context.prec = 60
        tokens = sum((kinds.get(kind, 0) * price(prices, kind) for kind in TOKENS), Decimal(0))
        pieces = sum((kinds.get(kind, 0) * price(prices, kind) for kind in PIECES), Decimal(0))
        sum_of_all = tokens / MILLION + pieces + Decimal(prices.get("request", 0))
        return sum_of_all.quantize(MICRO, rounding=ROUND_CEILING)


def compare(config, log, entries):
    """The sum that all entries must have, the sum that they have, and every call that differs."""
    expected = {}
    for line in log:
        if line["request_id"] in expected:
            raise ValueError(f"the upstream saw {line['request_id']} twice")
        expected[line["request_id"]] = due(config, line)
    charged = {}
    for entry in entries:
        if entry["kind"] == "capture":
            amount = -Decimal(entry["amount"])
            charged[entry["request_id"]] = charged.get(entry["request_id"], Decimal(0)) + amount
    ids = expected.keys() | charged.keys()
    differing = [
        (id, expected.get(id, Decimal(0)), charged.get(id, Decimal(0)))
        for id in sorted(ids)
        if expected.get(id, Decimal(0)) != charged.get(id, Decimal(0))
    ]
    return sum(expected.values(), Decimal(0)), sum(charged.values(), Decimal(0)), differing


def read_config(path):
    with open(path, "rb") as file:
        return tomllib.load(file, parse_float=Decimal)


def main():
    config_path, log_path, entries_path = sys.argv[1:]
    with open(log_path) as file:
        log = [json.loads(line, parse_float=Decimal) for line in file]
    with open(entries_path) as file:
        entries = json.load(file, parse_float=Decimal)
    due_in_all, charged_in_all, differing = compare(read_config(config_path), log, entries)
    for id, expected, charged in differing:
        print(f"{id}: must cost {expected}, was charged {charged}")
    print(f"{len(log)} calls reached the upstream; they must cost {due_in_all}, {charged_in_all} was charged")
    sys.exit(1 if differing else 0)


if __name__ == "__main__":
    main()
