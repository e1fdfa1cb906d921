// What Vercel's AI SDK reads from OpenAI's and Anthropic's API at a base URL, as JSON.
//
//   node vercel.mjs PROVIDER BASE_URL KEY CASE
//
// FAREBOX_SDK_NODE is the folder with its node_modules.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.FAREBOX_SDK_NODE}/package.json`);
const load = (name) => import(pathToFileURL(require.resolve(name)).href);
const { APICallError, generateText, jsonSchema, stepCountIs, streamText, tool } = await load('ai');
const { createOpenAI } = await load('@ai-sdk/openai');
const { createAnthropic } = await load('@ai-sdk/anthropic');

const [provider, base, key, what] = process.argv.slice(2);
let requests = 0;
const settings = {
  baseURL: `${base}/v1`,
  apiKey: key,
  fetch: (...all) => {
    requests += 1;
    return fetch(...all);
  },
};
const models = {
  chat: () => createOpenAI(settings).chat,
  responses: () => createOpenAI(settings).responses,
  anthropic: () => createAnthropic(settings),
};
const model = (name) => models[provider]()(name);

const weather = tool({
  description: 'Looks it up.',
  inputSchema: jsonSchema({
    type: 'object', properties: { city: { type: 'string' } }, required: ['city'],
  }),
  execute: async ({ city }) => `rain in ${city}`,
});
const common = { model: model('m'), maxOutputTokens: 50 };

/** The parts of a stream, without the times and heads that no two calls share. */
async function parts(stream) {
  const read = [];
  for await (const part of stream.fullStream) {
    const { response, request, timestamp, ...rest } = part;
    read.push(rest);
  }
  return read;
}

const refusal = (error) => ({
  isOfTheSdk: APICallError.isInstance(error),
  status: error.statusCode,
  isRetryable: error.isRetryable,
  message: error.message,
});

const cases = {
  async whole() {
    const { text, finishReason, usage, content } = await generateText({ ...common, prompt: 'Hello there' });
    return { text, finishReason, usage, content };
  },
  streamed: () => parts(streamText({ ...common, prompt: 'Hello there' })),
  async tools() {
    const more = { tools: { weather }, stopWhen: stepCountIs(3), prompt: 'Paris' };
    const { text, steps } = await generateText({ ...common, ...more });
    return { text, calls: steps.map((step) => step.toolCalls.map(({ toolName, input }) => [toolName, input])) };
  },
  async aborted() {
    const leaving = new AbortController();
    const stream = streamText({
      model: model('m'), maxOutputTokens: 8000, prompt: 'count to 8000', abortSignal: leaving.signal,
    });
    let words = 0;
    let saidSo = false;
    for await (const part of stream.fullStream) {
      saidSo ||= part.type === 'abort';
      if (part.type === 'text-delta' && ++words === 20) leaving.abort();
    }
    return { saidSo, few: words < 4000 };
  },
  async dry() {
    const stream = streamText({
      model: model('small-holds'), maxOutputTokens: 8000, prompt: 'count to 8000', onError() {},
    });
    const errors = [];
    let words = 0;
    for await (const part of stream.fullStream) {
      if (part.type === 'text-delta') words += 1;
      if (part.type === 'error') errors.push(JSON.stringify(part.error) + String(part.error?.message ?? part.error));
    }
    return { words, errors };
  },
  async refused() {
    try {
      return await generateText({ ...common, prompt: 'Hello there' });
    } catch (error) {
      return refusal(error);
    }
  },
  async unknown() {
    try {
      return await generateText({ ...common, model: model('unknown'), prompt: 'Hello there' });
    } catch (error) {
      return refusal(error);
    }
  },
};

console.log(JSON.stringify({ read: await cases[what](), requests }));
