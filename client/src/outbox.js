/**
 * What a page wants in a room's log and has no answer for: kept in storage until it has, sent in order, adopted by
 * another page when this one dies. The sending itself is writer.js's, the storage store.js's; log.js owns it.
 *
 * The outbox is a row of **lines**. A line is a stored writer with its items and, from the first session on, an origin.
 * The first line is the one that is sent; when all of it is answered it is dropped and the next one's turn comes. What the
 * page writes goes to the end of the last line. Lines found in storage, of the same server, room and user, whose page is
 * gone, are adopted, when this page comes or when the other goes: what was written before a reload is sent before what is
 * written after it, unless that is on its way already.
 *
 * Why a page may be killed between any two steps. Each change of storage is one transaction; a killed page leaves all of
 * it or nothing. In the order of a message's life:
 *
 * 1. *Queued in memory only.* Not stored, and not sent: to all others it was never written.
 * 2. *Stored* (`put`: the item with its `cseq`, its nonce and its temporary id, and in the same transaction the line's
 *    `next`). Whoever adopts the line sends it. A number is not given twice, because `next` is stored with the item.
 * 3. *The line gets an origin* (`put` of the record, before anything is sent with it). Killed before: the origin is lost
 *    and was never used. Killed after: the heir goes on with the same origin.
 * 4. *Sent.* Not before 2 and 3 are done, and always as stored: an heir that sends it again repeats the same `(origin,
 *    cseq)` and nonce, which the server answers and does not take again.
 * 5. *Answered, still stored.* The heir sends it again and gets the same answer: the server forgets refusals only below
 *    `base`, and `base` moves behind an item after its removal is durable, not before.
 * 6. *Removed* (`remove`: always a whole beginning of the line, so that a line never has holes; a server that was
 *    restored from a backup is given again all that follows).
 * 7. *A line whose origin somebody else uses too* (a copied profile: CONFLICT) takes nothing more. When all of it is answered
 *    it gives way to a new line without an origin that has what was in conflict (`move`, in one transaction; nothing in
 *    conflict is removed before). Killed before: the heir sends it again and meets the same CONFLICT. Killed after: the
 *    heir finds the new line as in 2. What is in conflict is not in the log, so none of it is doubled.
 * 8. *A line with nothing in it is dropped.* Its origin is not used again.
 *
 * Two pages never send the same line: the line's lock is taken first, then its `claim` is written; a transaction of the
 * former page that ends only now fails as `fenced`, and that page goes on with a line of its own. Storage that fails
 * (full, withdrawn) costs durability alone: the page goes on in memory, and says so.
 */

import { SwitchyardError } from './errors.js';
import { memoryStorage } from './store.js';
import { Writer } from './writer.js';

/**
 * @typedef {import('./store.js').Item} Item
 * @typedef {Omit<Item, 'writer' | 'cseq'>} Draft
 *
 * @typedef {object} Line
 * @property {import('./store.js').WriterRecord} record
 * @property {import('./store.js').Store} store
 * @property {() => void} unlock
 * @property {Map<number, Item>} items stored and not removed
 * @property {Writer | null} writer from the moment that it has an origin in this page
 * @property {number} removedTo
 * @property {Set<number>} conflicts what was not taken because somebody else uses the origin
 *
 * @typedef {object} OutboxOwner
 * @property {(items: Item[]) => void} adopted were written by a page that is gone
 * @property {(item: Item, origin: string) => void} numbered is stored, and goes out with this origin
 * @property {(item: Item, answer: import('./writer.js').Answer) => void} answered
 * @property {(items: Item[]) => void} lost another page has taken them over
 * @property {() => void} changed there may be something to send, or another number of items waits
 * @property {(line: { origin: string, base: number } | null) => void} request the server is to accept this origin in
 *   this session, or to give a fresh one
 */

/** Items, and bytes of their bodies, that one page queues. */
const MOST = 10_000;
const MOST_BYTES = 16_777_216;
const RETRY_MS = 2_000;

export class Outbox {
  #scope;
  #owner;
  #open;
  #now;
  #date;
  #number;
  #claim;
  /** @type {import('./store.js').Storage | null} */
  #storage = null;
  /** @type {{ tenant: string, user: string } | null} */
  #identity = null;
  /** @type {Line[]} */
  #lines = [];
  /** Not stored yet. @type {Draft[]} */
  #drafts = [];
  #bytes = 0;
  /** An origin that nobody uses yet. @type {string | null} */
  #fresh = null;
  #attached = false;
  /** Whether the server has been asked about the first line's origin. */
  #asked = false;
  #adopting = false;
  #busy = false;
  #again = false;
  #closed = false;
  #closing = new AbortController();
  /** Locks of other pages' lines that are waited for, and those that have been got. @type {Map<string, (() => void) | null>} */
  #awaited = new Map();
  /** Whether the first line's origin turned out to be somebody else's too. */
  #moving = false;
  /** Whether a line is wanted, even with nothing in it. */
  #beginning = false;
  /** When what failed is tried again. @type {number | null} */
  #retryAt = null;

  /**
   * @param {object} options
   * @param {string} options.scope what lines belong together: server and room
   * @param {() => Promise<import('./store.js').Storage | null>} options.storage
   * @param {() => number} options.now
   * @param {() => number} options.date
   * @param {() => number} options.random
   * @param {OutboxOwner} options.owner
   */
  constructor({ scope, storage, now, date, random, owner }) {
    this.#scope = scope;
    this.#open = storage;
    this.#now = now;
    this.#date = date;
    this.#number = () => Math.floor(random() * 4_294_967_296);
    this.#claim = this.newId();
    this.#owner = owner;
  }

  /** Whether all that waits is stored and outlives the page. */
  get durable() {
    return this.keeps && this.#drafts.length === 0;
  }

  /** Whether what is stored outlives the page. */
  get keeps() {
    return this.#storage?.store.durable ?? false;
  }

  /** Whether something without an answer is stored and outlives the page. */
  get leaves() {
    return this.#lines.some((line) => line.store.durable && unanswered(line) > 0);
  }

  /** How many items wait for an answer. */
  get queued() {
    return this.#lines.reduce((sum, line) => sum + unanswered(line), this.#drafts.length);
  }

  /** The origin that is being written with. @returns {string | null} */
  get origin() {
    return this.#attached ? (this.#lines[0]?.writer?.origin ?? null) : null;
  }

  /** Whether what is written now is sent now: nothing older waits in another line. */
  get current() {
    return this.#lines.length === 1;
  }

  /** A name nobody else has. */
  newId() {
    return [0, 0, 0].map(() => this.#number().toString(36)).join('');
  }

  /** A number that nobody guesses. */
  newNumber() {
    return this.#number();
  }

  /**
   * Whose it is; nothing is stored or adopted before that is known. Throws `other_user` if it was said otherwise before.
   * @param {{ tenant: string, user: string }} identity
   */
  identify({ tenant, user }) {
    const known = this.#identity;
    if (known && !isSame(known, { tenant, user })) {
      throw new SwitchyardError('other_user', `the token is for ${user}, the room was opened for ${known.user}`);
    }
    if (!known || !known.tenant) this.#identity = { tenant, user };
    this.adopt();
  }

  /** Looks for lines whose page is gone. */
  adopt() {
    if (!this.#identity) return;
    this.#adopting = true;
    this.#pump();
  }

  /**
   * Takes something to be written. Throws `buffer_full`.
   * @param {Draft} draft
   */
  add(draft) {
    if (this.queued >= MOST || this.#bytes + draft.body.length > MOST_BYTES) {
      throw new SwitchyardError('buffer_full', 'too much waits to be sent');
    }
    this.#bytes += draft.body.length;
    this.#drafts.push(draft);
    this.#pump();
  }

  /** There is to be a line, even with nothing in it. */
  begin() {
    this.#beginning = true;
    this.#pump();
  }

  /** A new session, with a fresh origin. @param {string | null} fresh */
  attach(fresh) {
    this.#attached = true;
    this.#fresh = fresh;
    this.#asked = false;
    this.#retryAt = null;
    for (const line of this.#lines) line.writer?.detach();
    this.#pump();
  }

  /** The session is gone. */
  detach() {
    this.#attached = false;
    this.#fresh = null;
    for (const line of this.#lines) line.writer?.detach();
  }

  /** The same session goes on after an interruption. */
  resumed() {
    this.#lines[0]?.writer?.resumed(this.#now());
  }

  /** The server accepts this origin, or gives it. @param {string} origin */
  granted(origin) {
    if (!this.#attached) return;
    this.#asked = false;
    const [line] = this.#lines;
    if (line?.record.origin === origin) this.#start(line);
    else this.#fresh = origin;
    this.#pump();
  }

  /** The server does not accept the origin. @param {string} code @param {number} retryAfterMs */
  denied(code, retryAfterMs) {
    this.#asked = false;
    if (code === 'bad_origin' && this.#lines[0]?.record.origin) {
      this.#lines[0].writer = null;
      this.#moving = true;
    } else {
      this.#retryAt = this.#now() + retryAfterMs;
    }
    this.#pump();
  }

  /** What to send now. @param {number} now @returns {import('./record.js').SubmitRecord[]} */
  poll(now) {
    if (this.#retryAt !== null && now >= this.#retryAt) {
      this.#retryAt = null;
      this.#pump();
    }
    return this.#lines[0]?.writer?.poll(now) ?? [];
  }

  /** When to poll next. @returns {number | null} */
  get dueAt() {
    const due = this.#lines[0]?.writer?.dueAt ?? null;
    return this.#retryAt === null ? due : Math.min(due ?? Infinity, this.#retryAt);
  }

  /**
   * A record of the server about an origin. Gives the item that it answers.
   * @param {Parameters<Writer['handle']>[0]} record
   * @returns {Item | null}
   */
  handle(record) {
    const [line] = this.#lines;
    if (!line?.writer || line.record.origin !== record.origin) return null;
    const answer = line.writer.handle(record, this.#now());
    if (!answer) return null;
    this.#pump();
    if ('conflict' in answer) line.conflicts.add(answer.cseq);
    const item = line.items.get(answer.cseq);
    if (!item || 'waits' in answer || 'conflict' in answer) return null;
    this.#bytes -= item.body.length;
    this.#owner.answered(item, answer);
    return item;
  }

  /** The item that the server wants something for. @param {{ origin: string, cseq: number }} of @returns {Item | null} */
  item({ origin, cseq }) {
    const [line] = this.#lines;
    return line?.record.origin === origin ? (line.items.get(cseq) ?? null) : null;
  }

  /** Whether there is another item with this id. @param {string} id @param {number} cseq */
  holds(id, cseq) {
    const isOther = (/** @type {Item} */ item) => item.id === id && item.cseq !== cseq;
    return this.#lines.some((line) => [...line.items.values()].some(isOther)) || this.#drafts.some((draft) => draft.id === id);
  }

  /** Another content for an item that the server has not taken. @param {Item} item */
  replace(item) {
    const line = this.#lines.find(({ record }) => record.id === item.writer);
    if (!line?.items.has(item.cseq)) return;
    line.items.set(item.cseq, item);
    line.store.put(line.record, [item]).then(
      () => line.writer?.replace(item),
      () => line.writer?.replace(item),
    );
  }

  /** The page is done with the room; what waits is left for the next. */
  close() {
    this.#closed = true;
    this.#closing.abort();
    this.detach();
    for (const unlock of this.#awaited.values()) unlock?.();
    this.#awaited.clear();
    for (const line of this.#lines) line.unlock();
    this.#lines = [];
  }

  // --- one step after the other --------------------------------------------------------------------------------------

  /** Does what there is to do with storage, never two things at once. */
  async #pump() {
    this.#again = true;
    if (this.#busy) return;
    this.#busy = true;
    // What is written in one turn is stored in one transaction.
    await null;
    while (this.#again && !this.#closed) {
      this.#again = false;
      try {
        await this.#step();
      } catch (error) {
        this.#failed(error);
      }
    }
    this.#busy = false;
    if (this.#closed) this.close();
  }

  async #step() {
    if (!this.#identity) return;
    if (!this.#storage) this.#storage = (await this.#open().catch(() => null)) ?? memoryStorage();
    if (this.#adopting) await this.#adoptAll();
    if (this.#drafts.length > 0) await this.#storeDrafts();
    else if (this.#beginning && this.#lines.length === 0) await this.#newLine([]);
    this.#beginning = false;
    if (this.#moving || this.#isLeftWithConflicts) await this.#moveFirst();
    for (const line of this.#lines) await this.#forget(line);
    await this.#nextLine();
    if (this.#attached && this.#lines[0]) await this.#authorise(this.#lines[0]);
    this.#owner.changed();
  }

  async #adoptAll() {
    const { store, locks } = /** @type {import('./store.js').Storage} */ (this.#storage);
    this.#adopting = false;
    const found = (await store.list(this.#scope)).sort((a, b) => a.created - b.created);
    for (const { id, ...stored } of found) {
      if (!isSame(stored, this.#who) || this.#lines.some((line) => line.record.id === id)) continue;
      const unlock = this.#awaited.get(id) ?? (await locks.hold(id));
      if (!unlock) {
        this.#await(id, locks);
        continue;
      }
      this.#awaited.delete(id);
      const claimed = await store.claim(id, this.#claim);
      if (claimed && claimed.items.length > 0 && !this.#closed) {
        this.#adopt(claimed, unlock);
        continue;
      }
      if (claimed && !this.#closed) await store.drop(id, this.#claim);
      unlock();
    }
    for (const [id, unlock] of this.#awaited) {
      if (!unlock || found.some((record) => record.id === id)) continue;
      // Its page has finished it before it went.
      this.#awaited.delete(id);
      unlock();
    }
  }

  /** @param {{ record: import('./store.js').WriterRecord, items: Item[] }} claimed @param {() => void} unlock */
  #adopt({ record, items }, unlock) {
    record.tenant ||= this.#who.tenant;
    const { store } = /** @type {import('./store.js').Storage} */ (this.#storage);
    const byNumber = new Map(items.map((item) => [item.cseq, item]));
    const line = { record, store, unlock, items: byNumber, writer: null, removedTo: items[0].cseq - 1, conflicts: new Set() };
    // Before what was written later, unless that is being sent.
    const begun = this.#lines[0] && this.#lines[0].record.origin !== null ? 1 : 0;
    const later = this.#lines.findIndex((other, at) => at >= begun && other.record.created > record.created);
    this.#lines.splice(later < 0 ? this.#lines.length : later, 0, line);
    this.#asked &&= begun > 0;
    for (const item of items) this.#bytes += item.body.length;
    this.#owner.adopted(items);
  }

  /** Adopts a line when its page goes. @param {string} id @param {import('./store.js').Locks} locks */
  #await(id, locks) {
    if (this.#awaited.has(id)) return;
    this.#awaited.set(id, null);
    locks.wait(id, this.#closing.signal).then(
      (unlock) => {
        if (this.#closed) return unlock();
        this.#awaited.set(id, unlock);
        return this.adopt();
      },
      () => this.#awaited.delete(id),
    );
  }

  async #storeDrafts() {
    const line = this.#lines.at(-1);
    if (!line || line.store !== this.#storage?.store || line.writer?.closed) {
      await this.#newLine(this.#drafts);
      return;
    }
    const drafts = [...this.#drafts];
    const { record } = line;
    const items = drafts.map((draft, i) => ({ ...draft, writer: record.id, cseq: record.next + i }));
    await line.store.put({ ...record, next: record.next + items.length }, items);
    this.#drafts.splice(0, drafts.length);
    record.next += items.length;
    for (const item of items) {
      line.items.set(item.cseq, item);
      this.#push(line, item);
    }
  }

  /** @param {Draft[]} waiting become its first items */
  async #newLine(waiting) {
    const drafts = [...waiting];
    const { store } = /** @type {import('./store.js').Storage} */ (this.#storage);
    const record = this.#newRecord(drafts.length + 1);
    const items = drafts.map((draft, i) => ({ ...draft, writer: record.id, cseq: i + 1 }));
    const unlock = await this.#lock(record.id);
    try {
      await store.put(record, items);
    } catch (error) {
      unlock();
      throw error;
    }
    this.#drafts.splice(0, drafts.length);
    const byNumber = new Map(items.map((item) => [item.cseq, item]));
    this.#lines.push({ record, store, unlock, items: byNumber, writer: null, removedTo: 0, conflicts: new Set() });
  }

  /** The first line's origin is not ours alone: what was not taken comes back in a line that has none yet. */
  async #moveFirst() {
    const line = this.#lines[0];
    if (!line) return;
    const waiting = [...line.items.values()].filter((item) => isUnanswered(line, item)).sort((a, b) => a.cseq - b.cseq);
    const record = { ...this.#newRecord(waiting.length + 1), created: line.record.created };
    const items = waiting.map((item, i) => ({ ...item, writer: record.id, cseq: i + 1 }));
    const unlock = await this.#lock(record.id);
    await line.store.move(line.record.id, record, items);
    line.unlock();
    const byNumber = new Map(items.map((item) => [item.cseq, item]));
    this.#lines[0] = { record, store: line.store, unlock, items: byNumber, writer: null, removedTo: 0, conflicts: new Set() };
    this.#moving = false;
  }

  /** Removes what is answered; only then may `base` say so. @param {Line} line */
  async #forget(line) {
    const to = Math.min(line.writer?.answeredTo ?? 0, Math.min(Infinity, ...line.conflicts) - 1);
    if (!line.writer || to <= line.removedTo) return;
    await line.store.remove(line.record.id, this.#claim, to);
    line.removedTo = to;
    for (const cseq of line.items.keys()) if (cseq <= to) line.items.delete(cseq);
    line.writer.release(to);
  }

  /** Whether what is left of the first line is what somebody else's submissions stand in the way of. */
  get #isLeftWithConflicts() {
    const [line] = this.#lines;
    return line !== undefined && line.conflicts.size > 0 && line.writer?.waiting === 0;
  }

  async #nextLine() {
    const [line] = this.#lines;
    if (!line || this.#lines.length < 2 || line.items.size > 0) return;
    this.#lines.shift();
    await line.store.drop(line.record.id, this.#claim).catch(() => {});
    line.unlock();
    this.#asked = false;
    this.#again = true;
  }

  /** Sees to it that the line can be sent in this session. @param {Line} line */
  async #authorise(line) {
    if (line.writer?.attached) return;
    const { record } = line;
    if (record.origin === null && this.#fresh !== null) {
      const origin = this.#fresh;
      await line.store.put({ ...record, origin }, []);
      record.origin = origin;
      // The session may have gone meanwhile: then the origin is one from before, as any other.
      if (this.#fresh !== origin) return;
      this.#fresh = null;
      this.#start(line);
      return;
    }
    if (this.#asked || this.#retryAt !== null) return;
    this.#asked = true;
    const base = Math.min(record.next, ...line.items.keys());
    this.#owner.request(record.origin === null ? null : { origin: record.origin, base });
  }

  /** @param {Line} line */
  #start(line) {
    const { record, items } = line;
    if (!line.writer) {
      const waiting = [...items.values()].sort((a, b) => a.cseq - b.cseq);
      line.writer = new Writer({ origin: /** @type {string} */ (record.origin), next: waiting[0]?.cseq ?? record.next });
      for (const item of waiting) this.#push(line, item);
    }
    line.writer.attach();
    this.#owner.changed();
  }

  /** @param {Line} line @param {Item} item */
  #push({ writer }, item) {
    if (!writer) return;
    writer.push(item);
    this.#owner.numbered(item, writer.origin);
  }

  /** @param {unknown} error */
  #failed(error) {
    const isFenced = error instanceof SwitchyardError && error.code === 'fenced';
    const lost = isFenced ? this.#lines.filter((line) => line.store.durable) : [];
    if (lost.length > 0) {
      this.#lines = this.#lines.filter((line) => !line.store.durable);
      for (const line of lost) {
        line.unlock();
        this.#owner.lost([...line.items.values()].filter((item) => isUnanswered(line, item)));
      }
      this.#again = true;
    } else if (this.keeps) {
      // What is stored already stays as it is, and is not sent with anything that is not stored beside it.
      this.#storage = memoryStorage();
      this.#again = true;
    } else {
      this.#retryAt = this.#now() + RETRY_MS;
    }
    this.#owner.changed();
  }

  /** @param {string} id */
  async #lock(id) {
    const unlock = await this.#storage?.locks.hold(id);
    if (!unlock) throw new SwitchyardError('fenced', 'a new name is in use');
    return unlock;
  }

  /** @param {number} next @returns {import('./store.js').WriterRecord} */
  #newRecord(next) {
    return { id: this.newId(), scope: this.#scope, ...this.#who, origin: null, next, created: this.#date(), claim: this.#claim };
  }

  get #who() {
    return /** @type {{ tenant: string, user: string }} */ (this.#identity);
  }
}

/** Before the first token the tenant may be unknown. @typedef {{ tenant: string, user: string }} Identity */
/** @param {Identity} a @param {Identity} b */
function isSame(a, b) {
  return a.user === b.user && (a.tenant === b.tenant || a.tenant === '' || b.tenant === '');
}

/** @param {Line} line */
function unanswered(line) {
  return line.writer ? line.writer.waiting + line.conflicts.size : line.items.size;
}

/** @param {Line} line @param {Item} item */
function isUnanswered(line, item) {
  return !line.writer || line.writer.waits(item.cseq) || line.conflicts.has(item.cseq);
}
