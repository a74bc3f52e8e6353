// The sequence diagram of a panel, or of one of *Run here*, which scrolls to what is newest.

import { draw } from "../sequence.js";
import { element } from "./shared.js";

const NEAR = 40; // pixels from the end

export class Diagram {
  constructor(parent, name = "panel-wire") {
    this.frame = element(parent, "div", {
      class: name, tabindex: "0", role: "region", "aria-label": "Sequence of messages",
    });
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("class", "figure sequence");
    this.svg.setAttribute("role", "img");
    this.title = this.svg.appendChild(document.createElementNS(this.svg.namespaceURI, "title"));
    this.frame.append(this.svg);
    this.follows = true; // until somebody scrolls up
    this.frame.addEventListener("scroll", () => {
      const { scrollHeight, scrollTop, clientHeight } = this.frame;
      this.follows = scrollHeight - scrollTop - clientHeight < NEAR;
    });
  }

  /** Draws a trace; in a figure of the given height, if it is to have the same one later. */
  draw(trace, description, height) {
    draw(this.svg, trace);
    if (height) this.svg.setAttribute("viewBox", `0 0 360 ${height}`);
    if (this.title.textContent !== description) this.title.textContent = description;
    if (this.follows) this.frame.scrollTop = this.frame.scrollHeight;
  }

  get height() {
    return this.svg.viewBox.baseVal.height;
  }
}
