// @ts-check
/** `<farebox-packs>`: the packs for sale; a pack's button goes to the checkout. */

import { FareboxElement, bones, failure, h, told } from './dom.js';
import { money, perCredit } from './format.js';

/** @import { Client } from './client.js' */
/** @import { Pack } from './farebox.d.ts' */

export class FareboxPacks extends FareboxElement {
  static css = `
    :host { container-type: inline-size }
    ul { display: grid; gap: .875rem; grid-template-columns: repeat(auto-fit, minmax(min(100%, 9.5rem), 1fr)) }
    li { position: relative; display: flex; flex-direction: column; padding: 1.125rem 1rem 1rem; background: var(--surface); border: 1px solid var(--line); border-radius: var(--radius); min-width: 0; max-width: 26rem }
    .best { border-color: var(--accent); box-shadow: inset 0 0 0 1px var(--accent) }
    b { font-size: .9375rem; font-weight: 600 }
    .badge { position: absolute; top: -.6875rem; inset-inline-start: 1rem; max-width: calc(100% - 1.5rem); overflow: hidden; text-overflow: ellipsis; background: var(--accent); color: var(--on-accent) }
    .price { font-size: 1.5rem; line-height: 1.3; font-weight: 650; letter-spacing: -.02em; margin-top: .5rem; overflow-wrap: anywhere }
    li button { margin-top: auto }
    .per { margin-bottom: 1rem }
    .bone { margin: .375rem 0 }
    @container (max-width: 24rem) {
      ul { grid-template-columns: minmax(0, 1fr) }
      li { display: grid; grid-template-columns: minmax(0, 1fr) auto; align-items: center; column-gap: 1rem; padding: .875rem 1rem }
      .price { grid-area: 1 / 2; margin: 0; font-size: 1.125rem; text-align: end }
      .per { grid-area: 2 / 2; margin: 0; text-align: end }
      li button, .bone { grid-column: 1 / -1 }
      li button { margin-top: .625rem }
    }
    [role=status]:not(:empty) { margin-top: .75rem }`;

  #list = h('ul', { role: 'list', part: 'list' });
  #say = h('div', { role: 'status' });
  /** @type {Pack[] | null} */
  #packs = null;
  /** @type {unknown} */
  #error = null;
  #busy = false;

  constructor() {
    super();
    this.root.append(this.#list, this.#say);
  }

  /** @param {Client} store */
  listen(store) {
    this.#load(store);
    return [];
  }

  /** @param {Client} store */
  async #load(store) {
    this.#error = this.#packs = null;
    this.render();
    try {
      this.#packs = await store.request('packs', { lang: this.language });
    } catch (error) {
      this.#error = error;
      this.fire('error', error);
    }
    this.render();
    this.fire('packs', this.#packs ?? []);
  }

  render() {
    const { client, language: lang } = this;
    const packs = this.#error ? [] : this.#packs;
    this.#list.setAttribute('aria-label', this.t('buyCredits'));
    this.#list.setAttribute('aria-busy', String(!packs));
    this.#list.hidden = packs?.length === 0;
    this.#list.replaceChildren(...(packs?.map((pack) => this.#card(pack, lang)) ?? [1, 2, 3].map(() => h('li', {}, bones(lang, 4)))));
    this.#say.replaceChildren(
      this.#error ? failure(lang, this.#error, () => client && this.#load(client))
      : packs?.length === 0 ? h('p', { class: 'muted' }, this.t('noPacks')) : '');
  }

  /** @param {Pack} pack @param {string} lang */
  #card(pack, lang) {
    const price = money(lang, pack.price);
    const best = pack.best_value;
    return h('li', { part: best ? 'pack best' : 'pack', class: best && 'best' },
      (best || pack.badge) && h('span', { class: 'badge', part: 'badge' }, pack.badge ?? this.t('recommended')),
      h('b', { part: 'name' }, told(pack.name)),
      h('span', { class: 'muted small', part: 'credits' }, this.t('amount', { n: pack.credits })),
      h('span', { class: 'price', part: 'price' }, price),
      h('span', { class: 'per muted small', part: 'per-credit' }, this.t('perCredit', { price: perCredit(lang, pack.price, pack.credits) })),
      h('button', {
        part: 'buy', class: best || 'quiet', onclick: (/** @type {any} */ { currentTarget }) => this.#buy(pack, currentTarget),
        'aria-label': this.t('buyPack', { name: pack.name.slice(0, 80), price }),
      }, this.t('buy')));
  }

  /** @param {Pack} pack @param {HTMLElement} button */
  async #buy(pack, button) {
    if (!this.client || this.#busy || !this.fire('buy', pack)) return;
    this.#busy = true;
    button.setAttribute('aria-disabled', 'true');
    this.#say.replaceChildren(h('p', { class: 'muted' }, this.t('opening')));
    try {
      const checkout = await this.client.buy(pack.id, this.language);
      const to = new URL(checkout.checkout_url, this.client.base);
      if (!/^https?:$/.test(to.protocol)) throw new TypeError(to.protocol);
      this.#say.replaceChildren();
      if (this.fire('checkout', checkout)) location.assign(to);
    } catch (error) {
      this.#say.replaceChildren(failure(this.language, error));
      this.fire('error', error);
    }
    this.#busy = false;
    button.removeAttribute('aria-disabled');
  }
}
