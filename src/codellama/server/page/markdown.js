// Answers as HTML. What a model writes is nobody's to trust: HTML in it is shown as the text that it is,
// images are their descriptions, and what is left passes the sanitizer before it becomes elements.
// While an answer grows, only the blocks that changed are made anew.

import { Marked } from "./vendor/marked.js";
import "./vendor/purify.js";
import { codeBlock } from "./code.js";
import { h } from "./dom.js";

const SAFE = {
  ALLOWED_TAGS: [
    "p", "br", "em", "strong", "del", "code", "a", "ul", "ol", "li", "h3", "h4", "h5", "h6", "blockquote", "hr",
    "table", "thead", "tbody", "tr", "th", "td", "pre",
  ],
  ALLOWED_ATTR: ["href", "start", "class"],
  ALLOWED_URI_REGEXP: /^(?:https?|mailto):/i,
  RETURN_DOM_FRAGMENT: true,
};

function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => `&#${character.charCodeAt(0)};`);
}

const marked = new Marked({
  gfm: true,
  renderer: {
    html: ({ text, block }) => (block ? `<p>${escaped(text)}</p>` : escaped(text)),
    image: ({ text, href }) => escaped(text || href),
    checkbox: ({ checked }) => (checked ? "☑ " : "☐ "),
    heading({ tokens, depth }) {
      const level = Math.min(depth + 2, 6); // the page's own headings stand above
      return `<h${level}>${this.parser.parseInline(tokens)}</h${level}>`;
    },
  },
});

function rendered(block, links) {
  if (block.type === "code") return [codeBlock(block.text, block.lang)];
  const blocks = [block];
  blocks.links = links;
  const fragment = globalThis.DOMPurify.sanitize(marked.parser(blocks), SAFE);
  for (const link of fragment.querySelectorAll("a[href]")) {
    link.target = "_blank";
    link.rel = "noopener noreferrer";
  }
  for (const pre of fragment.querySelectorAll("pre")) { // within a list or a quotation
    const code = pre.firstElementChild ?? pre;
    const language = /language-(\S+)/.exec(code.className)?.[1];
    pre.replaceWith(codeBlock(code.textContent.replace(/\n$/, ""), language));
  }
  for (const table of fragment.querySelectorAll("table")) {
    const frame = h("div", { class: "wide", tabindex: "0" });
    table.replaceWith(frame);
    frame.append(table);
  }
  return [...fragment.childNodes];
}

/** Show `text` in `place`, which must be changed by nobody else. */
export function showMarkdown(place, text) {
  const lexed = marked.lexer(text);
  const blocks = lexed.filter((block) => block.type !== "space");
  const parts = (place.markdownParts ??= []);
  let same = 0;
  while (same < parts.length && same < blocks.length && parts[same].raw === blocks[same].raw) same++;
  for (const part of parts.splice(same)) part.element.remove();
  for (const block of blocks.slice(same)) {
    const element = h("div", { class: "block" }, rendered(block, lexed.links));
    parts.push({ raw: block.raw, element });
    place.append(element);
  }
}

/** Show what a person typed: as it is, but fenced code as blocks. */
export function showTyped(place, text) {
  const parts = text.split(/^(`{3,})([^\n`]*)\n([\s\S]*?)\n\1`*[ \t]*$/m);
  place.replaceChildren();
  for (let i = 0; i < parts.length; i += 4) {
    if (parts[i].trim()) place.append(h("p", { class: "typed" }, parts[i].replace(/^\n+|\n+$/g, "")));
    if (i + 3 < parts.length) place.append(codeBlock(parts[i + 3], parts[i + 2]));
  }
}
