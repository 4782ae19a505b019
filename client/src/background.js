/**
 * Sends without a page what was written to logs and has no answer yet (LAD5): for an application's service worker, which a
 * browser with Background Sync wakes when there is a network, though every page may be closed.
 *
 *     // worker.js
 *     import { flushOnSync } from 'switchyard-client/background';
 *     flushOnSync({ url: 'wss://example.org', getToken });
 *
 *     // the page
 *     const worker = navigator.serviceWorker.register('/worker.js', { type: 'module' });
 *     const session = connect({ url: 'wss://example.org', getToken, backgroundSync: worker });
 *
 * It joins the rooms over a WebSocket as a page does, so the user is a member of them for that moment, and the outbox does the
 * rest: it adopts what pages that are gone have stored, once, however often it is begun again. What belongs to a living page
 * is left to that; what belongs to another user than the tokens are for stays where it is.
 */

import { endpoint } from './endpoint.js';
import { environment } from './environment.js';
import { SwitchyardError } from './errors.js';
import { Session } from './session.js';
import { SYNC_TAG } from './sync.js';
import { identityIn } from './token.js';

/** Nothing has been answered for so long: later, then. */
const PATIENCE_MS = 20_000;
/** Browsers stop workers that take longer. */
const MOST_MS = 150_000;
const LOOK_MS = 200;

/**
 * @typedef {import('./store.js').Waiting} Waiting
 * @typedef {Waiting & { server: string, room: string }} Place
 * @typedef {{ tenant: string, user: string }} Identity
 *
 * @typedef {Event & { tag: string, waitUntil: (work: Promise<unknown>) => void }} SyncEvent not in the types: only some browsers have it
 *
 * @typedef {object} FlushOptions
 * @property {string | URL} [url] of the server, as in `connect`
 * @property {(room: string) => string | Promise<string>} getToken asked without a page: what it needs is in cookies or storage
 * @property {(room: string, written: import('./log.js').Rejected) => unknown} [rejected] the server does not take this one, and
 *   there is no page to say so
 * @property {Partial<import('./environment.js').Environment>} [environment] for tests
 */

/** Flushes when the browser says that there is a network again. To be called while the worker starts. @param {FlushOptions} options */
export function flushOnSync(options) {
  addEventListener('sync', (event) => {
    const sync = /** @type {SyncEvent} */ (event);
    if (sync.tag === SYNC_TAG) sync.waitUntil(flush(options));
  });
}

/**
 * Sends what waits for this server. Gives how many submissions have been answered; rejects with `unsent` if some are left
 * that can be sent, so that the browser tries again later.
 * @param {FlushOptions} options
 * @returns {Promise<{ sent: number }>}
 */
export async function flush({ url, getToken, rejected, environment: given }) {
  const env = environment(given);
  const storage = await env.storage();
  const waiting = storage ? new Waits(storage.store, endpoint(url)) : null;
  const rooms = (await waiting?.rooms()) ?? new Set();
  if (!waiting || rooms.size === 0) return { sent: 0 };
  const session = new Session({
    url,
    transport: 'websocket',
    tabs: 'own',
    environment: given,
    getToken: async (room) => {
      const token = await getToken(room);
      waiting.for(room, identityIn(token));
      return token;
    },
  });
  try {
    for (const name of rooms) {
      const room = session.open({ room: name });
      room.on('left', () => waiting.without(name));
      room.on('rejected', (written) => rejected?.(name, written));
    }
    return { sent: await waiting.end(env) };
  } finally {
    session.close();
  }
}

/** What waits in storage, and how much of that is to be sent here. */
class Waits {
  #store;
  #server;
  /** When the worker was woken. @type {Place[]} */
  #first = [];
  /** Whose messages go out in a room, by its token. @type {Map<string, Identity | null>} */
  #whose = new Map();
  /** Rooms that do not let us in. @type {Set<string>} */
  #closed = new Set();

  /** @param {import('./store.js').Store} store @param {string} server */
  constructor(store, server) {
    this.#store = store;
    this.#server = server;
  }

  /** The rooms in which something waits. */
  async rooms() {
    this.#first = await this.#look();
    return new Set(this.#first.map(({ room }) => room));
  }

  /** The token of a room is this user's. @param {string} room @param {Identity | null} who */
  for(room, who) {
    this.#whose.set(room, who);
  }

  /** The server does not let this user into the room. @param {string} room */
  without(room) {
    this.#closed.add(room);
  }

  /**
   * Until nothing is left, or nothing happens any more. Gives how many have been answered.
   * @param {import('./environment.js').Environment} env
   */
  async end(env) {
    const began = env.now();
    for (let [count, since] = [Infinity, began]; ; ) {
      const waiting = await this.#look();
      const [left, now] = [countOf(waiting), env.now()];
      if (left === 0) return countOf(this.#first.filter((place) => this.#isOurs(place)));
      if (left < count) [count, since] = [left, now];
      const isOver = waiting.every(({ room }) => this.#closed.has(room));
      if (isOver || now - since > PATIENCE_MS || now - began > MOST_MS) throw new SwitchyardError('unsent', `${left} submissions wait still`);
      await new Promise((resolve) => env.setTimeout(() => resolve(undefined), LOOK_MS));
    }
  }

  /** @returns {Promise<Place[]>} */
  async #look() {
    const all = (await this.#store.waiting()).map((waiting) => ({ ...waiting, ...placeOf(waiting.scope) }));
    return all.filter((place) => place.server === this.#server && this.#isOurs(place));
  }

  /** @param {Place} place */
  #isOurs({ room, user, tenant }) {
    const who = this.#whose.get(room);
    return !who || (user === who.user && (!tenant || !who.tenant || tenant === who.tenant));
  }
}

/** @param {Waiting[]} waiting */
function countOf(waiting) {
  return waiting.reduce((sum, { items }) => sum + items, 0);
}

/** @param {string} scope of a writer @returns {{ server: string, room: string }} */
function placeOf(scope) {
  const [server, room] = JSON.parse(scope);
  return { server, room };
}
