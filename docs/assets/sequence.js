// Draws sequence diagrams. tests/support/sequence.py draws the same for the recorded figures, and
// documents the format of a trace; a proof holds the two equal. Change both together.
//
//   draw(svg, trace)      fills an <svg> with a trace; call it again as the trace grows
//   until(trace, now)     returns the part of a finished trace that has happened by then
//
// A run that is still going on has `now`, and a fixed `scale` so that what is drawn stays in place.

const WIDTH = 360;
const FIRST = 44; // the first message
const PITCH = 20; // from one message to the next: room for its text
const SCALE = 56; // one unit of time, at the most
const LOWEST = 280; // the last message, unless there are too many
const TICKS = 34; // the scale of time is written left of this
const SIZE = 14; // of all text, as in figures.css
const LINE = 18; // from one line of text to the next
const HEAD = 7; // length of an arrow's head
const LANES = { timed: { 2: [84, 296], 3: [84, 184, 284] }, rows: { 2: [40, 258], 3: [52, 154, 256] } };
// Widths of characters in parts of the size of the font, at the most; of others it is OTHER.
const CHARACTERS = [
  [" !'|,.:;`ijl·’", 34],
  ['"()[]{}-/\\_frtI1“', 45],
  ["?*79JLTacehknosuvxyz×–", 58],
  ["#&0=ABCDGHKNOQRUVXw", 77],
  ["%@MWm—…→", 100],
];
const OTHER = 63;

/** Draws a trace into an <svg>; its <title> and <desc> stay. */
export function draw(svg, trace) {
  const { height, shapes } = layout(trace);
  svg.setAttribute("viewBox", `0 0 ${WIDTH} ${height}`);
  const kept = svg.querySelectorAll(":scope > :is(title, desc)");
  svg.replaceChildren(...kept, ...shapes.map(element));
}

/** Returns a finished trace as it was at a time. */
export function until(trace, now) {
  const begun = (list, name = "at") => list?.filter((each) => each[name] <= now) ?? [];
  const messages = begun(trace.messages);
  const bars = (trace.bars ?? [])
    .filter((bar) => (bar.messages ? bar.messages[0] < messages.length : bar.start <= now))
    .map((bar) => (bar.end > now ? { ...bar, end: now } : bar));
  const [notes, crosses, starts] = ["notes", "crosses", "starts"].map((name) => begun(trace[name]));
  return { ...trace, messages, bars, notes, crosses, starts, now, scale: scaleOf(trace) };
}

function layout(trace) {
  const { lanes, messages, bars = [], crosses = [], starts = [] } = trace;
  const places = LANES["unit" in trace ? "timed" : "rows"][lanes.length];
  const x = Object.fromEntries(lanes.map((lane, number) => [lane, places[number]]));
  const notes = [...(trace.notes ?? []), ...starts];
  const scale = scaleOf(trace);
  const { heights, y } = place(trace, scale);
  const now = trace.now ?? lastTime(trace);
  const end = Math.max(y(now), ...heights);

  const bands = [];
  const back = lanes.flatMap((lane) => life(lane, x[lane], end + 12, y, crosses, starts));
  const front = [];
  const beside = [];
  for (const bar of bars) {
    if (bar.kind === "held") {
      bands.unshift(...band(bar, messages, heights, x, y(bar.end ?? now)));
      continue;
    }
    const top = y(bar.start);
    const foot = y(bar.end ?? now);
    back.push(rect(x[bar.lane] - 5, top, 10, foot - top, bar.kind, 5));
    const css = bar.kind === "late" ? "note late" : "note";
    beside.push([bar.lane, (top + foot) / 2, bar.text ?? "", css]);
  }
  messages.forEach((message, number) => {
    front.push(...passed(message, lanes, x, heights[number], y));
  });
  for (const each of crosses) {
    front.push(...cross(x[each.lane], y(each.at)));
    beside.push([each.lane, y(each.at), each.text, "note late"]);
  }
  for (const note of notes) beside.push([note.lane, y(note.at), note.text, "note"]);
  const { texts, lowest } = written(beside, lanes, x, "unit" in trace ? TICKS : 0);
  front.push(...texts);
  if ("unit" in trace) front.push(...ticks(trace, now, scale, heights, y));
  const { shown, foot } = legend(meanings(trace), Math.max(end + 20, lowest + 8));
  return { height: rounded(foot), shapes: [...bands, ...back, ...front, ...shown] };
}

/** Returns when the last thing in a trace happens. */
function lastTime({ messages, bars = [], notes = [], crosses = [], starts = [] }) {
  const times = [...messages, ...notes, ...crosses, ...starts].map(({ at, arrives = at }) => arrives);
  return Math.max(0, ...times, ...bars.flatMap(({ start = 0, end = 0 }) => [start, end]));
}

/** Returns the height of one unit of time: as much as lets the whole fit. */
function scaleOf(trace) {
  if (!("unit" in trace)) return PITCH;
  if ("scale" in trace) return trace.scale;
  for (let scale = SCALE; scale > 1; scale -= 1) {
    const { heights, y } = place(trace, scale);
    if (Math.max(y(lastTime(trace)), ...heights) <= LOWEST) return scale;
  }
  return 1;
}

/** Returns the height of each message, and a function from times to heights. */
function place(trace, scale) {
  // Moments at which something passed, the height of the first message then, and of the last.
  const moments = [{ time: 0, first: FIRST, last: FIRST - PITCH }];
  const heights = [];
  let before;
  for (const message of trace.messages) {
    const { time, first, last } = moments.at(-1);
    let here = Math.max(first + (message.at - time) * scale, last + PITCH);
    if (before && crossed(before, message)) here = heights.at(-1);
    if (message.at > time) moments.push({ time: message.at, first: here });
    moments.at(-1).last = here;
    heights.push(here);
    before = message;
  }

  function y(at) {
    const number = Math.max(0, moments.findLastIndex(({ time }) => time <= at));
    const { time, first, last } = moments[number];
    if (at <= time) return first;
    const lowest = moments[number + 1]?.first ?? Infinity;
    return Math.min(lowest, Math.max(last, first + (at - time) * scale));
  }

  return { heights, y };
}

/** Returns whether two messages left opposite lanes at the same time, and so may cross. */
function crossed(one, other) {
  const slow = "arrives" in one && "arrives" in other;
  return slow && one.at === other.at && one.from !== other.from;
}

/** Returns the lines of a lane, from its name to its end, with the gaps after its crosses. */
function life(lane, x, end, y, crosses, starts) {
  const shapes = [text(x, 16, lane, "lane", "middle")];
  const marks = [...crosses.map((each) => [each, false]), ...starts.map((each) => [each, true])]
    .filter(([each]) => each.lane === lane)
    .map(([each, alive]) => [y(each.at), alive])
    .sort(([one], [other]) => one - other);
  let top = 24;
  for (const [here, alive] of marks)
    if (alive) {
      top = here;
      shapes.push(line(x - 8, here, x + 8, here, "life"));
    } else if (top !== undefined) {
      shapes.push(line(x, top, x, here, "life"));
      top = undefined;
    }
  if (top !== undefined) shapes.push(line(x, top, x, end, "life"));
  return shapes;
}

/** Returns the tint between two lanes while a request is open, and its name if there is room. */
function band({ messages: [request, response] }, messages, heights, x, end) {
  const open = response === undefined || response >= messages.length;
  const top = heights[request];
  const foot = open ? Math.max(top, end) : heights[response];
  const ends = [x[messages[request].from], x[messages[request].to]];
  const left = Math.min(...ends);
  const right = Math.max(...ends);
  const shapes = [rect(left, top, right - left, foot - top, "held")];
  const between = (open ? messages.length : response) - request - 1;
  if (between === 0 && foot - top >= 60)
    shapes.push(text((left + right) / 2, (top + foot) / 2 + 4, "held", "note", "middle"));
  return shapes;
}

/** Returns the arrow of a message, and its text. */
function passed(message, lanes, x, y1, y) {
  const x1 = x[message.from];
  let x2 = x[message.to];
  let css = direction(message, lanes);
  const y2 = "arrives" in message ? Math.max(y1, y(message.arrives)) : y1;
  const sign = x2 > x1 ? 1 : -1;
  // Where lanes are between the two, it is written before the first of them.
  let beyond = x[lanes[lanes.indexOf(message.from) + sign]];
  let shapes;
  if (message.lost) {
    x2 = beyond = x1 + (x2 - x1) * 0.7;
    shapes = [line(x1, y1, x2, y2, "lost"), ...cross(x2, y2)];
    css = "late";
  } else shapes = arrow(x1, y1, x2, y2, css);
  const room = Math.abs(beyond - x1) - 20;
  if (y2 > y1) {
    // Written at its start, where no other crosses it.
    const [words] = fitted(message.text, room / 2, SIZE, 1);
    return [...shapes, text(x1 + 12 * sign, y1 - 5, words, css, sign > 0 ? "start" : "end")];
  }
  const [words] = fitted(message.text, room, SIZE, 1);
  return [...shapes, text((x1 + beyond) / 2, y1 - 5, words, css, "middle")];
}

/**
 * Returns the class of a message: "up" if it comes from the client, else "down"; between three
 * parties in a row, "up" if it goes to the right.
 */
export function direction({ from, to }, lanes) {
  if (lanes.includes("client") && !inARow(lanes)) return from === "client" ? "up" : "down";
  return lanes.indexOf(to) > lanes.indexOf(from) ? "up" : "down";
}

/** Returns whether a server between two others is the client of the third. */
function inARow(lanes) {
  return lanes.length === 3 && lanes[1] === "server";
}

/** Returns notes beside their lanes, one below the other, and the foot of the lowest. */
function written(beside, lanes, x, edge) {
  const texts = [];
  const lowest = {};
  for (const [lane, y, note, css] of beside.toSorted((one, other) => one[1] - other[1])) {
    const number = lanes.indexOf(lane);
    const left = number === 0;
    const limit = x[lanes[number + 1]] ?? WIDTH + 12;
    const room = left ? x[lane] - 12 - edge : limit - x[lane] - 24;
    let here = Math.max(y + 4, lowest[lane] ?? 0);
    for (const words of note ? fitted(note, room, SIZE, 3) : []) {
      texts.push(text(x[lane] + (left ? -10 : 12), here, words, css, left ? "end" : "start"));
      here += LINE;
      lowest[lane] = here;
    }
  }
  return { texts, lowest: Math.max(0, ...Object.values(lowest)) - 12 };
}

/**
 * Returns the scale of time: whole units, where there is room, and no message beside it that
 * passed much earlier or later.
 */
function ticks(trace, now, scale, heights, y) {
  const shapes = [];
  let before = -LINE;
  for (let time = 0; time <= now; time += Math.ceil(LINE / scale)) {
    const here = y(time);
    const misleading = trace.messages.some(
      ({ at }, number) =>
        Math.abs(heights[number] - here) < 8 && Math.abs(at - time) * scale > 8,
    );
    if (here - before < LINE || misleading) continue;
    before = here;
    shapes.push(text(4, here + 4, time ? `${time} ${trace.unit}` : "0", "tick"));
  }
  return shapes;
}

/** Returns what the colours of a trace mean. */
function meanings({ lanes, messages, bars = [] }) {
  const client = lanes.includes("client") ? "client" : lanes[0];
  let server = lanes.findLast((lane) => lane !== client);
  // "gateway A" and "gateway B" are both a gateway.
  if (lanes.length > 2) [server] = server.split(" ");
  const used = [...messages.map((each) => direction(each, lanes)), ...bars.map(({ kind }) => kind)];
  return [
    ["up", inARow(lanes) ? "request" : `${client} → ${server}`],
    ["down", inARow(lanes) ? "response" : `${server} → ${client}`],
    ["held", "held"],
    ["late", "late"],
  ].filter(([css]) => used.includes(css));
}

function legend(names, y) {
  const shown = [];
  let x = 8;
  for (const [css, words] of names) {
    if (x + 20 + measured(words, SIZE) > WIDTH) {
      x = 8;
      y += LINE;
    }
    const isArrow = css === "up" || css === "down";
    shown.push(isArrow ? line(x, y + 6, x + 14, y + 6, css) : rect(x, y + 1, 14, 10, css));
    shown.push(text(x + 20, y + 10, words, "note"));
    x += 20 + measured(words, SIZE) + 10;
  }
  return { shown, foot: y + (shown.length ? 18 : 0) };
}

/** Returns the width of a text, at the most. */
function measured(words, size) {
  const width = (character) =>
    CHARACTERS.find(([kind]) => kind.includes(character))?.[1] ?? OTHER;
  return ([...words].reduce((sum, character) => sum + width(character), 0) * size) / 100;
}

/** Returns a text in at most so many lines, each cut to the room. */
function fitted(words, room, size, lines) {
  const found = [];
  for (const word of words.split(" ")) {
    const longer = `${found.at(-1)} ${word}`;
    if (found.length && (found.length === lines || measured(longer, size) <= room))
      found[found.length - 1] = longer;
    else found.push(word);
  }
  return found.map((each) => cut(each, room, size));
}

function cut(words, room, size) {
  if (measured(words, size) <= room) return words;
  const kept = [...words];
  while (kept.length && measured(`${kept.join("")}…`, size) > room) kept.pop();
  return `${kept.join("")}…`;
}

// Shapes: [tag, attributes, text]

function shape(tag, css, sizes, words = "") {
  for (const name in sizes) sizes[name] = rounded(sizes[name]);
  return [tag, { ...sizes, class: css }, words];
}

function line(x1, y1, x2, y2, css) {
  return shape("line", css, { x1, y1, x2, y2 });
}

function rect(x, y, width, height, css, rx = 0) {
  return shape("rect", css, { x, y, width, height, rx });
}

function text(x, y, words, css, anchor = "start") {
  const [tag, attributes] = shape("text", css, { x, y });
  return [tag, { ...attributes, "text-anchor": anchor }, words];
}

function arrow(x1, y1, x2, y2, css) {
  const length = Math.sqrt((x2 - x1) ** 2 + (y2 - y1) ** 2);
  const [along, down] = [(x2 - x1) / length, (y2 - y1) / length];
  const [x, y] = [x2 - HEAD * along, y2 - HEAD * down];
  const corners = [[x2, y2], [x - 4 * down, y + 4 * along], [x + 4 * down, y - 4 * along]];
  const points = corners.map((corner) => corner.map(rounded).join()).join(" ");
  return [line(x1, y1, x, y, css), ["polygon", { points, class: css }, ""]];
}

function cross(x, y) {
  return [line(x - 5, y - 5, x + 5, y + 5, "lost"), line(x - 5, y + 5, x + 5, y - 5, "lost")];
}

function rounded(value) {
  return Math.floor(value * 10 + 0.5) / 10;
}

function element([tag, attributes, words]) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.textContent = words;
  return made;
}
