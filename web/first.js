// @ts-check
/** Stands in place of an empty chart: a first call to copy. */

import { h } from './dom.js';
import { words } from './i18n.js';
import { copyOf, say } from './page.js';

Object.assign(words, {
  firstCall: ['Your first call', 'Votre premier appel'],
  firstText: ['Nothing was used yet. Make an API key on this page, put it in place of YOUR_KEY, and run this:', 'Rien n’a encore été utilisé. Créez une clé d’API sur cette page, mettez-la à la place de YOUR_KEY et lancez ceci :'],
  firstCost: [{ one: 'It costs {n} credit.', other: 'It costs {n} credits.' }, { one: 'Il coûte {n} crédit.', many: 'Il coûte {n} de crédits.', other: 'Il coûte {n} crédits.' }],
  firstMetered: ['It is charged by what it uses.', 'Il est facturé selon ce qu’il consomme.'],
  copyCall: ['Copy the call', 'Copier l’appel'],
});

/** A shell command that calls a route for sale. @param {string} origin @param {{ path: string, methods: string[] }} route @param {string} [body] */
export function curl(origin, { path, methods }, body = '{}') {
  const method = methods.includes('POST') || methods.includes('*') ? 'POST' : methods[0];
  const sent = ['POST', 'PUT', 'PATCH'].includes(method) && [`-H 'Content-Type: application/json'`, `-d '${body.replaceAll("'", String.raw`'\''`)}'`];
  const url = `'${(origin + path).replaceAll("'", '%27')}'`;
  return [`curl -X ${method} ${url}`, `-H 'Authorization: Bearer YOUR_KEY'`, ...(sent || [])].join(' \\\n  ');
}

/** Null where every path has a parameter. @param {string} base */
export async function firstCall(base) {
  const prices = await fetch(new URL('prices', base)).then((answer) => answer.json()).catch(() => []);
  // A line without a path is a model.
  const whole = prices.filter(({ path }) => path && !path.includes('{'));
  const route = whole.find(({ credits }) => Number(credits) > 0) ?? whole.find(({ price }) => price) ?? whole[0];
  if (!route) return null;
  const model = prices.find((line) => line.model && !line.model.includes('*'))?.model ?? 'MODEL';
  const messages = /\/(chat\/completions|messages)$/.test(route.path) && { max_tokens: 100, messages: [{ role: 'user', content: 'Hello' }] };
  const body = route.price ? JSON.stringify({ ...(route.price === 'models' && { model }), ...messages }) : undefined;
  const code = h('pre', { class: 'code call' }, curl(new URL(base).origin, route, body));
  return h('div', { class: 'stack' }, h('h3', {}, say('firstCall')), h('p', { class: 'muted' }, say('firstText')), code,
    h('div', { class: 'row' }, copyOf(code, say('copyCall'), { class: 'quiet small' }), h('span', { class: 'muted small' }, route.price ? say('firstMetered') : say('firstCost', { n: route.credits }))));
}
