"""A stand-in for `ujson`, which is written in C: JSON without spaces."""

import json
from json import loads as loads


def dumps(value, *, escape_forward_slashes=True, **options):
    text = json.dumps(value, separators=(",", ":"), **options)
    return text.replace("/", r"\/") if escape_forward_slashes else text
