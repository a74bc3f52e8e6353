"""Start the programs of examples/ as a reader would, and stop them again.

Every program runs as a copy of its file, alone in an empty folder, so each
proof also proves that the file needs no other. To save time its process is
forked from an interpreter that has imported the libraries: forkserver.py.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryFile

from .forkserver import Forked

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

# The last word of a server before it serves, signals included: Sanic's, and that of websockets.
READY = ("Worker ready", "server listening on")
PATIENCE = 30  # seconds until a wait counts as failed; never reached when all is well

# What a program prints when it lost a task, a socket or an exception.
TROUBLE = ("Traceback", "was destroyed", "never retrieved", "never awaited", "Warning:")


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
    """Return the server that an example says it needs."""
    name = re.search(r"Needs: .*?(\w+\.py)", example.read_text(), re.DOTALL)[1]
    return f"{example.parent.name}/{name}"


def named(kind, words):
    """Return the examples of a kind, as in glob, whose text has these words: folder/name."""
    return sorted(
        str(path.relative_to(EXAMPLES))
        for path in EXAMPLES.glob(f"[!_]*/{kind}")
        if words in path.read_text() and path.parent.name != "site"
    )


# Servers that take jobs by POST /jobs, and clients that hand them in so.
JOB_SERVERS = named("server*.py", '.post("/jobs")')


# Ports of this range that no browser connects to: https://fetch.spec.whatwg.org/#port-blocking
BLOCKED = {6566, *range(6665, 6670), 6679, 6697}


class Ports:
    """Hands out ports of four digits, as long as the 8000 that readers see.

    They lie outside the range from which the kernel takes ports for clients, and each
    pytest worker has its own share, so that no two programs meet on one.
    """

    def __init__(self, worker):
        self._next = 6500 + 340 * (worker % 10)
        self._end = self._next + 340
        self._turn = threading.Lock()

    def __call__(self):
        with self._turn:
            return self._free()

    def _free(self):
        while self._next < self._end:
            self._next += 1
            if self._next in BLOCKED:
                continue
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                try:
                    probe.bind(("127.0.0.1", self._next))
                except OSError:
                    continue
            return self._next
        raise RuntimeError("no port left for this worker")


def until(condition):
    """Return what a condition says, as soon as that is true."""
    end = time.monotonic() + PATIENCE
    while not (said := condition()):
        assert time.monotonic() < end, "this never came"
        time.sleep(0.01)
    return said


def begin(argv, folder, env, stdout, stderr):
    """Start a program, in a session of its own; return its Popen, or what is like one.

    `python name.py` is forked; another command, or one with options, is started from nothing.
    """
    if argv[0] == sys.executable and str(argv[1]).endswith(".py") and len(argv) == 2:
        return Forked(str(argv[1]), folder, env, stdout, stderr)
    return subprocess.Popen(
        argv,
        cwd=folder,
        env=env,
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        start_new_session=True,
    )


def finish(argv, folder, env):
    """Run a program to its end; return what subprocess.run does."""
    with TemporaryFile("w+") as stdout, TemporaryFile("w+") as stderr:
        process = begin(argv, folder, env, stdout.fileno(), stderr.fileno())
        try:
            code = process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)
            raise
        said = []
        for file in stdout, stderr:
            file.seek(0)
            said.append(file.read())
    return subprocess.CompletedProcess(argv, code, *said)


class Program:
    """A running program: what it printed so far, and how to end it."""

    def __init__(self, argv, folder, env, port=None):
        self.port, self.folder = port, folder
        self.url = f"http://127.0.0.1:{port}"
        self._lines = []
        self._news = threading.Condition()
        self._closed = False
        self._ready = 0
        output, theirs = os.pipe()
        self.process = begin(argv, folder, env, theirs, theirs)
        os.close(theirs)
        self._reader = threading.Thread(target=self._read, args=[output], daemon=True)
        self._reader.start()

    def _read(self, output):
        with open(output) as pipe:
            for line in pipe:
                with self._news:
                    self._lines.append(line)
                    self._news.notify_all()
        with self._news:
            self._closed = True
            self._news.notify_all()

    @property
    def output(self):
        with self._news:
            return "".join(self._lines)

    def wait_for(self, *texts):
        """Return once the program has printed one of `texts`; fail if it ends without."""

        def printed():
            return any(text in line for line in self._lines for text in texts)

        with self._news:
            self._news.wait_for(lambda: self._closed or printed(), PATIENCE)
            found = printed()
        assert found, f"never printed {texts}, but:\n{self.output}"
        if texts == READY:
            self._ready = time.monotonic()
        return self

    def status(self, name):
        """Return a number from what the kernel knows of the program; memory is in KiB."""
        with open(f"/proc/{self.process.pid}/status") as status:
            return int(re.search(rf"(?m)^{name}:\s+(\d+)", status.read())[1])

    def wait(self):
        """Wait until the program ends by itself; return its exit code."""
        code = self.process.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def send(self, number):
        with suppress(ProcessLookupError):  # it ended by itself, just now
            os.killpg(self.process.pid, number)

    def stop(self, number=signal.SIGTERM, trouble=False):
        """End the program with a signal and check that it left nothing behind.

        `trouble`: whether it may have printed tracebacks, as wrong programs do.
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
        if not trouble:
            complain(self.output)
        return code


def complain(output):
    """Fail if a program printed a traceback or lost something on its way out."""
    trouble = [word for word in TROUBLE if word in output]
    assert not trouble, f"the program printed {trouble}:\n{output}"


def environment(**variables):
    """Return the reader's environment: this one's, with the tools of the lock, and warnings."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{env['PATH']}"
    env |= {"PYTHONUNBUFFERED": "1", "PYTHONWARNINGS": "default"}
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # what was compiled once need not be again
    return env | {name: str(value) for name, value in variables.items()}


def argv(example):
    """Return how to run an example here: by its kind, with the suite's own Python."""
    interpreter = {".py": sys.executable, ".sh": "sh"}[example.suffix]
    return [interpreter, example.name]


def alone(example, folder):
    """Copy one example into an empty folder, as a reader would; return that folder."""
    folder.mkdir()
    shutil.copy(example, folder)
    return folder
