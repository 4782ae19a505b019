/**
 * A first-in first-out queue whose `shift` costs the same however long it is.
 * @template T
 */
export class Queue {
  /** @type {(T | undefined)[]} */
  #items = [];
  #head = 0;

  /** How many items wait. */
  get length() {
    return this.#items.length - this.#head;
  }

  /** @param {T} item */
  push(item) {
    this.#items.push(item);
  }

  /** The oldest item, which stays. @returns {T | undefined} */
  peek() {
    return this.#items[this.#head];
  }

  /** Item at `index`, counted from the oldest. @param {number} index @returns {T | undefined} */
  at(index) {
    return this.#items[this.#head + index];
  }

  /** Takes the oldest item. @returns {T | undefined} */
  shift() {
    if (this.length === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head += 1;
    if (this.#head >= 64 && this.#head * 2 >= this.#items.length) {
      this.#items.splice(0, this.#head);
      this.#head = 0;
    }
    return item;
  }

  /** @returns {Generator<T>} */
  *[Symbol.iterator]() {
    for (let i = this.#head; i < this.#items.length; i += 1) yield /** @type {T} */ (this.#items[i]);
  }
}
