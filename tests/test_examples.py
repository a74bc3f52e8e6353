"""Each example stands alone: copied into an empty folder, it runs with the command shown."""

import signal
import subprocess

import httpx2
import pytest

from .conftest import needs
from .support.processes import (
    EXAMPLES,
    PATIENCE,
    READY,
    Program,
    alone,
    commands,
    complain,
    environment,
    is_server,
    needed_server,
)

RUNNABLE = sorted(
    str(path.relative_to(EXAMPLES))
    for path in EXAMPLES.glob("*/*")
    if path.suffix in {".py", ".sh"} and path.parent.name != "site"
)
CONFIGURATIONS = sorted(
    str(path.relative_to(EXAMPLES))
    for kind in ("conf", "cfg")
    for path in EXAMPLES.glob(f"*/*.{kind}")
)
SHORT = ("SECONDS", "SECONDS_OF_WORK", "INTERVAL")
QUICK = dict.fromkeys(SHORT, 0.1) | {"LENGTH": 0.4, "WAIT": 1, "COUNT": 1}


@pytest.mark.parametrize("name", RUNNABLE)
def test_runs_alone(name, registry, tmp_path, start, port, record):
    """Each example, copied alone into an empty folder, runs with the command that it names."""
    example = EXAMPLES / name
    folder = alone(example, tmp_path / "alone")
    command = dict(commands(example))["Run"]
    record(f"{name}.run", f"{command}\n")
    if "cluster.py" in example.read_text():  # it starts these
        needs("redis-server")
        needs("haproxy")
    if is_server(example):
        number = port()
        program = Program(["sh", "-c", f"exec {command}"], folder, environment(PORT=number), number)
        try:
            program.wait_for(*READY)
            secure = "ssl=" in example.read_text()
            url = program.url.replace("http:", "https:") if secure else program.url
            assert httpx2.get(f"{url}/nothing", verify=False).status_code >= 400
        finally:
            # As Ctrl-C. uv passes it on to a program that has it already: the second one may
            # meet it while it stops, and then it ends with 130, but as quietly.
            assert program.stop(signal.SIGINT) in {0, 130}
        return
    server = start(needed_server(example))
    result = subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=environment(URL=server.url, **QUICK),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    complain(result.stdout + result.stderr)
    assert result.returncode == 0, result.stderr
    assert result.stdout


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_is_accepted(name, tmp_path, record):
    """Each configuration, copied alone into an empty folder, is accepted by its program."""
    example = EXAMPLES / name
    command = dict(commands(example))["Run"]
    record(f"{name}.run", f"{command}\n")
    program, *options = command.split()
    check = "-c" if program == "haproxy" else "-t"
    result = subprocess.run(
        [needs(program), *options, check],
        cwd=alone(example, tmp_path / "alone"),
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "warn" not in (result.stdout + result.stderr).lower()
