import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { cp, mkdir, mkdtemp, readFile, readdir, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test from 'node:test';
import { fileURLToPath } from 'node:url';

const web = fileURLToPath(new URL('..', import.meta.url));
const apps = fileURLToPath(new URL('../../tests/types', import.meta.url));
const tools = process.env.FAREBOX_SCREENS_NODE && join(process.env.FAREBOX_SCREENS_NODE, 'node_modules');
const skip = !tools && 'FAREBOX_SCREENS_NODE is not set: make test-web sets it';

/** The modules of Farebox's own pages. */
const PAGES = ['account.js', 'admin.js', 'brand.js', 'chart.js', 'first.js', 'keys.js', 'models.js', 'page.js', 'prices.js'];

/** An app that has installed the package and a React, beside a copy of the modules. */
async function folder(react, { include, ...options }) {
  const home = await mkdtemp(join(tmpdir(), 'farebox-types-'));
  const installed = join(home, 'node_modules');
  await mkdir(join(installed, '@types'), { recursive: true });
  await cp(apps, home, { recursive: true });
  for (const [from, to] of [
    [web, 'farebox-web'], [join(tools, react), 'react'], [join(tools, 'csstype'), 'csstype'],
    [join(tools, '@types/prop-types'), '@types/prop-types'],
  ]) await symlink(from, join(installed, to));
  // Beside its declarations, a module would not be checked through an import.
  await mkdir(join(home, 'modules'));
  for (const name of (await readdir(web)).filter((name) => name.endsWith('.js'))) {
    const source = await readFile(join(web, name), 'utf8');
    const text = source.replaceAll("'./farebox.d.ts'", "'farebox-web'").replaceAll("'./react.d.ts'", "'farebox-web/react'");
    await writeFile(join(home, 'modules', name), text);
  }
  const compilerOptions = {
    ...options, allowJs: true, checkJs: true, noEmit: true, strict: true, jsx: 'react-jsx', preserveSymlinks: true,
    target: 'esnext', module: 'esnext', moduleResolution: 'bundler', lib: ['esnext', 'dom', 'dom.iterable'], types: [],
  };
  await writeFile(join(home, 'tsconfig.json'), JSON.stringify({ compilerOptions, include }));
  return home;
}

async function holds(react, project) {
  const home = await folder(react, project);
  const tsc = spawnSync(process.execPath, [join(tools, 'typescript/bin/tsc'), '--project', home], { cwd: home, encoding: 'utf8' });
  await rm(home, { recursive: true });
  assert.equal(tsc.status, 0, tsc.stdout + tsc.stderr);
}

for (const react of ['types-react18', 'types-react19']) {
  test(`the modules are what their JSDoc and their declarations say, beside ${react}`, { skip }, () =>
    holds(react, { include: ['*.ts', '*.tsx', 'modules/react.js'] }));
}

// The pages read parts of the API that have no types.
test('the pages fit the modules', { skip }, () =>
  holds('types-react19', { include: PAGES.map((name) => `modules/${name}`), noImplicitAny: false }));
