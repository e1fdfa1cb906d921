import assert from 'node:assert/strict';
import { readdir, readFile } from 'node:fs/promises';
import test from 'node:test';

import { speak, t } from '../i18n.js';

const web = new URL('../', import.meta.url);
const sources = async () => {
  const names = (await readdir(web)).filter((name) => name.endsWith('.js'));
  return Promise.all(names.map(async (name) => [name, await readFile(new URL(name, web), 'utf8')]));
};

/** The messages of every file. The pages' own cannot be imported without a page. */
async function messages() {
  const all = {};
  for (const [name, text] of await sources()) {
    for (const [, table] of text.matchAll(/(?:export const words = |Object\.assign\(words, )(\{[\s\S]*?\n\})/g)) {
      for (const [key, message] of Object.entries(new Function(`return ${table}`)())) {
        // The two pages are never open in one document.
        const known = all[key];
        assert.ok(!known || [known.name, name].every((file) => ['account.js', 'keys.js', 'admin.js'].includes(file)), `${key} twice`);
        all[key] = { name, message };
      }
    }
  }
  return all;
}

test('every message is there in every language, with the same values in it', async () => {
  const all = Object.entries(await messages());
  assert.ok(all.length > 100);
  const values = (text) => [...new Set(text.match(/\{\w+\}/g) ?? [])].sort().join();
  for (const [key, { message }] of all) {
    assert.equal(message.length, 2, key);
    const [en, fr] = message.map((text) => (typeof text === 'string' ? { other: text } : text));
    assert.ok(en.other && fr.other, key);
    for (const text of [...Object.values(en), ...Object.values(fr)]) assert.equal(values(text), values(en.other), key);
    assert.equal('one' in en, 'one' in fr, key);
  }
});

test('what is said is written down, and what is written down is said', async () => {
  const all = await messages();
  const text = (await sources()).map(([, source]) => source).join('\n');
  for (const [, key] of text.matchAll(/(?:\bsay|\bthis\.t|\bt)\((?:lang(?:\(\))?, )?'([\w-]+)'/g)) {
    assert.ok(key in all, `${key} is said and not written down`);
  }
  for (const key of Object.keys(all)) {
    const said = text.split(new RegExp(`['"\`]${key}['"\`]`)).length > 1 || /^(kind|state|origin|outcome|unit)-/.test(key);
    assert.ok(said || new RegExp(`\\b${key}\\(account|async ${key}\\(`).test(text), `${key} is never said`);
  }
});

test('values are put in as they are, and numbers choose the plural', () => {
  assert.equal(t('en', 'buyPack', { name: '$& {price} <b>', price: '€1' }), 'Buy $& {price} <b> for €1');
  assert.equal(t('en', 'amount', { n: 1 }), '1 credit');
  assert.equal(t('en', 'amount', { n: '0.5' }), '0.5 credits');
  assert.equal(t('fr', 'amount', { n: 0 }), '0 crédit');
  assert.equal(t('fr', 'amount', { n: -2 }), '−2 crédits');
  assert.match(t('fr', 'amount', { n: 1000000 }), /de crédits$/);
});

test('a wish for a language finds one of ours', () => {
  assert.deepEqual(['fr', 'fr-CA', 'FR', 'en-GB', 'de', '', undefined, 'fry'].map(speak), ['fr', 'fr', 'fr', 'en', 'en', 'en', 'en', 'en']);
});
