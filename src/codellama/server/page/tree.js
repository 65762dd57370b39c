// A conversation as a tree of turns: which branch is shown, what stands beside a turn, what the model reads.
// Pure functions over arrays of turns; nothing here knows of a database or of a page.

/** The turns by their ids, and under each parent's id its children, oldest first. */
export function treeOf(turns) {
  const byId = new Map(turns.map((turn) => [turn.id, turn]));
  const children = new Map();
  for (const turn of [...turns].sort((a, b) => a.at - b.at || (a.id < b.id ? -1 : 1))) {
    const parent = byId.has(turn.parent) ? turn.parent : null; // whose parent is gone begins a branch
    if (!children.has(parent)) children.set(parent, []);
    children.get(parent).push(turn);
  }
  return { byId, children };
}

/** The turns from the first one to `leaf`; to the newest one if there is no such turn. */
export function pathTo(tree, leaf) {
  let turn = tree.byId.get(leaf) ?? newestLeaf(tree, null);
  const path = [];
  while (turn) {
    path.unshift(turn);
    turn = tree.byId.get(turn.parent);
  }
  return path;
}

/** The end of the newest branch below `parent`. */
export function newestLeaf(tree, parent) {
  let found = null;
  for (let below = tree.children.get(parent); below; below = tree.children.get(found.id)) found = below.at(-1);
  return found;
}

/** The turns that stand where `turn` does, itself among them. */
export function siblings(tree, turn) {
  const parent = tree.byId.has(turn.parent) ? turn.parent : null;
  return tree.children.get(parent) ?? [];
}

/** What a request says: the system turn if there is one, and the turns in order. */
export function messagesOf(system, path) {
  const turns = path.map(({ role, text }) => ({ role, content: text }));
  return system?.trim() ? [{ role: "system", content: system }, ...turns] : turns;
}

/** The first words of a text, on one line. */
export function firstWords(text, most = 60) {
  const line = text.replace(/\s+/g, " ").trim();
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}
