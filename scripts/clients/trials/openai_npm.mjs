// OpenAI's library for JavaScript, of several major versions.

import OpenAI from "openai";
import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";

import { MESSAGES, assert, checkWeather, run, said } from "./checks.mjs";

const Pet = z.object({ kind: z.enum(["cat", "dog"]), age: z.number().int().min(0).max(30) });
const parameters = {
  type: "object",
  properties: { city: { enum: ["Paris", "Rome"] }, days: { type: "integer", minimum: 1, maximum: 9 } },
  required: ["city", "days"],
  additionalProperties: false,
};
const tool = { type: "function", function: { name: "weather", parameters } };
const client = (url) => new OpenAI({ baseURL: `${url}/v1`, apiKey: "none", maxRetries: 0 });
const body = { model: "any", messages: MESSAGES, max_tokens: 99 };

await run({
  async chat(url) {
    const reply = await client(url).chat.completions.create(body);
    said(reply.choices[0].message.content);
    assert(reply.usage.total_tokens > reply.usage.prompt_tokens);
  },
  async stream(url) {
    let text = "";
    for await (const chunk of await client(url).chat.completions.create({ ...body, stream: true })) {
      text += chunk.choices[0]?.delta?.content ?? "";
    }
    said(text);
  },
  async parse(url) {
    const response_format = zodResponseFormat(Pet, "pet");
    const reply = await client(url).chat.completions.parse({ ...body, response_format });
    assert(["cat", "dog"].includes(reply.choices[0].message.parsed.kind));
  },
  async tools(url) {
    const reply = await client(url).chat.completions.create({
      ...body, tools: [tool], tool_choice: "required",
    });
    checkWeather(reply.choices[0].message.tool_calls[0].function.arguments);
  },
  async run_tools(url) {
    let asked = null;
    const function_ = { ...tool.function, parse: JSON.parse, function: (given) => { asked = given; return "sunny"; } };
    const runner = client(url).chat.completions.runTools({
      ...body, tools: [{ type: "function", function: function_ }],
      tool_choice: { type: "function", function: { name: "weather" } },
    });
    await runner.done();
    checkWeather(asked);
  },
  async completions(url) {
    said((await client(url).completions.create({ model: "any", prompt: "def add(a, b):" })).choices[0].text);
  },
  async responses(url) {
    const reply = await client(url).responses.create({ model: "any", input: "hi", max_output_tokens: 16 });
    said(reply.output_text);
  },
  async embeddings_and_models(url) {
    const reply = await client(url).embeddings.create({ model: "any", input: ["a", "b"] });
    assert(reply.data.length === 2 && reply.data[0].embedding.length > 100);
    assert((await client(url).models.list()).data[0].id);
  },
});
