"""Figures as inline SVG, drawn from recorded data and coloured by the site's own CSS.

Nothing here names a colour or a font: classes do (docs/assets/figures.css), so that light,
dark and print each have their own. Every figure carries a title and a description.
"""

import math
import re
from xml.etree import ElementTree as ET

from .processes import ROOT


def svg(width, height, title, description):
    root = ET.Element("svg", {"class": "figure", "viewBox": f"0 0 {width} {height}", "role": "img"})
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "desc").text = description
    return root


def readable_alone(figure):
    """Return a figure that carries the site's CSS, for where there is no site: the README."""
    look = "".join(
        (ROOT / "docs/assets" / name).read_text() for name in ("site.css", "figures.css")
    )
    colours = dict(re.findall(r'color-scheme="(default|slate)"\] \{(.*?)\}', look, re.DOTALL))
    css = (
        f"svg {{{colours['default']}}}\n"
        f"@media (prefers-color-scheme: dark) {{ svg {{{colours['slate']}}} }}\n"
        f"svg.figure {{{look.split('svg.figure {', 1)[1]}"
    )
    head, tail = figure.split(">", 1)
    return f'{head} xmlns="http://www.w3.org/2000/svg"><style>\n{css}</style>{tail}'


def text(parent, x, y, words, css="", anchor="start"):
    attributes = {"x": f"{x:g}", "y": f"{y:g}", "class": css, "text-anchor": anchor}
    element = ET.SubElement(parent, "text", attributes)
    element.text = words
    return element


def line(parent, x1, y1, x2, y2, css):
    points = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    attributes = {name: f"{value:g}" for name, value in points.items()} | {"class": css}
    return ET.SubElement(parent, "line", attributes)


def finish(root):
    return ET.tostring(root, encoding="unicode") + "\n"


def race(rows, job, title, description):
    """Draw several techniques on the same job, one below the other, time to the right.

    rows: [(name, words beside it, [(from, to)] while something is held open, messages of a
    trace)]. What the client said stands above the line and what the server said below it.
    `job`: start and end, in seconds. Returns SVG text.
    """
    width, left, right, top, pitch = 360, 12, 12, 40, 62
    last = max(m["at"] for *_, messages in rows for m in messages)
    height = top + pitch * len(rows) + 8

    def x(at):
        return left + at / (last + 0.25) * (width - left - right)

    root = svg(width, height, title, description)
    bar = {"x": x(job[0]), "y": 8, "width": x(job[1]) - x(job[0]), "height": 10, "rx": 5}
    ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in bar.items()} | {"class": "job"})
    text(root, x(job[1]) + 6, 17, "done", "note")
    line(root, x(job[1]), 18, x(job[1]), height - 4, "grid")
    for number in range(int(last) + 1):
        text(root, x(number), 32, f"{number} s" if number else "0", "tick", "middle" * bool(number))
    for number, (name, words, opened, messages) in enumerate(rows):
        y = top + pitch * number + 38
        title = text(root, left, y - 22, name, "lane")
        ET.SubElement(title, "tspan", {"class": "note", "dx": "10"}).text = words
        line(root, x(0), y, x(last + 0.2), y, "life")
        for start, end in opened:
            start, end = x(start), x(end)
            band = {"x": start, "y": y - 6, "width": end - start, "height": 12}
            ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in band.items()} | {"class": "held"})
        known = max(m["at"] for m in messages)
        if known > job[1]:
            late = {"x": x(job[1]), "y": y - 3, "width": x(known) - x(job[1]), "height": 6, "rx": 3}
            ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in late.items()} | {"class": "late"})
        for at, source in dict.fromkeys((m["at"], m["from"]) for m in messages):
            up = source == "client"
            tip, end, css = (y - 13, y - 19, "up") if up else (y + 13, y + 19, "down")
            line(root, x(at), y, x(at), tip, css)
            ends = f"{x(at) - 4:g},{tip:g} {x(at) + 4:g},{tip:g} {x(at):g},{end:g}"
            ET.SubElement(root, "polygon", {"points": ends, "class": css})
    return finish(root)


def chart(points, curve, x_label, y_label, title, description, y_max):
    """Draw measured points on the curve of their formula.

    points: [(x, y)], measured, with x in 0…1. curve: a function of x. Returns SVG text.
    """
    width, height, left, right, top, bottom = 360, 240, 44, 12, 34, 44

    def place(x, y):
        return (
            left + x * (width - left - right),
            height - bottom - y / y_max * (height - top - bottom),
        )

    root = svg(width, height, title, description)
    text(root, 4, 16, y_label, "axis-name")
    text(root, width - right, height - 6, x_label, "axis-name", "end")
    for number in range(5):
        value = y_max * number / 4
        line(root, *place(0, value), *place(1, value), "grid")
        text(root, left - 6, place(0, value)[1] + 4, f"{value:g}", "tick", "end")
        text(
            root, place(number / 4, 0)[0], height - bottom + 16, f"{number / 4:g}", "tick", "middle"
        )
    samples = [n / 100 for n in range(1, 101) if curve(n / 100) <= y_max]
    path = " ".join("{:.1f},{:.1f}".format(*place(x, curve(x))) for x in samples)
    ET.SubElement(root, "polyline", {"points": path, "class": "formula"})
    for x, y in points:
        cx, cy = place(x, y)
        attributes = {"cx": f"{cx:.1f}", "cy": f"{cy:.1f}", "r": "5", "class": "measured"}
        ET.SubElement(root, "circle", attributes)
    return finish(root)


def standings(steps, places, title, description):
    """Draw how many each place has, after each of some steps, as bars with their numbers.

    steps: [(what happened, [how many each place has])]; None where there is no such place now.
    Returns SVG text.
    """
    width, left, right, top, bar, gap = 360, 40, 36, 8, 15, 18
    pitch = 22 + bar * len(places) + gap
    most = max(number or 0 for _, numbers in steps for number in numbers)
    root = svg(width, top + pitch * len(steps) - gap + 8, title, description)
    for turn, (what, numbers) in enumerate(steps):
        y = top + pitch * turn
        text(root, 4, y + 12, f"{turn + 1}. {what}", "lane")
        for row, (place, number) in enumerate(zip(places, numbers, strict=True)):
            middle = y + 22 + bar * row + bar / 2
            text(root, left - 12, middle + 4, place, "tick", "end")
            line(root, left, middle - bar / 2 + 1, left, middle + bar / 2 - 1, "life")
            if number:
                size = number / most * (width - left - right)
                shape = {"x": left, "y": middle - 5.5, "width": size, "height": 11, "rx": 2}
                shape = {name: f"{value:g}" for name, value in shape.items()}
                ET.SubElement(root, "rect", shape | {"class": "wanted"})
            words = "not running" if number is None else str(number)
            end = left + (number or 0) / most * (width - left - right)
            text(root, end + 7, middle + 4, words, "note late" if number == 0 else "note")
    return finish(root)


def ladders(groups, title, description):
    """Draw timers as groups of bars, each on the same logarithmic scale from one second.

    groups: [(heading, [(whose, which timer, seconds)])], in the order in which they must
    grow. Returns SVG text.
    """
    width, left, right, step = 360, 8, 58, 34
    longest = max(seconds for _, rows in groups for *_, seconds in rows)
    height = sum(30 + step * len(rows) for _, rows in groups) + 6
    root, y = svg(width, height, title, description), 0
    for heading, rows in groups:
        text(root, left, y + 18, heading, "lane")
        y += 30
        for whose, timer, seconds in rows:
            words = text(root, left, y + 10, whose, "")
            ET.SubElement(words, "tspan", {"class": "note", "dx": "8"}).text = timer
            size = max(4, math.log(seconds) / math.log(longest) * (width - left - right))
            bar = {"x": left, "y": y + 15, "width": size, "height": 9, "rx": 2}
            bar = {name: f"{value:.5g}" for name, value in bar.items()}
            ET.SubElement(root, "rect", bar | {"class": "wanted"})
            text(root, left + size + 6, y + 23, f"{seconds:,g} s", "tick")
            y += step
    return finish(root)
