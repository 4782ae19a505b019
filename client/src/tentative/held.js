/**
 * Tentative copies that are here and genuine, from the moment that they came until the log, or time, says what became of
 * them. Pure: `now` is an argument, and what is to be told is taken by `poll`.
 *
 * A copy *waits* while something that its author had seen is not here. Then it is *shown*, behind those that are shown
 * already, and from then on has exactly one end: `confirmed` or `ordered` by the event of the log, or `rolledback`. One that
 * waits goes without a word: nobody has seen it. The log is always right: what it has told is not shown any more, whatever
 * comes late; so who reads after a snapshot, which does not say which copies it contains, takes none for a while.
 */

import { Seen } from '../mesh/seen.js';

/** From its arrival to its end at most. */
export const HOLD_MS = 5_000;
/** Of one member, and of all. */
export const HELD = 64;
export const HELD_BYTES = 262_144;
const HELD_ALL = 512;
/** Writers whose last event is remembered, and those whose copies are counted. */
const ORIGINS = 1_024;

/**
 * @typedef {import('./copy.js').EventCopy} EventCopy
 * @typedef {import('./copy.js').EventId} EventId
 *
 * @typedef {object} Entry
 * @property {string} id
 * @property {string} user its author, by the server's word
 * @property {EventCopy} copy
 * @property {number} until
 * @property {boolean} isShown
 *
 * @typedef {(
 *   | { state: 'shown', entry: Entry }
 *   | { state: 'confirmed' | 'ordered', entry: Entry, seq: number }
 *   | { state: 'rolledback', entry: Entry, code: string }
 * )} Told `ordered`: it stands before others that were shown before it. `code`: `timeout`, `refused`, `differs` (its author has
 *   written something else), `sync_required`, `left`
 */

export class Held {
  /** In the order in which they came. @type {Map<string, Entry>} */
  #entries = new Map();
  /** In the order in which they were shown. @type {Entry[]} */
  #shown = [];
  /** The last event of each writer that the log has told. @type {Map<string, number>} */
  #committed = new Map();
  /** Numbers of copies that were here, of each member's writers. @type {Map<string, Seen>} */
  #seen = new Map();
  /** The last one that this page has sent of each of its own writers. @type {Map<string, number>} */
  #own = new Map();
  /** @type {EventId | null} */
  #lastOwn = null;
  /** The last event that was read. */
  #seq = 0;
  /** None are taken before. */
  #deafUntil = -Infinity;
  /** @type {Told[]} */
  #told = [];
  counters = { shown: 0, confirmed: 0, ordered: 0, rolledback: 0, late: 0, unshown: 0 };

  /** What is shown, in that order. */
  get shown() {
    return this.#shown;
  }

  /** How many are here, those that wait among them. */
  get size() {
    return this.#entries.size;
  }

  /** When `tick` has something to do. @returns {number | null} */
  get dueAt() {
    const [oldest] = this.#entries.values();
    return oldest?.until ?? null;
  }

  /** What there is to tell, once. */
  poll() {
    const told = this.#told;
    this.#told = [];
    return told;
  }

  /** Whether a copy comes too late, or at a bad time: it is dropped without a word. @param {EventId} id @param {number} now */
  isLate({ origin, cseq }, now) {
    return now < this.#deafUntil || cseq <= (this.#committed.get(origin) ?? 0);
  }

  /**
   * Takes a copy whose signature is right.
   * @param {EventCopy} copy @param {string} user @param {number} now
   * @returns {'replayed' | 'too_many_held' | null} why it is refused
   */
  take(copy, user, now) {
    if (this.isLate(copy, now)) {
      this.counters.late += 1;
      return null;
    }
    const { member, origin, cseq } = copy;
    if (!this.#isNew(`${member} ${origin}`, cseq)) return 'replayed';
    const others = [...this.#entries.values()].filter((entry) => entry.copy.member === member);
    const bytes = others.reduce((sum, entry) => sum + entry.copy.body.length, copy.body.length);
    if (others.length >= HELD || bytes > HELD_BYTES || this.#entries.size >= HELD_ALL) return 'too_many_held';
    const id = `${member}.${origin}.${cseq}`;
    this.#entries.set(id, { id, user, copy, until: now + HOLD_MS, isShown: false });
    this.release();
    return null;
  }

  /** Its author says that the server has refused it. @param {EventId & { member: number }} id */
  withdraw({ member, origin, cseq }) {
    const entry = this.#entries.get(`${member}.${origin}.${cseq}`);
    if (entry) this.#rollBack(entry, 'refused');
  }

  /** The log tells an event, the next one. What has waited for it is shown by `release`, behind it. @param {import('../record.js').EventRecord} event */
  committed(event) {
    const { origin, cseq, seq } = event;
    this.#seq = seq;
    remember(this.#committed, origin, Math.max(cseq, this.#committed.get(origin) ?? 0));
    for (const entry of [...this.#entries.values()]) {
      if (entry.copy.origin !== origin || entry.copy.cseq > cseq) continue;
      // A writer's events are in the log in its order: what was passed over is not going to be there.
      if (entry.copy.cseq < cseq) this.#rollBack(entry, 'refused');
      else if (!isSame(entry, event)) this.#rollBack(entry, 'differs');
      else this.#end(entry, { state: this.#shown[0] === entry ? 'confirmed' : 'ordered', entry, seq });
    }
  }

  /** A snapshot has taken the place of events. @param {number} seq @param {number} now */
  synced(seq, now) {
    this.#seq = seq;
    this.#deafUntil = now + HOLD_MS;
    this.#rollBackAll('sync_required');
  }

  /** Ends what has been here for too long. @param {number} now */
  tick(now) {
    for (const entry of [...this.#entries.values()]) if (entry.until <= now) this.#rollBack(entry, 'timeout');
  }

  /** The room is left. */
  close() {
    this.#deafUntil = Infinity;
    this.#rollBackAll('left');
  }

  /** This page has sent a copy of its own: what comes behind it need not wait for it. @param {EventId} id */
  wrote({ origin, cseq }) {
    this.#lastOwn = { origin, cseq };
    remember(this.#own, origin, Math.max(cseq, this.#own.get(origin) ?? 0));
  }

  /** What the next copy of this page comes behind: at most so many, the newest first. @param {number} most @returns {EventId[]} */
  heads(most) {
    const own = this.#lastOwn && !this.#isCommitted(this.#lastOwn) ? [this.#lastOwn] : [];
    const shown = this.#shown.slice(-most).reverse();
    return [...own, ...shown.map(({ copy: { origin, cseq } }) => ({ origin, cseq }))].slice(0, most);
  }

  /** Shows whatever can be shown now, and what becomes showable by it. */
  release() {
    for (let goesOn = true; goesOn; ) {
      goesOn = false;
      for (const entry of this.#entries.values()) {
        if (entry.isShown || !this.#isReady(entry.copy)) continue;
        entry.isShown = goesOn = true;
        this.#shown.push(entry);
        this.counters.shown += 1;
        this.#told.push({ state: 'shown', entry });
      }
    }
  }

  /** @param {EventCopy} copy */
  #isReady({ after, parents }) {
    return after <= this.#seq && parents.every((id) => this.#isCommitted(id) || this.#isOwn(id) || this.#isShown(id));
  }

  /** @param {EventId} id */
  #isCommitted({ origin, cseq }) {
    return cseq <= (this.#committed.get(origin) ?? 0);
  }

  /** @param {EventId} id */
  #isOwn({ origin, cseq }) {
    return cseq <= (this.#own.get(origin) ?? 0);
  }

  /** @param {EventId} id */
  #isShown({ origin, cseq }) {
    return this.#shown.some(({ copy }) => copy.origin === origin && copy.cseq === cseq);
  }

  /** @param {string} key @param {number} cseq */
  #isNew(key, cseq) {
    const seen = this.#seen.get(key) ?? new Seen();
    remember(this.#seen, key, seen);
    return seen.add(cseq);
  }

  /** @param {string} code */
  #rollBackAll(code) {
    for (const entry of [...this.#entries.values()]) this.#rollBack(entry, code);
  }

  /** @param {Entry} entry @param {string} code */
  #rollBack(entry, code) {
    this.#end(entry, { state: 'rolledback', entry, code });
  }

  /** @param {Entry} entry @param {Exclude<Told, { state: 'shown' }>} told */
  #end(entry, told) {
    this.#entries.delete(entry.id);
    if (!entry.isShown) {
      this.counters.unshown += 1;
      return;
    }
    this.#shown = this.#shown.filter((other) => other !== entry);
    this.counters[told.state] += 1;
    this.#told.push(told);
  }
}

/** Whether the log says what the copy said. @param {Entry} entry @param {import('../record.js').EventRecord} event */
function isSame({ user, copy }, event) {
  const { kind, version, flags, target, body } = copy;
  const isAlike = user === event.user && kind === event.kind && version === event.version && flags === event.flags;
  if (!isAlike || target !== event.target || body.length !== event.body.length) return false;
  return body.every((byte, at) => byte === event.body[at]);
}

/** The last used are kept. @template T @param {Map<string, T>} map @param {string} key @param {T} value */
function remember(map, key, value) {
  map.delete(key);
  map.set(key, value);
  if (map.size > ORIGINS) map.delete(map.keys().next().value ?? '');
}
