"""Fixtures: run examples, tap their wires, record what they do."""

import fcntl
import gc
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from functools import cache
from uuid import uuid4

import pytest
from httpx2._transports import default as transport
from playwright.sync_api import sync_playwright
from xdist.scheduler import LoadScopeScheduling

from .support import parts
from .support.canned import Canned
from .support.processes import (
    EXAMPLES,
    READY,
    ROOT,
    Ports,
    Program,
    alone,
    argv,
    complain,
    environment,
    finish,
)
from .support.recorder import Recorder
from .support.wiretap import Tap

gc.disable()  # while proofs are collected, nothing is thrown away


def pytest_collection_finish():
    """Let the garbage collector pass over all that was collected."""
    gc.freeze()
    gc.enable()


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="rewrite snippets/ from this run")


def pytest_configure():
    """Let programs hear Ctrl-C also where the shell that started these tests does not; make the
    certificates that a client trusts once, and not for each of thousands."""
    transport.create_ssl_context = cache(transport.create_ssl_context)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


# Proofs of these try one program each, and share no more than a room does.
SCATTERED = ("test_bad_servers", "test_examples")


class Together(LoadScopeScheduling):
    """Keeps a module's proofs together, for what they share; of scattered ones, a room's."""

    def _split_scope(self, nodeid):
        scattered = nodeid.startswith(tuple(f"tests/{stem}.py" for stem in SCATTERED))
        # tests/test_examples.py::test_runs_alone[token/client.py]
        return nodeid.rpartition("/")[0] if scattered else super()._split_scope(nodeid)


def pytest_collection_modifyitems(items):
    """Begin with the pages, which keep a browser busy longest; end with what fills gaps."""
    items.sort(key=lambda item: (item.path.stem != "test_pages", item.path.stem in SCATTERED))


def pytest_xdist_make_scheduler(config, log):
    return Together(config, log)


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
    with ExitStack() as running:  # stops each, also when stopping another failed

        def start(name, trouble=False, **variables):
            example = EXAMPLES / name
            variables.setdefault("PORT", port())
            home = alone(example, folder / f"program-{uuid4()}")
            program = Program(argv(example), home, environment(**variables), variables["PORT"])
            running.callback(program.stop, trouble=trouble)
            return program.wait_for(*READY)

        yield start


@pytest.fixture
def start(tmp_path, port):
    """Start an example server: start("token/server.py", KEEP=1), ready when this returns.

    Each is stopped at the end of the test; one that leaks or printed a traceback fails it,
    unless it is a wrong one, from which trouble is expected: start(…, trouble=True).
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
    return runner(tmp_path)


@pytest.fixture(scope="module")
def run_shared(tmp_path_factory):
    """Run an example client to its end for several tests, as `run` does for one."""
    return runner(tmp_path_factory.mktemp("shared"))


def runner(folder):
    def run(name, **variables):
        example = EXAMPLES / name
        home = alone(example, folder / f"client-{uuid4()}")
        result = finish(argv(example), home, environment(**variables))
        complain(result.stdout + result.stderr)
        return result

    return run


@contextmanager
def tapper(port):
    """Yield tap(program) -> Tap, opened in front of a program and closed at the end."""
    with ExitStack() as taps:
        yield lambda program, **options: taps.enter_context(Tap(program.port, port(), **options))


@pytest.fixture
def tap(port):
    """Open a wire tap in front of a program: tap(server) -> Tap, closed after the test."""
    with tapper(port) as tap:
        yield tap


@pytest.fixture(scope="module")
def tap_shared(port):
    """Open a wire tap for several tests, as `tap` does for one."""
    with tapper(port) as tap:
        yield tap


@contextmanager
def assembler(folder, port):
    """Yield the two functions that start real parts, and stop them at the end."""
    with ExitStack() as running:

        def kept(part):
            running.callback(part.stop)
            return part

        def start_proxy(name, ports, **changes):
            needs("haproxy" if name.endswith(".cfg") else "nginx")
            return kept(parts.proxy(name, folder / f"proxy-{uuid4()}", ports, changes))

        def start_redis(*options):
            needs("redis-server")
            return kept(parts.redis(folder / f"redis-{uuid4()}", port(), *options))

        start_proxy.kept = start_redis.kept = kept
        yield start_proxy, start_redis


@pytest.fixture
def assembled(tmp_path, port):
    """Stop the real parts of one test."""
    with assembler(tmp_path, port) as both:
        yield both


@pytest.fixture
def start_proxy(assembled):
    """Start nginx or HAProxy: start_proxy("load_balancing/nginx.conf", {8000: …, 8001: …}).

    `changes` put other words in place of some of the file: start_proxy(…, **{"60s": "1s"}).
    """
    return assembled[0]


@pytest.fixture
def start_redis(assembled):
    """Start a Redis of the test's own: start_redis("--appendfsync", "always").

    After `redis.stop(SIGKILL)`, `start_redis.kept(redis.again())` brings it back.
    """
    return assembled[1]


@pytest.fixture(scope="module")
def assembled_shared(tmp_path_factory, port):
    """Start real parts for several tests: start_proxy, start_redis = assembled_shared."""
    with assembler(tmp_path_factory.mktemp("parts"), port) as both:
        yield both


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


def needs(program, package=None):
    """Return the path of a real part; skip by name without it, and fail where CI is set."""
    path = parts.found(program)
    return path or missing(f"{program} is not installed: sudo apt-get install {package or program}")


def missing(message):
    """Skip the test, saying what is missing; fail it where CI is set."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(message)


@pytest.fixture(scope="session")
def browser():
    """Return the system's Chromium, headless. It makes no request of its own."""
    # Debian has the same browser without a window as well, which takes half the time to open.
    path = parts.found("chromium-headless-shell") or needs("chromium")
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


@pytest.fixture
def opened(request, page, tmp_path):
    """Return open(url): client.html, opened as a file, alone in its folder, with that server.

    It is that of the room which a module is named after.
    """
    room = request.module.__name__.rpartition(".test_")[2]
    folder = alone(EXAMPLES / room / "client.html", tmp_path / "page")

    def open_page(url):
        page.goto(f"file://{folder}/client.html?url={url}")
        return page

    return open_page


@pytest.fixture(scope="session")
def registry():
    """Skip where uv cannot reach a package registry; fail there where CI is set."""
    check = ["uv", "run", "--no-project", "--with", "sanic", "python", "-c", ""]
    if subprocess.run(check, env=environment(), capture_output=True).returncode:
        missing("no package registry can be reached, so uv cannot fetch what examples need")


# The index of the search is as large as all pages together, and each page reads it.
NO_INDEX = {"config": {"lang": ["en"], "separator": " ", "pipeline": [], "fields": {}}, "docs": []}


@pytest.fixture(scope="session")
def site(tmp_path_factory, worker_id):
    """Return the folder with the built site, but for the index of its search. One worker builds
    it for all."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "site"
    with open(f"{folder}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            built = subprocess.run(
                ["mkdocs", "build", "--strict", "--site-dir", folder],
                cwd=ROOT,
                env=environment(NO_MKDOCS_2_WARNING=1),
                capture_output=True,
                text=True,
            )
            if built.returncode or "WARNING" in built.stderr:
                shutil.rmtree(folder, ignore_errors=True)
                pytest.fail(built.stderr)
            index = folder / "search/search_index.json"
            index.rename(f"{folder}-search.json")
            index.write_text(json.dumps(NO_INDEX))
    return folder


@pytest.fixture(scope="session")
def search_index(site):
    """Return the file with the index of the search."""
    return f"{site}-search.json"


@pytest.fixture(scope="module")
def live(site, port):
    """Return the site as `make serve` serves it."""
    argv = [sys.executable, "-m", "examples.site.server"]
    program = Program(argv, ROOT, environment(PORT=(number := port()), SITE=site), number)
    yield program.wait_for("Open http")
    program.stop()


@pytest.fixture(scope="module")
def static(site, port):
    """Return the site on a static host that knows nothing about it."""
    argv = ["-m", "http.server", "--bind", "127.0.0.1", str(number := port())]
    program = Program([sys.executable, *argv], site, environment(), number)
    program.wait_for("Serving HTTP")
    yield program
    program.process.terminate()
    program.wait()


@contextmanager
def watched(browser):
    """Yield open(url) -> page; fail on an error in a console, a failed request, and a request
    to another host than the page's."""
    troubles, hosts = [], set()

    def asked(request):
        if request.url.startswith("http"):
            hosts.add(request.url.split("/")[2])

    def failed(request):
        if request.failure != "net::ERR_ABORTED":  # left for another page
            troubles.append(f"{request.failure}: {request.url}")

    with browser.new_context() as context:

        def open_page(url):
            page = context.new_page()
            page.on("console", lambda m: m.type in {"error", "warning"} and troubles.append(m.text))
            page.on("pageerror", lambda error: troubles.append(str(error)))
            page.on("response", lambda r: r.status >= 400 and troubles.append(r.url))
            page.on("requestfailed", failed)
            page.on("request", asked)
            page.goto(url, wait_until="networkidle")
            return page

        open_page.context, open_page.hosts, open_page.troubles = context, hosts, troubles
        yield open_page
    assert not troubles


@pytest.fixture
def quiet(browser):
    """Return open(url) -> page, watched for errors."""
    with watched(browser) as open_page:
        yield open_page
