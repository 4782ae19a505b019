/**
 * Whether a data channel still gets through, from its own evidence. Pure: the owner says what it sends and hears and asks
 * again at `nextAt`.
 *
 * While an answer is awaited and nothing comes, probes go out fast: PINGs on the unordered channel, where one that is lost
 * holds up nothing and is not repeated. Each has a time for its answer, scaled to the round trip and how much that varies.
 * Anything heard clears the channel; four probes missed in a row, with nothing else heard, make it suspected: about 300 ms
 * on a short path, 150 ms and three round trips on a long one. One lost packet is none of that, for each probe is a packet
 * of its own: where 5 % are lost each way, four in a row are missed once in ten thousand silences.
 *
 * That takes its time, and what has been sent may be waiting for another way. So before a suspicion there is a doubt, which
 * costs little if it is wrong: as soon as an answer to what was sent last is overdue, the owner sends it elsewhere as well.
 *
 * Things may be heard while what is sent vanishes. So the answers are watched too, with more patience.
 */

import { Lateness } from './lateness.js';

/** Probes missed in a row that make a suspicion. */
const MISSES = 4;
/** Until the first probe: the server acknowledges within 100 ms, which saves the probe on short paths. */
const QUIET_MS = 100;
const PROBE_LEAST_MS = 40;
const ANSWER_LEAST_MS = 80;
/** For what delays an answer and is not the network: timers, a busy page. */
const ANSWER_SPARE_MS = 40;
/** Without a single answer, though other things are heard. */
const UNANSWERED_MS = 1_000;
/** After the suspicion: fast at first. */
const SUSPECTED_PROBE_MS = 250;
const FAST_FOR_MS = 3_000;
const SLOW_PROBE_MS = 1_000;
/** A look that comes so late says that the page was busy: what has arrived meanwhile is read first. */
const LATE_MS = 30;
const SECOND_LOOK_MS = 30;
/** Before the first answer. */
const ASSUMED_RTT_MS = 200;
/** Nonces of these probes, so that the answers to the others are not mixed with them. */
const NONCES = 0x8000_0000;
const OUTSTANDING = 64;

/** Since something last spoke for the channel. */
class Silence {
  /** When probes were sent, at most as many as convict. @type {number[]} */
  probes = [];

  /** @param {number} patience milliseconds until the first */
  constructor(patience) {
    this.patience = patience;
  }
}

export class Suspicion {
  #heardAt;
  #answeredAt;
  /** Since when an answer is awaited. @type {number | null} */
  #since = null;
  /** The other side, or the browser, says that something is wrong: the first probe goes at once. */
  #isHinted = false;
  #hearing = new Silence(QUIET_MS);
  #answering = new Silence(UNANSWERED_MS);
  #probedAt = -Infinity;
  #nonce = 0;
  /** When each was sent, by nonce. @type {Map<number, number>} */
  #outstanding = new Map();
  #variation = ASSUMED_RTT_MS / 2;
  #lateness = new Lateness();
  /** A suspicion that was looked for late is none before. */
  #notBefore = -Infinity;
  /** Nor is a doubt. */
  #noDoubtBefore = -Infinity;
  /** Smoothed, of these probes alone; null before the first answer. @type {number | null} */
  rtt = null;

  /** @param {number} now */
  constructor(now) {
    this.#heardAt = now;
    this.#answeredAt = now;
  }

  /** How long nothing has been heard. @param {number} now */
  quietFor(now) {
    return now - this.#heardAt;
  }

  /** How long a probe may take to be answered. */
  get answerMs() {
    const rtt = this.rtt ?? ASSUMED_RTT_MS;
    return Math.max(ANSWER_LEAST_MS, rtt + 4 * this.#variation + ANSWER_SPARE_MS);
  }

  /** Whether an answer is awaited. @param {number} now @param {boolean} awaited */
  expect(now, awaited) {
    if (!awaited && !this.#isHinted) {
      this.#since = null;
      this.#clear();
    } else {
      this.#since ??= now;
    }
  }

  /** Somebody doubts the channel: see at once. @param {number} now */
  hint(now) {
    this.#isHinted = true;
    this.#since ??= now;
  }

  /** @param {number} now */
  heard(now) {
    const expectedAt = this.#expectedAt;
    if (expectedAt !== null) this.#lateness.came(expectedAt, now);
    this.#heardAt = now;
    this.#hearing.probes = [];
    this.#relent();
  }

  /** Notes a probe and gives its nonce. @param {number} now */
  ping(now) {
    this.#probedAt = now;
    this.#nonce = (this.#nonce + 1) % NONCES;
    this.#outstanding.set(this.#nonce, now);
    if (this.#outstanding.size > OUTSTANDING) this.#outstanding.delete(this.#outstanding.keys().next().value ?? 0);
    for (const silence of [this.#hearing, this.#answering]) {
      if (now >= this.#firstAt(silence) && silence.probes.length < MISSES) silence.probes.push(now);
    }
    return NONCES + this.#nonce;
  }

  /** An answer. False for one that is not to a probe of these. @param {number} nonce @param {number} now */
  pong(nonce, now) {
    const sentAt = this.#outstanding.get(nonce - NONCES);
    if (sentAt === undefined) return false;
    this.#outstanding.delete(nonce - NONCES);
    this.answered(now, now - sentAt);
    return true;
  }

  /**
   * It got there and back.
   * @param {number} now
   * @param {number} [sample] its round trip, if nothing but the network took the time
   */
  answered(now, sample) {
    this.#answeredAt = now;
    this.#answering.probes = [];
    this.#isHinted = false;
    this.#relent();
    if (sample === undefined) return;
    // As TCP does it (RFC 6298, section 2).
    if (this.rtt === null) {
      this.rtt = sample;
      this.#variation = sample / 2;
    } else {
      this.#variation += (Math.abs(this.rtt - sample) - this.#variation) / 4;
      this.rtt += (sample - this.rtt) / 8;
    }
  }

  /** When a probe is due, if nothing is heard. */
  get probeAt() {
    return Math.min(this.#probeAt(this.#hearing), this.#probeAt(this.#answering));
  }

  /** When to ask again, while it is trusted. */
  get nextAt() {
    return Math.min(this.probeAt, Math.max(this.#notBefore, this.#convictAt));
  }

  /**
   * When what is not acknowledged is to go elsewhere too, if nothing is heard: an answer should have come by then. The first one
   * takes a round trip; while answers come they follow one another as what they answer does, however long the path; and as late as
   * they often are.
   */
  get doubtAt() {
    return Math.max(this.#noDoubtBefore, this.#answerDueAt);
  }

  get #answerDueAt() {
    const expectedAt = this.#expectedAt;
    return expectedAt === null ? Infinity : expectedAt + Math.max(QUIET_MS + ANSWER_SPARE_MS, this.#lateness.bound);
  }

  /** When something is to be heard, if nothing is late. */
  get #expectedAt() {
    if (this.#since === null) return null;
    const rtt = this.rtt ?? ASSUMED_RTT_MS;
    return Math.max(this.#since + 1.25 * rtt, this.#heardAt + rtt / 4);
  }

  /** Whether it is doubted. @param {number} now */
  doubts(now) {
    const dueAt = this.#answerDueAt;
    if (now < dueAt) this.#noDoubtBefore = -Infinity;
    else if (this.#noDoubtBefore === -Infinity) this.#noDoubtBefore = now - dueAt > LATE_MS ? now + SECOND_LOOK_MS : dueAt;
    return now >= this.doubtAt;
  }

  /** @param {number} now @returns {'trusted' | 'suspected'} */
  verdict(now) {
    const convictAt = this.#convictAt;
    if (now < convictAt || now < this.#notBefore) return 'trusted';
    if (this.#notBefore === -Infinity && now - convictAt > LATE_MS) {
      this.#notBefore = now + SECOND_LOOK_MS;
      return 'trusted';
    }
    this.#notBefore = convictAt;
    return 'suspected';
  }

  /** From here on it is to be judged anew: the page slept, or the channel is given a new chance. @param {number} now */
  acquit(now) {
    this.#heardAt = now;
    this.#answeredAt = now;
    this.#since = null;
    this.#isHinted = false;
    this.#clear();
  }

  #clear() {
    this.#hearing.probes = [];
    this.#answering.probes = [];
    this.#relent();
  }

  #relent() {
    if (this.#convictAt === Infinity) this.#notBefore = -Infinity;
  }

  get #spacing() {
    return Math.max(PROBE_LEAST_MS, (this.rtt ?? ASSUMED_RTT_MS) / 2);
  }

  /** @param {Silence} silence */
  #firstAt(silence) {
    if (this.#since === null) return Infinity;
    const from = Math.max(this.#since, silence === this.#hearing ? this.#heardAt : this.#answeredAt);
    return this.#isHinted && silence === this.#hearing ? from : from + silence.patience + (this.rtt ?? ASSUMED_RTT_MS) / 2;
  }

  /** @param {Silence} silence */
  #probeAt(silence) {
    const { probes } = silence;
    const last = probes.at(-1);
    if (last === undefined) return this.#firstAt(silence);
    if (probes.length < MISSES) return last + this.#spacing;
    return this.#probedAt + (this.#probedAt - probes[0] < FAST_FOR_MS ? SUSPECTED_PROBE_MS : SLOW_PROBE_MS);
  }

  get #convictAt() {
    const last = Math.min(...[this.#hearing, this.#answering].map(({ probes }) => probes[MISSES - 1] ?? Infinity));
    return last + this.answerMs;
  }
}
