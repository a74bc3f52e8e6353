"""Draw the parts of a request's duration, in sequence, as bars over round trips."""

from .figures import figure, line, rect, text


def waterfall(rows, title, description):
    """Draw rows of parts: [(name, [(part, start, end)])], in round trips.

    The parts are "DNS", "TCP", "TLS" and "request"; the last has a colour of its own.
    """
    left, right, top, step = 8, 352, 34, 52
    longest = max(end for _, parts in rows for _, _, end in parts)
    unit = (right - left) / longest
    height = top + len(rows) * step + 24
    shapes = [text(left, 16, "round trips", "axis-name")]
    for trip in range(int(longest) + 1):
        x = left + trip * unit
        for row, (_, parts) in enumerate(rows):
            if trip >= parts[-1][2]:  # not behind its bars
                shapes.append(line(x, top + row * step + 18, x, top + row * step + 42, "grid"))
        anchor = "start" if not trip else "end" if trip == longest else "middle"
        shapes.append(text(x, height - 8, str(trip), "tick", anchor))
    for row, (name, parts) in enumerate(rows):
        y = top + row * step
        shapes.append(text(left, y + 12, name, "lane"))
        for part, start, end in parts:
            css = "wanted" if part == "request" else "set-up"
            shapes.append(rect(left + start * unit, y + 18, (end - start) * unit - 2, 22, css, 3))
            middle = left + (start + end) / 2 * unit
            shapes.append(text(middle, y + 33, part, "on-bar", "middle"))
    return figure(height, shapes, title, description)
