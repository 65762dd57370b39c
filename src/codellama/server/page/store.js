// Conversations and their turns in the browser's database, shared by all tabs.
// Every change is one transaction; a turn is written before it is shown. Tabs tell each other what changed.

import { openDB } from "./vendor/idb.js";

const NAME = "codellama";
const VERSION = 1;

class Store extends EventTarget {
  #db = null;
  #channel = new BroadcastChannel("codellama");
  #writing = new Set();

  /** Open the database. Rejects where the browser keeps nothing. */
  async open() {
    this.#db = await openDB(NAME, VERSION, {
      upgrade(db) {
        db.createObjectStore("conversations", { keyPath: "id" });
        db.createObjectStore("turns", { keyPath: "id" }).createIndex("conversation", "conversation");
      },
      blocking: () => {
        this.#db.close(); // another tab has a newer page, which needs the database
        this.dispatchEvent(new Event("outdated"));
      },
      terminated: () => this.dispatchEvent(new Event("outdated")),
    });
    navigator.storage?.persist?.();
    this.#channel.onmessage = ({ data }) => this.#heard(data);
  }

  /** Whether anything can be kept. */
  get isOpen() {
    return this.#db !== null;
  }

  /** All conversations, the latest first. */
  async conversations() {
    if (!this.isOpen) return [];
    const all = await this.#db.getAll("conversations");
    return all.sort((a, b) => b.updated - a.updated);
  }

  conversation(id) {
    return this.#db.get("conversations", id);
  }

  turns(conversation) {
    return this.#db.getAllFromIndex("turns", "conversation", conversation);
  }

  /** Add a conversation with its turns, or only the turns to one that is there. */
  async add(conversation, turns) {
    const done = this.#db.transaction(["conversations", "turns"], "readwrite");
    done.objectStore("conversations").put(conversation);
    for (const turn of turns) done.objectStore("turns").put(turn);
    await done.done;
    this.#tell(conversation.id);
  }

  /** Change some fields of a conversation; what another tab changed of the others stays. */
  async change(id, fields) {
    const done = this.#db.transaction("conversations", "readwrite");
    const there = await done.store.get(id);
    if (there) done.store.put({ ...there, ...fields });
    await done.done;
    if (there) this.#tell(id);
  }

  /**
   * Write a turn, and make it the end of the branch that is shown. A turn only grows: where another tab has
   * written something else under its id, it becomes a branch. Gives the id that it is written under, or null if
   * its conversation has been deleted meanwhile.
   */
  async write(turn) {
    const done = this.#db.transaction(["conversations", "turns"], "readwrite");
    const there = await done.objectStore("conversations").get(turn.conversation);
    const before = await done.objectStore("turns").get(turn.id);
    const id = before && !turn.text.startsWith(before.text) ? newId() : turn.id;
    if (there) {
      done.objectStore("turns").put({ ...turn, id });
      done.objectStore("conversations").put({ ...there, leaf: id, updated: Date.now() });
    }
    await done.done;
    if (there) this.#tell(turn.conversation);
    return there ? id : null;
  }

  /** A turn that nobody is writing any more was cut off. */
  async settle({ id, conversation }) {
    const done = this.#db.transaction("turns", "readwrite");
    const turn = await done.store.get(id);
    if (turn?.state === "writing") done.store.put({ ...turn, state: "cut" });
    await done.done;
    this.#tell(conversation);
  }

  /** Delete a conversation with all its turns. */
  async remove(id) {
    const done = this.#db.transaction(["conversations", "turns"], "readwrite");
    done.objectStore("conversations").delete(id);
    for (const key of await done.objectStore("turns").index("conversation").getAllKeys(id)) {
      done.objectStore("turns").delete(key);
    }
    await done.done;
    this.#tell(id);
  }

  /** This tab writes the turn from now on, or does so no more. */
  hold(turn) {
    this.#writing.add(turn);
  }

  release(turn) {
    this.#writing.delete(turn);
  }

  /** Whether a tab, this one or another, is writing the turn. */
  isWritten(turn) {
    if (this.#writing.has(turn)) return Promise.resolve(true);
    return new Promise((resolve) => {
      const timer = setTimeout(() => (this.removeEventListener("writing", heard), resolve(false)), 600);
      const heard = ({ detail }) => {
        if (detail !== turn) return;
        clearTimeout(timer);
        this.removeEventListener("writing", heard);
        resolve(true);
      };
      this.addEventListener("writing", heard);
      this.#channel.postMessage({ asks: turn });
    });
  }

  #tell(conversation) {
    this.#channel.postMessage({ changed: conversation });
    this.dispatchEvent(new CustomEvent("change", { detail: conversation }));
  }

  #heard(said) {
    if (said.changed) this.dispatchEvent(new CustomEvent("change", { detail: said.changed }));
    if (said.asks && this.#writing.has(said.asks)) this.#channel.postMessage({ writes: said.asks });
    if (said.writes) this.dispatchEvent(new CustomEvent("writing", { detail: said.writes }));
  }
}

export const store = new Store();

/** An id that no other tab has given. `crypto.randomUUID` is for secure pages only. */
export function newId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}
