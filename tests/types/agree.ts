/** What the modules are is what their declarations say. */

import * as client from './modules/client.js';
import * as elements from './modules/farebox.js';
import * as react from './modules/react.js';

client satisfies typeof import('farebox-web/client');
elements satisfies typeof import('farebox-web');
react satisfies typeof import('farebox-web/react');
