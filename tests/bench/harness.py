"""Start contenders and the load generator, and read what the kernel knows of them."""

import json
import os
import platform
import re
import resource
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from ..support.processes import EXAMPLES, ROOT, environment, spawn

SERVERS = Path(__file__).parent / "servers"
SPARE = 200  # descriptors for everything but the connections
# What the hardened examples would limit themselves to.
LIMITS = {"MAX_CONNECTIONS": 20_000, "MAX_FILES": 20_000, "MAX_HELD": 20_000}
SATURATED = 0.95  # of a processor: above it, the generator was the bottleneck
PACKAGES = (
    *("sanic", "websockets", "aiohttp", "starlette", "uvicorn"),
    *("uvloop", "httptools", "picows", "redis"),
)
IDLE = 0.05  # of a processor: below it, the server has nothing more to do


class NotMeasured(Exception):
    """A figure that cannot be reported, and why."""


def raise_file_limit(connections):
    """Allow so many connections in each process, or refuse."""
    needed = connections + SPARE
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < needed:
        raise NotMeasured(
            f"{connections:,} connections need {needed:,} open files, and the hard limit is "
            f"{hard:,}: run `ulimit -Hn {needed}` as root, or measure fewer, with "
            f"CONNECTIONS={hard - SPARE}"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, needed), hard))


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


class Process:
    """A process, alone on a processor where there is more than one."""

    def __init__(self, argv, folder, env, processor, stdin=subprocess.DEVNULL, stdout=None):
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self.process = spawn(argv, folder, env, stdout or self.log, self.log, stdin)
        self.pid = self.process.pid
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) > 1:
            os.sched_setaffinity(self.pid, {allowed[processor]})

    def cpu(self):
        """Return the processor time that its threads have used so far, in seconds."""
        threads = Path(f"/proc/{self.pid}/task").glob("*/schedstat")
        return sum(int(each.read_text().split()[0]) for each in threads) / 1e9

    def pss(self):
        """Return the memory of the process in KiB, shared pages divided among their users."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return int(re.search(r"(?m)^Pss: +(\d+)", rollup)[1])

    def output(self):
        self.log.seek(0)
        return self.log.read()

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()
        self.log.close()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.stop()


class Server(Process):
    """A contender: a file of bench/servers/, or an example exactly as it is."""

    def __init__(self, program, **variables):
        self.port = free_port()
        path = SERVERS / program if "/" not in program else EXAMPLES / program
        env = environment(PORT=self.port, **LIMITS | variables)
        env.pop("PYTHONWARNINGS")
        self.folder = tempfile.TemporaryDirectory()
        super().__init__([sys.executable, str(path)], self.folder.name, env, 0)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except OSError:
                time.sleep(0.02)
        said = self.output()[-300:]
        self.stop()
        raise NotMeasured(f"{program} did not start: {said}")

    def unread(self):
        """Return how many bytes and connections wait in the kernel for the server to take them."""
        lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
        own = f":{self.port:04X}"
        return sum(
            int(queues.partition(":")[2], 16)
            for _, local, _, _, queues, *_ in map(str.split, lines)
            if local.endswith(own)
        )

    def settle(self):
        """Return once the server does nothing more."""
        end, before, quiet = time.monotonic() + 20, self.cpu(), 0
        while time.monotonic() < end:
            time.sleep(0.1)
            now = self.cpu()
            quiet = quiet + 1 if now - before < 0.1 * IDLE else 0
            if quiet >= 2 and not self.unread():
                return
            before = now
        raise NotMeasured("the server did not become idle within 20 s")

    def stop(self):
        super().stop()
        self.folder.cleanup()


class Load(Process):
    """The load generator."""

    def __init__(self):
        output, theirs = os.pipe()
        super().__init__(
            [sys.executable, "-m", "tests.bench.load"],
            ROOT,
            environment(),
            -1,
            stdin=subprocess.PIPE,
            stdout=theirs,
        )
        os.close(theirs)
        self.replies = os.fdopen(output)

    def ask(self, do, **arguments):
        """Send a command; return the response."""
        line = json.dumps({"do": do} | arguments) + "\n"
        self.process.stdin.write(line.encode())
        self.process.stdin.flush()
        reply = self.replies.readline()
        if not reply:
            raise NotMeasured(f"the load generator ended: {self.output()[-300:]}")
        reply = json.loads(reply)
        if "error" in reply:
            raise NotMeasured(f"{do}: {reply['error']}")
        return reply

    def stop(self):
        super().stop()
        self.process.stdin.close()
        self.replies.close()


def unsaturated(reply):
    """Return a response of the generator; refuse it if the generator was the bottleneck."""
    if reply["busy"] > SATURATED:
        raise NotMeasured(f"the load generator was saturated ({reply['busy']:.0%} of a processor)")
    return reply


def fitted(points):
    """Return slope and intercept of the line through [(x, y)], by least squares."""
    return statistics.linear_regression(*zip(*points, strict=True))


def installed(name):
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def machine():
    """Describe the machine and the versions that were measured."""
    memory = re.search(r"MemTotal: +(\d+)", Path("/proc/meminfo").read_text())[1]
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    return {
        "processor": cpu[1].replace("(R)", "") if cpu else platform.machine(),
        "processors": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(memory) / 2**20, 1),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
        # Of other work, the benchmark then notices little.
        "realtime": os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR),
        "packages": {name: version(name) for name in PACKAGES if installed(name)},
    }
