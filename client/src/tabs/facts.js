/**
 * What all tabs that share a session know of it besides its lane. The leader changes it and says so; a snapshot of it, with the
 * lane, makes any tab a follower.
 */

import { recordsOf, tabsOf } from './hub.js';

/**
 * @typedef {import('./wire.js').Snapshot} Snapshot
 * @typedef {import('./wire.js').Status} Status
 * @typedef {{ room: number, self: number, member: number, tab: number }} Whose from a tab of a member of a room, to one's own member there
 */

/** Senders of large things that are remembered. */
const TAKEN = 1_024;

export class Facts {
  /** Counts the leaders. */
  term = 0;
  /** Of the session at the server; in memory only. @type {import('../link.js').Identity | null} */
  identity = null;
  /** @type {Map<string, import('./hub.js').Member>} */
  tabs = new Map();
  /** How many have been given out. */
  slots = 0;
  /** The last offer of each tab that was ordered. @type {Map<string, number>} */
  ordered = new Map();
  /** @type {Record<string, unknown> | null} */
  limits = null;
  /** @type {import('../link.js').Features | null} */
  features = null;
  /** Whether there is to be a connection. */
  wanted = false;
  /** As the leader has said last. @type {Status} */
  status = nothing();
  /** Whom the leader's connections reach past the server, as it has said last. @type {import('./wire.js').Reached[]} */
  peers = [];
  /** Up to which number the tabs have large things, by `keyOf`: whoever leads goes on from there. @type {Map<string, number>} */
  #taken = new Map();

  /** The session is not gone on with. */
  forget() {
    this.identity = null;
    this.tabs = new Map();
    this.slots = 0;
    this.ordered.clear();
    this.forgetTaken();
  }

  /** The session is another: so are the numbers. */
  forgetTaken() {
    this.#taken.clear();
  }

  /** All tabs have a large thing. @param {import('../mesh/bulk.js').Bulk} bulk */
  took({ n, ...whose }) {
    const key = keyOf(whose);
    this.#taken.delete(key);
    this.#taken.set(key, n);
    const [oldest] = this.#taken.keys();
    if (this.#taken.size > TAKEN) this.#taken.delete(oldest);
  }

  /** The last one that they have; 0 for none. @param {Whose} whose */
  taken(whose) {
    return this.#taken.get(keyOf(whose)) ?? 0;
  }

  /** @param {Snapshot} snapshot @param {number} term */
  take({ identity, tabs, slots, ordered, wanted, taken }, term) {
    this.term = term;
    this.identity = identity;
    this.tabs = tabsOf(tabs);
    this.slots = slots;
    this.ordered = new Map(ordered);
    this.#taken = new Map(taken);
    this.wanted ||= wanted;
  }

  /** @param {import('./lane.js').TabLane} lane @param {Status} status @returns {Snapshot} */
  snapshot(lane, status) {
    const { identity, limits, features, wanted, slots, peers } = this;
    // Of tabs that are gone nothing comes any more.
    const ordered = [...this.ordered].filter(([tab]) => this.tabs.has(tab));
    const tabs = recordsOf(this.tabs);
    return { epoch: lane.epoch, lane: lane.state(), ordered, tabs, slots, identity, limits, features, wanted, status, peers, taken: [...this.#taken] };
  }
}

/** @returns {Status} */
export function nothing() {
  const health = { connected: false, rung: null, waitingMs: 0, silentMs: 0, bufferAgeMs: 0, bitrate: null };
  const buffered = { websocket: 0, reliable: 0, lossy: 0 };
  const counters = { reconnects: 0, pipeChanges: 0, badFrames: 0, unknownFrames: 0 };
  return { state: 'idle', rung: null, relay: null, rtt: null, takesJoins: false, queued: 0, buffered, counters, health };
}

/** @param {Whose} whose */
function keyOf({ room, self, member, tab }) {
  return [room, self, member, tab].join(' ');
}
