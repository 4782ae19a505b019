/** So many at once, then so many a second. */
export class Bucket {
  #most;
  #perSecond;
  #left;
  #at;

  /** @param {number} most @param {number} perSecond @param {number} now */
  constructor(most, perSecond, now) {
    this.#most = this.#left = most;
    this.#perSecond = perSecond;
    this.#at = now;
  }

  /** @param {number} now */
  take(now) {
    this.#left = Math.min(this.#most, this.#left + ((now - this.#at) / 1_000) * this.#perSecond);
    this.#at = now;
    if (this.#left < 1) return false;
    this.#left -= 1;
    return true;
  }
}
