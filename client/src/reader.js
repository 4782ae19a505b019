/**
 * The reading half of delivery (docs/protocol.md, section 9.4): events in the order of `seq`, each once; what is missing is
 * pulled, and where the server has a snapshot instead, that takes the place of the events.
 *
 * Pure: no clock, no socket; `now` is an argument. Snapshots come decoded, because their decompression takes its time, and
 * answers to a `replay` do not come here. The Rust twin is `signaling/src/reader.rs`; both are held to
 * `signaling/vectors/delivery.json`.
 */

/**
 * @typedef {object} Position
 * @property {number} epoch
 * @property {number} seq
 * @property {string} digest
 * @property {string} proof
 *
 * @typedef {Position & Record<string, unknown>} Snapshot
 *
 * @typedef {import('./record.js').EventRecord | import('./record.js').HeadRecord |
 *   { tag: 'snapshot', snapshot: Snapshot }} Readable
 * @typedef {{ tag: 'event', event: import('./record.js').EventRecord } | { tag: 'snapshot', snapshot: Snapshot }} Read
 */

/** A pull without an answer is asked again. */
export const PULL_MS = 2_000;
/** A pull behind this `seq`, which no log has, asks for a snapshot. */
export const SNAPSHOT = Number.MAX_SAFE_INTEGER;

export class Reader {
  /** @type {Position | null} */
  #position;
  #seq;
  #attached = false;
  /** What is missing: a snapshot where the log is another one than was read. @type {'events' | 'snapshot' | null} */
  #lacks = null;
  /** When the last pull was sent, or the join, as long as that has not been answered. @type {number | null} */
  #askedAt = null;

  /** @param {Position | null} [position] of a reader that goes on */
  constructor(position = null) {
    this.#position = position;
    this.#seq = position?.seq ?? 0;
  }

  /** What a join says: the last position that the server has attested; null for a new reader. @returns {Position | null} */
  get position() {
    return this.#position;
  }

  /** The last event taken; 0 before any. */
  get seq() {
    return this.#seq;
  }

  /** Whether a snapshot may be an answer to this reader, where others hear the same. @param {Snapshot} snapshot */
  wants({ epoch }) {
    return this.#position === null || this.#position.epoch !== epoch || this.#lacks !== null || this.#askedAt !== null;
  }

  /** A join with `position` has succeeded: the server answers that by itself. @param {number} now */
  attach(now) {
    this.#attached = true;
    this.#lacks = null;
    this.#askedAt = now;
  }

  /** The session is gone. */
  detach() {
    this.#attached = false;
    this.#lacks = null;
    this.#askedAt = null;
  }

  /** The same session goes on after an interruption: nothing could be answered meanwhile. @param {number} now */
  resumed(now) {
    if (this.#askedAt !== null) this.#askedAt = now;
  }

  /**
   * The records of one message. Gives what the application is to see.
   * @param {readonly Readable[]} records
   * @returns {Read[]}
   */
  handle(records) {
    if (this.#isOfAnotherLog(records)) {
      // What was asked before was answered by this, or does not help.
      if (this.#lacks !== 'snapshot') this.#askedAt = null;
      this.#lacks = 'snapshot';
      return [];
    }
    /** @type {Read[]} */
    const read = [];
    /** @type {import('./record.js').HeadRecord | null} */
    let head = null;
    /** The last event of the message. @type {number | null} */
    let end = null;
    for (const record of records) {
      switch (record.tag) {
        case 'event':
          end = record.seq;
          if (record.seq === this.#seq + 1) {
            this.#seq = record.seq;
            read.push({ tag: 'event', event: record });
          } else if (record.seq > this.#seq) {
            this.#lackEvents();
          }
          break;
        case 'head':
          head = record;
          break;
        case 'snapshot': {
          const { epoch, seq, digest, proof } = record.snapshot;
          this.#position = { epoch, seq, digest, proof };
          this.#seq = seq;
          end = seq;
          this.#lacks = null;
          this.#askedAt = null;
          read.push({ tag: 'snapshot', snapshot: record.snapshot });
          break;
        }
      }
    }
    if (head) this.#takeHead(head, end, read.length > 0);
    return read;
  }

  /**
   * Messages of the log are missing: the server had no room for them. If a pull is under way its answer may be among them,
   * or take the room that the next answer would not find: that is waited for.
   */
  gap() {
    this.#lackEvents();
  }

  /**
   * What is to be pulled now: events behind this one; null if nothing. The pull counts as sent.
   * @param {number} now
   * @returns {number | null}
   */
  poll(now) {
    const isDue = this.#askedAt === null ? this.#lacks !== null : now >= this.#askedAt + PULL_MS;
    if (!isDue || !this.#attached) return null;
    this.#askedAt = now;
    // A new reader does not want the whole log one by one.
    return this.#lacks === 'snapshot' || this.#position === null ? SNAPSHOT : this.#seq;
  }

  /** When `poll` may have something that it does not have now; null if never. @returns {number | null} */
  get dueAt() {
    return this.#attached && this.#askedAt !== null ? this.#askedAt + PULL_MS : null;
  }

  /** @param {import('./record.js').HeadRecord} head @param {number | null} end of the message @param {boolean} anyNews */
  #takeHead({ epoch, seq, digest, proof }, end, anyNews) {
    // The server says that there is more than it has sent, and sends nothing until it is asked, whatever came else.
    const isCut = end !== null && end < seq;
    if (seq === this.#seq) {
      this.#position = { epoch, seq, digest, proof };
      this.#lacks = null;
    }
    const wasAsked = this.#askedAt !== null;
    if (seq === this.#seq || (isCut && (anyNews || seq < this.#seq))) this.#askedAt = null;
    // An answer that ends at its message's end may have more behind it: only one without anything new has not.
    if (seq > this.#seq || isCut || (seq === this.#seq && wasAsked && anyNews)) this.#lackEvents();
  }

  #lackEvents() {
    this.#lacks ??= 'events';
  }

  /** Whether the end of the message is in another epoch and no snapshot told of it: its numbers mean other events. @param {readonly Readable[]} records */
  #isOfAnotherLog(records) {
    const own = this.#position?.epoch;
    if (own === undefined || records.some(({ tag }) => tag === 'snapshot')) return false;
    return records.some((record) => record.tag === 'head' && record.epoch !== own);
  }
}
