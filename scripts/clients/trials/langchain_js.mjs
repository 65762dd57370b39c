// LangChain.js with OpenAI's models.

import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { z } from "zod";

import { assert, checkWeather, run, said } from "./checks.mjs";

const Pet = z.object({ kind: z.enum(["cat", "dog"]), age: z.number().int().min(0).max(30) });
const QUESTION = "How do I reverse a list in Python?";
const options = (url) => ({
  model: "any", apiKey: "none", maxTokens: 99, maxRetries: 0, configuration: { baseURL: `${url}/v1` },
});
const chat = (url, more) => new ChatOpenAI({ ...options(url), ...more });
const weather = {
  name: "weather",
  description: "Weather.",
  schema: z.object({ city: z.enum(["Paris", "Rome"]), days: z.number().int().min(1).max(9) }),
};

await run({
  async chat(url) {
    said((await chat(url).invoke(QUESTION)).content);
  },
  async stream(url) {
    let text = "";
    for await (const part of await chat(url).stream(QUESTION)) text += part.content;
    said(text);
  },
  async structured_output(url) {
    for (const method of ["jsonSchema", "functionCalling"]) {
      const made = await chat(url).withStructuredOutput(Pet, { method, name: "pet" }).invoke(QUESTION);
      assert(["cat", "dog"].includes(made.kind), `${method}: ${JSON.stringify(made)}`);
    }
  },
  async tools(url) {
    const reply = await chat(url).bindTools([weather], { tool_choice: "weather" }).invoke(QUESTION);
    checkWeather(reply.tool_calls[0].args);
  },
  async responses(url) {
    const reply = await chat(url, { useResponsesApi: true }).invoke(QUESTION);
    said(typeof reply.content === "string" ? reply.content : reply.content[0].text);
  },
  async text_and_vectors(url) {
    said(await new OpenAI({ ...options(url), maxTokens: 16 }).invoke("def add(a, b):"));
    assert((await new OpenAIEmbeddings(options(url)).embedQuery("a")).length > 100);
  },
});
