// Files that are dropped, pasted or chosen: text, put into the question as fenced code.

const LARGEST = 1 << 20; // bytes; no context of these models holds as much

/** A text in a fence that nothing in it closes; `info` stands behind the fence. */
export function fenced(text, info) {
  const longest = Math.max(2, ...Array.from(text.matchAll(/`+/g), ([run]) => run.length));
  const fence = "`".repeat(longest + 1);
  return `${fence}${info}\n${text.replace(/\n$/, "")}\n${fence}`;
}

/** The question's text for these files, and what is wrong with those that were left out. */
export async function textOf(files) {
  const texts = [];
  const problems = [];
  for (const file of files) {
    const problem = await problemWith(file);
    if (problem) problems.push(`${file.name}: ${problem}`);
    else texts.push(`${file.name}:\n\n${fenced(await file.text(), ending(file.name))}`);
  }
  return { text: texts.join("\n\n"), problems };
}

function ending(name) {
  return /\.([A-Za-z0-9+#]+)$/.exec(name)?.[1].toLowerCase() ?? "";
}

async function problemWith(file) {
  if (file.size > LARGEST) return "larger than 1 MiB";
  try {
    const text = new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer());
    return text.includes("\0") ? "not a text file" : null;
  } catch {
    return "not a text file (UTF-8)";
  }
}

/** Let files be dropped onto `place`; `take` gets the files, and the place has a class meanwhile. */
export function acceptDrops(place, take) {
  const hasFiles = (event) => event.dataTransfer?.types.includes("Files");
  const listeners = {
    dragover(event) {
      if (!hasFiles(event)) return;
      event.preventDefault();
      place.classList.add("dropping");
    },
    dragleave: (event) => !place.contains(event.relatedTarget) && place.classList.remove("dropping"),
    drop(event) {
      if (!hasFiles(event)) return;
      event.preventDefault();
      place.classList.remove("dropping");
      take([...event.dataTransfer.files]);
    },
  };
  for (const [name, listener] of Object.entries(listeners)) place.addEventListener(name, listener);
}
