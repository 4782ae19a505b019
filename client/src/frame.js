/**
 * Binary frames (docs/protocol.md, section 3): encoding and decoding, every length checked. Nothing here knows about
 * pipes, order or rooms. The server's half is `signaling/src/frame.rs`; both are held to
 * `signaling/vectors/frames.json`.
 */

import { CHUNK_BYTES, TARGET_USERS, TOPIC_BYTES, USER_BYTES } from './limits.js';

/** The byte that begins a frame. */
export const Kind = Object.freeze({
  DATA: 0x01,
  CONTROL: 0x02,
  GAP: 0x03,
  LOG: 0x04,
  LOSSY: 0x10,
  ACK: 0x20,
  PING: 0x21,
  PONG: 0x22,
  ATTACH: 0x23,
  ATTACHED: 0x24,
});

/** Bits of the `flags` byte. */
export const Flag = Object.freeze({ TEXT: 1, FIRST: 2, LAST: 4 });

/** The nonce of a PING that tells of a doubt: the sender hears nothing on the data channel. Probes begin at 1. */
export const DOUBT_NONCE = 0;

/** Bytes of a reliable frame before its target or payload. */
export const RELIABLE_HEADER_BYTES = 18;
const LOSSY_HEADER_BYTES = 14;
const LOSSY_PAYLOAD_BYTES = 15_360;
const GAP_BYTES = 22;
const ACK_AT = 6;
const RELIABLE_KINDS = { data: Kind.DATA, control: Kind.CONTROL, log: Kind.LOG };

/**
 * Whom a message is for: the whole room, named users, or the subscribers of a topic.
 * @typedef {{ tag: 'room' } | { tag: 'users', users: string[] } | { tag: 'topic', topic: string }} Target
 *
 * @typedef {'data' | 'control' | 'log'} ReliableKind
 *
 * @typedef {object} ReliableFrame DATA, CONTROL and LOG
 * @property {ReliableKind} kind
 * @property {number} flags
 * @property {number} laneSeq
 * @property {number} ack
 * @property {number} room
 * @property {number} sender
 * @property {number} stream
 * @property {Target} [target] on a FIRST chunk
 * @property {number} [total] on a FIRST chunk that is not also LAST
 * @property {Uint8Array} payload
 *
 * @typedef {{ kind: 'gap', laneSeq: number, ack: number, room: number, sender: number, stream: number, count: number }} GapFrame
 * @typedef {{ kind: 'lossy', flags: number, room: number, sender: number, stream: number, seq: number, target: Target,
 *   payload: Uint8Array }} LossyFrame
 * @typedef {{ kind: 'ack', ack: number }} AckFrame
 * @typedef {{ kind: 'ping' | 'pong', nonce: number }} ProbeFrame
 * @typedef {{ kind: 'attach' | 'attached', gen: number, ack: number }} AttachFrame
 * @typedef {{ kind: 'unknown', code: number }} UnknownFrame of a newer peer; ignored and counted
 * @typedef {ReliableFrame | GapFrame | LossyFrame | AckFrame | ProbeFrame | AttachFrame | UnknownFrame} Frame
 */

/** A frame or pipe message that does not parse (`bad_frame`). */
export class FrameError extends Error {
  /** @param {string} message */
  constructor(message) {
    super(message);
    this.name = 'FrameError';
  }
}

/**
 * The frames of one pipe message, as views into it, one after the other; throws where it does not go on.
 * @param {Uint8Array} message
 * @returns {Generator<Uint8Array>}
 */
export function* splitFrames(message) {
  let at = 0;
  while (at < message.length) {
    if (message.length - at < 2) throw new FrameError('half a length');
    const length = (message[at] << 8) | message[at + 1];
    at += 2;
    if (length === 0) throw new FrameError('empty frame');
    if (length > message.length - at) throw new FrameError('frame beyond the end of the message');
    yield message.subarray(at, at + length);
    at += length;
  }
}

/**
 * One pipe message of several frames.
 * @param {readonly Uint8Array[]} frames
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function joinFrames(frames) {
  let size = 0;
  for (const frame of frames) size += 2 + frame.length;
  const message = new Uint8Array(size);
  let at = 0;
  for (const frame of frames) {
    message[at] = frame.length >> 8;
    message[at + 1] = frame.length & 0xff;
    message.set(frame, at + 2);
    at += 2 + frame.length;
  }
  return message;
}

/**
 * @param {Uint8Array} bytes one frame, without its length
 * @returns {Frame}
 */
export function decodeFrame(bytes) {
  if (bytes.length === 0) throw new FrameError('empty frame');
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const code = bytes[0];
  switch (code) {
    case Kind.DATA:
      return decodeReliable('data', bytes, view);
    case Kind.CONTROL:
      return decodeReliable('control', bytes, view);
    case Kind.LOG:
      return decodeReliable('log', bytes, view);
    case Kind.GAP: {
      atLeast(bytes, GAP_BYTES);
      if (bytes[1] !== 0) throw new FrameError('flags on a gap');
      return { kind: 'gap', ...reliableHeader(view), count: view.getUint32(18) };
    }
    case Kind.LOSSY:
      return decodeLossy(bytes, view);
    case Kind.ACK:
      atLeast(bytes, 5);
      return { kind: 'ack', ack: view.getUint32(1) };
    case Kind.PING:
    case Kind.PONG:
      atLeast(bytes, 5);
      return { kind: code === Kind.PING ? 'ping' : 'pong', nonce: view.getUint32(1) };
    case Kind.ATTACH:
    case Kind.ATTACHED:
      atLeast(bytes, 9);
      return { kind: code === Kind.ATTACH ? 'attach' : 'attached', gen: view.getUint32(1), ack: view.getUint32(5) };
    default:
      return { kind: 'unknown', code };
  }
}

/**
 * @param {Exclude<Frame, UnknownFrame>} frame
 * @returns {Uint8Array<ArrayBuffer>}
 */
export function encodeFrame(frame) {
  switch (frame.kind) {
    case 'data':
    case 'control':
    case 'log':
      return encodeReliable(frame);
    case 'gap': {
      const bytes = new Uint8Array(GAP_BYTES);
      const view = writeReliableHeader(bytes, Kind.GAP, 0, frame);
      view.setUint32(18, frame.count);
      return bytes;
    }
    case 'lossy':
      return encodeLossy(frame);
    case 'ack':
      return encodeNumbers(Kind.ACK, frame.ack);
    case 'ping':
      return encodeNumbers(Kind.PING, frame.nonce);
    case 'pong':
      return encodeNumbers(Kind.PONG, frame.nonce);
    case 'attach':
      return encodeNumbers(Kind.ATTACH, frame.gen, frame.ack);
    case 'attached':
      return encodeNumbers(Kind.ATTACHED, frame.gen, frame.ack);
  }
}

/**
 * Writes the newest acknowledgement into a reliable frame that was encoded earlier.
 * @param {Uint8Array} bytes
 * @param {number} ack
 */
export function stampAck(bytes, ack) {
  new DataView(bytes.buffer, bytes.byteOffset).setUint32(ACK_AT, ack);
}

/**
 * Bytes that `target` takes in a frame.
 * @param {Target} target
 */
export function targetBytes(target) {
  switch (target.tag) {
    case 'room':
      return 1;
    case 'users':
      return 2 + target.users.reduce((sum, user) => sum + 1 + utf8.encode(user).length, 0);
    case 'topic':
      return 2 + utf8.encode(target.topic).length;
  }
}

const utf8 = new TextEncoder();
const strictUtf8 = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true });

/**
 * Text of a payload; throws on what is not UTF-8.
 * @param {Uint8Array} bytes
 */
export function decodeText(bytes) {
  try {
    return strictUtf8.decode(bytes);
  } catch {
    throw new FrameError('not UTF-8');
  }
}

/**
 * @param {ReliableKind} kind
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {ReliableFrame}
 */
function decodeReliable(kind, bytes, view) {
  atLeast(bytes, RELIABLE_HEADER_BYTES);
  const flags = readFlags(bytes[1], Flag.TEXT | Flag.FIRST | Flag.LAST);
  const header = reliableHeader(view);
  const first = (flags & Flag.FIRST) !== 0;
  const last = (flags & Flag.LAST) !== 0;
  let at = RELIABLE_HEADER_BYTES;
  /** @type {Target | undefined} */
  let target;
  /** @type {number | undefined} */
  let total;
  if (first) {
    [target, at] = decodeTarget(bytes, at);
    if (!last) {
      atLeast(bytes, at + 4);
      total = view.getUint32(at);
      at += 4;
    }
  }
  const payload = bytes.subarray(at);
  if (payload.length > CHUNK_BYTES) throw new FrameError('chunk above its limit');
  if (payload.length === 0 && !(first && last)) throw new FrameError('empty chunk');
  if (total !== undefined && total <= payload.length) throw new FrameError('a first chunk that is all');
  /** @type {ReliableFrame} */
  const frame = { kind, flags, ...header, payload };
  if (target) frame.target = target;
  if (total !== undefined) frame.total = total;
  return frame;
}

/**
 * @param {Uint8Array} bytes
 * @param {DataView} view
 * @returns {LossyFrame}
 */
function decodeLossy(bytes, view) {
  atLeast(bytes, LOSSY_HEADER_BYTES);
  const flags = readFlags(bytes[1], Flag.TEXT);
  const [target, at] = decodeTarget(bytes, LOSSY_HEADER_BYTES);
  const payload = bytes.subarray(at);
  if (payload.length > LOSSY_PAYLOAD_BYTES) throw new FrameError('lossy payload above its limit');
  return {
    kind: 'lossy',
    flags,
    room: view.getUint16(2),
    sender: view.getUint32(4),
    stream: view.getUint16(8),
    seq: view.getUint32(10),
    target,
    payload,
  };
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @returns {[Target, number]}
 */
function decodeTarget(bytes, at) {
  atLeast(bytes, at + 1);
  const tag = bytes[at];
  at += 1;
  if (tag === 0) return [{ tag: 'room' }, at];
  if (tag === 1) {
    atLeast(bytes, at + 1);
    const count = bytes[at];
    at += 1;
    if (count > TARGET_USERS) throw new FrameError('too many users');
    const users = [];
    for (let i = 0; i < count; i += 1) {
      const [user, next] = decodeName(bytes, at, USER_BYTES);
      users.push(user);
      at = next;
    }
    return [{ tag: 'users', users }, at];
  }
  if (tag === 2) {
    const [topic, next] = decodeName(bytes, at, TOPIC_BYTES);
    return [{ tag: 'topic', topic }, next];
  }
  throw new FrameError('unknown target');
}

/**
 * @param {Uint8Array} bytes
 * @param {number} at
 * @param {number} longest
 * @returns {[string, number]}
 */
function decodeName(bytes, at, longest) {
  atLeast(bytes, at + 1);
  const length = bytes[at];
  if (length === 0 || length > longest) throw new FrameError('length of a name');
  atLeast(bytes, at + 1 + length);
  return [decodeText(bytes.subarray(at + 1, at + 1 + length)), at + 1 + length];
}

/** @param {ReliableFrame} frame */
function encodeReliable(frame) {
  const target = frame.flags & Flag.FIRST ? encodeTarget(frame.target ?? { tag: 'room' }) : new Uint8Array(0);
  const hasTotal = (frame.flags & (Flag.FIRST | Flag.LAST)) === Flag.FIRST;
  const payloadAt = RELIABLE_HEADER_BYTES + target.length + (hasTotal ? 4 : 0);
  const bytes = new Uint8Array(payloadAt + frame.payload.length);
  const view = writeReliableHeader(bytes, RELIABLE_KINDS[frame.kind], frame.flags, frame);
  bytes.set(target, RELIABLE_HEADER_BYTES);
  if (hasTotal) view.setUint32(payloadAt - 4, frame.total ?? 0);
  bytes.set(frame.payload, payloadAt);
  return bytes;
}

/** @param {LossyFrame} frame */
function encodeLossy(frame) {
  const target = encodeTarget(frame.target);
  const bytes = new Uint8Array(LOSSY_HEADER_BYTES + target.length + frame.payload.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = Kind.LOSSY;
  bytes[1] = frame.flags;
  view.setUint16(2, frame.room);
  view.setUint32(4, frame.sender);
  view.setUint16(8, frame.stream);
  view.setUint32(10, frame.seq);
  bytes.set(target, LOSSY_HEADER_BYTES);
  bytes.set(frame.payload, LOSSY_HEADER_BYTES + target.length);
  return bytes;
}

/** @param {Target} target */
function encodeTarget(target) {
  switch (target.tag) {
    case 'room':
      return Uint8Array.of(0);
    case 'users':
      return Uint8Array.of(1, target.users.length, ...target.users.flatMap(encodeName));
    case 'topic':
      return Uint8Array.of(2, ...encodeName(target.topic));
  }
}

/** @param {string} name */
function encodeName(name) {
  const bytes = utf8.encode(name);
  return [bytes.length, ...bytes];
}

/**
 * @param {number} kind
 * @param {...number} numbers
 */
function encodeNumbers(kind, ...numbers) {
  const bytes = new Uint8Array(1 + 4 * numbers.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = kind;
  numbers.forEach((number, i) => view.setUint32(1 + 4 * i, number));
  return bytes;
}

/** @param {DataView} view */
function reliableHeader(view) {
  return {
    laneSeq: view.getUint32(2),
    ack: view.getUint32(ACK_AT),
    room: view.getUint16(10),
    sender: view.getUint32(12),
    stream: view.getUint16(16),
  };
}

/**
 * @param {Uint8Array} bytes
 * @param {number} kind
 * @param {number} flags
 * @param {{ laneSeq: number, ack: number, room: number, sender: number, stream: number }} header
 */
function writeReliableHeader(bytes, kind, flags, header) {
  const view = new DataView(bytes.buffer);
  bytes[0] = kind;
  bytes[1] = flags;
  view.setUint32(2, header.laneSeq);
  view.setUint32(ACK_AT, header.ack);
  view.setUint16(10, header.room);
  view.setUint32(12, header.sender);
  view.setUint16(16, header.stream);
  return view;
}

/** @param {number} flags @param {number} known */
function readFlags(flags, known) {
  if (flags & ~known) throw new FrameError('unknown flag');
  return flags;
}

/** @param {Uint8Array} bytes @param {number} length */
function atLeast(bytes, length) {
  if (bytes.length < length) throw new FrameError('frame too short');
}
