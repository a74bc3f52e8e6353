"""Finish a site that `mkdocs build` has written: for readers, search engines and static hosts.

    python -m publish.finish site

- removes what no browser requests: source maps, and languages that the search does not use
- joins the style sheets of a page into one, and lets the text font load with it
- takes code out of the index of the search
- marks the programs that the runtime can run, where `make runtime` has built it
- leaves out what the highlighting marks and does not colour
- marks the key line of a page in its programs, and offers each whole program as a download
- moves programs in closed folds and unopened tabs into files, which are loaded when they are opened
- removes the theme's request to the host of the repository for its number of stars
- writes `robots.txt`, and adds to the head of each page: link previews, a Content-Security-Policy
- writes each page as Markdown beside it, and lists them all in `llms.txt`
- lists what the site needs offline, for `sw.js`
"""

import ast
import base64
import hashlib
import json
import os
import re
import shutil
import sys
from functools import cache
from pathlib import Path

from lxml import html
from lxml.builder import E
from markdown import Markdown
from mkdocs.config import load_config
from mkdocs.utils.meta import get_data

from . import runnable

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
UNUSED = ["assets/**/*.map", "assets/javascripts/lunr"]
FENCE = re.compile(r"(?ms)^( *```.*?^ *```$)")
AS_IT_IS = re.compile(r"(?s)(<(?:pre|script|textarea)\b.*?</(?:pre|script|textarea)>)")
CARD = "assets/card.png"  # the picture of a link preview: see card.py
LARGE = 1_200  # bytes of HTML, from which a folded program is moved
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
    path = site / "search/search_index.json"
    index = json.loads(path.read_text())
    for entry in index["docs"]:
        entry["text"] = re.sub(r"(?s)<pre>.*?</pre>", "", entry["text"])
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
    for code in page.xpath(
        "//div[contains(@class, 'highlight')][ancestor::details[not(@open)]"
        " or ancestor::div[@class='tabbed-block'][preceding-sibling::div]]"
    ):
        if len(html.tostring(code)) < LARGE:
            continue
        moved += 1
        pre = code.find(".//pre")
        pre.set("id", f"program-{moved}")
        pre.insert(0, html.fragment_fromstring(COPY.format(pre.get("id"))))
        tail, code.tail = code.tail, None
        text = html.tostring(code, encoding="us-ascii").decode()
        (folder / f"program-{moved}.html").write_text(without_plain_spans(text))
        link = E.a("Show the program", {"class": "program", "href": f"program-{moved}.html"})
        link.tail = tail
        code.getparent().replace(code, link)


@cache
def joined_styles(paths, site):
    """Write style sheets as one, whose name has a hash of its content; return its path.

    Addresses in them are relative to assets/, where the one is written.
    """
    text = "\n".join(path.read_text() for path in paths)
    text = re.sub(r"/\*# sourceMappingURL=.*?\*/", "", text)
    joined = site / f"assets/styles.{hashlib.sha256(text.encode()).hexdigest()[:8]}.min.css"
    joined.write_text(text)
    return joined


def join_styles(page, folder, site):
    """Join the style sheets of a page into one; return what it is made of."""
    links = page.xpath("//link[@rel='stylesheet']")
    paths = tuple(Path(os.path.normpath(folder / link.get("href"))) for link in links)
    font = os.path.relpath(site / "assets/fonts/text.woff2", folder)
    links[0].set("href", os.path.relpath(joined_styles(paths, site), folder))
    # A font is always requested without credentials, and so is what loads it early.
    preload = {"rel": "preload", "as": "font", "type": "font/woff2", "crossorigin": ""}
    links[0].addprevious(E.link({**preload, "href": font}))
    for link in links[1:]:
        link.getparent().remove(link)
    return paths


def policy(page):
    """Return a Content-Security-Policy: the site's own files, and the theme's inline scripts."""
    scripts = page.xpath("//script[not(@src) and not(@type)]/text()")
    digests = {hashlib.sha256(each.encode()).digest() for each in scripts}
    hashes = " ".join(f"'sha256-{base64.b64encode(each).decode()}'" for each in sorted(digests))
    # Firefox loads the next page in advance, which default-src governs.
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
    found += [("url", each) for each in head.xpath("link[@rel='canonical']/@href")]
    for name, content in found:
        head.append(E.meta(property=f"og:{name}", content=content))
    if config.site_url:  # its address must be complete
        head.append(E.meta(property="og:image", content=f"{config.site_url}{CARD}"))
        head.append(E.meta(name="twitter:card", content="summary_large_image"))
    icon = os.path.relpath(site / "assets/touch-icon.png", folder)
    head.append(E.link(rel="apple-touch-icon", href=icon))
    # Before the first script, since it holds for what follows.
    head.insert(1, E.meta({"http-equiv": "Content-Security-Policy", "content": policy(page)}))


def keep_at_home(page):
    """Take the mark off the link to the repository by which the theme's script finds it, to request
    the number of its stars from another host."""
    for link in page.xpath("//*[@data-md-component='source']"):
        del link.attrib["data-md-component"]


def without_plain_spans(text):
    """Return HTML without the marks of code that have the colour of the code: names, and space."""
    text = text.replace("<pre><span></span>", "<pre>")
    return re.sub(r'<span class="[nw]">([^<]*)</span>', r"\1", text)


def without_blank_lines(text):
    """Return HTML without the blank lines that the templates of the theme leave."""
    parts = AS_IT_IS.split(text)
    parts[::2] = [re.sub(r"(\A|>)\s*\n\s*(\Z|<)", r"\1\n\2", part) for part in parts[::2]]
    return "".join(parts)


def finish_page(path, site, config):
    """Finish a page; return the style sheets that it no longer needs."""
    page = html.document_fromstring(path.read_text())
    if (site / "assets/runtime").exists():
        runnable.mark(page)
    mark_key_line(page)
    offer_downloads(page, os.path.relpath(site, path.parent))
    move_programs(page, path.parent)
    joined = join_styles(page, path.parent, site)
    complete_head(page, path.parent, site, config)
    keep_at_home(page)
    text = html.tostring(page, encoding="unicode", doctype="<!doctype html>")
    path.write_text(without_plain_spans(without_blank_lines(text)))
    return joined


# Markdown


def include_files(source, options):
    """Return the Markdown of a page with the files that it includes."""
    renderer = Markdown(
        extensions=["pymdownx.snippets"], extension_configs={"pymdownx.snippets": options}
    )
    return "\n".join(renderer.preprocessors["snippet"].run(source.split("\n")))


def folder_of(name):
    """Return the folder of the site in which a page is: techniques/long-polling/."""
    return name.removesuffix("index.md") if name.endswith("index.md") else f"{name[:-3]}/"


def as_markdown(name, options, proofs):
    """Return (title, description, text) of a page, whose links lead to such pages."""
    source, matter = get_data((DOCS / name).read_text())
    text = re.sub(r"(?m)^::: (\S+)\n(?:    .*\n|\n(?=    ))*", documented, source)
    parts = FENCE.split(include_files(text, options))
    # Every second part is code, which stays as it is.
    parts[::2] = [linked(plain(part), name, proofs) for part in parts[::2]]
    text = re.sub(r"\n{3,}", "\n\n", "".join(parts))
    title = matter.get("title") or re.search(r"(?m)^# (.+?)(?: \{.*)?$", text)[1]
    return title, matter["description"], text.strip() + "\n"


def linked(text, name, proofs):
    """Return Markdown whose links lead to other Markdown, or to the proof of a claim."""
    text = re.sub(
        r"\]\((?!https?:|/|#)([^)#\s]+)(#[^)\s]*)?\)",
        lambda found: f"]({target(name, found[1])}{found[2] or ''})",
        text,
    )
    return re.sub(
        r"\]\s*\[(tests\.[\w.]+)\.(test_\w+)\]",
        lambda found: f"]({relative(name, proofs[found[1]])}#{found[1]}.{found[2]})",
        text,
    )


def documented(directive):
    """Return what a page documents by a directive: the source of a program, or the claims that a
    module of tests proves."""
    path = Path(*directive[1].split(".")).with_suffix(".py")
    if path.parts[0] == "examples":
        return f'```python title="{path.name}"\n--8<-- "{path.relative_to("examples")}"\n```\n'
    tree = ast.parse((ROOT / path).read_text())
    proofs = [
        f"- {' '.join(ast.get_docstring(node).split())} (`{node.name}`)\n"
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    ]
    return "".join(proofs)


def plain(text):
    """Return Markdown without the HTML of figures, panels and recorded messages."""
    text = re.sub(
        r"(?s)^[ ]*<(svg|ol|div class=\"panel\").*?</(svg|ol|div)>\n", described, text, flags=re.M
    )
    text = re.sub(r"(?m)^ *</?(div|figure)\b[^>]*>\n", "", text)
    text = re.sub(r"</?figcaption>", "", text)
    text = re.sub(r"(?<=[)\w]) ?\{ ?(download|#[\w-]+) ?\}", "", text)
    return text


def described(found):
    """Return in words what a figure, a panel or a recording shows."""
    element = html.fragment_fromstring(found[0].strip())
    if element.tag == "svg":
        return "".join(f"{each}\n\n" for each in element.xpath("title/text() | desc/text()"))
    if element.tag == "ol":
        return "".join(
            f"{item.findtext('p')}\n\n```http\n{item.find('pre').text_content()}\n```\n\n"
            for item in element
        )
    return ""


def target(name, link):
    """Return a relative link of a page as one of its Markdown."""
    path = os.path.normpath(Path(name).parent / link)
    return relative(name, f"{folder_of(path)}index.md" if path.endswith(".md") else path)


def relative(name, path):
    """Return a path of the site, relative to the folder of a page."""
    slash = "/" * path.endswith("/")
    return os.path.relpath(path, folder_of(name) or ".") + slash


def write_markdown(site, config):
    """Write each page as Markdown beside it; list them in llms.txt."""
    options = config.mdx_configs["pymdownx.snippets"]
    options = options | {"base_path": [str(ROOT / each) for each in options["base_path"]]}
    proofs = {
        module: folder_of(str(path.relative_to(DOCS)))
        for path in (DOCS / "reference/proofs").glob("*.md")
        for module in re.findall(r"(?m)^::: (\S+)", path.read_text())
    }
    listed = []
    for name in pages(config.nav):
        title, description, text = as_markdown(name, options, proofs)
        (site / folder_of(name) / "index.md").write_text(text)
        listed.append(f"- [{title}]({folder_of(name)}index.md): {description}")
    head = f"# {config.site_name}\n\n> {config.site_description}\n\n## Pages\n\n"
    (site / "llms.txt").write_text(head + "\n".join(listed) + "\n")


def pages(nav):
    """Return the files of a navigation, in order."""
    if isinstance(nav, str):
        return [nav]
    values = nav.values() if isinstance(nav, dict) else nav
    return [name for each in values for name in pages(each)]


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
    write_markdown(site, config)
    if (site / "assets/runtime").exists():
        runnable.write(site)
    joined = {
        style
        for path in site.rglob("index.html")
        if not path.is_relative_to(site / "examples")
        for style in finish_page(path, site, config)
    }
    for style in joined:
        style.unlink()
    list_offline(site)
    sitemap = html.fromstring((site / "sitemap.xml").read_bytes()).xpath("//loc/text()")
    rules = ["User-agent: *", "Allow: /"]
    if sitemap:
        rules.append(f"Sitemap: {min(sitemap, key=len)}sitemap.xml")
    (site / "robots.txt").write_text("\n".join(rules) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
