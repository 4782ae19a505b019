/**
 * What rooms send over the session's reliable lane (lane.js): messages, and requests to the server. A message to a room that
 * is being joined anew waits here for its handle; what a request was is known here until it may have been refused; and a
 * room's `leave` goes once, after all else. What may be lost is sent by ephemera.js.
 */

import { text } from './control.js';
import { SwitchyardError, lost } from './errors.js';
import { LOG_MESSAGE_BYTES, OVERHEAD_BYTES } from './limits.js';
import { messageCost } from './scheduler.js';
import { IDS } from './tabs/wire.js';

/** More than a `leave` costs. */
const LEAVE_BYTES = 128;
/** Requests of which it is known what they were. */
const REQUESTS = 256;
const utf8 = new TextEncoder();

/**
 * @typedef {import('./room.js').Room} Room
 *
 * @typedef {object} Delivery the tag of a message in the lane
 * @property {Room} room
 * @property {() => void} resolve
 * @property {(error: Error) => void} reject
 *
 * @typedef {import('./scheduler.js').Message<Delivery>} Outgoing
 *
 * @typedef {object} SendingPorts what this asks of its session
 * @property {import('./rooms.js').Rooms} rooms
 * @property {import('./tabs/shared-link.js').SharedLink | null} tabs
 * @property {() => import('./lane.js').Lane<Delivery>} lane another one in each session at the server
 * @property {() => void} wake something may be there to be sent
 * @property {() => number} limit bytes that may wait
 */

export class Sending {
  #ports;
  /** Messages of rooms that are being joined anew. @type {Outgoing[]} */
  #parked = [];
  #parkedBytes = 0;
  /** What requests were, for refusals. @type {Map<number, string>} */
  #requests = new Map();
  #nextId = 1;
  /** Rooms whose `leave` is sent. @type {WeakSet<Room>} */
  #leaves = new WeakSet();

  /** @param {SendingPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /** Bytes that wait for rooms to be joined anew. */
  get parkedBytes() {
    return this.#parkedBytes;
  }

  /** For a request. */
  newId() {
    // A tab's numbers begin again after so many: the requests that had them are long answered.
    if (this.#ports.tabs) return this.#ports.tabs.idBase + (this.#nextId++ % IDS);
    return this.#nextId++;
  }

  /** What the request of this number was. @param {unknown} id */
  requestOf(id) {
    return typeof id === 'number' ? this.#requests.get(id) : undefined;
  }

  /**
   * Resolves when the server has it. Throws `buffer_full`.
   * @param {Room} room
   * @param {Outgoing} message
   * @returns {Promise<void>}
   */
  offer(room, message) {
    /** @type {Promise<void>} */
    const promise = new Promise((resolve, reject) => {
      message.tag = { room, resolve, reject };
    });
    promise.catch(() => {});
    const handle = this.#ports.rooms.handleOf(room);
    let taken;
    if (handle === undefined) {
      taken = this.#parkedBytes + messageCost(message) <= this.#ports.limit();
      if (taken) this.#park(message);
    } else {
      message.room = handle;
      taken = this.#ports.lane().offer(message);
    }
    if (!taken) throw new SwitchyardError('buffer_full', 'too much waits to be sent or acknowledged');
    this.#ports.wake();
    return promise;
  }

  /** @param {Room} room @param {Record<string, unknown>} message @param {string} [name] of the request, for a refusal */
  request(room, message, name = text(message.type)) {
    const id = this.newId();
    this.#requests.set(id, name);
    if (this.#requests.size > REQUESTS) this.#requests.delete(this.#requests.keys().next().value ?? 0);
    const payload = utf8.encode(JSON.stringify({ ...message, id }));
    return { id, sent: this.offer(room, { kind: 'control', room: 0, stream: 0, text: true, target: { tag: 'room' }, payload }) };
  }

  /** Whether there is room for another message of records. @param {Room} room */
  fitsLog(room) {
    return this.#ports.rooms.handleOf(room) !== undefined && this.#ports.lane().fits(LOG_MESSAGE_BYTES + OVERHEAD_BYTES);
  }

  /** Records, of which the log itself knows what became. @param {Room} room @param {Uint8Array} payload */
  log(room, payload) {
    const handle = this.#ports.rooms.handleOf(room) ?? 0;
    this.#ports.lane().offer({ kind: 'log', room: handle, stream: 0, text: false, target: { tag: 'room' }, payload });
    this.#ports.wake();
  }

  /** Once, and not before what was sent to the room has left: control messages overtake. @param {Room} room */
  leave(room) {
    const handle = this.#ports.rooms.handleOf(room);
    if (handle === undefined || this.#leaves.has(room)) return;
    const lane = this.#ports.lane();
    if (lane.waitsFor(handle) || !lane.fits(LEAVE_BYTES)) return;
    this.#leaves.add(room);
    if (!this.#ports.tabs?.leave(room.name, handle)) this.request(room, { type: 'leave' });
  }

  /** The session is over, and this had not been sent. @param {Outgoing[]} waiting @param {(room: Room) => boolean} isKept */
  sessionLost(waiting, isKept) {
    for (const message of waiting) {
      // Requests name rooms by handles that are gone; data is told its new handle.
      if (message.kind === 'data' && message.tag && isKept(message.tag.room)) this.#park(message);
      else message.tag?.reject(lost());
    }
  }

  /** Nothing that was requested will be answered. */
  forgetRequests() {
    this.#requests.clear();
  }

  /** Sends or gives up what waited for a room. @param {Room} room @param {number | null} handle */
  unpark(room, handle) {
    const parked = this.#parked;
    this.#parked = [];
    this.#parkedBytes = 0;
    for (const message of parked) {
      if (message.tag?.room !== room) this.#park(message);
      else if (handle === null || !this.#ports.lane().offer({ ...message, room: handle })) message.tag.reject(lost());
    }
    this.#ports.wake();
  }

  /** @param {Outgoing} message */
  #park(message) {
    this.#parked.push(message);
    this.#parkedBytes += messageCost(message);
  }
}
