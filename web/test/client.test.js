import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import test from 'node:test';

// The parts of a browser that the client uses, set before it is loaded.
const storage = new Map();
Object.assign(globalThis, {
  location: new URL('http://app.test/'),
  document: Object.assign(new EventTarget(), { hidden: false, documentElement: { lang: 'fr' } }),
  sessionStorage: { getItem: (key) => storage.get(key) ?? null, setItem: (key, value) => storage.set(key, value) },
});
const { balanceOf, client, configure, FareboxError } = await import('../client.js');

const balance = (available, more) => ({ account: 'alice', balance: available, held: 0, available, low: available < 20, ...more });

/** A gateway of one account whose answers a test sets. */
async function gateway(t, routes) {
  const asked = [];
  const server = createServer((request, response) => {
    const name = new URL(request.url, 'http://gateway').pathname.replace('/credits/', '');
    asked.push({ name, method: request.method, ...request.headers });
    const route = routes[name] ?? ((_, answer) => answer.writeHead(404).end());
    route(request, response);
  });
  await new Promise((done) => server.listen(0, '127.0.0.1', done));
  const base = `http://127.0.0.1:${server.address().port}/credits`;
  const stops = [];
  t.after(() => {
    stops.forEach((stop) => stop());
    server.closeAllConnections();
    server.close();
  });
  const store = configure({ base, token: () => 'token-1' });
  const watch = () => {
    const seen = [];
    const waiting = [];
    stops.push(store.subscribe((state) => {
      seen.push(state);
      waiting.forEach((look) => look(state));
    }));
    const until = (test) => new Promise((done) => {
      if (test(store.state)) return done(store.state);
      waiting.push((state) => test(state) && done(state));
    });
    return { seen, until };
  };
  return { base, store, asked, watch };
}

const json = (body, status = 200, headers = {}) => (_, response) =>
  response.writeHead(status, { 'content-type': 'application/json', ...headers }).end(JSON.stringify(body));

test('one base is one store, however it is written', () => {
  assert.equal(client('http://a.test/credits'), client('http://a.test/credits/'));
  assert.notEqual(client('http://a.test/credits'), client('http://b.test/credits'));
});

test('events are read whatever their line ends are, and others are passed over', () => {
  assert.deepEqual(balanceOf('event: balance\ndata: {"a":\ndata: 1}'), { a: 1 });
  assert.deepEqual(balanceOf('event:balance\r\ndata:{"a":1}'), { a: 1 });
  assert.equal(balanceOf(': still here'), null);
  assert.equal(balanceOf('event: other\ndata: {}'), null);
});

test('the balance is read with the token, then streamed', async (t) => {
  let stream;
  const { store, asked, watch } = await gateway(t, {
    balance: json(balance(90)),
    events: (_, response) => {
      stream = response.writeHead(200, { 'content-type': 'text/event-stream' });
      stream.write(`: hello\n\nevent: balance\ndata: ${JSON.stringify(balance(85))}\n\n`);
    },
  });
  const { until } = watch();
  assert.equal(store.state.status, 'loading');
  await until(({ balance }) => balance?.available === 90);
  await until(({ balance }) => balance?.available === 85);
  // In two pieces, cut in the middle of a line.
  const text = `event: balance\ndata: ${JSON.stringify(balance(500))}\n\n`;
  stream.write(text.slice(0, 25));
  setTimeout(() => stream.write(text.slice(25)), 20);
  await until(({ balance }) => balance?.available === 500);
  assert.ok(asked.every(({ authorization }) => authorization === 'Bearer token-1'));
  assert.equal(asked[0]['accept-language'], 'fr');
});

test('the stream lasts while the page is seen and somebody listens', async (t) => {
  const streams = [];
  const ended = [];
  const { store } = await gateway(t, {
    balance: json(balance(90)),
    events: (_, response) => {
      streams.push(response.writeHead(200, { 'content-type': 'text/event-stream' }));
      response.on('close', () => ended.push(response));
      response.write(`event: balance\ndata: ${JSON.stringify(balance(85))}\n\n`);
    },
  });
  const come = async (test) => {
    while (!test()) await new Promise((done) => setTimeout(done, 5));
  };
  const look = (hidden) => {
    document.hidden = hidden;
    document.dispatchEvent(new Event('visibilitychange'));
  };
  t.after(() => look(false));
  const stop = store.subscribe(() => {});
  await come(() => store.state.balance?.available === 85);
  look(true);
  await come(() => ended.length === 1);
  assert.equal(streams.length, 1);
  look(false);
  await come(() => streams.length === 2);
  stop();
  await come(() => ended.length === 2);
});

test('a call of the page moves the balance; a 402 is heard', async (t) => {
  const problem = { code: 'INSUFFICIENT_CREDITS', required: 5, available: 3 };
  const { base, store, watch } = await gateway(t, {
    balance: json(balance(90)),
    paid: json({}, 200, { 'x-credits-remaining': '84.5' }),
    refused: json(problem, 402, { 'content-type': 'application/problem+json' }),
  });
  const { until } = watch();
  await until(({ balance }) => balance);
  const answer = await store.fetch(`${base}/paid`, { method: 'POST' });
  assert.equal(store.state.balance.available, '84.5');
  assert.deepEqual(await answer.json(), {});
  const heard = new Promise((done) => store.onRefusal(done));
  const refused = await store.fetch(`${base}/refused`);
  assert.deepEqual(await heard, problem);
  assert.deepEqual(await refused.json(), problem, 'the page can still read it');
});

test('nobody is asked without a token, but for packs', async (t) => {
  const { store, asked } = await gateway(t, { packs: json([]) });
  store.token = () => null;
  assert.equal((await store.refresh()).status, 'signed-out');
  assert.deepEqual(await store.request('packs'), []);
  assert.deepEqual(asked.map(({ name }) => name), ['packs']);
});

test('a failure keeps the balance that was there, and says what it was', async (t) => {
  let routes;
  const { store } = await gateway(t, (routes = { balance: json(balance(90)) }));
  await store.refresh();
  routes.balance = json({ code: 'LEDGER_UNAVAILABLE', detail: 'Later.' }, 503);
  const { status, balance: kept, error } = await store.refresh();
  assert.deepEqual([status, kept.available, error.status, error.code, error.message], ['ready', 90, 503, 'LEDGER_UNAVAILABLE', 'Later.']);
  assert.ok(error instanceof FareboxError);
  routes.balance = json({}, 401);
  assert.equal((await store.refresh()).balance, null);
});

test('a slow answer does not undo a newer one', async (t) => {
  const held = [];
  const { store } = await gateway(t, { balance: (_, response) => held.push(response) });
  const first = store.refresh();
  const second = store.refresh();
  while (held.length < 2) await new Promise((done) => setTimeout(done, 5));
  json(balance(5))(null, held[1]);
  await second;
  json(balance(90))(null, held[0]);
  await first;
  assert.equal(store.state.balance.available, 5);
});

test('tabs of one account tell each other', async (t) => {
  const { base, watch } = await gateway(t, { balance: json(balance(90)) });
  const { until } = watch();
  await until(({ balance }) => balance);
  const tab = new BroadcastChannel(`farebox ${base}/`);
  t.after(() => tab.close());
  tab.postMessage(balance(1, { account: 'bob' }));
  tab.postMessage(balance(30));
  assert.equal((await until(({ balance }) => balance.available !== 90)).balance.available, 30);
});

test('a purchase is remembered for its way to the checkout and back', async (t) => {
  const { store } = await gateway(t, { balance: json(balance(90)), buy: json({ checkout_url: 'https://pay.test/', session_id: 'cs_1' }) });
  await store.refresh();
  await store.buy('pack-500');
  assert.equal(store.purchase.session_id, 'cs_1');
  store.purchase = null;
  assert.equal(store.purchase, null);
});
