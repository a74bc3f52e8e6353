"""Bars: how much of each, and how many in each slice of time."""

from xml.etree import ElementTree as ET

from .figures import finish, line, svg, text


def bars(rows, title, description):
    """Draw one bar for each row, from the top: [(name, length, words behind it)].

    Returns SVG text.
    """
    width, left, top, pitch = 360, 8, 8, 42
    longest = max(length for _, length, _ in rows)
    room = width - left - 72  # words stand behind the longest
    root = svg(width, top + pitch * len(rows), title, description)
    for number, (name, length, words) in enumerate(rows):
        y = top + pitch * number
        text(root, left, y + 12, name, "note")
        bar = {"x": left, "y": y + 18, "width": length / longest * room, "height": 14, "rx": 3}
        ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in bar.items()} | {"class": "wanted"})
        text(root, left + length / longest * room + 8, y + 30, words, "lane")
    return finish(root)


def histograms(rows, unit, away, title, description):
    """Draw how many came in each slice of time, one histogram below the other.

    rows: [(name, words beside it, [number in slice 0, 1, 2 …])], all to the same scale; `unit`
    names a slice. In the first `away` slices nobody is let in. Returns SVG text.
    """
    width, left, right, top, tall = 360, 12, 12, 8, 84
    pitch = tall + 52
    slices = max(len(numbers) for *_, numbers in rows)
    most = max(number for *_, numbers in rows for number in numbers)
    step = (width - left - right) / slices
    root = svg(width, top + pitch * len(rows), title, description)
    for row, (name, words, numbers) in enumerate(rows):
        y = top + pitch * row
        head = text(root, left, y + 12, name, "lane")
        ET.SubElement(head, "tspan", {"class": "note", "dx": "10"}).text = words
        foot = y + 20 + tall
        band = {"x": left, "y": y + 20, "width": away * step, "height": tall}
        ET.SubElement(root, "rect", {k: f"{v:g}" for k, v in band.items()} | {"class": "held"})
        if row == len(rows) - 1:
            text(root, left + away * step + 6, y + 32, "the server is back", "note")
        line(root, left, foot, width - right, foot, "life")
        for number, count in enumerate(numbers):
            if count:
                high = max(1, count / most * tall)
                bar = {"x": left + number * step + 0.5, "y": foot - high, "height": high}
                bar |= {"width": max(1, step - 1)}
                css = {"class": "came"}
                ET.SubElement(root, "rect", {k: f"{v:.4g}" for k, v in bar.items()} | css)
        for tick in range(0, slices + 1, 10):
            words = f"{tick} {unit}" if tick else "0"
            anchor = "start" if not tick else "end" if tick == slices else "middle"
            text(root, left + tick * step, foot + 16, words, "tick", anchor)
    return finish(root)
