// @ts-check
/** The account page: turns a token into a cookie that no script can read, then shows the widgets. */

import './farebox.js';
import { brandBar, brandMark, loadBrand, titled } from './brand.js';
import { chart } from './chart.js';
import { client } from './client.js';
import { bones, failure, h } from './dom.js';
import { firstCall } from './first.js';
import { credits, sum, when } from './format.js';
import { words } from './i18n.js';
import { forgetKey, keysCard } from './keys.js';
import { USED, list } from './models.js';
import { ask, card, field, head, lang, main, quiet, say, signInCard } from './page.js';
import { priceList } from './prices.js';

Object.assign(words, {
  account: ['Your credits', 'Vos crédits'],
  signInText: ['Open this page from your app, or paste a token or an API key.', 'Ouvrez cette page depuis votre application, ou collez un jeton ou une clé d’API.'],
  secret: ['Token or API key', 'Jeton ou clé d’API'],
  signedInAs: ['Signed in as', 'Connecté en tant que'],
  linkTo: ['Sign in to this account?', 'Se connecter à ce compte ?'],
  linkText: ['This link signs this browser in as {next}. Go on only if that is you.', 'Ce lien connecte ce navigateur en tant que {next}. Ne continuez que si c’est vous.'],
  linkNo: ['Do not sign in', 'Ne pas se connecter'],
  switchTo: ['Switch accounts?', 'Changer de compte ?'],
  switchText: ['You are signed in as {now}. This link is for {next}.', 'Vous êtes connecté en tant que {now}. Ce lien est celui de {next}.'],
  switchYes: ['Continue with the other', 'Continuer avec l’autre'],
  linkDead: ['This link has expired or is not valid.', 'Ce lien a expiré ou n’est pas valable.'],
  linkFailed: ['This link could not sign you in.', 'Ce lien n’a pas pu vous connecter.'],
  stillAs: ['You are still signed in as {now}.', 'Vous êtes toujours connecté en tant que {now}.'],
  switchNo: ['Stay signed in', 'Rester connecté'],
  paid: ['Thank you. Waiting for the payment to be confirmed…', 'Merci. En attente de la confirmation du paiement…'],
  paidDone: [{ one: 'Thank you: {n} credit was added.', other: 'Thank you: {n} credits were added.' }, { one: 'Merci : {n} crédit a été ajouté.', many: 'Merci : {n} de crédits ont été ajoutés.', other: 'Merci : {n} crédits ont été ajoutés.' }],
  paidSlow: ['The payment is not confirmed yet. The credits show up here once it is.', 'Le paiement n’est pas encore confirmé. Les crédits apparaîtront ici ensuite.'],
  byModels: ['Use by model, {n} days', 'Utilisation par modèle, {n} jours'],
  usage: ['Use by day', 'Utilisation par jour'],
  partly: ['Too many calls: the oldest are not counted in.', 'Trop d’appels : les plus anciens ne sont pas comptés.'],
  fromDay: ['From', 'Du'],
  toDay: ['To', 'Au'],
  usageDays: ['Credits used in 30 days', 'Crédits utilisés en 30 jours'],
});

const DAYS = 30;
const DAY_MS = 86_400_000;
const SERIES = 4;
const PATIENCE_MS = 60_000;
const RECENT_MS = 600_000;

const store = client();
const banner = h('div', { role: 'status' });
const usage = h('div', {}, bones(lang(), 4));
const models = h('div', { class: 'stack loose' });
const prices = h('div', {});
/** The session: the account, and whether its credential may manage keys. @type {{ account: string, name: string, may_manage_keys: boolean } | null} */
let session = null;
/** The error of a link that could not sign in. @type {any} */
let wrong = null;
let view = '';
let counted = '';

/** Signs in. A link asks first: another person may have sent it, to have their own account paid for. @param {string} token @param {boolean} [linked] */
async function signIn(token, linked = false) {
  if (linked) {
    const next = await store.request('session', { token });
    const now = await store.request('session').catch(() => null);
    // Two issuers' users may share a name; their accounts differ.
    const by = now?.name === next.name ? 'account' : 'name';
    const names = { now: now?.[by], next: next[by] };
    const told = (key) => h('span', { class: 'told' }, say(key, names));
    const yes = now
      ? now.account === next.account || (await ask(say('switchTo'), told('switchText'), say('switchYes'), say('switchNo'), brandMark()))
      : await ask(say('linkTo'), told('linkText'), say('signIn'), say('linkNo'), brandMark());
    if (!yes) return;
  }
  await store.request('session', { method: 'POST', token });
  wrong = null;
  await begin();
}

function signOut() {
  wrong = null;
  return store.request('session', { method: 'DELETE' }).catch(() => {}).then(begin);
}

/** The store's token without a session: with it the store sends no request. */
const nobody = () => null;

/** Starts with the cookie's session. Without one no balance is requested, since that would log an error in the console. */
async function begin() {
  forgetKey();
  store.token = null;
  // Undefined: the request failed, and the store shows the error.
  const now = await store.request('session').catch(({ status }) => (status === 401 ? null : undefined));
  session = now ?? null;
  if (now === null) store.token = nobody;
  store.restart();
}

// The user may have signed in in another tab meanwhile.
document.addEventListener('visibilitychange', async () => {
  if (document.hidden || !store.token) return;
  store.token = null;
  if (await store.request('session').catch(() => null)) {
    wrong = null;
    await begin();
  } else store.token = nobody;
});

/** Shows a message above everything else, and again after a change of language. */
function notice(key, values = {}) {
  renotice = () => banner.replaceChildren(h('p', { class: 'note' }, say(key, values)));
  renotice();
}
let renotice = () => {};

/** Waits until a purchase has arrived. */
async function awaitPurchase() {
  const { purchase } = store;
  const end = Date.now() + PATIENCE_MS;
  let came = false;
  notice('paid');
  for (; Date.now() < end; await new Promise((done) => setTimeout(done, 1500))) {
    const { transactions } = await store.request('transactions?limit=50').catch(() => ({ transactions: [] }));
    // Bought in another tab or browser: any purchase of the last minutes counts.
    const recent = ({ id, created_at }) => id.startsWith('stripe:') && Date.now() - Date.parse(created_at) < RECENT_MS;
    const paid = transactions.find(purchase ? ({ id }) => id === `stripe:${purchase.session_id}` : recent);
    if (!paid) continue;
    came = true;
    store.refresh();
    notice('paidDone', { n: paid.amount });
    break;
  }
  if (!came) notice('paidSlow');
  store.purchase = null;
  history.replaceState(null, '', location.pathname);
}

/** Loads the usage by day and route: the routes with most credits, and the others as one. */
async function count() {
  try {
    const { usage: lines, models: used, complete } = await store.request(`usage?days=${DAYS}`, { lang: lang() });
    const labelled = ({ label, route }) => label ?? route ?? '';
    const routes = Map.groupBy(lines, labelled);
    const total = (of) => Number(sum(of.map(({ credits }) => credits)));
    const names = [...routes.keys()].sort((a, b) => total(routes.get(b)) - total(routes.get(a)));
    const shown = names.slice(0, names.length > SERIES + 1 ? SERIES : SERIES + 1);
    const rest = names.length > shown.length;
    const columns = Array.from({ length: DAYS }, (_, index) => {
      const day = new Date(Date.now() - (DAYS - 1 - index) * DAY_MS).toISOString().slice(0, 10);
      const ofDay = lines.filter((line) => line.day === day);
      const of = (test) => sum(ofDay.filter((line) => test(labelled(line))).map(({ credits }) => credits));
      const values = shown.map((name) => of((route) => route === name));
      if (rest) values.push(of((route) => !shown.includes(route)));
      return { label: when(lang(), day, { day: 'numeric', month: 'short', timeZone: 'UTC' }), values };
    });
    const series = rest ? [...shown, say('others')] : shown;
    const first = !lines.length && (await firstCall(store.base));
    models.replaceChildren(...(used.length ? [card(say('byModels', { n: DAYS }), list(say('byModels', { n: DAYS }), used, [
      ...USED, ['credits', (of) => credits(lang(), of.credits), true],
    ]))] : []));
    usage.replaceChildren(
      first || chart({ lang: lang(), title: say('usageDays'), head: say('day'), series, columns }),
      complete === false ? h('p', { class: 'muted small' }, say('partly')) : '');
  } catch (error) {
    usage.replaceChildren(failure(lang(), error, count));
  }
}

/** The head of the page, with the seller's name and logo. @param {...any} more */
function top(...more) {
  const made = [brandBar(), head(say('account'), draw, ...more)];
  document.title = titled(say('account'));
  return made;
}

/** The alert that a link could not sign in while another account is signed in. It stays above the packs until it is answered. @param {string} now */
function alarm(now) {
  const box = h('div', { class: 'note alarm row', role: 'alert' },
    h('p', { class: 'grow' }, say(wrong.status === 401 ? 'linkDead' : 'linkFailed'), ' ', say('stillAs', { now })),
    quiet(say('switchNo'), () => (wrong = null, box.remove())), quiet(say('signOut'), signOut));
  return box;
}

function draw() {
  const { status, balance } = store.state;
  const name = (session?.account === balance?.account && session?.name) || (balance?.account ?? '');
  const out = status === 'signed-out';
  counted = String(balance?.balance);
  if (out) {
    main.replaceChildren(...top(), signInCard(say('signInText'), say('secret'), signIn, wrong));
  } else {
    const who = h('div', { class: 'row tight who' },
      h('p', { class: 'muted small grow' }, balance && [say('signedInAs'), ' ', h('bdi', {}, name)]),
      quiet(say('signOut'), signOut));
    main.replaceChildren(wrong && balance ? alarm(name) : '', ...top(who), banner,
      h('section', { class: 'card hero' }, h('farebox-balance'), h('farebox-packs')),
      h('div', { class: 'columns main' },
        h('div', { class: 'stack loose' }, card(say('usage'), usage), models, entries(), prices),
        keysCard(store, session?.may_manage_keys ?? true)));
    renotice();
    count();
    priceList(store.base).then((made) => prices.replaceChildren(made ?? ''));
  }
}

/** The history with its range of days, which outlives a change of language. */
function entries() {
  const list = h('farebox-history', { limit: 10, from: days.from, to: days.to });
  const day = (name, label) => field(label, { type: 'date', value: days[name], onchange: ({ target }) => {
    days[name] = target.value;
    list.setAttribute(name, target.value);
  } });
  return card(say('history'), h('div', { class: 'row range' }, day('from', say('fromDay')), day('to', say('toDay'))), list);
}
const days = { from: '', to: '' };

/** @param {import('./farebox.d.ts').State} state */
async function look({ status, balance }) {
  const now = status === 'signed-out' ? status : `in ${balance?.account ?? ''}`;
  if (status !== 'loading' && now !== view) {
    view = now;
    if (status === 'signed-out') store.token = nobody;
    if (balance && session?.account !== balance.account) session = await store.request('session').catch(() => null);
    if (view !== now) return;
    draw();
    if (balance && new URLSearchParams(location.search).has('paid')) awaitPurchase();
  }
  const uses = String(balance?.balance);
  if (balance && uses !== counted) {
    counted = uses;
    count();
  }
}

const wait = () => main.replaceChildren(...top(), h('section', { class: 'card' }, bones(lang(), 6)));
wait();
const brought = () => new URLSearchParams(location.hash.slice(1)).get('token');
// Following a link on this very page changes only the fragment.
addEventListener('hashchange', () => brought() && location.reload());
const token = brought();
// The token is a secret, so it leaves the address first.
if (token) history.replaceState(null, '', location.pathname + location.search);
await loadBrand(store.base);
wait();
if (token) await signIn(token, true).catch((error) => (wrong = error));
if (!session) await begin();
store.subscribe(look);
