"""How the tests start programs, and end them."""

import os
import signal
import subprocess
import sys

import pytest

from ..support.processes import environment, run_to_end, wait_until


def test_a_program_that_does_not_end_is_killed(tmp_path, monkeypatch):
    """A program that does not end in time is killed, with what it started, and fails the test."""
    monkeypatch.setattr("tests.support.processes.TIMEOUT", 0.5)
    (tmp_path / "hangs.py").write_text(
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
        "open('pid', 'w').write(str(child.pid))\n"
        "child.wait()\n"
    )
    with pytest.raises(subprocess.TimeoutExpired):
        run_to_end([sys.executable, "hangs.py"], tmp_path, environment())
    pid = int((tmp_path / "pid").read_text())
    wait_until(lambda: not is_running(pid))


def test_the_tests_of_a_module_share_one_worker(request):
    """Tests of one module run on one worker, so that they share its servers: the id of each names
    its group (pytest 9.2 ignores the groups of pytest-xdist 3.8)."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        assert request.node.nodeid.endswith("@test_processes")


def is_running(pid):
    try:
        os.kill(pid, signal.SIGCONT)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z"  # a zombie has ended
