/**
 * Large things for one member: reliable messages that take the direct connection where it stands, and the server where not,
 * and change between the two without loss, doubling or another order. Both halves, for one member each; no I/O.
 *
 * Messages are numbered per receiver and sending tab, so that tabs that share a session need not agree on numbers. They are kept until the receiver has acknowledged them, and what went directly goes over
 * the server if the connection falls before that; the receiver drops what it has and holds what comes too early. The server
 * gives up what a slow receiver does not take, so that way too there is never more under way than it keeps, and what is lost
 * there is sent again. A receiver that may only read cannot acknowledge over the server: what that has taken counts then.
 */

import { Assembly } from '../assembly.js';
import { Flag } from '../frame.js';
import { CHUNK_BYTES } from '../limits.js';

/** The stream of these messages; applications have those below. */
export const BULK_STREAM = 65_535;
/** Beside TEXT in the flags: it is no message, but says what has come; and, that messages over the server are missing. */
const ACK = 2;
const AGAIN = 4;
/** Before the data: the receiver, the number, the application's stream, the sender's tab, flags. */
export const HEADER_BYTES = 13;
const FLAGS_AT = 12;
/** Sent directly and not acknowledged, which is what a receiver may have to hold; and what may wait. */
const WINDOW_BYTES = 1_048_576;
const WAITING_BYTES = 8_388_608;
/** Given to the server and not acknowledged: less than it keeps for a receiver. */
const SERVER_BYTES = 524_288;
/** What a small one counts besides. */
const OVERHEAD_BYTES = 256;
/** What a receiver holds: a window and one message that is larger. */
const HELD_BYTES = 2 * WINDOW_BYTES;

/**
 * @typedef {object} Parcel
 * @property {number} n
 * @property {Uint8Array} payload with its header
 * @property {'waits' | 'direct' | 'server'} by
 * @property {boolean} isTaken by the server
 * @property {() => void} resolve
 * @property {(error: Error) => void} reject
 *
 * @typedef {{ tab: number, n: number, data: Uint8Array, isText: boolean, stream: number }} BulkMessage `n` is its number among those of
 *   the sender's tab
 * @typedef {BulkMessage & { room: number, self: number, member: number }} Bulk and whose it is: by and to members of a room
 * @typedef {{ flags: number, total: number, payload: Uint8Array }} Chunk of a message, on its way over a connection
 * @typedef {{ tab: number, n: number, isAgain: boolean }} Acknowledgement of all up to `n`
 *
 * @typedef {object} BulkWays
 * @property {() => number} directRoom bytes that the direct connection takes now; 0 without one
 * @property {() => boolean} isDirect whether there is one
 * @property {(chunk: Chunk) => boolean} direct
 * @property {(payload: Uint8Array) => Promise<void>} server throws if it has no room
 * @property {() => boolean} acknowledges whether the receiver can, over the server
 */

export class BulkSender {
  #ways;
  #member;
  #last = 0;
  /** In order. @type {Parcel[]} */
  #parcels = [];
  #waitingBytes = 0;
  /** Chunks of a parcel that have gone directly. */
  #chunks = 0;
  counters = { direct: 0, server: 0, again: 0 };

  /** Of which of the tabs that share the session. */
  tab;

  /** @param {number} member who it is for @param {number} tab @param {BulkWays} ways */
  constructor(member, tab, ways) {
    this.#member = member;
    this.#ways = ways;
    this.tab = tab;
  }

  /** Whether another one may be sent. @param {number} bytes */
  fits(bytes) {
    return this.#parcels.length === 0 || this.#waitingBytes + bytes <= WAITING_BYTES;
  }

  /**
   * @param {Uint8Array} data
   * @param {boolean} isText
   * @param {number} stream
   * @returns {Promise<void>} when the receiver or the server has it
   */
  send(data, isText, stream) {
    this.#last = (this.#last + 1) >>> 0 || 1;
    const payload = write(this.#member, { tab: this.tab, n: this.#last, data, isText, stream });
    this.#waitingBytes += payload.length;
    /** @type {Promise<void>} */
    const sent = new Promise((resolve, reject) => {
      this.#parcels.push({ n: this.#last, payload, by: 'waits', isTaken: false, resolve, reject });
    });
    sent.catch(() => {});
    this.pump();
    return sent;
  }

  /** The receiver has what came directly up to here. @param {number} n */
  acknowledge(n) {
    for (const parcel of this.#parcels.filter((each) => each.n <= n)) this.#done(parcel);
    this.pump();
  }

  /** What the server has taken and the receiver has not acknowledged is sent again. */
  again() {
    for (const parcel of this.#parcels) {
      if (parcel.by !== 'server' || !parcel.isTaken) continue;
      parcel.by = 'waits';
      this.counters.again += 1;
    }
    this.pump();
  }

  /** The oldest that is not acknowledged; null if there is none. */
  get oldest() {
    return this.#parcels[0]?.n ?? null;
  }

  /** A way has room again, or there is another way. */
  pump() {
    if (this.#ways.isDirect()) {
      this.#pumpDirect();
      return;
    }
    this.#chunks = 0;
    for (const parcel of this.#parcels) {
      if (parcel.by !== 'direct') continue;
      parcel.by = 'waits';
      this.counters.again += 1;
    }
    this.#pumpServer();
  }

  /** It is not known what has arrived, and never will be. @param {Error} error */
  abandon(error) {
    for (const { reject } of this.#parcels.splice(0)) reject(error);
    this.#waitingBytes = 0;
  }

  #pumpDirect() {
    let window = 0;
    for (const parcel of this.#parcels) {
      if (parcel.by === 'direct') window += cost(parcel);
      if (parcel.by !== 'waits') continue;
      if (window > 0 && window + cost(parcel) > WINDOW_BYTES) return;
      if (!this.#sendChunks(parcel)) return;
      parcel.by = 'direct';
      this.counters.direct += 1;
      window += cost(parcel);
    }
  }

  /** False if some are left. @param {Parcel} parcel */
  #sendChunks({ payload }) {
    const count = Math.ceil(payload.length / CHUNK_BYTES);
    for (; this.#chunks < count; this.#chunks += 1) {
      if (this.#ways.directRoom() < 2 * CHUNK_BYTES) return false;
      const at = this.#chunks * CHUNK_BYTES;
      const flags = (at === 0 ? Flag.FIRST : 0) | (this.#chunks === count - 1 ? Flag.LAST : 0);
      const chunk = { flags, total: payload.length, payload: payload.subarray(at, at + CHUNK_BYTES) };
      if (!this.#ways.direct(chunk)) return false;
    }
    this.#chunks = 0;
    return true;
  }

  #pumpServer() {
    let given = 0;
    for (const parcel of [...this.#parcels]) {
      if (parcel.by !== 'server') {
        if (given > 0 && given + parcel.payload.length > SERVER_BYTES) return;
        if (!this.#giveToServer(parcel)) return;
      }
      given += parcel.payload.length;
    }
  }

  /** @param {Parcel} parcel */
  #giveToServer(parcel) {
    let taken;
    try {
      taken = this.#ways.server(parcel.payload);
    } catch {
      return false;
    }
    parcel.by = 'server';
    parcel.isTaken = false;
    this.counters.server += 1;
    taken.then(
      () => {
        parcel.isTaken = true;
        if (this.#ways.acknowledges()) return;
        this.#done(parcel);
        this.pump();
      },
      (error) => {
        // In a session that tabs share the answer may come later than the question.
        if (error.code === 'buffer_full') {
          parcel.by = 'waits';
          return;
        }
        this.#remove(parcel);
        parcel.reject(error);
      },
    );
    return true;
  }

  /** @param {Parcel} parcel */
  #done(parcel) {
    this.#remove(parcel);
    parcel.resolve();
  }

  /** @param {Parcel} parcel */
  #remove(parcel) {
    const at = this.#parcels.indexOf(parcel);
    if (at < 0) return;
    this.#parcels.splice(at, 1);
    this.#waitingBytes -= parcel.payload.length;
  }
}

export class BulkReceiver {
  #self;
  #limit;
  #assembly;
  #next = 1;
  /** Too early. @type {Map<number, Uint8Array>} */
  #held = new Map();
  #heldBytes = 0;
  /** After messages over the server are missing the next one tells where it goes on. */
  #hasGap = false;

  /** @param {number} self one's own member number @param {number} limit bytes of a message */
  constructor(self, limit) {
    this.#self = self;
    this.#limit = limit;
    this.#assembly = new Assembly(limit);
  }

  /** All before this one are here. */
  get acknowledged() {
    return this.#next - 1;
  }

  /** Another page of this session has taken all up to this one. @param {number} n */
  tookTo(n) {
    if (n < this.#next) return;
    for (const [held, bytes] of this.#held) {
      if (held > n) continue;
      this.#held.delete(held);
      this.#heldBytes -= bytes.length + OVERHEAD_BYTES;
    }
    this.#next = n + 1;
  }

  /** Messages over the server are missing, and cannot be asked for. */
  gap() {
    this.#hasGap = true;
  }

  /** A chunk has come directly. @param {import('../frame.js').ReliableFrame} frame */
  takeChunk(frame) {
    // What an older connection had begun is not finished.
    if (frame.flags & Flag.FIRST) this.#assembly = new Assembly(this.#limit);
    const message = this.#assembly.take({ ...frame, room: 0, sender: 0 });
    return message && message !== 'bad' ? this.#take(message.payload, false) : [];
  }

  /** A message has come over the server. @param {Uint8Array} payload */
  takeMessage(payload) {
    return this.#take(payload, true);
  }

  /**
   * Gives those that are next.
   * @param {Uint8Array} payload @param {boolean} isByServer
   * @returns {BulkMessage[]}
   */
  #take(payload, isByServer) {
    if (payload.length < HEADER_BYTES || payload[FLAGS_AT] & ACK) return [];
    const view = new DataView(payload.buffer, payload.byteOffset);
    const n = view.getUint32(4);
    // All sessions of a user have what goes to it over the server.
    if (view.getUint32(0) !== this.#self || n < this.#next || this.#held.has(n)) return [];
    if (n > this.#next && this.#hasGap && isByServer) this.#next = n;
    if (isByServer) this.#hasGap = false;
    if (n !== this.#next && this.#heldBytes + payload.length + OVERHEAD_BYTES > HELD_BYTES) return [];
    this.#held.set(n, payload);
    this.#heldBytes += payload.length + OVERHEAD_BYTES;
    const due = [];
    for (let bytes; (bytes = this.#held.get(this.#next)); this.#next += 1) {
      this.#held.delete(this.#next);
      this.#heldBytes -= bytes.length + OVERHEAD_BYTES;
      due.push(read(bytes));
    }
    return due;
  }
}

/** What has come, for the sender, over the server. @param {number} member @param {Acknowledgement} what */
export function acknowledgement(member, { tab, n, isAgain }) {
  return header(member, { tab, n, stream: 0, flags: ACK | (isAgain ? AGAIN : 0) }, 0);
}

/**
 * @param {Uint8Array} payload
 * @param {number} self
 * @returns {Acknowledgement | null} null if it is none, or for another
 */
export function readAcknowledgement(payload, self) {
  if (payload.length !== HEADER_BYTES || !(payload[FLAGS_AT] & ACK)) return null;
  const view = new DataView(payload.buffer, payload.byteOffset);
  if (view.getUint32(0) !== self) return null;
  return { tab: view.getUint16(10), n: view.getUint32(4), isAgain: (payload[FLAGS_AT] & AGAIN) !== 0 };
}

/** Who a message is for, and which of its sender's tabs it is from; null if it is none. @param {Uint8Array} payload */
export function readAddress(payload) {
  if (payload.length < HEADER_BYTES) return null;
  const view = new DataView(payload.buffer, payload.byteOffset);
  return { member: view.getUint32(0), tab: view.getUint16(10) };
}

/** @param {Parcel} parcel */
function cost({ payload }) {
  return payload.length + OVERHEAD_BYTES;
}

/** @param {number} member who it is for @param {BulkMessage} message */
function write(member, { tab, n, data, isText, stream }) {
  const payload = header(member, { tab, n, stream, flags: isText ? Flag.TEXT : 0 }, data.length);
  payload.set(data, HEADER_BYTES);
  return payload;
}

/**
 * @param {number} member
 * @param {{ tab: number, n: number, stream: number, flags: number }} what
 * @param {number} length bytes that follow it
 */
function header(member, { tab, n, stream, flags }, length) {
  const payload = new Uint8Array(HEADER_BYTES + length);
  const view = new DataView(payload.buffer);
  view.setUint32(0, member);
  view.setUint32(4, n);
  view.setUint16(8, stream);
  view.setUint16(10, tab);
  view.setUint8(FLAGS_AT, flags);
  return payload;
}

/** @param {Uint8Array} payload @returns {BulkMessage} */
function read(payload) {
  const view = new DataView(payload.buffer, payload.byteOffset);
  const isText = (view.getUint8(FLAGS_AT) & Flag.TEXT) !== 0;
  return { tab: view.getUint16(10), n: view.getUint32(4), data: payload.subarray(HEADER_BYTES), isText, stream: view.getUint16(8) };
}
