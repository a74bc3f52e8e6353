"""What `publish/finish.py` makes of the built site, for any static host."""

import gzip
import json
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import httpx2
import pytest
from lxml import etree, html

from ..conftest import REPO_URL, SITE_URL
from ..support.browsing import PHONE, both_browsers, expect_download, open_missing, panel, replay
from ..support.processes import EXAMPLES, ROOT, environment, wait_until
from ..support.recorder import pages
from ..support.static_host import static_host

CONTENT = sorted(
    f"{path.relative_to(ROOT / 'docs').with_suffix('')}/"
    for path in pages()
    if path.relative_to(ROOT / "docs").parts[0] in {"start", "techniques", "systems", "production"}
)


def parsed(path):
    return html.fromstring(path.read_bytes())


def published(site):
    """Return the pages of the built site."""
    return [path for path in site.rglob("index.html") if not path.is_relative_to(site / "examples")]


def squeezed(text):
    """Return the letters and digits of a text."""
    return re.sub(r"[\W_]+", "", text)


def test_pages_allow_the_scripts_of_the_site_only(site):
    """Each page has a Content-Security-Policy that allows scripts of the site's own files and
    inline scripts by their hash, and no evaluation of text."""
    for path in published(site):
        (policy,) = parsed(path).xpath("//meta[@http-equiv='Content-Security-Policy']/@content")
        (scripts,) = re.findall(r"script-src ([^;]*)", policy)
        allowed = {"'self'", "'wasm-unsafe-eval'"}
        assert {each for each in scripts.split() if not each.startswith("'sha256-")} == allowed
        assert policy.startswith("default-src 'self'; object-src 'none'; ")
        assert "*" not in policy and "http" not in policy


@both_browsers
def test_a_program_in_a_fold_is_loaded_when_it_is_opened(static, open_page):
    """A folded program is requested when its fold is opened, and not before; its text is that of
    the file, and it can be copied and downloaded."""
    page = open_page(f"{static.url}/techniques/webhooks/")
    requested = []
    page.on("request", lambda request: requested.append(request.url))
    fold = page.locator("details", has_text="The whole of server_hardened.py").last
    assert fold.locator("pre").count() == 0
    fold.locator("summary").click()
    fold.locator("pre").wait_for()
    assert len([url for url in requested if "program-" in url]) == 1
    program = (EXAMPLES / "webhooks/server_hardened.py").read_text()
    shown = re.sub(r"(?m)^ *# --8<-- .*\n", "", program)
    assert squeezed(fold.locator("pre").text_content()) == squeezed(shown)
    assert fold.locator("button[data-clipboard-target]").count() == 1
    expect_download(page, fold)


def test_without_javascript_a_fold_links_to_its_program(static, browser):
    """Without JavaScript the link in a fold leads to the program."""
    with browser.new_context(java_script_enabled=False) as context:
        page = context.new_page()
        page.goto(f"{static.url}/techniques/webhooks/")
        link = page.locator("a.program").last
        page.goto(f"{static.url}/techniques/webhooks/{link.get_attribute('href')}")
        assert "def poll_overdue" in page.text_content("pre")


@pytest.mark.parametrize("name", CONTENT)
def test_a_page_as_markdown_has_the_text_of_the_page(site, name):
    """The Markdown of a page has every heading, paragraph, cell and program that the page shows."""
    page = parsed(site / name / "index.html").find(".//article")
    for each in page.xpath(".//a[@class='headerlink'] | .//svg | .//*[contains(@class, 'panel')]"):
        each.drop_tree()
    markdown = (site / name / "index.md").read_text()
    prose = re.sub(r"(?ms)^ *```.*?^ *```$", "", markdown)
    links = re.sub(
        r"\]\([^)]*\)", "", re.sub(r"`[^`]*`", lambda code: re.sub("[<>&]", "", code[0]), prose)
    )
    words = squeezed(re.sub(r"<[^>]+>", "", html.fromstring(f"<p>{links}</p>").text_content()))
    for tag in ("h1", "h2", "h3", "p", "td", "th", "summary"):
        for element in page.iter(tag):
            if not element.xpath(".//a[@class='program']"):
                shown = squeezed(element.text_content())
                assert shown in words, element.text_content()
    code = squeezed(markdown)
    for pre in page.iter("pre"):
        assert squeezed(pre.text_content()) in code, pre.text_content()
    for fragment in (site / name).glob("program-*.html"):
        assert squeezed(parsed(fragment).find(".//code").text_content()) in code


def test_all_pages_are_listed_for_programs_that_read(site):
    """`llms.txt` lists each page with its description, and the Markdown that it links to exists."""
    listed = re.findall(r"(?m)^- \[.+\]\((.+)\): .{50,}$", (site / "llms.txt").read_text())
    assert {site / path for path in listed} == {p.with_suffix(".md") for p in published(site)}
    for path in listed:
        text = re.sub(r"(?ms)^ *```.*?^ *```$", "", (site / path).read_text())
        assert "\n::: " not in text and "<svg" not in text
        for link in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", text):
            assert (site / path).parent.joinpath(link).exists(), (path, link)


def test_a_page_is_light(site):
    """The HTML of a page has at most 25 KB when it is compressed."""
    for name in CONTENT:
        size = len(gzip.compress((site / name / "index.html").read_bytes(), mtime=0))
        assert size <= 25_000, (name, size)


RESOURCES = "performance.getEntriesByType('resource').map(({ name }) => name)"


@both_browsers
def test_a_first_visit_is_light(live, browser):
    """A first visit to the page of long polling takes at most 12 requests with its fonts, and at
    most 150 KB, compressed, with the panel and its client, which load when the panel comes near;
    both without the search, the size without the icons, which Firefox loads."""
    loaded = []
    with browser.new_context(service_workers="block") as context:  # which loads the rest later
        page = context.new_page()
        page.on("requestfinished", lambda request: loaded.append(request.response()))
        page.goto(f"{live.url}/techniques/long-polling/", wait_until="networkidle")
        page.wait_for_load_state("load")
        page.evaluate("document.fonts.ready.then(() => 0)")
        # What the driver has reported may lag behind what the page has.
        urls = {page.url, *page.evaluate(RESOURCES), *(each.url for each in loaded)}
        first = {url for url in urls if "search" not in url}
        panel(page).frame_locator(".panel iframe").locator("#start").wait_for()
        # The client in the panel revalidates a font: it is loaded once.
        sizes = {
            response.url: int(response.header_value("Content-Length") or 0)
            for response in reversed(loaded)
            if response.url.startswith("http") and not re.search("search|icon", response.url)
        }
    assert len([url for url in sizes if url.endswith(".woff2")]) == 3
    assert len([url for url in first if url.endswith(".css")]) == 1
    assert 8 <= len(first) <= 12, first
    assert len(first) < len(sizes)
    assert sum(sizes.values()) <= 150_000, sizes


def test_style_sheets_are_joined(site):
    """Each page has one style sheet, which has the rules of the theme and those of the site, and
    loads its fonts together with it."""
    assert [*site.glob("assets/*.css")] == [*site.glob("assets/styles.*.min.css")]
    for path in published(site):
        page = parsed(path)
        (style,) = page.xpath("//link[@rel='stylesheet']/@href")
        text = (path.parent / style).read_text()
        assert ".md-typeset" in text
        for name in ("site", "figures", "panel"):
            rules = re.sub(
                r"(?ms)^\s*/\*.*?\*/\s*", "", (ROOT / f"docs/assets/{name}.css").read_text()
            )
            assert rules in text
        fonts = [
            (path.parent / font).resolve() for font in page.xpath("//link[@rel='preload']/@href")
        ]
        assert site / "assets/fonts/text.woff2" in fonts
        assert {font.parent for font in fonts} == {site / "assets/fonts"}


def test_nothing_is_published_that_no_browser_requests(site):
    """The site has no source maps and no languages that its search does not use."""
    assert not [*site.rglob("*.map"), *site.rglob("lunr")]


def missing_below(site, url):
    """Return what pages of the site link to or load, and the host at that URL does not have."""
    wanted = {}
    for path in published(site):
        name = path.parent.relative_to(site)
        base = f"{url}/" if name == Path(".") else f"{url}/{name}/"
        for link in parsed(path).xpath("//@href | //@src"):
            if not urlsplit(link).scheme:
                wanted.setdefault(urljoin(base, link).partition("#")[0], name)
    assert len(wanted) > 300
    with httpx2.Client() as client:
        return {
            address: name
            for address, name in wanted.items()
            if client.get(address).status_code != 200
        }


def test_the_site_works_below_a_path(site, static):
    """On a static host that serves the site below a path, each link, image, script and download of
    each page exists there."""
    assert missing_below(site, static.url) == {}


def test_addresses_where_the_site_is_published(site):
    """The sitemap lists each page, and each page states its canonical address and the file in the
    repository that it is made of; `robots.txt` names the sitemap."""
    home = SITE_URL
    sitemap = html.fromstring((site / "sitemap.xml").read_bytes())
    expected = set()
    for path in published(site):
        folder = str(path.parent.relative_to(site))
        page = parsed(path)
        (canonical,) = page.xpath("//link[@rel='canonical']/@href")
        assert canonical == (home if folder == "." else f"{home}{folder}/")
        assert page.xpath("//meta[@property='og:url']/@content") == [canonical]
        expected.add(canonical)
        (edit,) = page.xpath("//a[@rel='edit']/@href")
        file = edit.removeprefix(f"{REPO_URL}/edit/main/")
        assert (ROOT / file).is_file(), edit
    assert set(sitemap.xpath("//loc/text()")) == expected
    assert f"\nSitemap: {home}sitemap.xml\n" in (site / "robots.txt").read_text()


def test_the_key_line_is_marked(site):
    """The key line of a page is marked where it stands in a program of the page, and no other line
    is; a marked program keeps its text."""
    marked = 0
    for path in published(site):
        page = parsed(path)
        keys = page.xpath("//div[@class='glance']//dt[.='Key line']/following-sibling::dd[1]//code")
        for line in page.xpath("//pre//*[@class='hll']"):
            assert squeezed(line.text_content()) == squeezed(keys[0].text_content()), path
            marked += 1
    assert marked >= 12
    with open(EXAMPLES / "webhooks/client.py") as program:
        shown = parsed(site / "techniques/long-polling/index.html").xpath(
            "//pre[.//*[@class='hll']]"
        )
        assert program and "\n        await asyncio.wait([task]" in shown[0].text_content()


def test_whole_programs_can_be_downloaded(site):
    """Beside each program that a page prints whole is a link that downloads that file; an excerpt
    has none."""
    offered = 0
    for path in [*published(site), *site.rglob("program-*.html")]:
        for link in parsed(path).xpath("//pre/a[@class='download']"):
            program = (path.parent / link.get("href")).read_text()
            shown = re.sub(r"(?m)^\s*\S+ --8<-- .*\n", "", program)
            assert squeezed(link.getparent().find("code").text_content()) == squeezed(shown), path
            offered += 1
    assert offered > 60


def test_the_changelog_is_a_feed(site):
    """The feed has the entries of the changelog, each with its date, text and address; the
    home page and the changelog name it."""
    feed = etree.parse(site / "feed.xml")
    assert feed.getroot().tag == "{http://www.w3.org/2005/Atom}feed"
    address = f"{SITE_URL}reference/changelog/"
    article = parsed(site / "reference/changelog/index.html").find(".//article")
    days = [heading.text for heading in article.iter("h2")]
    assert feed.xpath("//*[local-name()='updated']/text()")[1:] == [f"{d}T00:00:00Z" for d in days]
    links = feed.xpath("//*[local-name()='entry']/*[local-name()='link']/@href")
    assert links == [f"{address}#{heading.get('id')}" for heading in article.iter("h2")]
    shown = [squeezed(item.text_content()) for item in article.iter("li")]
    text = "".join(feed.xpath("//*[local-name()='content']/text()"))
    assert [squeezed(each.text_content()) for each in html.fromstring(text).iter("li")] == shown
    for folder in site, site / "reference/changelog":
        (named,) = parsed(folder / "index.html").xpath("//link[@rel='alternate']/@href")
        assert (folder / named).resolve() == site / "feed.xml"


def test_link_previews(site):
    """Each page has the title, the description and the picture of a link preview; the picture has
    1200 by 630 pixels."""
    for path in published(site):
        found = {
            name: parsed(path).xpath(f"//meta[@property='og:{name}']/@content")
            for name in ("title", "description", "type", "site_name")
        }
        assert all(len(values) == 1 for values in found.values()), path
        (image,) = parsed(path).xpath("//meta[@property='og:image']/@content")
        assert image == "https://guide.example/guide/assets/card.png"
    picture = (site / "assets/card.png").read_bytes()
    assert struct.unpack(">II", picture[16:24]) == (1200, 630)  # of its first chunk, IHDR
    assert len(picture) < 150_000


def test_the_site_can_be_installed(site):
    """Each page names a manifest, with the name, the colours and the icons of the site, from which
    a browser can install it."""
    for path in published(site):
        page = parsed(path)
        (link,) = page.xpath("//link[@rel='manifest']/@href")
        file = (path.parent / link).resolve()
        manifest = json.loads(file.read_text())
        assert page.xpath("//meta[@property='og:site_name']/@content") == [manifest["name"]]
        assert (file.parent / manifest["start_url"]).resolve() == site
        assert all((file.parent / icon["src"]).is_file() for icon in manifest["icons"])
    look = (ROOT / "docs/assets/site.css").read_text()
    assert f"--md-primary-fg-color: {manifest['theme_color']};" in look
    assert f"--md-default-bg-color: {manifest['background_color']};" in look


@both_browsers
def test_the_site_is_readable_offline(site, port, browser):
    """After the first visit all pages and the replay of a recording work without the server."""
    with browser.new_context() as context:
        page = context.new_page()
        with static_host(site, port()) as host:
            page.goto(f"{host.url}/start/token/")
            kept = "caches.open('site').then(cache => cache.keys()).then(keys => keys.length)"
            listed = json.loads((site / "offline.json").read_text())
            while page.evaluate(kept) < len(listed):
                page.wait_for_timeout(500)
        page.goto(f"{host.url}/systems/job-queues/")
        assert page.text_content("h1").startswith("Job queues")
        page.goto(f"{host.url}/techniques/short-polling/")
        assert panel(page).get_attribute(".panel", "data-state") == "recording"


# A page as it is painted, and printed

# What was moved after it had been painted: how much, and from where to where.
MOVED = """new PerformanceObserver((list) => {
  for (const { value, sources } of list.getEntries())
    (window.moved ??= []).push([value, ...sources.map(({ node, previousRect, currentRect }) =>
      [node?.textContent.trim().slice(0, 40), previousRect.y, currentRect.y])]);
}).observe({ type: "layout-shift", buffered: true })"""


@pytest.mark.parametrize("size", [PHONE, {"width": 1440, "height": 900}], ids=["phone", "desktop"])
def test_nothing_moves_after_it_is_painted(static, browser, size):
    """While a page loads, on a phone and on a desktop, no part of it moves: its cumulative layout
    shift is 0."""
    with browser.new_context(viewport=size, service_workers="block") as context:
        context.add_init_script(MOVED)
        for name in "", "techniques/long-polling/", "systems/broadcast-pitfalls/":
            page = context.new_page()
            page.goto(f"{static.url}/{name}", wait_until="networkidle")
            assert page.evaluate("window.moved ?? []") == []


def test_folds_are_printed_as_they_are(static, open_page):
    """A fold that the reader has opened is printed open, the others closed; those load nothing."""
    page = open_page(f"{static.url}/techniques/long-polling/")
    opened, closed = (page.locator("article details.example").nth(number) for number in (0, 1))
    opened.locator("summary").click()
    opened.locator("pre").wait_for()
    requested = []
    page.on("request", lambda request: requested.append(urlsplit(request.url).path))
    page.emulate_media(media="print")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    wait_until(lambda: closed.get_attribute("open") is not None)  # which the theme does
    assert opened.locator("pre").is_visible()
    assert not any(each.is_visible() for each in closed.locator(":scope > :not(summary)").all())
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    wait_until(lambda: closed.get_attribute("open") is None)
    assert opened.locator("pre").is_visible()
    # The panel may load meanwhile: it does when it comes near the view.
    assert not [path for path in requested if "/program-" in path]


# The successor of the theme


@pytest.fixture(scope="session")
def zensical(built_once):
    """Return the folder with the site that Zensical builds, from the same files, finished alike."""

    def build(folder):
        folder.mkdir()
        shutil.copy(ROOT / "mkdocs.yml", folder)
        unused = shutil.ignore_patterns("__pycache__")
        for name in "docs", "examples", "snippets", "tests":
            shutil.copytree(ROOT / name, folder / name, ignore=unused)
        variables = environment(SITE_URL=SITE_URL, REPO_URL=REPO_URL, EDIT_URI="edit/main/docs/")
        for command, where in [
            ([Path(sys.executable).with_name("zensical"), "build", "--strict"], folder),
            ([sys.executable, "-m", "publish.finish", folder / "site"], ROOT),
        ]:
            ran = subprocess.run(command, cwd=where, env=variables, capture_output=True, text=True)
            assert ran.returncode == 0, ran.stdout + ran.stderr

    return built_once("zensical", build) / "site"


def essence(page):
    """Return what a page has to have whatever builds it: headings, claims and panels."""
    return {
        "title": page.findtext(".//title"),
        "headings": page.xpath("//article//*[self::h1 or self::h2 or self::h3]/@id"),
        "links": [
            # The list of uncited proofs, which Zensical calls by another of its names.
            link.replace("../#proofs", "../")
            for link in page.xpath("//article//a[not(@class='headerlink')]/@href")
        ],
        "panels": page.xpath("//div[@class='panel']/@*"),
        "programs": [pre.text_content() for pre in page.xpath("//article//pre")],
        "edited": page.xpath("//a[@rel='edit']/@href"),
    }


def test_zensical_builds_the_same_pages(site, zensical):
    """Zensical, the successor of Material, builds the same files to the same pages: with the same
    headings, links, cross references to proofs, downloads, programs and panels."""
    names = {path.relative_to(site) for path in published(site)}
    assert {path.relative_to(zensical) for path in published(zensical)} == names
    for name in names:
        assert essence(parsed(zensical / name)) == essence(parsed(site / name)), name


def test_a_site_of_zensical_is_finished_alike(site, zensical):
    """The site of Zensical has the same Markdown copies, moved programs, feed and page for missing
    addresses, and a Content-Security-Policy on each page; its search has no code."""
    kinds = ["**/index.md", "**/program-*.html", "llms.txt", "feed.xml", "404.html", "robots.txt"]
    for kind in kinds:
        found = sorted(path.relative_to(site) for path in site.glob(kind))
        assert found == sorted(path.relative_to(zensical) for path in zensical.glob(kind))
        if not kind.endswith("program-*.html"):
            assert all((site / p).read_bytes() == (zensical / p).read_bytes() for p in found)
    test_pages_allow_the_scripts_of_the_site_only(zensical)
    assert (zensical / "search.json").read_text().count("<pre") == 0


def test_links_of_a_site_of_zensical_work_below_a_path(zensical, port):
    """On a static host that serves the site of Zensical below a path, each link, image, script and
    download of each page exists there."""
    with static_host(zensical, port()) as host:
        assert missing_below(zensical, host.url) == {}


@both_browsers
def test_the_site_of_zensical_works_below_a_path(zensical, port, open_page):
    """Below the path of a static host, the site of Zensical finds an error by its number, also from
    the page for missing addresses, downloads a program and replays a recording."""
    with static_host(zensical, port()) as host:
        page = open_page(f"{host.url}/production/errors/")
        words, button = page.get_by_role("combobox"), page.locator(".md-search__button")
        wait_until(lambda: words.is_visible() or button.dispatch_event("click"))
        words.fill("1006")
        page.get_by_role("option", name="1006: no Close frame").wait_for()
        page = open_missing(open_page, f"{host.url}/nowhere/at/all/")
        page.get_by_role("searchbox").fill("1006")
        page.get_by_role("button", name="Search").click()
        page.get_by_role("option", name="1006: no Close frame").wait_for()
        page = replay(open_page, f"{host.url}/techniques/short-polling/")
        assert page.locator(".panel-wire polygon.up").count() == 6
        expect_download(page, page.locator("article"))


# Built when something has changed


def make(*arguments, folder=ROOT, **variables):
    inherited = {"MAKEFLAGS": "", "MAKELEVEL": 0}  # of the `make test` that runs this
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env=environment(**inherited, **variables),
        capture_output=True,
        text=True,
    )


def test_what_has_not_changed_is_not_built_again(tmp_path):
    """`make build` builds the site if a file that it is made of or its address has changed, and
    not otherwise."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    for name in "docs", "examples", "publish", "snippets", "tests", ".venv/bin":
        (tmp_path / name).mkdir(parents=True)
    for name in "mkdocs.yml", "requirements.txt", "docs/index.md", ".venv/ready":
        (tmp_path / name).touch()
    for name in "mkdocs", "python":  # which build nothing
        program = tmp_path / ".venv/bin" / name
        program.write_text("#!/bin/sh\nmkdir -p site\n")
        program.chmod(0o755)

    def builds(**variables):
        ran = make("build", folder=tmp_path, **variables)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout.startswith("Building")

    assert builds() and not builds()
    assert builds(SITE_URL=SITE_URL) and not builds(SITE_URL=SITE_URL)
    (tmp_path / "docs/new.md").write_text("# New")
    assert builds() and not builds()
    (tmp_path / "docs/new.md").unlink()
    assert builds() and not builds()


def test_a_linked_environment_is_not_emptied(tmp_path):
    """Setting up refuses a `.venv` that is a link, which `venv --clear` would follow and empty."""
    for name in "Makefile", "requirements.txt":
        shutil.copy(ROOT / name, tmp_path)
    other = tmp_path / "other"
    other.mkdir()
    (other / "kept").touch()
    (tmp_path / ".venv").symlink_to(other)
    ran = make(".venv/ready", folder=tmp_path, PYTHON=sys.executable)
    assert ran.returncode == 2 and "Remove the link" in ran.stderr
    assert [*other.iterdir()] == [other / "kept"]
