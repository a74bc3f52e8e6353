"""Write what programs printed, sent and cost into snippets/, or compare it with what is there.

`make record` writes; `make test` runs the same programs and compares. What differs from run
to run for no reason a reader cares about is made stable by the rules below and by nothing
else; each stand-in is as long as what it stands for, so that sizes stay true.
"""

import base64
import difflib
import hashlib
import re

from .processes import ROOT

SNIPPETS = ROOT / "snippets"


def stand_in(kind, number, length):
    """Return a text that looks like a random token and is the same every time."""
    digest = hashlib.sha256(f"{kind} {number}".encode()).digest() * 4
    return base64.urlsafe_b64encode(digest).decode().replace("_", "x").replace("-", "y")[:length]


# Name of the rule: what it finds. The group is replaced, the same by the same.
RULES = {
    "token": re.compile(r"(?:/jobs/|\"token\":\")([\w-]{22})(?![\w-])"),
    "key": re.compile(r"(?i:idempotency-key: )([0-9a-f-]{36})"),
    "port": re.compile(r"127\.0\.0\.1:(\d{4})(?!\d)"),
}


def stable(text):
    """Return a text with what is arbitrary replaced: tokens, keys and ports."""
    for kind, pattern in RULES.items():
        # In order of first appearance: the first token found is always the same stand-in.
        for number, found in enumerate(dict.fromkeys(pattern.findall(text)), 1):
            new = "8000" if kind == "port" else stand_in(kind, number, len(found))
            text = text.replace(found, new)
    return text


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


def shown_on(name):
    """Return the pages that show a recorded file or a program."""
    return [
        str(page.relative_to(ROOT))
        for page in sorted((ROOT / "docs").rglob("*.md"))
        if f'"{name}' in page.read_text()
    ]
