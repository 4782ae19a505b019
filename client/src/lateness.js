/**
 * How much later than expected answers come: mean and variation, as TCP keeps those of round trips (RFC 6298, section 2).
 * Whoever doubts a path because nothing comes waits for as long as that happens anyway. Pure.
 */

/** What comes this soon after a sample came with it. */
const BUNCH_MS = 10;
/** The path was away then, which says nothing of how it is. */
const MOST_MS = 400;

/** Forgets a long silence within some twenty answers. */
export class Lateness {
  #mean = 0;
  #variation = 0;
  #sampledAt = -Infinity;

  /** Something has come that was expected then. @param {number} expectedAt @param {number} now */
  came(expectedAt, now) {
    if (now < this.#sampledAt + BUNCH_MS) return;
    this.#sampledAt = now;
    const late = Math.min(MOST_MS, Math.max(0, now - expectedAt));
    this.#variation += (Math.abs(this.#mean - late) - this.#variation) / 4;
    this.#mean += (late - this.#mean) / 8;
  }

  /** What is later than that is so for a reason; milliseconds. */
  get bound() {
    return Math.min(MOST_MS, this.#mean + 4 * this.#variation);
  }
}
