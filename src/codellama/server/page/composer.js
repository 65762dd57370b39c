// Where a question is written: grows with it, takes files, keeps a draft of every conversation.

import { button, h, kept, notice } from "./dom.js";
import { textOf } from "./files.js";

export class Composer {
  #draft = "new";

  /** `send` gets the text; `stop` ends the answer that is being written. */
  constructor(send, stop) {
    this.area = h("textarea", {
      id: "question", rows: "1", placeholder: "Ask, or drop files here", "aria-label": "Your question",
      onkeydown: (event) => this.#key(event),
      oninput: () => this.#changed(),
      onpaste: (event) => this.#pasted(event),
    });
    this.chooser = h("input", { type: "file", multiple: true, class: "unseen", tabindex: "-1", "aria-label": "Files",
      onchange: () => (this.take([...this.chooser.files]), (this.chooser.value = "")) });
    this.send = button("Send", () => this.#submit(), { class: "main", title: "Enter" });
    this.stop = button("Stop", stop, { class: "main", hidden: true, title: "Escape" });
    this.onsend = send;
    this.onstop = stop;
    this.element = h("div", { class: "composer" }, this.area,
      h("div", { class: "row" },
        button("Add files", () => this.chooser.click()), this.chooser,
        h("span", { class: "hint keys" }, "Enter sends, Shift+Enter begins a line"),
        this.stop, this.send));
  }

  /** Show the draft of this conversation. */
  open(conversation) {
    this.#draft = conversation ?? "new";
    this.area.value = kept.get(`draft-${this.#draft}`, "");
    this.#fit();
  }

  /** Whether an answer is being written, and whether there is anybody to ask. */
  busy(writing, ready) {
    this.writing = writing;
    this.stop.hidden = !writing;
    this.send.hidden = writing;
    this.send.disabled = !ready;
  }

  /** Put files into the question. */
  async take(files) {
    const { text, problems } = await textOf(files);
    notice("files", problems.length ? `Not added: ${problems.join("; ")}.` : "", button("Close", () => notice("files", "")));
    if (!text) return;
    const before = this.area.value.trimEnd();
    this.area.value = `${before}${before ? "\n\n" : ""}${text}\n\n`;
    this.#changed();
    this.area.focus();
  }

  #key(event) {
    if (event.key === "Escape" && this.writing) this.onstop();
    if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#submit();
  }

  async #submit() {
    const text = this.area.value.trim();
    if (!text || this.writing || this.send.disabled) return;
    const draft = this.#draft;
    this.area.value = "";
    this.#fit();
    await this.onsend(text);
    kept.set(`draft-${draft}`, undefined); // it is a turn now
  }

  #pasted(event) {
    const files = [...(event.clipboardData?.files ?? [])];
    if (!files.length || event.clipboardData.types.includes("text/plain")) return;
    event.preventDefault();
    this.take(files);
  }

  #changed() {
    kept.set(`draft-${this.#draft}`, this.area.value || undefined);
    this.#fit();
  }

  #fit() {
    this.area.style.height = "auto";
    this.area.style.height = `${Math.min(this.area.scrollHeight + 2, window.innerHeight * 0.4)}px`;
  }
}
