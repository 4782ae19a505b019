/**
 * Which chunk goes next on the reliable lane: control messages first, then messages of one chunk in the order they
 * came, between them, for every 16 KiB of those, one chunk of the longer messages, stream by stream in turn. A message
 * never overtakes another of its stream: what follows a long one waits in line behind it.
 *
 * Pure: no clock, no numbers of the lane (lane.js gives those). The order is that of `signaling/src/lane.rs`.
 */

import { RELIABLE_HEADER_BYTES, Flag, targetBytes } from './frame.js';
import { CHUNK_BYTES, OPEN_MESSAGES, OVERHEAD_BYTES } from './limits.js';
import { Queue } from './queue.js';

/**
 * @template [Tag=unknown]
 * @typedef {object} Message
 * @property {import('./frame.js').ReliableKind} kind
 * @property {number} room handle
 * @property {number} stream
 * @property {boolean} text
 * @property {import('./frame.js').Target} target
 * @property {Uint8Array} payload
 * @property {Tag} [tag] the owner's; handed back when the message is acknowledged or lost
 */

/**
 * @typedef {object} Chunk
 * @property {Message<any>} message
 * @property {number} flags
 * @property {number} [total]
 * @property {Uint8Array} payload
 */

/**
 * @typedef {{ messages: Message<any>[], offset: number }} LineState messages in line, and how much of the first is gone
 *
 * @typedef {object} SchedulerState
 * @property {LineState} control
 * @property {LineState} small
 * @property {(LineState & { key: number })[]} bulk
 * @property {number[]} turns
 * @property {number[]} later
 * @property {number} sinceBulk
 */

/**
 * What a waiting message counts towards the replay limit.
 * @param {Message<any>} message
 */
export function messageCost(message) {
  return message.payload.length + OVERHEAD_BYTES;
}

export class Scheduler {
  #control = new Line();
  /** Messages of one chunk, in the order they came, unless they are behind a longer one of their stream. */
  #small = new Line();
  /** How many messages of a stream are in `#small`. @type {Map<number, number>} */
  #smallOf = new Map();
  /** Streams with a longer message, and what came after it. @type {Map<number, Line>} */
  #bulk = new Map();
  /** The OPEN_MESSAGES streams of `#bulk` that take turns, whose turn is next first. @type {Queue<number>} */
  #turns = new Queue();
  /** The other streams of `#bulk`: so few messages are begun and not finished. @type {Queue<number>} */
  #later = new Queue();
  #sinceBulk = 0;

  /** @param {Message<any>} message */
  push(message) {
    if (message.kind === 'control') {
      this.#control.messages.push(message);
      return;
    }
    const key = keyOf(message);
    const line = this.#bulk.get(key);
    if (line) {
      line.messages.push(message);
    } else if (message.payload.length <= CHUNK_BYTES) {
      this.#small.messages.push(message);
      this.#smallOf.set(key, (this.#smallOf.get(key) ?? 0) + 1);
    } else {
      const begun = new Line();
      begun.messages.push(message);
      this.#bulk.set(key, begun);
      this.#later.push(key);
      this.#admit();
    }
  }

  /** Length of the frame that `take` would give, or undefined when nothing waits. */
  peekLength() {
    return this.#next()?.nextLength();
  }

  /** The next chunk. @returns {Chunk | undefined} */
  take() {
    const line = this.#next();
    const chunk = line?.take();
    if (!line || !chunk || line === this.#control) return chunk;
    const key = keyOf(chunk.message);
    if (line === this.#small) {
      this.#sinceBulk += chunk.payload.length + OVERHEAD_BYTES;
      const left = (this.#smallOf.get(key) ?? 1) - 1;
      if (left > 0) this.#smallOf.set(key, left);
      else this.#smallOf.delete(key);
      return chunk;
    }
    this.#sinceBulk = 0;
    this.#turns.shift();
    if (line.offset > 0) this.#turns.push(key);
    else if (line.messages.length > 0) this.#later.push(key);
    else this.#bulk.delete(key);
    this.#admit();
    return chunk;
  }

  /** Whether data or records of a room still wait. @param {number} room */
  waitsFor(room) {
    for (const keys of [this.#smallOf.keys(), this.#bulk.keys()]) {
      for (const key of keys) if (Math.floor(key / ROOM_KEYS) === room) return true;
    }
    return false;
  }

  /** All messages not wholly taken, each with whether some of it was; within a stream in its order. */
  *messages() {
    for (const line of [this.#control, this.#small, ...this.#bulk.values()]) {
      let begun = line.offset > 0;
      for (const message of line.messages) {
        yield { message, begun };
        begun = false;
      }
    }
  }

  /** What waits, and whose turn is next: the same order in another tab. @returns {SchedulerState} */
  state() {
    return {
      control: this.#control.state(),
      small: this.#small.state(),
      bulk: [...this.#bulk].map(([key, line]) => ({ key, ...line.state() })),
      turns: [...this.#turns],
      later: [...this.#later],
      sinceBulk: this.#sinceBulk,
    };
  }

  /** Takes over a state; gives the bytes that wait, as they count. @param {SchedulerState} state */
  restore({ control, small, bulk, turns, later, sinceBulk }) {
    this.#control = Line.from(control);
    this.#small = Line.from(small);
    for (const message of small.messages) this.#smallOf.set(keyOf(message), (this.#smallOf.get(keyOf(message)) ?? 0) + 1);
    this.#bulk = new Map(bulk.map(({ key, ...line }) => [key, Line.from(line)]));
    turns.forEach((key) => this.#turns.push(key));
    later.forEach((key) => this.#later.push(key));
    this.#sinceBulk = sinceBulk;
    let bytes = 0;
    for (const { messages, offset } of [control, small, ...bulk]) {
      bytes -= offset;
      for (const message of messages) bytes += messageCost(message);
    }
    return bytes;
  }

  /** @returns {Line | undefined} */
  #next() {
    if (this.#control.messages.length > 0) return this.#control;
    const small = this.#small.messages.length > 0 ? this.#small : undefined;
    if (small && this.#sinceBulk < CHUNK_BYTES) return small;
    const key = this.#turns.peek();
    // A long message is not to overtake the short ones before it in its stream.
    return key === undefined || this.#smallOf.has(key) ? small : this.#bulk.get(key);
  }

  #admit() {
    while (this.#turns.length < OPEN_MESSAGES) {
      const key = this.#later.shift();
      if (key === undefined) return;
      this.#turns.push(key);
    }
  }
}

/** A room has a key for each stream of data, and as many for its log, which has an order of its own. */
const ROOM_KEYS = 131_072;

/** @param {Message<any>} message */
function keyOf(message) {
  return message.room * ROOM_KEYS + (message.kind === 'log' ? 65_536 : 0) + message.stream;
}

/** Messages in line, and how much of the first is gone. */
class Line {
  /** @type {Queue<Message<any>>} */
  messages = new Queue();
  offset = 0;

  /** @param {LineState} state */
  static from({ messages, offset }) {
    const line = new Line();
    messages.forEach((message) => line.messages.push(message));
    line.offset = offset;
    return line;
  }

  /** @returns {LineState} */
  state() {
    return { messages: [...this.messages], offset: this.offset };
  }

  #first() {
    return /** @type {Message<any>} */ (this.messages.peek());
  }

  nextLength() {
    const { payload, target } = this.#first();
    const chunk = Math.min(CHUNK_BYTES, payload.length - this.offset);
    const first = this.offset === 0 ? targetBytes(target) + (payload.length > CHUNK_BYTES ? 4 : 0) : 0;
    return RELIABLE_HEADER_BYTES + first + chunk;
  }

  /** @returns {Chunk} */
  take() {
    const message = this.#first();
    const from = this.offset;
    const to = Math.min(from + CHUNK_BYTES, message.payload.length);
    const first = from === 0;
    const last = to === message.payload.length;
    const flags = (message.text ? Flag.TEXT : 0) | (first ? Flag.FIRST : 0) | (last ? Flag.LAST : 0);
    this.offset = last ? 0 : to;
    if (last) this.messages.shift();
    /** @type {Chunk} */
    const chunk = { message, flags, payload: message.payload.subarray(from, to) };
    if (first && !last) chunk.total = message.payload.length;
    return chunk;
  }
}
