// A live server: the client of the page talks to what `make serve` runs.

import { mount, watch, watchStop } from "./client.js";
import { Diagram } from "./diagram.js";
import { Run } from "./run.js";
import { element, inSeconds, root } from "./shared.js";


/** Builds the places of the client and of the diagram; returns the run that is drawn. */
export function build(panel, counts = () => ({})) {
  const side = element(panel.body, "div", { class: "panel-side" });
  const run = new Run(new Diagram(panel.body));
  const count = () => {
    const late = run.late === undefined ? "–" : inSeconds(Math.max(0, run.late));
    panel.count({ [panel.sent]: run.sent, ...counts(run), "Known late by": run.job ? late : undefined });
  };
  run.addEventListener("draw", count);
  count();
  return { side, run };
}

export async function open(panel) {
  const { side, run } = build(panel);
  const query = new URLSearchParams(panel.data.settings);
  query.set("url", new URL(`live/${panel.data.live}`, root).href);
  const inside = await mount(side, {
    client: panel.data.client, query, prepare: (inside) => watch(inside, run),
  });
  watchStop(inside, run);
  return run;
}
