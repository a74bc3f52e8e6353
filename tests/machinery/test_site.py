"""The site as it is served: live by `make serve`, or by a static host."""

import gzip
import http.client
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack

import httpx2
import pytest
from lxml import html

from ..support.browsing import enter, panel
from ..support.processes import EXAMPLES, ROOT, Program, environment
from ..support.sockets import connect

# Served


def test_builds_strictly(site):
    """The site builds in strict mode: no link, anchor, include or proof is missing."""
    assert (site / "index.html").is_file()


def test_serves_programs_as_text(live):
    """Each program is published as it is, to be read, copied or run from its address."""
    programs = [*EXAMPLES.glob("*/*.py"), *EXAMPLES.glob("*/*.sh")]
    with httpx2.Client(base_url=live.url) as client:
        for path in programs:
            response = client.get(f"/examples/{path.relative_to(EXAMPLES)}")
            assert response.status_code == 200
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert response.content == path.read_bytes()


def test_a_program_runs_from_its_address(live, tmp_path, registry):
    """The published address of a program is enough to run it: uv run URL."""
    ran = subprocess.run(
        ["uv", "run", f"{live.url}/examples/token/client.py"],
        cwd=tmp_path,
        env=environment(URL=f"{live.url}/live/token", SECONDS=0.1, UV_OFFLINE=0),
        capture_output=True,
        text=True,
    )
    assert ran.returncode == 0, ran.stderr
    assert "done: 42" in ran.stdout


def test_the_examples_hold_under_a_prefix(live):
    """Mounted under a path prefix, the example servers return Locations with that prefix."""
    for name in "token", "short_polling", "long_polling":
        submitted = httpx2.post(f"{live.url}/live/{name}/jobs", json={"seconds": 60})
        location = submitted.headers["Location"]
        assert location == f"/live/{name}/jobs/{submitted.json()['token']}"
        assert httpx2.get(live.url + location).json()["status"] == "pending"


def test_serves_folders_heads_and_errors(live, site):
    """A folder without its slash redirects, HEAD has no body, and an unknown path is a 404
    page; no path leads out of the site."""
    folder = httpx2.get(f"{live.url}/start/token")
    assert (folder.status_code, folder.headers["Location"]) == (301, "/start/token/")
    head = httpx2.head(f"{live.url}/start/token/")
    assert (head.status_code, head.content) == (200, b"")
    assert head.headers["Content-Type"].startswith("text/html")
    assert httpx2.head(live.url).status_code == 200
    missing = httpx2.get(f"{live.url}/nothing")
    assert missing.status_code == 404
    assert "text/html" in missing.headers["Content-Type"]
    (site.parent / "secret.txt").write_text("outside")
    for path in (
        "/../secret.txt",
        "/%2e%2e/secret.txt",
        "/..%2fsecret.txt",
        f"/{site.parent}/secret.txt",
    ):
        # http.client sends a path as it is; others tidy it up first.
        connection = http.client.HTTPConnection("127.0.0.1", live.port)
        connection.request("GET", path)
        response = connection.getresponse()
        assert response.status in {301, 400, 404}
        assert b"outside" not in response.read()
        connection.close()


def test_files_are_compressed(live, site):
    """Pages, styles, scripts, images and programs are compressed for a client that accepts gzip;
    fonts, which are compressed already, are not, nor is anything for a client that does not accept
    it."""
    names = ["techniques/long-polling/index.html", "assets/site.js", "assets/panel.js"]
    for name in [*names, "examples/token/server.py", "assets/favicon.svg"]:
        body = (site / name).read_bytes()
        for accepted, coding in [
            ("gzip, br", "gzip"),
            ("br", None),
            ("gzip;q=0", None),
            ("", None),
        ]:
            response = httpx2.get(f"{live.url}/{name}", headers={"Accept-Encoding": accepted})
            assert response.content == body
            assert response.headers.get("Content-Encoding") == coding, (name, accepted)
            assert response.headers["Vary"] == "Accept-Encoding"
            if coding:
                assert int(response.headers["Content-Length"]) == len(gzip.compress(body))
    response = httpx2.get(
        f"{live.url}/assets/fonts/text.woff2", headers={"Accept-Encoding": "gzip"}
    )
    assert "Content-Encoding" not in response.headers


def test_a_file_is_revalidated(live, site):
    """A page is kept and revalidated by its entity tag, which differs between its encodings; files
    whose name has a hash are kept for a year without a request."""
    tags = set()
    for accepted in "gzip", "identity":
        headers = {"Accept-Encoding": accepted}
        first = httpx2.get(f"{live.url}/start/token/", headers=headers)
        assert first.headers["Cache-Control"] == "no-cache"
        tags.add(tag := first.headers["ETag"])
        for known in tag, f"W/{tag}", f'"other", {tag}', "*":
            again = httpx2.get(
                f"{live.url}/start/token/", headers={**headers, "If-None-Match": known}
            )
            assert (again.status_code, again.content) == (304, b"")
            assert again.headers["ETag"] == tag
        other = httpx2.get(
            f"{live.url}/start/token/", headers={**headers, "If-None-Match": '"other"'}
        )
        assert other.status_code == 200
    assert len(tags) == 2
    hashed = [path for path in (site / "assets").rglob("*.min.*") if path.suffix in {".js", ".css"}]
    assert len(hashed) >= 3
    for path in hashed:
        response = httpx2.get(f"{live.url}/{path.relative_to(site)}")
        assert response.headers["Cache-Control"] == "public, max-age=31536000, immutable", path


def test_a_file_is_served_in_ranges(live, site):
    """A range of bytes is served alone; one that begins after the end is refused with 416; several
    ranges, or a range of another version, are served as the whole file."""
    url = f"{live.url}/examples/token/server.py"
    body = (site / "examples/token/server.py").read_bytes()
    total = len(body)
    tag = httpx2.head(url, headers={"Accept-Encoding": ""}).headers["ETag"]
    for wanted, first, last in [
        ("bytes=0-9", 0, 9),
        ("bytes=10-", 10, total - 1),
        ("bytes=-10", total - 10, total - 1),
        (f"bytes=-{total * 2}", 0, total - 1),
        ("bytes=5-999999999", 5, total - 1),
    ]:
        part = httpx2.get(url, headers={"Range": wanted, "If-Range": tag})
        assert part.status_code == 206
        assert part.headers["Content-Range"] == f"bytes {first}-{last}/{total}"
        assert part.content == body[first : last + 1]
    for wanted in f"bytes={total}-", "bytes=-0":
        none = httpx2.get(url, headers={"Range": wanted})
        assert (none.status_code, none.headers["Content-Range"]) == (416, f"bytes */{total}")
    for wanted in "bytes=0-1,3-4", "bytes=9-3", "bytes=-", "lines=0-1", "bytes=x-", "":
        whole = httpx2.get(url, headers={"Range": wanted})
        assert (whole.status_code, whole.content) == (200, body), wanted
    other = httpx2.get(url, headers={"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (other.status_code, other.content) == (200, body)


def test_the_site_behind_nginx(live, before, open_page):
    """Behind nginx the panel of long polling is live, a WebSocket is opened, event streams arrive,
    and an address that holds ten requests receives 429 for the next."""
    proxy = before("site/nginx.conf", live.port)
    page = panel(open_page(f"{proxy.url}/techniques/long-polling/"))
    client = page.frame_locator(".panel iframe")
    enter(client.locator("#seconds"), "0.2")
    client.locator("#start").click()
    client.get_by_text("done: 42").wait_for()
    page.close()
    address = proxy.url.replace("http", "ws")
    with connect(f"{address}/live/websockets/jobs/socket") as websocket:
        assert websocket.ping().wait(timeout=30)
    prefix = f"{proxy.url}/live/server_sent_events"
    with httpx2.Client() as client, ExitStack() as held:
        submitted = client.post(f"{prefix}/jobs", json={"seconds": 60}).json()
        events = f"{prefix}/jobs/{submitted['token']}/events"
        for _ in range(10):
            stream = held.enter_context(client.stream("GET", events))
            assert stream.headers["Content-Type"].startswith("text/event-stream")
        assert client.get(events).status_code == 429


def test_the_policy_of_a_page_is_a_header(live, site):
    """Each page is served with its own Content-Security-Policy as a header."""
    with httpx2.Client(base_url=live.url) as client:
        for path in site.rglob("index.html"):
            if path.is_relative_to(site / "examples"):
                continue
            response = client.get(f"/{path.relative_to(site)}")
            page = html.fromstring(response.content)
            (policy,) = page.xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
            assert response.headers["Content-Security-Policy"] == policy


def test_serves_this_machine_only(live):
    """The server listens on the loopback address, so that no other machine can reach it."""
    with socket.socket() as elsewhere, pytest.raises(OSError):
        elsewhere.connect(("127.0.0.2", live.port))


def test_mounted_examples_refuse_bad_input_too(live):
    """Under a prefix, bad input is refused as it is by the program alone."""
    for body, status in [(b"{", 400), (b"x" * 20_000, 413)]:
        response = httpx2.post(f"{live.url}/live/token/jobs", content=body)
        assert response.status_code == status
        assert response.json()["status"] == status


def test_serve_says_when_it_cannot(live, site, tmp_path):
    """A port that is in use and a site that is not built are each reported in one line."""
    for variables, words in [
        ({"PORT": live.port, "SITE": site}, f"port {live.port} is taken"),
        ({"PORT": live.port + 1, "SITE": tmp_path}, "run make build"),
    ]:
        ran = subprocess.run(
            [sys.executable, "-m", "examples.site.server"],
            cwd=ROOT,
            env=environment(**variables),
            capture_output=True,
            text=True,
        )
        assert ran.returncode == 1
        assert words in ran.stderr and len(ran.stderr.splitlines()) == 1


def test_serve_prints_its_address_and_stops_cleanly(site, port):
    """Serving prints the address and nothing else, and ends at once on Ctrl-C with a job
    running."""
    argv = [sys.executable, "-m", "examples.site.server"]
    program = Program(argv, ROOT, environment(PORT=(number := port()), SITE=site), number)
    program.wait_for(f"Open http://127.0.0.1:{number}/")
    httpx2.post(f"{program.url}/live/token/jobs", json={"seconds": 60})
    assert program.stop(signal.SIGINT) == 0
    assert len(program.output.splitlines()) == 1


def test_reads_whole_without_javascript(static, browser):
    """Without JavaScript a page still has its figure, its programs and its recordings."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{static.url}/techniques/short-polling/")
        assert page.is_visible("svg.figure")
        assert page.is_visible(".panel p")
        assert page.is_visible("ol.wire")
