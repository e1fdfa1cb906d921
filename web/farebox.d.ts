/** The types of farebox.js. */

/** A decimal such as 5, "0.25" or -3, in the digits of the API. */
export type Amount = number | string | bigint;

/** In minor units: 7900 and "eur" are 79.00 EUR. */
export interface Price { amount: number; currency: string }

export interface Balance {
  account: string;
  /** `available` + `held`. */
  balance: Amount;
  held: Amount;
  available: Amount;
  /** Below the operator's `low_balance`. */
  low: boolean;
}

export interface State {
  status: 'loading' | 'ready' | 'signed-out' | 'error';
  /** The last one that was read; it stays where a later reading fails. */
  balance: Balance | null;
  error: FareboxError | null;
}

export interface Pack {
  id: string;
  name: string;
  credits: Amount;
  price: Price;
  /** The pack that the seller recommends. */
  best_value: boolean;
  /** The seller's own words on it. */
  badge?: string;
}

export interface Checkout { checkout_url: string; session_id: string }

/** application/problem+json, as Farebox answers errors. */
export interface Problem {
  status?: number;
  code?: string;
  title?: string;
  detail?: string;
  required?: Amount;
  available?: Amount;
  topup_url?: string;
  packs?: Pack[];
}

export interface Entry {
  id: string;
  kind: string;
  amount: Amount;
  balance_after: Amount;
  route: string | null;
  /** What people read in place of `route`. */
  label?: string;
  request_id: string | null;
  reason: string | null;
  created_at: string;
  /** Set aside for a metered call at its end. Only metered calls have it, as `model` and `usage`. */
  held?: Amount;
  /** As the request spelled it; null on a route with prices of its own. */
  model?: string | null;
  usage?: Used;
  /** How often the call's answer was sent again, for nothing, and when last. Only where it was. */
  replays?: number;
  replayed_at?: string;
  account?: string;
}

/** The count of each kind, such as `{ input: 600, output: 300 }`. */
export type Used = Record<string, number>;

/** Asked before each request, so that it can hand out a fresh token; nothing: signed out. */
export type TokenSource = () => string | null | undefined | Promise<string | null | undefined>;

export interface Options {
  /** Such as `https://api.example.com/credits`; left out: where the module comes from. */
  base?: string;
  /** Left out or null: the account page's cookie. */
  token?: TokenSource | null;
  /** False: not to look at what the page's own fetch brings. */
  observe?: boolean;
}

export interface Asked { method?: string; body?: unknown; token?: string; lang?: string; signal?: AbortSignal }

/** An answer that is not a success. `status` 0 and `code` "NETWORK": no answer. */
export class FareboxError extends Error {
  constructor(status: number, problem: Problem);
  status: number;
  code: string;
  problem: Problem;
}

/** The API under one base, and the balance that every widget of the page shares. */
export class Client {
  constructor(base: string);
  readonly base: string;
  readonly state: State;
  token: TokenSource | null;
  observes: boolean;
  /** Calls `listener` with each new state until the returned function is called. */
  subscribe(listener: (state: State) => void): () => void;
  /** Calls `listener` with the problem of each 402 that the page meets. */
  onRefusal(listener: (problem: Problem) => void): () => void;
  /** Begins anew: after a sign-in or sign-out. */
  restart(): void;
  /** Reads the balance now. */
  refresh(): Promise<State>;
  /** One of Farebox's own routes, such as `transactions?limit=5`. Throws a FareboxError. */
  request(path: string, asked?: Asked): Promise<any>;
  /** Starts a purchase; send the buyer to `checkout_url`. */
  buy(pack: string, lang?: string): Promise<Checkout>;
  /** The page's fetch with the token, whose answers move the balance. */
  fetch(input: RequestInfo | URL, init?: RequestInit): Promise<Response>;
  /** Takes in what an answer says of credits, for calls that fetch did not make. */
  look(response: Response): void;
}

export function configure(options?: Options): Client;
export function client(base?: string | null): Client;
/** Looks at the page's own fetch; the elements do it by themselves. */
export function observe(): void;

export class FareboxElement extends HTMLElement {
  /** The store that this element shares, once it is in the page. */
  readonly client: Client | undefined;
  readonly language: string;
}
export class FareboxBalance extends FareboxElement {}
export class FareboxPacks extends FareboxElement {}
export class FareboxHistory extends FareboxElement {}
export class FareboxUpsell extends FareboxElement {
  open: boolean;
  /** Shown in place of the store's balance. */
  remainingCredits: Amount | null;
  show(problem?: Problem | null): void;
  close(): void;
}

declare global {
  interface HTMLElementTagNameMap {
    'farebox-balance': FareboxBalance;
    'farebox-packs': FareboxPacks;
    'farebox-history': FareboxHistory;
    'farebox-upsell': FareboxUpsell;
  }
  /** They bubble out of shadow roots: of elements, of the document and of the window. */
  interface GlobalEventHandlersEventMap {
    'farebox-balance': CustomEvent<Balance>;
    'farebox-low': CustomEvent<Balance>;
    'farebox-topup': CustomEvent<void>;
    'farebox-packs': CustomEvent<Pack[]>;
    'farebox-buy': CustomEvent<Pack>;
    'farebox-checkout': CustomEvent<Checkout>;
    'farebox-open': CustomEvent<{ problem: Problem | null }>;
    'farebox-close': CustomEvent<void>;
    'farebox-error': CustomEvent<FareboxError>;
  }
}
