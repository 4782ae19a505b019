/**
 * Lossy frames that wait for a pipe with room. Short on purpose: what is old is worth less than what is new, so the
 * oldest goes first when it is full.
 *
 * On a poor link there is a pace. Messages of one kind (room, stream and target) are then coalesced: the newest takes the
 * place of the one that waits, and one goes out per interval. The last is sent again after a while, as a message of its own,
 * because nothing else would set right what the network lost. Pure; `now` is an argument.
 *
 * What members get directly from each other (mesh/mesh.js) has the same numbers, so that whoever gets a message twice can tell.
 * It goes to them when it is pushed, and with a pace when it goes to the server.
 */
import { encodeFrame } from './frame.js';

const FRAMES = 64;
const BYTES = 65_536;
/** After that the last message of a kind is sent again. */
const REPEAT_MS = 1_000;
/** Reliable messages may keep lossy ones away for so long; then one goes between them. */
const STARVED_MS = 2_000;
/** Kinds whose last time is remembered. */
const KINDS = 256;

/**
 * @typedef {Omit<import('./frame.js').LossyFrame, 'kind' | 'sender' | 'seq'>} LossyMessage
 *
 * @typedef {object} Entry
 * @property {LossyMessage} message
 * @property {string | null} kind of messages that replace each other; null where they do not, or there is no pace yet
 * @property {boolean} coalesce
 * @property {boolean} again whether it was sent before
 * @property {boolean} isShared whether those who are reached directly have it, with this number
 * @property {number} seq
 * @property {Uint8Array} frame
 */

export class LossyQueue {
  /** Oldest first. @type {Entry[]} */
  #entries = [];
  #bytes = 0;
  #paceMs = 0;
  /** Last seq given, by room handle and stream. @type {Map<number, number>} */
  #seqs = new Map();
  /** When one of a kind may go next. @type {Map<string, number>} */
  #allowedAt = new Map();
  /** What was sent last of a kind, and when it goes again. @type {Map<string, { message: LossyMessage, at: number }>} */
  #repeats = new Map();
  #sentAt = -Infinity;
  #share;
  /** Frames given up since the beginning. */
  dropped = 0;
  /** Messages replaced by newer ones. */
  coalesced = 0;

  /** @param {(message: LossyMessage, seq: number) => void} [share] gives a message that goes to those who are reached directly */
  constructor(share = () => {}) {
    this.#share = share;
  }

  get length() {
    return this.#entries.length;
  }

  /** Whether another frame may push one out. */
  get full() {
    return this.#entries.length >= FRAMES || this.#bytes >= BYTES / 2;
  }

  /** Milliseconds between messages of one kind; 0: all go at once. */
  get paceMs() {
    return this.#paceMs;
  }

  /** @param {number} paceMs */
  set paceMs(paceMs) {
    const begins = this.#paceMs === 0 && paceMs > 0;
    this.#paceMs = paceMs;
    if (begins) this.#coalesceAll();
    if (paceMs === 0) this.#allowedAt.clear();
  }

  /** The next number of a stream. @param {number} room its handle @param {number} stream */
  number(room, stream) {
    const key = room * 65_536 + stream;
    const seq = ((this.#seqs.get(key) ?? 0) + 1) >>> 0;
    this.#seqs.set(key, seq);
    return seq;
  }

  /**
   * @param {LossyMessage} message
   * @param {object} [options]
   * @param {boolean} [options.coalesce] false: no other message of its kind takes its place
   * @param {number} [options.seq] with which it went to those who are reached directly
   */
  push(message, { coalesce = true, seq } = {}) {
    const kind = coalesce && this.#paceMs > 0 ? kindOf(message) : null;
    if (kind !== null) this.#repeats.delete(kind);
    const older = kind === null ? undefined : this.#entries.find((entry) => entry.kind === kind);
    if (older) {
      this.coalesced += 1;
      this.#bytes -= older.frame.length;
      // Where the number was not used nobody misses the message that had it.
      const number = seq ?? (older.isShared ? this.number(message.room, message.stream) : older.seq);
      const isShared = seq !== undefined;
      Object.assign(older, { message, again: false, isShared, seq: number, frame: encode(message, number) });
      this.#bytes += older.frame.length;
    } else {
      this.#add({ message, kind, coalesce, again: false, isShared: seq !== undefined }, seq);
    }
    while (this.#entries.length > FRAMES || this.#bytes > BYTES) this.#drop();
  }

  /**
   * The oldest that is due, if it has at most `room` bytes. On a poor link none while reliable messages have work for
   * the pipe.
   * @param {number} room
   * @param {number} now
   * @param {boolean} isBusy
   */
  next(room, now, isBusy) {
    if (this.#paceMs > 0 && isBusy && now - this.#sentAt < STARVED_MS) return null;
    this.#repeat(now);
    const at = this.#entries.findIndex((entry) => this.#dueAt(entry) <= now);
    const entry = this.#entries[at];
    if (!entry || entry.frame.length > room) return null;
    this.#entries.splice(at, 1);
    this.#bytes -= entry.frame.length;
    this.#sentAt = now;
    if (entry.kind !== null && this.#paceMs > 0) this.#sent(entry, entry.kind, now);
    if (!entry.isShared) this.#share(entry.message, entry.seq);
    return entry.frame;
  }

  /** When `next` may have something; null if never. @returns {number | null} */
  get dueAt() {
    let due = Infinity;
    for (const entry of this.#entries) due = Math.min(due, this.#dueAt(entry));
    for (const { at } of this.#repeats.values()) due = Math.min(due, at);
    return due === Infinity ? null : due;
  }

  /** Gives all of it up, numbers included: the session is another. */
  clear() {
    while (this.#entries.length > 0) this.#drop();
    this.#seqs.clear();
    this.#allowedAt.clear();
    this.#repeats.clear();
  }

  /** @param {Omit<Entry, 'seq' | 'frame'>} entry @param {number} [seq] */
  #add(entry, seq = this.number(entry.message.room, entry.message.stream)) {
    const frame = encode(entry.message, seq);
    this.#entries.push({ ...entry, seq, frame });
    this.#bytes += frame.length;
  }

  /** @param {Entry} entry */
  #dueAt({ kind }) {
    return kind === null || this.#paceMs === 0 ? -Infinity : (this.#allowedAt.get(kind) ?? -Infinity);
  }

  /** @param {Entry} entry @param {string} kind @param {number} now */
  #sent({ message, again }, kind, now) {
    remember(this.#allowedAt, kind, now + this.#paceMs);
    if (!again) remember(this.#repeats, kind, { message, at: now + Math.max(REPEAT_MS, this.#paceMs) });
  }

  /** What was sent last takes its place in line again. @param {number} now */
  #repeat(now) {
    for (const [kind, { message, at }] of this.#repeats) {
      if (at > now) continue;
      this.#repeats.delete(kind);
      this.#add({ message, kind, coalesce: true, again: true, isShared: false });
    }
  }

  /** The pace begins: of what waits already the newest of each kind is enough. */
  #coalesceAll() {
    /** @type {Map<string, Entry>} */
    const newest = new Map();
    for (const entry of this.#entries) {
      if (!entry.coalesce) continue;
      entry.kind = kindOf(entry.message);
      newest.set(entry.kind, entry);
    }
    const kept = this.#entries.filter((entry) => entry.kind === null || newest.get(entry.kind) === entry);
    this.coalesced += this.#entries.length - kept.length;
    this.#entries = kept;
    this.#bytes = kept.reduce((sum, { frame }) => sum + frame.length, 0);
  }

  #drop() {
    this.#bytes -= this.#entries.shift()?.frame.length ?? 0;
    this.dropped += 1;
  }
}

/** @param {LossyMessage} message @param {number} seq */
function encode(message, seq) {
  return encodeFrame({ kind: 'lossy', sender: 0, seq, ...message });
}

/** @param {LossyMessage} message */
function kindOf({ room, stream, target }) {
  return JSON.stringify([room, stream, target]);
}

/**
 * @template T
 * @param {Map<string, T>} map
 * @param {string} kind
 * @param {T} value
 */
function remember(map, kind, value) {
  map.delete(kind);
  map.set(kind, value);
  if (map.size > KINDS) map.delete(map.keys().next().value ?? '');
}
