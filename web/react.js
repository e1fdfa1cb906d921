'use client';
// @ts-check
/** @import { Credits, CreditsDisplayProps, FareboxProviderProps, HistoryProps, PacksProps, UpsellModalProps, WidgetProps } from './react.d.ts' */
/** @import { FareboxUpsell, Problem } from './farebox.d.ts' */
/** Components for React 18 and 19. On a server they render empty elements. */

import { createContext, createElement, useCallback, useContext, useEffect, useMemo, useRef, useState, useSyncExternalStore } from 'react';
import { UNREAD } from './client.js';
import { client, configure, observe as watch } from './farebox.js';

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
export function FareboxProvider({ baseUrl, getToken, observe, children }) {
  const source = useLatest(getToken);
  // While rendering, since the elements below connect before effects run.
  useMemo(() => {
    if (!inBrowser) return;
    watch();
    configure({ base: baseUrl, token: getToken ? () => source.current?.() : null, observe });
  }, [baseUrl, !getToken, observe]);
  return createElement(Base.Provider, { value: baseUrl }, children);
}

/** @param {unknown} amount */
const number = (amount) => (amount == null ? null : Number(amount));

/** @returns {Credits} */
export function useCredits() {
  const base = useContext(Base);
  const store = inBrowser ? client(base) : null;
  const subscribe = useCallback((/** @type {() => void} */ changed) => store?.subscribe(changed) ?? (() => {}), [store]);
  const refresh = useCallback(async () => void (await store?.refresh()), [store]);
  const { status, balance, error } = useSyncExternalStore(subscribe, () => store?.state ?? UNREAD, () => UNREAD);
  const [problem, refuse] = useState(/** @type {Problem | null} */ (null));
  useEffect(() => store?.onRefusal(refuse), [store]);
  // Until there are enough credits, or another account.
  useEffect(() => {
    if (!balance || Number(balance.available) >= Number(problem?.required)) refuse(null);
  }, [balance]);
  return {
    credits: number(balance?.available), balance: number(balance?.balance), held: number(balance?.held), account: balance?.account ?? null,
    isLow: balance?.low ?? false, loading: status === 'loading', error, problem, refresh,
  };
}

const EVENTS = ['Balance', 'Low', 'Topup', 'Buy', 'Checkout', 'Open', 'Close', 'Error'];

/** One of our elements, with its events. @param {string} tag @param {WidgetProps} props @param {Record<string, any>} [more] */
function useElement(tag, props, more) {
  const base = useContext(Base);
  const ref = useRef(/** @type {HTMLElement | null} */ (null));
  const latest = useLatest(/** @type {Record<string, any>} */ (props));
  useEffect(() => {
    const stop = new AbortController();
    for (const name of EVENTS) {
      const tell = (/** @type {any} */ event) => latest.current[`on${name}`]?.(event.detail, event);
      ref.current?.addEventListener(`farebox-${name.toLowerCase()}`, tell, { signal: stop.signal });
    }
    return () => stop.abort();
  }, []);
  const { id, className, style, lang, children } = props;
  return { ref, base, element: createElement(tag, { ref, base, id, class: className, style, lang, ...more }, children) };
}

/** React 18 would write `false` into the attribute. @param {unknown} on */
const flag = (on) => (on ? '' : undefined);

/** @param {CreditsDisplayProps} props */
export function CreditsDisplay(props) {
  const { userId, inline, showBuyButton } = props;
  const { base, element } = useElement('farebox-balance', props, { inline: flag(inline), 'show-buy-button': flag(showBuyButton) });
  const before = useRef(userId);
  useEffect(() => {
    if (before.current === userId) return;
    before.current = userId;
    client(base).restart();
  }, [userId, base]);
  return element;
}

/** @param {UpsellModalProps} props */
export function UpsellModal(props) {
  const { open, manual, remainingCredits } = props;
  const { ref, element } = useElement('farebox-upsell', props, { manual: flag(manual) });
  useEffect(() => {
    if (ref.current) /** @type {FareboxUpsell} */ (ref.current).remainingCredits = remainingCredits ?? null;
  }, [remainingCredits]);
  // The dialog also opens and closes by itself, so only a change of the prop counts.
  useEffect(() => {
    if (ref.current && open !== undefined) /** @type {FareboxUpsell} */ (ref.current).open = open;
  }, [open]);
  return element;
}

/** @param {PacksProps} props */
export const Packs = (props) => useElement('farebox-packs', props).element;

/** @param {HistoryProps} props */
export const History = (props) => useElement('farebox-history', props, { limit: props.limit, from: props.from, to: props.to }).element;
