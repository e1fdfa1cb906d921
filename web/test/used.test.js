import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';

import { kinds, metered, tokens } from '../used.js';

const all = async () => {
  const source = await readFile(new URL('../../src/usage/kind.rs', import.meta.url), 'utf8');
  return [...source.matchAll(/Self::\w+ => "(\w+)"/g)].map(([, kind]) => kind);
};

test('every kind that the ledger knows is input, output or a piece, and has a name', async () => {
  const known = await all();
  assert.equal(known.length, 14);
  const used = Object.fromEntries(known.map((kind) => [kind, 1]));
  const of = (group) => kinds(used, group).map(([kind]) => kind);
  assert.deepEqual(of('in'), ['input', 'cached_input', 'cache_write', 'cache_write_1h', 'input_audio', 'input_image']);
  assert.deepEqual(of('out'), ['output', 'reasoning', 'output_audio', 'output_image']);
  assert.deepEqual(of('pieces'), ['image', 'second', 'character', 'search']);
  const named = (await Promise.all(['i18n.js', 'models.js'].map((name) => readFile(new URL(`../${name}`, import.meta.url), 'utf8')))).join();
  for (const kind of known) assert.ok(named.includes(`'unit-${kind}': [`), kind);
});

test('a metered entry says model, usage and hold, and no other entry says anything', () => {
  const entry = { model: 'gpt-5', held: 2.5, usage: { input: 600, cached_input: 400, output: 300, search: 2 } };
  assert.deepEqual(metered('en', entry), ['gpt-5', '1,000 tokens in, 300 out · Searches: 2 · held: 2.5']);
  assert.equal(metered('fr', entry)[1].replace(/\s/g, ' '), '1 000 jetons en entrée, 300 en sortie · Recherches : 2 · réservé : 2,5');
  assert.deepEqual(metered('en', { model: null, held: 8, usage: { image: 2 } }), [null, 'Images: 2 · held: 8']);
  assert.deepEqual(metered('en', { model: 'm', held: '0.000001', usage: {} }), ['m', 'held: 0.000001']);
  assert.deepEqual(metered('en', { kind: 'grant' }), []);
  assert.equal(tokens({ input: 2 ** 40, cached_input: 2 ** 40 }, 'in'), '2199023255552.000000');
});
