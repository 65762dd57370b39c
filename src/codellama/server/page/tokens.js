// The exact ids that a dialog becomes, control tokens such as <step> among them, or those of a text.

import { post } from "./api.js";
import { count, h, kept, number } from "./dom.js";
import { server } from "./server.js";
import { store } from "./store.js";
import { firstWords, messagesOf, pathTo, treeOf } from "./tree.js";

const PAUSE_MS = 250;
const TEXT = "text";

export class Tokens {
  #due = 0;
  #latest = 0;

  constructor() {
    this.choice = h("select", { id: "what", onchange: () => this.#choose() });
    this.area = h("textarea", { id: "tokentext", rows: "6", spellcheck: "false", class: "source", value: kept.get("tokens", ""),
      oninput: () => (kept.set("tokens", this.area.value), this.#later()) });
    this.label = h("label", { for: "tokentext" }, "Text");
    this.count = h("p", { class: "figures", role: "status" });
    this.out = h("div", { class: "ids", role: "region", "aria-label": "Tokens", tabindex: "0" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.element = h("section", { class: "page", "aria-label": "Tokens" },
      h("div", { class: "field" }, h("label", { for: "what" }, "Of what"), this.choice),
      this.label, this.area, this.count, this.problem, this.out);
  }

  async open() {
    const all = await store.conversations();
    const chosen = this.choice.value;
    this.choice.replaceChildren(
      ...(server.canChat ? [h("option", { value: "question" }, "A question, as a chat puts it")] : []),
      h("option", { value: TEXT }, "A text as it is"),
      ...(server.canChat ? all.map(({ id, title }) => h("option", { value: id }, `Conversation: ${firstWords(title, 50)}`)) : []));
    if ([...this.choice.options].some(({ value }) => value === chosen)) this.choice.value = chosen;
    this.#choose();
  }

  close() {
    clearTimeout(this.#due);
  }

  #choose() {
    const typed = ["question", TEXT].includes(this.choice.value);
    this.area.hidden = this.label.hidden = !typed;
    this.#read();
  }

  #later() {
    clearTimeout(this.#due);
    this.#due = setTimeout(() => this.#read(), PAUSE_MS);
  }

  async #read() {
    const turn = ++this.#latest;
    let tokens;
    try {
      tokens = await this.#tokens();
      this.problem.hidden = true;
    } catch (error) {
      server.met(error);
      this.problem.textContent = error.message;
      this.problem.hidden = false;
      tokens = [];
    }
    if (turn === this.#latest) this.#show(tokens);
  }

  async #tokens() {
    if (this.choice.value === TEXT) {
      const body = { content: this.area.value, add_special: true, parse_special: true, with_pieces: true };
      return (await post("tokenize", body)).tokens;
    }
    const messages = this.choice.value === "question" ? [{ role: "user", content: this.area.value }] : await this.#dialog();
    return (await post("apply-template", { messages, return_tokens: true, context_policy: "error" })).tokens;
  }

  async #dialog() {
    const conversation = await store.conversation(this.choice.value);
    const path = pathTo(treeOf(await store.turns(conversation.id)), conversation.leaf);
    return messagesOf(conversation.system, path);
  }

  #show(tokens) {
    const size = server.contextSize;
    this.count.textContent = `${count(tokens.length, "token")}${size ? `; the context holds ${number(size)}` : ""}`;
    this.out.replaceChildren(...tokens.map(tokenElement));
  }
}

function tokenElement({ id, piece, control }) {
  const text = typeof piece === "string" ? piece : `bytes ${piece.map((byte) => byte.toString(16).padStart(2, "0")).join(" ")}`;
  const shown = text.replace(/\n/g, "↵").replace(/ /g, "␣").replace(/\t/g, "⇥");
  return h("span", { class: control ? "id control" : "id" }, h("span", { class: "piece" }, shown), h("small", {}, String(id)));
}
