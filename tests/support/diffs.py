"""Wrong programs as differences: what would make them right."""

import ast
import difflib
import re

from .processes import EXAMPLES

DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
WRONG = sorted(
    str(path.relative_to(EXAMPLES))
    for path in EXAMPLES.glob("*/wrong_*")
    if path.suffix in {".py", ".conf", ".cfg"}
)


def right_for(wrong):
    """Return the right file to which a wrong one is most similar, of the same folder and kind."""
    path = EXAMPLES / wrong
    rights = [
        other
        for other in path.parent.glob(f"*{path.suffix}")
        if not other.name.startswith("wrong_")
    ]
    lines = path.read_text().splitlines()

    def similarity(other):
        return difflib.SequenceMatcher(None, other.read_text().splitlines(), lines).ratio()

    return str(max(rights, key=similarity).relative_to(EXAMPLES))


def body(name):
    """Return a file's lines without its head (what it is, how to run it) and section markers."""
    text = (EXAMPLES / name).read_text()
    _, _, text = text.partition('"""\n\n' if name.endswith(".py") else "\n\n")
    return re.sub(r"(?m)^ *# --8<-- .*\n", "", text).splitlines()


def diff(old, new):
    """Return the unified diff that turns one file into another, their heads aside."""
    names = [name.split("/")[1] for name in (old, new)]
    lines = list(difflib.unified_diff(body(old), body(new), *names, n=1, lineterm=""))
    return "\n".join(re.sub("^@@.*", "@@", line) for line in lines) + "\n"


def diff_to_right(wrong):
    """Return the unified diff that turns a wrong file into the right one."""
    return diff(wrong, right_for(wrong))


def functions(name):
    """Return the names of a program's functions, in the order in which they are defined."""
    tree = ast.parse((EXAMPLES / name).read_text())
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return [node.name for node in tree.body if isinstance(node, kinds)]


def code_of(text):
    """Return the lines of a program without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, DOCUMENTED) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree).splitlines()


def changed_lines(wrong):
    """Return how many lines of code differ between a wrong program and the right one."""
    texts = [(EXAMPLES / name).read_text() for name in (right_for(wrong), wrong)]
    lines = [code_of(text) if wrong.endswith(".py") else text.splitlines() for text in texts]
    return sum(line[0] in "+-" for line in difflib.ndiff(*lines))
