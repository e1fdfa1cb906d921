// @ts-check
/** What the account page and the admin page share: their words, the frame, signing in, asking. */

import { failure, h, languageOf } from './dom.js';
import { t, words } from './i18n.js';
import { base, sheet } from './style.js';

Object.assign(words, {
  asTable: ['Show as a table', 'Afficher en tableau'],
  unused: ['Nothing in this time.', 'Rien sur cette période.'],
  others: ['Others', 'Autres'],
  cancel: ['Cancel', 'Annuler'],
  signIn: ['Sign in', 'Se connecter'],
  signOut: ['Sign out', 'Se déconnecter'],
  language: ['Language', 'Langue'],
  balance: ['Balance', 'Solde'],
  day: ['Day', 'Jour'],
});

/** The language of the page: what was chosen here before, else the reader's. */
try {
  document.documentElement.lang = localStorage.getItem('farebox lang') ?? '';
} catch {
  // Storage is closed to this page.
}
document.documentElement.lang = languageOf(document.documentElement);
document.adoptedStyleSheets = [sheet(base)];

export const main = /** @type {HTMLElement} */ (document.querySelector('main'));

export const lang = () => document.documentElement.lang;

/** @param {string} key @param {Record<string, any>} [values] */
export const say = (key, values) => t(lang(), key, values);

/**
 * The page's head, with the language and a way out.
 * @param {string} title @param {() => void} draw everything anew @param {false | (() => void)} signOut @param {...any} nav
 */
export function head(title, draw, signOut, ...nav) {
  document.title = title;
  /** @param {any} event */
  const speak = ({ target }) => {
    document.documentElement.lang = target.value;
    try {
      localStorage.setItem('farebox lang', target.value);
    } catch {
      // It counts for this page, then.
    }
    draw();
    document.querySelector('select')?.focus();
  };
  const option = (code, name) => h('option', { value: code, lang: code, selected: code === lang() }, name);
  return h('header', { class: 'top row' }, h('h1', {}, title), nav,
    h('select', { 'aria-label': say('language'), onchange: speak }, option('en', 'English'), option('fr', 'Français')),
    signOut && h('button', { class: 'quiet', type: 'button', onclick: signOut }, say('signOut')));
}

/** @param {string} title @param {...any} children */
export const card = (title, ...children) => h('section', { class: 'card stack' }, h('h2', {}, title), children);

/** A field with its label. @param {string} label @param {Record<string, any>} props @param {any} [help] */
export const field = (label, props, help) =>
  h('label', { class: 'field' }, h('span', { class: 'small' }, label), h('input', { autocomplete: 'off', spellcheck: 'false', ...props }), help);

/**
 * A form whose button sends it; what goes wrong is said below it.
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

/** Asks in a dialog. @param {string} title @param {any} text @param {string} yes @param {string} [no] @returns {Promise<boolean>} */
export function ask(title, text, yes, no = say('cancel')) {
  return new Promise((answer) => {
    const dialog = h('dialog', { 'aria-labelledby': 'ask', onclose: () => (dialog.remove(), answer(dialog.returnValue === 'yes')) },
      h('form', { method: 'dialog', class: 'stack' }, h('h2', { id: 'ask' }, title), h('p', {}, text),
        h('div', { class: 'row right' }, h('button', { class: 'quiet', value: 'no' }, no), h('button', { value: 'yes' }, yes))));
    document.body.append(dialog);
    dialog.showModal();
  });
}
