"""Write what programs printed, sent and cost into snippets/, or compare it with what is there.

`make record` writes; `make test` runs the same programs and compares. What differs from run
to run for no reason a reader cares about is made stable by the rules below and by nothing
else; each stand-in is as long as what it stands for, so that sizes stay true.
"""

import base64
import difflib
import hashlib
import re
import uuid
from textwrap import fill

from websockets.utils import accept_key

from .processes import ROOT

SNIPPETS = ROOT / "snippets"


# --8<-- [start:rules]
# Name of the rule: what it finds. The group is replaced, the same by the same.
RULES = {
    "token": re.compile(
        r"(?:/jobs/|session=|ticket=|submitted: |msg_|['\"](?:token|status)['\"]: ?['\"])"
        r"([\w-]{22})(?![\w-])"
    ),
    "key": re.compile(r"(?i:idempotency-key: )([0-9a-f-]{36})"),
    "websocket key": re.compile(r"(?i:sec-websocket-key: )([\w+/]{22}==)"),
    # Not that of the standard's own example, which is always the same.
    "websocket accept": re.compile(r"(?i:sec-websocket-accept: )(?!s3pPLMBi)([\w+/]{27}=)"),
    "webhook timestamp": re.compile(r"webhook-timestamp: (\d{10})"),
    "webhook signature": re.compile(r"webhook-signature: v1,([\w+/]{43}=)"),
    "date": re.compile(r"(?i:\bdate: )(\w{3}, \d\d \w{3} \d{4} \d\d:\d\d:\d\d GMT)"),
    "log date": re.compile(r"\[(\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4})\]"),
    "python": re.compile(r"\bPython/(3\.\d\d)\b"),
    "port": re.compile(r"127\.0\.0\.1:(?!9000)(\d{4})(?!\d)"),  # 9000 is that of tap.py
}
# --8<-- [end:rules]


def stand_in(kind, number):
    """Return what stands for the so-manieth token, key or port of a text."""
    digest = hashlib.sha256(f"{kind} {number}".encode()).digest()
    match kind:
        case "port":
            return "8000"
        case "key":
            return str(uuid.UUID(bytes=digest[:16], version=4))
        case "websocket key":
            return base64.b64encode(digest[:16]).decode()
        case "websocket accept":  # the one that belongs to the key of the same number
            return accept_key(stand_in("websocket key", number))
        case "webhook timestamp":
            return "1767225600"
        case "webhook signature":
            return base64.b64encode(digest).decode()
        case "date":
            return "Thu, 01 Jan 2026 00:00:00 GMT"
        case "log date":
            return "01/Jan/2026:00:00:00 +0000"
        case "python":
            return "3.11"
        case "token":
            return base64.b64encode(digest, b"xy").decode()[:22]


def stable(text):
    """Return a text with what is arbitrary replaced: tokens, keys and ports."""
    for kind, pattern in RULES.items():
        # In order of first appearance: the first token found is always the same stand-in.
        found = dict.fromkeys(pattern.findall(text))
        new = {old: stand_in(kind, number) for number, old in enumerate(found, 1)}
        text = pattern.sub(lambda m, new=new: m[0].replace(m[1], new[m[1]]), text)
    return text


def wrap_lines(text):
    """Return a text with its long lines wrapped, so that a page shows them in full."""
    lines = [
        fill(line, 70, subsequent_indent="    ", break_on_hyphens=False)
        for line in text.splitlines()
    ]
    return "\n".join(lines) + "\n"


class Recorder:
    def __init__(self, write):
        self.write = write

    def __call__(self, name, text):
        """Record `text` as snippets/`name`, made stable; when testing, compare instead."""
        path, text = SNIPPETS / name, stable(text)
        if self.write:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            return
        kept = path.read_text() if path.exists() else ""
        if kept == text:
            return
        diff = difflib.unified_diff(
            kept.splitlines(), text.splitlines(), "recorded", "now", lineterm=""
        )
        raise AssertionError(
            f"snippets/{name} is not what the programs do now. It stands on "
            f"{', '.join(shown_on(name)) or 'no page'}. If the change is meant: make record.\n"
            + "\n".join(diff)
        )


def pages():
    """Return the Markdown files of docs/, without the copies that `make build` puts there."""
    copies = {"examples", "snippets"}
    folders = [path for path in (ROOT / "docs").iterdir() if path.name not in copies]
    return sorted(
        page
        for folder in folders
        for page in [folder, *folder.rglob("*.md")]
        if page.suffix == ".md"
    )


def shown_on(name):
    """Return the pages that show a recorded file or a program."""
    return [str(page.relative_to(ROOT)) for page in pages() if f'"{name}' in page.read_text()]
