// The list of conversations: new ones, export and import; on a narrow page it is a drawer.

import { button, h, notice, saveText } from "./dom.js";
import { store } from "./store.js";
import { exported, imported } from "./transfer.js";

export class List {
  constructor() {
    this.items = h("ul", {});
    this.chooser = h("input", { type: "file", accept: "application/json,.json", class: "unseen", tabindex: "-1",
      "aria-label": "File to import", onchange: () => this.#import() });
    this.element = h("nav", { class: "list", "aria-label": "Conversations" },
      h("a", { href: "#chat", class: "button main" }, "New conversation"),
      this.items,
      h("div", { class: "row" },
        button("Export all", async () => saveText("conversations.json", await exported(await store.conversations()), "application/json")),
        button("Import", () => this.chooser.click()), this.chooser));
  }

  /** Show what there is; `current` is the conversation that is open. */
  async update(current) {
    const all = await store.conversations();
    const key = JSON.stringify([current, all.map(({ id, title }) => [id, title])]);
    if (key === this.shown) return; // links that stay keep their focus
    this.shown = key;
    this.items.replaceChildren(
      ...all.map(({ id, title }) =>
        h("li", {}, h("a", { href: `#chat/${id}`, title, "aria-current": id === current ? "page" : null }, title || "Untitled"))),
    );
  }

  async #import() {
    const [file] = this.chooser.files;
    this.chooser.value = "";
    try {
      const ids = await imported(await file.text());
      notice("import", "");
      if (ids.length) location.hash = `#chat/${ids[0]}`;
    } catch (error) {
      notice("import", `${file.name}: ${error.message}`, button("Close", () => notice("import", "")));
    }
  }
}
