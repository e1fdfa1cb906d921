// @ts-check
/**
 * Amounts and moments in the reader's notation. Amounts come as digits, as the API writes them, and are
 * counted in BigInt: no float touches credits or money.
 */

/** @import { Amount, Price } from './farebox.d.ts' */

const MICROS = 6;

/** Currencies whose minor unit has not two decimals, as Stripe counts; Intl differs for HUF, IDR and others. */
const DECIMALS = Object.fromEntries([
  ...'BIF CLP DJF GNF JPY KMF KRW MGA PYG RWF VND VUV XAF XOF XPF'.split(' ').map((code) => [code, 0]),
  ...'BHD JOD KWD OMR TND'.split(' ').map((code) => [code, 3]),
]);

/** @param {string} currency */
export const decimals = (currency) => DECIMALS[currency.toUpperCase()] ?? 2;

/** A decimal as an integer: `scale('0.25', 6)` is 250000n. @param {Amount} value @param {number} places */
export function scale(value, places) {
  const [, sign, whole, part = ''] = /^(-?)(\d+)\.?(\d*)$/.exec(String(value)) ?? ['', '', '0'];
  return BigInt(sign + whole + part.padEnd(places, '0').slice(0, places));
}

/** The inverse: `unscale(250000n, 6)` is '0.250000'. @param {bigint} value @param {number} places */
export function unscale(value, places) {
  const digits = String(value).replace('-', '').padStart(places + 1, '0');
  const cut = digits.length - places;
  return (value < 0n ? '-' : '') + digits.slice(0, cut) + (places ? '.' + digits.slice(cut) : '');
}

/** The sum of credits. @param {Amount[]} values */
export const sum = (values) => unscale(values.map((value) => scale(value, MICROS)).reduce((a, b) => a + b, 0n), MICROS);

/** The reader's own variant of the language, such as en-GB for en. @param {string} lang */
const locale = (lang) => globalThis.navigator?.languages?.find((wish) => wish.startsWith(lang)) ?? lang;

/** Intl reads decimal text exactly, despite its types; it writes a hyphen for minus. @param {string} lang @param {Amount} value @param {Intl.NumberFormatOptions} options */
export const number = (lang, value, options) =>
  new Intl.NumberFormat(locale(lang), options).format(/** @type {any} */ (String(value))).replace('-', '−');

/** @param {string} lang @param {Amount} value */
export const credits = (lang, value) => number(lang, value, { maximumFractionDigits: MICROS });

/** A part of a whole in percent, with one decimal. @param {string} lang @param {number} part @param {number} whole */
export const share = (lang, part, whole) =>
  new Intl.NumberFormat(locale(lang), { style: 'percent', maximumFractionDigits: 1 }).format(part / whole);

/** A change of a balance, with its sign. @param {string} lang @param {Amount} value */
export const signed = (lang, value) => number(lang, value, { maximumFractionDigits: MICROS, signDisplay: 'exceptZero' });

/** @param {string} lang @param {bigint} value @param {number} places @param {string} currency */
const priced = (lang, value, places, currency) =>
  number(lang, unscale(value, places), {
    style: 'currency', currency, minimumFractionDigits: decimals(currency), maximumFractionDigits: places,
  });

/** @param {string} lang @param {Price} price */
export const money = (lang, { amount, currency }) => priced(lang, BigInt(amount), decimals(currency), currency);

/** The price of one credit, to a hundredth of the minor unit. @param {string} lang @param {Price} price @param {Amount} count */
export function perCredit(lang, { amount, currency }, count) {
  const micros = scale(count, MICROS) || 1n;
  const hundredths = (BigInt(amount) * 200_000_000n + micros) / (micros * 2n);
  return priced(lang, hundredths, decimals(currency) + 2, currency);
}

/** A moment (RFC 3339) in the reader's time zone. @param {string} lang @param {string} at @param {Intl.DateTimeFormatOptions} [options] */
export function when(lang, at, options = { dateStyle: 'medium', timeStyle: 'short' }) {
  const date = new Date(at);
  return Number.isNaN(+date) ? at : date.toLocaleString(locale(lang), options);
}
