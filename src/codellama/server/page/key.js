// Asks for the API key. It stays in this tab's session storage: it is sent to this server only, other tabs
// do not see it, and closing the tab forgets it.

import { key } from "./api.js";
import { h } from "./dom.js";
import { server } from "./server.js";

let open = null;

/** Ask for the key until one is accepted or nobody wants to say; resolves to whether there is one. */
export function askForKey() {
  open ??= askUntilAccepted().finally(() => (open = null));
  return open;
}

async function askUntilAccepted() {
  while (await ask()) {
    await server.lookAnew();
    if (server.state !== "locked") return true;
  }
  return false;
}

function ask() {
  return new Promise((resolve) => {
    const input = h("input", { type: "password", autocomplete: "off", id: "key", value: key.get(), spellcheck: "false" });
    const why = server.state === "locked" ? (key.get() ? "The server does not accept this key." : "This server wants a key.") : "";
    const dialog = h(
      "dialog",
      {
        "aria-labelledby": "key-title",
        onclose() {
          dialog.remove();
          if (dialog.returnValue === "use") key.set(input.value.trim());
          resolve(dialog.returnValue === "use");
        },
      },
      h("form", { method: "dialog" },
        h("h2", { id: "key-title" }, "API key"),
        why && h("p", { class: "problem", role: "alert" }, why),
        h("label", { for: "key" }, "The key that the server was started with"), input,
        h("p", { class: "hint" }, "It is kept in this tab only, and forgotten when the tab is closed."),
        h("menu", {}, h("button", { value: "use", class: "main" }, "Use this key"),
          h("button", { value: "cancel", formnovalidate: true }, "Cancel"))),
    );
    document.body.append(dialog);
    dialog.showModal();
    input.select();
  });
}
