/** The types of react.js. */

import type { ReactElement, ReactNode } from 'react';
import type { FareboxError, TokenSource } from './farebox.js';

export interface FareboxProviderProps {
  /** Such as `https://api.example.com/credits`. */
  baseUrl: string;
  /** Asked before each request; without it the cookie of Farebox's own account page counts. */
  getToken?: TokenSource;
  children?: ReactNode;
}

export interface Credits {
  /** What can be spent; null until it is known, or when nobody is signed in. For showing, not for sums. */
  credits: number | null;
  /** Below the operator's `low_balance`. */
  isLow: boolean;
  loading: boolean;
  error: FareboxError | null;
  /** Reads the balance now. */
  refresh: () => Promise<void>;
}

export interface CreditsDisplayProps {
  /** Who is signed in to your app: when it changes, the balance is read anew. */
  userId?: string;
  inline?: boolean;
  showBuyButton?: boolean;
  /** "en" or "fr"; left out: the page's. */
  lang?: string;
}

export interface UpsellModalProps {
  open: boolean;
  onClose?: () => void;
  /** Shown as what is left, in place of the balance. */
  remainingCredits?: number;
  lang?: string;
}

export function FareboxProvider(props: FareboxProviderProps): ReactElement;
export function useCredits(): Credits;
export function CreditsDisplay(props: CreditsDisplayProps): ReactElement;
export function UpsellModal(props: UpsellModalProps): ReactElement;
export function Packs(props: { lang?: string }): ReactElement;
export function History(props: { lang?: string; limit?: number }): ReactElement;
