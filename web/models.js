// @ts-check
/** Tables of the two pages, and metered calls in them: by model and kind. */

import { table } from './chart.js';
import { h, told } from './dom.js';
import { credits } from './format.js';
import { words } from './i18n.js';
import { lang, say } from './page.js';
import { kinds, pair, tokens } from './used.js';

/** @import { Used } from './farebox.d.ts' */

Object.assign(words, {
  none: ['Nothing to show.', 'Rien à afficher.'],
  model: ['Model', 'Modèle'],
  noModel: ['Routes priced by the piece', 'Routes au prix unitaire'],
  calls: ['Calls', 'Appels'],
  tokensIn: ['Tokens in', 'Jetons en entrée'],
  tokensOut: ['Tokens out', 'Jetons en sortie'],
  'unit-input': ['Input', 'Entrée'],
  'unit-cached_input': ['Cached input', 'Entrée en cache'],
  'unit-cache_write': ['Cache writes', 'Écritures en cache'],
  'unit-cache_write_1h': ['Cache writes, 1 hour', 'Écritures en cache, 1 heure'],
  'unit-input_audio': ['Audio input', 'Audio en entrée'],
  'unit-input_image': ['Image input', 'Images en entrée'],
  'unit-output': ['Output', 'Sortie'],
  'unit-reasoning': ['Reasoning', 'Raisonnement'],
  'unit-output_audio': ['Audio output', 'Audio en sortie'],
  'unit-output_image': ['Image output', 'Images en sortie'],
  'unit-request': ['Per call', 'Par appel'],
});

/** @typedef {[key: string, cell: (row: any) => any, number?: boolean]} Column */

/** @param {string} name @param {any[]} rows @param {Column[]} columns */
export const list = (name, rows, columns) =>
  !rows.length ? h('p', { class: 'muted' }, say('none'))
  : cards(table(name, h('tr', { role: 'row' }, columns.map(([key, , number]) => h('th', { role: 'columnheader', scope: 'col', class: number && 'end' }, say(key)))),
    rows.map((row) => h('tr', { role: 'row' }, columns.map(([key, cell, number]) =>
      h('td', { role: 'cell', class: number && 'end', 'data-label': say(key) }, h('div', {}, cell(row))))))));

/** Shows each row as a card where there is no room for columns. The roles keep it a table for screen readers. @param {HTMLElement} box */
function cards(box) {
  box.classList.add('cards');
  box.querySelector('table')?.setAttribute('role', 'table');
  box.querySelectorAll('thead, tbody').forEach((group) => group.setAttribute('role', 'rowgroup'));
  return box;
}

/** Small lines below a cell's text. @param {string[]} texts */
const below = (texts) => texts.map((text) => h('small', {}, text));

/** @param {[string, number]} of */
const each = ([kind, count]) => pair(lang(), kind, credits(lang(), count));

/** Tokens of one direction, with those that are of a kind of their own. @param {Used} used @param {'in' | 'out'} group */
const counted = (used, group) => {
  const all = kinds(used, group);
  if (!all.length) return '–';
  const parts = all.filter(([kind]) => !['input', 'output'].includes(kind));
  return [credits(lang(), tokens(used, group)), ...below(parts.map(each))];
};

/** A model's name, with the pieces that its calls used. @param {{ model: string | null, usage: Used }} row */
export const named = ({ model, usage }) => [model === null ? say('noModel') : told(model), ...below(kinds(usage, 'pieces').map(each))];

/** The columns of usage by model. @type {Column[]} */
export const USED = [
  ['model', named],
  ['calls', ({ calls }) => credits(lang(), calls), true],
  ['tokensIn', ({ usage }) => counted(usage, 'in'), true],
  ['tokensOut', ({ usage }) => counted(usage, 'out'), true],
];
