/**
 * npm links a package that it installs from a folder. Bundlers and TypeScript follow the link to the
 * folder and look for React beside it, where there is none. So after `npm install <path>/web` a copy
 * of the package replaces the link in the app. npm runs this in the folder (`prepare`); with
 * `--ignore-scripts`, `npm install --install-links <path>/web` makes the copy itself.
 */

import { chmodSync, cpSync, lstatSync, mkdtempSync, readFileSync, realpathSync, renameSync, unlinkSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const web = realpathSync(dirname(dirname(fileURLToPath(import.meta.url))));
const { name, files } = JSON.parse(readFileSync(join(web, 'package.json'), 'utf8'));

/** True only for the link that npm has just made to this very folder. */
const isOurLink = (path) => lstatSync(path, { throwIfNoEntry: false })?.isSymbolicLink() && realpathSync(path) === web;

for (const app of new Set([process.env.npm_config_local_prefix, process.env.INIT_CWD])) {
  const modules = join(app ?? web, 'node_modules');
  const link = join(modules, name);
  if (!isOurLink(link)) continue;
  const copy = mkdtempSync(join(modules, `.${name}-`));
  for (const file of ['package.json', ...files]) cpSync(join(web, file), join(copy, file));
  chmodSync(copy, 0o755);
  unlinkSync(link);
  renameSync(copy, link);
}
