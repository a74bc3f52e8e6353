"""Each example stands alone: copied into an empty folder, it runs with the command shown."""

import fcntl
import shutil
import signal
import subprocess
from functools import cache
from getpass import getuser
from pathlib import Path
from tempfile import gettempdir

import httpx2
import pytest
import trustme

from ..conftest import starter
from ..support.parts import require_program
from ..support.processes import (
    EXAMPLES,
    READY,
    TIMEOUT,
    Program,
    assert_clean_output,
    commands,
    copy_isolated,
    environment,
    is_module,
    is_server,
    needed_server,
)

RUNNABLE = sorted(
    str(path.relative_to(EXAMPLES))
    for path in EXAMPLES.glob("*/*")
    if path.suffix in {".py", ".sh"} and path.parent.name != "site" and not is_module(path)
)
CONFIGURATIONS = sorted(
    str(path.relative_to(EXAMPLES))
    for kind in ("conf", "cfg")
    for path in EXAMPLES.glob(f"*/*.{kind}")
)
SHORT = ("SECONDS", "SECONDS_OF_WORK", "INTERVAL")
QUICK = dict.fromkeys(SHORT, 0.1) | {"LENGTH": 0.4, "WAIT": 1, "COUNT": 1}
# What a tap and a worker print when they are ready: they run until they are stopped.
UNTIL_STOPPED = ("keys: ", "waiting for jobs")
LONGER = {"load_balancing/client.py": {"SECONDS": 3}}  # in which it is to open its sockets, too


@pytest.fixture(scope="session")
def shared_server(tmp_path_factory, port):
    """Return a function that returns a running server, started once for all its clients."""
    with starter(tmp_path_factory.mktemp("kept"), port) as start:
        yield cache(start)


@pytest.fixture
def place(name):
    """Return where to put an example, the same in every run of every clone: uv keeps an
    environment for each place that it has seen."""
    folder = Path(gettempdir(), f"alone-of-{getuser()}", name)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another clone may run its tests too
        shutil.rmtree(folder, ignore_errors=True)
        yield folder


@pytest.mark.parametrize("name", RUNNABLE)
def test_runs_alone(name, place, registry, shared_server, port, record):
    """Each example, copied into an empty folder, alone or with the files that it names, runs with
    the command that it names."""
    example = EXAMPLES / name
    folder = copy_isolated(example, place)
    command = dict(commands(example))["Run"]
    record(f"{name}.run", f"{command}\n")
    if command.startswith("sudo "):
        return  # as root, which these tests need not be; its room runs it in a place of its own
    if "cluster.py" in example.read_text():  # it starts these
        require_program("redis-server")
        require_program("haproxy")
    if "run_all.py" in example.read_text():
        require_program("redis-server")
    if ready := [words for words in UNTIL_STOPPED if words in example.read_text()]:
        program = Program(["sh", "-c", f"exec {command}"], folder, environment(PORT=port()))
        program.wait_for(*ready)
        assert program.stop(signal.SIGINT) in {0, 130}  # see below
        return
    if is_server(example) or "Worker ready" in example.read_text():
        number = port()
        program = Program(["sh", "-c", f"exec {command}"], folder, environment(PORT=number), number)
        try:
            program.wait_for(*READY)
            secure = "ssl=" in example.read_text()
            url = program.url.replace("http:", "https:") if secure else program.url
            if is_server(example):
                assert httpx2.get(f"{url}/nothing", verify=False).status_code >= 400
        finally:
            # As Ctrl-C. uv passes it on to a program that has it already: the second one may
            # meet it while it stops, and then it ends with 130, but as quietly.
            assert program.stop(signal.SIGINT) in {0, 130}
        return
    server = shared_server(needed_server(example))
    result = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(URL=server.url, **(QUICK | LONGER.get(name, {}))),
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert_clean_output(result.stdout + result.stderr)
    if not example.name.startswith("wrong_"):  # these may fail, as their page shows
        assert result.returncode == 0, result.stderr
    assert result.stdout or result.stderr


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_accepted(name, tmp_path, record):
    """Each configuration, copied alone into an empty folder, is accepted by its program."""
    example = EXAMPLES / name
    command = dict(commands(example))["Run"]
    record(f"{name}.run", f"{command}\n")
    program, *options = command.split()
    check = "-c" if program == "haproxy" else "-t"
    folder = copy_isolated(example, tmp_path / "alone")
    if "site.pem" in example.read_text():  # its first lines name it
        certificate = trustme.CA().issue_cert("127.0.0.1")
        certificate.private_key_and_cert_chain_pem.write_to_path(folder / "site.pem")
    result = subprocess.run(
        [require_program(program), *options, check],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warn" not in (result.stdout + result.stderr).lower()
