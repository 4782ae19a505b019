/**
 * One WebSocket to the server, from opening to its end. Reconnecting is sockets.js's business.
 */

import { SocketPipe } from './pipe.js';

/**
 * @typedef {object} SocketHandlers
 * @property {() => void} opened
 * @property {(message: Record<string, unknown>) => void} text
 * @property {(message: Uint8Array) => void} binary
 * @property {(code: number, reason: string) => void} closed once; nothing is called after it
 */

export class Socket {
  #socket;
  #env;
  /** @type {SocketHandlers | null} */
  #handlers;
  #attempt;
  #timer;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {string} url
   * @param {import('./attempts.js').SocketAttempt} attempt records what becomes of it
   * @param {number} patience milliseconds until it must be welcomed
   * @param {SocketHandlers} handlers
   */
  constructor(env, url, attempt, patience, handlers) {
    this.#env = env;
    this.#handlers = handlers;
    this.#attempt = attempt;
    const Constructor = /** @type {NonNullable<typeof env.WebSocket>} */ (env.WebSocket);
    const socket = new Constructor(url, ['switchyard.v1']);
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    this.pipe = new SocketPipe(socket, env.now());
    this.began = env.now();
    /** Whether nothing at all has been answered. */
    this.silent = true;
    /** Set when the server has answered `hello`. */
    this.ready = false;
    /** The ticket with which it wants to resume a session. @type {string | null} */
    this.shown = null;
    /** Set when joins may make a session on it. */
    this.begun = false;
    this.#timer = env.setTimeout(() => this.#end(4000, 'no answer'), patience);
    socket.onopen = () => {
      attempt.opened();
      this.silent = false;
      this.#handlers?.opened();
    };
    socket.onmessage = (event) => this.#receive(event.data);
    socket.onclose = (event) => {
      this.silent = false;
      attempt.end('closed', { code: event.code, reason: event.reason ?? '' });
      this.#end(event.code, event.reason);
    };
  }

  /** The server has answered: the time for opening no longer runs. */
  welcomed() {
    this.#env.clearTimeout(this.#timer);
    this.#attempt.connected();
    this.ready = true;
  }

  /** @param {Record<string, unknown>} message */
  sendText(message) {
    if (this.pipe.open) this.#socket.send(JSON.stringify(message));
  }

  /** Ends it without calling anybody back. @param {number} [code] @param {string} [reason] */
  close(code = 1000, reason = '') {
    this.#attempt.end('page');
    this.#handlers = null;
    this.#env.clearTimeout(this.#timer);
    this.#socket.close(code, reason);
  }

  /** Gives it up and says so to its owner. @param {string} reason */
  abort(reason) {
    this.#end(4000, reason);
  }

  /** @param {unknown} data */
  #receive(data) {
    this.pipe.probe.heard(this.#env.now());
    if (typeof data !== 'string') {
      this.#handlers?.binary(new Uint8Array(/** @type {ArrayBuffer} */ (data)));
      return;
    }
    const message = parseObject(data);
    if (message) this.#handlers?.text(message);
  }

  /** @param {number} code @param {string} reason */
  #end(code, reason) {
    const handlers = this.#handlers;
    this.#attempt.end(reason === 'broken pipe' ? 'broken' : 'silent');
    this.close(4000, reason);
    handlers?.closed(code, reason);
  }
}

/**
 * @param {string} text
 * @returns {Record<string, unknown> | null} null for what is no JSON object
 */
export function parseObject(text) {
  try {
    const value = JSON.parse(text);
    return typeof value === 'object' && value !== null && !Array.isArray(value) ? value : null;
  } catch {
    return null;
  }
}
