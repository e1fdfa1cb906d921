"""Tells how Python's parsers read a request: one body a line in base64, one JSON answer a line.

The answers are what each parser took for the model, the output limit, `stream` and `n`; a parser that refuses the body
is left out. Two parsers are written after the rules of those that a machine with Python alone does not have: Go's
encoding/json, which ignores case (also of the letters that Unicode folds to `s` and `k`), and protobuf's JSON, which
takes both spellings of a name. The last of several members wins in both.
"""

import base64
import json
import sys

try:
    import pydantic
    from pydantic.alias_generators import to_camel
except ImportError:
    pydantic = None

LIMITS = ("max_tokens", "max_completion_tokens")
MEMBERS = ("model", "stream", "n", *LIMITS)


def summary(members):
    """The price of a body, as far as it stands in these members."""
    limits = [members.get(name) for name in LIMITS]
    limits = [limit for limit in limits if isinstance(limit, int) and limit > 0]
    return {
        "model": members.get("model"),
        "stream": bool(members.get("stream")),
        "n": max(members.get("n") or 1, 1),
        "limit": max(limits, default=None),
    }


def plain(body):
    return summary(json.loads(body))


def folded(name):
    return name.replace("\u017f", "s").replace("\u212a", "k").lower()


def go(body):
    def pairs(pairs):
        found = {}
        for name, value in pairs:
            found[folded(name)] = value
        return found

    return summary({name: json.loads(body, object_pairs_hook=pairs).get(folded(name)) for name in MEMBERS})


def protobuf(body):
    def camel(name):
        first, *rest = name.split("_")
        return first + "".join(word.capitalize() for word in rest)

    def number(value):
        return int(float(value)) if isinstance(value, (str, float)) else value

    def pairs(pairs):
        spelled = {camel(name): name for name in MEMBERS}
        return {spelled.get(name, name): value for name, value in pairs}

    found = json.loads(body, object_pairs_hook=pairs)
    for name in ("n", *LIMITS):
        found[name] = number(found.get(name))
    return summary(found)


def lax():
    """Pydantic as most servers in Python use it: lax, with either spelling."""

    class Request(pydantic.BaseModel):
        model_config = pydantic.ConfigDict(alias_generator=to_camel, populate_by_name=True, protected_namespaces=())
        model: str | None = None
        stream: bool | None = None
        n: int | None = None
        max_tokens: int | None = None
        max_completion_tokens: int | None = None

    return {
        "pydantic": lambda body: summary(Request.model_validate_json(body).model_dump()),
        "pydantic after json": lambda body: summary(Request.model_validate(json.loads(body)).model_dump()),
    }


def main():
    parsers = {"json": plain, "go": go, "protobuf": protobuf}
    if pydantic:
        parsers.update(lax())
    for line in sys.stdin:
        body = base64.b64decode(line)
        read = {}
        for name, parse in parsers.items():
            try:
                read[name] = parse(body)
            except Exception:  # A refusal, however the parser words it.
                pass
        print(json.dumps({"parsers": list(parsers), "read": read}))


main()
