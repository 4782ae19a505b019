/**
 * Streamed messages (docs/protocol.md, section 9.6; MSG6): those of others as they grow, and those that this page writes. Pure:
 * offsets in, records out.
 */

import { SwitchyardError } from './errors.js';
import { STREAM_TEXT_BYTES } from './limits.js';
import { EventFlag, kindName } from './record.js';

/** Bytes of text in one record. */
const PART_BYTES = 8_192;
/** Open streams of others; a room has 64. */
const MOST = 256;
const utf8 = new TextEncoder();

/**
 * @typedef {object} Growing
 * @property {import('./messages.js').LogMessage} message
 * @property {TextDecoder} decoder
 * @property {number} length bytes so far
 * @property {number | null} endsAt the event that it has become
 */

/** Streams of others, by the server's number. */
export class Incoming {
  /** @type {Map<number, Growing>} */
  #streams = new Map();

  /**
   * Gives the message as it is now.
   * @param {import('./record.js').StreamRecord} record
   * @param {number} date
   */
  begin({ stream, origin, key, kind, version, flags, target, user, name, body, text }, date) {
    if (!this.#streams.has(stream) && this.#streams.size >= MOST) return null;
    const decoder = new TextDecoder();
    const opaque = (flags & EventFlag.OPAQUE) !== 0;
    /** @type {import('./messages.js').LogMessage} */
    const message = {
      id: `${origin} ${key}`,
      seq: null,
      state: 'confirmed',
      kind: kindName(kind) === 'comment' ? 'comment' : 'chat',
      user,
      name,
      at: date,
      parent: target || null,
      body: { ...parse(body), text: decoder.decode(text, { stream: true }) },
      version,
      opaque,
      edited: null,
      deleted: false,
      incomplete: false,
      streaming: true,
      reactions: [],
      replies: 0,
    };
    this.#streams.set(stream, { message, decoder, length: text.length, endsAt: null });
    return message;
  }

  /**
   * More text. Gives the message as it is now; 'hole' when text before it is missing, null when there is nothing new.
   * @param {import('./record.js').TextRecord} record
   */
  grow({ stream, offset, text }) {
    const growing = this.#streams.get(stream);
    if (!growing || offset > growing.length) return 'hole';
    const fresh = text.subarray(growing.length - offset);
    if (fresh.length === 0) return null;
    growing.length += fresh.length;
    const { message, decoder } = growing;
    const body = /** @type {Record<string, any>} */ (message.body);
    growing.message = { ...message, body: { ...body, text: body.text + decoder.decode(fresh, { stream: true }) } };
    return growing.message;
  }

  /**
   * It is an event now, or was given up. Gives the id of the message if that is to go.
   * @param {import('./record.js').EndedRecord} record
   * @param {number} read the last event that was read
   */
  end({ stream, seq }, read) {
    const growing = this.#streams.get(stream);
    if (!growing) return null;
    if (seq > read) {
      growing.endsAt = seq;
      return null;
    }
    this.#streams.delete(stream);
    return growing.message.id;
  }

  /** An event was read. Gives the id of the message that it takes the place of. @param {number} seq */
  became(seq) {
    for (const [stream, growing] of this.#streams) {
      if (growing.endsAt !== seq) continue;
      this.#streams.delete(stream);
      return growing.message.id;
    }
    return null;
  }

  /** All are gone. Gives their ids. */
  clear() {
    const ids = [...this.#streams.values()].map(({ message }) => message.id);
    this.#streams.clear();
    return ids;
  }
}

/** A message that this page is writing. */
export class Outgoing {
  #text = new Uint8Array(256);
  #length = 0;
  /** Of the text as JSON, which is what the server limits. */
  #escaped = 0;
  /** Under which origin it has been begun in this session. @type {string | null} */
  #origin = null;
  #sent = 0;
  #toldAt = -Infinity;
  /** Whether its end is written. */
  ended = false;

  /**
   * @param {string} id
   * @param {number} key
   * @param {import('./record.js').Content} content the message without its text
   * @param {Uint8Array} [text] of one that is begun again
   */
  constructor(id, key, content, text) {
    this.id = id;
    this.key = key;
    this.content = content;
    if (text) this.#append(text);
  }

  get text() {
    return this.#text.subarray(0, this.#length);
  }

  get length() {
    return this.#length;
  }

  /** @param {string} text */
  write(text) {
    this.#append(utf8.encode(text));
  }

  /** It is begun again, under this key. @param {number} key */
  restart(key) {
    this.key = key;
    this.#origin = null;
  }

  /**
   * The server has this much. Several parts without a place are answered each; one of these answers is enough.
   * @param {number} offset
   * @param {number} now
   */
  have(offset, now) {
    if (now < this.#toldAt + AGAIN_MS && offset <= this.#sent) return;
    this.#toldAt = now;
    // Nothing may mean that it does not know the stream.
    if (offset === 0) this.#origin = null;
    this.#sent = Math.min(offset, this.#length);
  }

  /** Whether there is something to send. @param {string} origin */
  due(origin) {
    return this.#origin !== origin || this.#sent < this.#length;
  }

  /**
   * What to send next, with at most this many bytes of text.
   * @param {string} origin
   * @param {number} most
   * @returns {import('./record.js').ClientRecord[]}
   */
  take(origin, most) {
    const { key } = this;
    /** @type {import('./record.js').ClientRecord[]} */
    const records = [];
    if (this.#origin !== origin) {
      this.#origin = origin;
      this.#sent = 0;
      records.push({ tag: 'begin', origin, key, ...this.content });
    }
    const end = Math.min(this.#length, this.#sent + most);
    while (this.#sent < end) {
      const text = this.#piece(Math.min(PART_BYTES, end - this.#sent));
      records.push({ tag: 'part', origin, key, offset: this.#sent, text });
      this.#sent += text.length;
    }
    return records;
  }

  /** Text from what is sent on, which does not end within a character. @param {number} length */
  #piece(length) {
    let end = this.#sent + length;
    while (end > this.#sent + 1 && end < this.#length && (this.#text[end] & 0xc0) === 0x80) end -= 1;
    return this.#text.slice(this.#sent, end);
  }

  /** @param {Uint8Array} bytes */
  #append(bytes) {
    const length = this.#length + bytes.length;
    const quotes = 2 + 2 * Math.ceil(bytes.length / PART_BYTES);
    const escaped = utf8.encode(JSON.stringify(new TextDecoder().decode(bytes))).length + quotes;
    if (this.#escaped + escaped > STREAM_TEXT_BYTES) {
      throw new SwitchyardError('too_large', `a streamed message has at most ${STREAM_TEXT_BYTES} bytes of text`);
    }
    this.#escaped += escaped;
    if (length > this.#text.length) {
      const grown = new Uint8Array(Math.min(STREAM_TEXT_BYTES, Math.max(length, 2 * this.#text.length)));
      grown.set(this.text);
      this.#text = grown;
    }
    this.#text.set(bytes, this.#length);
    this.#length = length;
  }
}

const AGAIN_MS = 1_000;

/** @param {Uint8Array} bytes */
function parse(bytes) {
  try {
    const value = JSON.parse(new TextDecoder().decode(bytes));
    return typeof value === 'object' && value !== null ? value : {};
  } catch {
    return {};
  }
}
