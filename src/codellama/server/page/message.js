// One turn of a conversation on the page: its text, its branches, its figures and what can be done with it.

import { button, copyText, count, h, iconButton, number } from "./dom.js";
import { showMarkdown, showTyped } from "./markdown.js";
import { server } from "./server.js";

const NOTES = {
  stopped: "You stopped this answer.",
  cut: "The answer was cut off. What had come is kept.",
  full: "The answer ends here because the context is full.",
  length: "The answer is as long as the settings allow.",
};

/** A turn's element. `actions` are `edit`, `again`, `goOn` and `branch`, which get the turn. */
export class Message {
  constructor(turn, actions) {
    this.actions = actions;
    this.body = h("div", { class: "text" });
    this.head = h("div", { class: "head" });
    this.note = h("p", { class: "note", hidden: true });
    this.foot = h("div", { class: "foot" });
    const mine = turn.role === "user";
    this.element = h("article", { class: `turn ${turn.role}`, "data-turn": turn.id, "aria-label": mine ? "Your turn" : "Answer" },
      this.head, this.body, this.note, this.foot);
    this.shown = "";
  }

  /**
   * Show the turn as it is. `beside` are the turns in its place; `last` says that the branch ends with it,
   * `busy` that an answer is being written.
   */
  update(turn, beside, last, busy) {
    if (this.editing) return;
    const key = JSON.stringify([turn, beside.map((other) => other.id), last, busy]);
    if (key === this.shown) return;
    this.shown = key;
    if (turn.role === "user") showTyped(this.body, turn.text);
    else showMarkdown(this.body, turn.text);
    this.head.replaceChildren(
      h("h2", { class: "who" }, turn.role === "user" ? "You" : "codellama"),
      ...(beside.length > 1 ? this.#branches(turn, beside, busy) : []),
    );
    this.#showNote(turn, busy);
    if (turn.state === "writing" && busy) this.foot.replaceChildren(h("span", { class: "figures" }, figures(turn)));
    else this.foot.replaceChildren(...this.#tools(turn, last, busy));
  }

  #branches(turn, beside, busy) {
    const at = beside.findIndex((other) => other.id === turn.id);
    const go = (step) => () => this.actions.branch(beside[at + step]);
    return [
      h("span", { class: "branches" },
        iconButton("‹", "Earlier branch", go(-1), { disabled: busy || at === 0 }),
        h("span", {}, `${at + 1} of ${beside.length}`),
        iconButton("›", "Later branch", go(1), { disabled: busy || at === beside.length - 1 })),
    ];
  }

  #showNote(turn, busy) {
    const gone = turn.dropped?.length ?? 0;
    const notes = [turn.state === "writing" && !busy ? "This answer is being written in another tab." : NOTES[turn.state]];
    if (gone) notes.push(`The model did not see the first ${count(gone, "turn")}: too much for the context.`);
    const text = notes.filter(Boolean).join(" ");
    this.note.textContent = text;
    this.note.hidden = !text;
  }

  #tools(turn, last, busy) {
    const tools = [h("span", { class: "figures" }, figures(turn))];
    tools.push(button("Copy", () => copyText(turn.text), { "aria-label": "Copy this turn" }));
    if (busy) return tools;
    tools.push(button("Edit", () => this.#edit(turn), { title: "Write it otherwise, in a branch of its own" }));
    if (turn.role === "assistant") tools.push(button("Again", () => this.actions.again(turn), { title: "Answer once more, in a branch of its own" }));
    const open = ["stopped", "cut", "length"].includes(turn.state) || turn.edited;
    if (turn.role === "assistant" && last && open) {
      tools.push(button("Continue", () => this.actions.goOn(turn), { class: "main" }));
    }
    return tools;
  }

  #edit(turn) {
    this.editing = true;
    const area = h("textarea", { "aria-label": "The turn's text", value: turn.text, rows: String(Math.min(20, turn.text.split("\n").length + 2)) });
    const done = () => {
      this.editing = false;
      this.body.markdownParts = undefined;
      this.body.replaceChildren();
      this.shown = "";
    };
    const cancel = () => (done(), this.actions.refresh());
    const send = () => {
      const text = area.value;
      done();
      this.actions.edit(turn, text);
    };
    area.addEventListener("keydown", (event) => {
      if (event.key === "Escape") cancel();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) send();
    });
    this.body.replaceChildren(area);
    this.foot.replaceChildren(
      button(turn.role === "user" ? "Ask this" : "Keep this", send, { class: "main" }),
      button("Cancel", cancel),
    );
    area.focus();
  }
}

function figures(turn) {
  const f = turn.figures;
  if (!f?.answer) return "";
  const speed = f.perSecond ? `, ${number(f.perSecond, f.perSecond < 10 ? 1 : 0)} tokens/s` : "";
  const size = server.contextSize;
  const left = size ? `, ${number(Math.max(0, size - f.prompt - f.answer))} of ${number(size)} tokens left` : "";
  return `${count(f.answer, "token")}${speed}${left}`;
}
