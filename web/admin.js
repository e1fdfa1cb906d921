// @ts-check
/** The operator's page. Its token stays in this tab; every view is one address after the #. */

import { chart } from './chart.js';
import { Client } from './client.js';
import { bones, failure, h, told } from './dom.js';
import { credits, decimals, money, number as written, scale, share, signed, unscale, when } from './format.js';
import { describe } from './history.js';
import { words } from './i18n.js';
import { USED, list } from './models.js';
import { ask, card, field, form, head, lang, main, quiet, say, signInCard } from './page.js';
import { lines, rest } from './prices.js';

Object.assign(words, {
  admin: ['Farebox admin', 'Admin Farebox'],
  adminText: ['The token is admin_token in gateway.toml. It stays in this tab.', 'Le jeton est admin_token dans gateway.toml. Il reste dans cet onglet.'],
  adminToken: ['Admin token', 'Jeton d’administration'],
  adminWrong: ['This is not the admin token.', 'Ce n’est pas le jeton d’administration.'],
  overview: ['Overview', 'Vue d’ensemble'],
  accounts: ['Accounts', 'Comptes'],
  entries: ['Entries', 'Opérations'],
  holds: ['Stuck holds', 'Réservations bloquées'],
  stripe: ['Stripe inbox', 'Événements Stripe'],
  crashed: ['Cut-off calls', 'Appels coupés'],
  crashedText: ['Calls of the last 30 days that a crash or a stop cut off. after_crash in gateway.toml says what becomes of their credits.', 'Appels des 30 derniers jours coupés par une panne ou un arrêt. after_crash dans gateway.toml décide du sort de leurs crédits.'],
  refresh: ['Refresh', 'Actualiser'],
  live: ['Live holds', 'Réservations en cours'],
  revenue: ['Revenue, 24 hours', 'Revenus, 24 heures'],
  captured: ['Credits used', 'Crédits utilisés'],
  granted: ['Credits added', 'Crédits ajoutés'],
  purchases: ['Purchases', 'Achats'],
  sales: ['Sales, {n} days', 'Ventes, {n} jours'],
  conversion: ['Conversion', 'Conversion'],
  basket: ['Average basket', 'Panier moyen'],
  perBuyer: ['Revenue per buyer', 'Revenu par acheteur'],
  webhooks: ['Webhooks that succeed', 'Webhooks réussis'],
  ofAll: ['{n} of {all}', '{n} sur {all}'],
  among: ['Purchases: {n}', 'Achats : {n}'],
  amongBuyers: ['Buyers: {n}', 'Acheteurs : {n}'],
  salesText: [
    'Conversion is the part of the checkouts begun that were paid: the ledger does not know who only looked at the packs. Webhooks are the events of Stripe’s that were kept.',
    'La conversion est la part des paiements commencés qui ont abouti : le registre ne sait pas qui a seulement regardé les packs. Les webhooks sont les événements de Stripe qui ont été conservés.',
  ],
  hour: ['Hour', 'Heure'],
  margins: ['Margin per route', 'Marge par route'],
  modelMargins: ['Models, 24 hours', 'Modèles, 24 heures'],
  modelsText: [
    'Revenue is the worth of the credits in the smallest pack; the own cost is from the prices of today. Refunds are not subtracted.',
    'Le revenu est la valeur des crédits dans le plus petit pack ; le coût propre suit les prix du jour. Les remboursements ne sont pas déduits.',
  ],
  earned: ['Revenue', 'Revenu'],
  uncosted: ['Without cost: {value}', 'Sans coût : {value}'],
  priced: ['Prices of models: {n}', 'Prix des modèles : {n}'],
  cost: ['Own cost', 'Coût propre'],
  margin: ['Margin', 'Marge'],
  search: ['Search: a part of the id', 'Chercher : une partie de l’identifiant'],
  searchOn: ['Search on', 'Chercher plus loin'],
  find: ['Search', 'Chercher'],
  accountId: ['Account', 'Compte'],
  spendable: ['Available', 'Disponible'],
  reserved: ['Held', 'Réservé'],
  frozen: ['Frozen', 'Gelé'],
  since: ['Since', 'Depuis'],
  give: ['Give credits', 'Donner des crédits'],
  correct: ['Correct the balance', 'Corriger le solde'],
  amountAny: ['Credits, negative to take', 'Crédits, négatif pour retirer'],
  reason: ['Reason, which the account sees', 'Motif, que le compte voit'],
  amountForm: ['A number such as 1.5', 'Un nombre tel que 1.5'],
  amountFormAny: ['A number such as 1.5, or -1.5 to take', 'Un nombre tel que 1.5, ou -1.5 pour retirer'],
  posted: ['Done. The balance is now {n}.', 'C’est fait. Le solde est maintenant de {n}.'],
  sure: ['Take {n} credits?', 'Retirer {n} crédits ?'],
  take: ['Take', 'Retirer'],
  stuckText: ['Holds older than a minute. A long stream is fine; many old ones are not.', 'Réservations de plus d’une minute. Un long flux est normal ; beaucoup d’anciennes ne le sont pas.'],
  at: ['When', 'Quand'],
  origin: ['From', 'Origine'],
  expires: ['Ends by itself', 'Expire'],
  state: ['State', 'État'],
  event: ['Event', 'Événement'],
  replay: ['Replay', 'Rejouer'],
  'state-received': ['received', 'reçu'],
  'state-applied': ['applied', 'appliqué'],
  'state-foreign': ['foreign', 'étranger'],
  'state-ignored': ['ignored', 'ignoré'],
  'state-failed': ['failed', 'échoué'],
  outcome: ['Outcome', 'Suite'],
  'outcome-charged': ['charged', 'débité'],
  'outcome-released': ['given back', 'rendu'],
  'outcome-corrected': ['settled after all', 'décompté après coup'],
  'origin-call': ['call', 'appel'],
  'origin-api': ['API', 'API'],
});

const TOKEN = 'farebox admin';
const api = new Client(new URL('/admin/', location.href).href);
api.token = () => sessionStorage.getItem(TOKEN);
/** Counts the views, so that a slow answer does not cover a newer view. */
let turn = 0;

/** @param {string} path @param {any} [body] @returns {Promise<any>} */
const get = (path, body) => api.request(path, { lang: lang(), ...(body && { method: 'POST', body }) });

/** A list that loads further pages by their cursor. @param {string} path @param {string} of @param {(rows: any[]) => any} show */
async function paged(path, of, show) {
  const rows = [];
  const box = h('div', { class: 'stack' });
  const more = async (cursor = '') => {
    const page = await get(`${path}limit=25${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
    rows.push(...page[of]);
    const go = () => more(page.next_cursor).catch((error) => box.append(failure(lang(), error)));
    box.replaceChildren(show(rows), page.next_cursor ? h('div', {}, quiet(say(page[of].length ? 'more' : 'searchOn'), go)) : '');
  };
  await more();
  return box;
}

/** A random id. crypto.randomUUID is missing on pages without TLS. */
const randomId = () => crypto.getRandomValues(new BigUint64Array(2)).join('-');

const number = (value) => credits(lang(), value);

/** The gateway's own figures, such as "5 / 2.5", "0.04 EUR" and "2275 %", in the reader's notation. @param {string | null} text */
const figure = (text) => text === 'by usage' ? say('byModel') : (text ?? '–').replaceAll(/(-?\d+(?:\.(\d+))?)(?: (%|[A-Z]{3}))?/g, (_, digits, fraction = '', unit) => {
  if (unit === '%') return written(lang(), unscale(scale(digits, 0), 2), { style: 'percent', maximumFractionDigits: 0 });
  if (!unit) return number(digits);
  const least = decimals(unit);
  return written(lang(), digits, { style: 'currency', currency: unit, minimumFractionDigits: least, maximumFractionDigits: Math.max(least, fraction.length) });
});

/** @param {string} state the state of an event, or an error */
const stateOf = (state) => (`state-${state}` in words ? say(`state-${state}`) : state);
const link = (account) => h('a', { href: `#accounts/${encodeURIComponent(account)}` }, told(account));

/** A date and time, as on the account page. */
const moment = (at) => at && h('span', { class: 'when' }, `${when(lang(), at, { day: 'numeric', month: 'short' })}, ${when(lang(), at, { timeStyle: 'short' })}`);

/** @type {import('./models.js').Column[]} */
const ENTRY = [
  ['at', ({ created_at }) => moment(created_at)],
  ['entry', (entry) => describe(lang(), entry)],
  ['credits', ({ amount }) => signed(lang(), amount), true],
  ['balance', ({ balance_after }) => number(balance_after), true],
];

const views = {
  async overview() {
    const [{ hours, routes, revenue, sales, accounts, holds }, { models }] = await Promise.all([get('overview?hours=24'), get('models?hours=24')]);
    const stat = (key, ...value) => h('div', { class: 'card' }, h('div', { class: 'muted small' }, say(key)), h('div', { class: 'big' }, value.flat()));
    const bars = (key) => h('section', { class: 'card' }, chart({
      lang: lang(), title: say(key), head: say('hour'), series: [say(key)],
      columns: hours.map((hour) => ({ label: when(lang(), hour.hour, { timeStyle: 'short' }), values: [hour[key]] })),
    }));
    return [
      h('div', { class: 'stats' },
        stat('revenue', revenue.length ? revenue.map((of) => h('div', {}, money(lang(), of))) : '–'),
        stat('purchases', number(revenue.reduce((all, { purchases }) => all + purchases, 0))),
        stat('accounts', number(accounts)), stat('live', number(holds.live)),
        stat('holds', h('span', { class: holds.stuck > 0 && 'failure' }, number(holds.stuck)))),
      sold(sales, stat),
      h('div', { class: 'columns' }, ['calls', 'captured', 'granted', 'purchases'].map(bars)),
      card(say('margins'), list(say('margins'), routes, [
        ['route', ({ route, label, methods }) => [told(label ?? route), h('small', {}, label && [told(route), ' '], methods?.replaceAll('*', say('everyMethod')))]],
        ['calls', ({ calls }) => number(calls), true],
        ['captured', ({ captured }) => number(captured), true],
        ['price', ({ price, units }) => units ? lines(units).map((line) => h('div', {}, line)) : figure(price), true],
        ['cost', ({ cost }) => figure(cost), true],
        ['margin', ({ margin }) => figure(margin), true],
      ])),
      models.length ? byModel(models) : '',
    ];
  },

  async accounts(account, search) {
    if (account) return detail(account);
    const find = async (made) => (location.hash = `accounts?${encodeURIComponent(made.elements.search.value.trim())}`);
    return [card(say('accounts'),
      form([field(say('search'), { name: 'search', type: 'search', value: search })], say('find'), find),
      await paged(`accounts?search=${encodeURIComponent(search)}&`, 'accounts', (rows) => list(say('accounts'), rows, [
        ['accountId', ({ account, frozen }) => [link(account), ' ', frozen && h('span', { class: 'badge' }, say('frozen'))]],
        ['balance', ({ balance }) => number(balance), true],
        ['reserved', ({ held }) => number(held), true],
        ['spendable', ({ available }) => number(available), true],
        ['since', ({ created_at }) => when(lang(), created_at, { dateStyle: 'medium' })],
      ])))];
  },

  async entries() {
    const { entries } = await get('entries?limit=50');
    return [card(say('entries'), list(say('entries'), entries, [['accountId', ({ account }) => link(account)], ...ENTRY]))];
  },

  async holds() {
    const { holds } = await get('holds?older_than=60&limit=100');
    return [card(say('holds'), h('p', { class: 'muted' }, say('stuckText')), list(say('holds'), holds, [
      ['accountId', ({ account }) => link(account)],
      ['credits', (hold) => number(hold.credits), true],
      ['route', ({ route, label }) => told(label ?? route ?? '–')],
      ['origin', ({ origin }) => say(`origin-${origin}`)],
      ['at', ({ created_at }) => moment(created_at)],
      ['expires', ({ expires_at }) => moment(expires_at)],
    ]))];
  },

  async crashed() {
    return [card(say('crashed'), h('p', { class: 'muted' }, say('crashedText')), await paged('crashed?', 'crashed', (rows) => list(say('crashed'), rows, [
      ['at', ({ at }) => moment(at)],
      ['accountId', ({ account }) => link(account)],
      ['route', ({ route, request_id }) => [told(route), h('small', {}, told(request_id))]],
      ['credits', ({ amount }) => number(amount), true],
      ['outcome', ({ outcome }) => say(`outcome-${outcome}`)],
    ])))];
  },

  async stripe() {
    const replay = async (event, button) => {
      const { state } = await get(`stripe/events/${encodeURIComponent(event.id)}/replay`, {}).catch((error) => ({ state: error.message }));
      button.previousElementSibling.replaceChildren(told(stateOf(state)));
    };
    return [card(say('stripe'), await paged('stripe/events?', 'events', (rows) => list(say('stripe'), rows, [
      ['at', ({ received_at }) => moment(received_at)],
      ['event', ({ id, type }) => [told(type), h('small', {}, told(id))]],
      ['state', (event) => [
        h('span', { role: 'status' }, stateOf(event.state)), ' ',
        quiet(say('replay'), ({ currentTarget }) => replay(event, currentTarget), { 'aria-label': `${say('replay')} ${event.id}` }),
        event.note && h('small', {}, told(event.note)),
      ]],
    ])))];
  },
};

/** A sum of money to a hundredth of the minor unit: sums of tiny costs have nine decimals. @param {string | null} text */
const amount = (text) => {
  if (!text) return '–';
  const [digits, currency] = text.split(' ');
  const least = decimals(currency);
  return written(lang(), digits, { style: 'currency', currency, minimumFractionDigits: least, maximumFractionDigits: least + 2 });
};

/** Usage, revenue, own cost and margin of each model, and the prices of all. @param {any[]} models */
function byModel(models) {
  const [used, priced] = [models.filter(({ calls }) => calls), models.filter(({ price }) => price)];
  const missing = (kinds = []) => kinds.length > 0 && h('small', {}, say('uncosted', { value: kinds.map((kind) => say(`unit-${kind}`)).join(', ') }));
  return card(say('modelMargins'), list(say('modelMargins'), used, [
    ...USED,
    ['captured', ({ captured }) => number(captured), true],
    ['earned', ({ revenue }) => amount(revenue), true],
    ['cost', ({ cost, uncosted }) => [amount(cost), missing(uncosted)], true],
    ['margin', ({ margin }) => figure(margin), true],
  ]), h('p', { class: 'muted small' }, say('modelsText')),
  priced.length > 0 && h('details', { class: 'small' }, h('summary', {}, say('priced', { n: priced.length })),
    h('p', { class: 'muted small' }, say('unitsText')), list(say('modelPrices'), priced, [
    ['model', ({ model }) => told(model)],
    ['price', ({ price }) => price.free ? say('free') : rest(price)],
  ])));
}

/** The sales figures. @param {any} sales @param {(key: string, ...value: any[]) => HTMLElement} stat */
function sold({ days, checkouts, purchases, currencies, webhooks }, stat) {
  const small = (text) => h('div', { class: 'muted small' }, text);
  const part = (count, all) => all ? [share(lang(), count, all), small(say('ofAll', { n: number(count), all: number(all) }))] : '–';
  const each = (key, among, counted) => currencies.length ? currencies.map((of) =>
    h('div', {}, money(lang(), { currency: of.currency, amount: of[key] }), small(say(among, { n: number(of[counted]) })))) : '–';
  return h('section', { class: 'stack' }, h('h2', {}, say('sales', { n: days })),
    h('div', { class: 'stats' },
      stat('conversion', part(purchases, checkouts)), stat('basket', each('basket', 'among', 'purchases')), stat('perBuyer', each('per_buyer', 'amongBuyers', 'buyers')),
      stat('webhooks', part(webhooks.received - webhooks.failed, webhooks.received))),
    h('p', { class: 'muted small' }, say('salesText')));
}

/** One account: its balance, forms for the operator, its history. @param {string} account */
async function detail(account) {
  const path = `accounts/${encodeURIComponent(account)}`;
  const { balance, held, available, frozen } = await get(path);
  const post = (what, label) => {
    const mayTake = what !== 'grants';
    // The id stays the same until a request succeeds, so that a repetition counts once.
    let id = randomId();
    return form([
      field(label, {
        name: 'credits', required: true, inputmode: 'decimal', pattern: `${mayTake ? '-?' : ''}\\d+(\\.\\d{1,6})?`,
        oninput: ({ target }) => target.setCustomValidity(''),
        oninvalid: ({ target }) => target.validity.patternMismatch && target.setCustomValidity(say(mayTake ? 'amountFormAny' : 'amountForm')),
      }),
      field(say('reason'), { name: 'reason', required: true, maxlength: 500 }),
    ], say(what === 'grants' ? 'give' : 'correct'), async (made) => {
      const { credits, reason } = /** @type {any} */ (made.elements);
      const taken = credits.value.replace('-', '');
      if (taken !== credits.value && !(await ask(say('sure', { n: taken }), h('b', {}, told(account)), say('take')))) return;
      const { balance_after } = await get(`${path}/${what}`, { credits: credits.value, id, reason: reason.value });
      id = randomId();
      await draw();
      const done = /** @type {HTMLElement | null} */ (main.querySelector('.done'));
      done?.append(h('p', { class: 'note' }, say('posted', { n: balance_after })));
      done?.focus();
    });
  };
  return [
    h('p', {}, h('a', { href: '#accounts' }, `← ${say('accounts')}`)),
    h('section', { class: 'card stack' }, h('h2', {}, told(account), ' ', frozen && h('span', { class: 'badge' }, say('frozen'))),
      h('dl', { class: 'row' }, [['balance', balance], ['reserved', held], ['spendable', available]].map(([key, value]) =>
        h('div', {}, h('dt', { class: 'muted small' }, say(key)), h('dd', { class: 'big' }, number(value))))),
      h('div', { role: 'status', class: 'done', tabindex: -1 })),
    h('div', { class: 'columns' }, card(say('give'), post('grants', say('credits'))), card(say('correct'), post('adjustments', say('amountAny')))),
    card(say('history'), await paged(`${path}/transactions?`, 'transactions', (rows) => list(say('history'), rows, ENTRY))),
  ];
}

/** @param {string} secret */
const signIn = async (secret) => {
  sessionStorage.setItem(TOKEN, secret);
  await draw();
};

const signOut = () => {
  sessionStorage.removeItem(TOKEN);
  draw();
};

/** Shows the view that the address names. */
async function draw() {
  const mine = ++turn;
  const [, name = 'overview', account = '', search = ''] = /^#(\w+)(?:\/([^?]*))?(?:\?(.*))?$/.exec(location.hash) ?? [];
  const door = (error) =>
    main.replaceChildren(head(say('admin'), draw), signInCard(say('adminText'), say('adminToken'), signIn, error));
  if (!sessionStorage.getItem(TOKEN)) return door();
  const nav = h('nav', { class: 'row', 'aria-label': say('admin') }, Object.keys(views).map((key) =>
    h('a', { href: `#${key}`, 'aria-current': key === name && 'page' }, say(key))));
  const here = main.contains(document.activeElement);
  const body = h('div', { class: 'stack loose', 'aria-busy': 'true' }, h('section', { class: 'card' }, bones(lang(), 6)));
  main.replaceChildren(head(say('admin'), draw, h('div', { class: 'row bar' }, nav, quiet(say('refresh'), draw), quiet(say('signOut'), signOut))), body);
  // The focused element was replaced: keyboards and screen readers go on from the view's name.
  if (here) /** @type {HTMLElement | null} */ (nav.querySelector('[aria-current]'))?.focus();
  try {
    const shown = await (views[name] ?? views.overview)(decodeURIComponent(account), decodeURIComponent(search));
    if (mine === turn) body.replaceChildren(...shown);
  } catch (/** @type {any} */ error) {
    if (mine !== turn) return;
    if (error.status === 401) return sessionStorage.removeItem(TOKEN), door({ problem: { detail: say('adminWrong') } });
    body.replaceChildren(h('section', { class: 'card' }, failure(lang(), error, draw)));
  }
  body.removeAttribute('aria-busy');
}

addEventListener('hashchange', draw);
draw();
