/** Exponential backoff with full jitter: each delay is random between `least` and a bound that doubles. Pure. */
export class Backoff {
  #attempt = 0;
  #least;
  #first;
  #most;
  #random;

  /** @param {{ least?: number, first: number, most: number, random: () => number }} options milliseconds */
  constructor({ least = 0, first, most, random }) {
    this.#least = least;
    this.#first = first;
    this.#most = most;
    this.#random = random;
  }

  /** How long to wait before the next attempt. */
  next() {
    const bound = Math.min(this.#most, this.#first * 2 ** Math.min(this.#attempt, 30));
    this.#attempt += 1;
    return this.#least + this.#random() * Math.max(0, bound - this.#least);
  }

  /** An attempt was good. */
  reset() {
    this.#attempt = 0;
  }
}
