// Blocks of code: highlighted, with buttons to copy them and to save them as a file.

import hljs from "./vendor/highlight.js";
import bash from "./vendor/languages/bash.js";
import c from "./vendor/languages/c.js";
import cpp from "./vendor/languages/cpp.js";
import csharp from "./vendor/languages/csharp.js";
import css from "./vendor/languages/css.js";
import diff from "./vendor/languages/diff.js";
import go from "./vendor/languages/go.js";
import java from "./vendor/languages/java.js";
import javascript from "./vendor/languages/javascript.js";
import json from "./vendor/languages/json.js";
import kotlin from "./vendor/languages/kotlin.js";
import markdown from "./vendor/languages/markdown.js";
import php from "./vendor/languages/php.js";
import python from "./vendor/languages/python.js";
import ruby from "./vendor/languages/ruby.js";
import rust from "./vendor/languages/rust.js";
import shell from "./vendor/languages/shell.js";
import sql from "./vendor/languages/sql.js";
import typescript from "./vendor/languages/typescript.js";
import xml from "./vendor/languages/xml.js";
import yaml from "./vendor/languages/yaml.js";
import "./vendor/purify.js";
import { button, copyText, h, saveText } from "./dom.js";

const LANGUAGES = {
  bash, c, cpp, csharp, css, diff, go, java, javascript, json, kotlin, markdown, php, python, ruby, rust, shell,
  sql, typescript, xml, yaml,
};
for (const [name, language] of Object.entries(LANGUAGES)) hljs.registerLanguage(name, language);

const ENDINGS = {
  bash: "sh", cpp: "cpp", csharp: "cs", javascript: "js", kotlin: "kt", markdown: "md", python: "py", ruby: "rb",
  rust: "rs", shell: "sh", typescript: "ts", xml: "xml", yaml: "yaml",
};
const LONGEST = 50_000; // characters; a longer text would hold up the page while it is highlighted

/** The language that a fence, or the end of a file's name, means; undefined for one that is not known. */
export function languageOf(name) {
  const known = hljs.getLanguage(name?.toLowerCase() ?? "");
  return Object.keys(LANGUAGES).find((language) => known && hljs.getLanguage(language) === known);
}

/** Code as a fragment of spans, highlighted where its language is known. */
export function highlighted(text, language) {
  if (!language || text.length > LONGEST) return document.createTextNode(text);
  const { value } = hljs.highlight(text, { language, ignoreIllegals: true });
  return globalThis.DOMPurify.sanitize(value, {
    ALLOWED_TAGS: ["span"],
    ALLOWED_ATTR: ["class"],
    RETURN_DOM_FRAGMENT: true,
  });
}

/** A block of code with its buttons. `info` is what stands behind the fence. */
export function codeBlock(text, info = "") {
  const word = info.trim().split(/[\s,{]/)[0];
  const language = languageOf(word);
  const name = /^[\w.-]+\.\w+$/.test(word) ? word : `code.${ENDINGS[language] ?? language ?? "txt"}`;
  const copy = button("Copy", async () => {
    await copyText(text);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1500);
  });
  return h("figure", { class: "code" },
    h("figcaption", {}, h("span", {}, language ?? (word || "text")), copy,
      button("Save", () => saveText(name, text), { title: `Save as ${name}` })),
    h("pre", { tabindex: "0" }, h("code", {}, highlighted(text, language))));
}
