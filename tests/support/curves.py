"""Curves on two logarithmic axes, each with its name at its right end."""

from math import floor, log10

from .figures import LINE, SIZE, WIDTH, figure, legend, line, measured, number, shape, text


def curves(series, points, crossings, axes, title, description):
    """Draw functions, measured points, and where two of the functions cross.

    series: [(name, function of x, class)]; points: [(x, y)], measured; crossings: [(x, y, words)].
    axes: (x label, smallest and largest power of ten, and the same for y).
    """
    (x_label, x_low, x_high), (y_label, y_low, y_high) = axes
    left, right, top, foot = 64, 102, 66, 266

    def across(x):
        return left + (log10(x) - x_low) / (x_high - x_low) * (WIDTH - left - right)

    def up(y):
        return foot - (log10(y) - y_low) / (y_high - y_low) * (foot - top)

    def tick(power):
        return f"{10**power:,}" if power >= 0 else f"{10**power:.{-power}f}"

    shapes = [text(4, 14, y_label, "axis-name"), text(left, foot + 40, x_label, "axis-name")]
    for power in range(x_low, x_high + 1):
        x = across(10**power)
        shapes += [line(x, top, x, foot, "grid"), text(x, foot + 22, tick(power), "tick", "middle")]
    for power in range(y_low, y_high + 1):
        y = up(10**power)
        shapes += [line(left, y, WIDTH - right, y, "grid")]
        shapes += [text(left - 6, y + 4, tick(power), "tick", "end")]
    names = []
    for name, function, css in series:
        xs = [10 ** (x_low + step * (x_high - x_low) / 100) for step in range(101)]
        inside = [(x, function(x)) for x in xs if y_low <= log10(function(x)) <= y_high]
        corners = " ".join(f"{number(across(x))},{number(up(y))}" for x, y in inside)
        shapes.append(("polyline", {"points": corners, "class": css}, ""))
        names.append((up(inside[-1][1]) + 4, name))
    below = 0
    for y, name in sorted(names):
        below = max(y, below + LINE)
        shapes.append(text(WIDTH - right + 6, below, name, "note"))
    for row, (x, y, words) in enumerate(crossings):
        above = top - 8 - LINE * (len(crossings) - 1 - row)
        shapes.append(line(across(x), above, across(x), up(y), "life"))
        anchor = "start" if across(x) + measured(words, SIZE) < WIDTH else "end"
        shapes.append(text(across(x), above - 5, words, "note", anchor))
    shapes += [shape("circle", "measured", cx=across(x), cy=up(y), r=4) for x, y in points]
    shown, end = legend([("measured", "measured"), ("formula", "formula")], foot + 48)
    return figure(end, shapes + shown, title, description)


def decades(values):
    """Return the powers of ten below the smallest and above the largest of some values."""
    return floor(log10(min(values))), floor(log10(max(values))) + 1
