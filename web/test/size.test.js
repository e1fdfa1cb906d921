import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import test from 'node:test';
import { gzipSync } from 'node:zlib';

/** A module and all of its imports. */
async function modules(name, found = new Map()) {
  if (found.has(name)) return found;
  const source = await readFile(new URL(`../${name}`, import.meta.url));
  found.set(name, gzipSync(source, { level: 9 }).length);
  for (const [, other] of String(source).matchAll(/from '\.\/(.+\.js)'/g)) await modules(other, found);
  return found;
}

test('the elements and the React components are under 22.5 kB compressed, file by file', async () => {
  const sizes = await modules('react.js');
  const total = [...sizes.values()].reduce((a, b) => a + b);
  assert.ok(sizes.size > 10 && total < 22_500, `${total} bytes: ${[...sizes].map(String).join(' ')}`);
});

test('no file writes markup or loads from elsewhere', async () => {
  for (const name of [...(await modules('react.js')).keys(), 'account.js', 'admin.js', 'brand.js', 'chart.js', 'first.js', 'keys.js', 'models.js', 'page.js', 'prices.js', 'account.html', 'admin.html', 'page.css']) {
    const source = await readFile(new URL(`../${name}`, import.meta.url), 'utf8');
    assert.doesNotMatch(source, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function|DOMParser| style="|onclick="|@import [^{]/, name);
    assert.doesNotMatch(source.replace('http://www.w3.org/2000/svg', ''), /https?:\/\//, name);
  }
});
