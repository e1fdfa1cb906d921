// @ts-check
/** The parts that the account page and the operator's page share: texts, frame, sign-in, dialogs. */

import { kept } from './client.js';
import { failure, h, languageOf } from './dom.js';
import { t, words } from './i18n.js';
import { base, sheet } from './style.js';

Object.assign(words, {
  asTable: ['Show as a table', 'Afficher en tableau'],
  others: ['Others', 'Autres'],
  cancel: ['Cancel', 'Annuler'],
  signIn: ['Sign in', 'Se connecter'],
  signOut: ['Sign out', 'Se déconnecter'],
  language: ['Language', 'Langue'],
  balance: ['Balance', 'Solde'],
  day: ['Day', 'Jour'],
  copied: ['Copied', 'Copié'],
});

/** The chosen language, or a new choice. @param {string} [lang] */
const chosen = (lang) => kept('farebox lang', lang, 'localStorage');

const page = document.documentElement;
page.lang = chosen() ?? '';
page.lang = languageOf(page);
document.adoptedStyleSheets = [sheet(base)];

export const main = /** @type {HTMLElement} */ (document.querySelector('main'));

export const lang = () => page.lang;

/** @param {string} key @param {Record<string, any>} [values] */
export const say = (key, values) => t(lang(), key, values);

/** The page's head, with the language. @param {string} title @param {() => void} draw redraws the page @param {...any} more */
export function head(title, draw, ...more) {
  document.title = title;
  const option = (code, name) => h('option', { value: code, lang: code, selected: code === lang() }, name);
  const select = h('select', { 'aria-label': say('language'), onchange: () => {
    chosen((page.lang = select.value));
    draw();
    document.querySelector('select')?.focus();
  } }, option('en', 'English'), option('fr', 'Français'));
  return h('header', { class: 'row top' }, h('h1', {}, title), select, more);
}

/** A quiet button. @param {string} label @param {(event: any) => void} onclick @param {Record<string, any>} [props] */
export const quiet = (label, onclick, props) => h('button', { class: 'quiet small', onclick, ...props }, label);

/** A button that copies a node's text. @param {HTMLElement & { value?: string }} node @param {string} label @param {Record<string, any>} [props] */
export function copyOf(node, label, props) {
  const button = h('button', { ...props, onclick: async () => {
    if (node.value !== undefined) /** @type {any} */ (node).select();
    else getSelection()?.selectAllChildren(node);
    // Without TLS there is no clipboard API; this copies the selection.
    await navigator.clipboard?.writeText(node.value ?? node.textContent ?? '').catch(() => {}) ?? document.execCommand('copy');
    button.textContent = say('copied');
  } }, label);
  return button;
}

/** @param {string} title @param {...any} children */
export const card = (title, ...children) => h('section', { class: 'card stack' }, h('h2', {}, title), children);

/** A field with its label. @param {string} label @param {Record<string, any>} props @param {any} [help] */
export const field = (label, props, help) =>
  h('label', { class: 'field' }, h('span', { class: 'small' }, label), h('input', { autocomplete: 'off', spellcheck: 'false', ...props }), help);

/**
 * A form whose button sends it; an error is shown below it.
 * @param {any[]} fields @param {string} button @param {(form: HTMLFormElement) => Promise<any>} act
 */
export function form(fields, button, act) {
  const wrong = h('div', { role: 'status' });
  const made = h('form', { class: 'stack', onsubmit: async (event) => {
    event.preventDefault();
    if (made.ariaBusy) return;
    made.ariaBusy = 'true';
    wrong.replaceChildren();
    try {
      await act(made);
    } catch (error) {
      wrong.replaceChildren(failure(lang(), error));
    }
    made.ariaBusy = null;
  } }, fields, h('div', {}, h('button', {}, button)), wrong);
  return made;
}

/** A card to sign in with. @param {string} text @param {string} label @param {(secret: string) => Promise<any>} act @param {any} [error] */
export const signInCard = (text, label, act, error) =>
  h('section', { class: 'card stack door' }, h('h2', {}, say('signIn')), h('p', { class: 'muted' }, text),
    error && failure(lang(), error),
    form([field(label, { name: 'secret', type: 'password', required: true })], say('signIn'), (made) => act(made.secret.value.trim())));

/** Asks in a dialog. @param {string} title @param {any} text @param {string} yes @param {string} [no] @param {any} [above] stands above the title @returns {Promise<boolean>} */
export function ask(title, text, yes, no = say('cancel'), above = '') {
  return new Promise((answer) => {
    const dialog = h('dialog', { 'aria-labelledby': 'ask', onclose: () => (dialog.remove(), answer(dialog.returnValue === 'yes')) },
      h('form', { method: 'dialog', class: 'stack' }, above, h('h2', { id: 'ask' }, title), h('p', {}, text),
        h('div', { class: 'row right' }, h('button', { class: 'quiet', value: 'no' }, no), h('button', { value: 'yes' }, yes))));
    document.body.append(dialog);
    dialog.showModal();
  });
}
