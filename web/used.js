// @ts-check
/** Metered calls in words: their tokens, pieces and holds. */

import { credits, sum } from './format.js';
import { t } from './i18n.js';

/** @import { Entry, Used } from './farebox.d.ts' */

/** Kinds that are counted by the piece; all others are tokens. */
const PIECES = ['image', 'second', 'character', 'search'];

/** A kind and its number, such as "Images: 2". @param {string} lang @param {string} kind @param {string} n */
export const pair = (lang, kind, n) => t(lang, 'pair', { name: t(lang, `unit-${kind}`), value: n });

/** The kinds of a usage that are tokens of the request, tokens of the answer, or pieces. @param {Used} used @param {'in' | 'out' | 'pieces'} group */
export const kinds = (used, group) => Object.entries(used).filter(([kind]) =>
  group === (PIECES.includes(kind) ? 'pieces' : /^(input|cache)/.test(kind) ? 'in' : 'out'));

/** The sum of such kinds. @param {Used} used @param {'in' | 'out'} group */
export const tokens = (used, group) => sum(kinds(used, group).map(([, count]) => count));

/** What a call used: "600 tokens in, 300 out", and its pieces. @param {string} lang @param {Used} used */
const says = (lang, used) => {
  const [enter, leave] = [tokens(used, 'in'), tokens(used, 'out')];
  const some = Number(enter) || Number(leave);
  return [
    some ? t(lang, 'tokens', { in: credits(lang, enter), out: credits(lang, leave) }) : null,
    ...kinds(used, 'pieces').map(([kind, count]) => pair(lang, kind, credits(lang, count))),
  ];
};

/** The model of a metered entry, and its usage and hold; nothing for others. @param {string} lang @param {Entry} entry */
export const metered = (lang, { model, usage, held }) =>
  usage ? [model, [...says(lang, usage), t(lang, 'setAside', { n: held })].filter((text) => text).join(' · ')] : [];
