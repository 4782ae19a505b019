/**
 * The writing half of delivery (docs/protocol.md, section 9.3): the submissions of one origin, sent in order, in a window,
 * until each has its answer, whatever the order in which answers come and however often a session ends in between.
 *
 * Pure: no clock, no socket, no storage; `now` is an argument. What is to survive the page is outbox.js's matter: a
 * submission is pushed here after it has been stored, and released here after it has been removed from storage, because
 * the server forgets refusals below `base`.
 */

import { WRITER_WINDOW, WRITER_WINDOW_BYTES } from './limits.js';

/**
 * @typedef {{ cseq: number, nonce: number } & import('./record.js').Content} Submission
 *
 * @typedef {{ cseq: number, seq: number } | { cseq: number, code: string, message: string }} Answer
 *
 * @typedef {object} Entry
 * @property {Submission} submission
 * @property {boolean} answered
 */

/** Without any answer for so long, what is in flight is sent again. */
export const RESEND_MS = 5_000;

export class Writer {
  /** From `base` on, without holes. @type {Map<number, Entry>} */
  #entries = new Map();
  /** The first submission without an answer. */
  #oldest;
  /** The next submission to send. */
  #cursor;
  #next;
  #waiting = 0;
  #inFlight = 0;
  #inFlightBytes = 0;
  /** How many may be in flight: few after the server has asked for patience. */
  #window = WRITER_WINDOW;
  #attached = false;
  /** Not before. */
  #holdUntil = -Infinity;
  /** Where the server has asked to begin again, until it answers from there on. @type {number | null} */
  #resumedAt = null;
  /** When something in flight was last answered, or first put in flight. */
  #progressAt = 0;
  #conflicted = false;

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

  /** Whether this one has no answer. @param {number} cseq */
  waits(cseq) {
    return this.#entries.get(cseq)?.answered === false;
  }

  /** Whether there is a session to send in. */
  get attached() {
    return this.#attached;
  }

  /** Whether somebody else uses the origin: nothing more is sent. */
  get conflicted() {
    return this.#conflicted;
  }

  /** @param {Submission} submission with the number `next` */
  push(submission) {
    if (submission.cseq !== this.#next) throw new RangeError(`submission ${submission.cseq}, expected ${this.#next}`);
    this.#entries.set(submission.cseq, { submission, answered: false });
    this.#next += 1;
    this.#waiting += 1;
  }

  /** A session that has not heard of this origin: everything without an answer goes out from `base` on. @param {number} now */
  attach(now) {
    this.#attached = true;
    this.#window = WRITER_WINDOW;
    this.#holdUntil = -Infinity;
    this.#rewind(this.base, now);
    this.#resumedAt = null;
  }

  /** The session is gone. */
  detach() {
    this.#attached = false;
  }

  /** The same session goes on after an interruption: nothing could be answered meanwhile. @param {number} now */
  resumed(now) {
    this.#progressAt = now;
  }

  /**
   * The submissions to send now, in order.
   * @param {number} now
   * @returns {import('./record.js').SubmitRecord[]}
   */
  poll(now) {
    if (!this.#attached || this.#conflicted) return [];
    if (this.#inFlight > 0 && now >= this.#progressAt + RESEND_MS) {
      this.#rewind(this.base, now);
      this.#resumedAt = null;
    }
    /** @type {import('./record.js').SubmitRecord[]} */
    const records = [];
    while (now >= this.#holdUntil && this.#fits()) {
      const entry = /** @type {Entry} */ (this.#entries.get(this.#cursor));
      this.#cursor += 1;
      if (entry.answered) continue;
      if (this.#inFlight === 0) this.#progressAt = now;
      this.#inFlight += 1;
      this.#inFlightBytes += size(entry);
      records.push({ tag: 'submit', origin: this.origin, base: this.base, ...entry.submission });
    }
    return records;
  }

  /** When `poll` may have something next, if nothing comes before; null if never. @returns {number | null} */
  get dueAt() {
    if (!this.#attached || this.#conflicted) return null;
    const resend = this.#inFlight > 0 ? this.#progressAt + RESEND_MS : null;
    const send = this.#fits() ? this.#holdUntil : null;
    if (resend === null || send === null) return send ?? resend;
    return Math.min(resend, send);
  }

  /**
   * What the server says of this origin. Gives the answer of a submission that had none before.
   * @param {import('./record.js').AcceptedRecord | import('./record.js').RefusedRecord |
   *   import('./record.js').ExpectedRecord | import('./record.js').ConflictRecord |
   *   import('./record.js').EventRecord} record
   * @param {number} now
   * @returns {Answer | null}
   */
  handle(record, now) {
    switch (record.tag) {
      case 'event':
      case 'accepted':
        return this.#answered(record.cseq, now) ? { cseq: record.cseq, seq: record.seq } : null;
      case 'refused': {
        const { cseq, code, message } = record;
        return this.#answered(cseq, now) ? { cseq, code, message } : null;
      }
      case 'expected':
        this.#expected(record, now);
        return null;
      case 'conflict':
        this.#conflicted = true;
        return null;
    }
  }

  /** The last number up to which everything is answered. */
  get answeredTo() {
    return this.#oldest - 1;
  }

  /** Storage has forgotten what was answered up to here. @param {number} cseq at most `answeredTo` */
  release(cseq) {
    for (; this.base <= cseq; this.base += 1) this.#entries.delete(this.base);
    this.#cursor = Math.max(this.#cursor, this.base);
  }

  /** Another content for a submission that the server has not taken. @param {Submission} submission */
  replace(submission) {
    const entry = this.#entries.get(submission.cseq);
    if (entry && !entry.answered) entry.submission = submission;
  }

  /** Whether there is something to send, and room for it. */
  #fits() {
    const entry = this.#entries.get(this.#cursor);
    if (!entry) return false;
    if (this.#inFlight === 0 || entry.answered) return true;
    // The server remembers some answers beyond a window, and looks for older ones on its disk.
    if (this.#cursor >= this.#oldest + WRITER_WINDOW) return false;
    return this.#inFlight < this.#window && this.#inFlightBytes + size(entry) <= WRITER_WINDOW_BYTES;
  }

  /** @param {number} cseq @param {number} now */
  #answered(cseq, now) {
    const entry = this.#entries.get(cseq);
    if (!entry || entry.answered) return false;
    entry.answered = true;
    while (this.#entries.get(this.#oldest)?.answered) this.#oldest += 1;
    this.#waiting -= 1;
    this.#progressAt = now;
    if (cseq < this.#cursor) {
      this.#inFlight -= 1;
      this.#inFlightBytes -= size(entry);
    }
    this.#window = Math.min(WRITER_WINDOW, this.#window + 1);
    if (this.#resumedAt !== null && cseq >= this.#resumedAt) this.#resumedAt = null;
    return true;
  }

  /** @param {import('./record.js').ExpectedRecord} record @param {number} now */
  #expected({ cseq, retryAfterMs, code }, now) {
    // What followed a submission that was not taken is out of order, each of it: that is no news.
    if (code === OUT_OF_ORDER && this.#resumedAt === cseq) return;
    if (cseq < this.base || cseq > this.#cursor) return;
    this.#rewind(cseq, now);
    this.#resumedAt = cseq;
    if (code === OUT_OF_ORDER) return;
    this.#holdUntil = now + retryAfterMs;
    this.#window = 1;
  }

  /** @param {number} cseq @param {number} now */
  #rewind(cseq, now) {
    this.#cursor = cseq;
    this.#inFlight = 0;
    this.#inFlightBytes = 0;
    for (const [number, entry] of this.#entries) {
      if (number >= cseq) break;
      if (entry.answered) continue;
      this.#inFlight += 1;
      this.#inFlightBytes += size(entry);
    }
    this.#progressAt = now;
  }
}

const OUT_OF_ORDER = 'out_of_order';

/** @param {Entry} entry */
function size({ submission }) {
  return submission.body.length;
}
