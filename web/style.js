// @ts-check
/** The widgets' style. Constructed style sheets need no 'unsafe-inline'. */

/** @type {Map<string, CSSStyleSheet>} */
const sheets = new Map();

/** @param {string} css */
export function sheet(css) {
  const made = sheets.get(css) ?? new CSSStyleSheet();
  if (!sheets.has(css)) made.replaceSync(css);
  sheets.set(css, made);
  return made;
}

/** Light or dark follows the page's own color-scheme. */
export const base = `
:host, :root {
  --accent: var(--farebox-accent, light-dark(#0f766e, #5eead4));
  --on-accent: var(--farebox-on-accent, light-dark(#fff, #042f2e));
  --text: var(--farebox-text, light-dark(#16201d, #e8efec));
  --muted: var(--farebox-muted, light-dark(#55635e, #9fb0aa));
  --surface: var(--farebox-surface, light-dark(#fff, #161d1b));
  --line: var(--farebox-line, light-dark(#dde3e0, #2c3734));
  --danger: var(--farebox-danger, light-dark(#b42318, #fda29b));
  --warn: var(--farebox-warn, light-dark(#8a4b08, #fcd34d));
  --radius: var(--farebox-radius, 12px);
  --font: var(--farebox-font, system-ui, sans-serif);
}
:host { display: block; color: var(--text); font: 1rem/1.5 var(--font); font-variant-numeric: tabular-nums }
:host([hidden]), [hidden] { display: none !important }
* { box-sizing: border-box }
h2, p, ul { margin: 0; padding: 0 }
h2 { font-size: 1.125rem; line-height: 1.35; letter-spacing: -.01em; font-weight: 650; text-wrap: balance }
ul { list-style: none }
button {
  font: inherit; min-height: 2.5rem; padding: .375rem 1rem; border: 1px solid transparent; border-radius: calc(var(--radius) * .67);
  background: var(--accent); color: var(--on-accent); font-weight: 600; cursor: pointer; transition: filter .15s, background-color .15s;
}
button:hover { filter: brightness(1.08) }
button.quiet { background: none; border-color: var(--line); color: var(--text) }
button.quiet:hover { filter: none; background: color-mix(in srgb, var(--text) 6%, transparent) }
button.small { min-height: 2rem; padding: .125rem .75rem }
[aria-disabled=true] { opacity: .55; cursor: default }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px }
.muted { color: var(--muted) }
.small { font-size: .875rem }
small { display: block; font-size: .8125rem; color: var(--muted); overflow-wrap: anywhere }
.badge { padding: 0 .5rem; border: 1px solid transparent; border-radius: 99px; font-size: .75rem; line-height: 1.25rem; font-weight: 600; white-space: nowrap; background: color-mix(in srgb, var(--warn) 16%, transparent); color: var(--warn) }
.told { overflow-wrap: anywhere; display: -webkit-inline-box; -webkit-box-orient: vertical; -webkit-line-clamp: 3; overflow: hidden; vertical-align: bottom; max-width: 100%; white-space: normal }
.failure { display: flex; flex-wrap: wrap; align-items: center; gap: .5rem .75rem; color: var(--danger); overflow-wrap: anywhere }
.hush, :host([inline]) .failure span { position: absolute; width: 1px; height: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap }
.bone { display: block; height: 1em; margin: .75rem 0; border-radius: 6px; background: color-mix(in srgb, var(--text) 11%, transparent); animation: breathe 1.6s ease-in-out infinite }
@keyframes breathe { 50% { opacity: .45 } }
table { width: 100%; border-collapse: collapse }
th, td { padding: .6875rem .5rem; text-align: start; vertical-align: top; border-bottom: 1px solid var(--line) }
th { font-size: .8125rem; font-weight: 500; color: var(--muted) }
tr > :first-child { padding-inline-start: 0 }
tr > :last-child { padding-inline-end: 0 }
tbody tr:last-child > * { border-bottom: 0 }
dialog {
  width: min(34rem, calc(100vw - 2rem)); max-height: calc(100dvh - 2rem); padding: 1.5rem; border: 1px solid var(--line);
  border-radius: calc(var(--radius) * 1.33); background: var(--surface); color: var(--text); box-shadow: 0 20px 60px rgb(0 0 0 / .25);
}
dialog::backdrop { background: rgb(8 16 14 / .5) }
dialog[open] { animation: rise .18s ease-out }
@keyframes rise { from { transform: translateY(8px) } }
.stack { display: grid; grid-template-columns: minmax(0, 1fr) }
.stack > * + * { margin-top: 1rem }
.row { display: flex; flex-wrap: wrap; align-items: center; gap: .75rem }
.right { justify-content: flex-end }
@media (prefers-reduced-motion: reduce) { * { animation: none !important; transition: none !important } }
`;
