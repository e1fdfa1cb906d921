// @ts-check
/** The price list: routes with a fixed price, metered routes, and models. */

import { h, told } from './dom.js';
import { credits, number } from './format.js';
import { words } from './i18n.js';
import { list } from './models.js';
import { card, lang, say } from './page.js';
import { pair } from './used.js';

Object.assign(words, {
  prices: ['Prices', 'Prix'],
  route: ['Route', 'Route'],
  price: ['Price', 'Prix'],
  byModel: ['By the model', 'Selon le modèle'],
  free: ['Free', 'Gratuit'],
  everyMethod: ['every method', 'toutes les méthodes'],
  modelPrices: ['Models', 'Modèles'],
  unitsText: ['In credits: tokens by the million, everything else by the piece.', 'En crédits : les jetons par million, le reste à l’unité.'],
  above: ['Above {value} tokens of input', 'Au-delà de {value} jetons en entrée'],
  input: ['Input', 'Entrée'],
  output: ['Output', 'Sortie'],
});

/** A price of one unit, which may have more decimals than credits. @param {number | string} value */
const unit = (value) => number(lang(), value, { maximumFractionDigits: 9 });

/** @typedef {Record<string, number>} Prices by kind, and `request` for the call itself */
/** @typedef {{ model: string, free?: boolean, prices: Prices, above?: { input_tokens: number, prices: Prices }[], when?: { if: Record<string, any>, prices: Prices }[] }} Model */

/** One text for each price. @param {Prices} prices */
export const lines = (prices) => Object.entries(prices).map(([kind, price]) => pair(lang(), kind, unit(price)));

/** All prices of a model but those that have columns of their own. @param {Model} model @param {string[]} [shown] */
export const rest = ({ prices, above = [], when = [] }, shown = []) => [
  ...lines(Object.fromEntries(Object.entries(prices).filter(([kind]) => !shown.includes(kind)))),
  ...above.map((tier) => `${say('above', { value: unit(tier.input_tokens) })} – ${lines(tier.prices).join(', ')}`),
  ...when.map((of) => `${Object.entries(of.if).map(([name, value]) => `${name} = ${value}`).join(', ')} – ${lines(of.prices).join(', ')}`),
].map((text) => h('small', {}, told(text)));

/** The price of a route. @param {any} route */
const priceOf = ({ credits: fixed, price }) =>
  price === 'models' ? say('byModel')
  : price ? lines(price).map((line) => h('div', {}, line))
  : Number(fixed) ? credits(lang(), fixed) : say('free');

/** The card with all prices; null where there are none. @param {string} base */
export async function priceList(base) {
  const prices = await fetch(new URL('prices', base)).then((answer) => answer.json()).catch(() => []);
  const models = prices.filter((line) => 'model' in line);
  const routes = prices.filter((line) => 'path' in line);
  if (!prices.length) return null;
  const cost = (kind) => ({ free, prices }) => free ? say('free') : prices[kind] === undefined ? '–' : unit(prices[kind]);
  return card(say('prices'),
    list(say('prices'), routes, [
      ['route', ({ path, label, methods }) => [told(label ?? path), h('small', {}, methods.join(', ').replace('*', say('everyMethod')))]],
      ['price', priceOf, true],
    ]),
    ...(models.length ? [
      h('h3', {}, say('modelPrices')), h('p', { class: 'muted small' }, say('unitsText')),
      list(say('modelPrices'), models, [
        ['model', (model) => [told(model.model), ...rest(model, ['input', 'output'])]],
        ['input', cost('input'), true], ['output', cost('output'), true],
      ]),
    ] : []));
}
