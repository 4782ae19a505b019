/**
 * LOG messages as they come, made into records in that order: while the JSON of one is being decompressed, what came behind it
 * waits.
 */

import { readJson } from './body.js';
import { FrameError } from './frame.js';
import { decodeRecords } from './record.js';

/**
 * @typedef {import('./record.js').LogRecord} LogRecord
 *
 * @typedef {object} InboxOwner
 * @property {import('./environment.js').Environment['inflate']} inflate
 * @property {(records: LogRecord[], values: Map<LogRecord, any>) => void} records of one message, and the JSON in them
 * @property {() => void} gap something may be missing here
 * @property {() => void} idle all that has come is read
 */

export class Inbox {
  #owner;
  /** @type {(Uint8Array | 'gap')[]} */
  #waiting = [];
  #isReading = false;
  #isClosed = false;

  /** @param {InboxOwner} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /** Whether something is being decompressed. */
  get isReading() {
    return this.#isReading;
  }

  /** @param {Uint8Array | 'gap'} payload of a message; `gap` where messages may be missing */
  push(payload) {
    this.#waiting.push(payload);
    if (!this.#isReading) this.#read();
  }

  /** Nothing is handed on any more. */
  close() {
    this.#isClosed = true;
    this.#waiting = [];
  }

  #read() {
    while (this.#waiting.length > 0) {
      const next = this.#waiting.shift();
      const records = next === 'gap' ? null : decoded(/** @type {Uint8Array} */ (next));
      if (!records) {
        this.#owner.gap();
      } else if (!records.some(hasJson)) {
        this.#owner.records(records, new Map());
      } else {
        this.#isReading = true;
        this.#decompress(records).then((values) => {
          this.#isReading = false;
          if (this.#isClosed) return;
          this.#owner.records(records, values);
          this.#read();
        });
        return;
      }
    }
    this.#owner.idle();
  }

  /** @param {LogRecord[]} records */
  async #decompress(records) {
    /** @type {Map<LogRecord, any>} */
    const values = new Map();
    for (const record of records) {
      if (!hasJson(record)) continue;
      try {
        values.set(record, await readJson(record.encoding, record.json, this.#owner.inflate));
      } catch {
        // As if it had not come: what is missing is asked for again.
        this.#owner.gap();
      }
    }
    return values;
  }
}

/** @param {Uint8Array} payload @returns {LogRecord[] | null} null: not records */
function decoded(payload) {
  try {
    return decodeRecords(payload);
  } catch (error) {
    if (error instanceof FrameError) return null;
    throw error;
  }
}

/** @param {LogRecord} record @returns {record is import('./record.js').SnapshotRecord | import('./record.js').PageRecord} */
function hasJson(record) {
  return record.tag === 'snapshot' || record.tag === 'page';
}
