// The model and how it was loaded: where its layers are, what memory it takes, and why.

import { get } from "./api.js";
import { h, number, size } from "./dom.js";
import { server } from "./server.js";

export class Model {
  constructor() {
    this.element = h("section", { class: "page", "aria-label": "Model" });
    this.onserver = () => this.show();
  }

  open() {
    server.addEventListener("change", this.onserver);
    this.show();
    this.timer = setInterval(() => this.#slots(), 2000);
  }

  close() {
    server.removeEventListener("change", this.onserver);
    clearInterval(this.timer);
  }

  show() {
    if (!server.model) {
      this.element.replaceChildren(h("p", {}, server.message || "The model is being loaded."));
      return;
    }
    const { id, meta } = server.model;
    const { plan } = meta;
    this.slots = h("tbody", {});
    this.element.replaceChildren(
      h("h2", {}, id),
      h("dl", { class: "facts" }, facts(meta, plan)),
      h("h2", {}, "Layers"), layers(plan),
      ...(plan.draft ? [h("h2", {}, "Layers of the draft model"), layers(plan.draft)] : []),
      ...(plan.warnings.length ? [h("h2", {}, "Warnings"), h("ul", { class: "problem" }, plan.warnings.map((text) => h("li", {}, text)))] : []),
      h("h2", {}, "Why"), h("ul", {}, plan.reasons.map((text) => h("li", {}, text))),
      h("h2", {}, "Slots"),
      h("div", { class: "wide", tabindex: "0", role: "region", "aria-label": "Slots" }, h("table", {}, h("thead", {}, h("tr", {}, ["Slot", "Prompt", "Written", "May write"].map((name) => h("th", { scope: "col" }, name)))), this.slots)),
    );
    this.#slots();
  }

  async #slots() {
    if (!server.props?.endpoint_slots || server.state !== "ready" || document.hidden) return;
    const slots = await get("slots").catch((error) => (server.met(error), []));
    this.slots?.replaceChildren(...slots.map(({ id, is_processing: busy, n_prompt_tokens: prompt, next_token: next }) =>
      h("tr", {}, h("th", { scope: "row" }, String(id)),
        ...(busy ? [number(prompt), number(next[0].n_decoded), number(next[0].n_remain)] : ["idle", "", ""]).map((text) => h("td", {}, text)))));
  }
}

function facts(meta, plan) {
  const rows = [
    ["File", plan.file],
    ["Weights", `${number(meta.n_params)}, ${size(meta.size)}`],
    ["Context", `${number(plan.n_ctx)} tokens a request; trained for ${number(plan.n_ctx_train)}`],
    ["At a time", `${plan.n_seq_max} requests, ${number(plan.cells)} cells together`],
    ["KV cache", `${plan.type_k === plan.type_v ? plan.type_k : `${plan.type_k} and ${plan.type_v}`}, ${size(plan.kv_bytes)}`],
    ["Main memory", `${size(plan.host_bytes)} of ${size(plan.memory_bytes)}`],
    ["Threads", `${plan.threads}, for prompts ${plan.threads_batch}`],
    ["Context shift", plan.shift_problem ?? "possible"],
    ["Can", [server.canChat && "chat", "continue texts", server.canInfill && "fill in"].filter(Boolean).join(", ")],
  ];
  return rows.flatMap(([name, text]) => [h("dt", {}, name), h("dd", {}, text)]);
}

/** A bar of the layers, as wide as each device's share, and the same in words. */
function layers({ layers: places }) {
  const all = places.reduce((sum, { layers: n }) => sum + n, 0);
  const used = places.filter(({ layers: n }) => n);
  const bar = h("div", { class: "bar", "aria-hidden": "true" });
  used.forEach(({ device, layers: n }, i) => {
    const part = h("span", { class: `part part${device === "CPU" ? "cpu" : i % 3}` }, `${device} ${n}`);
    part.style.flexGrow = n;
    bar.append(part);
  });
  const words = used.map(({ device, layers: n, bytes }) => h("li", {}, `${device}: ${n} of ${all} layers, ${size(bytes)}`));
  return h("div", {}, bar, h("ul", {}, words));
}
