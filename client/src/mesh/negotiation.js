/**
 * How two browsers agree on one peer connection: perfect negotiation, over signals that may be lost, doubled or overtake each
 * other. Descriptions are numbered by their sender, an answer names its offer, candidates their description; so what is old
 * is dropped, what is early waits, and what was lost is repeated (`repeat`) and answered again without being applied again.
 *
 * Nothing of it overlaps: a step ends before the next begins, so that between reading the state of the connection and acting
 * on it nothing changes. Which connection, and when to give it up, is pair.js's business.
 */

import { CANDIDATES } from './signals.js';

/** Candidates are gathered for so long before they go. */
const BATCH_MS = 20;
/** Candidates that wait for their description, and steps that wait for their turn. */
const HELD = 64;
const STEPS = 64;

/**
 * @typedef {import('./signals.js').Description | import('./signals.js').Candidates} NegotiationSignal
 *
 * @typedef {object} NegotiationOptions
 * @property {boolean} isPolite of two offers at once the polite one's gives way
 * @property {(signal: { type: 'offer' | 'answer', d: number, re: number, sdp: string } |
 *   { type: 'candidates', d: number, list: RTCIceCandidateInit[], end: boolean }) => void} send
 * @property {() => void} failed the browser could not use what was said
 */

export class Negotiation {
  #env;
  #connection;
  #options;
  #steps = Promise.resolve();
  #waiting = 0;
  #ended = false;
  /** Number of the newest description here, and of the one there that counts. */
  #local = 0;
  #remote = 0;
  /** The offer that has no answer yet. */
  #unanswered = 0;
  /** The newest answer, to the offer `#remote`. @type {{ d: number, sdp: string } | null} */
  #answer = null;
  /** That was sent: candidates do not go before their description. */
  #described = 0;
  /** @type {{ d: number, list: RTCIceCandidateInit[] }} */
  #held = { d: 0, list: [] };
  /** @type {{ d: number, list: RTCIceCandidateInit[], end: boolean }} */
  #found = { d: 0, list: [], end: false };
  /** @type {unknown} */
  #timer = null;

  /**
   * @param {import('../environment.js').Environment} env
   * @param {RTCPeerConnection} connection
   * @param {NegotiationOptions} options
   */
  constructor(env, connection, options) {
    this.#env = env;
    this.#connection = connection;
    this.#options = options;
    connection.onicecandidate = ({ candidate }) => this.#gathered(candidate);
  }

  /** Whether an offer waits for its answer. */
  get isOffering() {
    return this.#unanswered > 0;
  }

  /** Makes an offer, unless one is out. @param {{ iceRestart?: boolean }} [options] */
  offer({ iceRestart = false } = {}) {
    this.#step(async () => {
      if (this.#connection.signalingState !== 'stable') return;
      const d = (this.#local += 1);
      this.#unanswered = d;
      await this.#connection.setLocalDescription(await this.#connection.createOffer({ iceRestart }));
      this.#tell('offer', d, 0, this.#sdp);
    });
  }

  /** Sends an offer without an answer again: one of them may be lost. */
  repeat() {
    this.#step(async () => {
      if (this.#unanswered > 0) this.#tell('offer', this.#unanswered, 0, this.#sdp);
    });
  }

  /** @param {NegotiationSignal} signal */
  take(signal) {
    if (this.#waiting >= STEPS) return;
    this.#step(() => {
      if (signal.type === 'candidates') return this.#takeCandidates(signal);
      return signal.type === 'offer' ? this.#takeOffer(signal.d, signal.sdp) : this.#takeAnswer(signal.d, signal.re, signal.sdp);
    });
  }

  end() {
    this.#ended = true;
    this.#env.clearTimeout(this.#timer);
    this.#connection.onicecandidate = null;
  }

  /** @param {number} d @param {string} sdp */
  async #takeOffer(d, sdp) {
    if (d === this.#remote && this.#answer) this.#tell('answer', this.#answer.d, d, this.#answer.sdp);
    if (d <= this.#remote) return;
    // Two offers at once: the other one answers ours.
    if (this.#connection.signalingState === 'have-local-offer' && !this.#options.isPolite) return;
    // With an offer of its own out the browser rolls that back.
    this.#unanswered = 0;
    await this.#connection.setRemoteDescription({ type: 'offer', sdp });
    await this.#counts(d);
    const mine = (this.#local += 1);
    await this.#connection.setLocalDescription(await this.#connection.createAnswer());
    this.#answer = { d: mine, sdp: this.#sdp };
    this.#tell('answer', mine, d, this.#answer.sdp);
  }

  /** @param {number} d @param {number} re @param {string} sdp */
  async #takeAnswer(d, re, sdp) {
    if (d <= this.#remote || re !== this.#unanswered || this.#connection.signalingState !== 'have-local-offer') return;
    this.#unanswered = 0;
    await this.#connection.setRemoteDescription({ type: 'answer', sdp });
    this.#answer = null;
    await this.#counts(d);
  }

  /** @param {import('./signals.js').Candidates} candidates */
  async #takeCandidates({ d, list, end }) {
    const all = end ? [...list, { candidate: '', sdpMid: '0', sdpMLineIndex: 0 }] : list;
    if (d === this.#remote) {
      for (const candidate of all) await this.#add(candidate);
    } else if (d > this.#remote) {
      if (d > this.#held.d) this.#held = { d, list: [] };
      if (d === this.#held.d) this.#held.list.push(...all.slice(0, HELD - this.#held.list.length));
    }
  }

  /** Description `d` of the other end counts now. @param {number} d */
  async #counts(d) {
    this.#remote = d;
    const { list } = this.#held;
    const isNow = this.#held.d === d;
    if (this.#held.d <= d) this.#held = { d: 0, list: [] };
    if (isNow) for (const candidate of list) await this.#add(candidate);
  }

  /** @param {RTCIceCandidateInit} candidate */
  async #add(candidate) {
    try {
      await this.#connection.addIceCandidate(candidate);
    } catch {
      // Of a kind this browser does not know, or of an offer that was rolled back: others may do.
    }
  }

  /** @param {RTCIceCandidate | null} candidate */
  #gathered(candidate) {
    if (this.#ended) return;
    if (this.#found.d !== this.#local) this.#found = { d: this.#local, list: [], end: false };
    if (candidate?.candidate) this.#found.list.push(candidate.toJSON());
    else if (!candidate) this.#found.end = true;
    this.#timer ??= this.#env.setTimeout(() => {
      this.#timer = null;
      this.#tellCandidates();
    }, BATCH_MS);
  }

  #tellCandidates() {
    const { d, list, end } = this.#found;
    if (this.#ended || d !== this.#described || (list.length === 0 && !end)) return;
    this.#found = { d, list: [], end: false };
    for (let at = 0; at < list.length || at === 0; at += CANDIDATES) {
      const isLast = at + CANDIDATES >= list.length;
      this.#options.send({ type: 'candidates', d, list: list.slice(at, at + CANDIDATES), end: end && isLast });
    }
  }

  get #sdp() {
    return this.#connection.localDescription?.sdp ?? '';
  }

  /** @param {'offer' | 'answer'} type @param {number} d @param {number} re @param {string} sdp */
  #tell(type, d, re, sdp) {
    if (this.#ended) return;
    this.#options.send({ type, d, re, sdp });
    // A repeated one is not the newest.
    this.#described = Math.max(this.#described, d);
    this.#tellCandidates();
  }

  /** @param {() => Promise<void>} act */
  #step(act) {
    this.#waiting += 1;
    this.#steps = this.#steps.then(async () => {
      this.#waiting -= 1;
      if (this.#ended) return;
      try {
        await act();
      } catch {
        if (!this.#ended) this.#options.failed();
      }
    });
  }
}
