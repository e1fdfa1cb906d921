// @ts-check
/** Defines the custom elements, and exports the functions that an app may call. */

import { FareboxBalance } from './balance.js';
import { FareboxHistory } from './history.js';
import { FareboxPacks } from './packs.js';
import { FareboxUpsell } from './upsell.js';

export { Client, client, configure, FareboxError, observe } from './client.js';
export { FareboxElement } from './dom.js';
export { FareboxBalance, FareboxHistory, FareboxPacks, FareboxUpsell };

const elements = {
  'farebox-balance': FareboxBalance,
  'farebox-history': FareboxHistory,
  'farebox-packs': FareboxPacks,
  'farebox-upsell': FareboxUpsell,
};

// Not on a server; and once, even where a page loads this twice.
if (globalThis.customElements) {
  for (const [name, element] of Object.entries(elements)) {
    if (!customElements.get(name)) customElements.define(name, element);
  }
}
