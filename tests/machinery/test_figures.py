"""The figures: Python and JavaScript draw the same, and no text lies over anything else."""

import json
import random
import re
from itertools import pairwise
from xml.etree import ElementTree as ET

import pytest

from ..support.processes import ROOT
from ..support.recorder import SNIPPETS
from ..support.sequence import sequence_diagram

ASSETS = ROOT / "docs/assets"
FIGURES = {
    str(path.relative_to(SNIPPETS)): path.read_text()
    for path in sorted(SNIPPETS.glob("*/*.svg"))
    if path.name != "readme.svg"  # another figure, with its own style
}
TRACES = {
    name: (SNIPPETS / name).with_suffix(".json").read_text()
    for name in FIGURES
    if (SNIPPETS / name).with_suffix(".json").exists()
}
WORDS = [
    "GET",
    "/jobs/…",
    "200",
    "done",
    "W%m×",
    "event:",
    "“a",
    "much",
    "too",
    "long",
    "name”",
    "",
]


def made_up(seed):
    """Return a trace with everything that a trace may have, at random."""
    choose = random.Random(seed)
    lanes = ["client", "server"] if seed % 3 else ["gateway A", "client", "gateway B"]
    timed = choose.random() < 0.7
    trace = {"lanes": lanes, "messages": [], "bars": [], "notes": [], "crosses": [], "starts": []}
    at = 0
    for number in range(choose.randrange(1, 14)):
        at += choose.choice([0, 0.01, 0.3, 2, 7]) if timed else number > 0
        client, other = "client", choose.choice([lane for lane in lanes if lane != "client"])
        source, target = choose.choice([(client, other), (other, client)])
        words = " ".join(choose.choices(WORDS, k=choose.randrange(5)))
        message = {"at": at, "from": source, "to": target, "text": words}
        message |= choose.choice([{}, {}, {"lost": True}, {"arrives": at + 3}])
        trace["messages"].append(message)
    for name in "notes", "crosses", "starts":
        for _ in range(choose.randrange(3)):
            mark = {"at": choose.uniform(0, at), "lane": choose.choice([lanes[0], lanes[-1]])}
            trace[name].append(mark | {"text": " ".join(choose.choices(WORDS, k=2))})
    if timed:
        trace["unit"] = choose.choice(["s", "min"])
        start = choose.uniform(0, at)
        trace["bars"].append({"kind": "job", "lane": lanes[-1], "start": start, "text": "job"})
        late = {"kind": "late", "lane": lanes[0], "start": start, "end": start + 1, "text": "late"}
        trace["bars"].append(late)
        request = choose.randrange(len(trace["messages"]))
        held = {"kind": "held", "messages": [request]}
        ends = [{}, {"end": at + 1}, {"messages": [request, len(trace["messages"]) - 1]}]
        trace["bars"].append(held | choose.choice(ends))
    if choose.random() < 0.5:
        trace |= {"now": at + 3, "scale": 44}
    return trace


@pytest.fixture
def bench(page, tmp_path):
    """Return a page in the style of the site that has the drawer of the panels."""
    styles = "".join(
        f'<link rel="stylesheet" href="file://{ASSETS}/{name}.css">' for name in ("site", "figures")
    )
    path = tmp_path / "bench.html"
    path.write_text(
        f"<!doctype html><meta charset=utf-8>{styles}"
        "<style>html { font-size: 20px } body { margin: 0 }</style>"
        '<body data-md-color-scheme="default"><main></main>'
    )
    page.goto(f"file://{path}")
    code = (ASSETS / "sequence.js").read_text()
    page.add_script_tag(type="module", content=f"{code}\nwindow.sequence = {{ draw, until }};")
    page.wait_for_function("window.sequence")
    page.evaluate("Promise.all([400, 700].map((w) => document.fonts.load(`${w} 14px Text`)))")
    assert page.evaluate("document.fonts.check('14px Text')")
    return page


DRAW = """(trace) => {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  sequence.draw(svg, trace);
  svg.setAttribute("class", "figure sequence");
  return svg.outerHTML;
}"""


def parts(figure):
    """Return the size of a figure and its shapes, as (tag, attributes, text)."""
    root = ET.fromstring(re.sub(' xmlns="[^"]*"', "", figure))
    shapes = [each for each in root if each.tag not in ("title", "desc")]
    return root.get("viewBox"), [(each.tag, each.attrib, each.text or "") for each in shapes]


def rounded_off(figure):
    """Return the parts of a figure, with the numbers apart, so that they can be compared."""
    size, shapes = parts(figure)
    text = json.dumps([size, shapes], sort_keys=True)
    return re.sub(r"-?\d+(\.\d+)?", "#", text), [
        float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", text)
    ]


def expect_same(one, other):
    (words, numbers), (others, more) = rounded_off(one), rounded_off(other)
    assert words == others
    assert numbers == pytest.approx(more, abs=0.1)


def test_python_and_javascript_draw_the_same(bench):
    """Of every recorded trace, the panels draw the same shapes as the recorded figure has, their
    coordinates equal to a tenth."""
    assert len(TRACES) >= 12
    for name, trace in TRACES.items():
        expect_same(bench.evaluate(DRAW, json.loads(trace)), FIGURES[name])


def test_python_and_javascript_draw_the_same_of_anything(bench):
    """The two drawers agree on 150 random traces too: with two and three lanes, with and without a
    scale of time, finished and still going on, with texts that are too long."""
    for seed in range(150):
        trace = made_up(seed)
        drawn = sequence_diagram(json.dumps(trace), "title", "description")
        expect_same(bench.evaluate(DRAW, trace), drawn)


def test_a_trace_so_far_grows_into_the_whole(bench):
    """A replay that has come to the end of a trace is the recorded figure, and at each moment
    before it shows the messages up to then at their place in the whole."""
    for name, text in TRACES.items():
        trace = json.loads(text)
        if "unit" not in trace:
            continue
        _, whole = parts(FIGURES[name])
        for now in (0, 1, 2.2, 4.4, 9):
            drawn = bench.evaluate(f"(trace) => ({DRAW})(sequence.until(trace, {now}))", trace)
            _, shapes = parts(drawn)
            heads = [shape for shape in shapes if shape[0] == "polygon"]
            shown = sum(message["at"] <= now for message in trace["messages"])
            assert heads == [shape for shape in whole if shape[0] == "polygon"][:shown]


# What overlaps: texts, and texts with lines, arrows, points and bars that are not their background.
OVERLAPS = """(figures) => {
  const main = document.querySelector("main");
  const found = [];
  for (const [name, code] of figures) {
    main.innerHTML = code;
    const svg = main.firstElementChild;
    const { width, height } = svg.viewBox.baseVal;
    const texts = [...svg.querySelectorAll("text")].filter((each) => each.textContent);
    const boxes = new Map(texts.map((each) => [each, each.getBBox()]));
    for (const text of texts) {
      const { x, y, width: w, height: h } = boxes.get(text);
      // Half a unit of a box may be touched: it is higher than its letters.
      const [left, right, top, bottom] = [x + 0.5, x + w - 0.5, y + 0.5, y + h - 0.5];
      const report = (what) => found.push(`${name}: ${text.textContent} (${what})`);
      if (left < 0 || right > width || top < 0 || bottom > height) report("outside");
      const clear = (x1, y1, x2, y2) => x2 <= left || x1 >= right || y2 <= top || y1 >= bottom;
      // Cuts a segment by the box (Liang–Barsky).
      const hit = (x1, y1, x2, y2) => {
        let [from, to] = [0, 1];
        for (const [p, q] of [
          [x1 - x2, x1 - left], [x2 - x1, right - x1], [y1 - y2, y1 - top], [y2 - y1, bottom - y1],
        ]) {
          if (p === 0 && q < 0) return false;
          if (p < 0) from = Math.max(from, q / p);
          if (p > 0) to = Math.min(to, q / p);
        }
        return from <= to;
      };
      for (const [other, box] of boxes)
        if (other !== text && !clear(box.x, box.y, box.x + box.width, box.y + box.height))
          report(`text ${other.textContent}`);
      for (const each of svg.querySelectorAll("line")) {
        const half = parseFloat(getComputedStyle(each).strokeWidth) / 2 - 0.5;
        const [x1, y1, x2, y2] = ["x1", "y1", "x2", "y2"].map((key) => each[key].baseVal.value);
        const sides = [-half, half];
        if (sides.some((by) => hit(x1 + by, y1, x2 + by, y2) || hit(x1, y1 + by, x2, y2 + by)))
          report(`line ${each.getAttribute("class")}`);
      }
      for (const each of svg.querySelectorAll("polyline")) {
        const points = [...each.points];
        if (points.slice(1).some((to, n) => hit(points[n].x, points[n].y, to.x, to.y)))
          report("curve");
      }
      for (const each of svg.querySelectorAll("rect, polygon, circle")) {
        const box = each.getBBox();
        if (clear(box.x, box.y, box.x + box.width, box.y + box.height)) continue;
        const { x: x1, y: y1, width: across, height: down } = box;
        const inside = x1 <= left && x1 + across >= right && y1 <= top && y1 + down >= bottom;
        const background = each.matches(".held") || text.matches(".on-bar");
        if (!(inside && background)) report(each.getAttribute("class"));
      }
    }
  }
  main.replaceChildren();
  return found;
}"""


@pytest.mark.parametrize("width", [358, 400])
def test_no_text_lies_over_anything(bench, width):
    """In the fonts of the site, on a phone and on a desktop, no text of a recorded figure overlaps
    another text, a line, an arrow, a point, or a bar that is not its own background."""
    bench.add_style_tag(content=f"main {{ width: {width}px }}")
    assert bench.evaluate(OVERLAPS, list(FIGURES.items())) == []


def test_no_text_of_a_dense_trace_lies_over_anything(bench):
    """In the figure of a client that polls ten times a second, no text overlaps anything either."""
    messages, bars = [], []
    for poll in range(30):
        at = poll * 0.1
        messages.append({"at": at, "from": "client", "to": "server", "text": "GET /jobs/…"})
        messages.append({"at": at + 0.01, "from": "server", "to": "client", "text": "200 pending"})
        bars.append({"kind": "held", "messages": [2 * poll, 2 * poll + 1]})
    bars.append({"kind": "job", "lane": "server", "start": 0.02, "end": 0.05, "text": "job"})
    notes = [{"at": 0.05, "lane": "server", "text": "done"}]
    notes.append({"at": 0.05, "lane": "client", "text": "closed 1006"})
    trace = {"lanes": ["client", "server"], "unit": "s", "messages": messages, "bars": bars}
    figures = [
        (scale, sequence_diagram(json.dumps(trace | {"notes": notes} | scale), "", ""))
        for scale in ({}, {"scale": 44})
    ]
    assert bench.evaluate(OVERLAPS, [[str(name), figure] for name, figure in figures]) == []


def test_overlaps_are_found(bench):
    """The search for overlaps finds a text over a text, a line, a sloping arrow and the edge of a
    bar, and lets one inside its own background pass."""
    text = '<text x="50" y="50">words</text>'
    for shape, problems in (
        ('<text x="60" y="52">others</text>', 2),
        ('<line class="up" x1="0" y1="49" x2="200" y2="49"/>', 1),
        ('<line class="up" x1="40" y1="20" x2="80" y2="70"/>', 1),
        ('<line class="up" x1="0" y1="60" x2="200" y2="60"/>', 0),
        ('<rect class="held" x="60" y="0" width="90" height="90"/>', 1),
        ('<rect class="held" x="0" y="0" width="200" height="90"/>', 0),
        ('<rect class="job" x="0" y="0" width="200" height="90"/>', 1),
        ('<circle class="measured" cx="55" cy="50" r="5"/>', 1),
        ('<polygon class="up" points="55,45 62,40 62,50"/>', 1),
    ):
        figure = f'<svg class="figure" viewBox="0 0 200 90">{shape}{text}</svg>'
        assert len(bench.evaluate(OVERLAPS, [["made up", figure]])) == problems, shape


# Colours, scales and sizes


@pytest.mark.parametrize("name", FIGURES)
def test_colours_have_a_legend(name):
    """In every figure with arrows of two directions, held requests, lateness or measured points, a
    legend names these colours."""
    _, shapes = parts(FIGURES[name])
    named = {
        one[1].get("class"): words
        for one, (tag, attributes, words) in pairwise(shapes)
        if tag == "text" and attributes.get("class") == "note" and one[0] != "text"
    }
    used = {attributes.get("class") for tag, attributes, _ in shapes if tag != "text"}
    meanings = {
        "up": r"\w+ → \w+|request|to the server",
        "down": r"\w+ → \w+|response|to the client",
        "held": "held|open|server down",
        "late": "late",
        "measured": "measured",
        "formula": "formula",
        "came": "connection attempts|jobs that wait, .*",
    }
    for css, meaning in meanings.items():
        assert css not in used or re.fullmatch(meaning, named[css])


def test_a_logarithmic_scale_is_labelled():
    """The figure of the timers states that its scale is logarithmic, and has its powers of ten."""
    texts = [text for tag, _, text in parts(FIGURES["timeouts/ladders.svg"])[1] if tag == "text"]
    assert {"logarithmic scale", "1 s", "10 s", "100 s", "1,000 s"} <= set(texts)


@pytest.mark.parametrize("name", TRACES)
def test_a_sequence_diagram_is_compact(bench, name):
    """On a desktop a sequence diagram is at most 360 px high."""
    bench.evaluate("(code) => (document.querySelector('main').innerHTML = code)", FIGURES[name])
    assert bench.locator("svg").bounding_box()["height"] <= 360
