// Continues a text, and shows how likely every token was: pointing at one, or moving to it with the arrow
// keys, shows what else the model thought of. Choosing another one goes on from there.

import { Answer } from "./answer.js";
import { button, copyText, h, kept, number } from "./dom.js";
import { sampling } from "./settings.js";

const ALTERNATIVES = 6;
const LONGEST = 256; // tokens, unless the settings say otherwise: a base model need not end

export class Complete {
  tokens = []; // as the server tells them: id, bytes, logprob, top_logprobs

  constructor() {
    this.area = h("textarea", {
      id: "text", rows: "8", spellcheck: "false", class: "source", value: kept.get("complete", ""),
      oninput: () => kept.set("complete", this.area.value), placeholder: "def fibonacci(",
    });
    this.answer = new Answer("Continue the text", () => this.begin());
    this.out = h("div", { class: "tokens", role: "group", "aria-label": "Tokens of the continuation", onkeydown: (e) => this.#move(e) });
    this.tip = h("div", { class: "tip", id: "tip", role: "tooltip", hidden: true });
    this.element = h("section", { class: "page", "aria-label": "Complete" },
      h("label", { for: "text" }, "Text"), this.area,
      h("div", { class: "row" }, this.answer.start, this.answer.end,
        button("Add to the text", () => this.#accept()), button("Copy", () => copyText(this.text)), this.answer.figures),
      this.answer.problem,
      h("h2", {}, "Continuation"),
      h("p", { class: "hint" }, "Green tokens were likely, red ones were not. Point at one, or use the arrow keys, for what else the model thought of; a digit chooses."),
      this.out, this.tip);
    this.answer.keys(this.element);
  }

  open() {
    this.area.focus();
  }

  close() {
    this.tip.hidden = true;
  }

  /** The continuation. */
  get text() {
    return this.pieces().join("");
  }

  /** The tokens' texts; of a character that is spread over tokens, the last one has it. */
  pieces() {
    const decoder = new TextDecoder();
    return this.tokens.map(({ bytes }) => decoder.decode(new Uint8Array(bytes), { stream: true }));
  }

  /** Continue the text, behind the first `n` tokens of what was there and perhaps another one. */
  async begin(n = 0, other = null) {
    if (this.answer.running) return;
    this.tokens = [...this.tokens.slice(0, n), ...(other ? [other] : [])];
    this.#show();
    const given = this.tokens.map(({ id }) => id);
    const prompt = given.length ? [this.area.value, ...given] : this.area.value;
    const body = { max_tokens: LONGEST, ...sampling(), prompt, n_probs: ALTERNATIVES, timings_per_token: true };
    await this.answer.run("completion", body, (event) => {
      this.tokens.push(...(event.completion_probabilities ?? []));
      this.#due ??= requestAnimationFrame(() => this.#show());
    });
    this.#show();
  }

  #due = null;

  #show() {
    this.#due = null;
    const pieces = this.pieces();
    while (this.out.children.length > this.tokens.length) this.out.lastChild.remove();
    this.tokens.forEach((token, i) => {
      const there = this.out.children[i];
      if (there?.token === token) return;
      const element = this.#element(token, pieces[i], i);
      if (there) there.replaceWith(element);
      else this.out.append(element);
    });
    if (!this.out.querySelector("[tabindex='0']")) this.out.firstChild?.setAttribute("tabindex", "0");
  }

  #element(token, piece, i) {
    const share = Math.exp(token.logprob);
    const shown = piece.replace(/\n/g, "↵\n") || "·";
    const element = h("span", { // no button: the lines of a text go on through spans only
      role: "button", class: `token level${Math.min(9, Math.floor(share * 10))}`, tabindex: "-1",
      "aria-label": `${JSON.stringify(piece)}, ${percent(share)}`, "aria-describedby": "tip",
      onmouseenter: () => this.#explain(i), onfocus: () => this.#explain(i), onmouseleave: () => this.#leave(),
      onblur: () => this.#leave(),
    }, shown);
    element.token = token;
    return element;
  }

  #explain(i) {
    const token = this.tokens[i];
    if (!token) return;
    clearTimeout(this.leaving);
    const rows = (token.top_logprobs ?? []).map((other) => {
      const share = Math.exp(other.logprob);
      const choose = button(JSON.stringify(other.token), () => this.begin(i, other), { tabindex: "-1", title: "Go on with this one" });
      const mark = other.id === token.id ? "chosen" : "";
      return h("li", { class: mark }, choose, h("meter", { min: 0, max: 1, value: share, "aria-label": "Probability" }), h("span", {}, percent(share)), h("small", {}, String(other.id)));
    });
    this.tip.replaceChildren(h("p", {}, `Token ${i + 1}: ${JSON.stringify(token.token)}, id ${token.id}, ${percent(Math.exp(token.logprob))}`), h("ol", {}, rows));
    this.tip.onmouseenter = () => clearTimeout(this.leaving);
    this.tip.onmouseleave = () => this.#leave();
    this.tip.hidden = false;
    const box = this.out.children[i].getBoundingClientRect();
    const { offsetWidth: width, offsetHeight: height } = this.tip;
    this.tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
    this.tip.style.top = `${box.bottom + height + 8 > innerHeight ? Math.max(8, box.top - height - 2) : box.bottom + 2}px`;
  }

  #leave() {
    clearTimeout(this.leaving);
    this.leaving = setTimeout(() => (this.tip.hidden = true), 250);
  }

  #move(event) {
    const at = [...this.out.children].indexOf(document.activeElement);
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: 10, ArrowUp: -10, Home: -at, End: this.tokens.length - 1 - at };
    if (at < 0) return;
    if (/^[1-9]$/.test(event.key)) {
      const other = this.tokens[at].top_logprobs?.[event.key - 1];
      if (other) this.begin(at, other);
    } else if (event.key in steps) {
      event.preventDefault();
      const to = this.out.children[Math.max(0, Math.min(this.tokens.length - 1, at + steps[event.key]))];
      this.out.children[at].tabIndex = -1;
      to.tabIndex = 0;
      to.focus();
    } else if (event.key === "Escape") {
      this.tip.hidden = true;
    }
  }

  #accept() {
    this.area.value += this.text;
    kept.set("complete", this.area.value);
    this.tokens = [];
    this.#show();
    this.area.focus();
  }
}

function percent(share) {
  return `${number(share * 100, share < 0.1 ? 2 : 1)} %`;
}
