// What the views of plain texts share: one stream at a time, with its buttons, its figures and its failures.

import { Away, Refused, stream } from "./api.js";
import { button, count, h, number, say } from "./dom.js";
import { askForKey } from "./key.js";
import { server } from "./server.js";

/** Runs a stream of llama-server's dialect; the elements go where the view wants them. */
export class Answer {
  #abort = null;

  /** `begin` starts the view's request; it is called by the button, and again after a failure. */
  constructor(label, begin) {
    this.start = button(label, begin, { class: "main", title: "Ctrl+Enter" });
    this.end = button("Stop", () => this.stop(), { class: "main", hidden: true, title: "Escape" });
    this.figures = h("span", { class: "figures", role: "status" });
    this.problem = h("p", { class: "problem", role: "alert", hidden: true });
    this.begin = begin;
  }

  get running() {
    return this.#abort !== null;
  }

  stop() {
    this.#abort?.abort();
  }

  /** Listen to the keys that begin and end it, in this element. */
  keys(element) {
    element.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.running) this.stop();
      if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
        event.preventDefault();
        this.begin();
      }
    });
  }

  /** Stream `path`'s answer to `body`; `take` gets every event. What has come when it fails stays. */
  async run(path, body, take) {
    if (this.running) return;
    this.#abort = new AbortController();
    this.#show(true);
    try {
      for await (const event of stream(path, body, this.#abort.signal)) {
        take(event);
        if (event.timings) this.#count(event);
      }
      say("The answer is complete.");
    } catch (error) {
      if (error.name !== "AbortError") this.#fail(server.met(error));
    } finally {
      this.#abort = null;
      this.#show(false);
    }
  }

  #show(running) {
    this.start.hidden = running;
    this.end.hidden = !running;
    if (running) this.problem.hidden = true;
  }

  #count({ tokens_predicted: written, tokens_evaluated: read, timings, truncated, stop_type: why }) {
    const speed = timings.predicted_per_second;
    const left = Math.max(0, server.contextSize - read - written);
    const full = truncated ? ". The context is full" : why === "limit" ? ". As long as the settings allow" : "";
    this.figures.textContent =
      `${count(written, "token")}, ${number(speed, speed < 10 ? 1 : 0)} tokens/s, ${number(left)} of ${number(server.contextSize)} left${full}`;
  }

  #fail(error) {
    let text = error.message;
    if (error instanceof Refused && error.detail.n_ctx) {
      text = `The text has ${number(error.detail.n_prompt_tokens)} tokens, and the context holds ${number(error.detail.n_ctx)}: shorten it.`;
    }
    if (error instanceof Away) text = "The server went away. What had come is kept.";
    this.problem.textContent = text;
    this.problem.hidden = false;
    if (error instanceof Refused && error.status === 401) askForKey();
  }
}
