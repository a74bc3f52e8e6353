// The editor of *Run here*: a textarea with its text in colour behind it, by prism-code-editor, of
// which 6 kB are loaded; CodeMirror would have 120.

import { createEditor } from "./runtime/editor/index.js";
import { languages, rest } from "./runtime/editor/prism/index.js";
import { element } from "./panel/shared.js";

const words = (list) => list.trim().split(/\s+/).join("|");
const KEYWORDS = words(`
as assert async await break class continue def del elif else except finally for from global if
import lambda nonlocal pass raise return try while with yield`);
const BUILTINS = words(`
__import__ abs aiter all any bin bool bytearray breakpoint bytes callable chr classmethod compile
complex delattr dict dir divmod enumerate eval filter float format frozendict frozenset getattr
globals hasattr hash hex id input int isinstance issubclass iter len list locals map max memoryview
min next object oct open ord pow print property range repr reversed round sentinel set setattr slice
sorted staticmethod str sum super tuple type vars zip self cls Ellipsis NotImplemented`);
const ERRORS = words(`
Arithmetic Assertion Attribute BlockingIO BrokenPipe Buffer ChildProcess Connection
ConnectionAborted ConnectionRefused ConnectionReset EOF Environment FileExists FileNotFound
FloatingPoint IO Import Indentation Index Interrupted IsADirectory Key Lookup Memory ModuleNotFound
Name NotADirectory NotImplemented OS Overflow Permission ProcessLookup Recursion Reference Runtime
Syntax System Tab Timeout Type UnboundLocal Unicode UnicodeDecode UnicodeEncode UnicodeTranslate
Value ZeroDivision`);
const WARNINGS = words(`
Bytes Deprecation Encoding Future Import PendingDeprecation Resource Runtime Syntax Unicode User`);
const EXCEPTIONS = words(`
BaseException Exception GeneratorExit KeyboardInterrupt StopAsyncIteration StopIteration SystemExit
Warning (?:${WARNINGS})Warning (?:${ERRORS})Error`);
const QUOTED = String.raw`(?:("""|''')(?:\\[^]|(?!\1)[^])*\1|(["'])(?:\\[^]|(?!\2)[^\\\n])*\2)`;
const ESCAPE = /\\(?:[\\abfnrtv"'\n]|N\{.*?\}|u[\da-fA-F]{4}|U[\da-fA-F]{8}|x[\da-fA-F]{2}|[0-7]{1,3})/;
const ESCAPE_OF_BYTES = /\\(?:[\\abfnrtv"'\n]|x[\da-fA-F]{2}|[0-7]{1,3})/;
const ESCAPE_OF_RAW = /\\[\\"'\n]/;

/** Returns the tokens of a formatted string. */
function formatted(escape) {
  const inside = { si: /^\{|(?:=\s*)?(?:![sraf])?(?::[^{}[\]]*)?\}$/, [rest]: "python" };
  return {
    replacement: { pattern: /(?<=(?:^|[^{])(?:\{\{)*)\{(?!\{)(?:[^{}]|\{[^{}]*\})*\}/, inside },
    se: [/\{\{|\}\}/, escape],
    s2: /[^]+/,
  };
}

// The library's own grammar distinguishes less than the pages do. The names here are the classes
// that Pygments gives the same words, so that the style sheet of the pages colours both.
languages.python = {
  c1: /#.*/g,
  sd: { pattern: /(^[^\S\n]*[bru]{0,2})("""|''')[^]*?\2/gim, lookbehind: true },
  string: [
    { pattern: RegExp(`(?<=\\b(?:fr|rf))${QUOTED}`, "gi"), inside: formatted(ESCAPE_OF_RAW) },
    { pattern: RegExp(`(?<=\\bf)${QUOTED}`, "gi"), inside: formatted(ESCAPE) },
  ],
  s2: [
    { pattern: RegExp(`(?<=\\b(?:rb|br|r))${QUOTED}`, "gi"), inside: { se: ESCAPE_OF_RAW } },
    { pattern: RegExp(`(?<=\\bb)${QUOTED}`, "gi"), inside: { se: ESCAPE_OF_BYTES } },
    { pattern: RegExp(QUOTED, "g"), inside: { se: ESCAPE } },
  ],
  nf: /(?<=\bdef\s+)(?!__\w+__\b)\w+/,
  nc: /(?<=\bclass\s+)\w+/,
  nn: [
    /(?<=(?<!\byield\s+)\bfrom\s+)(?!None\b)[\w.]+/g,
    /(?<=^[^\S\n]*import [\w ,.]*)(?!as\b)\b[\w.]+/gm,
  ],
  k: [
    /@[^\W\d]\w*/, // a decorator
    RegExp(`\\b(?:${KEYWORDS})\\b`),
    RegExp(
      `(?<=^ *)(?:match|case)\\b(?! *(?:[:,;=^&|@~)\\]}]|(?:${KEYWORDS}|and|in|is|not|or)\\b))`, "gm",
    ),
    /(?<=^ *case [^_\n]*)_\b/gm,
  ],
  nb: RegExp(`(?<![.\\w])(?:${BUILTINS})\\b`),
  ne: RegExp(`(?<![.\\w])(?:${EXCEPTIONS})\\b`),
  mi: /(?<!\w)(?:0[box][\da-f_]+|(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)(?:e[+-]?\d[\d_]*)?)/i,
};

element(document.head, "link", {
  rel: "stylesheet", href: new URL("runtime/editor/layout.css", import.meta.url),
});

export class Editor {
  #code;

  /** Adds an editor to an element; calls `run` on Ctrl and Enter. */
  constructor(parent, label, value, run) {
    this.part = element(parent, "div", { class: "runner-editor", hidden: "" });
    const options = { language: "python", tabSize: 4, class: "highlight", value };
    this.#code = createEditor(this.part, options);
    const { textarea, keyCommandMap } = this.#code;
    textarea.setAttribute("aria-label", label);
    // Tab moves the focus on, as in every other field; Enter indents.
    keyCommandMap.Enter = (event, [start], text) => {
      if (event.ctrlKey || event.metaKey) {
        run();
        return true;
      }
      const [indent] = /^ */.exec(text.slice(text.lastIndexOf("\n", start - 1) + 1, start));
      const further = text[start - 1] === ":" ? "    " : "";
      // Unlike a change of the value, it can be undone.
      return document.execCommand("insertText", false, `\n${indent}${further}`);
    };
  }

  get value() {
    return this.#code.value;
  }

  set value(value) {
    this.#code.setOptions({ value });
  }

  onInput(action) {
    this.#code.on("update", action);
  }

  /** Puts the caret on a line, or selects the line. */
  goTo(line, isSelected = false) {
    const { container, lines, textarea, value } = this.#code;
    const texts = value.split("\n");
    const start = texts.slice(0, line - 1).join("\n").length + (line > 1 ? 1 : 0);
    textarea.focus({ preventScroll: true });
    textarea.setSelectionRange(start, start + (isSelected ? texts[line - 1].length : 0));
    container.scrollTop = lines[line].offsetTop - 3 * lines[line].offsetHeight;
  }

  /** Marks a line, and no other; no line without a number. */
  mark(line) {
    for (const each of this.#code.lines) each.classList.remove("runner-fault");
    this.#code.lines[line]?.classList.add("runner-fault");
  }
}
