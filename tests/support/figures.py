"""Figures as inline SVG, drawn from recorded data and coloured by the site's own CSS.

Nothing here names a colour or a font: classes do (docs/assets/figures.css), so that light,
dark and print each have their own. Every figure carries a title and a description, is 360 units
wide, and has a legend where a colour is not named beside what it is the colour of.

A shape is (tag, attributes, text); a figure is a list of them, from back to front.
"""

import math
import re
from xml.etree import ElementTree as ET

from .processes import ROOT

WIDTH = 360
HEAD = 7  # length of an arrow's head
SIZE = 14  # of all text, as in docs/assets/figures.css
LINE = 18  # from one line of text to the next
# Characters by their width; see measured().
NARROW = " !'|,.:;`ijl·’"
MIDDLE = '"()[]{}-/\\_frtI1“'
SMALL = "?*79JLTacehknosuvxyz×–"
WIDE = "#&0=ABCDGHKNOQRUVXw"
WIDEST = "%@MWm—…→"


def figure(height, shapes, title, description, css="figure"):
    """Return shapes as SVG text."""
    size = f"0 0 {WIDTH} {number(height)}"
    root = ET.Element("svg", {"class": css, "viewBox": size, "role": "img"})
    ET.SubElement(root, "title").text = title
    ET.SubElement(root, "desc").text = description
    for tag, attributes, words in shapes:
        words, note = words if isinstance(words, tuple) else (words, "")
        element = ET.SubElement(root, tag, attributes)
        element.text = words or None
        if note:
            ET.SubElement(element, "tspan", {"class": "note", "dx": "10"}).text = note
    return ET.tostring(root, encoding="unicode") + "\n"


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


def rounded(value):
    """Return a number to one decimal, halves up, as JavaScript does it."""
    return math.floor(value * 10 + 0.5) / 10


def number(value):
    return f"{rounded(value):g}"


def shape(tag, css, words="", **sizes):
    return tag, {name: number(value) for name, value in sizes.items()} | {"class": css}, words


def line(x1, y1, x2, y2, css):
    return shape("line", css, x1=x1, y1=y1, x2=x2, y2=y2)


def rect(x, y, width, height, css, rx=0):
    return shape("rect", css, x=x, y=y, width=width, height=height, rx=rx)


def text(x, y, words, css="", anchor="start", note=""):
    """Return a text, with a note in a paler colour behind it."""
    tag, attributes, _ = shape("text", css, x=x, y=y)
    return tag, attributes | {"text-anchor": anchor}, (words, note) if note else words


def arrow(x1, y1, x2, y2, css):
    """Return the two shapes of an arrow."""
    length = math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2)
    along, down = (x2 - x1) / length, (y2 - y1) / length
    x, y = x2 - HEAD * along, y2 - HEAD * down
    corners = [(x2, y2), (x - 4 * down, y + 4 * along), (x + 4 * down, y - 4 * along)]
    points = " ".join(f"{number(x)},{number(y)}" for x, y in corners)
    return [line(x1, y1, x, y, css), ("polygon", {"points": points, "class": css}, "")]


def legend(names, y):
    """Return what the colours of a figure mean, from a height on, and where it ends.

    names: [(class, its meaning)], of arrows, lines, points and bars.
    """
    shapes, x = [], 8
    for css, words in names:
        if x + 20 + measured(words, SIZE) > WIDTH:
            x, y = 8, y + LINE
        if css == "measured":
            shapes.append(shape("circle", css, cx=x + 7, cy=y + 6, r=5))
        elif css in ("up", "down", "formula"):
            shapes.append(line(x, y + 6, x + 14, y + 6, css))
        else:
            shapes.append(rect(x, y + 1, 14, 10, css))
        shapes.append(text(x + 20, y + 10, words, "note"))
        x += 20 + measured(words, SIZE) + 10
    return shapes, y + (18 if shapes else 0)


def measured(words, size):
    """Return the width of a text in the fonts of the site, at the most."""
    parts = ((NARROW, 34), (MIDDLE, 45), (SMALL, 58), (WIDE, 77), (WIDEST, 100))
    return sum(next((width for of, width in parts if c in of), 63) for c in words) * size / 100


def race(rows, job, title, description):
    """Draw several techniques on the same job, one below the other, time to the right.

    rows: [(name, note, [(from, to)] while a request or connection is open, messages of a trace)].
    Arrows up are messages of the client, arrows down of the server. `job`: start and end, in
    seconds. docs/assets/race.js draws the same in a browser; a proof holds the two equal.
    """
    left, right, top, pitch = 12, 344, 40, 52
    last = max(m["at"] for *_, messages in rows for m in messages)
    # There is room for a name beside the end of the job.
    end = max(last * 1.05, job[1] * (right - left) / (300 - left))
    height = top + pitch * len(rows) + 2

    def x(at):
        return left + at / end * (right - left)

    shapes = [
        rect(x(job[0]), 8, x(job[1]) - x(job[0]), 10, "job", 5),
        text(x(job[1]) + 6, 15, "job done", "note"),
    ]
    for second in range(int(end) + 1):
        anchor = "middle" if second else "start"
        shapes.append(text(x(second), 33, f"{second} s" if second else "0", "tick", anchor))
    for row, (name, note, opened, messages) in enumerate(rows):
        y = top + pitch * row + 32
        shapes += [text(left, y - 21, name, "lane", note=note)]
        shapes += [line(x(job[1]), y - 16, x(job[1]), y + 16, "grid")]
        shapes += [line(left, y, right, y, "life")]
        shapes += [rect(x(start), y - 5, x(end) - x(start), 10, "held") for start, end in opened]
        known = max(m["at"] for m in messages)
        if known > job[1]:
            shapes.append(rect(x(job[1]), y - 3, x(known) - x(job[1]), 6, "late", 3))
        for at, source in dict.fromkeys((m["at"], m["from"]) for m in messages):
            up = source == "client"
            shapes += arrow(x(at), y, x(at), y - 16 if up else y + 16, "up" if up else "down")
    names = [("up", "to the server"), ("down", "to the client")]
    names += [("held", "open"), ("late", "late")]
    shown, foot = legend(names, height)
    return figure(foot, shapes + shown, title, description)


def chart(points, curve, x_label, y_label, title, description, y_max):
    """Draw measured points on the curve of their formula.

    points: [(x, y)], measured, with x in 0…1. curve: a function of x.
    """
    height, left, right, top, bottom = 240, 44, 12, 34, 44

    def place(x, y):
        return (
            left + x * (WIDTH - left - right),
            height - bottom - y / y_max * (height - top - bottom),
        )

    shapes = [
        text(4, 16, y_label, "axis-name"),
        text(WIDTH - right, height - 6, x_label, "axis-name", "end"),
    ]
    for step in range(5):
        value, below = y_max * step / 4, height - bottom + 16
        shapes += [
            line(*place(0, value), *place(1, value), "grid"),
            text(left - 6, place(0, value)[1] + 4, f"{value:g}", "tick", "end"),
            text(place(step / 4, 0)[0], below, f"{step / 4:g}", "tick", "middle"),
        ]
    samples = [n / 100 for n in range(1, 101) if curve(n / 100) <= y_max]
    corners = " ".join("{:.1f},{:.1f}".format(*place(x, curve(x))) for x in samples)
    shapes.append(("polyline", {"points": corners, "class": "formula"}, ""))
    for cx, cy in (place(x, y) for x, y in points):
        shapes.append(shape("circle", "measured", cx=cx, cy=cy, r=5))
    shown, foot = legend([("measured", "measured"), ("formula", "formula")], height + 4)
    return figure(foot, shapes + shown, title, description)


def standings(steps, places, title, description):
    """Draw how many each place has, after each of some steps, as bars with their numbers.

    steps: [(what happened, [how many each place has])]; None where there is no such place now.
    """
    left, right, top, bar, gap = 40, 36, 8, 19, 14
    pitch = 22 + bar * len(places) + gap
    most = max(count or 0 for _, counts in steps for count in counts)
    shapes = []
    for turn, (what, counts) in enumerate(steps):
        y = top + pitch * turn
        shapes.append(text(4, y + 12, f"{turn + 1}. {what}", "lane"))
        for row, (name, count) in enumerate(zip(places, counts, strict=True)):
            middle = y + 22 + bar * row + bar / 2
            size = (count or 0) / most * (WIDTH - left - right)
            words = "not running" if count is None else str(count)
            shapes += [
                text(left - 12, middle + 4, name, "tick", "end"),
                line(left, middle - bar / 2 + 1, left, middle + bar / 2 - 1, "life"),
                *([rect(left, middle - 5.5, size, 11, "wanted", 2)] if count else []),
                text(left + size + 7, middle + 4, words, "note late" if count == 0 else "note"),
            ]
    return figure(top + pitch * len(steps) - gap + 8, shapes, title, description)


def ladders(groups, title, description):
    """Draw timers as groups of bars, all on one logarithmic scale from one second.

    groups: [(heading, [(whose, which timer, seconds)])], in the order in which they must grow.
    """
    left, right, step = 8, 8, 30
    longest = max(seconds for _, rows in groups for *_, seconds in rows)
    shapes, y = [], 0

    def length(seconds):
        return math.log(seconds) / math.log(longest) * (WIDTH - left - right)

    for heading, rows in groups:
        shapes.append(text(left, y + 18, heading, "lane"))
        y += 28
        for whose, timer, seconds in rows:
            size = max(4, length(seconds))
            shapes += [
                text(left, y + 10, whose, note=timer),
                rect(left, y + 15, size, 9, "wanted", 2),
                text(WIDTH - right, y + 10, f"{seconds:,g} s", "tick", "end"),
            ]
            y += step
    shapes.append(line(left, y + 4, left + length(longest), y + 4, "grid"))
    for power in range(math.floor(math.log10(longest)) + 1):
        x = left + length(10**power)
        shapes.append(line(x, y, x, y + 8, "grid"))
        anchor = "middle" if power else "start"
        shapes.append(text(x, y + 22, f"{10**power:,} s", "tick", anchor))
    shapes.append(text(left, y + 42, "logarithmic scale", "axis-name"))
    return figure(y + 48, shapes, title, description)
