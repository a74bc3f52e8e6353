"""The words of a page, as a reader sees them: rendered, without code and figures."""

import re
from functools import cache
from html.parser import HTMLParser

import markdown
from mkdocs.config import load_config
from mkdocs.utils.meta import get_data

from .processes import ROOT

# Stands behind a phrase that is linked to its proof.
CLAIM = "\N{BALLOT BOX WITH CHECK}"
VOID = {"br", "col", "hr", "img", "input", "wbr"}
BLOCKS = {"p", "li", "dt", "dd", "th", "td", "h1", "h2", "h3", "figcaption", "summary", "label"}
LEFT_OUT = {"pre", "svg", "script", "style", "wire"}  # names of elements, and a class


class Blocks(HTMLParser):
    """Collects (tag, text, visible) of each block. What stands in a closed fold, or in a tab that
    is not the first, is not visible."""

    def __init__(self):
        super().__init__()
        self.blocks, self.stack, self.open, self.tabs = [], [], [], []

    def handle_starttag(self, tag, attrs):
        if tag in VOID:
            return
        classes = (dict(attrs).get("class") or "").split()
        hidden = tag == "details" and "open" not in dict(attrs)
        if "tabbed-content" in classes:
            self.tabs.append(0)
        if "tabbed-block" in classes:
            self.tabs[-1] += 1
            hidden = self.tabs[-1] > 1
        self.stack.append((tag, classes, hidden))
        if tag in BLOCKS:
            folds = [each for _, _, each in self.stack]
            if tag == "summary":
                folds = folds[:-2]  # the title of a fold can be read while it is closed
            self.open.append([tag, "", not any(folds)])

    def handle_endtag(self, tag):
        if tag in VOID:
            return
        _, classes, _ = self.stack.pop()
        if "tabbed-content" in classes:
            self.tabs.pop()
        if tag in BLOCKS:
            kind, text, visible = self.open.pop()
            self.blocks.append((kind, " ".join(text.split()), visible))

    def handle_data(self, data):
        inside = {tag for tag, _, _ in self.stack}
        inside |= {name for _, classes, _ in self.stack for name in classes}
        if self.open and not inside & LEFT_OUT and data != "¶":
            self.open[-1][1] += data


@cache
def renderer():
    config = load_config(str(ROOT / "mkdocs.yml"))
    kinds = config.markdown_extensions
    return markdown.Markdown(extensions=kinds, extension_configs=config.mdx_configs)


@cache
def blocks(page):
    """Return (tag, text, visible) of each block of a page, from its Markdown."""
    text, _ = get_data(page)
    text = re.sub(r"\]\[tests\.[\w.]+\]", f"{CLAIM}](#)", text)
    parser = Blocks()
    parser.feed(renderer().reset().convert(text))
    return parser.blocks


def visible_words(page):
    """Return how many words a page has outside closed folds and tabs; code does not count."""
    text = " ".join(text for _, text, visible in blocks(page) if visible)
    return len(re.findall(r"[A-Za-z0-9][\w'’./-]*", text))


def sentences(page):
    """Return the sentences of a page, the parts of a sentence on both sides of a semicolon apart.
    Tables and boxes have none."""
    found = []
    for tag, text, _ in blocks(page):
        if tag not in {"td", "th", "dd"}:
            found += re.sub(rf"([.!?;:]{CLAIM}?\)?) ", r"\1\n", text).split("\n")
    return found
