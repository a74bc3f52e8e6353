"""Every page, in a browser: complete, accessible, and fit for a phone."""

import json
import re
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from ..support.browsing import (
    DESKTOP,
    PHONE,
    both_browsers,
    darken,
    expect_accessible,
    expect_contrast,
    is_firefox,
    open_address,
    open_missing,
    watched_pages,
)
from ..support.processes import ROOT
from .test_laws import PAGES
from .test_publishing import CONTENT, published


def address(name):
    """Return the address of a page in the site, from its file."""
    return re.sub("(^|/)index/$", r"\1", f"{name.removesuffix('.md')}/")


def length(name):
    """Return how much source a page of programs or proofs shows."""
    shown = re.findall(r"(?m)^::: ([\w.]+)", PAGES[name])
    return sum((ROOT / f"{module.replace('.', '/')}.py").stat().st_size for module in shown)


def tried():
    """Return the pages to try in full: of those made alike, which list a room's programs or its
    proofs, the longest stands for all."""
    names = list(PAGES)
    for kind in "reference/examples/", "reference/proofs/":
        alike = [name for name in names if name.startswith(kind) and "index" not in name]
        names = [name for name in names if name not in alike] + [max(alike, key=length)]
    return {address(name) for name in names}


TRIED = tried()
# A page has the same number in each proof, so that it is opened once for all of them.
EVERY = sorted(map(address, PAGES), key=lambda path: (path not in CONTENT, path not in TRIED))


def visits(paths, *browsers):
    """Return a mark that makes a proof on some pages, of EVERY, in these browsers."""
    cases = [(browser, path) for browser in browsers for path in EVERY if path in paths]
    return pytest.mark.parametrize(("browser", "visit"), cases, indirect=True)


@pytest.fixture(scope="module")
def reader(browser):
    """Return open(url) -> page, in one browser that keeps what it has loaded, as a reader's."""
    with watched_pages(browser) as open_page:
        yield open_page


@pytest.fixture(scope="module")
def tab(reader):
    """Return one tab, in which all pages are opened in turn."""
    tab = reader("about:blank")
    tab.set_viewport_size(DESKTOP)
    return tab


@pytest.fixture(scope="module")
def visit(request, static, reader, tab):
    """Return a page below the path of a static host, open in a browser and watched."""
    reader.hosts.clear()
    reader.problems.clear()
    open_address(tab, f"{static.url}/{request.param}")
    return tab


@pytest.fixture
def spoilt(visit, static):
    """Return the page for a proof that leaves little of it; the next one is as it was."""
    yield visit
    visit.goto(f"{static.url}/assets/favicon.svg")
    visit.evaluate("localStorage.clear()")
    visit.set_viewport_size(DESKTOP)


# What a page has for scripts, and what shows that they have begun.
STARTED = {
    ".panel:is([data-trace], [data-server])": ".panel[data-state]",
    ".race": ".race-run",
    ".calculator": ".calculator output",
    "[data-run]": ".run-here",
}
PRESENT = "(places) => places.filter((each) => document.querySelector(each))"


@visits(EVERY, "chromium", "firefox")
def test_every_page_works_below_a_path(visit, static, reader):
    """On a static host that serves the site below a path, each page loads in Chromium and in
    Firefox without a failed request, an error or a violation of its policy, and sends no request to
    another host; its panel, its race and its calculators start, and its servers can be started."""
    for place in visit.evaluate(PRESENT, list(STARTED)):
        visit.locator(place).first.scroll_into_view_if_needed()
        visit.wait_for_selector(STARTED[place])
    assert reader.hosts == {urlsplit(static.url).netloc}
    assert not reader.problems


def test_every_page_is_tried(site):
    """The proof of each page is made for all that the built site has."""
    found = [path.parent.relative_to(site) for path in published(site)]
    assert sorted(EVERY) == sorted("" if path == Path() else f"{path}/" for path in found)


@visits(CONTENT, "chromium")
def test_a_page_is_printed_on_ten_sheets(visit):
    """A page of a technique, a system or production takes at most ten sheets of A4."""
    sheets = re.findall(rb"/Type */Page\b", visit.pdf(prefer_css_page_size=True))
    assert 1 < len(sheets) <= 10


@visits(TRIED, "chromium")
def test_nothing_scrolls_sideways_on_a_phone(visit):
    """No page scrolls sideways on a phone of 390 pixels, with all folds open."""
    visit.set_viewport_size(PHONE)
    visit.locator("details").evaluate_all("(all) => all.forEach((fold) => { fold.open = true; })")
    assert visit.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visit.set_viewport_size(DESKTOP)


# Of what is marked up alike a few are tried, for speed: the whole of one program, the first proofs
# and functions, some entries of each menu, and in programs each colour twice.
FEWER = """() => {
  const after = (selector, few) => [...document.querySelectorAll(selector)].slice(few);
  for (const fold of after("details:not(.question)", 1)) fold.remove();
  for (const each of after(".doc-function, .doc-object", 10)) each.remove();
  for (const menu of document.querySelectorAll("nav ul")) {
    for (const entry of [...menu.children].slice(8)) entry.remove();
  }
  const seen = {};
  for (const word of document.querySelectorAll("pre span:not(:has(*))")) {
    seen[word.className] = (seen[word.className] ?? 0) + 1;
    if (seen[word.className] > 2) word.replaceWith(word.textContent);
  }
}"""


# Contrast takes longest. Of words that are marked up alike, with all that they stand in, two are
# tried, on whichever page they come first: their colours are the same. A link is tried where it is.
UNTRIED = """(seen) => {
  const path = (each) => each === document.body ? "" : path(each.parentElement)
    + ` ${each.localName}.${each.getAttribute("class")}[${each.getAttribute("style")}]`;
  const words = (each) => [...each.childNodes].filter(
    (node) => node.nodeType === Node.TEXT_NODE && node.data.trim());
  const tried = new Set();
  const all = [...document.body.querySelectorAll("*")];
  for (const each of all.filter((each) => words(each).length)) {
    const kind = path(each);
    seen[kind] = (seen[kind] ?? 0) + 1;
    if (seen[kind] > 2) continue;
    tried.add(each);
    if (each.localName === "a") tried.add(each.parentElement);
  }
  for (const each of all.reverse().filter((each) => !tried.has(each))) {
    for (const node of words(each)) node.remove();
    if (!each.children.length && each.matches("article *, nav li *, nav li")
      && !each.matches("input, label")) each.remove();
  }
  return seen;
}"""


@pytest.fixture(scope="module")
def seen():
    """Return which kinds of words were tried for contrast, and how often: a dictionary."""
    return {}


@visits(TRIED, "chromium")
def test_accessible(spoilt, seen):
    """No page breaks a rule of axe, with folds and tabs open; its colours keep their contrast in
    light, and in dark on a phone."""
    spoilt.evaluate(FEWER)
    spoilt.add_style_tag(content=".md-typeset .tabbed-block { display: block !important; }")
    expect_accessible(spoilt, contrast=False)
    seen |= spoilt.evaluate(UNTRIED, seen)
    expect_contrast(spoilt)
    darken(spoilt)
    spoilt.set_viewport_size(PHONE)
    expect_contrast(spoilt)


def test_the_decision_fits_on_one_screen(live, open_page):
    """The list for choosing a technique fits on one screen of 720 pixels, below the bar of the
    site."""
    page = open_page(f"{live.url}/start/choosing/")
    page.set_viewport_size(DESKTOP)
    bar, tree = (page.locator(part).bounding_box()["height"] for part in (".md-header", ".tree"))
    assert bar + tree <= DESKTOP["height"]


def test_the_menu_is_accessible(live, open_page):
    """The menu of a phone, opened, breaks no rule of axe."""
    page = open_page(f"{live.url}/")
    page.set_viewport_size(PHONE)
    page.click("label.md-header__button[for='__drawer']")
    expect_accessible(page, ".md-sidebar--primary")
    darken(page)
    expect_accessible(page, ".md-sidebar--primary")


def test_the_search_is_accessible(live, open_page, search_index):
    """The search, opened and with results, breaks no rule of axe."""
    open_page.context.route("**/search_index.json", lambda route: route.fulfill(path=search_index))
    page = open_page(f"{live.url}/")
    page.keyboard.press("/")
    page.keyboard.type("retry")
    page.wait_for_selector(".md-search-result__item")
    expect_accessible(page, ".md-search")
    darken(page)
    expect_accessible(page, ".md-search")


# What readers type, and the heading that they should find.
SEARCHES = {
    "1006": "production/errors/#e-1006",
    "1011 keepalive ping timeout": "production/errors/#e-1011",
    "403 websocket": "production/errors/#e-403",
    "504": "production/errors/#e-504",
    "502 bad gateway websocket": "production/errors/#e-502",
    "ERR_INCOMPLETE_CHUNKED_ENCODING": "production/errors/#e-chunked",
    "WebSocket is closed before the connection is established": (
        "production/errors/#e-established"
    ),
    "works locally not behind proxy": "production/errors/#e-proxy",
    "seventh tab": "production/errors/#e-seventh-tab",
    "thundering herd": "production/errors/#e-herd",
    "address already in use": "start/run/#address-in-use",
    "CSWSH": "reference/glossary/#cswsh",
    "Last-Event-ID": "techniques/server-sent-events/#resuming",
    "sticky session": "systems/load-balancing/#where-the-state-is",
}

# The sections that the search shows, without those that it folds under "more on this page".
FOUND = """() => [...document.querySelectorAll(".md-search-result__link:has(h2)")]
  .filter((link) => !link.closest("details"))
  .map((link) => new URL(link.href).pathname.slice(1) + new URL(link.href).hash)"""


def test_the_search_finds_symptoms(live, open_page, search_index):
    """What readers type when something breaks leads to the right heading, in the first two results
    of the search."""
    open_page.context.route("**/search_index.json", lambda route: route.fulfill(path=search_index))
    page = open_page(f"{live.url}/")
    page.keyboard.press("/")
    box = page.get_by_role("textbox", name="Search")
    missed = []
    for words, heading in SEARCHES.items():
        for typed in "", words:  # the results of the last search go first
            box.fill(typed)
            box.press("Shift")  # the search listens for keys
            page.wait_for_function(f"(some) => some === ({FOUND})().length > 0", arg=bool(typed))
        if heading not in (found := page.evaluate(FOUND))[:2]:
            missed.append((words, found))
    assert not missed


def test_the_search_index_has_no_code(search_index):
    """Programs and what they print are not in the index of the search, and no page of proofs or of
    examples is."""
    with open(search_index) as file:
        entries = json.load(file)["docs"]
    assert not [each["location"] for each in entries if "<pre>" in each["text"]]
    assert not [
        each for each in entries if re.match("reference/(proofs|examples)/", each["location"])
    ]
    assert any("1011" in each["title"] for each in entries)


@both_browsers
def test_a_missing_page_leads_on(static, open_page, search_index):
    """Also below the path of a static host, the page for an address that does not exist links to
    pages that do, searches the site, and breaks no rule of axe."""
    open_page.context.route("**/search_index.json", lambda route: route.fulfill(path=search_index))
    page = open_missing(open_page, f"{static.url}/nowhere/at/all/")
    if not is_firefox(page):
        expect_accessible(page)
    # It knows the address that it is built for, which is not that of this host.
    links = page.locator("main a").evaluate_all("(all) => all.map((each) => each.href)")
    assert len(links) >= 3
    assert {page.request.get(link).status for link in links} == {200}
    page.get_by_role("searchbox").fill("1006")
    page.get_by_role("button", name="Search").click()
    page.wait_for_selector(".md-search-result__link[href*='e-1006']")
