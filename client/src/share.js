/**
 * Tells the server how good the connection is, for the others in the room and for the operator (docs/protocol.md, section
 * 2.4): when it has become another, and once a minute. Pure: no clock, no pipe.
 */

/** The server takes no more of them for long. */
const LEAST_MS = 5_000;
const AGAIN_MS = 60_000;

export class Share {
  #send;
  /** @type {string | null} */
  #told = null;
  /** Direct messages that had been sent when it told last. */
  #sent = 0;
  #toldAt = -Infinity;

  /** @param {(message: Record<string, unknown>) => boolean} send false while there is no session */
  constructor(send) {
    this.#send = send;
  }

  /**
   * To be called a few times a second.
   * @param {number} now
   * @param {import('./quality.js').QualityReport} report
   * @param {import('./mesh/mesh.js').Ways} [ways] how the members of the rooms are reached
   */
  tick(now, report, ways) {
    // Before anything is measured there is nothing to tell.
    if (this.#told === null && report.rtt === null) return;
    const what = `${report.score} ${report.level} ${report.rung} ${ways?.direct} ${ways?.relay}`;
    if (now - this.#toldAt < (what === this.#told ? AGAIN_MS : LEAST_MS)) return;
    const { sent = 0, ...pairs } = ways ?? {};
    const direct = ways ? { pairs, direct_messages: Math.max(0, sent - this.#sent) } : {};
    if (!this.#send({ ...messageOf(report), ...direct })) return;
    this.#sent = sent;
    this.#told = what;
    this.#toldAt = now;
  }

  /** The server has forgotten. */
  forget() {
    this.#told = null;
    this.#toldAt = -Infinity;
  }
}

/** @param {import('./quality.js').QualityReport} report */
function messageOf({ score, rung, rtt, jitter, loss, bufferAgeMs, bitrate }) {
  const whole = (/** @type {number | null} */ value) => (value === null ? null : Math.round(value));
  return {
    type: 'quality',
    score,
    rung,
    rtt_ms: whole(rtt),
    jitter_ms: whole(jitter),
    loss_permille: whole(loss === null ? null : loss * 1_000),
    queue_ms: whole(bufferAgeMs),
    bitrate: whole(bitrate),
  };
}
