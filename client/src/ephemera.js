/**
 * What a session sends that may be lost: directly to those who are reached so (mesh/mesh.js), over the server to the rest, at
 * the pace that the link bears (lossy.js).
 */

import { LossyQueue } from './lossy.js';

/** On a poor link lossy messages wait while the browser's queue is longer. */
const POOR_QUEUE_BYTES = 1_024;
/** How soon they are tried again then. */
const POOR_RETRY_MS = 50;

/**
 * @typedef {import('./lossy.js').LossyMessage} LossyMessage
 *
 * @typedef {object} EphemeraPorts what this asks of its session
 * @property {() => import('./link.js').Link | import('./tabs/shared-link.js').SharedLink} link
 * @property {() => import('./mesh/mesh.js').Mesh} mesh
 * @property {(handle: number) => import('./room.js').Room | undefined} room
 * @property {() => boolean} hasReliable whether reliable frames wait
 */

export class Ephemera {
  #env;
  #ports;
  #queue = new LossyQueue((message, seq) => this.#share(message, seq));
  /** Set while messages wait for their time. @type {{ at: number, timer: unknown } | null} */
  #timer = null;

  /** @param {import('./environment.js').Environment} env @param {EphemeraPorts} ports */
  constructor(env, ports) {
    this.#env = env;
    this.#ports = ports;
  }

  get counters() {
    return { lossyDropped: this.#queue.dropped, lossyCoalesced: this.#queue.coalesced };
  }

  /** Messages that wait. */
  get length() {
    return this.#queue.length;
  }

  /** Whether something may go now. */
  get hasNext() {
    return this.#queue.paceMs === 0 && this.#queue.length > 0;
  }

  /** The next frame of at most so many bytes. @param {number} room */
  next(room) {
    return this.#queue.next(room, this.#env.now(), this.#isPipeBusy);
  }

  /** Milliseconds between messages of one kind; 0: all go at once. @param {number} paceMs */
  set paceMs(paceMs) {
    this.#queue.paceMs = paceMs;
    this.later();
  }

  /** One is given up that cannot be sent at all. */
  drop() {
    this.#queue.dropped += 1;
  }

  clear() {
    this.#queue.clear();
  }

  /** @param {LossyMessage} message @param {boolean} coalesce whether a newer one may take its place on a poor link */
  send(message, coalesce) {
    const { room: handle, ...rest } = message;
    const [room, link, mesh] = [this.#ports.room(handle), this.#ports.link(), this.#ports.mesh()];
    const isConnected = link.state === 'connected';
    const reach = room ? mesh.reach(room, message.target) : 'none';
    /** @type {number | undefined} */
    let seq;
    // With a pace it goes to all when it goes to the server, so that all have the same messages with the same numbers.
    if (room && (reach === 'all' || (reach === 'some' && (this.#queue.paceMs === 0 || !isConnected)))) {
      seq = this.#queue.number(handle, message.stream);
      if (mesh.sendLossy(room, { ...rest, seq })) return;
    }
    if (!isConnected) return this.drop();
    // Many in one turn of the event loop are no reason to drop any.
    if (this.#queue.full) link.flush();
    this.#queue.push(message, { coalesce, seq });
    link.wake();
    this.later();
  }

  /** On a poor link messages go when their time has come, and are tried again while the pipe is busy. */
  later() {
    const link = this.#ports.link();
    if (link.state !== 'connected') return;
    const due = this.#queue.dueAt;
    // Without a pace only what is to be sent again has to wait.
    if (due === null || this.hasNext) return;
    const at = Math.max(due, this.#env.now() + POOR_RETRY_MS);
    if (this.#timer && this.#timer.at <= at) return;
    this.#env.clearTimeout(this.#timer?.timer);
    const timer = this.#env.setTimeout(() => {
      this.#timer = null;
      this.#ports.link().flush();
      this.later();
    }, at - this.#env.now());
    this.#timer = { at, timer };
  }

  /** What goes to the server now goes to those who are reached directly too. @param {LossyMessage} message @param {number} seq */
  #share({ room: handle, ...message }, seq) {
    const [room, mesh] = [this.#ports.room(handle), this.#ports.mesh()];
    if (room && mesh.reach(room, message.target) !== 'none') mesh.sendLossy(room, { ...message, seq });
  }

  /** Whether reliable messages have work for a poor link. */
  get #isPipeBusy() {
    return this.#queue.paceMs > 0 && (this.#ports.hasReliable() || this.#ports.link().queued > POOR_QUEUE_BYTES);
  }
}
