/**
 * Chunks back into messages. Pure. Holds only what has really arrived, never a buffer of the announced size, and at most
 * UNFINISHED_BYTES of it.
 */

import { Flag } from './frame.js';
import { LOG_MESSAGE_BYTES, UNFINISHED_BYTES } from './limits.js';

/**
 * @typedef {object} Assembled
 * @property {import('./frame.js').ReliableFrame} first the frame that began the message
 * @property {Uint8Array} payload
 */

export class Assembly {
  /** By kind, room, sender; then by stream.
   * @type {Map<string, Map<number, { first: import('./frame.js').ReliableFrame, parts: Uint8Array[], size: number }>>} */
  #open = new Map();
  #held = 0;

  /** @param {number} limit longest message, of data or control */
  constructor(limit) {
    this.limit = limit;
  }

  /**
   * Takes a frame that is next in order. Gives the message it completes; null while it does not; 'bad' when it
   * contradicts what came before, in which case the unfinished message of its stream is gone.
   * @param {import('./frame.js').ReliableFrame} frame
   * @returns {Assembled | null | 'bad'}
   */
  take(frame) {
    const key = `${frame.kind} ${frame.room} ${frame.sender}`;
    const streams = this.#open.get(key);
    const begun = streams?.get(frame.stream);
    const last = (frame.flags & Flag.LAST) !== 0;
    if (frame.flags & Flag.FIRST) {
      if (begun) this.#drop(key, frame.stream);
      if (last) return begun ? 'bad' : { first: frame, payload: frame.payload };
      const limit = frame.kind === 'log' ? LOG_MESSAGE_BYTES : this.limit;
      if (begun || (frame.total ?? 0) > limit || this.#held + frame.payload.length > UNFINISHED_BYTES) return 'bad';
      this.#held += frame.payload.length;
      const entry = { first: frame, parts: [frame.payload], size: frame.payload.length };
      if (streams) streams.set(frame.stream, entry);
      else this.#open.set(key, new Map([[frame.stream, entry]]));
      return null;
    }
    if (!begun) return 'bad';
    const total = begun.first.total ?? 0;
    begun.parts.push(frame.payload);
    begun.size += frame.payload.length;
    this.#held += frame.payload.length;
    if ((last ? begun.size !== total : begun.size >= total) || this.#held > UNFINISHED_BYTES) {
      this.#drop(key, frame.stream);
      return 'bad';
    }
    if (!last) return null;
    this.#drop(key, frame.stream);
    const payload = new Uint8Array(total);
    let at = 0;
    for (const part of begun.parts) {
      payload.set(part, at);
      at += part.length;
    }
    return { first: begun.first, payload };
  }

  /**
   * What is unfinished in a room, of one member, or on one stream, will not be finished.
   * @param {number} room
   * @param {number} [sender]
   * @param {number} [stream]
   */
  forget(room, sender, stream) {
    for (const [key, streams] of [...this.#open]) {
      const [kind, ofRoom, ofSender] = key.split(' ');
      if (kind !== 'data' || Number(ofRoom) !== room) continue;
      if (sender !== undefined && Number(ofSender) !== sender) continue;
      for (const of of [...streams.keys()]) if (stream === undefined || of === stream) this.#drop(key, of);
    }
  }

  /** @param {string} key @param {number} stream */
  #drop(key, stream) {
    const streams = this.#open.get(key);
    this.#held -= streams?.get(stream)?.size ?? 0;
    streams?.delete(stream);
    if (streams?.size === 0) this.#open.delete(key);
  }
}
