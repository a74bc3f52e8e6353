"""Mark the programs on a page that the runtime can run: docs/assets/run.js offers to run these."""

import ast
import re
from functools import cache
from pathlib import Path

from lxml.builder import E

EXAMPLES = Path(__file__).parents[1] / "examples"
# What a page of a browser does not have: other processes, Redis, TLS, connections to elsewhere.
UNAVAILABLE = {
    "http.server",
    "httpx2",
    "multiprocessing",
    "redis",
    "socketserver",
    "ssl",
    "subprocess",
}
ROUTE = re.compile(r"@\w+\.(get|post|put|patch|delete|websocket)\(\s*(\"[^\"]*\")")
NEEDS = re.compile(r"Needs:\s+(\w+\.py)")
BESIDE = re.compile(r"Same folder: ((?:[\w.]+,\s+)*[\w.]+)")


def imported(text):
    """Return the modules that a program imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found | {name.partition(".")[0] for name in found}


def can_run(path):
    """Return whether a program is a server that the runtime can run."""
    text = path.read_text()
    is_server = re.search(r"\bapp\.run\(|\bserve\(", text) and "__main__" in text
    return is_server and not imported(text) & UNAVAILABLE and path.parent.name != "site"


def beside(path):
    """Return the names of the modules that a program needs beside it."""
    found = BESIDE.search(path.read_text())
    names = re.findall(r"[\w.]+", found[1]) if found else []
    return [name for name in names if name.endswith(".py")]


def has_client(path):
    """Return whether the folder's client.html fits: the program has the routes that it needs."""
    client = path.with_name("client.html")
    if not client.exists():
        return False
    server = path.with_name(NEEDS.search(client.read_text())[1].replace("_hardened", ""))
    return set(ROUTE.findall(path.read_text())) >= set(ROUTE.findall(server.read_text()))


@cache
def programs():
    """Return {text as a page shows it: attributes} of every program that can run."""
    found = {}
    for path in sorted(EXAMPLES.glob("*/*.py")):
        if can_run(path):
            attributes = {"data-run": f"{path.parent.name}/{path.name}"}
            if others := beside(path):
                attributes["data-beside"] = " ".join(others)
            if has_client(path):
                attributes["data-client"] = f"{path.parent.name}/client.html"
            shown = re.sub(r"(?m)^ *# --8<-- .*\n", "", path.read_text())
            found[shown.strip()] = attributes
    return found


def mark(page):
    """Mark the programs of a page that the runtime can run; load run.js where there are any."""
    marked = False
    for block in page.xpath("//div[contains(@class, 'highlight')]"):
        code = block.find(".//pre")
        attributes = code is not None and programs().get(code.text_content().strip())
        if attributes:
            marked = True
            for name, value in attributes.items():
                block.set(name, value)
    if marked:
        (script,) = page.xpath("//script[contains(@src, 'assets/site.js')]/@src")
        run = re.sub(r"site\.js$", "run.js", script)
        page.find("body").append(E.script(type="module", src=run))
