import { StrictMode } from 'react';
import { hydrateRoot } from 'react-dom/client';
import { App } from './app.jsx';

const app = <StrictMode><App base={setting.base} getToken={() => setting.token} /></StrictMode>;
hydrateRoot(document.getElementById('root'), app, { onRecoverableError: (error) => console.error(error) });
