// A tool-call round trip with LangChain: node langchain.mjs chat|responses
import { HumanMessage, ToolMessage } from "@langchain/core/messages";
import { tool } from "@langchain/core/tools";
import { ChatOpenAI } from "@langchain/openai";
import { z } from "zod";

const cities = [];
const tide = tool(
  async ({ city }) => {
    cities.push(city);
    return `low in ${city}`;
  },
  { name: "tide", description: "The tide in a city.", schema: z.object({ city: z.string() }) },
);
const model = new ChatOpenAI({
  model: "small",
  maxTokens: 99,
  apiKey: process.env.GATE_KEY,
  configuration: { baseURL: process.env.GATE_URL + "/v1" },
  useResponsesApi: process.argv[2] === "responses",
}).bindTools([tide]);

async function ask(stream) {
  const messages = [new HumanMessage(process.env.GATE_PROMPT)];
  for (;;) {
    let said;
    if (stream) {
      for await (const piece of await model.stream(messages)) {
        said = said === undefined ? piece : said.concat(piece);
      }
    } else {
      said = await model.invoke(messages);
    }
    if (said.tool_calls.length === 0) return said.text;
    messages.push(said);
    for (const call of said.tool_calls) {
      const content = await tide.func(call.args);
      messages.push(new ToolMessage({ content, tool_call_id: call.id }));
    }
  }
}

console.log(JSON.stringify({ texts: [await ask(false), await ask(true)], cities }));
