// @ts-check
/** Builds nodes without markup: data from outside becomes text or an attribute's value. */

import { client, observe } from './client.js';
import { speak, t } from './i18n.js';
import { base, sheet } from './style.js';

/** @import { Client } from './client.js' */
/** @typedef {Record<string, any>} Props attributes; `on…` is a listener */

/** @template {Element} E @param {E} node @param {Props} [props] @param {any[]} [children] */
export function fill(node, props = {}, children = []) {
  for (const [name, value] of Object.entries(props)) {
    if (typeof value === 'function') node.addEventListener(name.slice(2), value);
    else if (value != null && value !== false) node.setAttribute(name, value === true ? '' : value);
  }
  node.append(...children.flat().filter((child) => child != null && child !== false));
  return node;
}

/** @template {keyof HTMLElementTagNameMap} T @param {T} tag @param {Props} [props] @param {...any} children @returns {HTMLElementTagNameMap[T]} */
export const h = (tag, props, ...children) => fill(document.createElement(tag), props, children);

/** Text from outside: in its own direction, cut after three lines. @param {unknown} text */
export const told = (text) => h('bdi', { class: 'told' }, String(text ?? ''));

/** An error's text for people. @param {string} lang @param {any} error */
const explain = (lang, error) =>
  error?.code === 'NETWORK' ? t(lang, 'network')
  : error?.problem?.detail ?? t(lang, error?.status === 401 ? 'signedOut' : 'failed');

/** The nearest `lang`, through shadow roots, or the reader's. @param {any} node @returns {string} */
export const languageOf = (node) =>
  node && !node.lang ? languageOf(node.parentNode ?? node.host) : speak(node?.lang ?? navigator.language);

/** @type {Set<FareboxElement>} */
const connected = new Set();

if (globalThis.document) {
  new MutationObserver(() => connected.forEach((element) => element.render()))
    .observe(document.documentElement, { attributeFilter: ['lang'] });
}

/** The base of the widgets: a shadow root, the language, the store. Empty on a server. */
export class FareboxElement extends /** @type {typeof HTMLElement} */ (globalThis.HTMLElement ?? class {}) {
  static css = '';
  static observedAttributes = ['lang', 'base', 'inline', 'show-buy-button'];
  /** @type {Client | undefined} */
  client;
  /** @type {(() => void)[]} */
  #leave = [];

  constructor() {
    super();
    this.root = this.attachShadow({ mode: 'open' });
    const { css } = /** @type {typeof FareboxElement} */ (this.constructor);
    this.root.adoptedStyleSheets = [sheet(base), sheet(css)];
  }

  connectedCallback() {
    observe();
    connected.add(this);
    this.client = client(this.getAttribute('base'));
    this.#leave = this.listen(this.client);
    this.render();
  }

  disconnectedCallback() {
    connected.delete(this);
    for (const leave of this.#leave.splice(0)) leave();
  }

  /** @param {string} name */
  attributeChangedCallback(name) {
    if (!connected.has(this)) return;
    if (name !== 'base') return this.render();
    this.disconnectedCallback();
    this.connectedCallback();
  }

  get language() {
    return languageOf(this);
  }

  /** @param {string} key @param {Record<string, any>} [values] */
  t(key, values) {
    return t(this.language, key, values);
  }

  /** Fires an event; false where a listener prevents its default. @param {string} name @param {unknown} [detail] */
  fire(name, detail) {
    return this.dispatchEvent(new CustomEvent(`farebox-${name}`, { detail, bubbles: true, composed: true, cancelable: true }));
  }

  /** Subscribes to the store; returns the functions that unsubscribe. @param {Client} store @returns {(() => void)[]} */
  listen(store) {
    return [store.subscribe(() => this.render())];
  }

  /** Shows the current state. */
  render() {}
}

/** An error, with a button to try again. @param {string} lang @param {any} error @param {() => void} [retry] */
export const failure = (lang, error, retry) =>
  h('p', { class: 'failure', part: 'error', role: 'alert' }, h('span', {}, explain(lang, error)),
    retry && h('button', { class: 'quiet small', part: 'retry', onclick: retry }, t(lang, 'retry')));

/** A placeholder while data loads. @param {string} lang @param {number} [lines] */
export const bones = (lang, lines = 1) => [
  h('span', { class: 'hush' }, t(lang, 'loading')),
  ...Array.from({ length: lines }, () => h('span', { class: 'bone' })),
];
