// Sends equal prompts in parallel through the official SDK of OpenAI or Anthropic for Node, and prints the texts of
// the answers as JSON.
//
//   node retries.mjs SDK BASE_URL API_KEY PROMPT TIMEOUT_MS TIMES IDEMPOTENCY_KEY
//
// FAREBOX_SDK_NODE is the folder with its node_modules. An empty key sends no `idempotency-key`.

import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const require = createRequire(`${process.env.FAREBOX_SDK_NODE}/package.json`);
const load = async (name) => (await import(pathToFileURL(require.resolve(name)).href)).default;

const [sdk, base, apiKey, prompt, timeout, times, key] = process.argv.slice(2);
const settings = { apiKey, timeout: Number(timeout), maxRetries: 4 };
const options = key ? { headers: { 'Idempotency-Key': key } } : {};
const request = { model: 'm', max_tokens: 500, messages: [{ role: 'user', content: prompt }] };

const asks = {
  async openai() {
    const OpenAI = await load('openai');
    const client = new OpenAI({ ...settings, baseURL: `${base}/v1` });
    return async () => (await client.chat.completions.create(request, options)).choices[0].message.content;
  },
  async anthropic() {
    const Anthropic = await load('@anthropic-ai/sdk');
    const client = new Anthropic({ ...settings, baseURL: base });
    return async () => (await client.messages.create(request, options)).content[0].text;
  },
};

const ask = await asks[sdk]();
console.log(JSON.stringify(await Promise.all(Array.from({ length: Number(times) }, ask))));
