"""The tiers of programs: what every file of a tier must be."""

import io
import tokenize

import pytest

from ..support.diffs import WRONG, changed_lines, diff_to_right
from ..support.processes import EXAMPLES

# Topics whose subject is itself large have one full program and no quick start.
LARGE = {"notifications", "scaling_out", "reliable_websockets", "security"}
# Event streams, WebSockets and a queue with its workers may be longer.
PUSHED = {"job_queue", "reconnecting", "server_sent_events", "websockets"}
# A server that sends webhooks is a client as well.
CALLING = {"webhooks"}
NO_TOPIC = {"site", "tools", "runtime"}


def code_lines(text):
    """Return how many lines of a program hold code: no comment, docstring or blank line."""
    lines, statement = set(), []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in {tokenize.NEWLINE, tokenize.ENDMARKER}:
            if {each.type for each in statement} != {tokenize.STRING}:
                for each in statement:
                    lines.update(range(each.start[0], each.end[0] + 1))
            statement = []
        elif token.type not in {tokenize.COMMENT, tokenize.NL, tokenize.INDENT, tokenize.DEDENT}:
            statement.append(token)
    return len(lines)


def quick_starts(name):
    return [
        str(path.relative_to(EXAMPLES))
        for path in sorted(EXAMPLES.glob(f"*/{name}.py"))
        if path.parent.name not in LARGE | NO_TOPIC
    ]


def limit(name):
    topic, file = name.split("/")
    most, pushed = (45, 60) if file == "server.py" else (30, 40)
    if topic in CALLING and file == "server.py":
        return 45 + 30
    return pushed if topic in PUSHED else most


@pytest.mark.parametrize("name", quick_starts("server") + quick_starts("client"))
def test_a_quick_start_is_small(name):
    """A quick-start server has at most 45 lines of code and a client at most 30; 60 and 40 for
    event streams, WebSockets and the queue, 75 for a server that sends webhooks."""
    assert code_lines((EXAMPLES / name).read_text()) <= limit(name)


def test_only_code_is_counted():
    """Comments, docstrings and blank lines are not counted as code."""
    text = '"""Say hello."""\n\n# why\nprint(\n    """a\n    b"""\n)\n\n\ndef f():\n    """Do."""\n'
    assert code_lines(text + "    return 1\n") == 6


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_program_differs_in_the_wrong_lines(name, record):
    """A wrong program is a right one of the same folder with at most 14 lines of code changed; the
    recorded diff turns it into the right one."""
    record(f"{name.rpartition('.')[0]}.diff", diff_to_right(name))
    assert changed_lines(name) <= 14
