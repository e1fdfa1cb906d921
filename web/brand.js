// @ts-check
/** The seller's name, logo and link: `[brand]` in gateway.toml. */

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

/** Loads the brand. The page works without it. @param {string} base */
export async function loadBrand(base) {
  brand = await fetch(new URL('brand', base), { signal: AbortSignal.timeout(PATIENCE_MS) }).then((answer) => (answer.ok ? answer.json() : brand)).catch(() => brand);
}

/** The tab's title: the page's name, then the seller's. @param {string} title */
export const titled = (title) => (brand.name ? `${title} – ${brand.name}` : title);

/** Name, logo and a link; empty without any of them. @param {any} [link] */
export function brandMark(link) {
  const { name, logo } = brand;
  if (!name && !logo && !link) return '';
  return h('div', { class: 'row brand' },
    logo && h('img', { src: logo, alt: link && !name ? say('back') : '' }), name && h('b', { class: 'grow' }, told(name)), link);
}

/** The brand with the link back. */
export function brandBar() {
  const { name, url } = brand;
  return brandMark(url && h('a', { href: url }, '← ', name ? say('backTo', { name: name.slice(0, 60) }) : say('back')));
}
