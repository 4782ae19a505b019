/**
 * Which lossy messages of a sender's stream are here already: they may come twice, from the sender itself and over the server.
 * Remembers the last 256 numbers; what is older counts as seen. Pure.
 */

const WIDTH = 256;

export class Seen {
  #bits = new Uint32Array(WIDTH / 32);
  /** @type {number | null} */
  #newest = null;

  /** @param {number} [upTo] what is not newer has come already */
  constructor(upTo) {
    if (upTo === undefined) return;
    this.#newest = upTo;
    this.#bits.fill(0xffff_ffff);
  }

  /** Notes a number. False if it was noted before. @param {number} seq 32 bits, compared modulo 2³² */
  add(seq) {
    const ahead = this.#newest === null ? WIDTH : (seq - this.#newest) | 0;
    if (ahead <= -WIDTH) return false;
    if (ahead >= WIDTH) this.#bits.fill(0);
    else for (let step = 1; step <= ahead; step += 1) this.#set((seq - ahead + step) >>> 0, false);
    if (this.#newest === null || ahead > 0) this.#newest = seq;
    if (ahead <= 0 && this.#has(seq)) return false;
    this.#set(seq, true);
    return true;
  }

  /** @param {number} seq */
  #has(seq) {
    return (this.#bits[(seq % WIDTH) >> 5] & (1 << (seq & 31))) !== 0;
  }

  /** @param {number} seq @param {boolean} isSeen */
  #set(seq, isSeen) {
    const bit = 1 << (seq & 31);
    if (isSeen) this.#bits[(seq % WIDTH) >> 5] |= bit;
    else this.#bits[(seq % WIDTH) >> 5] &= ~bit;
  }
}
