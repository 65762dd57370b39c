// Fills a gap: what stands before the cursor and behind it goes to the model, and what it writes comes between.

import { Answer } from "./answer.js";
import { button, copyText, h, kept, say } from "./dom.js";
import { sampling } from "./settings.js";

const LONGEST = 256; // tokens, unless the settings say otherwise

export class Infill {
  constructor() {
    this.area = h("textarea", {
      id: "gap", rows: "18", spellcheck: "false", class: "source", value: kept.get("infill", ""),
      oninput: () => this.#keep(), onkeyup: () => this.#place(), onclick: () => this.#place(),
      placeholder: "def add(a, b):\n    \n\nprint(add(1, 2))",
    });
    this.where = h("span", { class: "hint" });
    this.answer = new Answer("Fill in at the cursor", () => this.begin());
    this.back = button("Take it out", () => this.#undo(), { hidden: true });
    this.element = h("section", { class: "page", "aria-label": "Fill in" },
      h("label", { for: "gap" }, "Text with the cursor where something is missing"), this.area,
      h("div", { class: "row" }, this.answer.start, this.answer.end, this.back, button("Copy all", () => copyText(this.area.value)), this.where, this.answer.figures),
      this.answer.problem);
    this.answer.keys(this.element);
  }

  open() {
    this.area.focus();
    this.#place();
  }

  close() {}

  /** Fill in at the cursor; a selected text is replaced. */
  async begin() {
    if (this.answer.running) return;
    const { value, selectionStart, selectionEnd } = this.area;
    const [prefix, suffix] = [value.slice(0, selectionStart), value.slice(selectionEnd)];
    this.before = value;
    this.back.hidden = true;
    this.area.readOnly = true;
    let middle = "";
    const body = { max_tokens: LONGEST, ...sampling(), input_prefix: prefix, input_suffix: suffix, timings_per_token: true };
    await this.answer.run("infill", body, ({ content }) => {
      middle += content;
      this.area.value = prefix + middle + suffix;
      this.area.setSelectionRange(prefix.length, prefix.length + middle.length);
      this.#keep();
    });
    this.area.readOnly = false;
    this.back.hidden = !middle;
    this.area.focus();
    this.area.setSelectionRange(prefix.length, prefix.length + middle.length); // shown by being selected
    say(`Filled in: ${middle}`);
  }

  #undo() {
    const { selectionStart } = this.area;
    this.area.value = this.before;
    this.back.hidden = true;
    this.#keep();
    this.area.focus();
    this.area.setSelectionRange(selectionStart, selectionStart);
  }

  #keep() {
    kept.set("infill", this.area.value);
    this.#place();
  }

  #place() {
    const { selectionStart, selectionEnd, value } = this.area;
    this.where.textContent = `${selectionStart} characters before, ${value.length - selectionEnd} behind`;
  }
}
