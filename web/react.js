'use client';
// @ts-check
/** @import { Credits, CreditsDisplayProps, FareboxProviderProps, UpsellModalProps } from './react.d.ts' */
/** @import { FareboxUpsell } from './farebox.d.ts' */
/** For React 18 and 19. On a server, empty elements. */

import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useSyncExternalStore } from 'react';
import { UNREAD } from './client.js';
import { client, configure } from './farebox.js';

const Base = createContext(/** @type {string | undefined} */ (undefined));

const inBrowser = 'window' in globalThis;

/** The newest value, for callbacks. @template T @param {T} value */
function useLatest(value) {
  const latest = useRef(value);
  useEffect(() => {
    latest.current = value;
  });
  return latest;
}

/** @param {FareboxProviderProps} props */
export function FareboxProvider({ baseUrl, getToken, children }) {
  const source = useLatest(getToken);
  // While rendering: the elements below connect before effects run.
  useMemo(() => {
    if (inBrowser) configure({ base: baseUrl, token: getToken ? () => source.current?.() : null });
  }, [baseUrl, !getToken]);
  return createElement(Base.Provider, { value: baseUrl }, children);
}

/** @returns {Credits} */
export function useCredits() {
  const base = useContext(Base);
  const store = inBrowser ? client(base) : null;
  const subscribe = useCallback((/** @type {() => void} */ changed) => store?.subscribe(changed) ?? (() => {}), [store]);
  const refresh = useCallback(async () => void (await store?.refresh()), [store]);
  const { status, balance, error } = useSyncExternalStore(subscribe, () => store?.state ?? UNREAD, () => UNREAD);
  return { credits: balance && Number(balance.available), isLow: balance?.low ?? false, loading: status === 'loading', error, refresh };
}

/** React 18 would write `false` into the attribute. @param {unknown} on */
const flag = (on) => (on ? '' : undefined);

/** @param {CreditsDisplayProps} props */
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

/** @param {UpsellModalProps} props */
export function UpsellModal({ open, onClose, remainingCredits, lang }) {
  const base = useContext(Base);
  /** @type {import('react').RefObject<FareboxUpsell | null>} */
  const element = useRef(null);
  const closed = useLatest(onClose);
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
