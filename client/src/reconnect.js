/**
 * How long an attempt to open a WebSocket may take, and how long to wait before the next. Pure.
 *
 * Who gets no answer at all is most likely on a network that is away, and loses what the network's own retries wait:
 * TCP asks a second time after one second, then after two, four, eight. So a silent attempt is soon given up. The next
 * comes when somebody has found the network back (sockets.js asks), or after some seconds: not at once, for Firefox makes
 * WebSockets to where others have failed wait, half as long again after each.
 *
 * A WebSocket that hangs although HTTP is answered is replaced, a few times: Firefox keeps what it began in silence and may give a
 * new WebSocket a connection of those, on which TCP asks again after many seconds. Where that goes on it is something else, such
 * as a proxy that answers for the server.
 *
 * Who is refused is at a server that is in trouble or being restarted, or the machine's own link is down: a page cannot
 * tell. After a few quick attempts much the same is done as in silence. Past half a minute, or where HTTP is answered and the
 * WebSocket is refused, it waits longer each time, at random, and nobody asks: a server that has been away for so long and
 * comes back is not run over.
 */

import { Backoff } from './backoff.js';

/** Nothing is known of the network. */
const OPEN_MS = 6_000;
/** It was known to answer faster: TCP, TLS and HTTP take up to four round trips. */
const OPEN_LEAST_MS = 2_000;
/** After a few failures, in case it has become slow. */
const OPEN_LATER_MS = 4_000;
const QUICK_ATTEMPTS = 4;
/** A WebSocket that is being opened for so long is given up for a fresh one when the network is said to be back; and four round trips. */
const STALE_MS = 400;
/** The same where the round trip is not known. */
const STALE_UNKNOWN_MS = 1_000;
/** So often it is asked on whether the network is back when it has been found. */
const REPLACEMENTS = 3;
/** In a row, with waits of less than 200, 400 and 800 ms. */
const QUICK_REFUSALS = 3;
/** So long after the first failure the network is likely to come back at any moment. */
const AWAY_MS = 30_000;
/** Between silent attempts, if nobody finds the network back. */
const PAUSE_LEAST_MS = 4_000;
const PAUSE_MS = 2_000;
/**
 * Before the one attempt that follows the quick ones. Behind it there is none until half a minute has passed: each is a failure
 * that makes Firefox wait, up to two seconds by then, and asking over HTTP tells as much. That one is for pages that may not ask.
 */
const REFUSED_PAUSE_LEAST_MS = 8_000;
const REFUSED_PAUSE_MS = 4_000;

export class Reconnect {
  #random;
  #backoff;
  /** @type {number | null} */
  #failingSince = null;
  #failures = 0;
  /** How often the network has been found back since the server was last heard. */
  #found = 0;

  /** @param {() => number} random */
  constructor(random) {
    this.#random = random;
    this.#backoff = new Backoff({ first: 200, most: 20_000, random });
  }

  /**
   * How long the next attempt may take.
   * @param {number} now
   * @param {number | null} rtt as last known
   */
  patience(now, rtt) {
    if (rtt === null || (this.#failingSince !== null && now - this.#failingSince >= AWAY_MS)) return OPEN_MS;
    const least = this.#failures < QUICK_ATTEMPTS ? OPEN_LEAST_MS : OPEN_LATER_MS;
    return Math.min(OPEN_MS, least + 4 * rtt);
  }

  /**
   * An attempt failed, or a connection ended. Gives how long to wait before the next.
   * @param {number} now
   * @param {number} began when the attempt did
   * @param {boolean} silent whether nothing at all was answered
   */
  failed(now, began, silent) {
    this.#failingSince ??= now;
    this.#failures += 1;
    const wait = this.#backoff.next();
    if (!this.asks(now, silent)) return wait;
    if (!silent) {
      const isFirst = this.#failures === QUICK_REFUSALS + 1;
      const rest = isFirst ? 0 : this.#failingSince + AWAY_MS - now;
      return Math.max(rest, REFUSED_PAUSE_LEAST_MS) + this.#random() * REFUSED_PAUSE_MS;
    }
    if (this.#isRecent(now)) return PAUSE_LEAST_MS + this.#random() * PAUSE_MS;
    return Math.max(0, wait - (now - began));
  }

  /** Whether somebody is to ask, after a failure, if the network is back. @param {number} now @param {boolean} silent */
  asks(now, silent) {
    return silent || (this.#failures > QUICK_REFUSALS && this.#found === 0 && this.#isRecent(now));
  }

  /** It is: who is refused then is refused by somebody, and asking again tells nothing. */
  found() {
    this.#found += 1;
  }

  /** Whether to ask on, in case that the WebSocket which is opened then hangs. */
  get asksOn() {
    return this.#found <= REPLACEMENTS;
  }

  /** Whether a WebSocket that has been being opened for so long would be sooner there if it were begun anew. @param {number} age @param {number | null} rtt */
  isStale(age, rtt) {
    return age > (rtt === null ? STALE_UNKNOWN_MS : STALE_MS + 4 * rtt);
  }

  /** @param {number} now */
  #isRecent(now) {
    return this.#failingSince !== null && now - this.#failingSince < AWAY_MS;
  }

  /** The server has answered. */
  reset() {
    this.#failingSince = null;
    this.#failures = 0;
    this.#found = 0;
    this.#backoff.reset();
  }
}
