/**
 * A record of each attempt to connect: one try to open a WebSocket, or one peer connection with its ICE restarts. Keeps
 * the last few as plain JSON without addresses, and nothing else of what has ended. What they mean is diagnosis.js's
 * business.
 */

import { verdictOf } from './diagnosis.js';
import { evidenceIn, mergeEvidence } from './evidence.js';

const ATTEMPTS_MOST = 20;
/** Of the changes of state the first and the last are kept. */
const STATES_MOST = 40;
const STATES_FIRST = 12;
const ERRORS_MOST = 16;
const TEXT_MOST = 120;
/** How long stats may take before it goes on without them: when somebody asks, and at the end, where they are the last. */
const STATS_MS = 200;
const LAST_STATS_MS = 1_000;
/** While it is tried, stats are read as often: browsers forget pairs of candidates that came to nothing. */
const LOOK_EVERY_MS = 2_500;

/**
 * @typedef {'ice' | 'failed' | 'timeout' | 'repair' | 'channel_closed' | 'browser' | 'broken' | 'refused' | 'replaced'
 *   | 'off' | 'forbidden' | 'silent' | 'closed' | 'page'} Cause why an attempt ended
 *
 * @typedef {object} Attempt
 * @property {number} id counts up
 * @property {'websocket' | 'webrtc'} by
 * @property {number} began milliseconds since 1970
 * @property {number | null} connectedMs from the beginning until data could be carried
 * @property {number | null} endedMs from the beginning to the end; null while it goes on
 * @property {Cause | null} cause of the end; `page`: this page did not want it any more
 * @property {boolean} online whether the browser said that there is a network, at the end
 * @property {string} verdict a code
 * @property {string} sentence what happened, and the evidence
 * @property {StateChange[]} states
 *
 * @property {boolean} [opened] WebSocket: whether it opened, if only to be closed
 * @property {{ code: number, reason: string } | null} [close] WebSocket: as the browser told it
 * @property {boolean | null} [http] WebSocket: whether the server answers HTTP; null: not asked
 *
 * @property {number} [pc] WebRTC: its number, as the server knows it
 * @property {boolean} [relays] WebRTC: whether TURN servers were in it
 * @property {boolean} [onlyRelays] WebRTC: whether nothing else was allowed
 * @property {number} [restarts] WebRTC: ICE restarts
 * @property {boolean} [answered] WebRTC: whether the server has answered an offer
 * @property {number | null} [observedMs] WebRTC: from the beginning to when stats were read last
 * @property {import('./evidence.js').CandidateKind[]} [gathered]
 * @property {import('./evidence.js').PairKind[]} [pairs]
 * @property {IceError[]} [errors] WebRTC: answers of STUN and TURN servers that were none
 * @property {boolean} [tellsErrors] WebRTC: whether the browser tells them at all
 * @property {import('./peer.js').ChannelRung | null} [rung] WebRTC: what was reached
 * @property {import('./peer.js').Way['relay']} [relay]
 *
 * @typedef {{ ms: number, of: 'ice' | 'gathering' | 'connection' | 'dtls' | 'sctp' | 'channel' | 'websocket', state: string }} StateChange
 * @typedef {{ url: string, code: number, text: string, count: number }} IceError
 */

export class Attempts {
  #env;
  #told;
  #nextId = 1;
  /** Oldest first. @type {AnyAttempt[]} */
  #attempts = [];

  /**
   * @param {import('./environment.js').Environment} env
   * @param {(attempt: Attempt) => void} told of one that has connected, with `endedMs` null, and of one that has ended
   */
  constructor(env, told) {
    this.#env = env;
    this.#told = told;
  }

  /** One that begins now. */
  socket() {
    return this.#add(new SocketAttempt(this.#env, this.#nextId++, this.#told));
  }

  /** One that begins now. @param {RTCConfiguration} configuration @param {number} pc */
  peer(configuration, pc) {
    const attempt = this.#add(new PeerAttempt(this.#env, this.#nextId++, this.#told));
    attempt.data.pc = pc;
    attempt.configured(configuration);
    return attempt;
  }

  /** Asks what a WebSocket that never opened does not tell: whether the server answers HTTP. @param {string} url */
  async look(url) {
    const last = this.#attempts.findLast((attempt) => attempt instanceof SocketAttempt && attempt.settled);
    if (last instanceof SocketAttempt) await last.ask(url);
  }

  /** Oldest first. @returns {Attempt[]} */
  list() {
    return this.#attempts.map((attempt) => attempt.record());
  }

  /** @template {AnyAttempt} T @param {T} attempt @returns {T} */
  #add(attempt) {
    this.#attempts.push(attempt);
    if (this.#attempts.length > ATTEMPTS_MOST) {
      // One that goes on is the last to be forgotten.
      const old = this.#attempts.findIndex(({ over }) => over);
      this.#attempts.splice(Math.max(0, old), 1);
    }
    return attempt;
  }
}

/** @typedef {SocketAttempt | PeerAttempt} AnyAttempt */

/** What both have in common. */
class Recorder {
  #env;
  #told;
  #beganAt;
  /** The record itself, of which others get copies. @type {Attempt} */
  data;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {number} id
   * @param {'websocket' | 'webrtc'} by
   * @param {(attempt: Attempt) => void} told
   */
  constructor(env, id, by, told) {
    this.#env = env;
    this.#told = told;
    this.#beganAt = env.now();
    this.data = {
      id, by, began: env.date(), connectedMs: null, endedMs: null, cause: null, online: true, verdict: '', sentence: '', states: [],
    };
  }

  get over() {
    return this.data.endedMs !== null;
  }

  /** Data can be carried. Whether it could not before. */
  connected() {
    if (this.data.connectedMs !== null || this.over) return false;
    this.data.connectedMs = this.ms;
    return true;
  }

  /** A copy, with what it means. @returns {Attempt} */
  record() {
    return { ...structuredClone(this.data), ...verdictOf(this.data) };
  }

  /** Milliseconds since the beginning. */
  get ms() {
    return Math.round(this.#env.now() - this.#beganAt);
  }

  /** A state is another from now on. @param {StateChange['of']} of @param {string} state */
  changed(of, state) {
    if (this.over) return;
    const { states } = this.data;
    states.push({ ms: this.ms, of, state });
    if (states.length > STATES_MOST) states.splice(STATES_FIRST, 1);
  }

  /** Whether that was the end, and not after it. @param {Cause} cause */
  finish(cause) {
    if (this.over) return false;
    Object.assign(this.data, { endedMs: this.ms, cause, online: this.#env.online() });
    return true;
  }

  /** Others hear of what it came to. */
  tell() {
    this.#told(this.record());
  }
}

export class SocketAttempt extends Recorder {
  #env;
  #asked = false;

  /** @param {import('./environment.js').Environment} env @param {number} id @param {(attempt: Attempt) => void} told */
  constructor(env, id, told) {
    super(env, id, 'websocket', told);
    this.#env = env;
    Object.assign(this.data, { opened: false, close: null, http: null });
  }

  /** Whether it has opened, or will not. */
  get settled() {
    return this.over || this.data.opened === true;
  }

  opened() {
    this.data.opened = true;
    this.changed('websocket', 'open');
  }

  connected() {
    if (!super.connected()) return false;
    this.tell();
    return true;
  }

  /** @param {Cause} cause @param {{ code: number, reason: string }} [close] where not this page has closed it */
  end(cause, close) {
    if (!this.finish(cause)) return;
    if (close) this.data.close = { code: close.code, reason: close.reason.slice(0, TEXT_MOST) };
    this.tell();
  }

  /** @param {string} url of the WebSocket */
  async ask(url) {
    const { opened, cause, online } = this.data;
    if (this.#asked || opened || !online || cause === 'page') return;
    this.#asked = true;
    this.data.http = await this.#env.reach(url.replace(/^ws/, 'http')).catch(() => null);
  }
}

export class PeerAttempt extends Recorder {
  #env;
  /** While it goes on. @type {RTCPeerConnection | null} */
  #connection = null;
  /** Until the browser has made them. */
  #watchesTransport = false;
  /** It has connected, and what it has reached is not known yet. */
  #tellOfRung = false;
  /** When stats are read next. @type {unknown} */
  #nextLook = null;

  /** @param {import('./environment.js').Environment} env @param {number} id @param {(attempt: Attempt) => void} told */
  constructor(env, id, told) {
    super(env, id, 'webrtc', told);
    this.#env = env;
    Object.assign(this.data, {
      relays: false, onlyRelays: false, restarts: 0, answered: false, observedMs: null,
      gathered: [], pairs: [], errors: [], tellsErrors: false, rung: null, relay: null,
    });
  }

  /** @param {RTCConfiguration} configuration */
  configured({ iceServers, iceTransportPolicy }) {
    const urls = (iceServers ?? []).flatMap((server) => server.urls);
    if (urls.some((url) => url.startsWith('turn'))) this.data.relays = true;
    this.data.onlyRelays = iceTransportPolicy === 'relay';
  }

  /** @param {RTCPeerConnection} connection @param {RTCDataChannel} channel */
  watch(connection, channel) {
    this.#connection = connection;
    this.data.tellsErrors = 'onicecandidateerror' in connection;
    connection.addEventListener('icecandidateerror', (event) => this.#iceError(event));
    connection.addEventListener('iceconnectionstatechange', () => this.changed('ice', connection.iceConnectionState));
    connection.addEventListener('icegatheringstatechange', () => this.changed('gathering', connection.iceGatheringState));
    connection.addEventListener('connectionstatechange', () => this.changed('connection', connection.connectionState));
    for (const type of ['open', 'close']) channel.addEventListener(type, () => this.changed('channel', type));
  }

  /** The server has answered an offer. */
  answered() {
    if (!this.data.answered) this.#lookLater();
    this.data.answered = true;
    const sctp = this.#connection?.sctp;
    if (!sctp || this.#watchesTransport) return;
    this.#watchesTransport = true;
    const { transport: dtls } = sctp;
    sctp.addEventListener('statechange', () => this.changed('sctp', sctp.state));
    dtls?.addEventListener('statechange', () => this.changed('dtls', dtls.state));
  }

  #lookLater() {
    if (this.over || this.data.connectedMs !== null) return;
    this.#nextLook = this.#env.setTimeout(() => {
      void this.#readStats();
      this.#lookLater();
    }, LOOK_EVERY_MS);
  }

  /** ICE begins anew: what it was like so far. */
  restarted() {
    this.look();
    this.data.restarts = (this.data.restarts ?? 0) + 1;
  }

  connected() {
    if (!super.connected()) return false;
    this.#tellOfRung = true;
    this.#env.clearTimeout(this.#nextLook);
    return true;
  }

  /** @param {import('./peer.js').Way} way */
  reached({ rung, relay }) {
    Object.assign(this.data, { rung, relay });
    if (!this.#tellOfRung || this.over) return;
    this.#tellOfRung = false;
    this.tell();
  }

  /** @param {RTCStatsReport} report */
  read(report) {
    const { gathered = [], pairs = [] } = this.data;
    Object.assign(this.data, mergeEvidence({ gathered, pairs }, evidenceIn(report)));
    if (!this.over) this.data.observedMs = this.ms;
  }

  /** Reads the stats, where that can be done, and soon. @param {number} [within] milliseconds */
  async look(within = STATS_MS) {
    /** @type {unknown} */
    let timer;
    const late = new Promise((resolve) => (timer = this.#env.setTimeout(() => resolve(undefined), within)));
    await Promise.race([this.#readStats(), late]);
    this.#env.clearTimeout(timer);
  }

  /**
   * The end. Resolves when stats have been read, or are too long in coming.
   * @param {Cause} cause
   * @param {boolean} [atOnce] without stats
   */
  async end(cause, atOnce = false) {
    if (!this.finish(cause)) return;
    this.#env.clearTimeout(this.#nextLook);
    if (!atOnce) {
      await this.look(LAST_STATS_MS);
      this.data.observedMs = this.data.endedMs;
    }
    this.#connection = null;
    this.tell();
  }

  async #readStats() {
    try {
      const report = await this.#connection?.getStats();
      if (report) this.read(report);
    } catch {
      // What is known has to do.
    }
  }

  /** @param {RTCPeerConnectionIceErrorEvent} event */
  #iceError({ url, errorCode: code, errorText }) {
    if (this.over) return;
    const { errors = [] } = this.data;
    const known = errors.find((error) => error.url === url && error.code === code);
    if (known) known.count += 1;
    else if (errors.length < ERRORS_MOST) {
      errors.push({ url: String(url).slice(0, TEXT_MOST), code, text: withoutAddresses(errorText ?? ''), count: 1 });
    }
  }
}

/** @param {string} text of the browser */
function withoutAddresses(text) {
  return text.slice(0, TEXT_MOST).replace(/\d+\.\d+\.\d+\.\d+|[\da-f]*:[\da-f:]+:[\da-f]*/gi, '…');
}
