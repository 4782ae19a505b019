/**
 * Where submissions wait that have no answer yet: IndexedDB, which outlives the page, or memory, which does not. Knows
 * writers and their items, and changes them in transactions; what they are for is outbox.js's business.
 *
 * A writer belongs to one page at a time. The page holds a lock with the writer's id as its name (Web Locks: it falls
 * with the page, however that ends), and the writer's record names the page's `claim`. Every change names the claim too
 * and fails as `fenced` when the record has another: a page that lost its lock without noticing, or a transaction of a
 * dead page that is still under way, cannot touch what its heir has taken over.
 */

import { SwitchyardError } from './errors.js';

/**
 * @typedef {object} WriterRecord
 * @property {string} id
 * @property {string} scope server and room
 * @property {string} tenant '' while it is not known
 * @property {string} user
 * @property {string | null} origin null until the first session
 * @property {number} next the number that the next item has
 * @property {number} created milliseconds since 1970
 * @property {string} claim the page that has it
 *
 * @typedef {object} Restart what a streamed message is begun again with
 * @property {number} kind
 * @property {Uint8Array} body
 * @property {number} target
 * @property {number} version
 * @property {number} flags
 * @property {Uint8Array} text
 *
 * @typedef {object} Item a submission, with what is fixed before it is sent for the first time
 * @property {string} writer
 * @property {number} cseq
 * @property {number} nonce
 * @property {string} id the temporary id that the application knows
 * @property {number} at milliseconds since 1970
 * @property {number} kind
 * @property {number} version
 * @property {number} flags
 * @property {number} target
 * @property {Uint8Array} body
 * @property {Restart} [stream] of the end of a streamed message
 *
 * @typedef {{ id: string, scope: string, tenant: string, user: string, items: number }} Waiting a writer that has items, and how many
 *
 * @typedef {object} Store
 * @property {boolean} durable whether it outlives the page
 * @property {(scope: string) => Promise<WriterRecord[]>} list
 * @property {() => Promise<Waiting[]>} waiting in all scopes
 * @property {(id: string, claim: string) => Promise<{ record: WriterRecord, items: Item[] } | null>} claim takes a writer
 *   over; null when it is gone
 * @property {(record: WriterRecord, items: Item[]) => Promise<void>} put a new or changed record, and further items
 * @property {(id: string, claim: string, to: number) => Promise<void>} remove items up to this number
 * @property {(from: string, record: WriterRecord, items: Item[]) => Promise<void>} move a writer gives way to another
 * @property {(id: string, claim: string) => Promise<void>} drop a writer and its items
 *
 * @typedef {object} Locks
 * @property {(name: string) => Promise<(() => void) | null>} hold gives what ends the holding; null when another page has it
 * @property {(name: string, signal: AbortSignal) => Promise<() => void>} wait until no other page has it any more
 *
 * @typedef {{ store: Store, locks: Locks }} Storage
 */

/** What this browser has; null where the page cannot be outlived. @returns {Promise<Storage | null>} */
export async function browserStorage() {
  const locks = globalThis.navigator?.locks;
  if (!globalThis.indexedDB || !locks) return null;
  try {
    return { store: await IndexedStore.open(globalThis.indexedDB), locks: webLocks(locks) };
  } catch {
    // Private windows of some browsers, or a disk without room.
    return null;
  }
}

/** For one page alone. @returns {Storage} */
export function memoryStorage() {
  return { store: new MemoryStore(), locks: { hold: async () => () => {}, wait: () => new Promise(() => {}) } };
}

/** @param {LockManager} locks @returns {Locks} */
function webLocks(locks) {
  /** @param {string} name @param {LockOptions} options @returns {Promise<(() => void) | null>} */
  const request = (name, options) =>
    new Promise((resolve, reject) => {
      const held = locks.request(`switchyard ${name}`, options, (lock) => {
        if (lock) return new Promise((release) => resolve(() => release(undefined)));
        resolve(null);
        return undefined;
      });
      held.catch(reject);
    });
  return {
    hold: (name) => request(name, { ifAvailable: true }),
    wait: async (name, signal) => /** @type {() => void} */ (await request(name, { signal })),
  };
}

function fenced() {
  return new SwitchyardError('fenced', 'another page has taken this writer over');
}

/** @implements {Store} */
export class MemoryStore {
  durable = false;
  /** @type {Map<string, { record: WriterRecord, items: Map<number, Item> }>} */
  #writers = new Map();

  /** @param {string} scope */
  async list(scope) {
    const records = [...this.#writers.values()].map(({ record }) => ({ ...record }));
    return records.filter((record) => record.scope === scope);
  }

  async waiting() {
    return [...this.#writers.values()].flatMap(({ record, items }) => waitingOf(record, items.size));
  }

  /** @param {string} id @param {string} claim */
  async claim(id, claim) {
    const writer = this.#writers.get(id);
    if (!writer) return null;
    writer.record = { ...writer.record, claim };
    return { record: { ...writer.record }, items: [...writer.items.values()].sort((a, b) => a.cseq - b.cseq) };
  }

  /** @param {WriterRecord} record @param {Item[]} items */
  async put(record, items) {
    const writer = this.#writers.get(record.id) ?? { record, items: new Map() };
    if (writer.record.claim !== record.claim) throw fenced();
    writer.record = { ...record };
    for (const item of items) writer.items.set(item.cseq, item);
    this.#writers.set(record.id, writer);
  }

  /** @param {string} id @param {string} claim @param {number} to */
  async remove(id, claim, to) {
    const { items } = this.#mine(id, claim);
    for (const cseq of [...items.keys()]) if (cseq <= to) items.delete(cseq);
  }

  /** @param {string} from @param {WriterRecord} record @param {Item[]} items */
  async move(from, record, items) {
    this.#mine(from, record.claim);
    this.#writers.delete(from);
    this.#writers.set(record.id, { record: { ...record }, items: new Map(items.map((item) => [item.cseq, item])) });
  }

  /** @param {string} id @param {string} claim */
  async drop(id, claim) {
    this.#mine(id, claim);
    this.#writers.delete(id);
  }

  /** @param {string} id @param {string} claim */
  #mine(id, claim) {
    const writer = this.#writers.get(id);
    if (writer?.record.claim !== claim) throw fenced();
    return writer;
  }
}

const DATABASE = 'switchyard';
const WRITERS = 'writers';
const ITEMS = 'items';

/** @implements {Store} */
export class IndexedStore {
  durable = true;
  #database;

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
    // A later version of this code in another tab is not to wait for this page.
    database.onversionchange = () => database.close();
  }

  /** @param {IDBFactory} factory */
  static async open(factory) {
    const opening = factory.open(DATABASE, 1);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore(WRITERS, { keyPath: 'id' }).createIndex('scope', 'scope');
      opening.result.createObjectStore(ITEMS, { keyPath: ['writer', 'cseq'] });
    };
    return new IndexedStore(await answer(opening));
  }

  /** @param {string} scope @returns {Promise<WriterRecord[]>} */
  list(scope) {
    return answer(this.#database.transaction(WRITERS).objectStore(WRITERS).index('scope').getAll(scope));
  }

  async waiting() {
    const transaction = this.#database.transaction([WRITERS, ITEMS]);
    const counts = transaction.objectStore(ITEMS);
    /** @type {WriterRecord[]} */
    const records = await answer(transaction.objectStore(WRITERS).getAll());
    const all = records.map(async (record) => waitingOf(record, await answer(counts.count(itemsOf(record.id)))));
    return (await Promise.all(all)).flat();
  }

  /** @param {string} id @param {string} claim */
  async claim(id, claim) {
    /** @type {{ record: WriterRecord, items: Item[] } | null} */
    let claimed = null;
    await this.#change((writers, items) => {
      writers.get(id).onsuccess = (event) => {
        const record = resultOf(event);
        if (!record) return;
        record.claim = claim;
        writers.put(record);
        items.getAll(itemsOf(id)).onsuccess = (all) => (claimed = { record, items: resultOf(all) });
      };
    });
    return claimed;
  }

  /** @param {WriterRecord} record @param {Item[]} added */
  put(record, added) {
    return this.#change((writers, items, abort) => {
      writers.get(record.id).onsuccess = (event) => {
        const stored = resultOf(event);
        if (stored && stored.claim !== record.claim) return abort(fenced());
        writers.put(record);
        added.forEach((item) => items.put(item));
      };
    });
  }

  /** @param {string} id @param {string} claim @param {number} to */
  remove(id, claim, to) {
    return this.#changeMine(id, claim, (_, items) => items.delete(itemsOf(id, to)));
  }

  /** @param {string} from @param {WriterRecord} record @param {Item[]} moved */
  move(from, record, moved) {
    return this.#changeMine(from, record.claim, (writers, items) => {
      writers.delete(from);
      items.delete(itemsOf(from));
      writers.put(record);
      moved.forEach((item) => items.put(item));
    });
  }

  /** @param {string} id @param {string} claim */
  drop(id, claim) {
    return this.#changeMine(id, claim, (writers, items) => {
      writers.delete(id);
      items.delete(itemsOf(id));
    });
  }

  /**
   * @param {string} id
   * @param {string} claim
   * @param {(writers: IDBObjectStore, items: IDBObjectStore) => void} act
   */
  #changeMine(id, claim, act) {
    return this.#change((writers, items, abort) => {
      writers.get(id).onsuccess = (event) => {
        if (resultOf(event)?.claim === claim) act(writers, items);
        else abort(fenced());
      };
    });
  }

  /**
   * One transaction: all of it, or nothing and a rejection.
   * @param {(writers: IDBObjectStore, items: IDBObjectStore, abort: (error: Error) => void) => void} act
   * @returns {Promise<void>}
   */
  #change(act) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction([WRITERS, ITEMS], 'readwrite');
      /** @type {Error | null} */
      let reason = null;
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(reason ?? transaction.error ?? new Error('the transaction was aborted'));
      act(transaction.objectStore(WRITERS), transaction.objectStore(ITEMS), (error) => {
        reason = error;
        transaction.abort();
      });
    });
  }
}

/** @param {WriterRecord} record @param {number} items @returns {Waiting[]} */
function waitingOf({ id, scope, tenant, user }, items) {
  return items > 0 ? [{ id, scope, tenant, user, items }] : [];
}

/** @param {string} writer @param {number} [to] */
function itemsOf(writer, to = Infinity) {
  return IDBKeyRange.bound([writer, 0], [writer, to]);
}

/** @param {Event} event */
function resultOf(event) {
  return /** @type {IDBRequest<any>} */ (event.target).result;
}

/** @template T @param {IDBRequest<T>} request @returns {Promise<T>} */
function answer(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
