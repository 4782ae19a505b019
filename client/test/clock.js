// Time that passes only when a test says so.

export class Clock {
  now = 0;
  #timers = [];
  #next = 1;

  setTimeout(call, ms) {
    const timer = { id: this.#next++, at: this.now + Math.max(0, ms), call };
    this.#timers.push(timer);
    return timer;
  }

  clearTimeout(timer) {
    this.#timers = this.#timers.filter((other) => other !== timer);
  }

  /** Runs everything that falls due within `ms`, in order, promises included. */
  async advance(ms) {
    const end = this.now + ms;
    for (;;) {
      await settle();
      let first;
      for (const timer of this.#timers) {
        if (timer.at <= end && (!first || timer.at < first.at || (timer.at === first.at && timer.id < first.id))) first = timer;
      }
      if (!first) break;
      this.clearTimeout(first);
      this.now = Math.max(this.now, first.at);
      first.call();
    }
    this.now = end;
    await settle();
  }

  /** Advances until `condition` holds, at most `ms`. Gives how long it took. */
  async until(condition, ms = 30_000) {
    const start = this.now;
    await settle();
    while (!condition()) {
      if (this.now - start >= ms) throw new Error(`not within ${ms} ms: ${condition}`);
      await this.advance(10);
    }
    return this.now - start;
  }
}

/** Lets every promise that can settle do so. */
function settle() {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Small seeded random numbers (mulberry32). */
export function seeded(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}
