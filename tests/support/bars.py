"""Bars: amounts, and histograms over time."""

from .figures import WIDTH, figure, legend, line, rect, text


def bars(rows, title, description):
    """Draw one bar for each row, from the top: [(name, length, words behind it)]."""
    left, top, pitch = 8, 8, 42
    longest = max(length for _, length, _ in rows)
    room = WIDTH - left - 72  # words stand behind the longest
    shapes = []
    for row, (name, length, words) in enumerate(rows):
        y, size = top + pitch * row, length / longest * room
        shapes += [
            text(left, y + 12, name, "note"),
            rect(left, y + 18, size, 14, "wanted", 3),
            text(left + size + 8, y + 30, words, "lane"),
        ]
    return figure(top + pitch * len(rows), shapes, title, description)


def histograms(rows, unit, down, meaning, title, description):
    """Draw how many there were in each slice of time, one histogram below the other.

    rows: [(name, note, [count in slice 0, 1, 2 …])], all to the same scale; `unit` names a slice.
    In the first `down` slices the server is down. `meaning` names what is counted.
    """
    left, right, top, tall = 12, 12, 8, 84
    pitch = tall + 52
    slices = max(len(counts) for *_, counts in rows)
    most = max(count for *_, counts in rows for count in counts)
    step = (WIDTH - left - right) / slices
    shapes = []
    for row, (name, note, counts) in enumerate(rows):
        y = top + pitch * row
        foot = y + 20 + tall
        shapes += [
            text(left, y + 12, name, "lane", note=note),
            *([rect(left, y + 20, down * step, tall, "held")] if down else []),
            line(left, foot, WIDTH - right, foot, "life"),
        ]
        for slot, count in enumerate(counts):
            if count:
                high = max(1, count / most * tall)
                x, width = left + slot * step + 0.5, max(1, step - 1)
                shapes.append(rect(x, foot - high, width, high, "came"))
        for tick in range(0, slices + 1, 10 if slices <= 60 else 20):
            words = f"{tick} {unit}" if tick else "0"
            anchor = "start" if not tick else "end" if tick == slices else "middle"
            shapes.append(text(left + tick * step, foot + 16, words, "tick", anchor))
    names = [("came", meaning), ("held", "server down")][: 2 if down else 1]
    shown, end = legend(names, top + pitch * len(rows) - 4)
    return figure(end, shapes + shown, title, description)
