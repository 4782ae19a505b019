/** Timers by what they are for: one of a name at a time. */
export class Timers {
  #env;
  /** @type {Map<string, unknown>} */
  #timers = new Map();

  /** @param {import('./environment.js').Environment} env */
  constructor(env) {
    this.#env = env;
  }

  /** In place of another of that name. @param {string} name @param {number} ms @param {() => void} call */
  after(name, ms, call) {
    this.cancel(name);
    const timer = this.#env.setTimeout(() => {
      this.#timers.delete(name);
      call();
    }, ms);
    this.#timers.set(name, timer);
  }

  /** @param {string} name */
  has(name) {
    return this.#timers.has(name);
  }

  /** @param {string} name */
  cancel(name) {
    const timer = this.#timers.get(name);
    if (timer === undefined) return;
    this.#timers.delete(name);
    this.#env.clearTimeout(timer);
  }

  cancelAll() {
    for (const name of [...this.#timers.keys()]) this.cancel(name);
  }
}
