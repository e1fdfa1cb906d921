// @ts-check
/** Whose credits these are: `[brand]` in gateway.toml. */

import { h, told } from './dom.js';
import { words } from './i18n.js';
import { say } from './page.js';

Object.assign(words, {
  back: ['Back', 'Retour'],
  backTo: ['Back to {name}', 'Retour à {name}'],
});

const PATIENCE_MS = 3000;

/** @type {{ name: string | null, logo: string | null, url: string | null }} */
let brand = { name: null, logo: null, url: null };

/** Asks for it; a page without it is a page all the same. @param {string} base */
export async function loadBrand(base) {
  brand = await fetch(new URL('brand', base), { signal: AbortSignal.timeout(PATIENCE_MS) }).then((answer) => (answer.ok ? answer.json() : brand)).catch(() => brand);
}

/** The tab's title: the seller's name follows the page's. @param {string} title */
export const titled = (title) => (brand.name ? `${title} – ${brand.name}` : title);

/** Name and logo, and a link. Nothing where there is none of them. @param {any} [link] */
export function brandMark(link) {
  const { name, logo } = brand;
  if (!name && !logo && !link) return '';
  return h('div', { class: 'row brand' },
    logo && h('img', { src: logo, alt: link && !name ? say('back') : '' }), name && h('b', { class: 'grow' }, told(name)), link);
}

/** The same with the link back. */
export function brandBar() {
  const { name, url } = brand;
  return brandMark(url && h('a', { href: url }, '← ', name ? say('backTo', { name: name.slice(0, 60) }) : say('back')));
}
