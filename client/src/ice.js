/**
 * The STUN and TURN servers that the server names, with credentials that expire (docs/protocol.md, section 2). Asks for
 * new ones in time. What they are used for is link.js's business.
 */

import { SwitchyardError } from './errors.js';

/** How long the server may take to answer. */
const ASK_MS = 5_000;

/**
 * @typedef {object} IceOptions
 * @property {RTCIceTransportPolicy} policy `relay`: never a way without a TURN server
 * @property {(servers: RTCIceServer[]) => RTCIceServer[]} choose which of them are used
 */

/** Nothing beyond the page's own addresses. @type {RTCConfiguration} */
const NONE = Object.freeze({});

export class Ice {
  #env;
  #options;
  #ask;
  /** The same object until the server names others. @type {RTCConfiguration} */
  #configuration = NONE;
  #told = false;
  #staleAt = Infinity;
  #endsAt = Infinity;
  /** While the server is being asked. @type {unknown} */
  #timer = null;
  /** @type {((error?: SwitchyardError) => void)[]} */
  #waiters = [];

  /**
   * @param {import('./environment.js').Environment} env
   * @param {IceOptions} options
   * @param {() => boolean} ask asks the server; false if that is not possible now
   */
  constructor(env, options, ask) {
    this.#env = env;
    this.#options = options;
    this.#ask = ask;
  }

  /**
   * Takes a message of the server that names servers, or does not.
   * @param {Record<string, unknown>} message
   */
  take({ ice_servers: servers, ice_ttl_ms: ttl }) {
    const now = this.#env.now();
    const list = this.#options.choose(Array.isArray(servers) ? servers.flatMap(readServer) : []);
    const ends = list.length > 0 && typeof ttl === 'number' && ttl > 0;
    this.#told = true;
    this.#configuration = list.length > 0 ? { iceServers: list, iceTransportPolicy: this.#options.policy } : NONE;
    this.#staleAt = ends ? now + ttl / 2 : Infinity;
    this.#endsAt = ends ? now + ttl : Infinity;
    this.#answered();
  }

  /** The session is gone, and what it was told with it. */
  forget() {
    this.#told = false;
    this.#configuration = NONE;
    this.#staleAt = this.#endsAt = Infinity;
    this.#answered(new SwitchyardError('session_lost', 'the session has ended'));
  }

  /** Servers whose credentials are good. @returns {RTCIceServer[]} */
  get servers() {
    return this.#env.now() < this.#endsAt ? (this.#configuration.iceServers ?? []) : [];
  }

  /**
   * For a peer connection; null where there can be none without a relay. The same object until the server names others.
   * Asks for the next ones when half of their life is over, and serves with these meanwhile.
   */
  get configuration() {
    if (this.#env.now() >= this.#staleAt) this.#question();
    if (this.servers.length > 0) return this.#configuration;
    return this.#options.policy === 'relay' ? null : NONE;
  }

  /** Servers whose credentials are good for a while. @returns {Promise<RTCIceServer[]>} */
  async current() {
    if (!this.#told || this.#env.now() >= this.#staleAt) {
      if (!this.#question()) throw new SwitchyardError('not_connected', 'there is no session to ask for');
      await new Promise((resolve, reject) => {
        this.#waiters.push((error) => (error ? reject(error) : resolve(undefined)));
      });
    }
    return this.servers;
  }

  #question() {
    if (this.#timer !== null) return true;
    if (!this.#ask()) return false;
    const late = () => this.#answered(new SwitchyardError('timeout', 'the server has not answered'));
    this.#timer = this.#env.setTimeout(late, ASK_MS);
    return true;
  }

  /** @param {SwitchyardError} [error] */
  #answered(error) {
    this.#env.clearTimeout(this.#timer);
    this.#timer = null;
    for (const told of this.#waiters.splice(0)) told(error);
  }
}

/** @param {any} server @returns {RTCIceServer[]} none if it cannot be used */
function readServer(server) {
  const { urls, username, credential } = server ?? {};
  if (!Array.isArray(urls) || urls.length === 0 || !urls.every((url) => typeof url === 'string')) return [];
  if (typeof username !== 'string' || typeof credential !== 'string') return [{ urls }];
  return [{ urls, username, credential }];
}
