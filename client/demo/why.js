/** The answer to "Why?" in the connection panel: what `session.diagnose()` says, in words and as a list of attempts. */

import { byId, make } from './dom.js';

const EVERY_MS = 5_000;
const SHOWN = 8;
/** @type {Record<string, string>} */
const NAMES = { websocket: 'WebSocket', webrtc: 'Data channel' };

/** @typedef {import('/client/attempts.js').Attempt} Attempt */

/**
 * Asks while the answer is open, and else nothing.
 * @param {import('/client/session.js').Session} session
 * @param {AbortSignal} signal
 */
export function showWhy(session, signal) {
  const why = byId('why', HTMLDetailsElement);
  const sentence = byId('why-sentence', HTMLElement);
  let verdict = '';
  const update = async () => {
    if (!why.open) return;
    const said = await session.diagnose();
    if (signal.aborted) return;
    // It is read out: not again for a few checks more.
    if (verdict !== said.verdict) sentence.textContent = said.sentence;
    verdict = said.verdict;
    sentence.dataset.verdict = verdict;
    const newest = said.attempts.slice(-SHOWN).reverse();
    byId('why-attempts', HTMLElement).replaceChildren(...newest.map(line));
  };
  why.addEventListener(
    'toggle',
    () => {
      verdict = '';
      update();
    },
    { signal },
  );
  for (const event of /** @type {const} */ (['attempt', 'rung', 'state'])) session.on(event, update, { signal });
  const timer = setInterval(update, EVERY_MS);
  signal.addEventListener('abort', () => clearInterval(timer));
  update();
}

/** @param {Attempt} attempt */
function line(attempt) {
  const item = make('li', '');
  item.dataset.verdict = attempt.verdict;
  const head = make('p', 'head', NAMES[attempt.by]);
  const began = new Date(attempt.began);
  const time = make('time', '', began.toLocaleTimeString());
  time.dateTime = began.toISOString();
  head.append(time);
  item.append(head, make('p', '', attempt.sentence));
  const facts = make('ul', 'facts');
  facts.append(...factsOf(attempt).map((fact) => make('li', '', fact)));
  if (facts.childElementCount > 0) item.append(facts);
  return item;
}

/** @param {Attempt} attempt */
function factsOf({ gathered = [], pairs = [], errors = [], relays, restarts = 0 }) {
  const found = gathered.map(({ kind, count }) => `${count} × ${kind}`);
  return [
    ...(found.length > 0 ? [`Candidates: ${found.join(', ')}`] : []),
    ...pairs.map(({ from, to, state, sent, answered }) => {
      const checks = sent === null ? '' : `, ${sent} checks sent`;
      return `${from} → ${to}: ${state}${checks}${answered === null ? '' : `, ${answered} answered`}`;
    }),
    ...errors.map(({ url, code, text }) => `${url}: ${code} ${text}`),
    ...(relays ? [`With relays${restarts > 0 ? `, ICE restarts: ${restarts}` : ''}`] : []),
  ];
}
