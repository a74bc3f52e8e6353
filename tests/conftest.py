"""Fixtures: run examples, tap their wires, record what they do."""

import os
import shutil
import subprocess
from contextlib import contextmanager

import pytest
from playwright.sync_api import sync_playwright

from .support.canned import Canned
from .support.processes import (
    EXAMPLES,
    PATIENCE,
    READY,
    Ports,
    Program,
    alone,
    argv,
    complain,
    environment,
)
from .support.recorder import Recorder
from .support.wiretap import Tap


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="rewrite snippets/ from this run")


@pytest.fixture(scope="session")
def port(worker_id):
    """Return a function that returns a free port."""
    return Ports(int(worker_id.removeprefix("gw")) if worker_id != "master" else 0)


@pytest.fixture
def record(request):
    """Return the recorder: record(name, text)."""
    return Recorder(request.config.getoption("--record"))


@contextmanager
def starter(folder, port):
    """Yield start(name, **environment); stop what it started, and fail if that leaked."""
    running = []

    def start(name, **variables):
        example = EXAMPLES / name
        variables.setdefault("PORT", port())
        alone(example, home := folder / f"program-{len(running)}")
        program = Program(argv(example), home, environment(**variables), variables["PORT"])
        running.append(program)
        return program.wait_for(READY)

    yield start
    for program in running:
        program.stop()


@pytest.fixture
def start(tmp_path, port):
    """Start an example server: start("token/server.py", KEEP=1), ready when this returns.

    Each is stopped at the end of the test; one that leaks or printed a traceback fails it.
    """
    with starter(tmp_path, port) as start:
        yield start


@pytest.fixture(scope="module")
def start_shared(tmp_path_factory, port):
    """Start an example server for several tests, as `start` does for one."""
    with starter(tmp_path_factory.mktemp("shared"), port) as start:
        yield start


@pytest.fixture
def run(tmp_path):
    """Run an example client to its end: run("token/client.py", URL=…) -> CompletedProcess.

    stdout and stderr are apart. A traceback fails the test, whatever the exit code.
    """
    ran = 0

    def run(name, **variables):
        nonlocal ran
        ran += 1
        example = EXAMPLES / name
        result = subprocess.run(
            argv(example),
            cwd=alone(example, tmp_path / f"client-{ran}"),
            env=environment(**variables),
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        complain(result.stdout + result.stderr)
        return result

    return run


@pytest.fixture
def tap(port):
    """Open a wire tap in front of a program: tap(server) -> Tap, closed after the test."""
    taps = []

    def tap(program, **options):
        opened = Tap(program.port, port(), **options).__enter__()
        taps.append(opened)
        return opened

    yield tap
    for opened in taps:
        opened.__exit__()


@pytest.fixture
def canned(port):
    """Start a server that gives the answers it was given, the last one for ever."""
    opened = []

    def canned(*answers):
        server = Canned(port(), answers)
        opened.append(server)
        return server

    yield canned
    for server in opened:
        server.close()


def needs(program, package):
    """Return the path of a real part; skip by name without it, and fail where CI is set."""
    path = shutil.which(program)
    if path is None:
        message = f"{program} is not installed: sudo apt-get install {package}"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@pytest.fixture(scope="session")
def browser():
    """Return the system's Chromium, headless. It makes no request of its own."""
    path = needs("chromium", "chromium")
    quiet = "disable-gpu disable-quic no-first-run disable-background-networking"
    quiet += " disable-component-update disable-sync"
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(
            executable_path=path,
            chromium_sandbox=False,
            args=[f"--{flag}" for flag in quiet.split()],
        )


@pytest.fixture
def page(browser):
    """Return a fresh page of a browser that has seen nothing yet."""
    with browser.new_context() as context:
        yield context.new_page()
