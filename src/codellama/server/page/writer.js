// Has the model write an answer. What has come is written to the database first and shown then, several times
// a second: whatever ends, the server, this tab or the browser, what was shown is there again.

import { post, Refused, stream } from "./api.js";
import { server } from "./server.js";
import { sampling } from "./settings.js";
import { newId, store } from "./store.js";
import { messagesOf } from "./tree.js";

const PAUSE_MS = 60; // between two writes

/** A new turn of a conversation. */
export function newTurn(conversation, parent, role, text = "") {
  return { id: newId(), conversation, parent, role, text, at: Date.now(), state: "whole", figures: null, dropped: [] };
}

/** Which turns of a dialog would go so that it fits, as indices among `messages`, or null if none help. */
export async function turnsToGo(messages) {
  const { max_tokens } = sampling();
  const body = { messages, return_tokens: true, context_policy: "drop_oldest", max_tokens };
  try {
    const answer = await post("apply-template", body);
    return answer.tokens.length < server.contextSize ? answer.dropped_messages : null;
  } catch (error) {
    if (error instanceof Refused) return null;
    throw error;
  }
}

/**
 * One answer being written. `turn` grows; "change" says so, and that the prompt is being read
 * (`progress`: done and total tokens).
 */
export class Writing extends EventTarget {
  progress = null;
  #abort = new AbortController();
  #saved = Promise.resolve();
  #due = 0;

  /** `path` are the turns up to the question; `begun` is an answer that is to be gone on with. */
  constructor(conversation, path, begun = null) {
    super();
    this.conversation = conversation;
    this.path = path;
    this.turn = begun ? { ...begun } : newTurn(conversation.id, path.at(-1).id, "assistant");
    this.goesOn = Boolean(begun);
  }

  /** Stop; what has been written stays. */
  stop() {
    this.#abort.abort();
  }

  /** Write to the end. Rejects if the server refuses, or goes away before the first word. */
  async run() {
    store.hold(this.turn.id);
    try {
      await this.#write();
    } catch (error) {
      if (error.name !== "AbortError") {
        server.met(error);
        this.turn.state = "cut";
        if (error instanceof Refused || !this.turn.text) throw error;
      } else {
        this.turn.state = "stopped";
      }
    } finally {
      await this.#save(true);
      store.release(this.turn.id);
    }
  }

  async #write() {
    const turns = this.goesOn ? [...this.path, this.turn] : this.path;
    const body = {
      ...sampling(),
      messages: messagesOf(this.conversation.system, turns),
      timings_per_token: true,
      return_progress: true,
    };
    if (this.conversation.policy) body.context_policy = this.conversation.policy;
    this.turn.state = "writing";
    this.progress = { done: 0, total: 0 };
    this.#changed();
    for await (const event of stream("v1/chat/completions", body, this.#abort.signal)) this.#take(event);
  }

  #take(event) {
    const { turn } = this;
    if (event.dropped_messages) turn.dropped = event.dropped_messages;
    if (event.timings) turn.figures = figuresOf(event.timings);
    const [choice] = event.choices ?? [];
    if (event.prompt_progress) {
      const { processed, total } = event.prompt_progress;
      this.progress = { done: processed, total };
      this.#changed();
    }
    if (choice?.delta.content) {
      this.progress = null;
      turn.text += choice.delta.content;
      this.#save(false);
    }
    if (choice?.finish_reason) {
      turn.state = choice.finish_reason === "length" ? this.#why() : "whole";
      this.#save(false);
    }
  }

  /** Why an answer ended at a length: the context is full, or it is as long as was asked for. */
  #why() {
    const { prompt, answer } = this.turn.figures;
    return prompt + answer >= server.contextSize - 1 ? "full" : "length";
  }

  /** Write the turn, at once or when a pause is over, and show it then. */
  #save(now) {
    if (now) {
      clearTimeout(this.#due);
      this.#due = 0;
      this.#saved = this.#saved.then(() => this.#put());
    } else {
      this.#due ||= setTimeout(() => {
        this.#due = 0;
        this.#saved = this.#saved.then(() => this.#put());
      }, PAUSE_MS);
    }
    return this.#saved;
  }

  async #put() {
    const turn = { ...this.turn };
    if (!turn.text && !this.goesOn) return; // nothing to keep
    const id = await store.write(turn);
    if (id === null) this.stop(); // deleted in another tab
    else if (id !== turn.id) this.#become(id);
    this.#changed();
  }

  #become(id) {
    store.release(this.turn.id);
    store.hold(id);
    this.turn.id = id;
  }

  #changed() {
    this.dispatchEvent(new Event("change"));
  }
}

/** Tokens of the prompt (a begun answer is part of it), those of them from the cache, tokens written, speeds. */
function figuresOf(timings) {
  return {
    prompt: timings.prompt_n + timings.cache_n,
    cached: timings.cache_n,
    answer: timings.predicted_n,
    perSecond: timings.predicted_per_second,
    promptPerSecond: timings.prompt_per_second,
  };
}
