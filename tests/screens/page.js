// What the tests' scripts find a page's things with, through its shadow roots.
const children = (node) => [...(node.shadowRoot ?? node).querySelectorAll('*')].flatMap((each) => [each, ...(each.shadowRoot ? children(each) : [])]);
const seen = (node) => node.checkVisibility({ visibilityProperty: true });
const all = (selector) => children(document).filter((node) => node.matches(selector) && seen(node));
/** The first that is seen, matches, and says this. */
const $ = (selector, text = '') => all(selector).find((node) => `${node.textContent} ${node.getAttribute('aria-label') ?? ''}`.includes(text));
/** The text of what is seen. */
const words = () => children(document.body).filter(seen).flatMap((node) => [...node.childNodes]).filter((node) => node.nodeType === 3).map((node) => node.data.trim()).filter(Boolean).join(' ');
/** The account's credits, as the balance shows them. */
const credits = () => Number($('[part=value]')?.textContent.replace(/\D/g, '') || NaN);
/** Where the focus is. */
const focus = (root = document) => root.activeElement?.shadowRoot?.activeElement ? focus(root.activeElement.shadowRoot) : root.activeElement;
/** By how much the page is wider than the window. */
const overflow = () => document.documentElement.scrollWidth - document.documentElement.clientWidth;
