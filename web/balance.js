// @ts-check
/** `<farebox-balance inline show-buy-button>`: the account's credits, with a badge where they are low. */

import { FareboxElement, bones, failure, h } from './dom.js';
import { credits } from './format.js';
import { openUpsell } from './upsell.js';

export class FareboxBalance extends FareboxElement {
  static css = `
    .box { display: grid; gap: .25rem; justify-items: start }
    .line { display: flex; flex-wrap: wrap; align-items: baseline; gap: .25rem .625rem }
    .value { font-size: 2.75rem; line-height: 1.15; font-weight: 650; letter-spacing: -.03em; overflow-wrap: anywhere }
    .bone { width: 3ch; height: .75em; margin: .2em 0 }
    [role=status]:empty { margin-inline-start: -.375rem }
    .box > button { margin-top: .75rem }
    :host([inline]) { display: inline-block; color: inherit; font: inherit; font-variant-numeric: tabular-nums }
    :host([inline]) .box { display: inline-flex; align-items: baseline; flex-wrap: wrap; gap: .25rem .5rem }
    :host([inline]) .line { gap: 0 .375rem }
    :host([inline]) .value { font: inherit; font-weight: 650; letter-spacing: 0 }
    :host([inline]) .bone { margin: 0 }
    :host([inline]) .label, :host([inline]) .held { display: none }
    :host([inline]) .failure { display: inline-flex; margin: 0 }
    :host([inline]) .muted { color: inherit }
    :host([inline]) button { min-height: 1.75rem; padding: 0 .625rem; margin: 0; font-size: .875rem }`;

  #label = h('span', { class: 'label muted small', part: 'label' });
  #value = h('span', { class: 'value', part: 'value' });
  #unit = h('span', { class: 'muted', part: 'unit' });
  #low = h('span', { role: 'status' });
  #line = h('span', { class: 'line' }, this.#value, this.#unit, this.#low);
  #held = h('span', { class: 'held muted small', part: 'held' });
  #other = h('span');
  #button = h('button', { part: 'button', onclick: () => this.fire('topup') && openUpsell(this) });
  /** @type {any} */
  #told = {};

  constructor() {
    super();
    this.root.append(h('span', { class: 'box', part: 'box' }, this.#label, this.#line, this.#held, this.#other, this.#button));
  }

  render() {
    if (!this.client) return;
    const { status, balance, error } = this.client.state;
    const lang = this.language;
    const out = status === 'signed-out';
    this.#label.textContent = this.t('available');
    this.#button.textContent = this.t('buyCredits');
    this.#button.hidden = out || !this.hasAttribute('show-buy-button');
    this.#line.hidden = out || status === 'error';
    this.#held.hidden = !Number(balance?.held ?? 0);
    if (balance) {
      this.#value.textContent = credits(lang, balance.available);
      this.#unit.textContent = this.t('unit', { n: balance.available });
      this.#held.textContent = this.t('held', { n: balance.held });
    } else {
      this.#value.replaceChildren(...bones(lang));
      this.#unit.textContent = '';
    }
    // Replaced only when it changes, so that screen readers announce it once.
    const low = Number(balance?.available ?? 1) <= 0 ? this.t('empty') : balance?.low ? this.t('low') : '';
    if (this.#low.textContent !== low) this.#low.replaceChildren(low && h('span', { class: 'badge', part: 'badge' }, low));
    this.#other.replaceChildren(
      out ? h('slot', { name: 'signed-out' }, h('span', { class: 'muted' }, this.t('signedOut')))
      : status === 'error' ? failure(lang, error, () => this.client?.restart()) : '');
    this.#tell();
  }

  #tell() {
    const before = this.#told;
    const { balance, error } = (this.#told = /** @type {any} */ (this.client).state);
    if (balance && balance !== before.balance) this.fire('balance', balance);
    if (balance?.low && !before.balance?.low) this.fire('low', balance);
    if (error && error !== before.error) this.fire('error', error);
  }
}
