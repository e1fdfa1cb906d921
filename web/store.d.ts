/** The types of client.js: the store without the elements. */

export { Client, FareboxError, client, configure, observe } from './farebox.js';
export type {
  Amount, Asked, Balance, Checkout, Entry, Options, Pack, Price, Problem, State, TokenSource,
} from './farebox.js';
