import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';

import { ceiling } from '../chart.js';
import { credits, decimals, money, perCredit, scale, share, signed, sum, unscale, when } from '../format.js';

/** Intl's narrow and plain non-breaking spaces become the spaces typed here. */
const plain = (text) => text.replace(/[\u00a0\u202f]/g, ' ');

test('credits are counted digit by digit', () => {
  assert.equal(sum([0.1, 0.2]), '0.300000');
  assert.equal(sum(['9007199254.740991', 0.000001]), '9007199254.740992');
  assert.equal(sum([5, -0.25, '-4.75']), '0.000000');
  assert.equal(scale('0.25', 6), 250000n);
  assert.equal(scale('-0.000001', 6), -1n);
  assert.equal(scale('garbage', 6), 0n);
  for (const value of [0n, 5n, -5n, 123456789n, -1000000n]) {
    for (const places of [0, 2, 3, 6]) assert.equal(scale(unscale(value, places), places), value);
  }
});

test('credits are shown as the language writes them', () => {
  assert.equal(credits('en', 1234.5), '1,234.5');
  assert.equal(plain(credits('fr', 1234.5)), '1 234,5');
  assert.equal(plain(credits('fr', '9007199254.740992')), '9 007 199 254,740992');
  assert.equal(signed('en', 500), '+500');
  assert.equal(signed('en', -0.25), '−0.25');
  assert.equal(credits('fr', -3), '−3');
  assert.equal(signed('en', 0), '0');
});

test('money has the decimals of its currency', () => {
  assert.equal(money('en', { amount: 7900, currency: 'eur' }), '€79.00');
  assert.equal(plain(money('fr', { amount: 7900, currency: 'eur' })), '79,00 €');
  assert.equal(money('en', { amount: 1900, currency: 'jpy' }), '¥1,900');
  assert.equal(plain(money('en', { amount: 12345, currency: 'kwd' })), 'KWD 12.345');
  // Intl would read these as whole forints and rupiahs, a hundred times too much.
  assert.equal(plain(money('en', { amount: 790000, currency: 'huf' })), 'HUF 7,900.00');
  assert.equal(plain(money('en', { amount: 100, currency: 'ugx' })), 'UGX 1.00');
});

test('a credit has a price, to a hundredth of the minor unit', () => {
  assert.equal(perCredit('en', { amount: 1900, currency: 'eur' }, 100), '€0.19');
  assert.equal(perCredit('en', { amount: 7900, currency: 'eur' }, 500), '€0.158');
  assert.equal(perCredit('en', { amount: 13900, currency: 'eur' }, 1000), '€0.139');
  assert.equal(perCredit('en', { amount: 1000, currency: 'eur' }, '0.5'), '€20.00');
  assert.equal(perCredit('en', { amount: 100, currency: 'jpy' }, 300), '¥0.33');
});

test('currencies have the decimals that the gateway counts in', async () => {
  const source = await readFile(new URL('../../src/price/money.rs', import.meta.url), 'utf8');
  const codes = /CODES: &str = "\\\n([^"]*)"/.exec(source)[1].match(/[A-Z]{3}/g);
  const arms = /pub fn decimals[\s\S]*?=> 0,([\s\S]*?)=> 3,/.exec(source);
  const none = arms[0].split('=> 0')[0].match(/"[A-Z]{3}"/g).map((code) => code.slice(1, 4));
  const three = arms[1].match(/"[A-Z]{3}"/g).map((code) => code.slice(1, 4));
  assert.ok(codes.length > 150 && none.length > 10 && three.length > 3);
  for (const code of codes) {
    assert.equal(decimals(code), none.includes(code) ? 0 : three.includes(code) ? 3 : 2, code);
  }
});

test('a moment that cannot be read is shown as it came', () => {
  assert.equal(when('en', '<b>'), '<b>');
  assert.match(when('fr', '2026-11-23T05:00:00Z', { month: 'long', timeZone: 'UTC' }), /novembre/);
});

test('a scale ends at a round number', () => {
  assert.deepEqual([0, 0.5, 1, 5, 11, 98, 550, 8001].map(ceiling), [1, 0.5, 1, 5, 20, 100, 600, 10000]);
});

test('a part of a whole is told in percent, to a tenth', () => {
  assert.equal(share('en', 2, 3), '66.7%');
  assert.equal(share('en', 5, 5), '100%');
  assert.equal(plain(share('fr', 1, 8)), '12,5 %');
});
