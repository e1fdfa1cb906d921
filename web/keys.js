// @ts-check
/** API keys: made and shown once, named, revoked. */

import { bones, failure, h, told } from './dom.js';
import { when } from './format.js';
import { words } from './i18n.js';
import { ask, card, copyOf, field, form, lang, quiet, say } from './page.js';

Object.assign(words, {
  keys: ['API keys', 'Clés d’API'],
  keysText: ['A key calls in your name and spends your credits. Keep it secret.', 'Une clé appelle en votre nom et dépense vos crédits. Gardez-la secrète.'],
  noKeys: ['No keys yet.', 'Aucune clé pour l’instant.'],
  keyName: ['Name of a new key', 'Nom d’une nouvelle clé'],
  makeKey: ['Make a key', 'Créer une clé'],
  keyOnce: ['Your new key, shown only this once. Copy it now.', 'Votre nouvelle clé, affichée cette seule fois. Copiez-la maintenant.'],
  keysNeedToken: ['You are signed in with a key. Sign in from your app to make or revoke keys.', 'Vous êtes connecté avec une clé. Connectez-vous depuis votre application pour créer ou révoquer des clés.'],
  copy: ['Copy', 'Copier'],
  made: ['Made {at}', 'Créée {at}'],
  revoke: ['Revoke', 'Révoquer'],
  revokeKey: ['Revoke {name}', 'Révoquer {name}'],
  revokeSure: ['Revoke this key?', 'Révoquer cette clé ?'],
  revokeText: ['Whatever still uses it is refused at once. This cannot be undone.', 'Tout ce qui l’utilise encore est refusé aussitôt. C’est irréversible.'],
});

/** A new key, which outlives a change of language. @type {{ key: string } | null} */
let fresh = null;

/** @param {import('./client.js').Client} store @param {boolean} mayManage */
export function keysCard(store, mayManage) {
  const once = h('div', { role: 'status' });
  const list = h('div', { tabindex: -1 }, bones(lang(), 2));

  async function show() {
    once.replaceChildren(...(fresh ? [shown(fresh.key)] : []));
    try {
      const { keys } = await store.request('keys', { lang: lang() });
      list.replaceChildren(keys.length ? h('ul', { class: 'lines' }, keys.map(line)) : h('p', { class: 'muted' }, say('noKeys')));
    } catch (error) {
      list.replaceChildren(failure(lang(), error, show));
    }
  }

  const shown = (/** @type {string} */ key) => {
    const box = h('input', { class: 'code', readonly: true, value: key, 'aria-label': say('keyOnce'), onfocus: () => box.select() });
    return h('div', { class: 'note stack' }, h('p', {}, say('keyOnce')), h('div', { class: 'row tight' }, box, copyOf(box, say('copy'))));
  };

  const line = ({ id, name, hint, created_at }) => {
    const revoke = async () => {
      if (!(await ask(say('revokeSure'), [h('b', {}, told(name || hint || id)), h('br'), say('revokeText')], say('revoke')))) return;
      await store.request(`keys/${encodeURIComponent(id)}`, { method: 'DELETE', lang: lang() })
        .then(() => (show(), list.focus()), (error) => list.prepend(failure(lang(), error)));
    };
    return h('li', { class: 'row' }, h('div', { class: 'grow' }, h('b', {}, told(name || id)),
      h('div', { class: 'code muted' }, hint),
      h('div', { class: 'muted small' }, say('made', { at: when(lang(), created_at, { dateStyle: 'medium' }) }))),
      mayManage && quiet(say('revoke'), revoke, { 'aria-label': say('revokeKey', { name: (name || id).slice(0, 80) }) }));
  };

  const make = async (/** @type {any} */ made) => {
    fresh = await store.request('keys', { method: 'POST', body: { name: made.elements.name.value.trim() }, lang: lang() });
    made.reset();
    await show();
  };
  show();
  return card(say('keys'), h('p', { class: 'muted' }, say(mayManage ? 'keysText' : 'keysNeedToken')), once, list,
    mayManage && form([field(say('keyName'), { name: 'name', required: true, maxlength: 100 })], say('makeKey'), make));
}

/** Forgets the new key, since another user may sign in here. */
export const forgetKey = () => (fresh = null);
