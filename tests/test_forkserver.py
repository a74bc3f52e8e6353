"""Programs are forked from an interpreter that has imported their libraries, to save time."""

import os
import signal
import subprocess
import sys

import pytest

from .support.processes import environment, finish, until

SAYS = """
import atexit, os, signal, sys
atexit.register(print, "at exit")
print(__name__, __file__, sys.argv, sys.path[0], os.getcwd(), repr(sys.stdin.read()))
print(os.getsid(0) == os.getpid(), sorted(os.environ.items()), sys.warnoptions)
print([signal.getsignal(each) for each in (signal.SIGINT, signal.SIGCHLD, signal.SIGTERM)])
print(sorted(globals()))
print(len(os.listdir("/dev/fd")), "files are open")
"""


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(3)",
        "sys.exit('said why')",
        "raise SystemExit",
        "sys.leaked = open(__file__)",
        "os.kill(os.getpid(), signal.SIGKILL)",
        "os.kill(os.getpid(), signal.SIGTERM)",
        "os._exit(4)",
    ],
)
def test_a_forked_program_is_like_one_from_nothing(tmp_path, end):
    """A program that was forked has the arguments, folder, variables, signals and files of one
    that was started from nothing, and ends as that does."""
    (tmp_path / "says.py").write_text(SAYS + end)
    here, env = tmp_path.resolve(), environment(SSL_CERT_FILE="/nowhere")
    forked = finish([sys.executable, "says.py"], here, env)
    alone = finish([sys.executable, "-u", "says.py"], here, env)
    assert forked.stdout == alone.stdout
    assert (forked.returncode, forked.stderr) == (alone.returncode, alone.stderr)


@pytest.mark.parametrize(
    "left, said",
    [
        ("left = open(__file__)", "unclosed file"),
        ("async def do(): pass\nleft = do()", "was never awaited"),
        (
            "import asyncio\nloop = asyncio.new_event_loop()\n"
            "left = loop.create_task(asyncio.sleep(1))\nloop.close()",
            "was destroyed",
        ),
    ],
)
def test_what_is_left_behind_is_said(tmp_path, left, said):
    """A forked program that leaves a file open, or a task, says so at its end as any other."""
    (tmp_path / "leaves.py").write_text(left)
    for options in [], ["-u"]:  # with one, it is not forked
        result = finish([sys.executable, *options, "leaves.py"], tmp_path, environment())
        assert (result.returncode, said in result.stderr) == (0, True)


def test_an_error_ends_it_as_ever(tmp_path):
    """A forked program that does not catch an error ends with 1 and a traceback."""
    (tmp_path / "fails.py").write_text("import asyncio\nasyncio.run(1 / 0)\n")
    result = finish([sys.executable, "fails.py"], tmp_path, environment())
    assert result.returncode == 1
    assert result.stderr.startswith("Traceback")
    assert result.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_nothing_of_another_program_is_left(tmp_path):
    """What a forked program changes in a library is not so in the next."""
    program = tmp_path / "changes.py"
    program.write_text("import sanic\nprint(hasattr(sanic, 'changed'))\nsanic.changed = True\n")
    for _ in range(2):
        said = finish([sys.executable, program.name], tmp_path, environment()).stdout
        assert said == "False\n"


def test_what_hangs_is_killed(tmp_path, monkeypatch):
    """A program that does not end in time is killed, with the time said."""
    monkeypatch.setattr("tests.support.processes.PATIENCE", 0.5)
    (tmp_path / "hangs.py").write_text(
        "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(60)\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        finish([sys.executable, "hangs.py"], tmp_path, environment())
    with pytest.raises(ProcessLookupError):
        os.kill(int(until(lambda: (tmp_path / "pid").read_text())), signal.SIGCONT)
