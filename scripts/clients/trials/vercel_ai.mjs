// Vercel's AI SDK with its provider for servers like OpenAI's.

import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { embed, generateObject, generateText, streamText, tool } from "ai";
import { z } from "zod";

import { assert, checkWeather, run, said } from "./checks.mjs";

const Pet = z.object({ kind: z.enum(["cat", "dog"]), age: z.number().int().min(0).max(30) });
const prompt = "How do I reverse a list in Python?";
const provider = (url, more) =>
  createOpenAICompatible({ name: "codellama", baseURL: `${url}/v1`, apiKey: "none", ...more });

await run({
  async text(url) {
    const reply = await generateText({ model: provider(url)("any"), prompt, maxOutputTokens: 24 });
    said(reply.text);
    assert(reply.usage.outputTokens > 0);
  },
  async stream(url) {
    const reply = streamText({ model: provider(url)("any"), prompt, maxOutputTokens: 24 });
    let text = "";
    for await (const part of reply.textStream) text += part;
    said(text);
  },
  async object_with_schema(url) {
    const model = provider(url, { supportsStructuredOutputs: true })("any");
    const { object } = await generateObject({ model, schema: Pet, prompt, maxOutputTokens: 99 });
    assert(["cat", "dog"].includes(object.kind));
  },
  async object_without_schema(url) {
    const model = provider(url)("any");
    const { object } = await generateObject({
      model, output: "no-schema", prompt, maxOutputTokens: 300, temperature: 0,
      frequencyPenalty: 1, // without it the demo model repeats itself, and its answer is cut
    });
    assert(typeof object === "object");
  },
  async tools(url) {
    const weather = tool({
      description: "Weather.",
      inputSchema: z.object({
        city: z.enum(["Paris", "Rome"]), days: z.number().int().min(1).max(9),
      }),
      execute: async () => "sunny",
    });
    const reply = await generateText({
      model: provider(url)("any"), prompt, tools: { weather }, toolChoice: "required", maxOutputTokens: 99,
    });
    checkWeather(reply.toolCalls[0].input);
    assert(reply.toolResults[0].output === "sunny");
  },
  async completion_and_embedding(url) {
    const model = provider(url).completionModel("any");
    said((await generateText({ model, prompt: "def add(a, b):", maxOutputTokens: 16 })).text);
    const vectors = provider(url).embeddingModel ?? provider(url).textEmbeddingModel;
    assert((await embed({ model: vectors("any"), value: "a" })).embedding.length > 100);
  },
});
