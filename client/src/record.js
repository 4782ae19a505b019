/**
 * Records of LOG frames (docs/protocol.md, section 9.2): encoding and decoding, every length checked. Nothing here knows
 * what a record leads to. The server's half is `signaling/src/record.rs`.
 *
 * Numbers of 64 bits that are no counts (`origin`, `digest`, `proof`) are strings of 16 hexadecimal digits here, as in
 * JSON; `seq`, `at` and `target` are numbers.
 */

import { FrameError, decodeText } from './frame.js';

/** What an event is, by the number on the wire. */
export const KINDS = Object.freeze({
  chat: 1,
  comment: 2,
  system: 3,
  edit: 4,
  delete: 5,
  react: 6,
  unreact: 7,
  fields: 8,
  custom: 9,
  end: 10,
});

/** @typedef {keyof typeof KINDS} KindName */

/** @type {Map<number, KindName>} */
const NAMES = new Map(Object.entries(KINDS).map(([name, number]) => [number, /** @type {KindName} */ (name)]));

/** Bits of the `flags` of an event. */
export const EventFlag = Object.freeze({ OPAQUE: 1, INCOMPLETE: 2 });

/**
 * @typedef {object} Content what is the same in a submission, a stream and an event
 * @property {number} kind
 * @property {number} version
 * @property {number} flags
 * @property {number} target
 * @property {Uint8Array} body
 *
 * @typedef {{ tag: 'submit', origin: string, cseq: number, base: number, nonce: number } & Content} SubmitRecord
 * @typedef {{ tag: 'begin', origin: string, key: number } & Content} BeginRecord
 * @typedef {{ tag: 'part', origin: string, key: number, offset: number, text: Uint8Array }} PartRecord
 * @typedef {{ tag: 'event', seq: number, at: number, origin: string, cseq: number, user: string, name: string } &
 *   Content} EventRecord
 * @typedef {{ tag: 'head', epoch: number, seq: number, digest: string, proof: string }} HeadRecord
 * @typedef {{ tag: 'accepted', origin: string, cseq: number, seq: number }} AcceptedRecord
 * @typedef {{ tag: 'refused', origin: string, cseq: number, code: string, message: string }} RefusedRecord
 * @typedef {{ tag: 'expected', origin: string, cseq: number, retryAfterMs: number, code: string }} ExpectedRecord
 * @typedef {{ tag: 'conflict', origin: string, cseq: number }} ConflictRecord
 * @typedef {{ tag: 'snapshot', encoding: number, json: Uint8Array }} SnapshotRecord
 * @typedef {{ tag: 'page', id: number, encoding: number, json: Uint8Array }} PageRecord
 * @typedef {{ tag: 'answer', id: number, last: number }} AnswerRecord
 * @typedef {{ tag: 'stream', stream: number, origin: string, key: number, user: string, name: string,
 *   text: Uint8Array } & Content} StreamRecord
 * @typedef {{ tag: 'text', stream: number, offset: number, text: Uint8Array }} TextRecord
 * @typedef {{ tag: 'ended', stream: number, seq: number }} EndedRecord
 * @typedef {{ tag: 'have', origin: string, key: number, offset: number }} HaveRecord
 * @typedef {{ tag: 'status', state: number, code: string }} StatusRecord
 * @typedef {SubmitRecord | BeginRecord | PartRecord} ClientRecord
 * @typedef {EventRecord | HeadRecord | AcceptedRecord | RefusedRecord | ExpectedRecord | ConflictRecord | SnapshotRecord |
 *   PageRecord | AnswerRecord | StreamRecord | TextRecord | EndedRecord | HaveRecord | StatusRecord} ServerRecord
 * @typedef {ClientRecord | ServerRecord} LogRecord
 */

/**
 * The records of a LOG message; throws FrameError where it does not parse. Unknown ones are skipped, and so is what a
 * newer peer appends to one of known length.
 * @param {Uint8Array} bytes
 * @returns {LogRecord[]}
 */
export function decodeRecords(bytes) {
  const records = [];
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  for (let at = 0; at < bytes.length; ) {
    if (bytes.length - at < HEADER_BYTES) throw new FrameError('half a record');
    const length = view.getUint32(at + 1);
    const from = at + HEADER_BYTES;
    if (length > bytes.length - from) throw new FrameError('record beyond the end of the message');
    const layout = BY_NUMBER.get(bytes[at]);
    if (layout) records.push(decodeRecord(layout, bytes.subarray(from, from + length)));
    at = from + length;
  }
  return records;
}

/**
 * One LOG message of these records.
 * @param {readonly LogRecord[]} records
 */
export function encodeRecords(records) {
  return joined(records.map(encodeRecord));
}

/** Bytes that a record from a client takes at most, without its body or text. */
export const OVERHEAD = 64;

/** @param {number} kind @returns {KindName | undefined} */
export function kindName(kind) {
  return NAMES.get(kind);
}

const HEADER_BYTES = 5;
const utf8 = new TextEncoder();

/**
 * How fields lie in a record: unsigned integers; `count`, 64 bits that a number can hold; `id`, 64 bits as hexadecimal
 * digits; `name` and `short`, a text and bytes behind a byte of length; `block`, bytes behind four of length; `rest` and
 * `sentence`, what is left, as bytes and as text.
 * @typedef {'u8' | 'u32' | 'count' | 'id' | 'name' | 'short' | 'block' | 'rest' | 'sentence'} Form
 * @typedef {{ tag: string, number: number, fields: [string, Form][] }} Layout
 */

/** @type {[string, Form][]} */
export const CONTENT = [['kind', 'u8'], ['version', 'u8'], ['flags', 'u8'], ['target', 'count']];
/** @type {[string, Form][]} */
const AUTHOR = [['user', 'name'], ['name', 'name']];
/** @type {[string, Form][]} */
export const SUBMISSION = [['origin', 'id'], ['cseq', 'u32']];

/** @type {Layout[]} */
const LAYOUTS = [
  { tag: 'submit', number: 0x01, fields: [...SUBMISSION, ['base', 'u32'], ['nonce', 'u32'], ...CONTENT, ['body', 'rest']] },
  { tag: 'begin', number: 0x02, fields: [['origin', 'id'], ['key', 'u32'], ...CONTENT, ['body', 'rest']] },
  { tag: 'part', number: 0x03, fields: [['origin', 'id'], ['key', 'u32'], ['offset', 'u32'], ['text', 'rest']] },
  { tag: 'event', number: 0x81, fields: [['seq', 'count'], ['at', 'count'], ...SUBMISSION, ...CONTENT, ...AUTHOR, ['body', 'rest']] },
  { tag: 'head', number: 0x82, fields: [['epoch', 'u32'], ['seq', 'count'], ['digest', 'id'], ['proof', 'id']] },
  { tag: 'accepted', number: 0x83, fields: [...SUBMISSION, ['seq', 'count']] },
  { tag: 'refused', number: 0x84, fields: [...SUBMISSION, ['code', 'name'], ['message', 'sentence']] },
  { tag: 'expected', number: 0x85, fields: [...SUBMISSION, ['retryAfterMs', 'u32'], ['code', 'name']] },
  { tag: 'conflict', number: 0x86, fields: SUBMISSION },
  { tag: 'snapshot', number: 0x87, fields: [['encoding', 'u8'], ['json', 'rest']] },
  { tag: 'page', number: 0x88, fields: [['id', 'u32'], ['encoding', 'u8'], ['json', 'rest']] },
  { tag: 'answer', number: 0x89, fields: [['id', 'u32'], ['last', 'u8']] },
  {
    tag: 'stream',
    number: 0x8a,
    fields: [['stream', 'u32'], ['origin', 'id'], ['key', 'u32'], ...CONTENT, ...AUTHOR, ['body', 'block'], ['text', 'rest']],
  },
  { tag: 'text', number: 0x8b, fields: [['stream', 'u32'], ['offset', 'u32'], ['text', 'rest']] },
  { tag: 'ended', number: 0x8c, fields: [['stream', 'u32'], ['seq', 'count']] },
  { tag: 'have', number: 0x8d, fields: [['origin', 'id'], ['key', 'u32'], ['offset', 'u32']] },
  { tag: 'status', number: 0x8e, fields: [['state', 'u8'], ['code', 'name']] },
];
const BY_NUMBER = new Map(LAYOUTS.map((layout) => [layout.number, layout]));
const BY_TAG = new Map(LAYOUTS.map((layout) => [layout.tag, layout]));

/**
 * @param {Layout} layout
 * @param {Uint8Array} bytes
 * @returns {LogRecord}
 */
function decodeRecord({ tag, fields }, bytes) {
  return /** @type {LogRecord} */ (/** @type {unknown} */ ({ tag, ...decodeFields(fields, bytes) }));
}

/**
 * Fields one behind the other; throws FrameError where they do not parse.
 * @param {readonly [string, Form][]} fields
 * @param {Uint8Array} bytes
 * @returns {Record<string, any>}
 */
export function decodeFields(fields, bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  let at = 0;
  /** @param {number} length */
  const take = (length) => {
    if (length > bytes.length - at) throw new FrameError('record too short');
    at += length;
    return at - length;
  };
  /** @param {number} length */
  const bytesOf = (length) => {
    const from = take(length);
    return bytes.subarray(from, from + length);
  };
  /** @type {Record<string, any>} */
  const record = {};
  for (const [name, form] of fields) {
    switch (form) {
      case 'u8':
        record[name] = view.getUint8(take(1));
        break;
      case 'u32':
        record[name] = view.getUint32(take(4));
        break;
      case 'count':
        record[name] = Number(view.getBigUint64(take(8)));
        if (!Number.isSafeInteger(record[name])) throw new FrameError('a count above 2^53');
        break;
      case 'id':
        record[name] = view.getBigUint64(take(8)).toString(16).padStart(16, '0');
        break;
      case 'name':
        record[name] = decodeText(bytesOf(view.getUint8(take(1))));
        break;
      case 'block':
        record[name] = bytesOf(view.getUint32(take(4)));
        break;
      case 'short':
        record[name] = bytesOf(view.getUint8(take(1)));
        break;
      case 'rest':
        record[name] = bytesOf(bytes.length - at);
        break;
      case 'sentence':
        record[name] = decodeText(bytesOf(bytes.length - at));
        break;
    }
  }
  return record;
}

/** @param {LogRecord} record */
function encodeRecord(record) {
  const layout = /** @type {Layout} */ (BY_TAG.get(record.tag));
  const fields = encodeFields(layout.fields, record);
  const encoded = new Uint8Array(HEADER_BYTES + fields.length);
  encoded[0] = layout.number;
  new DataView(encoded.buffer).setUint32(1, fields.length);
  encoded.set(fields, HEADER_BYTES);
  return encoded;
}

/** @param {readonly [string, Form][]} fields @param {Record<string, any>} values */
export function encodeFields(fields, values) {
  return joined(fields.map(([name, form]) => encodeField(form, values[name])));
}

/** One behind the other. @param {readonly Uint8Array[]} parts */
export function joined(parts) {
  const whole = new Uint8Array(parts.reduce((sum, bytes) => sum + bytes.length, 0));
  let at = 0;
  for (const bytes of parts) {
    whole.set(bytes, at);
    at += bytes.length;
  }
  return whole;
}

/**
 * @param {Form} form
 * @param {any} value
 * @returns {Uint8Array}
 */
function encodeField(form, value) {
  switch (form) {
    case 'u8':
      return Uint8Array.of(value);
    case 'u32':
      return number(4, (view) => view.setUint32(0, value));
    case 'count':
      return number(8, (view) => view.setBigUint64(0, BigInt(value)));
    case 'id':
      return number(8, (view) => view.setBigUint64(0, BigInt(`0x${value}`)));
    case 'name': {
      const bytes = utf8.encode(value);
      return Uint8Array.of(bytes.length, ...bytes);
    }
    case 'short':
      return joined([Uint8Array.of(value.length), value]);
    case 'block':
      return number(4 + value.length, (view) => {
        view.setUint32(0, value.length);
        new Uint8Array(view.buffer).set(value, 4);
      });
    case 'rest':
      return value;
    case 'sentence':
      return utf8.encode(value);
  }
}

/** @param {number} length @param {(view: DataView) => void} write */
function number(length, write) {
  const bytes = new Uint8Array(length);
  write(new DataView(bytes.buffer));
  return bytes;
}
