/** Joins that the server has not answered yet: each goes out on every new connection until it is answered, the offer with the first. */

import { SwitchyardError } from './errors.js';

const ANSWER_MS = 10_000;

/**
 * @typedef {import('./room.js').Room} Room
 * @typedef {{ pc: number, sdp: string }} Offer
 *
 * @typedef {object} Join
 * @property {number} id
 * @property {Room} room
 * @property {string | undefined} token
 * @property {string | null} signingKey to be certified
 * @property {boolean} refresh
 * @property {boolean} sent on the current socket
 * @property {boolean} offer whether the offer went with it
 * @property {unknown} timer
 * @property {() => void} resolve
 * @property {(error: SwitchyardError) => void} reject
 *
 * @typedef {object} JoinLink what takes them
 * @property {boolean} takesJoins whether the server takes one now
 * @property {(message: Record<string, unknown>) => void} sendText
 * @property {() => void} offerRefused the offer that went with one is not spent
 */

export class Joins {
  #env;
  #link;
  /** By id. @type {Map<number, Join>} */
  #joins = new Map();

  /** @param {import('./environment.js').Environment} env @param {() => JoinLink} link */
  constructor(env, link) {
    this.#env = env;
    this.#link = link;
  }

  get size() {
    return this.#joins.size;
  }

  /** @param {unknown} id */
  get(id) {
    return typeof id === 'number' ? this.#joins.get(id) : undefined;
  }

  /**
   * Another one, to be sent by `send`. Resolves when it has been answered.
   * @param {{ id: number, room: Room, token: string | undefined, signingKey: string | null, refresh: boolean }} join
   * @returns {Promise<void>}
   */
  add(join) {
    return new Promise((resolve, reject) => {
      this.#joins.set(join.id, { ...join, sent: false, offer: false, timer: null, resolve, reject });
    });
  }

  /** All that wait; the offer goes with the first. @param {Offer | null} offer */
  send(offer) {
    let left = offer;
    for (const join of this.#joins.values()) {
      if (join.sent) continue;
      this.#send(join, left);
      left = null;
    }
    // Nothing to join yet: the offer is not spent.
    if (left) this.#link().offerRefused();
  }

  /** The same on a new connection, which knows nothing of those that were sent before. @param {Offer | null} offer */
  sendAnew(offer) {
    for (const join of this.#joins.values()) join.sent = false;
    this.send(offer);
  }

  /** One is answered: it waits no longer. Whoever takes it resolves it. @param {Join} join */
  take(join) {
    this.#joins.delete(join.id);
    this.#env.clearTimeout(join.timer);
  }

  /**
   * @param {Join} join
   * @param {SwitchyardError} error
   * @param {{ offerStands?: boolean }} [options] `offerStands`: the server has taken the offer that came with it
   */
  fail(join, error, { offerStands = false } = {}) {
    if (this.#joins.get(join.id) !== join) return;
    this.take(join);
    if (join.offer && !offerStands) this.#link().offerRefused();
    join.reject(error);
  }

  /** Those of which this is true. @param {SwitchyardError} error @param {(join: Join) => boolean} [which] all by default */
  failAll(error, which = () => true) {
    for (const join of [...this.#joins.values()]) if (which(join)) this.fail(join, error);
  }

  /** @param {Join} join @param {Offer | null} offer */
  #send(join, offer) {
    join.sent = true;
    join.offer = offer !== null;
    this.#env.clearTimeout(join.timer);
    join.timer = this.#env.setTimeout(() => {
      // Without a connection it is sent again when there is one.
      if (this.#link().takesJoins) this.fail(join, new SwitchyardError('join_timeout', 'the server did not answer'));
    }, ANSWER_MS);
    /** @type {Record<string, unknown>} */
    const message = { type: 'join', id: join.id, room: join.room.name, token: join.token };
    const { logOrNull: log } = join.room;
    if (log && !join.refresh) message.follow = log.follow;
    if (join.signingKey) message.signing_key = join.signingKey;
    if (offer) message.offer = offer;
    this.#link().sendText(message);
  }
}
