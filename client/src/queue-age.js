/**
 * How long the oldest byte has been in a queue that tells only how many bytes it holds, as browsers' do. It is looked at
 * now and then, and an age is at most the time between two looks too small. Pure.
 */
import { Queue } from './queue.js';

export class QueueAge {
  #given = 0;
  #marked = 0;
  /** How many bytes had been given at a time, oldest first. @type {Queue<{ at: number, given: number }>} */
  #marks = new Queue();

  /** Bytes that have left the queue. @param {number} held bytes in it */
  gone(held) {
    return this.#given - held;
  }

  /** @param {number} bytes that went into the queue */
  given(bytes) {
    this.#given += bytes;
  }

  /**
   * Milliseconds; 0 for an empty queue.
   * @param {number} now
   * @param {number} held bytes in it
   */
  look(now, held) {
    if (this.#given > this.#marked) {
      this.#marks.push({ at: now, given: this.#given });
      this.#marked = this.#given;
    }
    const gone = this.#given - held;
    for (let mark = this.#marks.peek(); mark && mark.given <= gone; mark = this.#marks.peek()) this.#marks.shift();
    return now - (this.#marks.peek()?.at ?? now);
  }
}
