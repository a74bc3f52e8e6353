"""Start the programs of examples/ as a reader would, and stop them again.

Every program runs as a copy of its file in an empty folder, so each proof also
proves that the file needs no other, or only those that it names.
"""

import itertools
import os
import re
import runpy
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from unittest.mock import patch

import prometheus_client

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
ABSENT = ROOT / "tests/support/absent"  # what programs here shall not find
RUNTIME = ROOT / "docs/assets/runtime"  # of the programs that run in a page: make runtime

# The line that a server prints when it accepts connections and handles signals: Sanic's, and that
# of websockets.
READY = ("Worker ready", "server listening on")
TIMEOUT = 30  # seconds until a wait counts as failed; not reached when a test passes

# What a program prints when it leaks a task or a socket, or loses an exception.
ERROR_SIGNS = ("Traceback", "was destroyed", "never retrieved", "never awaited", "Warning:")


def commands(example):
    """Return the commands that the head of an example names: [("Run", …), ("or", …)]."""
    found = []
    for line in example.read_text().splitlines():
        key, _, value = line.lstrip("# -").partition(":")
        if key in ("Run", "or") and value:
            found.append((key, value.strip(" `")))
        elif key == "Source":
            break
    return found


def is_server(example):
    """Return whether an example is a server: those take a port."""
    return 'os.environ.get("PORT"' in example.read_text()


def needed_server(example):
    """Return the server that an example names under "Needs"."""
    name = re.search(r"Needs: .*?(\w+\.py)", example.read_text(), re.DOTALL)[1]
    return f"{example.parent.name}/{name}"


def is_module(example):
    """Return whether an example is a module, which other programs import: those name them."""
    return "\n- Used by: " in example.read_text()


def same_folder(example):
    """Return the files that an example needs beside it: those that its head names."""
    found = re.search(r"Same folder: ((?:[\w.]+,\s+)*[\w.]+)", example.read_text())
    return [example.with_name(name) for name in re.findall(r"[\w.]+", found[1])] if found else []


def named(kind, words):
    """Return the examples of a kind, as in glob, whose text has these words: folder/name."""
    return sorted(
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.glob(f"[!_]*/{kind}")
        if words in path.read_text() and path.parent.name != "site"
    )


# Servers that accept jobs by POST /jobs from clients that need no login.
JOB_SERVERS = [
    name for name in named("server*.py", '.post("/jobs")') if not name.startswith("security/")
]


# Ports of this range that no browser connects to: https://fetch.spec.whatwg.org/#port-blocking
# And 9000, which stands for tap.py in recordings.
BLOCKED = {2049, 3659, 4045, 4190, 5060, 5061, 6000, 6566, *range(6665, 6670), 6679, 6697, 9000}


class Ports:
    """Hands out ports of four digits, as long as the 8000 that readers see.

    They lie outside the range from which the kernel takes ports for clients, and each
    pytest worker has its own share, so that no two programs meet on one. It hands out a
    port again after all others.
    """

    def __init__(self, worker):
        first = 2001 + 780 * (worker % 10)
        self._share = set(range(first, first + 780)) - BLOCKED
        self._turns = itertools.cycle(sorted(self._share))
        self._turn = threading.Lock()

    def __call__(self):
        with self._turn:
            return self._free()

    def _free(self):
        for number in itertools.islice(self._turns, len(self._share)):
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", number))
                except OSError:
                    continue
            return number
        raise RuntimeError("no port left for this worker")


def wait_until(condition):
    """Call `condition` until it returns something true; return that."""
    end = time.monotonic() + TIMEOUT
    while not (result := condition()):
        assert time.monotonic() < end, f"not true after {TIMEOUT} s"
        time.sleep(0.01)
    return result


def spawn(argv, folder, env, stdout, stderr, stdin=subprocess.DEVNULL):
    """Start a program in a session of its own; return its Popen."""
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=env,
        stdin=stdin,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def run_to_end(argv, folder, env):
    """Run a program to its end; return a CompletedProcess.

    Unlike subprocess.run, on a timeout this kills everything that the program started.
    """
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        process = spawn(argv, folder, env, stdout.fileno(), stderr.fileno())
        try:
            code = process.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(TIMEOUT)
            raise
        output = []
        for file in stdout, stderr:
            file.seek(0)
            output.append(file.read())
    return subprocess.CompletedProcess(argv, code, *output)


class Program:
    """A running program: what it printed so far, and how to end it."""

    def __init__(self, argv, folder, env, port=None, stdin=subprocess.DEVNULL):
        self.port, self.folder = port, folder
        self.url = f"http://127.0.0.1:{port}"
        self._lines = []
        self._changed = threading.Condition()
        self._closed = False
        self._ready = 0
        output, theirs = os.pipe()
        self.process = spawn(argv, folder, env, theirs, theirs, stdin)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=[output], daemon=True)
        self._reader.start()

    def _read(self, output):
        with open(output) as pipe:
            for line in pipe:
                with self._changed:
                    self._lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def output(self):
        with self._changed:
            return "".join(self._lines)

    def wait_for(self, *texts):
        """Return once the program has printed one of `texts`; fail if it ends without."""

        def printed():
            return any(text in line for line in self._lines for text in texts)

        with self._changed:
            self._changed.wait_for(lambda: self._closed or printed(), TIMEOUT)
            found = printed()
        assert found, f"never printed {texts}, but:\n{self.output}"
        if texts == READY:
            self._ready = time.monotonic()
        return self

    def status(self, name):
        """Return a number from what the kernel knows of the program; memory is in KiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"(?m)^{name}:\s+(\d+)", status.read())[1])

    def children(self):
        """Return the process ids of the running processes that the program has started."""
        number = self.process.pid
        with open(f"/proc/{number}/task/{number}/children") as children:
            return {int(child) for child in children.read().split()}

    def handles(self, number):
        """Return whether the program has a handler for a signal."""
        with open(f"/proc/{self.process.pid}/status") as status:
            caught = re.search(r"(?m)^SigCgt:\s+(\w+)", status.read())[1]
        return int(caught, 16) >> (number - 1) & 1 == 1

    def wait(self):
        """Wait until the program ends by itself; return its exit code."""
        code = self.process.wait(TIMEOUT)
        self._reader.join(TIMEOUT)
        return code

    def send(self, number):
        with suppress(ProcessLookupError):  # it ended by itself, just now
            os.killpg(self.process.pid, number)

    def stop(self, number=signal.SIGTERM, errors_expected=False):
        """End the program with a signal and check that it left nothing behind.

        `errors_expected`: whether it may have printed tracebacks, as wrong programs do.
        """
        if self.process.poll() is None:
            self.send(number)
        if time.monotonic() - self._ready < 1:
            # uvloop loses a signal between "Worker ready" and its first turn.
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(2)
            if self.process.poll() is None:
                self.send(number)
        try:
            code = self.wait()
        except subprocess.TimeoutExpired:
            self.send(signal.SIGKILL)
            self.wait()
            raise AssertionError(f"did not stop on signal {number}:\n{self.output}") from None
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        else:
            raise AssertionError("left processes behind")
        if not errors_expected:
            assert_clean_output(self.output)
        return code


def assert_clean_output(output):
    """Fail if a program printed a traceback, or a warning about what it left open."""
    found = [sign for sign in ERROR_SIGNS if sign in output]
    assert not found, f"the program printed {found}:\n{output}"


def environment(**variables):
    """Return the reader's environment: this one's, with the tools of the lock, and warnings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what was compiled once need not be again
    return env | {name: str(value) for name, value in variables.items()}


def environment_of(example, **variables):
    """Return the environment of an example: one without trustme, unless the example names it."""
    if "trustme" not in example.read_text():
        path = f"{variables.get('PYTHONPATH', '')}:{ABSENT}"
        variables["PYTHONPATH"] = path.removeprefix(":")
    return environment(**variables)


def argv(example):
    """Return how to run an example here: by its kind, with the suite's own Python."""
    interpreter = {".py": sys.executable, ".sh": "sh"}[example.suffix]
    return [interpreter, example.name]


def loaded(name, **options):
    """Return {name: value} of an example as a module, with a registry of its own for its metrics.

    Those of one program could not be registered twice in one process.
    """
    registry = prometheus_client.CollectorRegistry()
    kinds = {
        name: partial(getattr(prometheus_client, name), registry=registry)
        for name in ("Counter", "Gauge")
    }
    with patch.multiple(prometheus_client, **kinds):
        return runpy.run_path(str(EXAMPLES / name), **options)


OPEN, LEFT = "01", "08"  # in /proc/net/tcp: ESTABLISHED, CLOSE_WAIT (only the peer has closed)


def established(end, port, states=(OPEN,)):
    """Return how many connections the kernel has whose local or remote end is a port."""
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    fields = [line.split()[1:4] for line in lines]
    number = ("local", "remote").index(end)
    return sum(line[number].endswith(f":{port:04X}") and line[2] in states for line in fields)


def copy_isolated(example, folder):
    """Copy one example into an empty folder, with the files that it names, as a reader would;
    return that folder."""
    folder.mkdir()
    for each in example, *same_folder(example):
        shutil.copy(each, folder)
    return folder
