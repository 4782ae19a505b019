/**
 * Which chunk goes next on the reliable lane: control messages first, then messages of one chunk, stream by stream in
 * turn, then one chunk of a longer message per stream in turn. So a short message never waits behind a long one of
 * another stream, and a long one is not starved: after `BURST_BYTES` of short messages one long chunk goes.
 *
 * Order holds within a stream of a room: the messages of one stream queue behind each other, whatever their size.
 * Pure: no clock, no numbers of the lane (lane.js gives those).
 */

import { RELIABLE_HEADER_BYTES, Flag, targetBytes } from './frame.js';
import { CHUNK_BYTES, OPEN_MESSAGES } from './limits.js';
import { Queue } from './queue.js';

/** Bytes of short messages that may pass a waiting long one in a row. */
const BURST_BYTES = 65_536;

/**
 * @template [Tag=unknown]
 * @typedef {object} Message
 * @property {'data' | 'control'} kind
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
 * Bytes of all frames of a message, their lengths not counted. What the replay limit counts.
 * @param {Message<any>} message
 */
export function messageCost(message) {
  const chunks = Math.max(1, Math.ceil(message.payload.length / CHUNK_BYTES));
  const total = chunks > 1 ? 4 : 0;
  return chunks * RELIABLE_HEADER_BYTES + targetBytes(message.target) + total + message.payload.length;
}

export class Scheduler {
  /** @type {Stream} */
  #control = new Stream(-1);
  /** @type {Map<number, Stream>} */
  #streams = new Map();
  /** Streams whose next message has one chunk. @type {Queue<Stream>} */
  #small = new Queue();
  /** Streams in the middle of a long message, at most OPEN_MESSAGES. @type {Queue<Stream>} */
  #open = new Queue();
  /** Streams whose next message is long and has not begun. @type {Queue<Stream>} */
  #bulk = new Queue();
  #burst = 0;

  /** @param {Message<any>} message */
  push(message) {
    if (message.kind === 'control') {
      this.#control.messages.push(message);
      return;
    }
    const key = message.room * 65_536 + message.stream;
    let stream = this.#streams.get(key);
    if (stream) {
      stream.messages.push(message);
      return;
    }
    stream = new Stream(key);
    stream.messages.push(message);
    this.#streams.set(key, stream);
    this.#enqueue(stream);
  }

  /** Length of the frame that `take` would give, or undefined when nothing waits. */
  peekLength() {
    return this.#next()?.nextLength();
  }

  /** The next chunk. @returns {Chunk | undefined} */
  take() {
    const stream = this.#next();
    if (!stream) return undefined;
    if (stream === this.#control) return stream.take();
    const length = stream.nextLength();
    if (stream === this.#small.peek()) {
      this.#small.shift();
      this.#burst += length;
    } else {
      this.#burst = 0;
      if (stream === this.#open.peek()) this.#open.shift();
      else this.#bulk.shift();
    }
    const chunk = stream.take();
    if (stream.messages.length === 0) this.#streams.delete(stream.key);
    else this.#enqueue(stream);
    return chunk;
  }

  /** Whether data of a room still waits. @param {number} room */
  waitsFor(room) {
    for (const key of this.#streams.keys()) if (Math.floor(key / 65_536) === room) return true;
    return false;
  }

  /** All messages not wholly taken, each with whether some of it was. Control first, then by stream. */
  *messages() {
    for (const stream of [this.#control, ...this.#streams.values()]) {
      let begun = stream.offset > 0;
      for (const message of stream.messages) {
        yield { message, begun };
        begun = false;
      }
    }
  }

  /** @returns {Stream | undefined} */
  #next() {
    if (this.#control.messages.length > 0) return this.#control;
    const bulk = this.#open.length < OPEN_MESSAGES && this.#bulk.length > 0 ? this.#bulk.peek() : this.#open.peek();
    if (this.#small.length > 0 && (!bulk || this.#burst < BURST_BYTES)) return this.#small.peek();
    return bulk;
  }

  /** @param {Stream} stream with a message */
  #enqueue(stream) {
    if (stream.offset > 0) this.#open.push(stream);
    else if (stream.isLong()) this.#bulk.push(stream);
    else this.#small.push(stream);
  }
}

/** Messages of one stream and how much of the first is gone. */
class Stream {
  /** @type {Queue<Message<any>>} */
  messages = new Queue();
  offset = 0;

  /** @param {number} key */
  constructor(key) {
    this.key = key;
  }

  #first() {
    return /** @type {Message<any>} */ (this.messages.peek());
  }

  isLong() {
    return this.#first().payload.length > CHUNK_BYTES;
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
