"""Start the real parts of a system: nginx, HAProxy and Redis, with the files of examples/."""

import os
import re
import shutil
import socket
import time

import pytest

from .processes import EXAMPLES, TIMEOUT, Program, environment

# Where Debian keeps servers: not on the path of a user who is not root.
PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"])


def found(program):
    """Return the path of an installed program, or None."""
    return shutil.which(program, path=PATH)


class Part(Program):
    """A part that runs, in a folder that outlives it: `again()` starts it there once more."""

    def __init__(self, argv, folder, port):
        self.argv = argv
        super().__init__(argv, folder, environment(PATH=PATH), port)

    def when_ready(self):
        """Return once it takes connections; fail if it ends without."""
        end = time.monotonic() + TIMEOUT
        while self.process.poll() is None and time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
            except ConnectionRefusedError:
                time.sleep(0.01)
            else:
                return self
        raise AssertionError(f"{self.argv[0]} takes no connections:\n{self.output}")

    def again(self):
        """Start the same in the same folder and on the same port; return the new one."""
        return Part(self.argv, self.folder, self.port).when_ready()


def configured(name, ports, changes):
    """Return the text of a configuration of examples/, with other ports and other words.

    `ports`: {8000: …}, for each that it names; `changes`: {"60s": "1s"}, all of which must
    be there, so that no proof changes a word that is gone.
    """
    text = (EXAMPLES / name).read_text()
    for old, new in changes.items():
        assert old in text, f"{name} has no {old}"
        text = text.replace(old, new)
    named = {int(port) for port in re.findall(r"127\.0\.0\.1:(\d+)", text)}
    assert named == set(ports), f"{name} names the ports {sorted(named)}"
    return re.sub(r"(127\.0\.0\.1:)(\d+)", lambda hit: hit[1] + str(ports[int(hit[2])]), text)


def proxy(name, folder, ports, changes):
    """Start nginx (*.conf) or HAProxy (*.cfg) with a configuration, alone in a folder.

    It is taken to listen on the port that the file calls 8000.
    """
    folder.mkdir()
    file = folder / name.split("/")[-1]
    file.write_text(configured(name, ports, changes))
    if file.suffix == ".cfg":
        argv = [found("haproxy"), "-f", file.name]
    else:
        argv = [found("nginx"), "-p", ".", "-e", "stderr", "-c", file.name]
    return Part(argv, folder, ports[8000]).when_ready()


def redis(folder, port, *options):
    """Start Redis with an append-only file in a folder; options as on its command line."""
    folder.mkdir()
    argv = [found("redis-server"), "--port", str(port), "--bind", "127.0.0.1", "--save", ""]
    return Part([*argv, "--appendonly", "yes", *options], folder, port).when_ready()


def require_program(program, package=None):
    """Return the path of a program; skip the test by name without it, and fail where CI is set."""
    path = found(program)
    if not path:
        skip_or_fail(f"{program} is not installed: sudo apt-get install {package or program}")
    return path


def skip_or_fail(message):
    """Skip the test with a message that names the missing part; fail it where CI is set."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(message)
