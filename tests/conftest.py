"""Fixtures: run examples, tap their wires, record what they do."""

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from threading import Thread
from urllib.parse import urlsplit
from uuid import uuid4

import httpx2
import pytest
from playwright.sync_api import sync_playwright
from sanic import Sanic
from websockets.sync.server import serve

from .support import parts
from .support.browsing import watched_pages
from .support.canned import Canned
from .support.parts import require_program, skip_or_fail
from .support.processes import (
    EXAMPLES,
    READY,
    ROOT,
    RUNTIME,
    Ports,
    Program,
    argv,
    assert_clean_output,
    copy_isolated,
    environment,
    environment_of,
    run_to_end,
)
from .support.recorder import Recorder
from .support.static_host import static_host
from .support.wiretap import Tap


def pytest_addoption(parser):
    parser.addoption("--record", action="store_true", help="rewrite snippets/ from this run")


def pytest_configure():
    """Let programs receive SIGINT also where the shell that started these tests ignores it; let
    tests load the module of a Sanic server more than once; let clients start fast."""
    Sanic.test_mode = True
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    # Each client of httpx2 reads the whole file with certificates, even if it uses no TLS: that
    # takes longer than a request. Of a folder it reads what it needs.
    if "SSL_CERT_DIR" in os.environ:
        os.environ.pop("SSL_CERT_FILE", None)


# Tests of these modules run one program each and share nothing, so any worker may take any.
INDEPENDENT = ("test_bad_servers", "test_examples", "test_foreign_servers")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Keep the tests of a module on one worker, for the servers that they share.

    The pages and the largest modules come first, since they take longest; independent tests fill
    the gaps at the end.
    """

    def order(item):
        name = item.path.stem
        return name in INDEPENDENT, name != "test_pages", -item.path.stat().st_size

    items.sort(key=order)
    for item in items:
        parameters = item.callspec.params if hasattr(item, "callspec") else {}
        if parameters.get("browser") == "firefox":
            item.add_marker(pytest.mark.xdist_group("firefox"))  # one worker starts it
        elif item.path.stem not in INDEPENDENT:
            item.add_marker(pytest.mark.xdist_group(item.path.stem))


@pytest.fixture(scope="session")
def port(worker_id):
    """Return a function that returns a free port."""
    return Ports(int(worker_id.removeprefix("gw")) if worker_id != "master" else 0)


@pytest.fixture
def record(request):
    """Return the recorder: record(name, text)."""
    return Recorder(request.config.getoption("--record"))


def replace_words(folder, changes):
    """Replace words in the files of a folder; fail if no file has them."""
    for old, new in changes.items():
        files = [path for path in folder.iterdir() if old in path.read_text()]
        assert files, f"no file has {old}"
        for path in files:
            path.write_text(path.read_text().replace(old, new))


@contextmanager
def starter(folder, port):
    """Yield start(name, **environment); stop what it started, and fail if that leaked.

    `changes`: {old: new}, words to replace in the example and in the files beside it.
    """
    with ExitStack() as running:  # stops each, also when stopping another failed

        def start(name, errors_expected=False, changes=None, **variables):
            example = EXAMPLES / name
            variables.setdefault("PORT", port())
            home = copy_isolated(example, folder / f"program-{uuid4()}")
            replace_words(home, changes or {})
            env = environment_of(example, **variables)
            program = Program(argv(example), home, env, variables["PORT"])
            running.callback(program.stop, errors_expected=errors_expected)
            return program.wait_for(*READY)

        yield start


@pytest.fixture
def start(tmp_path, port):
    """Start an example server: start("token/server.py", KEEP=1), ready when this returns.

    Each is stopped at the end of the test; one that leaks or prints a traceback fails it, except
    for wrong programs, from which errors are expected: start(…, errors_expected=True).
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
        home = copy_isolated(example, folder / f"client-{uuid4()}")
        result = run_to_end(argv(example), home, environment_of(example, **variables))
        assert_clean_output(result.stdout + result.stderr)
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

        def stop_at_end(part):
            running.callback(part.stop)
            return part

        def start_proxy(name, ports, **changes):
            require_program("haproxy" if name.endswith(".cfg") else "nginx")
            return stop_at_end(parts.proxy(name, folder / f"proxy-{uuid4()}", ports, changes))

        def start_redis(*options):
            require_program("redis-server")
            return stop_at_end(parts.redis(folder / f"redis-{uuid4()}", port(), *options))

        start_proxy.stop_at_end = start_redis.stop_at_end = stop_at_end
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
def before(start_proxy, port):
    """Start a balancer with all its ports in front of one: before(name, port, **changes)."""

    def before(name, target, **changes):
        text = (EXAMPLES / name).read_text()
        named = {int(number) for number in re.findall(r"127\.0\.0\.1:(\d+)", text)}
        ports = {number: port() if number in (8000, 8404) else target for number in named}
        return start_proxy(name, ports, **changes)

    return before


@pytest.fixture
def cached_statuses(before):
    """Request a URL twice through an nginx that caches for a minute what it may store:
    cached_statuses(url) -> ["MISS", "HIT"], for example."""

    def cached_statuses(url, **headers):
        address = urlsplit(url)
        changes = {
            "access_log off;": "access_log off; proxy_cache_path cache keys_zone=shared:1m;",
            "proxy_buffering off;": "proxy_cache shared; proxy_cache_valid any 1m;"
            "add_header X-Cache $upstream_cache_status always;",
        }
        cache = before("load_balancing/nginx.conf", address.port, **changes)
        url = cache.url + address.path
        return [httpx2.get(url, headers=headers).headers["X-Cache"] for _ in range(2)]

    return cached_statuses


@pytest.fixture
def start_redis(assembled):
    """Start a Redis of the test's own: start_redis("--appendfsync", "always").

    After `redis.stop(SIGKILL)`, `start_redis.stop_at_end(redis.again())` brings it back.
    """
    return assembled[1]


@pytest.fixture(scope="module")
def assembled_shared(tmp_path_factory, port):
    """Start real parts for several tests: start_proxy, start_redis = assembled_shared."""
    with assembler(tmp_path_factory.mktemp("parts"), port) as both:
        yield both


@pytest.fixture
def canned(port):
    """Start a server that sends the responses it was given, and then repeats the last one."""
    servers = []

    def canned(*responses, number=None):
        server = Canned(number or port(), responses)
        servers.append(server)
        return server

    yield canned
    for server in servers:
        server.close()


@contextmanager
def follower(module, folder):
    """Yield follow(name, **environment); stop the clients that it started."""
    running = []

    def follow(name, **variables):
        example = EXAMPLES / module.TOPIC / name
        home = copy_isolated(example, folder / f"follower-{len(running)}")
        running.append(Program(argv(example), home, environment(**(module.QUICK | variables))))
        return running[-1]

    yield follow
    for program in running:
        program.stop(signal.SIGKILL)


@pytest.fixture
def follow(request, tmp_path):
    """Start a client of the module's TOPIC, with its settings QUICK, beside the test:
    follow("client.py", URL=…) -> Program."""
    with follower(request.module, tmp_path) as follow:
        yield follow


@pytest.fixture(scope="module")
def follow_shared(request, tmp_path_factory):
    """Start a client for several tests, as `follow` does for one."""
    with follower(request.module, tmp_path_factory.mktemp("followers")) as follow:
        yield follow


@pytest.fixture
def serving(port):
    """Start a WebSocket server of the test's own: serving(handler) -> its URL."""
    started = []

    def serving(handler, **options):
        server = serve(handler, "127.0.0.1", number := port(), **options)
        thread = Thread(target=server.serve_forever)
        thread.start()
        started.append((server, thread))
        return f"http://127.0.0.1:{number}"

    yield serving
    for server, thread in started:
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def many_files():
    """Allow this process, and the servers it starts, enough open connections."""
    before, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    enough = 4_500  # both ends of two thousand connections
    if most != resource.RLIM_INFINITY and most < enough:
        pytest.fail(f"{most} open files are allowed, {enough} needed: ulimit -Hn {enough}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before, enough), most))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (before, most))


@pytest.fixture(scope="session")
def playwright():
    """Return Playwright, which drives browsers."""
    with sync_playwright() as playwright:
        yield playwright


@pytest.fixture(scope="session")
def chromium(playwright):
    """Return the system's Chromium, headless. It makes no request of its own."""
    # Debian has the same browser without a window as well, which takes half the time to open.
    path = parts.found("chromium-headless-shell") or require_program("chromium")
    flags = "disable-gpu disable-quic no-first-run disable-background-networking"
    flags += " disable-component-update disable-sync"
    return playwright.chromium.launch(
        executable_path=path,
        chromium_sandbox=False,
        args=[f"--{flag}" for flag in flags.split()],
    )


@pytest.fixture(scope="session")
def firefox(playwright):
    """Return the system's Firefox, headless."""
    require_program("firefox-esr")
    browser = playwright.firefox.launch(
        channel="moz-firefox",
        executable_path=ROOT / "tests/support/firefox.py",
        env=environment(),
        timeout=90_000,  # milliseconds, on a busy machine
    )
    yield browser
    browser.close()


@pytest.fixture(scope="module")
def browser(request):
    """Return Chromium, or the browser of a proof that is made in both (`both_browsers`)."""
    return request.getfixturevalue(getattr(request, "param", "chromium"))


@pytest.fixture
def page(browser):
    """Return a fresh page of a browser that has seen nothing yet."""
    with browser.new_context() as context:
        context.set_default_timeout(60_000)  # ms: on a busy machine a server starts in ten seconds
        yield context.new_page()


@pytest.fixture
def open_client_page(request, page, tmp_path):
    """Return open(url): client.html, opened as a file, alone in its folder, with that server.

    It is that of the room which a module is named after.
    """
    room = request.module.__name__.rpartition(".test_")[2]
    folder = copy_isolated(EXAMPLES / room / "client.html", tmp_path / "page")

    def open_page(url):
        page.goto(f"file://{folder}/client.html?url={url}")
        return page

    return open_page


@pytest.fixture(scope="session")
def registry():
    """Skip where uv cannot reach a package registry; fail there where CI is set."""
    check = ["uv", "run", "--no-project", "--with", "sanic", "python", "-c", ""]
    if subprocess.run(check, env=environment(), capture_output=True).returncode:
        skip_or_fail("no package registry can be reached, so uv cannot fetch what examples need")


@pytest.fixture(scope="session")
def runtime():
    """Skip where the runtime of *Run here* is not built; fail there where CI is set."""
    if not RUNTIME.exists():
        skip_or_fail("the runtime of Run here is not built: make runtime")


# The index of the search is as large as all pages together, and each page reads it.
NO_INDEX = {"config": {"lang": ["en"], "separator": " ", "pipeline": [], "fields": {}}, "docs": []}


# The address of the built site, and that of its source.
SITE_URL = "https://guide.example/guide/"
REPO_URL = "https://github.com/example/guide"


@pytest.fixture(scope="session")
def built_once(tmp_path_factory, worker_id):
    """Return a function by which one worker builds a folder for all: built_once(name, build)."""
    base = tmp_path_factory.getbasetemp()

    def built_once(name, build):
        folder = (base if worker_id == "master" else base.parent) / name
        with open(f"{folder}.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not folder.exists():
                partial = folder.with_name(f"{name}-partial")  # until it is complete
                build(partial)
                partial.rename(folder)
        return folder

    return built_once


@pytest.fixture(scope="session")
def site(built_once):
    """Return the folder with the built site, but for the index of its search."""

    def build(folder):
        built = subprocess.run(
            ["make", "--silent", "pages", f"SITE={folder}"],
            cwd=ROOT,
            env=environment(SITE_URL=SITE_URL, REPO_URL=REPO_URL),
            capture_output=True,
            text=True,
        )
        if built.returncode or "WARNING" in built.stderr:
            pytest.fail(built.stderr)
        index = folder / "search/search_index.json"
        index.rename(folder.with_name("site-search.json"))
        index.write_text(json.dumps(NO_INDEX))

    return built_once("site", build)


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
    """Return the site on a static host that knows nothing about it, below the path /guide/."""
    with static_host(site, port()) as host:
        yield host


@pytest.fixture
def open_page(browser):
    """Return open(url) -> page, watched for errors."""
    with watched_pages(browser) as open_page:
        yield open_page
