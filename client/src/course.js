/**
 * Over what the packets of the pipe in use go, as far as the browser tells: it is asked when the pipe changes and every few
 * seconds, for a path may change beneath a peer connection.
 */

const STALE_MS = 5_000;

export class Course {
  /** @type {import('./link.js').Rung | null} */
  rung = null;
  /** Bits per second that the browser believes it can send. @type {import('./peer.js').Way['bitrate']} */
  bitrate = null;
  /** @type {import('./peer.js').Way['relay']} */
  #relay = null;
  #lookedAt = -Infinity;

  /** The transport to the relay, where the rung is one and the browser says it. */
  get relay() {
    return this.rung === 'relay' ? this.#relay : null;
  }

  /** Whether it may be another one by now. A WebSocket's is not. @param {number} now */
  isStale(now) {
    return this.rung !== 'websocket' && now - this.#lookedAt > STALE_MS;
  }

  /**
   * Whether the rung is another one now.
   * @param {number} now
   * @param {import('./pipe.js').Pipe} pipe
   * @param {import('./peer.js').Peer | null} peer
   * @param {() => boolean} isUsed whether the pipe is still in use when the browser has answered
   */
  async look(now, pipe, peer, isUsed) {
    this.#lookedAt = now;
    const way = pipe.kind === 'websocket' ? null : await peer?.way().catch(() => null);
    if (!isUsed()) return false;
    // A browser that does not say: the usual one.
    const guess = this.rung && this.rung !== 'websocket' ? this.rung : 'udp';
    const known = pipe.kind === 'websocket' ? 'websocket' : (way?.rung ?? guess);
    if (way) this.#relay = way.relay;
    this.bitrate = way?.bitrate ?? null;
    const isOther = known !== this.rung;
    this.rung = known;
    return isOther;
  }
}
