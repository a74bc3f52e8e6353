"""What is expected of a page in a browser."""

from axe_playwright_python.sync_playwright import Axe

PHONE = {"width": 390, "height": 844}


def expect_accessible(page, part=None, rules=None):
    """Fail if a page, or the part of it that a selector names, breaks a rule of axe.

    `rules`: those to try, and not all.
    """
    # So that no colour is caught halfway from one to the other.
    page.add_style_tag(content="*, ::before, ::after { transition: none !important; }")
    # What the site mends when something changes its size comes with the frame after it.
    page.evaluate("new Promise((next) => setTimeout(next, 50))")
    options = {"resultTypes": ["violations"]} | ({"runOnly": rules} if rules else {})
    results = Axe().run(page, context=part, options=options)
    assert results.violations_count == 0, results.generate_report()
