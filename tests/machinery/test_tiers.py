"""The tiers of programs: what every file of a tier must be."""

import difflib
import io
import tokenize

import pytest

from ..support.processes import EXAMPLES

# Topics whose subject is itself large have one full program and no quick start.
LARGE = {"notifications", "scaling_out", "reliable_websockets", "security"}
PUSHED = {"server_sent_events", "websockets"}  # event streams and WebSockets may be longer
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
    return pushed if topic in PUSHED else most


@pytest.mark.parametrize("name", quick_starts("server") + quick_starts("client"))
def test_a_quick_start_is_small(name):
    """A quick-start server has at most 45 lines of code and a client at most 30; 60 and 40 for
    event streams and WebSockets."""
    assert code_lines((EXAMPLES / name).read_text()) <= limit(name)


def test_only_code_is_counted():
    """Comments, docstrings and blank lines are not counted as code."""
    text = '"""Say hello."""\n\n# why\nprint(\n    """a\n    b"""\n)\n\n\ndef f():\n    """Do."""\n'
    assert code_lines(text + "    return 1\n") == 6


def base_of(wrong):
    """Return the right program of the same folder to which a wrong one is most similar."""
    others = [
        path for path in wrong.parent.glob(f"*{wrong.suffix}") if not path.name.startswith("wrong_")
    ]
    lines = wrong.read_text().splitlines()
    return max(
        others,
        key=lambda path: difflib.SequenceMatcher(
            None, path.read_text().splitlines(), lines
        ).ratio(),
    )


def changed_lines(right, wrong):
    """Return how many lines of code differ between two programs, docstrings aside."""
    bodies = [text.split('"""', 2)[-1].splitlines() for text in (right, wrong)]
    return sum(line[0] in "+-" for line in difflib.ndiff(*bodies))


# A wrong program differs from the right one in the wrong lines and nothing else.
MOST = 14


@pytest.mark.parametrize(
    "name",
    [str(path.relative_to(EXAMPLES)) for path in sorted(EXAMPLES.glob("*/wrong_*.py"))],
)
def test_a_wrong_program_differs_in_the_wrong_lines(name):
    """A wrong program is a right one of the same folder with at most 14 lines changed."""
    wrong = EXAMPLES / name
    assert changed_lines(base_of(wrong).read_text(), wrong.read_text()) <= MOST
