import { useState, version } from 'react';
import { client } from 'farebox-web';
import { CreditsDisplay, FareboxProvider, History, Packs, UpsellModal, useCredits } from 'farebox-web/react';

function Panel({ base }) {
  const { credits, balance, held, account, isLow, loading, error, problem } = useCredits();
  const [open, setOpen] = useState(false);
  const [heard, hear] = useState([]);
  const note = (name) => (detail, event) => {
    if (['buy', 'topup'].includes(name)) event.preventDefault();
    hear((all) => [...all, name + (detail?.problem ? ` ${detail.problem.code}` : detail?.id ? ` ${detail.id}` : '')]);
  };
  const [from, setFrom] = useState();
  const [user, setUser] = useState('alice');
  const call = () => client(base).fetch(new URL('/api/ai/generate', base), { method: 'POST' });
  return (
    <>
      <p id="version">{version}</p>
      <output>{loading ? 'loading' : error ? error.code : `${credits} credits${isLow ? ', low' : ''}`}</output>
      <p id="more-of-it">{`${account} has ${balance}, ${held} held`}</p>
      <p id="problem">{problem ? `${problem.code} ${problem.required}` : 'no problem'}</p>
      <p id="heard">{heard.join(', ')}</p>
      <CreditsDisplay userId={user} inline showBuyButton className="mine" onTopup={note('topup')} onLow={note('low')}>
        <a id="login" slot="signed-out" href="/login">Sign in</a>
      </CreditsDisplay>
      <button id="call" onClick={call}>Call</button>
      <button id="more" onClick={() => setOpen(true)}>More</button>
      <button id="future" onClick={() => setFrom('2999-01-01')}>Future</button>
      <button id="switch" onClick={() => setUser('bob')}>Switch</button>
      <p id="state">{open ? 'open' : 'closed'}</p>
      <button id="plain" onClick={() => fetch(new URL('/api/ai/generate', base), { method: 'POST', headers: { authorization: `Bearer ${setting.token}` } })}>Plain</button>
      <button id="out" onClick={() => { setting.token = null; client(base).restart(); }}>Out</button>
      <UpsellModal open={open} onOpen={(detail) => { note('open')(detail); setOpen(true); }} onClose={() => setOpen(false)} remainingCredits={credits ?? undefined} />
      <Packs onBuy={note('buy')} />
      <History limit={5} from={from} />
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
