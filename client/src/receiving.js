/**
 * What comes from the server: takes frames in the lane's order, puts messages together (assembly.js), and gives each to its
 * room, the room's log or the mesh; control messages to the session.
 */

import { Assembly } from './assembly.js';
import { Flag, FrameError, decodeText } from './frame.js';
import { BULK_STREAM } from './mesh/bulk.js';
import { COPY_STREAM } from './mesh/mesh.js';

/**
 * @typedef {object} ReceivingPorts what this asks of its session
 * @property {import('./rooms.js').Rooms} rooms
 * @property {import('./tabs/shared-link.js').SharedLink | null} tabs
 * @property {() => import('./lane.js').Lane<import('./sending.js').Delivery>} lane another one in each session at the server
 * @property {() => import('./mesh/mesh.js').Mesh} mesh
 * @property {() => number} now
 * @property {(due: number) => void} ackAt an acknowledgement is due then
 * @property {(room: import('./room.js').Room) => void} leaving there may be room for its `leave`
 * @property {(handle: number, payload: Uint8Array) => void} control
 */

export class Receiving {
  #ports;
  #assembly;
  /** Lossy messages of other tabs of this user. */
  #echoed = 0;
  counters = { duplicates: 0, laneGaps: 0, badMessages: 0, bytesReceived: 0 };

  /** @param {number} limit bytes of a message @param {ReceivingPorts} ports */
  constructor(limit, ports) {
    this.#assembly = new Assembly(limit);
    this.#ports = ports;
  }

  /** Bytes of a message at most. @param {number} limit */
  set limit(limit) {
    this.#assembly.limit = limit;
  }

  /** The session is another one: what had begun will not go on. @param {number} limit */
  restart(limit) {
    this.#assembly = new Assembly(limit);
  }

  /** The room is left. @param {number} handle */
  forget(handle) {
    this.#assembly.forget(handle);
  }

  /**
   * @param {import('./frame.js').Frame} frame
   * @param {number} length
   * @returns {'taken' | 'lane_gap'}
   */
  frame(frame, length) {
    this.counters.bytesReceived += length;
    switch (frame.kind) {
      case 'ack':
        this.#acknowledged(frame.ack);
        return 'taken';
      case 'lossy':
        this.message(frame, frame.payload, frame);
        return 'taken';
      case 'data':
      case 'control':
      case 'log':
      case 'gap':
        return this.#reliable(frame);
      default:
        return 'taken';
    }
  }

  /**
   * @param {{ room: number, flags: number, sender: number, stream: number, target?: import('./frame.js').Target }} frame
   * @param {Uint8Array} payload
   * @param {{ seq?: number, isDirect?: boolean }} [lossy]
   */
  message({ room: handle, flags, sender, stream, target = { tag: 'room' } }, payload, { seq, isDirect } = {}) {
    const room = this.#ports.rooms.at(handle);
    if (!room) return;
    // Another tab may have subscribed to it.
    if (this.#ports.tabs && target.tag === 'topic' && !room.topics.includes(target.topic)) return;
    if (stream === BULK_STREAM && seq === undefined) {
      this.#ports.mesh().received(room, sender, payload);
      return;
    }
    let data;
    try {
      // A copy, because a view would keep the whole pipe message alive.
      data = flags & Flag.TEXT ? decodeText(payload) : payload.slice();
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.counters.badMessages += 1;
      return;
    }
    room.deliver(data, { sender, stream, target, seq, isDirect });
  }

  /**
   * The server does not send a member what it has sent itself; another tab has.
   * @param {import('./sending.js').Outgoing | import('./lossy.js').LossyMessage} message
   * @param {boolean} isLossy
   */
  echo(message, isLossy) {
    const self = this.#ports.rooms.at(message.room)?.self;
    const { target, stream } = message;
    if (!self || stream === COPY_STREAM || (target.tag === 'users' && !target.users.includes(self.user))) return;
    const flags = 'flags' in message ? message.flags : message.text ? Flag.TEXT : 0;
    const from = { room: message.room, flags, sender: self.member, stream, target };
    this.message(from, message.payload, isLossy ? { seq: (this.#echoed += 1) } : {});
  }

  /**
   * @param {import('./frame.js').ReliableFrame | import('./frame.js').GapFrame} frame
   * @returns {'taken' | 'lane_gap'}
   */
  #reliable(frame) {
    const payload = frame.kind === 'gap' ? 0 : frame.payload.length;
    const order = this.#ports.lane().receive(frame.laneSeq, payload, this.#ports.now());
    if (order === 'lane_gap') {
      this.counters.laneGaps += 1;
      return 'lane_gap';
    }
    this.#acknowledged(frame.ack);
    const due = this.#ports.lane().ackDueAt;
    if (due !== null) this.#ports.ackAt(due);
    if (order === 'duplicate') {
      this.counters.duplicates += 1;
      return 'taken';
    }
    if (frame.kind === 'gap') {
      this.#gap(frame);
      return 'taken';
    }
    const message = this.#assembly.take(frame);
    if (message === 'bad') {
      this.counters.badMessages += 1;
      if (frame.kind === 'log') this.#ports.rooms.at(frame.room)?.logOrNull?.gap();
    } else if (message && frame.kind === 'log') this.#ports.rooms.at(frame.room)?.logOrNull?.receive(message.payload);
    else if (message && frame.kind === 'data') this.message(message.first, message.payload);
    else if (message) this.#ports.control(frame.room, message.payload);
    return 'taken';
  }

  /** Messages are missing, one that had begun among them. @param {import('./frame.js').GapFrame} frame */
  #gap({ room, sender, stream, count }) {
    const whole = sender === 0;
    if (whole) this.#assembly.forget(room);
    else this.#assembly.forget(room, sender, stream);
    if (whole) this.#ports.rooms.at(room)?.logOrNull?.gap();
    const known = this.#ports.rooms.at(room);
    if (known && (whole || stream === BULK_STREAM)) this.#ports.mesh().gap(known, whole ? null : sender);
    known?.gap(whole ? null : sender, stream, count);
  }

  /** @param {number} ack */
  #acknowledged(ack) {
    for (const delivery of this.#ports.lane().acknowledge(ack)) delivery.resolve();
    for (const room of this.#ports.rooms.all) {
      room.logOrNull?.wake();
      if (room.leaving) this.#ports.leaving(room);
    }
  }
}
