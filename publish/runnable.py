"""Mark the programs on a page that the runtime can run: docs/assets/run.js offers to run these.

A server program is offered where it is printed whole and, if that is in a closed fold or an
unopened tab, also where a reader sees it without opening that: beside the command that starts it,
an excerpt of it, or the difference between it and a right program. Where it cannot run in a page,
its title says why.
"""

import ast
import json
import re
import shlex
import textwrap
from functools import cache
from pathlib import Path

from lxml.builder import E

ROOT = Path(__file__).parents[1]
EXAMPLES = ROOT / "examples"
# What a page of a browser does not have, by the modules for which a program needs it.
UNAVAILABLE = {
    "http.server": "threads",
    "httpx2": "connections to other servers",
    "redis": "Redis",
    "ssl": "TLS",
}
ROUTE = re.compile(r"@\w+\.(get|post|put|patch|delete|websocket)\(\s*(\"[^\"]*\")")
PARAMETER = re.compile(r"\b(?:args|query)\.get\(\"(\w+)\"")
STREAM = '{token}/events"}'  # at the end of a Location
NEEDS = re.compile(r"Needs:\s+(\w+\.py)")
BESIDE = re.compile(r"Same folder: ((?:[\w.]+,\s+)*[\w.]+)")
SECTION = re.compile(r"(?ms)^ *# --8<-- \[start:\w+\]\n(.*?)^ *# --8<-- \[end:")
MARKER = re.compile(r"(?m)^ *# --8<-- .*\n")
SERVES = re.compile(r"\bapp\.run\(|\bserve\(|\bserve_forever\(")
COMMAND = re.compile(r"(?:\buv run|\bpython) ([a-z_]+\.py)\b")
ADDRESS = r"127\.0\.0\.1:800[01]"
# The commands of a wrong program's first lines that are not curl's, by what they do.
FORMS = {
    "start": r"(?P<settings>(?:\w+=\S+ )+)uv run \w+\.py",
    "sleep": r"sleep (?P<seconds>\d+)",
    "socket": rf"(?:\(echo '(?P<message>[^']*)'; )?sleep (?P<seconds>\d+)\)? \| "
    rf"uvx websockets ws://{ADDRESS}(?P<path>\S*)(?P<isQuiet> >/dev/null)?",
    "signal": r"kill -(?P<signal>STOP|CONT) %(?P<job>\d)",
    "stop": r"pkill -f \w+\.py",
}
# Of an element: the closed fold or the unopened tab that it is in.
HIDDEN = (
    "ancestor::details[not(@open)] | ancestor::div[@class='tabbed-block'][preceding-sibling::div]"
)


def imported(text):
    """Return the modules that a program imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return found | {name.partition(".")[0] for name in found}


@cache
def servers():
    """Return {program: what it needs that a page does not have, or nothing} of every server program
    that pages print: those of site/ are the site's own, and those of tools/ are for a terminal."""
    found = {}
    for path in sorted(EXAMPLES.glob("*/*.py")):
        text = path.read_text()
        if SERVES.search(text) and "__main__" in text and path.parent.name not in {"site", "tools"}:
            missing = imported(text) & UNAVAILABLE.keys()
            reasons = sorted(UNAVAILABLE[module] for module in missing)
            found[f"{path.parent.name}/{path.name}"] = " and ".join(reasons)
    return found


@cache
def programs():
    """Return {program: what the page needs to run it} of every server that can run in a page."""
    found = {}
    for name, missing in servers().items():
        if not missing:
            path = EXAMPLES / name
            found[name] = {"beside": beside(path)}
            client = path.with_name("client.html")
            if path.name.startswith("wrong_") and (commands := tried(path)):
                found[name]["try"] = commands
            elif client.exists() and fits(path, client):  # it would connect during the commands
                found[name]["client"] = f"{path.parent.name}/client.html"
    return found


def tried(path):
    """Return the commands that a program's first lines say to try, as the page carries them out."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    words = re.search(r"(?ms)^- Try: (.*?)(?=^- |\Z)", text)
    found = []
    for code in re.findall(r"`([^`]*)`", words[1]) if words else ():
        for command, mark in re.findall(r"(.+?)(?: (&)(?: |$)|$)", re.sub(r"\s+", " ", code)):
            found.append({"text": f"{command} {mark}".strip(), **understood(command)})
            if mark:
                found[-1]["inBackground"] = True
    return found


def understood(command):
    """Return what a command does, for docs/assets/reproduce.js: its kind, and what it needs."""
    for kind, form in FORMS.items():
        if match := re.fullmatch(form, command):
            found = {name: value for name, value in match.groupdict().items() if value}
            if settings := found.pop("settings", None):
                found["environment"] = dict(each.split("=") for each in settings.split())
            return {"kind": kind, **found}
    program, *words = shlex.split(unescaped(command))
    if program != "curl":
        raise ValueError(f"{command}: neither a curl command nor one of {', '.join(FORMS)}")
    return {"kind": "curl", **parsed(words)}


def unescaped(code):
    """Return a command with $'…' of bash as a plain string."""
    return re.sub(
        r"\$'([^']*)'", lambda found: shlex.quote(found[1].encode().decode("unicode_escape")), code
    )


def parsed(words):
    """Return what the options of a curl command say."""
    request = {"method": "GET", "headers": []}
    words = iter(words)
    for word in words:
        match word:
            case "-d" | "--data-binary":
                request |= {"method": "POST", "body": next(words)}
            case "-H":
                name, value = next(words).split(":", 1)
                request["headers"].append([name, value.strip()])
            case "-i":
                request["showsHeaders"] = True
            case "--max-time":
                request["seconds"] = float(next(words))
            case "--fail-early":
                request["endsEarly"] = True
            case _:
                path = re.fullmatch(rf"(?:http://)?{ADDRESS}(/?[^[]*)(?:\[1-(\d+)\])?", word)
                request["path"] = path[1] or "/"
                if path[2]:
                    request["times"] = int(path[2])
    return request


def beside(path):
    """Return the names of the modules that a program needs beside it."""
    found = BESIDE.search(path.read_text())
    names = re.findall(r"[\w.]+", found[1]) if found else []
    return [name for name in names if name.endswith(".py")]


def fits(path, client):
    """Return whether a client.html can use a program: it has the routes, the parameters and the
    Location of the server that the client names, and wants no key that the client does not send. A
    program without routes serves WebSocket connections only, to the client of its folder."""
    wanted = client.read_text()
    needed = client.with_name(NEEDS.search(wanted)[1].replace("_hardened", "")).read_text()
    text = path.read_text()
    if not set(PARAMETER.findall(text)) >= set(PARAMETER.findall(needed)):
        return False
    if (STREAM in text) != (STREAM in needed) or ("Bearer" in text and "Bearer" not in wanted):
        return False
    if routes := set(ROUTE.findall(text)):
        return routes >= set(ROUTE.findall(needed))
    return client.parent == path.parent and "fetch(" not in wanted


@cache
def texts():
    """Return {text as a page shows it: [(program, kind)]}; kinds are whole, part and diff."""
    found = {}

    def add(text, name, kind):
        found.setdefault(MARKER.sub("", textwrap.dedent(text)).strip(), []).append((name, kind))

    for name in servers():
        text = (EXAMPLES / name).read_text()
        add(text, name, "whole")
        for section in SECTION.findall(text):
            add(section, name, "part")
        diff = (ROOT / "snippets" / name).with_suffix(".diff")
        if diff.exists():
            add(diff.read_text(), name, "diff")
    return found


def shown(block, text, printed):
    """Return (program, kind) of what a block of code shows, or nothing."""
    if found := texts().get(text):
        # The same lines may stand in several programs.
        named = block.findtext("span[@class='filename']")
        return max(found, key=lambda each: (each[0].endswith(f"/{named}"), each[0] in printed))
    commands = COMMAND.findall(text) if "language-sh" in block.get("class") else []
    if len(commands) == 1:
        links = block.xpath("preceding::a[contains(@href, $name)]/@href", name=f"/{commands[0]}")
        names = [link.partition("examples/")[2] for link in links]
        names = [name for name in names if name in servers()]
        if names:
            return names[-1], "command"
    return None


def title(block, name):
    """Return the title of a block, in which the button is put."""
    found = block.find("span[@class='filename']")
    if found is None:
        found = E.span(name.partition("/")[2], {"class": "filename"})
        block.insert(0, found)
    return found


def mark(page):
    """Mark the programs of a page that the runtime can run; load run.js where there are any."""
    blocks = [
        (block, code.text_content().strip())
        for block in page.xpath("//article//div[contains(@class, 'highlight')]")
        if (code := block.find(".//pre")) is not None
    ]
    known = [each for _, text in blocks for each in texts().get(text, ())]
    printed = {name for name, kind in known if kind == "whole"}
    found = [
        (block, *what, bool(block.xpath(HIDDEN)))
        for block, text in blocks
        if (what := shown(block, text, printed))
    ]
    visible = {}  # what a reader sees without opening anything: {program: kinds}
    for wanted in "whole", "command", "diff", "part":
        for block, name, kind, is_hidden in found:
            kinds = visible.setdefault(name, set())
            is_extra = (kind in {"command", "part"} and is_hidden) or (
                kind == "part" and kinds & {"whole", "part"}
            )
            if kind != wanted or is_extra:
                continue
            offer(block, name, kind)
            if not is_hidden:
                kinds.add(kind)
    for block, name, kind, _ in found:
        if kind == "whole" and not visible[name]:
            visible[name].add("line")
            fold = block.xpath(HIDDEN)[0]
            if fold.tag != "details":
                fold = fold.getparent().getparent()  # the set of tabs
            line = E.div({"class": "run-offer"})
            fold.addprevious(line)
            offer(line, name, "line")
    if visible.keys() & programs().keys():
        (script,) = page.xpath("//script[contains(@src, 'assets/site.js')]/@src")
        run = re.sub(r"site\.js$", "run.js", script)
        page.find("body").append(E.script(type="module", src=run))


def offer(block, name, kind):
    """Mark a block; where its program cannot run in a page, say so in its title."""
    if missing := servers()[name]:
        words = f"Not in the page: needs {missing}"
        title(block, name).append(E.span(words, {"class": "run-missing", "data-program": name}))
        return
    title(block, name)
    block.set("data-run", name)
    if "try" in programs()[name]:
        block.set("data-try", "")


def unmark_panels(page):
    """Take the servers off the panels and the race of a page: there is no runtime that could run
    them."""
    for each in page.xpath("//div[@data-server]"):
        del each.attrib["data-server"]


def write(site):
    """Write what the page needs to run each program."""
    (site / "assets/programs.json").write_text(json.dumps(programs(), separators=(",", ":")))
