// A tool-call round trip with the Vercel AI SDK: node vercel.mjs chat|responses
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const openai = createOpenAI({
  baseURL: process.env.GATE_URL + "/v1",
  apiKey: process.env.GATE_KEY,
});
const model = process.argv[2] === "chat" ? openai.chat("small") : openai.responses("small");
const cities = [];
const tide = tool({
  description: "The tide in a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    cities.push(city);
    return `low in ${city}`;
  },
});
const asked = {
  model,
  tools: { tide },
  maxOutputTokens: 99,
  stopWhen: isStepCount(5),
  prompt: process.env.GATE_PROMPT,
};
const whole = await generateText(asked);
const running = streamText(asked);
const streamed = await running.text;
console.log(JSON.stringify({ cities, texts: [whole.text, streamed] }));
