/**
 * The leader's seat: a Web Lock of which the browser gives out one. A tab that follows waits in line for it; whoever the leader
 * names, or who finds it dead, takes it out of turn. Losing it is told.
 */

/**
 * @typedef {object} Sitter
 * @property {() => void} seated
 * @property {() => void} unseated another tab has taken it
 */

export class Seat {
  #surroundings;
  #name;
  #sitter;
  /** @type {(() => void) | null} */
  #release = null;
  /** Of the request that waits. @type {AbortController | null} */
  #waiting = null;
  #left = false;

  /**
   * @param {import('./surroundings.js').Surroundings} surroundings
   * @param {string} name
   * @param {Sitter} sitter
   */
  constructor(surroundings, name, sitter) {
    this.#surroundings = surroundings;
    this.#name = name;
    this.#sitter = sitter;
  }

  get taken() {
    return this.#release !== null;
  }

  /** Takes it if nobody has it or waits for it. */
  async tryNow() {
    if (!this.taken && !this.#left) await this.#ask({ ifAvailable: true });
  }

  /** Waits in line. */
  wait() {
    if (this.taken || this.#waiting || this.#left) return;
    const waiting = new AbortController();
    this.#waiting = waiting;
    const done = () => {
      if (this.#waiting === waiting) this.#waiting = null;
    };
    this.#ask({ signal: waiting.signal }, done).then(done, done);
  }

  stopWaiting() {
    this.#waiting?.abort();
    this.#waiting = null;
  }

  /** Takes it from whoever has it. */
  steal() {
    if (this.taken || this.#left) return;
    this.stopWaiting();
    this.#ask({ steal: true });
  }

  /** Gives it back, if it is taken. */
  stand() {
    const release = this.#release;
    this.#release = null;
    release?.();
  }

  /** For good: out of the line too. */
  leave() {
    this.#left = true;
    this.#waiting?.abort();
    this.stand();
  }

  /** @param {LockOptions} options @param {() => void} [granted] */
  async #ask(options, granted) {
    /** @type {(() => void) | null} */
    let mine = null;
    let isLost = false;
    const release = await this.#surroundings.hold(this.#name, options, () => {
      isLost = true;
      if (!mine || this.#release !== mine) return;
      this.#release = null;
      this.#sitter.unseated();
    });
    granted?.();
    if (!release || isLost) return;
    if (this.#left || this.#release) return release();
    mine = release;
    this.#release = release;
    this.stopWaiting();
    this.#sitter.seated();
  }
}
