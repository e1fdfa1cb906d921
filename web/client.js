// @ts-check
/**
 * The API, and one store of the balance for each base. Changes come from server-sent events
 * (through fetch, which can send a token), from the page's own paid calls, and from other tabs.
 */

/** @import { Asked, Balance, Options, Problem, State, TokenSource } from './farebox.d.ts' */

const POLL_MS = 10_000;
const POLLS = 6;
/** A stream counts as dead after this; the server sends a comment every 15 s. */
const SILENCE_MS = 45_000;
const PURCHASE_MS = 1_800_000;

/** The state until the balance is read. @type {State} */
export const UNREAD = Object.freeze({ status: 'loading', balance: null, error: null });

/** The browser's own, even where a script wraps it later. */
const send = globalThis.fetch?.bind(globalThis);

/** The stored value of a name, set to `value` if given; null without storage. @param {string} name @param {unknown} [value] */
export function kept(name, value, where = /** @type {'sessionStorage' | 'localStorage'} */ ('sessionStorage')) {
  try {
    const storage = globalThis[where];
    if (value !== undefined) storage.setItem(name, JSON.stringify(value));
    return JSON.parse(storage.getItem(name) ?? 'null');
  } catch {
    return null;
  }
}

/** The error of a request. Without an answer, `status` is 0 and the code `NETWORK`. */
export class FareboxError extends Error {
  /** @param {number} status @param {Problem} problem */
  constructor(status, problem) {
    super(problem.detail ?? problem.title ?? `HTTP ${status}`);
    this.name = 'FareboxError';
    this.status = status;
    this.code = problem.code ?? `HTTP_${status}`;
    this.problem = problem;
  }
}

/** @type {Map<string, Client>} */
const clients = new Map();
/** @type {string | undefined} */
let usual;

/** The client of a base; by default the last configured, or that of this module's address. @param {string | null} [base] */
export function client(base) {
  // In one expression, bundlers take this for a file.
  const here = import.meta.url;
  const url = new URL(base || usual || new URL('..', here), globalThis.location?.href);
  if (!url.pathname.endsWith('/')) url.pathname += '/';
  let known = clients.get(url.href);
  if (!known) clients.set(url.href, (known = new Client(url.href)));
  return known;
}

/** Sets the address of Farebox, and the source of its tokens. @param {Options} [options] */
export function configure({ base, token, observe } = {}) {
  const chosen = client(base);
  usual = chosen.base;
  if (token !== undefined) chosen.token = token;
  chosen.observes = observe ?? chosen.observes;
  chosen.restart();
  return chosen;
}

export class Client {
  /** @type {State} */
  state = UNREAD;
  /** @type {TokenSource | null} */
  token = null;
  observes = true;
  /** @type {Set<(state: State) => void>} */
  #listeners = new Set();
  /** @type {Set<(problem: Problem) => void>} */
  #refusals = new Set();
  /** @type {AbortController | null} */
  #live = null;
  /** @type {BroadcastChannel | null} */
  #tabs = null;
  #streaming = false;
  /** Counts the states, so that a slow answer does not undo a newer one. */
  #version = 0;
  /** @type {any} */
  #soon;

  /** @param {string} base */
  constructor(base) {
    this.base = base;
  }

  /** Calls `listener` with every new state. @param {(state: State) => void} listener */
  subscribe(listener) {
    this.#listeners.add(listener);
    if (!this.#live) this.#start();
    return () => {
      this.#listeners.delete(listener);
      // An element that is moved subscribes again at once.
      setTimeout(() => this.#listeners.size || this.#stop());
    };
  }

  /** Calls `listener` for each 402 in the page. @param {(problem: Problem) => void} listener */
  onRefusal(listener) {
    this.#refusals.add(listener);
    return () => void this.#refusals.delete(listener);
  }

  /** Starts again, as the account of the current token. */
  restart() {
    this.#version++;
    this.#stop();
    this.#set(UNREAD);
    if (this.#listeners.size) this.#start();
  }

  /** Reads the balance now. @returns {Promise<State>} */
  async refresh() {
    const version = ++this.#version;
    try {
      const balance = await this.request('balance');
      if (version === this.#version) this.#take(balance);
    } catch (/** @type {any} */ error) {
      if (version !== this.#version) return this.state;
      if (error.status === 401) this.#set({ ...UNREAD, status: 'signed-out' });
      else this.#set({ status: this.state.balance ? 'ready' : 'error', error });
    }
    return this.state;
  }

  /** Sends a request to one of Farebox's own routes. @throws {FareboxError} @param {string} path @param {Asked} [asked] @returns {Promise<any>} */
  async request(path, asked) {
    const response = await this.#ask(path, asked);
    return response.status === 204 ? null : response.json();
  }

  /** Starts a purchase. @param {string} pack @param {string} [lang] */
  async buy(pack, lang) {
    const checkout = await this.request('buy', { method: 'POST', body: { pack }, lang });
    this.purchase = { ...checkout, at: Date.now() };
    return checkout;
  }

  /** The checkout that this tab was sent to. */
  get purchase() {
    const purchase = kept(`farebox ${this.base}`);
    return purchase?.at > Date.now() - PURCHASE_MS ? purchase : null;
  }

  set purchase(purchase) {
    kept(`farebox ${this.base}`, purchase);
  }

  /** The page's fetch, with the token for addresses of Farebox. @param {RequestInfo | URL} input @param {RequestInit} [init] */
  async fetch(input, init) {
    const request = new Request(input, init);
    const token = this.#isOurs(request.url) && (await this.token?.());
    if (token && !request.headers.has('authorization')) request.headers.set('authorization', `Bearer ${token}`);
    const response = await send(request);
    this.look(response);
    return response;
  }

  /** Reads a response's headers. @param {Response} response */
  look(response) {
    if (!this.#isOurs(response.url)) return;
    const remaining = response.headers.get('x-credits-remaining');
    const refused = response.status === 402;
    if (remaining === null && !refused) return;
    const { balance } = this.state;
    if (remaining !== null && balance) {
      this.#version++;
      this.#set({ balance: { ...balance, available: remaining } });
    }
    // The header has neither `low` nor `held`.
    clearTimeout(this.#soon);
    if (!this.#streaming) this.#soon = setTimeout(() => this.refresh(), 300);
    if (refused && /problem\+json/.test(response.headers.get('content-type') ?? '')) {
      response.clone().json().then((problem) => this.#refusals.forEach((tell) => tell(problem)), () => {});
    }
  }

  /** @param {string} url */
  #isOurs(url) {
    return url.startsWith(new URL('/', this.base).href);
  }

  /** @param {string} path @param {Asked} [asked] @returns {Promise<Response>} */
  async #ask(path, { method, body, token, lang, signal } = {}) {
    const bearer = token ?? (await this.token?.());
    // The cookie works on its own origin, and only without tokens.
    if (!bearer && path !== 'packs' && (this.token || !this.#isOurs(location.href))) {
      throw new FareboxError(401, { code: 'UNAUTHENTICATED' });
    }
    const headers = new Headers({ 'accept-language': lang ?? (document.documentElement.lang || navigator.language) });
    if (bearer) headers.set('authorization', `Bearer ${bearer}`);
    // The cookie's name depends on the scheme, which a proxy may hide.
    if (this.#isOurs(location.href)) headers.set('x-farebox-page', location.protocol.slice(0, -1));
    if (body) headers.set('content-type', 'application/json');
    const response = await send(new URL(path, this.base), { method, headers, signal, body: body ? JSON.stringify(body) : null, cache: 'no-store' })
      .catch((cause) => Promise.reject(new FareboxError(0, { code: 'NETWORK', detail: String(cause) })));
    if (response.ok) return response;
    throw new FareboxError(response.status, await response.json().catch(() => ({})));
  }

  /** @param {Balance} balance */
  #take(balance, tell = true) {
    this.#version++;
    this.#set({ status: 'ready', balance, error: null });
    if (tell) this.#tabs?.postMessage(balance);
  }

  /** @param {Partial<State>} change */
  #set(change) {
    this.state = { ...this.state, ...change };
    for (const listener of this.#listeners) listener(this.state);
  }

  #start() {
    this.#live = new AbortController();
    this.#tabs = new BroadcastChannel(`farebox ${this.base}`);
    this.#tabs.onmessage = ({ data }) => data.account === this.state.balance?.account && this.#take(data, false);
    this.#keepUp(this.#live.signal);
  }

  #stop() {
    this.#live?.abort();
    this.#tabs?.close();
    this.#live = this.#tabs = null;
  }

  /** Streams while the page is visible; polls where streaming fails. @param {AbortSignal} stop */
  async #keepUp(stop) {
    // The page may call `configure` right after this.
    await until(stop, (done) => setTimeout(done));
    for (let failures = 0, polls = 0; ; ) {
      await until(stop, whenSeen);
      if (stop.aborted) return;
      const { status } = await this.refresh();
      if (stop.aborted) return;
      if (polls > 0 || status !== 'ready') {
        failures = status === 'ready' ? 0 : failures + 1;
      } else {
        const came = await this.#stream(stop);
        failures = came ? 0 : failures + 1;
        // The stream was refused, or a proxy buffers it.
        if (came === null || failures > 3) polls = POLLS;
      }
      const wait = polls-- > 0 ? POLL_MS : 500 * 2 ** Math.min(failures, 6);
      await until(stop, (done) => setTimeout(done, wait * (0.75 + Math.random() / 2)));
    }
  }

  /** Reads the stream until it ends. True where an event came; null where it was refused. @param {AbortSignal} stop */
  async #stream(stop) {
    const end = new AbortController();
    const signal = AbortSignal.any([stop, end.signal]);
    document.addEventListener('visibilitychange', () => end.abort(), { signal });
    /** @type {any} */
    let timer;
    const wait = () => {
      clearTimeout(timer);
      timer = setTimeout(() => end.abort(), SILENCE_MS);
    };
    /** @type {boolean | null} */
    let came = false;
    try {
      wait();
      const { body } = await this.#ask('events', { signal });
      const reader = /** @type {ReadableStream} */ (body).pipeThrough(new TextDecoderStream()).getReader();
      for (let text = ''; ; ) {
        const { done, value } = await reader.read();
        if (done) break;
        wait();
        const blocks = (text + value).split(/\r?\n\r?\n/);
        text = blocks.pop() ?? '';
        for (const balance of blocks.map(balanceOf).filter(Boolean)) {
          came = this.#streaming = true;
          this.#take(balance);
        }
      }
    } catch (/** @type {any} */ error) {
      if (error.status >= 400) came = null;
    }
    this.#streaming = false;
    clearTimeout(timer);
    end.abort();
    return came;
  }
}

/** The balance in a server-sent event, if it has one. @param {string} block */
export function balanceOf(block) {
  const data = [...block.matchAll(/^data:(.*)/gm)].map(([, line]) => line).join('');
  return data && /^event: ?balance$/m.test(block) ? JSON.parse(data) : null;
}

let observing = false;

/** Reads the responses of the page's own fetch from now on. */
export function observe() {
  if (observing) return;
  observing = true;
  const native = window.fetch;
  window.fetch = async function (...call) {
    const response = await native.apply(this, call);
    clients.forEach((each) => each.observes && each.look(response));
    return response;
  };
}

/** @param {AbortSignal} stop @param {(done: () => void) => any} begin @returns {Promise<void>} */
const until = (stop, begin) =>
  new Promise((done) => {
    const timer = begin(done);
    // One wait runs at a time; listeners would pile up.
    stop.onabort = () => done(clearTimeout(timer));
  });

/** @param {() => void} done */
function whenSeen(done) {
  if (!document.hidden) done();
  else document.addEventListener('visibilitychange', () => whenSeen(done), { once: true });
}
