/** An app in TypeScript without a framework. */

import { FareboxError, client, configure, observe } from 'farebox-web';
import { Client } from 'farebox-web/client';
import type { Amount, Balance, Pack, State } from 'farebox-web';

observe();
const store: Client = configure({ base: 'https://api.example.com/credits', token: () => null, observe: false });
const stop: () => void = store.subscribe(({ status, balance }: State) => console.log(status, balance?.available));
store.onRefusal(({ required, packs }) => console.log(required, packs?.map((pack: Pack) => pack.price.currency)));
stop();

export async function call(): Promise<Amount | undefined> {
  try {
    const response: Response = await client().fetch('/api/ai/generate', { method: 'POST' });
    store.look(response);
    const { checkout_url }: { checkout_url: string } = await store.buy('small', 'fr');
    location.assign(checkout_url);
    return (await store.refresh()).balance?.held;
  } catch (error) {
    if (error instanceof FareboxError && error.status === 402) return error.problem.required;
    throw error;
  }
}

const upsell = document.querySelector('farebox-upsell');
upsell?.show({ required: '5', available: 2n });
document.createElement('farebox-balance').addEventListener('farebox-low', ({ detail }) => {
  const balance: Balance = detail;
  if (upsell) upsell.remainingCredits = balance.available;
});
document.addEventListener('farebox-buy', (event) => event.detail.best_value && event.preventDefault());

// @ts-expect-error: a state that there is not.
export const unknown: State['status'] = 'broke';
// @ts-expect-error: the store's base is for reading.
store.base = '/credits';
