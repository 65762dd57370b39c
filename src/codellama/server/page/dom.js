// Elements, and what a page can do with text: copy it, save it, say it to a screen reader.

/** An element. Properties whose names begin with "on" are listeners; false and null leave one out. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

/** A button with a word on it. */
export function button(label, onclick, props = {}) {
  return h("button", { type: "button", onclick, ...props }, label);
}

/** A button that shows a sign and is called something. */
export function iconButton(sign, name, onclick, props = {}) {
  const face = h("span", { "aria-hidden": "true" }, sign);
  return h("button", { type: "button", class: "icon", "aria-label": name, title: name, onclick, ...props }, face);
}

/** Say something to who cannot see the page change. */
export function say(text) {
  document.getElementById("said").textContent = text;
}

/** A line at the top of the page; one of each `name`, and no text takes it away. */
export function notice(name, text, ...actions) {
  const place = document.getElementById("notices");
  const there = place.querySelector(`[data-name="${name}"]`);
  if (!text) return there?.remove();
  const line = h("p", { class: "notice", "data-name": name }, h("span", {}, text), ...actions);
  if (there) there.replaceWith(line);
  else place.append(line);
}

/** Copy a text; pages of other machines without TLS have no clipboard but the old command. */
export async function copyText(text) {
  if (navigator.clipboard && window.isSecureContext) {
    await navigator.clipboard.writeText(text);
  } else {
    const area = h("textarea", { class: "unseen", "aria-hidden": "true", value: text });
    const before = document.activeElement;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
    before?.focus();
  }
  say("Copied");
}

/** Let the browser save a text as a file. */
export function saveText(name, text, type = "text/plain") {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = h("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10_000);
}

/** Ask before something that cannot be undone. */
export function confirmed(question, yes) {
  return dialogOf(question, h("p", {}, question), h("button", { value: "yes", class: "danger" }, yes), () => true);
}

/** Ask for a line of text; undefined if there is none. */
export function asked(label, value) {
  const input = h("input", { id: "asked", value, autocomplete: "off" });
  const question = h("p", {}, h("label", { for: "asked" }, label), input);
  return dialogOf(label, question, h("button", { value: "yes", class: "main" }, "Keep"), () => input.value);
}

function dialogOf(label, question, yes, answer) {
  return new Promise((resolve) => {
    const closed = () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes" ? answer() : undefined);
    };
    const form = h("form", { method: "dialog" }, question, h("menu", {}, yes, h("button", { value: "no" }, "Cancel")));
    const dialog = h("dialog", { "aria-label": label, onclose: closed }, form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** A number as people read it. */
export function number(value, digits = 0) {
  return Number(value).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
}

/** A number of things, which are called `name` when there is one. */
export function count(n, name) {
  return `${number(n)} ${name}${n === 1 ? "" : "s"}`;
}

/** A size in bytes as people read it. */
export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  const step = Math.min(units.length - 1, Math.floor(Math.log2(Math.max(bytes, 1)) / 10));
  return `${number(bytes / 1024 ** step, step && bytes / 1024 ** step < 100 ? 1 : 0)} ${units[step]}`;
}

/** What the browser keeps of a small thing; a browser that keeps nothing is no error. */
export const kept = {
  get(name, otherwise) {
    try {
      return JSON.parse(localStorage.getItem(`codellama-${name}`)) ?? otherwise;
    } catch {
      return otherwise;
    }
  },
  set(name, value) {
    try {
      if (value === undefined) localStorage.removeItem(`codellama-${name}`);
      else localStorage.setItem(`codellama-${name}`, JSON.stringify(value));
    } catch {
      // gone with the page
    }
  },
};
