/**
 * The direct connection to one other browser, for as long as both are in a room together. It is kept up: watched by PINGs and
 * by what the browser says; repaired by an ICE restart, then by a new peer connection; then left alone, and tried again
 * later. Meanwhile the server carries everything, so nothing here is urgent, and `state` says when it stands.
 *
 * Both ends do this each for itself. What keeps them together is the number of the connection: whoever needs a new one
 * counts on, the other follows the higher number, and signals of lower ones are dropped. How the two agree on one
 * connection is negotiation.js, who is paired with whom is mesh.js.
 */

import { Backoff } from '../backoff.js';
import { decodeFrame, encodeFrame, FrameError, joinFrames, splitFrames } from '../frame.js';
import { PIPE_QUEUE_BYTES } from '../limits.js';
import { wayOf } from '../peer.js';
import { Probe } from '../probe.js';
import { Negotiation } from './negotiation.js';

const TICK_MS = 500;
/** The polite one lets the other one offer first. */
const COURTESY_MS = 1_500;
/** From the first signal to an open channel; an ICE restart. */
const CONNECT_MS = 10_000;
const RESTART_MS = 8_000;
/** A restart that has failed is tried again after this. */
const RESTART_AGAIN_MS = 3_000;
/** An offer without an answer is sent again after this, doubling. */
const REPEAT_MS = 2_000;
const DISCONNECTED_MS = 2_000;
/** Whoever closes a connection says so; that comes later than the end of the channel. */
const LOST_MS = 1_000;
const PING_MS = 1_000;
/** Nothing came since a PING: the server carries it too; after twice this it is to be repaired. */
const SILENT_MS = 1_500;
/** While messages are sent a PING goes with one of them so often; nothing came since for so long, or so many round trips: in doubt. */
const QUICK_PING_MS = 100;
const DOUBT_MS = 250;
const DOUBT_RTTS = 4;
/** Connections that fail one after the other before it is left alone. */
const TRIES = 2;
const RETRY = { least: 5_000, first: 20_000, most: 300_000 };
/** What stands for so long was good. */
const GOOD_MS = 30_000;
/** New connections that the other end may ask for: so many at once, then one in so many milliseconds. */
const ASKED = 4;
const ASKED_MS = 3_000;
/** Lossy messages may lie in the browser's queue up to here. */
const LOSSY_QUEUE_BYTES = 16_384;
/** How often the way is looked up. */
const LOOK_MS = 5_000;

/**
 * @typedef {'direct' | 'relay' | 'server'} PairState what carries data to the other: a connection of the two, one over a TURN
 *   server, or the server
 *
 * @typedef {object} PairOptions
 * @property {boolean} isPolite
 * @property {() => RTCConfiguration | null} configuration null: there can be no connection now
 * @property {(signal: { c: number } & Record<string, unknown>) => void} signal
 * @property {(frame: import('../frame.js').Frame) => void} frame
 * @property {() => void} changed
 * @property {() => void} drained the reliable channel's queue is short again
 *
 * @typedef {object} Attempt one peer connection
 * @property {number} number
 * @property {RTCPeerConnection} connection
 * @property {Negotiation} negotiation
 * @property {RTCDataChannel} reliable
 * @property {RTCDataChannel} lossy
 * @property {Probe} probe
 * @property {number} since
 * @property {number | null} openedAt
 * @property {number} repeatAt
 * @property {number} repeatMs
 * @property {number | null} disconnectedAt
 * @property {number | null} lostAt the other end has closed it
 * @property {number | null} restartedAt since when it is being repaired
 * @property {number} triedAt the last ICE restart
 * @property {boolean} isRelayed
 * @property {number} lookAt
 */

export class Pair {
  #env;
  #options;
  #backoff;
  /** @type {Attempt | null} */
  #attempt = null;
  /** The highest number of a connection, here or there. */
  #number = 0;
  #failures = 0;
  #asked = ASKED;
  #askedAt = 0;
  /** When to try next while there is no connection. */
  #retryAt = Infinity;
  /** @type {unknown} */
  #timer = null;
  #closed = false;
  /** @type {PairState} */
  #state = 'server';
  counters = { connections: 0, restarts: 0, failures: 0, sent: 0, received: 0, bad: 0 };

  /** @param {import('../environment.js').Environment} env @param {PairOptions} options */
  constructor(env, options) {
    this.#env = env;
    this.#options = options;
    this.#backoff = new Backoff({ ...RETRY, random: env.random });
  }

  /** @returns {PairState} */
  get state() {
    return this.#state;
  }

  /** Milliseconds, smoothed; null while nothing is known. */
  get rtt() {
    return this.#state === 'server' ? null : (this.#attempt?.probe.rtt ?? null);
  }

  /** Both ends are there: a connection is wanted. */
  start() {
    if (this.#closed || this.#attempt || this.#retryAt < Infinity) return;
    this.#retryAt = this.#env.now() + (this.#options.isPolite ? COURTESY_MS : 0);
    this.#tick();
  }

  /** The network is another: what was given up may work now. */
  hurry() {
    if (this.#closed) return;
    this.#backoff.reset();
    if (this.#attempt?.openedAt != null) this.#restart(this.#attempt, this.#env.now());
    else if (!this.#attempt && this.#retryAt < Infinity) this.#retryAt = this.#env.now();
    this.#later(0);
  }

  /** @param {import('./signals.js').PairSignal} signal */
  take(signal) {
    if (this.#closed) return;
    if (signal.type === 'bye') this.#takeBye(signal);
    else if (signal.c >= this.#number) {
      if (signal.c > this.#number && !this.#follow(signal.c)) return;
      this.#attempt?.negotiation.take(signal);
    }
  }

  /**
   * Sends a frame on the lossy channel, if it stands and its queue is short.
   * @param {Uint8Array} frame
   * @returns {boolean} whether that is enough: false while it is in doubt that anything gets through
   */
  sendLossy(frame) {
    const attempt = this.#attempt;
    if (this.#state === 'server' || attempt?.lossy.readyState !== 'open' || attempt.lossy.bufferedAmount > LOSSY_QUEUE_BYTES) return false;
    const { probe } = attempt;
    const now = this.#env.now();
    const frames = [frame];
    if (probe.due(now, QUICK_PING_MS)) frames.unshift(encodeFrame({ kind: 'ping', nonce: probe.ping(now) }));
    try {
      attempt.lossy.send(joinFrames(frames));
    } catch {
      return false;
    }
    this.counters.sent += 1;
    return !probe.silent(now, Math.max(DOUBT_MS, DOUBT_RTTS * (probe.rtt ?? 0)));
  }

  /** Bytes that the reliable channel takes now; 0 while it does not stand. */
  get room() {
    const reliable = this.#attempt?.reliable;
    if (this.#state === 'server' || reliable?.readyState !== 'open') return 0;
    return PIPE_QUEUE_BYTES - reliable.bufferedAmount;
  }

  /** Sends a frame on the reliable channel. @param {Uint8Array} frame */
  send(frame) {
    if (this.room <= 0) return false;
    try {
      this.#attempt?.reliable.send(joinFrames([frame]));
    } catch {
      return false;
    }
    return true;
  }

  /**
   * It is not wanted any more.
   * @param {{ tell?: boolean }} [options] whether the other end is to know
   */
  close({ tell = true } = {}) {
    if (this.#closed) return;
    if (tell && this.#number > 0) this.#options.signal({ type: 'bye', c: this.#number, gone: true });
    this.#closed = true;
    this.#drop();
    this.#env.clearTimeout(this.#timer);
  }

  // --- connections -------------------------------------------------------------------------------------------------

  /** @param {number} number */
  #connect(number) {
    this.#drop();
    this.#number = number;
    const now = this.#env.now();
    const connection = this.#make(this.#options.configuration());
    if (!connection) {
      // No way without a relay, and none is known; or the browser has too many.
      this.#retryAt = now + this.#backoff.next();
      return null;
    }
    const negotiation = new Negotiation(this.#env, connection, {
      isPolite: this.#options.isPolite,
      send: (signal) => this.#options.signal({ ...signal, c: number }),
      failed: () => this.#attempt === attempt && this.#failed(),
    });
    const reliable = connection.createDataChannel('reliable', { negotiated: true, id: 0, ordered: true });
    const lossy = connection.createDataChannel('lossy', { negotiated: true, id: 1, ordered: false, maxRetransmits: 0 });
    /** @type {Attempt} */
    const attempt = {
      number,
      connection,
      negotiation,
      reliable,
      lossy,
      probe: new Probe(now),
      since: now,
      openedAt: null,
      repeatAt: now + REPEAT_MS,
      repeatMs: REPEAT_MS,
      disconnectedAt: null,
      lostAt: null,
      restartedAt: null,
      triedAt: now,
      isRelayed: false,
      lookAt: now,
    };
    const unlessOld = (/** @type {() => void} */ call) => this.#attempt === attempt && call();
    for (const channel of [reliable, lossy]) {
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) => unlessOld(() => this.#message(attempt, channel, data));
      channel.onclose = () => unlessOld(() => this.#lost(attempt));
    }
    reliable.bufferedAmountLowThreshold = PIPE_QUEUE_BYTES / 2;
    reliable.onbufferedamountlow = () => unlessOld(() => this.#options.drained());
    reliable.onopen = () => unlessOld(() => this.#opened(attempt));
    connection.onconnectionstatechange = () => unlessOld(() => this.#stateChanged(attempt));
    this.#attempt = attempt;
    this.#retryAt = Infinity;
    this.counters.connections += 1;
    this.#later(TICK_MS);
    return attempt;
  }

  /** @param {RTCConfiguration | null} configuration */
  #make(configuration) {
    const { RTCPeerConnection } = this.#env;
    try {
      return configuration && RTCPeerConnection ? new RTCPeerConnection(configuration) : null;
    } catch {
      return null;
    }
  }

  /** The other end has begun a newer connection. False if it does so too often. @param {number} number */
  #follow(number) {
    const now = this.#env.now();
    this.#asked = Math.min(ASKED, this.#asked + (now - this.#askedAt) / ASKED_MS);
    this.#askedAt = now;
    if (this.#asked < 1) return false;
    this.#asked -= 1;
    this.#connect(number);
    this.#judge();
    return true;
  }

  /** @param {import('./signals.js').Bye} bye */
  #takeBye({ c, gone }) {
    if (c < this.#number) return;
    this.#number = c;
    this.#drop();
    // Whoever is gone comes back by itself; otherwise both try again later.
    this.#retryAt = gone ? Infinity : this.#env.now() + this.#backoff.next();
    this.#later(TICK_MS);
    this.#judge();
  }

  /** The connection is of no use: another one, or none for a while. */
  #failed() {
    this.#failures += 1;
    this.counters.failures += 1;
    if (this.#failures < TRIES) {
      this.#connect(this.#number + 1)?.negotiation.offer();
    } else {
      this.#drop();
      this.#options.signal({ type: 'bye', c: this.#number, gone: false });
      this.#retryAt = this.#env.now() + this.#backoff.next();
      this.#failures = 0;
      this.#later(TICK_MS);
    }
    this.#judge();
  }

  #drop() {
    const attempt = this.#attempt;
    this.#attempt = null;
    if (!attempt) return;
    attempt.negotiation.end();
    attempt.connection.close();
  }

  /** @param {Attempt} attempt */
  #opened(attempt) {
    const now = this.#env.now();
    attempt.openedAt = now;
    attempt.probe.wake(now);
    this.#look(attempt, now);
    this.#judge();
    this.#later(0);
  }

  /** @param {Attempt} attempt */
  #stateChanged(attempt) {
    const { connectionState } = attempt.connection;
    const now = this.#env.now();
    if (connectionState === 'closed') this.#lost(attempt);
    attempt.disconnectedAt = connectionState === 'disconnected' ? (attempt.disconnectedAt ?? now) : null;
    if (connectionState === 'connected') attempt.lookAt = now;
    this.#judge();
    this.#later(0);
  }

  /** The other end has closed it; it is about to say why. @param {Attempt} attempt */
  #lost(attempt) {
    attempt.lostAt ??= this.#env.now();
    this.#judge();
  }

  // --- watching ----------------------------------------------------------------------------------------------------

  #tick() {
    if (this.#closed) return;
    const now = this.#env.now();
    const attempt = this.#attempt;
    if (attempt) {
      if (attempt.lostAt !== null) this.#watchLost(attempt.lostAt, now);
      else if (attempt.openedAt === null) this.#watchOpening(attempt, now);
      else this.#watchOpen(attempt, now);
    } else if (now >= this.#retryAt) {
      this.#retryAt = Infinity;
      this.#connect(this.#number + 1)?.negotiation.offer();
    }
    this.#judge();
    this.#later(this.#attempt ? TICK_MS : this.#retryAt - now);
  }

  /** @param {number} lostAt @param {number} now */
  #watchLost(lostAt, now) {
    if (now - lostAt >= LOST_MS) this.#failed();
  }

  /** @param {Attempt} attempt @param {number} now */
  #watchOpening(attempt, now) {
    if (now - attempt.since >= CONNECT_MS || attempt.connection.connectionState === 'failed') this.#failed();
    else this.#repeat(attempt, now);
  }

  /** @param {Attempt} attempt @param {number} now */
  #watchOpen(attempt, now) {
    const { probe, connection } = attempt;
    if (probe.due(now, PING_MS)) this.#ping(attempt, now);
    if (now >= attempt.lookAt) this.#look(attempt, now);
    const { disconnectedAt, restartedAt } = attempt;
    const isBad =
      connection.connectionState === 'failed' ||
      (disconnectedAt !== null && now - disconnectedAt >= DISCONNECTED_MS) ||
      probe.silent(now, 2 * SILENT_MS);
    if (restartedAt !== null) {
      if (!isBad) attempt.restartedAt = null;
      else if (now - restartedAt >= RESTART_MS) this.#failed();
      else if (connection.connectionState === 'failed' && now - attempt.triedAt >= RESTART_AGAIN_MS) this.#restart(attempt, now);
      else this.#repeat(attempt, now);
    } else if (isBad) {
      this.#restart(attempt, now);
    } else if (now - Math.max(attempt.openedAt ?? now, 0) >= GOOD_MS) {
      this.#failures = 0;
      this.#backoff.reset();
    }
  }

  /** @param {Attempt} attempt @param {number} now */
  #restart(attempt, now) {
    this.counters.restarts += 1;
    attempt.restartedAt ??= now;
    attempt.triedAt = now;
    attempt.repeatMs = REPEAT_MS;
    attempt.repeatAt = now + REPEAT_MS;
    const configuration = this.#options.configuration();
    try {
      if (configuration) attempt.connection.setConfiguration(configuration);
    } catch {
      // It goes on with the servers it has.
    }
    attempt.negotiation.offer({ iceRestart: true });
  }

  /** @param {Attempt} attempt @param {number} now */
  #repeat(attempt, now) {
    if (now < attempt.repeatAt) return;
    attempt.repeatMs *= 2;
    attempt.repeatAt = now + attempt.repeatMs;
    attempt.negotiation.repeat();
  }

  /** Whether it is a relay's way. @param {Attempt} attempt @param {number} now */
  async #look(attempt, now) {
    attempt.lookAt = now + LOOK_MS;
    const way = await attempt.connection.getStats().then(wayOf, () => null);
    if (!way || this.#attempt !== attempt) return;
    attempt.isRelayed = way.rung === 'relay';
    this.#judge();
  }

  #judge() {
    const attempt = this.#attempt;
    const stands =
      !this.#closed &&
      attempt?.openedAt != null &&
      attempt.connection.connectionState === 'connected' &&
      attempt.reliable.readyState === 'open' &&
      attempt.lostAt === null &&
      attempt.restartedAt === null &&
      !attempt.probe.silent(this.#env.now(), SILENT_MS);
    const state = !stands ? 'server' : attempt.isRelayed ? 'relay' : 'direct';
    if (state === this.#state) return;
    this.#state = state;
    this.#options.changed();
  }

  /** @param {number} ms */
  #later(ms) {
    this.#env.clearTimeout(this.#timer);
    if (this.#closed || ms === Infinity) return;
    this.#timer = this.#env.setTimeout(() => this.#tick(), Math.max(0, ms));
  }

  // --- frames ------------------------------------------------------------------------------------------------------

  /** @param {Attempt} attempt @param {number} now */
  #ping(attempt, now) {
    // Not behind what waits.
    const channel = attempt.reliable.bufferedAmount > 0 ? attempt.lossy : attempt.reliable;
    this.#send(channel, { kind: 'ping', nonce: attempt.probe.ping(now) });
  }

  /** @param {RTCDataChannel} channel @param {import('../frame.js').ProbeFrame} frame */
  #send(channel, frame) {
    if (channel.readyState !== 'open') return;
    try {
      channel.send(joinFrames([encodeFrame(frame)]));
    } catch {
      // It closes, and that is told.
    }
  }

  /** @param {Attempt} attempt @param {RTCDataChannel} channel @param {unknown} data */
  #message(attempt, channel, data) {
    const now = this.#env.now();
    attempt.probe.heard(now);
    if (!(data instanceof ArrayBuffer)) return;
    this.counters.received += 1;
    try {
      for (const bytes of splitFrames(new Uint8Array(data))) {
        const frame = decodeFrame(bytes);
        if (frame.kind === 'ping') this.#send(channel, { kind: 'pong', nonce: frame.nonce });
        else if (frame.kind === 'pong') attempt.probe.pong(frame.nonce, now);
        else this.#options.frame(frame);
      }
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.counters.bad += 1;
    }
    if (this.#state === 'server') this.#judge();
  }
}
