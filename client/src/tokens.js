/** Tokens of rooms: asks the application for them, and remembers which the server has taken. */

import { Backoff } from './backoff.js';
import { SwitchyardError } from './errors.js';

/** How soon a token is asked for again, doubling. */
const TOKEN_MS = 1_000;
const TOKEN_MOST_MS = 15_000;

/** @typedef {import('./room.js').Room} Room */

export class Tokens {
  #env;
  #getToken;
  #isLeft;
  #signal;
  /** As last accepted. @type {WeakMap<Room, string>} */
  #accepted = new WeakMap();

  /**
   * @param {import('./environment.js').Environment} env
   * @param {((room: string) => string | Promise<string>) | undefined} getToken
   * @param {{ isLeft: (room: Room) => boolean, signal: AbortSignal }} session `signal`: it is over
   */
  constructor(env, getToken, { isLeft, signal }) {
    this.#env = env;
    this.#getToken = getToken;
    this.#isLeft = isLeft;
    this.#signal = signal;
  }

  /** The server has taken this one. @param {Room} room @param {string} token */
  accepted(room, token) {
    this.#accepted.set(room, token);
  }

  /** The last one that the server has taken. @param {Room} room */
  last(room) {
    return this.#accepted.get(room);
  }

  /** @param {string} room */
  async fresh(room) {
    if (!this.#getToken) throw new SwitchyardError('bad_argument', 'no token, and no getToken to ask for one');
    return this.#getToken(room);
  }

  /**
   * A fresh one, asked for again and again while asking fails: only a SwitchyardError is an answer.
   * @param {Room} room
   * @returns {Promise<string>}
   */
  async patient(room) {
    const backoff = new Backoff({ least: TOKEN_MS / 4, first: TOKEN_MS, most: TOKEN_MOST_MS, random: this.#env.random });
    for (;;) {
      try {
        return await this.fresh(room.name);
      } catch (error) {
        if (error instanceof SwitchyardError) throw error;
      }
      await new Promise((resolve) => {
        this.#env.setTimeout(() => resolve(undefined), backoff.next());
        globalThis.addEventListener?.('online', resolve, { once: true, signal: this.#signal });
      });
      if (this.#isLeft(room)) throw new SwitchyardError('left', 'the room was left');
    }
  }

  /** For a room whose session was lost: a fresh one if there is a way to get it. @param {Room} room */
  anew(room) {
    return this.#getToken ? this.patient(room) : this.last(room);
  }
}
