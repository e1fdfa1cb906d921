// @ts-check
/** `<farebox-history limit from to>`: the entries that moved the balance, newest first, by day. */

import { FareboxElement, bones, failure, h, told } from './dom.js';
import { signed, when } from './format.js';
import { t, words } from './i18n.js';
import { metered } from './used.js';

/** @import { Client } from './client.js' */
/** @import { Balance, Entry, Pack, State } from './farebox.d.ts' */

/** @param {Entry} entry */
const isPurchase = ({ id, kind }) => kind === 'grant' && id.startsWith('stripe:');

/** The reason; in the reader's language where it is the gateway's own. @param {string} lang @param {Entry} entry */
const why = (lang, { id, kind, reason }) =>
  kind === 'capture' && reason === 'crash' ? t(lang, 'cutOff') : id.endsWith('/corrected') ? t(lang, 'settled') : reason;

/** An entry in words; a purchase's reason is its pack's id. @param {string} lang @param {Entry} entry @param {Pack[] | null} [packs] */
export const describe = (lang, entry, packs) => {
  const { id, kind, label, route, reason } = entry;
  if (isPurchase(entry)) return told(t(lang, 'bought', packs?.find((pack) => pack.id === reason) ?? { name: reason }));
  const key = id.startsWith('signup:') ? 'welcome' : `kind-${kind}`;
  return [key in words ? t(lang, key) : kind, ...[label || route, ...metered(lang, entry), why(lang, entry), entry.replays && t(lang, 'again', { n: entry.replays })].map((text) => text && h('small', {}, told(text)))];
};

/** The start of a day in the reader's time zone, or of a later one. @param {string} day @param {number} [more] */
const midnight = (day, more = 0) => {
  const at = new Date(`${day}T00:00`);
  at.setDate(at.getDate() + more);
  return Number.isNaN(+at) ? '' : at.toISOString();
};

export class FareboxHistory extends FareboxElement {
  static observedAttributes = [...FareboxElement.observedAttributes, 'from', 'to'];
  static css = `
    th + th, td { text-align: end }
    tbody th { font: inherit; font-weight: 500; color: inherit; width: 100%; max-width: 0 }
    td { padding-inline-start: 1rem; white-space: nowrap }
    b { font-weight: 600 }
    .up b { color: var(--accent) }
    tbody .day th { padding: 1rem 0 .25rem; font-size: .8125rem; color: var(--muted); border: 0 }
    small { font-weight: 400 }
    :host > button { margin-top: .75rem }`;

  /** @type {Entry[]} */
  #entries = [];
  /** @type {string | null} */
  #cursor = null;
  /** 'loading', 'ready', 'signed-out', or an error. @type {any} */
  #state = 'loading';
  /** The balance of the account that is shown. @type {Balance | null} */
  #seen = null;
  /** The packs: they name purchases. @type {Pack[] | null} */
  #packs = null;
  /** @type {any} */
  #soon;
  #head = h('thead');
  #table = h('table', { part: 'table' });
  #other = h('div');
  #more = h('button', { class: 'quiet', part: 'more', onclick: () => this.#page(this.#cursor) });
  #say = h('div', { class: 'hush', role: 'status' });

  constructor() {
    super();
    this.root.append(this.#table, this.#other, this.#more, this.#say);
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    if (!/^(from|to)$/.test(name)) return super.attributeChangedCallback(name);
    // Another range of days is loaded from its start.
    this.#seen = null;
    if (this.client) this.#look(this.client.state);
  }

  get #days() {
    return ['from', 'to'].map((name) => this.getAttribute(name));
  }

  get #whose() {
    return [this.#seen?.account, ...this.#days].join(' ');
  }

  /** @param {Client} store */
  listen(store) {
    const look = () => this.#look(store.state);
    look();
    return [store.subscribe(look), () => clearTimeout(this.#soon)];
  }

  /** @param {State} state */
  #look({ status, balance, error }) {
    const before = this.#seen;
    const same = balance && balance.account === before?.account;
    if (same && balance.balance === before.balance) return;
    this.#seen = balance;
    clearTimeout(this.#soon);
    if (!same) this.#entries = [];
    if (balance) this.#soon = setTimeout(() => this.#page(null), same ? 400 : 0);
    else this.#show(error ?? status);
  }

  /** @param {any} state */
  #show(state) {
    this.#state = state;
    this.render();
  }

  /** @param {string | null} cursor */
  async #page(cursor) {
    const query = new URLSearchParams({ limit: this.getAttribute('limit') ?? '20', ...(cursor && { cursor }) });
    const [from, to] = this.#days;
    if (from) query.set('from', midnight(from));
    if (to) query.set('to', midnight(to, 1));
    const asked = this.#whose;
    try {
      const { transactions, next_cursor } = await /** @type {any} */ (this.client).request(`transactions?${query}`, { lang: this.language });
      if (transactions.some(isPurchase)) this.#packs ??= await /** @type {any} */ (this.client).request('packs', { lang: this.language }).catch(() => null);
      if (asked !== this.#whose) return;
      const known = new Set(this.#entries.map(({ id }) => id));
      const fresh = transactions.filter((/** @type {Entry} */ { id }) => !known.has(id));
      // No entry is shown already, so there may be a gap.
      const anew = !cursor && fresh.length === transactions.length;
      this.#entries = anew ? fresh : cursor ? [...this.#entries, ...fresh] : [...fresh, ...this.#entries];
      if (anew || cursor) this.#cursor = next_cursor;
      if (cursor) this.#say.textContent = this.t('loaded', { n: fresh.length });
      this.#show('ready');
    } catch (error) {
      this.#show(error);
      this.fire('error', error);
    }
  }

  render() {
    const lang = this.language;
    const state = this.#state;
    const some = this.#entries.length > 0;
    this.#table.setAttribute('aria-label', this.t('history'));
    this.#table.hidden = !some;
    this.#head.replaceChildren(h('tr', {}, ['entry', 'credits'].map((key) => h('th', { scope: 'col' }, this.t(key)))));
    const days = Map.groupBy(this.#entries, ({ created_at }) => when(lang, created_at, { dateStyle: 'medium' }));
    this.#table.replaceChildren(this.#head, ...[...days].map(([day, entries]) => h('tbody', {},
      h('tr', { class: 'day' }, h('th', { colspan: 2, scope: 'rowgroup', part: 'day' }, day)), entries.map((entry) => this.#row(entry, lang)))));
    this.#more.textContent = this.t('more');
    this.#more.hidden = !some || !this.#cursor;
    const none = /** @type {any} */ ({ ready: this.#days.join('') ? 'unused' : 'noHistory', 'signed-out': 'signedOut' })[state];
    this.#other.replaceChildren(...(
      state === 'loading' ? bones(lang, 4)
      : !none ? [failure(lang, state, () => (this.#seen ? this.#page(null) : this.client?.restart()))]
      : some ? [] : [h('p', { class: 'muted' }, this.t(none))]));
  }

  /** @param {Entry} entry @param {string} lang */
  #row(entry, lang) {
    return h('tr', { part: 'entry', class: Number(entry.amount) > 0 && 'up' },
      h('th', { scope: 'row' }, describe(lang, entry, this.#packs), h('small', {}, when(lang, entry.created_at, { timeStyle: 'short' }))),
      h('td', {}, h('b', { part: 'amount' }, signed(lang, entry.amount)), h('small', {}, this.t('after', { n: entry.balance_after }))));
  }
}
