/** An app in TypeScript: what docs/widgets.md promises of the React components. */

import { useState } from 'react';
import { CreditsDisplay, FareboxProvider, History, Packs, UpsellModal, useCredits } from 'farebox-web/react';
import type { Credits, UpsellModalProps } from 'farebox-web/react';

function Panel() {
  const { credits, isLow, loading, error, refresh }: Credits = useCredits();
  const [open, setOpen] = useState(false);
  const upsell: UpsellModalProps = { open, onClose: () => setOpen(false), remainingCredits: credits ?? undefined };
  const code: string | undefined = error?.problem.code;
  return (
    <>
      <output>{loading ? 'loading' : code ?? `${credits}${isLow ? ', low' : ''}`}</output>
      <button onClick={() => void refresh()}>Refresh</button>
      <CreditsDisplay userId="alice" inline showBuyButton lang="fr" />
      <UpsellModal {...upsell} />
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
// @ts-expect-error: it is open or not.
export const neither = <UpsellModal remainingCredits={5} />;
// @ts-expect-error: a number, not text.
export const many = <History limit="5" />;
