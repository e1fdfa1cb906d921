// Tells how Node's parser reads a request: one body a line in base64, one JSON answer a line, as in read.py.
import { createInterface } from "node:readline";

const summary = (body) => {
  const limits = [body.max_tokens, body.max_completion_tokens].filter((limit) => limit > 0);
  return {
    model: body.model ?? null,
    stream: Boolean(body.stream),
    n: Math.max(body.n ?? 1, 1),
    limit: limits.length ? Math.max(...limits) : null,
  };
};

for await (const line of createInterface({ input: process.stdin })) {
  const read = {};
  try {
    const body = JSON.parse(Buffer.from(line, "base64").toString("utf8"));
    // An object with a member `__proto__` keeps its own members.
    read.node = summary({ ...body });
  } catch {
    // A refusal.
  }
  console.log(JSON.stringify({ parsers: ["node"], read }));
}
