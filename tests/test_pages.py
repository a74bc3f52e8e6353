"""Every page, in a browser: complete, accessible, and fit for a phone."""

import pytest

from .conftest import watched
from .support.browsing import PHONE, expect_accessible
from .test_laws import PAGES

PATHS = [
    name.removesuffix("index.md").removesuffix(".md") + ("" if name.endswith("index.md") else "/")
    for name in PAGES
]


@pytest.fixture(scope="module", params=PATHS)
def visit(request, live, browser):
    """Return each page of the site, open in a browser and watched."""
    with watched(browser) as open_page:
        page = open_page(f"{live.url}/{request.param}")
        page.hosts, page.troubles = open_page.hosts, open_page.troubles
        yield page


def test_no_other_host_is_asked(visit, live):
    """No page asks any other host for anything, fails to load something or logs an error."""
    assert visit.hosts == {f"127.0.0.1:{live.port}"}
    assert not visit.troubles


def test_nothing_scrolls_sideways_on_a_phone(visit):
    """No page scrolls sideways on a phone of 390 pixels, with all folds open."""
    size = visit.viewport_size
    visit.set_viewport_size(PHONE)
    visit.locator("details").evaluate_all("(all) => all.forEach((fold) => { fold.open = true; })")
    assert visit.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    visit.set_viewport_size(size)


def test_accessible(visit):
    """No page breaks a rule of axe in light, with folds and tabs open; in dark on a phone its
    colours keep their contrast, and the open menu breaks no rule."""
    # The whole of one program is marked up as that of another: one is tried, for speed.
    visit.locator("details:not(.question)").evaluate_all(
        "(folds) => folds.slice(1).forEach((fold) => fold.remove())"
    )
    # And so is each proof and each function of a program.
    visit.locator(".doc-function").evaluate_all(
        "(all) => all.slice(20).forEach((each) => each.remove())"
    )
    visit.add_style_tag(content=".md-typeset .tabbed-block { display: block !important; }")
    expect_accessible(visit)
    visit.emulate_media(color_scheme="dark")
    visit.set_viewport_size(PHONE)
    visit.click("label.md-header__button[for='__drawer']")
    # What else there is to find was found in light.
    expect_accessible(visit, rules=["color-contrast"])
    expect_accessible(visit, ".md-sidebar--primary")


def test_the_search_is_accessible(live, quiet):
    """The search, opened and with results, breaks no rule of axe."""
    page = quiet(f"{live.url}/")
    page.keyboard.press("/")
    page.keyboard.type("retry")
    page.wait_for_selector(".md-search-result__item")
    for scheme in "light", "dark":
        page.emulate_media(color_scheme=scheme)
        expect_accessible(page, ".md-search")
