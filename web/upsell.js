// @ts-check
/** `<farebox-upsell manual>`: a dialog that offers packs when credits are low and on a 402. */

import { kept } from './client.js';
import { FareboxElement, h } from './dom.js';

/** @import { Client } from './client.js' */
/** @import { Amount, Problem } from './farebox.d.ts' */

export class FareboxUpsell extends FareboxElement {
  static css = `
    :host { display: contents }
    header { display: flex; gap: 1rem; align-items: start; justify-content: space-between }
    header button { min-height: 2rem; width: 2rem; padding: 0; border: 0; flex: none; font-size: 1.25rem; line-height: 1; margin: -.25rem -.5rem 0 0 }`;

  /** The remaining credits, where the app knows better. @type {Amount | null} */
  #remaining = null;
  /** @type {Problem | null} */
  #problem = null;
  /** The balance when the problem came. @type {unknown} */
  #then = null;
  #low = false;
  #title = h('h2', { id: 'title', part: 'title' });
  #text = h('p', { id: 'text', class: 'muted', part: 'text' });
  #close = h('button', { class: 'quiet', part: 'close', onclick: () => this.close() }, '×');
  #later = h('button', { class: 'quiet', part: 'later', onclick: () => this.close() });
  #packs = h('div');
  #dialog = h('dialog', {
    part: 'dialog', 'aria-labelledby': 'title', 'aria-describedby': 'text',
    // The event comes later, when the dialog may be open again.
    onclose: () => this.fire('close', this.open || this.#packs.replaceChildren()),
    // A click on the dialog itself may be on its padding.
    onclick: (/** @type {MouseEvent} */ { target, x, y }) => {
      const { left, right, top, bottom } = this.#dialog.getBoundingClientRect();
      if (target === this.#dialog && (x < left || x > right || y < top || y > bottom)) this.close();
    },
  }, h('div', { class: 'stack' },
    h('header', {}, this.#title, this.#close), this.#text, this.#packs, h('div', { class: 'row right' }, this.#later)));

  constructor() {
    super();
    this.root.append(this.#dialog);
  }

  get open() {
    return this.#dialog.open;
  }

  set open(open) {
    if (open) this.show();
    else this.close();
  }

  set remainingCredits(left) {
    this.#remaining = left;
    this.render();
  }

  get remainingCredits() {
    return this.#remaining;
  }

  /** @param {Problem | null} [problem] of a 402 */
  show(problem = null) {
    if (!this.isConnected || (this.open ? !problem : !this.fire('open', { problem }))) return;
    this.#problem = problem;
    this.#then = this.client?.state.balance;
    this.render();
    if (this.open) return;
    this.#packs.replaceChildren(h('farebox-packs', {
      // Unless the focus has moved on.
      'onfarebox-packs': (/** @type {any} */ { currentTarget: { root } }) =>
        this.root.activeElement === this.#close && (root.querySelector('.best button') ?? root.querySelector('button'))?.focus(),
      base: this.getAttribute('base'), exportparts: 'list, pack, best, badge, name, credits, price, per-credit, buy, error, retry',
    }));
    this.#dialog.showModal();
  }

  close() {
    this.#dialog.close();
  }

  /** @param {Client} store */
  listen(store) {
    return [
      store.subscribe(() => (this.render(), this.#watch())),
      store.onRefusal((problem) => (this.open || !this.hasAttribute('manual')) && this.show(problem)),
    ];
  }

  render() {
    const balance = this.client?.state.balance;
    const { required, available } = this.#problem ?? {};
    const now = balance?.available ?? null;
    const left = this.#remaining ?? (this.#problem ? (balance === this.#then ? available ?? now : now) : balance?.low || Number(now ?? 1) <= 0 ? now : null);
    this.#title.textContent = this.t(this.#problem ? 'upsellOut' : left === null ? 'buyCredits' : Number(left) > 0 ? 'upsellLow' : 'upsellNone');
    const said = [required != null && this.t('needs', { n: required }), left !== null && this.t('left', { n: left })];
    this.#text.textContent = said.filter(Boolean).join(' ');
    this.#text.hidden = !this.#text.textContent;
    this.#close.setAttribute('aria-label', this.t('close'));
    this.#later.textContent = this.t('later');
    this.#dialog.lang = this.language;
  }

  /** Opens at most once a visit, across pages. */
  #watch() {
    const { balance } = this.client?.state ?? {};
    if (!balance || balance.low === this.#low || this.hasAttribute('manual')) return;
    this.#low = balance.low;
    const key = `farebox low ${this.client?.base}`;
    const before = kept(key);
    kept(key, this.#low);
    if (this.#low && !before) this.show();
  }
}

/** Opens the page's own upsell, or a new one. @param {HTMLElement} element */
export function openUpsell(element) {
  let upsell = document.querySelector('farebox-upsell');
  if (!upsell) {
    upsell = h('farebox-upsell', { manual: true, base: element.getAttribute('base'), lang: element.getAttribute('lang') });
    document.body.append(upsell);
  }
  upsell.show();
}
