/**
 * The reliable lane of a session that several tabs share. Every tab has a copy. The leading tab decides what happens to the
 * lane and in which order; all tabs, the leading one included, do the same to their copy (shared-link.js), so each of them
 * could lead the next moment and go on with the same numbers.
 *
 * What a tab has to send is offered to the leader under a number of its own and kept until the server has it: a new leader
 * that has not seen the offer is given it again, and one that has does not take it twice.
 *
 * Pure, as lane.js is.
 */

import { Lane } from '../lane.js';
import { messageCost } from '../scheduler.js';

/**
 * @template [Tag=unknown]
 * @typedef {import('../lane.js').Message<Tag>} Message
 *
 * @typedef {{ tab: string, id: number }} Label whose message it is, in the lane of all tabs
 * @typedef {Message<any> & { tag: Label }} Labelled
 * @typedef {import('../lane.js').LaneState} LaneState
 *
 * @typedef {object} Desk
 * @property {(id: number, message: Message<any>) => void} offered for the leader to order it
 * @property {() => void} took the leader is about to send a frame that is new
 * @property {() => number | null} firstUnseen the first received frame that another tab may not have
 * @property {() => boolean} holds whether nothing new may be sent now: another tab may not know what
 */

/** @type {LaneState} */
export const EMPTY = Object.freeze({
  sent: [],
  numbered: 0,
  acked: 0,
  received: 0,
  waiting: { control: { messages: [], offset: 0 }, small: { messages: [], offset: 0 }, bulk: [], turns: [], later: [], sinceBulk: 0 },
});

/** @extends {Lane<any>} */
export class TabLane extends Lane {
  #desk;
  /** This tab's messages that the server has not acknowledged. @type {Map<number, { message: Message<any>, ordered: boolean }>} */
  #mine = new Map();
  /** Of those that are not in the lane yet. */
  #offeredBytes = 0;
  #lastId = 0;
  #admitting = false;
  /** Which lane it is: one more with each session that was lost. */
  epoch = 0;
  /** Whose copy it is. */
  tab = 'alone';
  /** Whether less was acknowledged than was received. */
  owesMore = false;

  /**
   * @param {{ limit: number, acks: import('../limits.js').Acks }} options
   * @param {Desk} desk
   */
  constructor(options, desk) {
    super(options);
    this.#desk = desk;
  }

  /** The number of the last offer. */
  get lastId() {
    return this.#lastId;
  }

  get waitingBytes() {
    return super.waitingBytes + this.#offeredBytes;
  }

  /** @param {number} cost */
  fits(cost) {
    return this.#admitting || super.fits(cost + this.#offeredBytes);
  }

  /** @param {Message<any>} message */
  offer(message) {
    const cost = messageCost(message);
    if (!this.fits(cost)) return false;
    const id = (this.#lastId += 1);
    this.#mine.set(id, { message, ordered: false });
    this.#offeredBytes += cost;
    this.#desk.offered(id, message);
    return true;
  }

  /** The leader has ordered a message: it is in the lane of all tabs from here on. @param {Label} label @param {Message<any>} message */
  admit({ tab, id }, message) {
    const own = this.#order(tab, id);
    this.#admitting = true;
    super.offer({ ...(own?.message ?? message), tag: { tab, id } });
    this.#admitting = false;
  }

  /** The leader cannot take this message of this tab. @param {number} id @returns {any} its tag */
  refuse(id) {
    const own = this.#order(this.tab, id);
    this.#mine.delete(id);
    return own?.message.tag;
  }

  /** @param {number} [room] */
  next(room = Infinity) {
    if (!this.replays && this.#desk.holds()) return null;
    const before = this.numbered;
    const frame = super.next(room);
    if (this.numbered !== before) this.#desk.took();
    return frame;
  }

  get hasNext() {
    return this.replays || (super.hasNext && !this.#desk.holds());
  }

  /**
   * A leader that crashed may have sent more than it could tell. What that was is known: all tabs have the same messages, in
   * the same order.
   * @param {number} ack
   */
  replayFrom(ack) {
    while (isBehind(this.numbered, ack) && super.hasNext) {
      const before = this.numbered;
      super.next();
      if (this.numbered !== before) this.#desk.took();
    }
    return super.replayFrom(ack);
  }

  /** The leader has sent the next frame. */
  take() {
    super.next();
  }

  /** Gives the tags of this tab alone. @param {number} ack */
  acknowledge(ack) {
    return super.acknowledge(ack).flatMap(({ tab, id }) => (tab === this.tab ? this.#done(id) : []));
  }

  /**
   * The server forgets what is acknowledged. So that is what every tab has: should this one crash, what it has passed on last
   * may be lost with it.
   */
  takeAck() {
    const received = super.takeAck();
    const unseen = this.#desk.firstUnseen();
    this.owesMore = unseen !== null && !isBehind(received, unseen);
    return this.owesMore ? (/** @type {number} */ (unseen) - 1) >>> 0 : received;
  }

  /** Whether a received number is further than the next. @param {number} seq */
  isAhead(seq) {
    const ahead = (seq - this.received) >>> 0;
    return ahead > 1 && ahead <= 0x7fff_ffff;
  }

  /** @param {number} room */
  waitsFor(room) {
    return super.waitsFor(room) || [...this.#mine.values()].some(({ message, ordered }) => !ordered && message.room === room);
  }

  /** Of this tab alone. What no leader has ordered has never left. */
  abandon() {
    const own = (/** @type {Message<any>[]} */ messages) =>
      messages.flatMap(({ tag }) => (tag.tab === this.tab ? (this.#mine.get(tag.id)?.message ?? []) : []));
    const { uncertain, waiting } = super.abandon();
    const offered = [...this.#mine.values()].filter(({ ordered }) => !ordered).map(({ message }) => message);
    const all = { uncertain: own(uncertain), waiting: [...own(waiting), ...offered] };
    this.#mine.clear();
    this.#offeredBytes = 0;
    return all;
  }

  /**
   * Another leader goes on with the same lane as it has it. Gives the tags of what turns out to be acknowledged.
   * @param {LaneState} state
   * @param {number} ordered this tab's last message that is or was in it
   * @param {boolean} knew whether this tab has followed the lane: what it has had must not be given out again, and what only
   *   the leader has had comes from the server again
   */
  follow(state, ordered, knew) {
    const { received } = this;
    this.restore(knew || !isBehind(received, state.received) ? { ...state, received } : state);
    const inside = new Set(labelsIn(state).flatMap(({ tab, id }) => (tab === this.tab ? id : [])));
    const done = [];
    this.#offeredBytes = 0;
    for (const [id, own] of this.#mine) {
      own.ordered = id <= ordered;
      if (!own.ordered) this.#offeredBytes += messageCost(own.message);
      else if (!inside.has(id)) done.push(...this.#done(id));
    }
    return done;
  }

  /** What the leader does not know of yet, in order. */
  get offers() {
    return [...this.#mine].flatMap(([id, { message, ordered }]) => (ordered ? [] : [{ id, message }]));
  }

  /** @param {string} tab @param {number} id */
  #order(tab, id) {
    const own = tab === this.tab ? this.#mine.get(id) : undefined;
    if (!own || own.ordered) return own;
    own.ordered = true;
    this.#offeredBytes -= messageCost(own.message);
    return own;
  }

  /** @param {number} id */
  #done(id) {
    const tag = this.#mine.get(id)?.message.tag;
    this.#mine.delete(id);
    return tag === undefined ? [] : [tag];
  }
}

/** Whether one number of a lane lies before another. @param {number} one @param {number} other */
export function isBehind(one, other) {
  const ahead = (other - one) >>> 0;
  return ahead > 0 && ahead <= 0x7fff_ffff;
}

/** What has not left, in the order of each tab. @param {LaneState} state @returns {Labelled[]} */
export function waitingIn({ waiting: { control, small, bulk } }) {
  const messages = /** @type {Labelled[]} */ ([control, small, ...bulk].flatMap((line) => line.messages));
  return messages.sort((one, other) => one.tag.id - other.tag.id);
}

/** @param {LaneState} state @returns {Label[]} */
function labelsIn(state) {
  return [...state.sent.flatMap(({ tag }) => tag ?? []), ...waitingIn(state).map(({ tag }) => tag)];
}
