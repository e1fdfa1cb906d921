'use client';
// @ts-check
/** The widgets for React 18 and 19. On a server they render empty elements, which the browser fills. */

import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { client, configure } from './farebox.js';

/** @type {import('react').Context<string | undefined>} */
const Base = createContext(/** @type {string | undefined} */ (undefined));

/** What is known on a server, and in the browser until it has read the balance. */
const NOTHING = Object.freeze({ status: 'loading', balance: null, error: null });

const inBrowser = typeof window !== 'undefined';
const never = () => () => {};

/** @param {import('./react.d.ts').FareboxProviderProps} props */
export function FareboxProvider({ baseUrl, getToken, children }) {
  const source = useRef(getToken);
  useEffect(() => {
    source.current = getToken;
  });
  // While rendering: the elements below connect before any effect of this component runs.
  useMemo(() => {
    if (inBrowser) configure({ base: baseUrl, token: getToken ? () => source.current?.() : null });
  }, [baseUrl, !getToken]);
  return createElement(Base.Provider, { value: baseUrl }, children);
}

/** @returns {import('./react.d.ts').Credits} */
export function useCredits() {
  const base = useContext(Base);
  const store = useMemo(() => (inBrowser ? client(base) : null), [base]);
  const subscribe = useCallback((/** @type {() => void} */ changed) => (store ? store.subscribe(changed) : never()), [store]);
  const state = useSyncExternalStore(subscribe, () => store?.state ?? NOTHING, () => NOTHING);
  const refresh = useCallback(async () => void (await store?.refresh()), [store]);
  const { balance } = state;
  return {
    credits: balance && Number(balance.available),
    isLow: balance?.low ?? false,
    loading: state.status === 'loading',
    error: state.error,
    refresh,
  };
}

/** React 18 writes `false` into attributes of custom elements: absent is undefined. @param {unknown} on */
const flag = (on) => (on ? '' : undefined);

/** @param {import('./react.d.ts').CreditsDisplayProps} props */
export function CreditsDisplay({ userId, inline, showBuyButton, lang }) {
  const base = useContext(Base);
  const before = useRef(userId);
  useEffect(() => {
    if (before.current === userId) return;
    before.current = userId;
    client(base).restart();
  }, [userId, base]);
  return createElement('farebox-balance', { base, lang, inline: flag(inline), 'show-buy-button': flag(showBuyButton) });
}

/** @param {import('./react.d.ts').UpsellModalProps} props */
export function UpsellModal({ open, onClose, remainingCredits, lang }) {
  const base = useContext(Base);
  /** @type {import('react').RefObject<import('./farebox.d.ts').FareboxUpsell | null>} */
  const element = useRef(null);
  const closed = useRef(onClose);
  useEffect(() => {
    closed.current = onClose;
  });
  useEffect(() => {
    const close = () => closed.current?.();
    const upsell = element.current;
    upsell?.addEventListener('farebox-close', close);
    return () => upsell?.removeEventListener('farebox-close', close);
  }, []);
  useEffect(() => {
    if (!element.current) return;
    element.current.remainingCredits = remainingCredits ?? null;
    element.current.open = open;
  }, [open, remainingCredits]);
  return createElement('farebox-upsell', { base, lang, manual: '', ref: element });
}

/** @param {{ lang?: string }} props */
export function Packs({ lang }) {
  return createElement('farebox-packs', { base: useContext(Base), lang });
}

/** @param {{ lang?: string, limit?: number }} props */
export function History({ lang, limit }) {
  return createElement('farebox-history', { base: useContext(Base), lang, limit });
}
