import { useState, version } from 'react';
import { client } from 'farebox-web';
import { CreditsDisplay, FareboxProvider, History, Packs, UpsellModal, useCredits } from 'farebox-web/react';

function Panel({ base }) {
  const { credits, isLow, loading, error } = useCredits();
  const [open, setOpen] = useState(false);
  const [user, setUser] = useState('alice');
  const call = () => client(base).fetch(new URL('/api/ai/generate', base), { method: 'POST' });
  return (
    <>
      <p id="version">{version}</p>
      <output>{loading ? 'loading' : error ? error.code : `${credits} credits${isLow ? ', low' : ''}`}</output>
      <CreditsDisplay userId={user} inline showBuyButton />
      <button id="call" onClick={call}>Call</button>
      <button id="more" onClick={() => setOpen(true)}>More</button>
      <button id="switch" onClick={() => setUser('bob')}>Switch</button>
      <p id="state">{open ? 'open' : 'closed'}</p>
      <UpsellModal open={open} onClose={() => setOpen(false)} remainingCredits={credits ?? undefined} />
      <Packs />
      <History limit={5} />
    </>
  );
}

export function App({ base, getToken }) {
  const [here, setHere] = useState(true);
  return (
    <FareboxProvider baseUrl={base} getToken={getToken}>
      {here && <Panel base={base} />}
      <button id="leave" onClick={() => setHere(false)}>Leave</button>
    </FareboxProvider>
  );
}
