/**
 * The client's half of a session's reliable lane (docs/protocol.md, section 3.1): numbers what is sent, keeps it until
 * it is acknowledged, replays it on the next pipe; takes what is received once and in order, and says when an
 * acknowledgement is due.
 *
 * Pure: knows no pipe, sets no timer; `now` is an argument. The server's half is `signaling/src/lane.rs`; both are held
 * to `signaling/vectors/lane.json`.
 */

import { Flag, encodeFrame, stampAck } from './frame.js';
import { COPY_BYTES, OVERHEAD_BYTES, SERVER_ACKS } from './limits.js';
import { Queue } from './queue.js';
import { Scheduler, messageCost } from './scheduler.js';

/**
 * @template [Tag=unknown]
 * @typedef {import('./scheduler.js').Message<Tag>} Message
 */

/**
 * @typedef {object} LaneState
 * @property {{ bytes: Uint8Array, cost: number, tag: any }[]} sent unacknowledged; a tag where a message ends
 * @property {number} numbered
 * @property {number} acked
 * @property {number} received
 * @property {import('./scheduler.js').SchedulerState} waiting
 */

/** What is left of a message of which nothing but its tag is needed. @type {Message<any>} */
const NOTHING = { kind: 'data', room: 0, stream: 0, text: false, target: { tag: 'room' }, payload: new Uint8Array(0) };

/** @template [Tag=unknown] */
export class Lane {
  #scheduler = new Scheduler();
  /** Sent and unacknowledged, oldest first. @type {Queue<{ bytes: Uint8Array, cost: number, done: Message<any> | null }>} */
  #sent = new Queue();
  /** How many of `#sent` have gone out on the current pipe. */
  #cursor = 0;
  /** How many of those have gone out on another pipe too. */
  #copied = 0;
  /** Bytes copied for this doubt. */
  #copiedBytes = 0;
  #lastSent;
  #lastAcked;
  #heldBytes = 0;
  #sentBytes = 0;

  #lastReceived;
  #acks;
  #owedFrames = 0;
  #owedBytes = 0;
  /** @type {number | null} */
  #ackDueAt = null;

  /**
   * `sent` and `received` are the last numbers used, for a lane that does not begin at its beginning.
   * @param {{ limit: number, sent?: number, received?: number, acks?: import('./limits.js').Acks }} options
   */
  constructor({ limit, sent = 0, received = 0, acks = SERVER_ACKS }) {
    /** Bytes held at most. */
    this.limit = limit;
    this.#lastSent = sent;
    this.#lastAcked = sent;
    this.#lastReceived = received;
    this.#acks = acks;
  }

  /** Bytes held: sent and unacknowledged, and waiting. */
  get heldBytes() {
    return this.#heldBytes;
  }

  /** Bytes that wait for their turn. */
  get waitingBytes() {
    return this.#heldBytes - this.#sentBytes;
  }

  get unacknowledgedBytes() {
    return this.#sentBytes;
  }

  get unacknowledgedFrames() {
    return this.#sent.length;
  }

  /** The last `lane_seq` received in order: what ATTACH and ACK say. */
  get received() {
    return this.#lastReceived;
  }

  /** The last `lane_seq` given to a frame. */
  get numbered() {
    return this.#lastSent;
  }

  /** Whether a message of this cost would be taken. @param {number} cost */
  fits(cost) {
    return this.#heldBytes + cost <= this.limit;
  }

  /**
   * Queues a message. False, and nothing happened, when it would exceed the limit (`buffer_full`).
   * @param {Message<Tag>} message
   */
  offer(message) {
    const cost = messageCost(message);
    if (!this.fits(cost)) return false;
    this.#heldBytes += cost;
    this.#scheduler.push(message);
    return true;
  }

  /**
   * The next frame for the current pipe if it has at most `room` bytes: first what is replayed, then what waits. It
   * carries the newest acknowledgement, so none is owed afterwards.
   * @param {number} [room]
   * @returns {Uint8Array | null}
   */
  next(room = Infinity) {
    let entry = this.#sent.at(this.#cursor);
    if (!entry) {
      const length = this.#scheduler.peekLength();
      if (length === undefined || length > room) return null;
      entry = this.#number();
    } else if (entry.bytes.length > room) {
      return null;
    }
    this.#cursor += 1;
    stampAck(entry.bytes, this.takeAck());
    return entry.bytes;
  }

  /** Whether what comes next was sent before. */
  get replays() {
    return this.#cursor < this.#sent.length;
  }

  /** Whether `next` has something to give. */
  get hasNext() {
    return this.#cursor < this.#sent.length || this.#scheduler.peekLength() !== undefined;
  }

  /** Whether data of a room waits for its first turn. @param {number} room */
  waitsFor(room) {
    return this.#scheduler.waitsFor(room);
  }

  /**
   * Everything up to `ack` has arrived. Gives the tags of the messages that are complete by it. An acknowledgement of
   * what was never sent, or older than the last, changes nothing.
   * @param {number} ack
   * @returns {Tag[]}
   */
  acknowledge(ack) {
    const ahead = (ack - this.#lastAcked) >>> 0;
    if (ahead === 0 || ahead > this.#sent.length) return [];
    const tags = [];
    for (let i = 0; i < ahead; i += 1) {
      const entry = this.#sent.shift();
      if (!entry) break;
      this.#heldBytes -= entry.cost;
      this.#sentBytes -= entry.cost;
      if (entry.done?.tag !== undefined) tags.push(entry.done.tag);
    }
    this.#lastAcked = ack;
    this.#cursor = Math.max(0, this.#cursor - ahead);
    this.#copied = Math.max(0, this.#copied - ahead);
    return tags;
  }

  /** From the oldest on, `copy` gives what is not acknowledged, up to `COPY_BYTES`. */
  copyAnew() {
    this.#copied = 0;
    this.#copiedBytes = 0;
  }

  /**
   * The next frame that is on the current pipe and not acknowledged, for another one, if it has at most `room` bytes: in order,
   * each once, for the other side takes what is next and drops the other copy.
   * @param {number} room
   * @returns {Uint8Array | null}
   */
  copy(room) {
    const entry = this.copies ? this.#sent.at(this.#copied) : undefined;
    if (!entry || entry.bytes.length > room) return null;
    this.#copied += 1;
    this.#copiedBytes += entry.bytes.length;
    stampAck(entry.bytes, this.takeAck());
    return entry.bytes;
  }

  /** Whether there is more to copy. */
  get copies() {
    return this.#copied < this.#cursor && this.#copiedBytes < COPY_BYTES;
  }

  /**
   * A new pipe: what comes after `ack` is sent again, in order, before anything new. Null when `ack` is not a number
   * this lane can go on from: the other side has lost its state.
   * @param {number} ack
   * @returns {Tag[] | null}
   */
  replayFrom(ack) {
    if ((ack - this.#lastAcked) >>> 0 > this.#sent.length) return null;
    const tags = this.acknowledge(ack);
    this.#cursor = 0;
    this.#copied = 0;
    return tags;
  }

  /** The later of this acknowledgement, which one on another pipe may have overtaken, and the last. @param {number} ack */
  newest(ack) {
    return (ack - this.#lastAcked) >>> 0 > 0x7fff_ffff ? this.#lastAcked : ack;
  }

  /**
   * Whether a received reliable frame is the next one, one already taken, or ahead of a missing one.
   * @param {number} seq
   * @param {number} length bytes of its payload
   * @param {number} now
   * @returns {'next' | 'duplicate' | 'lane_gap'}
   */
  receive(seq, length, now) {
    const ahead = (seq - this.#lastReceived) >>> 0;
    if (ahead === 0 || ahead > 0x7fff_ffff) {
      // The sender repeats itself, so it does not know what arrived.
      this.#ackDueAt = now;
      return 'duplicate';
    }
    if (ahead > 1) return 'lane_gap';
    this.#lastReceived = seq;
    this.#owedFrames += 1;
    this.#owedBytes += length;
    const { frames, bytes, delay } = this.#acks;
    if (this.#owedFrames >= frames || this.#owedBytes >= bytes) this.#ackDueAt = now;
    else this.#ackDueAt ??= now + delay;
    return 'next';
  }

  /** When an acknowledgement is to be sent alone: a time, which may have passed, or null if none is owed. */
  get ackDueAt() {
    return this.#ackDueAt;
  }

  /** One is owed, though nothing has come. Gives when it is due. @param {number} now */
  owe(now) {
    return (this.#ackDueAt ??= now + this.#acks.delay);
  }

  /** The acknowledgement to send now, alone or in any frame that has one. None is owed afterwards. */
  takeAck() {
    this.#owedFrames = 0;
    this.#owedBytes = 0;
    this.#ackDueAt = null;
    return this.#lastReceived;
  }

  /**
   * All that another tab needs to go on with this lane. What waits is given as it is, tags included.
   * @returns {LaneState}
   */
  state() {
    const sent = [...this.#sent].map(({ bytes, cost, done }) => ({ bytes, cost, tag: done?.tag ?? null }));
    return { sent, numbered: this.#lastSent, acked: this.#lastAcked, received: this.#lastReceived, waiting: this.#scheduler.state() };
  }

  /** Goes on where another lane was; everything sent counts as sent on the current pipe. @param {LaneState} state */
  restore({ sent, numbered, acked, received, waiting }) {
    this.#sent = new Queue();
    this.#sentBytes = 0;
    for (const { bytes, cost, tag } of sent) {
      this.#sent.push({ bytes, cost, done: tag === null ? null : { ...NOTHING, tag } });
      this.#sentBytes += cost;
    }
    this.#cursor = this.#sent.length;
    this.#copied = 0;
    this.#lastSent = numbered;
    this.#lastAcked = acked;
    this.#lastReceived = received;
    this.takeAck();
    this.#scheduler = new Scheduler();
    this.#heldBytes = this.#sentBytes + this.#scheduler.restore(waiting);
  }

  /**
   * The end of the session: what was sent or begun without an acknowledgement (it may or may not have arrived), and
   * what never left.
   * @returns {{ uncertain: Message<Tag>[], waiting: Message<Tag>[] }}
   */
  abandon() {
    /** @type {Message<Tag>[]} */
    const uncertain = [];
    /** @type {Message<Tag>[]} */
    const waiting = [];
    for (const entry of this.#sent) if (entry.done) uncertain.push(entry.done);
    for (const { message, begun } of this.#scheduler.messages()) (begun ? uncertain : waiting).push(message);
    return { uncertain, waiting };
  }

  /** Gives the next chunk its number and keeps it. */
  #number() {
    const chunk = /** @type {import('./scheduler.js').Chunk} */ (this.#scheduler.take());
    const { message } = chunk;
    this.#lastSent = (this.#lastSent + 1) >>> 0;
    /** @type {import('./frame.js').ReliableFrame} */
    const frame = {
      kind: message.kind,
      flags: chunk.flags,
      laneSeq: this.#lastSent,
      ack: this.#lastReceived,
      room: message.room,
      sender: 0,
      stream: message.stream,
      target: message.target,
      payload: chunk.payload,
    };
    if (chunk.total !== undefined) frame.total = chunk.total;
    const bytes = encodeFrame(frame);
    const last = (chunk.flags & Flag.LAST) !== 0;
    const entry = { bytes, cost: chunk.payload.length + OVERHEAD_BYTES, done: last ? message : null };
    this.#sent.push(entry);
    this.#sentBytes += entry.cost;
    // What waited as one message is held as frames.
    if (!last) this.#heldBytes += OVERHEAD_BYTES;
    return entry;
  }
}
