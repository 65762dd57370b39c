// The page: which view is shown, what the server is doing, and the tools that every view needs.

import { Chat } from "./chat.js";
import { Complete } from "./complete.js";
import { button, h, iconButton, notice } from "./dom.js";
import { Infill } from "./infill.js";
import { askForKey } from "./key.js";
import { Model } from "./model.js";
import { server } from "./server.js";
import { openSettings } from "./settings.js";
import { store } from "./store.js";
import { Tokens } from "./tokens.js";

const VIEWS = {
  chat: { name: "Chat", make: () => new Chat(), needs: () => store.isOpen },
  complete: { name: "Complete", make: () => new Complete() },
  infill: { name: "Fill in", make: () => new Infill(), needs: () => !server.model || server.canInfill },
  tokens: { name: "Tokens", make: () => new Tokens() },
  model: { name: "Model", make: () => new Model() },
};

const main = document.getElementById("main");
const made = new Map();
let current = null;

/** Show the view that the address names. */
async function route() {
  const [name, rest] = location.hash.slice(1).split("/");
  const view = VIEWS[name] && isThere(name) ? name : server.canChat && isThere("chat") ? "chat" : "complete";
  current?.close();
  if (!made.has(view)) made.set(view, VIEWS[view].make());
  current = made.get(view);
  main.replaceChildren(current.element);
  current.element.classList.remove("drawer");
  showViews(view);
  await current.open(rest);
}

function isThere(name) {
  return VIEWS[name].needs?.() ?? true;
}

function showViews(chosen) {
  const links = Object.entries(VIEWS)
    .filter(([name]) => isThere(name))
    .map(([id, { name }]) => h("a", { href: `#${id}`, "aria-current": id === chosen ? "page" : null }, name));
  const place = document.getElementById("views");
  const key = links.map((link) => link.outerHTML).join();
  if (place.dataset.key === key) return;
  place.dataset.key = key;
  place.replaceChildren(...links);
}

function showState() {
  const place = document.getElementById("state");
  const { state, model, progress } = server;
  const words = { loading: "Loading the model", away: "The server is away", locked: "Key needed", ready: model?.id ?? "" }[state];
  place.dataset.state = state;
  place.replaceChildren(h("span", {}, words));
  if (state === "loading") {
    const share = progress === null ? "" : ` ${Math.round(progress * 100)} %`;
    place.replaceChildren(h("span", {}, words + share), h("progress", { max: 1, value: progress, "aria-label": "Loading" }));
  }
  document.title = state === "ready" ? `${model.id} – codellama` : `${words} – codellama`;
  notice("away", state === "away" ? "The server cannot be reached. This page looks for it every second; what you have is kept." : "");
  notice("base", state === "ready" && !server.canChat ? "This is a base or Python model: it continues texts and does not chat." : "");
  if (state === "locked") askForKey();
  const chosen = Object.keys(VIEWS).find((id) => made.get(id) === current);
  if (chosen) showViews(chosen);
}

function showTools() {
  const themes = { system: ["◐", "Theme: as the system"], light: ["☀", "Theme: light"], dark: ["☾", "Theme: dark"] };
  const { codellamaTheme: theme } = globalThis;
  const face = () => themes[theme.current()];
  const switcher = iconButton(face()[0], face()[1], () => {
    theme.next();
    switcher.firstChild.textContent = face()[0];
    switcher.title = face()[1];
    switcher.setAttribute("aria-label", face()[1]);
  });
  document.getElementById("tools").replaceChildren(
    button("Sampling", openSettings), button("Key", askForKey), switcher);
}

async function start() {
  showTools();
  server.addEventListener("change", showState);
  store.addEventListener("outdated", () => notice("outdated", "This page is older than the one in another tab: load it again.", button("Load again", () => location.reload())));
  showState();
  try {
    await store.open();
  } catch (error) {
    notice("store", `This browser keeps nothing for this page (${error.message}), so there is no chat.`);
  }
  await server.look();
  addEventListener("hashchange", route);
  for (const name of ["dragover", "drop"]) { // a file that misses its place must not take the page's
    addEventListener(name, (event) => event.dataTransfer?.types.includes("Files") && event.preventDefault());
  }
  document.addEventListener("visibilitychange", () => document.hidden || server.look());
  await route();
}

start();
