// How answers are drawn: the server's defaults from /props, and what this browser asks for instead.

import { button, h, kept } from "./dom.js";
import { server } from "./server.js";

/** Name in requests, label, what it is, step; the ends of a range where there are any. */
const FIELDS = [
  ["temperature", "Temperature", "Randomness; 0 takes the likeliest token.", 0.05, 0],
  ["max_tokens", "Longest answer", "In tokens; empty is as long as it gets.", 1, 1],
  ["top_k", "Top K", "Draw from this many tokens; 0 is all.", 1, 0],
  ["top_p", "Top P", "Draw from the likeliest tokens up to this total.", 0.05, 0, 1],
  ["min_p", "Min P", "Drop tokens below this share of the likeliest one.", 0.01, 0, 1],
  ["typical_p", "Typical P", "Locally typical sampling; 1 is off.", 0.05, 0, 1],
  ["repeat_penalty", "Repeat penalty", "Divide the logits of recent tokens; 1 is off.", 0.05, 0.01],
  ["frequency_penalty", "Frequency penalty", "Per earlier use of a token.", 0.1, -2, 2],
  ["presence_penalty", "Presence penalty", "For having been used.", 0.1, -2, 2],
  ["seed", "Seed", "Same seed, same answer; empty is random.", 1],
];

/** What requests say of sampling: the fields that are not the server's defaults. */
export function sampling() {
  return kept.get("sampling", {});
}

function shownDefault(name) {
  const value = server.props?.default_generation_settings.params[name];
  if (value === undefined || (name === "max_tokens" && value < 0)) return "no limit";
  if (name === "seed" && value === 2 ** 32 - 1) return "random";
  return String(Math.round(value * 1e6) / 1e6);
}

function field([name, label, hint, step, min, max], given) {
  const id = `setting-${name}`;
  return h("div", { class: "field" },
    h("label", { for: id }, label),
    h("input", {
      type: "number", id, name, step: step < 1 ? "any" : step, min, max,
      value: given[name] ?? "", placeholder: shownDefault(name), "aria-describedby": `${id}-hint`,
    }),
    h("small", { id: `${id}-hint`, class: "hint" }, hint));
}

/** Show the settings in a dialog, which keeps them when it is closed with "Keep". */
export function openSettings() {
  const given = sampling();
  const stop = h("textarea", { id: "setting-stop", rows: "2", value: (given.stop ?? []).join("\n") });
  const form = h("form", { method: "dialog" },
    h("h2", { id: "settings-title" }, "Sampling"),
    h("p", { class: "hint" }, "Empty fields are as the server was started; their grey values say how."),
    h("div", { class: "fields" }, FIELDS.map((row) => field(row, given))),
    h("div", { class: "field" }, h("label", { for: "setting-stop" }, "Stop"), stop,
      h("small", { class: "hint" }, "Texts that end an answer, one a line.")),
    h("menu", {},
      h("button", { value: "keep", class: "main" }, "Keep"),
      button("Server's defaults", () => form.querySelectorAll("input, textarea").forEach((input) => (input.value = ""))),
      h("button", { value: "cancel", formnovalidate: true }, "Cancel")));
  const dialog = h("dialog", {
    "aria-labelledby": "settings-title",
    onclose() {
      if (dialog.returnValue === "keep") kept.set("sampling", read(form, stop));
      dialog.remove();
    },
  }, form);
  document.body.append(dialog);
  dialog.showModal();
}

function read(form, stop) {
  const chosen = {};
  for (const [name] of FIELDS) {
    const { value } = form.elements[name];
    if (value !== "") chosen[name] = Number(value);
  }
  const stops = stop.value.split("\n").filter(Boolean);
  if (stops.length) chosen.stop = stops;
  return chosen;
}
