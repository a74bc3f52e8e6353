"""Finish a site that `mkdocs build` or `zensical build` has written, for any static host.

    python -m publish.finish site

- removes what no browser requests: source maps, and languages that the search does not use
- joins the style sheets of a page into one, and lets the fonts load with it
- takes code out of the index of the search
- marks the programs that the runtime can run, where `make runtime` has built it
- takes out what makes a page large and shows nothing: marks without a colour, blank lines
- marks the key line of a page in its programs, and offers each whole program as a download
- moves programs in closed folds and unopened tabs into files, which are loaded when they are opened
- removes the theme's request to the host of the repository for its number of stars
- adds to the head of each page: link previews, a manifest, a Content-Security-Policy
- writes the page for addresses that do not exist, `robots.txt`, and the changelog as a feed
- writes each page as Markdown beside it, and lists them all in `llms.txt`
- lists what the site needs offline, for `sw.js`
"""

import base64
import hashlib
import json
import os
import re
import shutil
import sys
from functools import cache
from itertools import takewhile
from pathlib import Path
from urllib.parse import urlsplit

from lxml import etree, html
from lxml.builder import E, ElementMaker
from mkdocs.config import load_config

from . import as_markdown, runnable

ROOT = Path(__file__).parents[1]
UNUSED = ["assets/**/*.map", "assets/javascripts/lunr"]
# The index of the search, and the name of its list: as Material and as Zensical write it.
INDEXES = {"search/search_index.json": "docs", "search.json": "items"}
CHANGELOG = "reference/changelog"
PLAIN = re.compile(r'<span class="[nopw]">([^<]*)</span>')
AS_IT_IS = re.compile(r"(?s)(<(?:pre|script|textarea)\b.*?</(?:pre|script|textarea)>)")
CARD = "assets/card.png"  # the picture of a link preview: see card.py
FONTS = {"text": "h1", "text-italic": "em", "code": "code"}
LARGE = 1_200  # bytes of HTML, from which a folded program is moved
XML_BASE = "{http://www.w3.org/XML/1998/namespace}base"
ATOM = ElementMaker(
    namespace="http://www.w3.org/2005/Atom", nsmap={None: "http://www.w3.org/2005/Atom"}
)
# As the theme writes it; its script finds it wherever it is.
COPY = """<nav class="md-code__nav" role="none"><button class="md-code__button"
 title="Copy to clipboard" data-clipboard-target="#{} > code" data-md-type="copy"></button></nav>"""


def prune(site):
    """Remove what no browser requests."""
    for pattern in UNUSED:
        for path in site.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def index_text(site):
    """Take code out of the index of the search: it is two thirds, and would hide the headings."""
    for name, entries in INDEXES.items():
        if (path := site / name).exists():
            index = json.loads(path.read_text())
            for entry in index[entries]:
                entry["text"] = re.sub(r"(?s)<pre\b.*?</pre>", "", entry["text"])
            path.write_text(json.dumps(index, separators=(",", ":")))


# Pages


def squeezed(text):
    return "".join(text.split())


def mark_key_line(page):
    """Mark the key line of *At a glance* where it stands in a program."""
    keys = page.xpath("//div[@class='glance']//dt[.='Key line']/following-sibling::dd[1]//code")
    key = squeezed(keys[0].text_content()) if keys else ""
    for code in page.xpath("//div[contains(@class, 'highlight')]/pre/code"):
        if not key or key not in squeezed(code.text_content()):
            continue
        text = html.tostring(code, encoding="unicode", with_tail=False)
        # No element of highlighted code spans two lines.
        lines = text.removeprefix("<code>").removesuffix("</code>").splitlines(keepends=True)
        plain = [
            squeezed(html.fragment_fromstring(f"<i>{each}</i>").text_content()) for each in lines
        ]
        for first, last in spans(plain, key):
            lines[first] = f'<span class="hll">{lines[first]}'
            lines[last] += "</span>"
        marked = html.fragment_fromstring(f"<code>{''.join(lines)}</code>")
        marked.tail = code.tail
        code.getparent().replace(code, marked)


def spans(lines, text):
    """Return (first, last) of the lines that are a text together."""
    return [
        (first, last)
        for first in range(len(lines))
        for last in range(first, min(first + 4, len(lines)))
        if "".join(lines[first : last + 1]) == text and lines[first] and lines[last]
    ]


@cache
def programs():
    """Return {text: path} of all examples, as a page prints them."""
    found = {}
    for path in sorted((ROOT / "examples").glob("*/*")):
        if path.suffix in {".py", ".html", ".sh", ".conf", ".cfg"}:
            text = re.sub(r"(?m)^\s*\S+ --8<-- .*\n", "", path.read_text())
            found[squeezed(text)] = path.relative_to(ROOT)
    return found


def offer_downloads(page, root):
    """Offer each program that is printed whole as a download; root: the site, from the page."""
    for code in page.xpath("//div[contains(@class, 'highlight')]/pre/code"):
        path = programs().get(squeezed(code.text_content()))
        if path:
            words = f"Download {path.name}"
            attributes = {"class": "download", "href": f"{root}/{path}", "download": ""}
            code.addprevious(E.a(attributes | {"title": words, "aria-label": words}))


def move_programs(page, folder):
    """Move the programs in closed folds and unopened tabs into files; leave links to them."""
    moved = 0
    for code in page.xpath(f"//div[contains(@class, 'highlight')][{runnable.HIDDEN}]"):
        if len(html.tostring(code)) < LARGE:
            continue
        moved += 1
        pre = code.find(".//pre")
        pre.set("id", f"program-{moved}")
        pre.insert(0, html.fragment_fromstring(COPY.format(pre.get("id"))))
        tail, code.tail = code.tail, None
        text = html.tostring(code, encoding="us-ascii").decode()
        (folder / f"program-{moved}.html").write_text(trimmed(text))
        link = E.a("Show the program", {"class": "program", "href": f"program-{moved}.html"})
        link.tail = tail
        code.getparent().replace(code, link)


@cache
def joined(paths, site):
    """Write style sheets as one without comments, whose name has a hash of its content; return its
    path.

    Addresses in them are relative to assets/, where the one is written.
    """
    text = "\n".join(path.read_text() for path in paths)
    text = re.sub(r"(?ms)^\s*/\*.*?\*/\s*", "", text)
    path = site / f"assets/styles.{hashlib.sha256(text.encode()).hexdigest()[:8]}.min.css"
    path.write_text(text)
    return path


def join_styles(page, folder, site):
    """Have a page load one style sheet, and the fonts together with it."""
    first, *others = page.xpath("//link[@rel='stylesheet']")
    paths = [Path(os.path.normpath(folder / link.get("href"))) for link in (first, *others)]
    first.set("href", os.path.relpath(joined(tuple(paths), site), folder))
    for link in others:
        link.getparent().remove(link)
    # A font is always requested without credentials, and so is what loads it early.
    preload = {"rel": "preload", "as": "font", "type": "font/woff2", "crossorigin": ""}
    for font, used in FONTS.items():
        if page.xpath(f"//article//{used}[not({runnable.HIDDEN})]"):
            path = os.path.relpath(site / f"assets/fonts/{font}.woff2", folder)
            first.addprevious(E.link({**preload, "href": path}))


def policy(page):
    """Return a Content-Security-Policy: the site's own files, and the theme's inline scripts."""
    scripts = page.xpath("//script[not(@src) and not(@type)]/text()")
    digests = {hashlib.sha256(each.encode()).digest() for each in scripts}
    hashes = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in sorted(digests))
    return (
        "default-src 'self'; object-src 'none'; "
        f"script-src 'self' 'wasm-unsafe-eval' {hashes}; worker-src 'self'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self'; "
        "connect-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none'"
    )


def complete_head(page, folder, site, config):
    """Add to the head of a page what the theme leaves out."""
    head = page.find("head")
    (title,) = head.xpath("title/text()")
    found = [("type", "article"), ("site_name", config.site_name), ("title", title)]
    found += [("description", each) for each in head.xpath("meta[@name='description']/@content")]
    if config.site_url:
        found += [("url", each) for each in head.xpath("link[@rel='canonical']/@href")]
        # Not on each page: the theme requests the sitemap where it finds an alternate.
        if folder in {site, site / CHANGELOG}:
            feed = {"rel": "alternate", "type": "application/atom+xml", "title": "Changelog"}
            head.append(E.link({**feed, "href": os.path.relpath(site / "feed.xml", folder)}))
    for name, content in found:
        head.append(E.meta(property=f"og:{name}", content=content))
    if config.site_url:  # its address must be complete
        head.append(E.meta(property="og:image", content=f"{config.site_url}{CARD}"))
        head.append(E.meta(name="twitter:card", content="summary_large_image"))
    # Firefox would load the next page at once. The service worker does, when this one is complete.
    for link in head.xpath("link[@rel='prev' or @rel='next']"):
        link.drop_tree()
    # Where the site is kept on a home screen: its name, icons and colours.
    for rel, name in (("apple-touch-icon", "touch-icon.png"), ("manifest", "site.webmanifest")):
        head.append(E.link(rel=rel, href=os.path.relpath(site / "assets" / name, folder)))
    # Before the first script, since it holds for what follows.
    head.insert(1, E.meta({"http-equiv": "Content-Security-Policy", "content": policy(page)}))


def keep_at_home(page):
    """Take the mark off the link to the repository by which the theme's script finds it, to request
    the number of its stars from another host."""
    for link in page.xpath("//*[@data-md-component='source']"):
        del link.attrib["data-md-component"]


def trimmed(text):
    """Return HTML without the marks of words in code that have the colour of text, which are two
    in five elements of a page, and without the blank lines of the theme's templates."""
    text = text.replace("<pre><span></span>", "<pre>")
    text = PLAIN.sub(r"\1", text)
    parts = AS_IT_IS.split(text)
    parts[::2] = [re.sub(r"(\A|>)\s*\n\s*(\Z|<)", r"\1\n\2", part) for part in parts[::2]]
    return "".join(parts)


def finish_page(path, site, config):
    page = html.document_fromstring(path.read_text())
    if (site / "assets/runtime").exists():
        runnable.mark(page)
    else:
        runnable.unmark_panels(page)
    mark_key_line(page)
    offer_downloads(page, os.path.relpath(site, path.parent))
    move_programs(page, path.parent)
    join_styles(page, path.parent, site)
    complete_head(page, path.parent, site, config)
    keep_at_home(page)
    text = html.tostring(page, encoding="unicode", doctype="<!doctype html>")
    path.write_text(trimmed(text))


# Files beside the pages


def write_missing_page(site, config):
    """Write the page for addresses that do not exist. It is read at any depth, so its links begin
    with the path of the site."""
    text = (ROOT / "publish/404.html").read_text().replace("{{ site_name }}", config.site_name)
    base = urlsplit(config.site_url).path or "/"
    (site / "404.html").write_text(text.replace("{{ base_url }}", base))


def write_feed(site, config):
    """Write the entries of the changelog as a feed, RFC 4287."""
    page = html.document_fromstring((site / CHANGELOG / "index.html").read_text())
    address = f"{config.site_url}{CHANGELOG}/"
    entries = []
    for heading in page.xpath("//article/h2"):
        after = takewhile(lambda each: each.tag != "h2", heading.itersiblings())
        text = "".join(html.tostring(each, encoding="unicode") for each in after)
        link = f"{address}#{heading.get('id')}"
        entries.append(
            ATOM.entry(
                ATOM.id(link),
                ATOM.title(f"{config.site_name} {heading.text}"),
                ATOM.link(href=link),
                ATOM.updated(f"{heading.text}T00:00:00Z"),
                ATOM.content(text.strip(), {"type": "html", XML_BASE: address}),
            )
        )
    feed = ATOM.feed(
        ATOM.id(f"{config.site_url}feed.xml"),
        ATOM.title(f"{config.site_name} Changelog"),
        ATOM.author(ATOM.name(config.site_name)),
        ATOM.link(rel="self", href=f"{config.site_url}feed.xml"),
        ATOM.updated(entries[0].findtext("{*}updated")),
        *entries,
    )
    (site / "feed.xml").write_bytes(etree.tostring(feed, xml_declaration=True, encoding="utf-8"))


def list_offline(site):
    """List the files that a reader needs offline: all but proofs, programs alone and recordings."""
    kinds = {".html", ".css", ".js", ".json", ".woff2", ".svg", ".png"}
    left_out = ["reference/proofs", "reference/examples", "snippets", CARD]
    found = [
        str(path.relative_to(site)).removesuffix("index.html")
        for path in sorted(site.rglob("*"))
        if path.suffix in kinds
        and not any(path.is_relative_to(site / folder) for folder in left_out)
    ]
    found += [str(path.relative_to(site)) for path in sorted(site.glob("snippets/*/*.json"))]
    (site / "offline.json").write_text(json.dumps(found))


def main(site):
    config = load_config(str(ROOT / "mkdocs.yml"))
    prune(site)
    index_text(site)
    as_markdown.write(site, config)
    if (site / "assets/runtime").exists():
        runnable.write(site)
    write_missing_page(site, config)
    rules = ["User-agent: *", "Allow: /"]
    if config.site_url:
        write_feed(site, config)
        rules.append(f"Sitemap: {config.site_url}sitemap.xml")
    (site / "robots.txt").write_text("\n".join(rules) + "\n")
    # Those of the clients in the panels and of the editor of *Run here* load when needed.
    kept = {site / "assets/panel/client.css", site / "assets/runtime/editor/layout.css"}
    styles = [path for path in site.glob("assets/**/*.css") if path not in kept]
    for path in site.rglob("index.html"):
        if not path.is_relative_to(site / "examples"):
            finish_page(path, site, config)
    for path in styles:
        path.unlink()
    list_offline(site)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
