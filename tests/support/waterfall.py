"""Draws what a request waits for, one part after the other, as bars over round trips."""

from xml.etree import ElementTree as ET

from .figures import finish, line, svg, text


def waterfall(rows, title, description):
    """Draw rows of parts: [(name, [(part, start, end)])], in round trips. Returns SVG text.

    The parts are "DNS", "TCP", "TLS" and "request"; the last is drawn as what was wanted.
    """
    left, right, top, step = 8, 352, 34, 52
    longest = max(end for _, parts in rows for _, _, end in parts)
    unit = (right - left) / longest
    height = top + len(rows) * step + 24
    root = svg(360, height, title, description)
    text(root, left, 16, "round trips", "axis-name")
    for trip in range(int(longest) + 1):
        x = left + trip * unit
        for number in range(len(rows)):
            line(root, x, top + number * step + 16, x, top + number * step + 42, "grid")
        anchor = "start" if not trip else "end" if trip == longest else "middle"
        text(root, x, height - 8, str(trip), "tick", anchor)
    for number, (name, parts) in enumerate(rows):
        y = top + number * step
        text(root, left, y + 12, name, "lane")
        for part, start, end in parts:
            wanted = part == "request"
            bar = {"x": left + start * unit, "y": y + 18, "width": (end - start) * unit - 2}
            bar |= {"height": 22, "rx": 3}
            css = {"class": "wanted" if wanted else "set-up"}
            ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in bar.items()} | css)
            middle = left + (start + end) / 2 * unit
            text(root, middle, y + 33, part, "on-bar", "middle")
    return finish(root)
