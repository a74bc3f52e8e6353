"""What is expected of a page in a browser."""

from contextlib import contextmanager
from pathlib import Path

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Error

from .processes import EXAMPLES

DESKTOP = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}


# A proof with one of these marks is made in Firefox, as well or only. One without is in Chromium.
both_browsers = pytest.mark.parametrize("browser", ("chromium", "firefox"), indirect=True)
only_firefox = pytest.mark.parametrize("browser", ("firefox",), indirect=True)


def both_browsers_for(name, values, indirect=False):
    """Return a mark that makes a proof in Chromium for each value, and in Firefox for the last."""
    cases = [("chromium", value) for value in values] + [("firefox", values[-1])]
    fixtures = ["browser", name] if indirect else ["browser"]
    return pytest.mark.parametrize(("browser", name), cases, indirect=fixtures)


def open_address(page, url):
    """Open an address, and return when the page has loaded all that it loads by itself.

    On a busy machine Firefox 153 sometimes reports one navigation under two ids, and Playwright
    takes that for two, of which the second one interrupts the first. The next attempt is not met
    by that.
    """
    for _ in range(5):
        try:
            page.goto(url, wait_until="networkidle")
        except Error as error:
            if f'interrupted by another navigation to "{url}"' not in error.message:
                raise
        else:
            return
    pytest.fail(f"{url}: interrupted five times")


def is_firefox(page):
    return page.context.browser.browser_type.name == "firefox"


def enter(field, value):
    """Type into a field in place of what it has. In Firefox, Playwright's `fill` alone adds to a
    number that is there."""
    field.clear()
    field.fill(value)


# The rules of axe that look at colours.
CONTRAST = ["color-contrast", "link-in-text-block"]


def expect_accessible(page, part=None, contrast=True):
    """Fail if a page, or the part of it that a selector names, breaks a rule of axe."""
    rules = {} if contrast else {"rules": {rule: {"enabled": False} for rule in CONTRAST}}
    expect(page, part, rules)


def expect_contrast(page):
    """Fail if a page has words whose colour is too near to that behind them, or links that look
    like the words beside them."""
    expect(page, None, {"runOnly": CONTRAST})


def darken(page):
    """Switch an open page to its dark colours, as the button in its head does."""
    page.locator("input[name='__palette'][data-md-color-scheme='slate']").evaluate(
        "(choice) => choice.click()"
    )
    assert page.locator("body").get_attribute("data-md-color-scheme") == "slate"


# Axe reads the whole of a page, also where it looks at a part.
ONLY = """(part) => {
  const rest = [...document.querySelectorAll("article *")];
  for (const each of rest) if (!each.closest(part) && !each.querySelector(part)) each.remove();
}"""


def expect(page, part, options):
    if part:
        page.evaluate(ONLY, part)
    # So that no colour is caught halfway from one to the other.
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")
    # What the site mends when something changes its size comes with the frame after it.
    page.evaluate("new Promise((next) => setTimeout(next, 50))")
    axe = Axe()
    if page.evaluate("'axe' in window"):
        axe.axe_script = ""  # it is large, and this page has read it
    results = axe.run(page, context=part, options={"resultTypes": ["violations"]} | options)
    assert results.violations_count == 0, results.generate_report()


def panel(page):
    """Scroll to the panel of a page, which is made when it comes near; return the page."""
    page.locator(".panel").scroll_into_view_if_needed()
    page.wait_for_selector(".panel[data-state]")
    return page


def counters(page):
    """Return the counters of a panel: {label: value}."""
    pairs = page.locator(".panel-counters > div").all()
    return {pair.locator("dt").inner_text(): pair.locator("dd").inner_text() for pair in pairs}


def replay(open_page, url):
    """Open a page with a recorded panel, and play that to its end; return the page."""
    open_page.context.clock.install()  # before the page sets its timers
    page = panel(open_page(url))
    page.click(".panel-play")
    assert page.get_attribute(".panel", "data-done") == "no"
    page.clock.run_for(7000)
    page.wait_for_selector(".panel[data-done=yes]")
    return page


def open_missing(open_page, url):
    """Open an address that the site does not have, which the browser reports; return the page."""
    page = open_page(url)
    assert open_page.problems and all("404" in each or each == url for each in open_page.problems)
    open_page.problems.clear()
    return page


def expect_download(page, part):
    """Fail if the first program in a part of a page is not downloaded as the file that it is."""
    link = part.locator("a.download:visible").first
    path = link.evaluate("(link) => link.pathname").partition("/examples/")[2]
    with page.expect_download() as started:
        link.click()
    assert started.value.suggested_filename == Path(path).name
    assert Path(started.value.path()).read_bytes() == (EXAMPLES / path).read_bytes()


# Not each browser reports to its driver what the policy of a page blocks.
POLICED = """addEventListener("securitypolicyviolation", ({ effectiveDirective, blockedURI }) =>
  console.error(`policy: ${effectiveDirective} blocks ${blockedURI}`))"""
LEFT = {"net::ERR_ABORTED", "NS_BINDING_ABORTED"}  # the browser left the page
BLOCKED = "Service Worker registration blocked by Playwright"


@contextmanager
def watched_pages(browser):
    """Yield open(url) -> page; fail on an error in a console, a failed request, and what the
    policy of a page blocks."""
    problems, hosts = [], set()

    def on_request(request):
        if request.url.startswith("http"):
            hosts.add(request.url.split("/")[2])

    def on_failure(request):
        if request.failure not in LEFT:
            problems.append(f"{request.failure}: {request.url}")

    def on_message(message):
        if message.type in {"error", "warning"} and not message.text.startswith(BLOCKED):
            problems.append(message.text)

    # Without the service worker, which loads the whole site.
    with browser.new_context(service_workers="block") as context:
        context.add_init_script(POLICED)
        context.set_default_timeout(60_000)  # milliseconds: a busy machine may need half of them

        def open_page(url):
            page = context.new_page()
            page.on("console", on_message)
            page.on("pageerror", lambda error: problems.append(str(error)))
            page.on("response", lambda r: r.status >= 400 and problems.append(r.url))
            page.on("requestfailed", on_failure)
            page.on("request", on_request)
            open_address(page, url)
            return page

        open_page.context, open_page.hosts, open_page.problems = context, hosts, problems
        yield open_page
    assert not problems
