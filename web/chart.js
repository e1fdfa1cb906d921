// @ts-check
/** Stacked bars, and the same figures as a table. */

import { fill, h, told } from './dom.js';
import { credits, sum } from './format.js';
import { t } from './i18n.js';

/** @param {string} tag @param {Record<string, any>} props @param {...any} children */
const svg = (tag, props, ...children) =>
  fill(document.createElementNS('http://www.w3.org/2000/svg', tag), props, children);

/** The next round number, for the top of a scale. @param {number} value */
export function ceiling(value) {
  const unit = 10 ** Math.floor(Math.log10(value || 1));
  return ([1, 2, 3, 4, 5, 6, 8].find((step) => step * unit >= value) ?? 10) * unit;
}

/** A table that is moved sideways where it is wide. @param {string} name @param {any} head @param {any} rows */
export const table = (name, head, rows) =>
  h('div', { class: 'wide', tabindex: 0, role: 'region', 'aria-label': name }, h('table', {}, h('thead', {}, head), h('tbody', {}, rows)));

/** @import { Amount } from './farebox.d.ts' */
/**
 * @typedef {{ label: string, values: Amount[] }} Column a value for each of the series
 * @param {{ lang: string, title: string, head: string, series: string[], columns: Column[] }} shown
 */
export function chart({ lang, title, head, series, columns }) {
  const totals = columns.map(({ values }) => sum(values));
  const total = sum(totals);
  const caption = h('figcaption', { class: 'row' }, h('span', {}, title), h('b', {}, credits(lang, total)));
  if (!Number(total)) return h('figure', { class: 'stack' }, caption, h('p', { class: 'muted' }, t(lang, 'unused')));
  const top = ceiling(Math.max(...totals.map(Number)));
  const bars = columns.map(({ label, values }, at) => {
    let y = 100;
    return svg('g', {}, svg('title', {}, `${label}: ${credits(lang, totals[at])}`),
      values.map((value, index) => {
        const height = (Number(value) / top) * 100;
        y -= height;
        return height > 0 && svg('rect', { class: `s${index}`, x: at * 10 + 1.5, y, width: 7, height });
      }));
  });
  const ends = [0, columns.length >> 1, columns.length - 1].map((at) => h('span', {}, columns[at].label));
  const row = (tag, first, cells) => h('tr', {}, h('th', { scope: tag }, first), cells);
  return h('figure', { class: 'stack' }, caption,
    h('div', { class: 'plot', 'aria-hidden': 'true' },
      h('span', { class: 'muted small' }, credits(lang, top)),
      svg('svg', { viewBox: `0 0 ${columns.length * 10} 100`, preserveAspectRatio: 'none' }, bars),
      h('div', { class: 'row axis muted small' }, ends)),
    series.length > 1 && h('ul', { class: 'row legend small' }, series.map((name, at) => h('li', { class: `s${at}` }, told(name)))),
    h('details', { class: 'small' }, h('summary', {}, t(lang, 'asTable')), table(title,
      row('col', head, series.map((name) => h('th', { class: 'end', scope: 'col' }, told(name)))),
      columns.filter((_, at) => Number(totals[at])).map(({ label, values }) =>
        row('row', label, values.map((value) => h('td', { class: 'end' }, credits(lang, value))))))));
}
