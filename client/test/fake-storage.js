// A browser profile whose storage and locks outlive its pages, and pages that can be killed at any moment: their timers do
// not run any more, their sockets break, their locks fall, and a transaction under way is done or not, as chance has it.

import { MemoryStore } from '../src/store.js';

export class Profile {
  store = new MemoryStore();
  /** Name to page. */
  locks = new Map();
  /** Name to those who wait. */
  waiting = new Map();
  /** Milliseconds that a transaction takes. */
  delay = 2;
  freeAt = 0;
  /** What transactions fail with. */
  failure = null;

  constructor() {
    this.store.durable = true;
  }
}

export class Page {
  alive = true;
  sockets = [];
  #world;
  #profile;

  constructor(world, profile) {
    this.#world = world;
    this.#profile = profile;
  }

  kill() {
    this.alive = false;
    for (const [name, page] of this.#profile?.locks ?? []) if (page === this) this.#release(name);
    for (const socket of this.sockets) {
      socket.onmessage = null;
      socket.onclose = null;
      socket.drop(1006);
    }
  }

  async storage() {
    const profile = this.#profile;
    if (!profile) return null;
    const method = (name) => [name, (...args) => this.#transact(() => profile.store[name](...args))];
    const store = Object.fromEntries(['list', 'waiting', 'claim', 'put', 'remove', 'move', 'drop'].map(method));
    return { store: { ...store, durable: true }, locks: { hold: (name) => this.#hold(name), wait: (name) => this.#wait(name) } };
  }

  #transact(act) {
    const { clock, random } = this.#world;
    const profile = this.#profile;
    return new Promise((resolve, reject) => {
      // One after the other, also those of different pages.
      profile.freeAt = Math.max(profile.freeAt, clock.now) + profile.delay * random();
      clock.setTimeout(() => {
        if (this.alive && profile.failure) reject(profile.failure);
        else if (this.alive) act().then(resolve, reject);
        // Its page is gone, and it may have been too late to stop it.
        else if (random() < 0.5) act().catch(() => {});
      }, profile.freeAt - clock.now);
    });
  }

  #hold(name) {
    const { locks } = this.#profile;
    if (!this.alive) return new Promise(() => {});
    if (locks.has(name)) return Promise.resolve(null);
    locks.set(name, this);
    return Promise.resolve(() => this.#release(name));
  }

  #wait(name) {
    const { waiting } = this.#profile;
    return new Promise((grant) => waiting.set(name, [...(waiting.get(name) ?? []), { page: this, grant }]));
  }

  #release(name) {
    const { locks, waiting } = this.#profile;
    if (locks.get(name) !== this) return;
    locks.delete(name);
    const next = (waiting.get(name) ?? []).filter(({ page }) => page.alive);
    const [first] = next;
    waiting.set(name, next.slice(1));
    if (!first) return;
    locks.set(name, first.page);
    first.grant(() => first.page.#release(name));
  }
}
