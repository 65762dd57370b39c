// What is known of the server: away, loading, ready, or wanting a key; and of its model.

import { Away, get, Refused } from "./api.js";

const PAUSES_MS = { loading: 300, away: 1000, locked: 5000, ready: 5000 };

class Server extends EventTarget {
  state = "loading";
  progress = null;
  message = "";
  props = null;
  model = null;
  #timer = 0;
  #looking = null;

  /** Tokens that fit a request. */
  get contextSize() {
    return this.props?.default_generation_settings.n_ctx ?? 0;
  }

  get canChat() {
    return this.props?.capabilities?.chat ?? true;
  }

  get canInfill() {
    return this.props?.capabilities?.infill ?? false;
  }

  /** Look now, and go on looking. */
  look() {
    clearTimeout(this.#timer);
    this.#looking ??= this.#check().finally(() => {
      this.#looking = null;
      this.#timer = setTimeout(() => this.look(), PAUSES_MS[this.state] * (document.hidden ? 4 : 1));
    });
    return this.#looking;
  }

  /** Look once what is being looked at now has been seen: with a new key, say. */
  async lookAnew() {
    await this.#looking;
    await this.look();
  }

  /** What a request met: the server is looked at where it explains that. Gives the error back. */
  met(error) {
    if (error instanceof Away) this.#become("away", "The server cannot be reached.");
    if (error instanceof Refused && error.status === 401) this.#become("locked", error.message);
    this.look();
    return error;
  }

  async #check() {
    try {
      await get("health");
      if (this.state !== "ready") await this.#read();
      this.#become("ready");
    } catch (error) {
      if (error instanceof Away) this.#become("away", error.message);
      else if (error.status === 401 || error.status === 403) this.#become("locked", error.message);
      else if (error.status === 503) this.#become("loading", error.message, error.progress ?? null);
      else this.#become("away", error.message);
    }
  }

  async #read() {
    const [props, models] = await Promise.all([get("props"), get("v1/models")]);
    this.props = props;
    this.model = models.data[0];
  }

  #become(state, message = "", progress = null) {
    if (state === this.state && message === this.message && progress === this.progress) return;
    Object.assign(this, { state, message, progress });
    this.dispatchEvent(new Event("change"));
  }
}

export const server = new Server();
