"""Draw the images that other sites and devices show for this one: run it when the figure changes.

    python -m publish.card

- `docs/assets/card.png`, 1200 by 630 pixels: the picture of a link preview
- `docs/assets/touch-icon.png`, 180 by 180 pixels: the icon on the home screen of a phone

It needs Chromium, as the tests do. The figure is the recorded one of the race.
"""

import base64
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).parents[1]
ASSETS = ROOT / "docs/assets"

CARD = """
<body data-md-color-scheme="slate"><main>
<div><h1>Is it done yet?</h1>
<p>Polling, long polling, server-sent events, WebSockets, webhooks and queues</p>
<p class="small">Programs that run. Claims with tests.</p></div>
{figure}</main>
"""
STYLE = """
@font-face { font-family: Text; font-weight: 400 700; src: url(data:font/woff2;base64,FONT) }
body { margin: 0; background: var(--md-default-bg-color); color: var(--md-default-fg-color) }
main { box-sizing: border-box; width: 1200px; height: 630px; padding: 40px 20px 40px 64px;
  display: grid; grid-template-columns: 400px 1fr; align-items: center;
  font-family: Text, sans-serif }
h1 { font-size: 76px; line-height: 1; letter-spacing: -0.02em; margin: 0 0 28px }
p { font-size: 31px; line-height: 1.35; margin: 0 }
p.small { font-size: 26px; margin-top: 28px; color: var(--md-default-fg-color--light) }
main svg.figure { max-width: none; width: 640px; justify-self: end }
"""


def page_of(body, style):
    return f"<!doctype html><meta charset=utf-8><style>{style}</style>{body}"


def main():
    font = base64.b64encode((ASSETS / "fonts/text.woff2").read_bytes()).decode()
    site = "".join((ASSETS / name).read_text() for name in ("site.css", "figures.css"))
    style = site + STYLE.replace("FONT", font)
    figure = (ROOT / "snippets/choosing/race.svg").read_text()
    # Without shades at its edges it takes a third of the bytes, and Firefox loads it on each visit.
    icon = "body { margin: 0 } svg { width: 180px } svg * { shape-rendering: crispEdges }"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), chromium_sandbox=False
        )
        for name, size, text in [
            ("card.png", (1200, 630), page_of(CARD.format(figure=figure), style)),
            ("touch-icon.png", (180, 180), page_of((ASSETS / "favicon.svg").read_text(), icon)),
        ]:
            width, height = size
            page = browser.new_page(viewport={"width": width, "height": height})
            page.set_content(text)
            page.evaluate("document.fonts.ready.then(() => 0)")
            page.screenshot(path=ASSETS / name)
        browser.close()


if __name__ == "__main__":
    main()
