/**
 * Lossy frames that wait for a pipe with room. Short on purpose: what is old is worth less than what is new, so the
 * oldest goes first when it is full. Pure.
 */
import { Queue } from './queue.js';

const FRAMES = 64;
const BYTES = 65_536;

export class LossyQueue {
  /** @type {Queue<Uint8Array>} */
  #frames = new Queue();
  #bytes = 0;
  /** Frames given up since the beginning. */
  dropped = 0;

  get length() {
    return this.#frames.length;
  }

  /** Whether another frame may push one out. */
  get full() {
    return this.#frames.length >= FRAMES || this.#bytes >= BYTES / 2;
  }

  /** @param {Uint8Array} frame */
  push(frame) {
    this.#frames.push(frame);
    this.#bytes += frame.length;
    while (this.#frames.length > FRAMES || this.#bytes > BYTES) this.#drop();
  }

  /** The oldest if it has at most `room` bytes. @param {number} room */
  next(room) {
    const frame = this.#frames.peek();
    if (!frame || frame.length > room) return null;
    this.#frames.shift();
    this.#bytes -= frame.length;
    return frame;
  }

  /** Gives all of it up. */
  clear() {
    while (this.#frames.length > 0) this.#drop();
  }

  #drop() {
    this.#bytes -= this.#frames.shift()?.length ?? 0;
    this.dropped += 1;
  }
}
