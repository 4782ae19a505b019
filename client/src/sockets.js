/**
 * Sees to it that there is a WebSocket to the server: opens it, opens it again when it ends, and opens a second beside one
 * that is silent. The one of the two that speaks first is kept. While nothing answers, it asks over HTTP whether the
 * network is back, more often than a WebSocket could be tried.
 */

import { Reconnect } from './reconnect.js';
import { Socket } from './socket.js';
import { Timers } from './timers.js';

/** Between questions over HTTP. Each has more time for its answer: five at a time, where browsers have six connections to a host. */
const ASK_MS = 500;

/**
 * @typedef {object} SocketsOwner
 * @property {(socket: Socket) => Record<string, unknown>[]} hello what to greet the server with
 * @property {(socket: Socket, message: Record<string, unknown>) => void} text
 * @property {(socket: Socket, message: Uint8Array) => void} binary
 * @property {(old: Socket) => void} replaced another one has taken its place
 * @property {(socket: Socket, code: number, reason: string) => boolean} closed the one in use, or that was to be. Whether
 *   another is wanted
 * @property {() => number | null} rtt as last known
 */

export class Sockets {
  #env;
  #url;
  #attempts;
  #owner;
  #reconnect;
  #timers;
  /** The one in use, or that is being opened to be. @type {Socket | null} */
  current = null;
  /** @type {Socket | null} */
  #beside = null;
  #besideNotBefore = -Infinity;
  /** Over how long the server wants its clients to come back. @type {number | null} */
  #drainingMs = null;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {string} url
   * @param {import('./attempts.js').Attempts} attempts
   * @param {SocketsOwner} owner
   */
  constructor(env, url, attempts, owner) {
    this.#env = env;
    this.#url = url;
    this.#attempts = attempts;
    this.#owner = owner;
    this.#reconnect = new Reconnect(env.random);
    this.#timers = new Timers(env);
  }

  /** Opens one if there is none. */
  open() {
    this.#timers.cancel('reconnect');
    this.#timers.cancel('ask');
    this.current ??= this.#open();
  }

  /** Opens a second beside the one in use, which is silent. */
  openBeside() {
    if (!this.current || this.#beside || this.#env.now() < this.#besideNotBefore) return;
    this.#timers.cancel('ask');
    this.#beside = this.#open();
  }

  /** The network is said to be back: what waits, waits no longer. */
  hurry() {
    if (this.#timers.has('reconnect')) return this.open();
    for (const socket of [this.current, this.#beside]) if (socket && this.#isStale(socket)) socket.abort('stale');
    if (this.#timers.has('reconnect')) this.open();
  }

  /** Whether a fresh one would be sooner there. @param {Socket} socket */
  #isStale(socket) {
    return !socket.pipe.open && this.#reconnect.isStale(this.#env.now() - socket.began, this.#owner.rtt());
  }

  /** The server goes away, and wants its clients back spread over that time. @param {number} ms */
  draining(ms) {
    this.#drainingMs = ms;
  }

  /** To the server over each that has said hello. @param {Record<string, unknown>} message */
  sayToAll(message) {
    for (const socket of [this.current, this.#beside]) if (socket?.pipe.open) socket.sendText(message);
  }

  /** @param {number} code @param {string} reason */
  close(code, reason) {
    this.#timers.cancelAll();
    this.#reconnect.reset();
    for (const socket of [this.current, this.#beside]) socket?.close(code, reason);
    this.current = null;
    this.#beside = null;
  }

  #open() {
    const patience = this.#reconnect.patience(this.#env.now(), this.#owner.rtt());
    /** @type {Socket} */
    const socket = new Socket(this.#env, this.#url, this.#attempts.socket(), patience, {
      opened: () => {
        if (socket === this.current) this.#timers.cancel('ask');
        this.#owner.hello(socket).forEach((message) => socket.sendText(message));
      },
      text: (message) => this.#text(socket, message),
      binary: (message) => {
        this.#speaks(socket);
        this.#owner.binary(socket, message);
      },
      closed: (code, reason) => this.#closed(socket, code, reason),
    });
    return socket;
  }

  /** @param {Socket} socket @param {Record<string, unknown>} message */
  #text(socket, message) {
    if (message.type === 'welcome') this.#welcomed(socket);
    else this.#speaks(socket);
    this.#owner.text(socket, message);
  }

  /** @param {Socket} socket */
  #welcomed(socket) {
    this.#reconnect.reset();
    this.#timers.cancel('ask');
    this.#besideNotBefore = -Infinity;
    const old = this.current;
    if (socket !== this.#beside || !old) return;
    this.#beside = null;
    this.current = socket;
    old.close(4000, 'replaced');
    this.#owner.replaced(old);
  }

  /** The second one is not needed, if it has not taken over at the server yet. @param {Socket} socket */
  #speaks(socket) {
    if (socket !== this.current) return;
    this.#timers.cancel('ask');
    if (!this.#beside || this.#beside.pipe.open) return;
    this.#beside.close();
    this.#beside = null;
  }

  /** @param {Socket} socket @param {number} code @param {string} reason */
  #closed(socket, code, reason) {
    const now = this.#env.now();
    const wait = () => this.#reconnect.failed(now, socket.began, socket.silent);
    if (socket === this.#beside) {
      this.#beside = null;
      this.#besideNotBefore = now + wait();
      this.#askIf(this.#reconnect.asks(now, socket.silent));
      return;
    }
    if (socket !== this.current) return;
    this.current = this.#beside;
    this.#beside = null;
    const isReplaced = this.current !== null;
    // The server closes the old one when it has met the new.
    if (isReplaced && code === 4409) return this.#owner.replaced(socket);
    const draining = this.#drainingMs;
    this.#drainingMs = null;
    if (!this.#owner.closed(socket, code, reason) || isReplaced) return;
    const spread = draining !== null || code === 4503;
    this.#timers.after('reconnect', spread ? this.#env.random() * (draining ?? 5_000) : wait(), () => this.#reopen());
    this.#askIf(!spread && this.#reconnect.asks(now, socket.silent));
  }

  /** Time has come to try again. The questions go on: what is sent into silence is repeated by TCP, later and later. */
  #reopen() {
    this.current ??= this.#open();
  }

  /** @param {boolean} asks */
  #askIf(asks) {
    if (asks) this.#askForNetwork();
    else this.#timers.cancel('ask');
  }

  #askForNetwork() {
    this.#askLater();
    const isBack = this.#env.reach(this.#url.replace(/^ws/, 'http')).catch(() => false);
    isBack.then((is) => is && this.#timers.has('ask') && this.#isBack());
  }

  #isBack() {
    const isBeside = this.current?.pipe.open === true;
    const opening = isBeside ? this.#beside : this.current;
    if (opening) {
      if (!this.#isStale(opening)) return;
      opening.abort('stale');
      if (!isBeside && !this.#timers.has('reconnect')) return;
    }
    this.#reconnect.found();
    this.#timers.cancel('ask');
    this.#besideNotBefore = -Infinity;
    if (this.current) this.openBeside();
    else this.open();
    if (this.#reconnect.asksOn) this.#askLater();
  }

  #askLater() {
    this.#timers.after('ask', ASK_MS, () => this.#askForNetwork());
  }
}
