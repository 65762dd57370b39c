// Conversations as a JSON file, and back. A file is a stranger's: what it holds is checked before it is kept.

import { newId, store } from "./store.js";

const FORMAT = "codellama-conversations";
const VERSION = 1;
const STATES = ["whole", "stopped", "cut", "full", "length"];

/** The text of a file with these conversations. */
export async function exported(conversations) {
  const all = [];
  for (const conversation of conversations) {
    const turns = await store.turns(conversation.id);
    all.push({ ...conversation, turns: turns.map(({ conversation: _, ...turn }) => turn) });
  }
  return JSON.stringify({ format: FORMAT, version: VERSION, conversations: all }, null, 1);
}

/** Keep the conversations of a file beside those that are there; gives their ids. Throws an Error in words. */
export async function imported(text) {
  let file;
  try {
    file = JSON.parse(text);
  } catch {
    throw new Error("This is no JSON file.");
  }
  if (file?.format !== FORMAT) throw new Error("This file holds no conversations of this page.");
  if (file.version !== VERSION) throw new Error(`Version ${file.version} of such files is not known here.`);
  if (!Array.isArray(file.conversations)) throw new Error("The file has no list of conversations.");
  const read = file.conversations.map(conversationOf);
  for (const { conversation, turns } of read) await store.add(conversation, turns);
  return read.map(({ conversation }) => conversation.id);
}

/** One conversation with new ids, so that it replaces nothing. */
function conversationOf(raw, index) {
  const where = `Conversation ${index + 1}`;
  if (!Array.isArray(raw?.turns)) throw new Error(`${where} has no turns.`);
  const id = newId();
  const ids = new Map(raw.turns.map((turn) => [turn?.id, newId()]));
  const turns = raw.turns.map((turn, n) => {
    if (!["user", "assistant"].includes(turn?.role) || typeof turn.text !== "string") {
      throw new Error(`${where}: turn ${n + 1} is none of a user or an assistant.`);
    }
    return {
      id: ids.get(turn.id),
      conversation: id,
      parent: ids.get(turn.parent) ?? null,
      role: turn.role,
      text: turn.text,
      at: Number(turn.at) || Date.now(),
      state: STATES.includes(turn.state) ? turn.state : "whole",
      figures: figuresOf(turn.figures),
      dropped: Array.isArray(turn.dropped) ? turn.dropped.filter(Number.isInteger) : [],
    };
  });
  const conversation = {
    id,
    title: String(raw.title ?? "Imported"),
    system: typeof raw.system === "string" ? raw.system : "",
    policy: raw.policy === "drop_oldest" ? "drop_oldest" : null,
    created: Number(raw.created) || Date.now(),
    updated: Date.now(),
    leaf: ids.get(raw.leaf) ?? null,
  };
  return { conversation, turns };
}

function figuresOf(raw) {
  if (!raw || typeof raw !== "object") return null;
  const names = ["prompt", "cached", "answer", "perSecond", "promptPerSecond"];
  return Object.fromEntries(names.map((name) => [name, Number(raw[name]) || 0]));
}
