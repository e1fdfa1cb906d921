// @ts-check
/** The widgets' texts by key: English, French. A plural is an object by Intl's categories. */

import { credits } from './format.js';

/** @typedef {string | Partial<Record<Intl.LDMLPluralRule, string>>} Message */

/** @type {Record<string, Message[]>} */
export const words = {
  available: ['Credits available', 'Crédits disponibles'],
  unit: [{ one: 'credit', other: 'credits' }, { one: 'crédit', many: 'de crédits', other: 'crédits' }],
  amount: [{ one: '{n} credit', other: '{n} credits' }, { one: '{n} crédit', many: '{n} de crédits', other: '{n} crédits' }],
  again: ['answer sent again: {n}×', 'réponse renvoyée : {n}×'],
  held: ['{n} set aside for calls in progress', '{n} réservés pour des appels en cours'],
  low: ['Running low', 'Bientôt épuisés'],
  empty: ['None left', 'Épuisés'],
  loading: ['Loading…', 'Chargement…'],
  failed: ['This could not be loaded.', 'Le chargement a échoué.'],
  network: ['The server cannot be reached. Check the connection.', 'Le serveur est injoignable. Vérifiez la connexion.'],
  retry: ['Try again', 'Réessayer'],
  signedOut: ['Sign in to see your credits.', 'Connectez-vous pour voir vos crédits.'],
  buyCredits: ['Buy credits', 'Acheter des crédits'],
  buy: ['Buy', 'Acheter'],
  buyPack: ['Buy {name} for {price}', 'Acheter {name} pour {price}'],
  opening: ['Opening the checkout…', 'Ouverture du paiement…'],
  perCredit: ['{price} per credit', '{price} par crédit'],
  recommended: ['Recommended', 'Conseillé'],
  noPacks: ['Nothing is for sale at the moment.', 'Rien n’est en vente pour le moment.'],
  upsellLow: ['Your credits are running low', 'Vos crédits sont bientôt épuisés'],
  upsellNone: ['You have no credits left', 'Vous n’avez plus de crédits'],
  upsellOut: ['Not enough credits', 'Pas assez de crédits'],
  left: [{ one: '{n} credit is left.', other: '{n} credits are left.' }, { one: 'Il reste {n} crédit.', many: 'Il reste {n} de crédits.', other: 'Il reste {n} crédits.' }],
  needs: [{ one: 'This takes {n} credit.', other: 'This takes {n} credits.' }, { one: 'Il faut {n} crédit.', many: 'Il faut {n} de crédits.', other: 'Il faut {n} crédits.' }],
  later: ['Not now', 'Plus tard'],
  close: ['Close', 'Fermer'],
  history: ['History', 'Historique'],
  entry: ['Entry', 'Opération'],
  credits: ['Credits', 'Crédits'],
  after: ['balance {n}', 'solde {n}'],
  noHistory: ['Nothing yet. Purchases and calls show up here.', 'Rien pour l’instant. Achats et appels apparaissent ici.'],
  unused: ['Nothing in this time.', 'Rien sur cette période.'],
  more: ['Show more', 'Afficher la suite'],
  loaded: [{ one: '{n} more entry', other: '{n} more entries' }, { one: '{n} opération de plus', other: '{n} opérations de plus' }],
  bought: ['Purchase: {name}', 'Achat : {name}'],
  welcome: ['Welcome credits', 'Crédits de bienvenue'],
  cutOff: ['The connection was cut; charged by the seller’s rule', 'Connexion coupée ; débité selon la règle du vendeur'],
  settled: ['Settled after all: the rest is given back', 'Décompté après coup : le reste est rendu'],
  tokens: ['{in} tokens in, {out} out', '{in} jetons en entrée, {out} en sortie'],
  setAside: ['held: {n}', 'réservé : {n}'],
  pair: ['{name}: {value}', '{name} : {value}'],
  'unit-image': ['Images', 'Images'],
  'unit-second': ['Seconds', 'Secondes'],
  'unit-character': ['Characters', 'Caractères'],
  'unit-search': ['Searches', 'Recherches'],
  'kind-grant': ['Credits added', 'Crédits ajoutés'],
  'kind-capture': ['Call', 'Appel'],
  'kind-refund': ['Call given back', 'Appel remboursé'],
  'kind-clawback': ['Payment taken back', 'Paiement repris'],
  'kind-reinstatement': ['Payment returned', 'Paiement rétabli'],
  'kind-adjustment': ['Correction', 'Correction'],
  'kind-opening': ['Opening balance', 'Solde d’ouverture'],
};

/** The language for a wish such as "fr-CA". @param {string} [wish] */
export const speak = (wish) => (/^fr\b/i.test(wish ?? '') ? 'fr' : 'en');

/** A text. `{name}` stands for `values.name`; `n` is an amount of credits, and selects the plural. @param {string} lang @param {string} key @param {Record<string, any>} [values] */
export function t(lang, key, values = {}) {
  const message = words[key][lang === 'fr' ? 1 : 0];
  const plural = () => new Intl.PluralRules(lang).select(Math.abs(Number(values.n)));
  const text = typeof message === 'string' ? message : message[plural()] ?? message.other ?? '';
  return text.replace(/\{(\w+)\}/g, (_, name) => (name === 'n' ? credits(lang, values.n) : values[name]));
}
