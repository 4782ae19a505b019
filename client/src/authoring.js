/**
 * The streamed messages that this page writes (docs/protocol.md, section 9.6): their text goes out while it grows, their end is
 * a submission like any other, behind the text. The text is in memory until the end is written, and then stored with it,
 * so an ended message survives the page, and one that is not ended does not.
 *
 * What may go wrong is the server's memory of a stream. After a restart it asks for the text from the beginning (HAVE).
 * Where it has ended the stream itself, because the author was away, the key is used up: what goes on begins under another
 * key, and an end that is refused for it (`no_such_stream`) is written again with the whole text.
 */

import { SwitchyardError } from './errors.js';
import { KINDS } from './record.js';
import { Outgoing } from './streams.js';

/**
 * @typedef {import('./store.js').Item} Item
 *
 * @typedef {object} Shown
 * @property {(text: string, streaming: boolean) => void} show the message as it is now
 * @property {() => void} aborted it is to go out of sight
 *
 * @typedef {object} AuthoringOptions
 * @property {import('./outbox.js').Outbox} outbox
 * @property {import('./environment.js').Environment} env
 * @property {() => void} wake there may be something to send
 */

/** Bytes of text of each stream in one message, and how long text is gathered. */
const TAKE_BYTES = 16_384;
const GATHER_MS = 30;
/** So often the server may say that text is missing before the message is sent as a plain one, as far as that holds it. */
const BEHIND_MOST = 20;
const PLAIN_BYTES = 60_000;
const utf8 = new TextEncoder();

export class Authoring {
  #outbox;
  #env;
  #wake;
  /** By key. @type {Map<number, Outgoing>} */
  #streams = new Map();
  /** When text goes out. @type {number | null} */
  #at = null;
  /** How often text was missing, by item. @type {Map<string, number>} */
  #behind = new Map();

  /** @param {AuthoringOptions} options */
  constructor({ outbox, env, wake }) {
    this.#outbox = outbox;
    this.#env = env;
    this.#wake = wake;
  }

  /**
   * A message to be written.
   * @param {string} id
   * @param {import('./record.js').Content} content the message without its text
   * @param {Promise<number>} settled
   * @param {Shown} shown
   */
  begin(id, content, settled, { show, aborted }) {
    const out = new Outgoing(id, this.#outbox.newNumber(), content);
    let whole = '';
    this.#streams.set(out.key, out);
    this.#outbox.begin();
    show(whole, true);
    this.#soon(0);
    return {
      id,
      settled,
      /** More text. Throws `closed` behind its end, and `too_large`. @param {string} text */
      write: (text) => {
        if (out.ended) throw new SwitchyardError('closed', 'the message has ended');
        out.write(text);
        whole += text;
        show(whole, true);
        this.#soon(GATHER_MS);
      },
      /** That was all. Throws `buffer_full`, and it can be ended later. */
      end: () => {
        if (out.ended) return settled;
        this.#end(out);
        show(whole, false);
        return settled;
      },
      /** Writes no more: the server marks it incomplete after a while, or forgets it if it is empty. */
      abort: () => {
        if (out.ended) return;
        out.ended = true;
        this.#streams.delete(out.key);
        aborted();
      },
    };
  }

  /** An ended message of a page that is gone. @param {Item} item */
  adopt({ id, target, stream }) {
    if (!stream) return;
    const out = new Outgoing(id, target, stream, stream.text);
    out.ended = true;
    this.#streams.set(target, out);
    this.#at = this.#env.now();
  }

  /**
   * With the old session the server has ended what this page was writing in it. What goes on begins anew; what is ended
   * here may have been taken.
   */
  restart() {
    for (const out of [...this.#streams.values()]) {
      this.#streams.delete(out.key);
      out.restart(out.ended ? out.key : this.#outbox.newNumber());
      this.#streams.set(out.key, out);
    }
    if (this.#streams.size > 0) this.#at = this.#env.now();
  }

  /** Nothing more is written. */
  close() {
    for (const out of this.#streams.values()) out.ended = true;
    this.#streams.clear();
  }

  /** Whether a stream that the server tells of is one of these. @param {{ key: number }} stream */
  isOwn({ key }) {
    return this.#streams.has(key);
  }

  /** The server has this much of the text. @param {import('./record.js').HaveRecord} record */
  have({ key, offset }) {
    const out = this.#streams.get(key);
    if (!out) return;
    out.have(offset, this.#env.now());
    this.#soon(0);
  }

  /**
   * The end came before the text, though that was sent: if it goes on so, the message becomes a plain one, so that what
   * waits behind it is not held up for ever.
   * @param {import('./record.js').ExpectedRecord} record
   */
  behind(record) {
    const item = this.#outbox.item(record);
    if (!item?.stream) return;
    const times = (this.#behind.get(item.id) ?? 0) + 1;
    this.#behind.set(item.id, times);
    if (times < BEHIND_MOST) return;
    const { stream, ...rest } = item;
    const text = new TextDecoder().decode(stream.text.subarray(0, PLAIN_BYTES));
    const body = utf8.encode(JSON.stringify({ ...JSON.parse(new TextDecoder().decode(stream.body)), text }));
    const { kind, version, flags, target } = stream;
    this.#streams.delete(item.target);
    this.#outbox.replace({ ...rest, kind, version, flags, target, body, nonce: this.#outbox.newNumber() });
  }

  /**
   * An item has its answer. Whether that is not the last word, because it is written again: an heir that meets the same
   * refusal, and finds that done, leaves it at that.
   * @param {Item} item
   * @param {import('./writer.js').Answer} answer
   */
  answered({ id, cseq, target, stream }, answer) {
    this.#behind.delete(id);
    if (!stream) return false;
    this.#streams.delete(target);
    if (!('code' in answer) || answer.code !== 'no_such_stream') return false;
    if (this.#outbox.holds(id, cseq)) return true;
    const out = new Outgoing(id, this.#outbox.newNumber(), stream, stream.text);
    this.#streams.set(out.key, out);
    try {
      this.#end(out);
    } catch {
      this.#streams.delete(out.key);
      return false;
    }
    this.#soon(0);
    return true;
  }

  /** What to send now: text of all streams, a piece of each. @param {number} now @returns {import('./record.js').LogRecord[]} */
  poll(now) {
    const { origin, current, queued } = this.#outbox;
    if (origin === null || !current || this.#at === null || (now < this.#at && queued === 0)) return [];
    const parts = [...this.#streams.values()].flatMap((out) => (out.due(origin) ? out.take(origin, TAKE_BYTES) : []));
    if (parts.length === 0) this.#at = null;
    return parts;
  }

  /** When to poll next. @returns {number | null} */
  get dueAt() {
    return this.#outbox.origin === null || !this.#outbox.current ? null : this.#at;
  }

  /** @param {Outgoing} out */
  #end(out) {
    const { id, key, content } = out;
    const body = new Uint8Array(4);
    new DataView(body.buffer).setUint32(0, out.length);
    const stream = { ...content, text: out.text.slice() };
    const what = { id, kind: KINDS.end, version: 0, flags: 0, target: key, body, stream };
    this.#outbox.add({ ...what, nonce: this.#outbox.newNumber(), at: this.#env.date() });
    out.ended = true;
  }

  /** @param {number} ms */
  #soon(ms) {
    const at = this.#env.now() + ms;
    this.#at = Math.min(this.#at ?? at, at);
    this.#wake();
  }
}
