/**
 * Tells the server what became of attempts to connect, for the operator who is asked why (docs/protocol.md, section 2.3):
 * those that have connected, and those that have ended, but for what this page ended after it had worked. Keeps the last
 * few for when there is a session to tell it in.
 */

const WAITING_MOST = 20;
/** The server takes 20 at once and 20 a minute, by its own clock. */
const TOLD_MOST = 15;
const TOLD_EVERY_MS = 4_000;
/** 1 KiB of UTF-8 has at least so many characters. */
const SENTENCE_MOST = 340;
const DETAILS_BYTES = 6_144;

/**
 * @typedef {import('./attempts.js').Attempt} Attempt
 * @typedef {Partial<Attempt>} Details
 */

/** What is left out, one after the other, where details are too long. @type {readonly ((details: Details) => Details)[]} */
const CUTS = [
  (details) => ({ ...details, states: details.states?.slice(-12) }),
  (details) => ({ ...details, errors: details.errors?.slice(0, 4) }),
  (details) => ({ ...details, pairs: details.pairs?.slice(0, 8), gathered: details.gathered?.slice(0, 8) }),
  () => ({}),
];

export class Report {
  #env;
  #send;
  /** Oldest first. @type {Attempt[]} */
  #waiting = [];
  #tokens = TOLD_MOST;
  #filledAt;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {(message: Record<string, unknown>) => boolean} send false while there is no session
   */
  constructor(env, send) {
    this.#env = env;
    this.#send = send;
    this.#filledAt = env.now();
  }

  /** It has connected, or has ended. @param {Attempt} attempt */
  take(attempt) {
    const { id, connectedMs, cause } = attempt;
    if (connectedMs !== null && cause === 'page') return;
    this.#waiting = this.#waiting.filter((waiting) => waiting.id !== id);
    this.#waiting.push(attempt);
    if (this.#waiting.length > WAITING_MOST) this.#waiting.shift();
    this.flush();
  }

  /** Sends what waits, as far as that can be done now; to be called again and again. */
  flush() {
    if (this.#waiting.length === 0) return;
    const now = this.#env.now();
    this.#tokens = Math.min(TOLD_MOST, this.#tokens + (now - this.#filledAt) / TOLD_EVERY_MS);
    this.#filledAt = now;
    while (this.#waiting.length > 0 && this.#tokens >= 1 && this.#send(messageOf(this.#waiting[0]))) {
      this.#waiting.shift();
      this.#tokens -= 1;
    }
  }
}

/** @param {Attempt} attempt */
export function messageOf({ id, by, verdict, sentence, began, connectedMs, endedMs, cause, rung, pc, ...details }) {
  return {
    type: 'attempt',
    n: id,
    by,
    verdict,
    sentence: sentence.slice(0, SENTENCE_MOST),
    began,
    connected_ms: connectedMs,
    ended_ms: endedMs,
    cause,
    rung: by === 'websocket' && connectedMs !== null ? 'websocket' : (rung ?? null),
    pc: pc ?? null,
    details: fitting(details),
  };
}

/** @param {Details} details */
function fitting(details) {
  let rest = details;
  for (const cut of CUTS) {
    if (new TextEncoder().encode(JSON.stringify(rest)).length <= DETAILS_BYTES) break;
    rest = cut(rest);
  }
  return rest;
}
