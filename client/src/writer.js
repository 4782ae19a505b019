/**
 * The writing half of delivery (docs/protocol.md, section 9.3): the submissions of one origin, sent in order, in a window,
 * until each has its answer, whatever the order in which answers come and however often a session ends in between.
 *
 * Pure: no clock, no socket, no storage; `now` is an argument. What is to survive the page is outbox.js's matter: a
 * submission is pushed here after it has been stored, and released here after it has been removed from storage, because
 * the server forgets refusals below `base`. The Rust twin is `signaling/src/writer.rs`; both are held to
 * `signaling/vectors/delivery.json`.
 */

import { WRITER_WINDOW, WRITER_WINDOW_BYTES } from './limits.js';

/**
 * @typedef {{ cseq: number, nonce: number } & import('./record.js').Content} Submission
 *
 * @typedef {{ cseq: number, seq: number } | { cseq: number, code: string, message: string }} Answer
 *
 * @typedef {{ cseq: number, waits: string }} Waits from here on it takes longer, for this reason
 *
 * @typedef {{ cseq: number, conflict: true }} Conflict another writer uses the origin and has said something else under
 *   this number: it is to be submitted again with another origin, when all others have their answers
 *
 * @typedef {object} Entry
 * @property {Submission} submission
 * @property {boolean} answered
 */

/** Without any answer for so long, everything is sent again. */
export const SILENCE_MS = 5_000;
/** A demand to begin again at the same number is about what was sent before the last one was met, unless so long has passed. */
export const AGAIN_MS = 1_000;

export class Writer {
  /** From `base` on, without holes. @type {Map<number, Entry>} */
  #entries = new Map();
  /** The first submission without an answer. */
  #oldest;
  /** The next submission to send. */
  #cursor;
  #next;
  #waiting = 0;
  /** Bodies of what was sent from `#oldest` on. */
  #sentBytes = 0;
  /**
   * How many may be sent and unanswered. After the server has asked for patience one, and one more for each answer: what
   * comes behind one that is not taken is sent in vain.
   */
  #window = WRITER_WINDOW;
  #attached = false;
  #closed = false;
  /** Nothing is sent before. @type {number | null} */
  #holdUntil = null;
  /** Where the server last asked to begin again, and when that was allowed. @type {{ cseq: number, since: number } | null} */
  #returned = null;
  /** When the last answer came, or what waits for one was sent. @type {number | null} */
  #heardAt = null;

  /**
   * `next` is the number that the next submission has.
   * @param {{ origin: string, next?: number }} options
   */
  constructor({ origin, next = 1 }) {
    this.origin = origin;
    /** The first number that may still have to be sent again. */
    this.base = next;
    this.#next = next;
    this.#oldest = next;
    this.#cursor = next;
  }

  /** The number of the next submission. */
  get next() {
    return this.#next;
  }

  /** How many have no answer. */
  get waiting() {
    return this.#waiting;
  }

  /** What has no answer. */
  get unanswered() {
    return [...this.#entries.values()].flatMap(({ submission, answered }) => (answered ? [] : submission));
  }

  /** Whether this one has no answer. @param {number} cseq */
  waits(cseq) {
    return this.#entries.get(cseq)?.answered === false;
  }

  /** Whether there is a session to send in. */
  get attached() {
    return this.#attached;
  }

  /** Whether somebody else uses the origin too: nothing more is pushed. */
  get closed() {
    return this.#closed;
  }

  /** The last number up to which everything is answered. */
  get answeredTo() {
    return this.#oldest - 1;
  }

  /** @param {Submission} submission with the number `next` */
  push(submission) {
    if (submission.cseq !== this.#next) throw new RangeError(`submission ${submission.cseq}, expected ${this.#next}`);
    this.#entries.set(submission.cseq, { submission, answered: false });
    this.#next += 1;
    this.#waiting += 1;
  }

  /** Another content for a submission that the server has not taken. @param {Submission} submission */
  replace(submission) {
    const entry = this.#entries.get(submission.cseq);
    if (!entry || entry.answered) return;
    entry.submission = submission;
    this.#rewind(Math.min(this.#cursor, submission.cseq));
  }

  /** Storage has forgotten what was answered up to here. @param {number} cseq at most `answeredTo` */
  release(cseq) {
    for (; this.base <= cseq; this.base += 1) this.#entries.delete(this.base);
  }

  /** A session in which the origin may be used: everything without an answer goes out from `base` on. */
  attach() {
    this.#attached = true;
    this.#holdUntil = null;
    this.#window = WRITER_WINDOW;
    this.#rewind(this.#oldest);
  }

  /** The session is gone. */
  detach() {
    this.#attached = false;
    this.#heardAt = null;
    this.#rewind(this.#oldest);
  }

  /** The same session goes on after an interruption: nothing could be answered meanwhile. @param {number} now */
  resumed(now) {
    if (this.#heardAt !== null) this.#heardAt = now;
  }

  /**
   * The submissions to send now, in order.
   * @param {number} now
   * @returns {import('./record.js').SubmitRecord[]}
   */
  poll(now) {
    if (!this.#attached) return [];
    const silentAt = this.#silentAt;
    if (silentAt !== null && now >= silentAt) this.#rewind(this.#oldest);
    if (this.#holdUntil !== null && now < this.#holdUntil) return [];
    this.#holdUntil = null;
    /** @type {import('./record.js').SubmitRecord[]} */
    const records = [];
    for (;;) {
      const submission = this.#entries.get(this.#cursor)?.submission;
      const sent = this.#cursor - this.#oldest;
      const bytes = this.#sentBytes + (submission?.body.length ?? 0);
      if (!submission || sent >= this.#window || (sent > 0 && bytes > WRITER_WINDOW_BYTES)) return records;
      if (sent === 0) this.#heardAt = now;
      this.#cursor += 1;
      this.#sentBytes = bytes;
      records.push({ tag: 'submit', origin: this.origin, base: this.base, ...submission });
    }
  }

  /** When `poll` may have something that it does not have now; null if never. @returns {number | null} */
  get dueAt() {
    if (!this.#attached || this.#oldest === this.#next) return null;
    const hold = this.#cursor < this.#next ? this.#holdUntil : null;
    const silent = this.#silentAt;
    return hold === null || silent === null ? (hold ?? silent) : Math.min(hold, silent);
  }

  /**
   * What the server says of an origin. Gives the answer of a submission that had none before, or why it takes longer.
   * @param {import('./record.js').AcceptedRecord | import('./record.js').RefusedRecord |
   *   import('./record.js').ExpectedRecord | import('./record.js').ConflictRecord |
   *   import('./record.js').EventRecord} record
   * @param {number} now
   * @returns {Answer | Waits | Conflict | null}
   */
  handle(record, now) {
    if (record.origin !== this.origin) return null;
    const { cseq } = record;
    switch (record.tag) {
      case 'event': {
        // With a cloned profile somebody else's event may have this name.
        const entry = this.#entries.get(cseq);
        if (!entry || !isSaidBy(entry.submission, record)) return null;
        this.#heardAt = now;
        return this.#answered(cseq) ? { cseq, seq: record.seq } : null;
      }
      case 'accepted':
        this.#heardAt = now;
        return this.#answered(cseq) ? { cseq, seq: record.seq } : null;
      case 'refused':
        this.#heardAt = now;
        return this.#answered(cseq) ? { cseq, code: record.code, message: record.message } : null;
      case 'expected':
        this.#heardAt = now;
        return this.#beginAgain(record, now);
      case 'conflict':
        this.#heardAt = now;
        if (!this.#answered(cseq)) return null;
        this.#closed = true;
        return { cseq, conflict: true };
    }
  }

  /** @param {number} cseq */
  #answered(cseq) {
    const entry = this.#entries.get(cseq);
    if (!entry || entry.answered) return false;
    entry.answered = true;
    this.#waiting -= 1;
    this.#window = Math.min(WRITER_WINDOW, this.#window + 1);
    for (let first = this.#entries.get(this.#oldest); first?.answered; first = this.#entries.get(this.#oldest)) {
      if (this.#oldest < this.#cursor) this.#sentBytes -= first.submission.body.length;
      this.#oldest += 1;
    }
    this.#cursor = Math.max(this.#cursor, this.#oldest);
    return true;
  }

  /** @param {import('./record.js').ExpectedRecord} record @param {number} now @returns {Waits | null} */
  #beginAgain({ cseq: from, retryAfterMs, code }, now) {
    const cseq = Math.max(this.#oldest, Math.min(from, this.#cursor));
    const last = this.#returned;
    if (retryAfterMs === 0 && last?.cseq === cseq && now < last.since + AGAIN_MS) return null;
    this.#rewind(cseq);
    this.#holdUntil = Math.max(this.#holdUntil ?? -Infinity, now + retryAfterMs);
    this.#returned = { cseq, since: this.#holdUntil };
    if (retryAfterMs > 0) this.#window = 1;
    return { cseq, waits: code };
  }

  /** Forgets that anything from here on was sent. @param {number} cseq */
  #rewind(cseq) {
    this.#cursor = cseq;
    this.#returned = null;
    this.#sentBytes = 0;
    for (let each = this.#oldest; each < cseq; each += 1) this.#sentBytes += this.#entries.get(each)?.submission.body.length ?? 0;
  }

  get #silentAt() {
    return this.#heardAt !== null && this.#cursor > this.#oldest ? this.#heardAt + SILENCE_MS : null;
  }
}

/**
 * Whether an event says what was submitted. That of a streamed message says something else, so that it is no answer: its
 * end is answered apart.
 * @param {Submission} submitted
 * @param {import('./record.js').EventRecord} event
 */
function isSaidBy(submitted, event) {
  const { kind, version, flags, target, body } = submitted;
  const isSame = kind === event.kind && version === event.version && target === event.target;
  if (!isSame || flags !== event.flags || body.length !== event.body.length) return false;
  return body.every((byte, at) => byte === event.body[at]);
}
