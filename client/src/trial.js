/**
 * A channel that was suspected and left has to prove itself before it is used again: it must have answered for a while
 * without a new suspicion. How long, doubles with each suspicion that proves false, so that a path that comes and goes
 * is not followed every time. Pure.
 */

const HOLD_MS = 1_000;
const HOLD_MOST_MS = 60_000;
/** So long without a false suspicion takes a doubling back. */
const FORGET_MS = 60_000;
/** Answers that a proof has at least. */
const ANSWERS = 4;
/** Probes in a hold, which is their pace while they are answered. */
const PROBES_PER_HOLD = 8;
const PROBE_MOST_MS = 1_000;

/** How long channels have to prove themselves. */
export class Hold {
  #doublings = 0;
  #since = -Infinity;

  /** @param {number} now */
  ms(now) {
    this.#forget(now);
    return Math.min(HOLD_MOST_MS, HOLD_MS * 2 ** this.#doublings);
  }

  /** A suspicion was false: the channel has proven itself. @param {number} now */
  falseAlarm(now) {
    this.#forget(now);
    this.#since = now;
    if (HOLD_MS * 2 ** this.#doublings < HOLD_MOST_MS) this.#doublings += 1;
  }

  /** @param {number} now */
  #forget(now) {
    while (this.#doublings > 0 && now - this.#since >= FORGET_MS) {
      this.#doublings -= 1;
      this.#since += FORGET_MS;
    }
  }
}

export class Trial {
  #holdMs;
  /** Since when it has answered without a suspicion. @type {number | null} */
  #goodSince = null;
  #answers = 0;
  #isOrdered = false;
  #probedAt = -Infinity;

  /** @param {number} now @param {number} holdMs */
  constructor(now, holdMs) {
    this.began = now;
    this.#holdMs = holdMs;
  }

  /** @param {number} now @param {boolean} isOrdered over the ordered channel, which may have long pauses between its retries */
  answered(now, isOrdered) {
    this.#goodSince ??= now;
    this.#answers += 1;
    this.#isOrdered ||= isOrdered;
  }

  /** Suspected again. */
  failed() {
    this.#goodSince = null;
    this.#answers = 0;
    this.#isOrdered = false;
  }

  /** @param {number} now */
  probed(now) {
    this.#probedAt = now;
  }

  /** When a probe is due, while it answers. While it does not, suspicion.js says. */
  get probeAt() {
    if (this.#goodSince === null) return Infinity;
    return this.#probedAt + Math.min(PROBE_MOST_MS, this.#holdMs / PROBES_PER_HOLD);
  }

  /** Whether the ordered channel is still to answer. */
  get wantsOrdered() {
    return this.#goodSince !== null && !this.#isOrdered;
  }

  /** @param {number} now */
  isProven(now) {
    return this.#goodSince !== null && this.#isOrdered && this.#answers >= ANSWERS && now - this.#goodSince >= this.#holdMs;
  }
}
