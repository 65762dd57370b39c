// The chat: the list of conversations, the branch that is shown, and the question that comes next.
// Answers go on being written when another conversation or view is opened.

import { Refused } from "./api.js";
import { Composer } from "./composer.js";
import { asked, button, confirmed, h, iconButton, number, say, saveText } from "./dom.js";
import { acceptDrops } from "./files.js";
import { askForKey } from "./key.js";
import { List } from "./list.js";
import { Message } from "./message.js";
import { server } from "./server.js";
import { newId, store } from "./store.js";
import { exported } from "./transfer.js";
import { firstWords, messagesOf, newestLeaf, pathTo, siblings, treeOf } from "./tree.js";
import { newTurn, turnsToGo, Writing } from "./writer.js";

const MENDING_MS = 3000; // between two looks whether the tab that writes an answer is still there
const writings = new Map(); // conversation → the answer that is being written in it
const problems = new Map(); // conversation → why its last question has no answer

export class Chat {
  conversation = null;
  path = [];
  messages = new Map();

  constructor() {
    this.list = new List();
    this.turns = h("div", { class: "turns" });
    this.reading = h("div", { class: "reading", hidden: true });
    this.problem = h("div", { class: "problems" });
    this.scroller = h("div", { class: "scroller", tabindex: "0", role: "region", "aria-label": "Conversation" },
      this.turns, this.reading, this.problem);
    this.head = h("div", { class: "chathead" });
    this.composer = new Composer((text) => this.ask(text), () => writings.get(this.conversation?.id)?.stop());
    const talk = h("section", { class: "talk", "aria-label": "Chat" }, this.head, this.scroller, this.composer.element);
    acceptDrops(talk, (files) => this.composer.take(files));
    this.element = h("div", { class: "chat" }, this.list.element, talk);
    this.onchange = ({ detail }) => this.#changed(detail);
    this.onserver = () => this.render();
  }

  /** Show a conversation, or a new one. */
  async open(id) {
    store.addEventListener("change", this.onchange);
    server.addEventListener("change", this.onserver);
    this.conversation = id ? await store.conversation(id) : null;
    if (id && !this.conversation) location.replace("#chat");
    this.messages.clear();
    this.turns.replaceChildren();
    this.composer.open(this.conversation?.id);
    this.#showHead();
    await this.#load();
    await this.list.update(this.conversation?.id);
    await this.#mend();
    clearInterval(this.mending);
    this.mending = setInterval(() => this.#mend(), MENDING_MS);
    this.scroller.scrollTop = this.scroller.scrollHeight;
    if (matchMedia("(min-width: 45rem)").matches) this.composer.area.focus();
  }

  close() {
    clearInterval(this.mending);
    store.removeEventListener("change", this.onchange);
    server.removeEventListener("change", this.onserver);
  }

  async #load() {
    if (this.conversation) {
      this.tree = treeOf(await store.turns(this.conversation.id));
      this.path = pathTo(this.tree, this.conversation.leaf);
    } else {
      this.tree = treeOf([]);
      this.path = [];
    }
    this.render();
  }

  /** An answer that no tab is writing any more was cut off with its tab. */
  async #mend() {
    const last = this.path.at(-1);
    if (last?.state === "writing" && !(await store.isWritten(last.id))) {
      await store.settle(last);
    }
  }

  async #changed(id) {
    if (id === this.conversation?.id) {
      this.conversation = await store.conversation(id);
      if (!this.conversation) return void (location.hash = "#chat");
      await this.#load();
      this.#showHead();
    }
    await this.list.update(this.conversation?.id);
  }

  /** Bring what is on the page up to date. */
  render() {
    const id = this.conversation?.id;
    const writing = writings.get(id);
    const stuck = this.scroller.scrollHeight - this.scroller.scrollTop - this.scroller.clientHeight < 80;
    const there = new Set();
    this.path.forEach((turn, i) => {
      if (!this.messages.has(turn.id)) this.messages.set(turn.id, new Message(turn, this.#actions()));
      const message = this.messages.get(turn.id);
      message.update(turn, siblings(this.tree, turn), i === this.path.length - 1, Boolean(writing));
      if (this.turns.children[i] !== message.element) this.turns.insertBefore(message.element, this.turns.children[i] ?? null);
      there.add(message.element);
    });
    for (const child of [...this.turns.children]) if (!there.has(child)) child.remove();
    this.#showReading(writing);
    this.#showProblem(id);
    this.composer.busy(Boolean(writing), server.state === "ready" && server.canChat);
    if (stuck) this.scroller.scrollTop = this.scroller.scrollHeight;
  }

  #actions() {
    return {
      refresh: () => this.render(),
      edit: (turn, text) => this.#edit(turn, text),
      again: (turn) => this.#answer(this.path.slice(0, this.path.findIndex(({ id }) => id === turn.id))),
      goOn: (turn) => this.#answer(this.path.slice(0, -1), turn),
      branch: async (turn) => {
        const leaf = newestLeaf(this.tree, turn.id) ?? turn;
        await store.change(this.conversation.id, { leaf: leaf.id });
      },
    };
  }

  #showHead() {
    const { conversation } = this;
    const key = JSON.stringify([conversation?.id, conversation?.title, conversation?.system]);
    if (key === this.headShown) return;
    this.headShown = key;
    const system = h("textarea", {
      id: "system", rows: "2", value: conversation?.system ?? "", placeholder: "None: the model gets an empty one, as in Meta's code",
      onchange: () => this.conversation && store.change(this.conversation.id, { system: system.value }),
    });
    if (this.system && document.activeElement === this.system) return; // it is being written
    this.system = system;
    const open = this.head.querySelector("details")?.open;
    this.head.replaceChildren(
      iconButton("☰", "Conversations", () => this.element.classList.toggle("drawer"), { class: "icon drawer-button" }),
      h("details", { class: "system", open }, h("summary", {}, "System prompt"), h("label", { for: "system", class: "unseen" }, "System prompt"), system),
      h("span", { class: "row" }, ...(conversation ? this.#conversationTools() : [])),
    );
  }

  #conversationTools() {
    const { id, title } = this.conversation;
    return [
      button("Rename", async () => {
        const name = await asked("Name of the conversation", title);
        if (name?.trim()) await store.change(id, { title: name.trim() });
      }),
      button("Export", async () => saveText(`${title.replace(/[^\w -]/g, "").trim() || "conversation"}.json`,
        await exported([this.conversation]), "application/json")),
      button("Delete", async () => (await confirmed(`Delete “${title}” with all its branches?`, "Delete")) && store.remove(id)),
    ];
  }

  #showReading(writing) {
    const { progress } = writing ?? {};
    const last = this.path.at(-1);
    const waits = !writing && last?.role === "user" && !problems.has(this.conversation?.id);
    this.reading.hidden = !progress && !waits;
    if (progress) {
      const { done, total } = progress;
      const text = total ? `Reading ${number(done)} of ${number(total)} tokens` : "Waiting for the server";
      this.reading.replaceChildren(h("progress", { max: total || 1, value: total ? done : null, "aria-label": text }), h("span", {}, text));
    } else if (waits) {
      this.reading.replaceChildren(h("span", {}, "This question has no answer yet."), button("Answer it", () => this.#answer(this.path), { class: "main" }));
    }
  }

  #showProblem(id) {
    const problem = problems.get(id);
    this.problem.replaceChildren(...(problem ? [h("div", { class: "problem", role: "alert" }, ...problem(this))] : []));
  }

  /** Ask the next question. */
  async ask(text) {
    if (!this.conversation) await this.#begin(text);
    const last = this.path.at(-1); // a question that has no answer, another tab's perhaps, is stood beside
    const parent = last?.role === "user" ? last.parent : last?.id;
    const turn = newTurn(this.conversation.id, parent ?? null, "user", text);
    await store.write(turn);
    await this.#load();
    this.#answer(pathTo(this.tree, turn.id)); // what is shown may be another tab's question by now
  }

  async #begin(text) {
    const now = Date.now();
    const fields = { id: newId(), title: firstWords(text), system: this.system.value, policy: null, created: now, updated: now, leaf: null };
    await store.add(fields, []);
    this.conversation = fields;
    this.composer.open(fields.id);
    history.replaceState(null, "", `#chat/${fields.id}`);
    this.#showHead();
  }

  async #edit(turn, text) {
    const edited = { ...newTurn(turn.conversation, turn.parent, turn.role, text), edited: turn.role === "assistant" };
    await store.write(edited);
    await this.#load();
    if (turn.role === "user") await this.#answer(pathTo(this.tree, edited.id));
  }

  /** Have the last question of `path` answered, or `begun` gone on with. */
  async #answer(path, begun = null) {
    const conversation = await store.conversation(path[0].conversation);
    if (writings.has(conversation.id)) return;
    const writing = new Writing(conversation, path, begun);
    writings.set(conversation.id, writing);
    problems.delete(conversation.id);
    writing.addEventListener("change", () => this.conversation?.id === conversation.id && this.render());
    try {
      await writing.run();
      say("The answer is complete.");
    } catch (error) {
      problems.set(conversation.id, await this.#explained(error, conversation, path, begun));
    } finally {
      writings.delete(conversation.id);
      if (this.conversation?.id === conversation.id) await this.#load();
    }
  }

  /** What a failure means and what can be done, as a function that gives the elements to show. */
  async #explained(error, conversation, path, begun) {
    const again = (label = "Try again") => button(label, () => this.#answer(path, begun), { class: "main" });
    if (error instanceof Refused && error.status === 401) {
      if (await askForKey()) queueMicrotask(() => this.#answer(path, begun));
      return () => [h("p", {}, "The server did not accept the key."), button("Enter the key", () => askForKey()), again()];
    }
    if (error instanceof Refused && error.detail.n_ctx) {
      return this.#full(error.detail, conversation, begun ? [...path, begun] : path, () => this.#answer(path, begun));
    }
    return () => [h("p", {}, error.message), again()];
  }

  /** The dialog no longer fits: which turns would go. */
  async #full({ n_prompt_tokens, n_ctx }, conversation, path, answer) {
    const messages = messagesOf(conversation.system, path);
    const going = await turnsToGo(messages).catch(() => null);
    const size = `The conversation has ${number(n_prompt_tokens)} tokens, and the context holds ${number(n_ctx)}.`;
    if (!going?.length) return () => [h("p", {}, `${size} This question is too long by itself: shorten it with Edit.`)];
    return () => [
      h("p", {}, `${size} The oldest turns would be kept from the model; here they stay:`),
      h("ol", {}, ...going.map((i) => h("li", {}, `${messages[i].role === "user" ? "You" : "codellama"}: ${firstWords(messages[i].content)}`))),
      button("Leave them out", async () => {
        await store.change(conversation.id, { policy: "drop_oldest" });
        answer();
      }, { class: "main" }),
      button("New conversation", () => (location.hash = "#chat")),
    ];
  }
}
