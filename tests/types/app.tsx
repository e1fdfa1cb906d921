/** An app in TypeScript: what docs/widgets.md promises of the React components. */

import { useState } from 'react';
import { CreditsDisplay, FareboxProvider, History, Packs, UpsellModal, useCredits } from 'farebox-web/react';
import type { Credits, UpsellModalProps } from 'farebox-web/react';

function Panel() {
  const { credits, balance, held, account, isLow, loading, error, problem, refresh }: Credits = useCredits();
  const [open, setOpen] = useState(false);
  const upsell: UpsellModalProps = { open, onClose: () => setOpen(false), remainingCredits: credits ?? undefined };
  const code: string | undefined = error?.problem.code ?? problem?.code;
  const all: number = (balance ?? 0) - (held ?? 0);
  return (
    <>
      <output>{loading ? 'loading' : code ?? `${account}: ${credits}${isLow ? ', low' : ''}, ${all}`}</output>
      <button onClick={() => void refresh()}>Refresh</button>
      <CreditsDisplay userId="alice" inline showBuyButton lang="fr" />
      <CreditsDisplay className="mine" style={{ color: 'red' }} onLow={({ available }) => console.log(available)} onTopup={(_, event) => event.preventDefault()}>
        <a slot="signed-out" href="/login">Sign in</a>
      </CreditsDisplay>
      <UpsellModal {...upsell} />
      <UpsellModal />
      <UpsellModal manual onOpen={({ problem: met }) => console.log(met?.required)} onBuy={({ badge }, event) => badge && event.preventDefault()} />
      <History from="2026-11-01" to="2026-11-30" />
      <Packs lang="en" />
      <History limit={5} />
      <CreditsDisplay />
      <UpsellModal open />
      <Packs />
      <History />
    </>
  );
}

export const App = ({ base }: { base: string }) => (
  <FareboxProvider baseUrl={base} getToken={async () => 'a token'}><Panel /></FareboxProvider>
);

// @ts-expect-error: where Farebox is must be said.
export const nowhere = <FareboxProvider getToken={() => null} />;
// @ts-expect-error: a number, not text.
export const text = <UpsellModal remainingCredits="5" />;
// @ts-expect-error: a number, not text.
export const many = <History limit="5" />;
