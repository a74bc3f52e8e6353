"""An interpreter that has imported what programs import, and forks for each of them.

To import Sanic takes several times as long as all that a server does in most proofs. What is
forked is a process of its own, which runs its file to the end as `python name.py` does; nothing of
another program has run in it. test_examples also runs each file with the command that it names.

As a program it serves requests that come over a socket; `Forked` sends them.
"""

import atexit
import builtins
import gc
import json
import os
import platform
import select
import signal
import socket
import subprocess
import sys
import threading
import types
from contextlib import suppress
from functools import cache

LIBRARIES = (
    "sanic",
    "uvloop",
    "websockets.asyncio.client",
    "websockets.asyncio.server",
    "httpx2",
    "httpcore2",  # httpx2 and anyio import these when they are first used
    "anyio._backends._asyncio",
    "redis.asyncio",
)
ONE_AT_A_TIME = threading.Lock()


@cache
def server(environment):
    """Start the interpreter; return (it, the socket to it). It ends when that is closed."""
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            pass_fds=[theirs.fileno()],
            start_new_session=True,
        )
    return process, ours


class Forked:
    """A program that was forked, with what is used of subprocess.Popen."""

    def __init__(self, file, folder, env, stdout, stderr):
        start = {name: value for name, value in env.items() if name.startswith("PYTHON")}
        start |= {"PATH": env["PATH"], "LANG": env.get("LANG", "C.UTF-8")}
        self.file, self.returncode = file, None
        if env.get("SSL_CERT_FILE") == os.environ.get("SSL_CERT_FILE"):
            # A client begins by reading all authorities of the system. No proof asks another
            # machine: where it names none, a folder without any will do.
            env = env | {"SSL_CERT_FILE": "", "SSL_CERT_DIR": str(folder)}
        self._said, theirs = os.pipe()
        request = json.dumps({"file": file, "folder": str(folder), "env": env}).encode()
        with ONE_AT_A_TIME:
            _, requests = server(tuple(sorted(start.items())))
        socket.send_fds(requests, [request], [stdout, stderr, theirs])
        os.close(theirs)
        self._words = []
        self.pid = self._word()

    def _word(self):
        """Return the next number that the interpreter says: the pid, and in the end the code."""
        if not self._words:
            self._words = os.read(self._said, 100).split()
        return int(self._words.pop(0))

    def poll(self):
        """Return the exit code, or None while the program runs."""
        return self._ended(0)

    def wait(self, timeout):
        """Return the exit code; raise TimeoutExpired after so many seconds."""
        if self._ended(timeout) is None:
            raise subprocess.TimeoutExpired(self.file, timeout)
        return self.returncode

    def _ended(self, seconds):
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._said, select.POLLIN)
            if self._words or poll.poll(seconds * 1000):
                self.returncode = self._word()
                os.close(self._said)
        return self.returncode


def serve(requests):
    """Fork for each request, and tell its sender the pid and then the exit code.

    Returns in the child only, with the request.
    """
    senders = {}
    news, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    while True:
        ready = select.select([requests, news], [], [])[0]
        if news in ready:
            os.read(news, 1000)
            for pid, sender in list(senders.items()):
                ended, status = os.waitpid(pid, os.WNOHANG)
                if ended:
                    with suppress(BrokenPipeError):  # nobody wants to know
                        os.write(sender, b"%d " % os.waitstatus_to_exitcode(status))
                    os.close(senders.pop(pid))
        if requests in ready:
            request, descriptors, _, _ = socket.recv_fds(requests, 2**20, 3)
            if not request:
                sys.exit()
            pid = os.fork()
            if not pid:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                os.setsid()
                os.write(descriptors[2], b"%d " % os.getpid())  # from now on it can be signalled
                for number, descriptor in enumerate(descriptors[:2], start=1):
                    os.dup2(descriptor, number)
                for descriptor in [*descriptors, *senders.values(), news, wake]:
                    os.close(descriptor)
                requests.close()
                return json.loads(request)
            *others, senders[pid] = descriptors
            for descriptor in others:
                os.close(descriptor)


def remember():
    """Find out once what each server of Sanic asks at its start, and what is the same for all:
    the name of the machine, for which another program is run, and the source of some methods.
    """
    from sanic.touchup import schemes, service

    platform.platform()
    schemes.base.getsource = cache(schemes.base.getsource)
    for target, method in service.TouchUp._registry:
        schemes.base.getsource(getattr(target, method))


def leave():
    """Drop what a program has made that came to its end, so that it says what it left behind, and
    end. To take the libraries apart too, as Python does, takes longer than many a program.
    """
    if ended_well:
        main.__dict__.clear()
        gc.collect()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    ended_well = False
    atexit.register(leave)  # first, and so the last that is called
    for library in LIBRARIES:
        __import__(library)
    remember()
    gc.freeze()
    program = serve(socket.socket(fileno=int(sys.argv[1])))
    os.chdir(program["folder"])
    os.environ.clear()
    os.environ.update(program["env"])
    path = os.path.abspath(program["file"])
    sys.argv = [program["file"]]
    sys.path[0] = os.path.dirname(path)
    with open(path, "rb") as file:
        code = compile(file.read(), path, "exec")
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__dict__.update(__file__=path, __cached__=None, __annotations__={}, __builtins__=builtins)
    exec(code, main.__dict__)
    ended_well = True
