/**
 * Whether a pipe is alive, and its round-trip time: PINGs sent, PONGs and everything else heard. Pure.
 */
export class Probe {
  #heardAt;
  #pingedAt = -Infinity;
  #nonce = 0;
  /** Sent and not answered, by nonce. @type {Map<number, number>} */
  #outstanding = new Map();
  /** Smoothed, in milliseconds; null before the first answer. @type {number | null} */
  rtt = null;
  /** The last answer as it was. @type {import('./quality.js').Answer} */
  latest = { rtt: 0, skipped: 0 };

  /** @param {number} now */
  constructor(now) {
    this.#heardAt = now;
  }

  /** Anything came in. @param {number} now */
  heard(now) {
    this.#heardAt = now;
  }

  /** Whether a PING is due. @param {number} now @param {number} interval */
  due(now, interval) {
    return now - this.#pingedAt >= interval;
  }

  /** Notes a PING and gives its nonce. @param {number} now */
  ping(now) {
    this.#pingedAt = now;
    this.#nonce = (this.#nonce + 1) >>> 0;
    this.#outstanding.set(this.#nonce, now);
    if (this.#outstanding.size > 64) this.#outstanding.delete(this.#outstanding.keys().next().value ?? 0);
    return this.#nonce;
  }

  /**
   * An answer. Older PINGs are taken as lost. False for one that was not asked for.
   * @param {number} nonce
   * @param {number} now
   */
  pong(nonce, now) {
    const sentAt = this.#outstanding.get(nonce);
    if (sentAt === undefined) return false;
    const before = this.#outstanding.size;
    for (const [old, at] of this.#outstanding) if (at <= sentAt) this.#outstanding.delete(old);
    const sample = now - sentAt;
    this.latest = { rtt: sample, skipped: before - this.#outstanding.size - 1 };
    this.rtt = this.rtt === null ? sample : this.rtt + (sample - this.rtt) / 4;
    return true;
  }

  /** How long nothing has come in. @param {number} now */
  quietFor(now) {
    return now - this.#heardAt;
  }

  /**
   * Nothing heard for `ms` since a PING that waits for its answer. Time before the PING does not count: a lost one is
   * sent again beneath, by SCTP after a second, and that must not look like a dead pipe.
   * @param {number} now
   * @param {number} ms
   */
  silent(now, ms) {
    const [oldest] = this.#outstanding.values();
    return oldest !== undefined && now - Math.max(oldest, this.#heardAt) >= ms;
  }

  /** How long the oldest PING has waited for its answer, and how long nothing has come meanwhile. @param {number} now */
  wait(now) {
    const [oldest = now] = this.#outstanding.values();
    return { waitingMs: now - oldest, silentMs: now - Math.max(oldest, Math.min(now, this.#heardAt)) };
  }

  /** The page slept: silence before `now` says nothing. @param {number} now */
  wake(now) {
    this.#heardAt = now;
    this.#outstanding.clear();
    this.#pingedAt = -Infinity;
  }
}
