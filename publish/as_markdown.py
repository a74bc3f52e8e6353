"""Write each page as Markdown beside it, for programs that read, with what it includes expanded."""

import ast
import os
import re
from pathlib import Path

from lxml import html
from markdown import Markdown
from mkdocs.utils.meta import get_data

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
FENCE = re.compile(r"(?ms)^( *```.*?^ *```$)")


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


def write(site, config):
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
