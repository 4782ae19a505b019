/**
 * The reading half of delivery (docs/protocol.md, section 9.4): events in the order of `seq`, each once; what is missing is
 * pulled, and where the server has a snapshot instead, that takes the place of the events.
 *
 * Pure: no clock, no socket; `now` is an argument. Snapshots come decoded, because their decompression takes its time.
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
/** The first snapshot may have to be read from disk. */
const FIRST_MS = 10_000;

export class Reader {
  /** @type {Position | null} */
  #position;
  /** The next event; null while even the beginning is unknown. @type {number | null} */
  #next;
  #attached = false;
  #wanted = false;
  /** When the pull that waits for its answer was sent. @type {number | null} */
  #pulledAt = null;

  /** @param {Position | null} [position] of a reader that goes on */
  constructor(position = null) {
    this.#position = position;
    this.#next = position ? position.seq + 1 : null;
  }

  /** What a join says: the last position that the server has attested, or none. @returns {Position | null} */
  get position() {
    return this.#position;
  }

  /** The last event taken; 0 before any. */
  get seq() {
    return this.#next === null ? 0 : this.#next - 1;
  }

  /** A session whose join has said `position`: the server answers that by itself. @param {number} now */
  attach(now) {
    this.#attached = true;
    this.#wanted = false;
    this.#pulledAt = now;
  }

  /** The session is gone. */
  detach() {
    this.#attached = false;
  }

  /** The same session goes on after an interruption: nothing could be answered meanwhile. @param {number} now */
  resumed(now) {
    if (this.#pulledAt !== null) this.#pulledAt = now;
  }

  /**
   * The records of one message, without those of other answers. Gives what the application is to see.
   * @param {readonly Readable[]} records
   * @param {number} now
   * @returns {Read[]}
   */
  handle(records, now) {
    /** @type {Read[]} */
    const read = [];
    let hole = false;
    let answered = false;
    for (const record of records) {
      switch (record.tag) {
        case 'snapshot': {
          const { epoch, seq, digest, proof } = record.snapshot;
          this.#position = { epoch, seq, digest, proof };
          this.#next = seq + 1;
          hole = false;
          answered = true;
          read.push({ tag: 'snapshot', snapshot: record.snapshot });
          break;
        }
        case 'event':
          if (this.#next === null || record.seq > this.#next) hole = true;
          else if (record.seq === this.#next) {
            this.#next += 1;
            read.push({ tag: 'event', event: record });
          }
          break;
        case 'head':
          this.#next ??= 1;
          if (record.seq >= this.#next) hole = true;
          else if (record.seq === this.#next - 1) this.#position = attested(record);
          answered = true;
          break;
      }
    }
    const taken = read.length > 0;
    if (hole) this.#wanted = true;
    if (this.#pulledAt === null || !answered) return read;
    // An answer that brings events may be one of several: only one without any says that this is the end.
    if (taken && read.at(-1)?.tag === 'event') this.#wanted = true;
    // What was on its way before the pull brings nothing that can be taken.
    if (taken || !hole) this.#pulledAt = null;
    return read;
  }

  /** Messages of the log are missing. */
  gap() {
    this.#wanted = true;
  }

  /**
   * What is to be pulled now: events behind this one; null if nothing. The pull counts as sent.
   * @param {number} now
   * @returns {number | null}
   */
  poll(now) {
    const due = this.dueAt;
    if (due === null || due > now) return null;
    this.#wanted = false;
    this.#pulledAt = now;
    this.#next ??= 1;
    return this.seq;
  }

  /** When `poll` has something next, if nothing comes before; null if never. @returns {number | null} */
  get dueAt() {
    if (!this.#attached) return null;
    if (this.#pulledAt !== null) return this.#pulledAt + (this.#next === null ? FIRST_MS : PULL_MS);
    return this.#wanted ? -Infinity : null;
  }
}

/** @param {import('./record.js').HeadRecord} head @returns {Position} */
function attested({ epoch, seq, digest, proof }) {
  return { epoch, seq, digest, proof };
}
