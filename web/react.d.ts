/** The types of react.js. */

import type { CSSProperties, ReactElement, ReactNode } from 'react';
import type { Balance, Checkout, FareboxError, Pack, Problem, TokenSource } from './farebox.js';

export interface FareboxProviderProps {
  /** Such as `https://api.example.com/credits`. */
  baseUrl: string;
  /** Asked before each request; without it the cookie of Farebox's own account page counts. */
  getToken?: TokenSource;
  /** False: not to look at what the page's own fetch brings. */
  observe?: boolean;
  children?: ReactNode;
}

export interface Credits {
  /** What can be spent; null until it is known, or when nobody is signed in. For showing, not for sums. */
  credits: number | null;
  /** What the account has, with what is held for calls in progress: `credits` + `held`. */
  balance: number | null;
  /** What is held for calls in progress. */
  held: number | null;
  account: string | null;
  /** Below the operator's `low_balance`. Calls still pass while `credits` lasts. */
  isLow: boolean;
  loading: boolean;
  error: FareboxError | null;
  /** Of the last 402 that the page met; null again once there are enough credits for that call. */
  problem: Problem | null;
  /** Reads the balance now. */
  refresh: () => Promise<void>;
}

/** What every component takes. A listener gets the event's detail and the event, which it may prevent where docs/widgets.md says so. */
export interface WidgetProps {
  id?: string;
  className?: string;
  style?: CSSProperties;
  /** "en" or "fr"; left out: the page's. */
  lang?: string;
  children?: ReactNode;
  /** The balance was read, or it changed. */
  onBalance?: (balance: Balance, event: CustomEvent<Balance>) => void;
  /** The balance got below the operator's `low_balance`. */
  onLow?: (balance: Balance, event: CustomEvent<Balance>) => void;
  /** The balance's button was pressed; else the upsell opens. */
  onTopup?: (detail: null, event: CustomEvent<void>) => void;
  /** A pack's button was pressed; else a checkout is made. */
  onBuy?: (pack: Pack, event: CustomEvent<Pack>) => void;
  /** The checkout is there; else the page goes there. */
  onCheckout?: (checkout: Checkout, event: CustomEvent<Checkout>) => void;
  /** Something could not be loaded or bought. */
  onError?: (error: FareboxError, event: CustomEvent<FareboxError>) => void;
}

export interface CreditsDisplayProps extends WidgetProps {
  /** Who is signed in to your app: when it changes, the balance is read anew. */
  userId?: string;
  inline?: boolean;
  showBuyButton?: boolean;
}

export interface UpsellModalProps extends WidgetProps {
  /** Opens or closes it when it changes. Left out, or beside it: it opens by itself. */
  open?: boolean;
  /** Not to open by itself when the credits get low and on a 402. */
  manual?: boolean;
  /** It opens; `problem` is that of a 402. */
  onOpen?: (detail: { problem: Problem | null }, event: CustomEvent<{ problem: Problem | null }>) => void;
  /** It was closed. */
  onClose?: () => void;
  /** Shown as what is left, in place of the balance. */
  remainingCredits?: number;
}

export type PacksProps = WidgetProps;

export interface HistoryProps extends WidgetProps {
  limit?: number;
  /** Only from this day on, such as "2026-11-23", where the reader is. */
  from?: string;
  /** Only up to this day. */
  to?: string;
}

export function FareboxProvider(props: FareboxProviderProps): ReactElement;
export function useCredits(): Credits;
export function CreditsDisplay(props: CreditsDisplayProps): ReactElement;
export function UpsellModal(props: UpsellModalProps): ReactElement;
export function Packs(props: PacksProps): ReactElement;
export function History(props: HistoryProps): ReactElement;
