/**
 * Watches one data channel: sends the probes, sets the timers, and says when the channel is proven, suspected, or dead.
 * What the evidence means is suspicion.js's business, and trial.js's; where frames go is link.js's.
 */

import { encodeFrame, joinFrames } from './frame.js';
import { Trial } from './trial.js';

/** A channel on trial that is silent for so long is repaired or replaced. */
const DEAD_MS = 3_000;
/** Between PINGs over the ordered channel, which is what is to be proven. */
const PROVE_MS = 500;
/** A queue so long is not passed to the network at once: what leaves it has been made room for by acknowledgements. */
const QUEUE_BYTES = 4_096;

/**
 * @typedef {object} WatchHandlers
 * @property {() => boolean} awaits whether an answer is awaited over the channel in use
 * @property {() => void} proven it works, both ways: for the first time, or again
 * @property {() => void} doubted while in use: it may be broken
 * @property {() => void} suspected while in use: it is
 * @property {() => void} dead on trial
 */

export class Watch {
  #env;
  #pipe;
  #hold;
  #handlers;
  /** @type {'closed' | 'proving' | 'used' | 'trial'} */
  #state = 'closed';
  /** @type {Trial | null} */
  #trial = null;
  #isDead = false;
  #isDoubted = false;
  #isSuspected = false;
  /** As at the last look: bytes in the longer queue, and bytes that had left both. */
  #queued = 0;
  #gone = 0;
  #provedAt = -Infinity;
  /** @type {{ at: number, timer: unknown } | null} */
  #timer = null;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {import('./pipe.js').ChannelPipe} pipe
   * @param {import('./trial.js').Hold} hold
   * @param {WatchHandlers} handlers
   */
  constructor(env, pipe, hold, handlers) {
    this.#env = env;
    this.#pipe = pipe;
    this.#hold = hold;
    this.#handlers = handlers;
  }

  /** Whether it has been left for a suspicion. */
  get onTrial() {
    return this.#state === 'trial';
  }

  /** Whether it is in use although it is suspected, there being nothing else. */
  get suspected() {
    return this.#state === 'used' && this.#pipe.suspicion.verdict(this.#env.now()) === 'suspected';
  }

  /** Whether what is not acknowledged goes elsewhere too. */
  get doubted() {
    return this.#state === 'used' && this.#pipe.suspicion.doubts(this.#env.now());
  }

  /** The channel is open: does it carry anything, there and back? */
  prove() {
    if (this.#state !== 'closed') return;
    this.#state = 'proving';
    this.look();
  }

  /** Frames go over it from now on. */
  use() {
    if (this.#state === 'used') return;
    this.#state = 'used';
    this.#trial = null;
    this.#pipe.suspicion.acquit(this.#env.now());
    this.look();
  }

  /** Frames go elsewhere until it has proven itself. */
  leave() {
    if (this.#state !== 'used') return;
    const now = this.#env.now();
    this.#state = 'trial';
    this.#trial = new Trial(now, this.#hold.ms(now));
    this.#isDead = false;
    this.look();
  }

  /** Somebody else doubts it. */
  hint() {
    if (this.#state !== 'used') return;
    this.#pipe.suspicion.hint(this.#env.now());
    this.look();
  }

  /** The page slept: silence before now says nothing. */
  acquit() {
    this.#pipe.suspicion.acquit(this.#env.now());
  }

  /** A PING was answered. Whether it was one of these. @param {number} nonce */
  pong(nonce) {
    const now = this.#env.now();
    const { probe, suspicion } = this.#pipe;
    const isOurs = suspicion.pong(nonce, now);
    const isProbe = !isOurs && probe.pong(nonce, now);
    if (isProbe) suspicion.answered(now, suspicion.rtt === null ? probe.latest.rtt : undefined);
    if (isOurs || isProbe) this.#trial?.answered(now, isProbe);
    if (isProbe && this.#state === 'proving') {
      this.#handlers.proven();
    } else {
      this.look();
    }
    return isProbe;
  }

  stop() {
    this.#state = 'closed';
    if (this.#timer) this.#env.clearTimeout(this.#timer.timer);
    this.#timer = null;
  }

  /** Does what is due, and sees to it that it is called again in time. To be called after every change. */
  look() {
    if (this.#state === 'closed' || !this.#pipe.open) return;
    const now = this.#env.now();
    if (this.#state === 'proving') this.#lookForProof(now);
    else this.#lookForSilence(now);
  }

  /** @param {number} now */
  #lookForProof(now) {
    this.#pingOrdered(now);
    this.#lookAt(this.#provedAt + PROVE_MS);
  }

  /** @param {number} now */
  #pingOrdered(now) {
    if (now < this.#provedAt + PROVE_MS) return;
    this.#provedAt = now;
    this.#send(this.#pipe.probe.ping(now), false);
  }

  /** @param {number} now */
  #lookForSilence(now) {
    const { suspicion } = this.#pipe;
    const trial = this.#trial;
    if (this.#isDraining()) suspicion.heard(now);
    suspicion.expect(now, trial !== null || this.#handlers.awaits());
    if (now >= suspicion.probeAt || (trial && now >= trial.probeAt)) {
      trial?.probed(now);
      this.#send(suspicion.ping(now), true);
    }
    if (trial?.wantsOrdered) this.#pingOrdered(now);
    const isSuspected = suspicion.verdict(now) === 'suspected';
    if (isSuspected && trial) trial.failed();
    const isNew = isSuspected && !this.#isSuspected;
    this.#isSuspected = isSuspected;
    const { doubted } = this;
    const isDoubt = doubted && !this.#isDoubted;
    this.#isDoubted = doubted;
    if (trial) this.#judge(trial, now);
    else if (isNew) this.#handlers.suspected();
    else if (isDoubt) this.#handlers.doubted();
    if (this.#state === 'closed') return;
    const doubtAt = this.#trial || this.#isDoubted ? Infinity : suspicion.doubtAt;
    this.#lookAt(Math.min(isSuspected ? suspicion.probeAt : suspicion.nextAt, doubtAt, this.#trial?.probeAt ?? Infinity));
  }

  /** Whether a queue has become shorter since the last look, if it was long: SCTP hears what this page does not. */
  #isDraining() {
    const { gone, buffered, lossyBuffered } = this.#pipe;
    const isDraining = this.#queued > QUEUE_BYTES && gone > this.#gone;
    this.#queued = Math.max(buffered, lossyBuffered);
    this.#gone = gone;
    return isDraining;
  }

  /** @param {Trial} trial @param {number} now */
  #judge(trial, now) {
    if (trial.isProven(now)) {
      this.#hold.falseAlarm(now);
      this.#handlers.proven();
      return;
    }
    const isDead = Math.min(now - trial.began, this.#pipe.suspicion.quietFor(now)) >= DEAD_MS;
    const isNew = isDead && !this.#isDead;
    this.#isDead = isDead;
    if (isNew) this.#handlers.dead();
  }

  /** @param {number} nonce @param {boolean} unordered */
  #send(nonce, unordered) {
    const message = joinFrames([encodeFrame({ kind: 'ping', nonce })]);
    try {
      if (!unordered) this.#pipe.send(message);
      else if (this.#pipe.lossyBuffered <= QUEUE_BYTES) this.#pipe.sendProbe(message);
    } catch {
      // The channel is on its way down, and says so itself.
    }
  }

  /** @param {number} at */
  #lookAt(at) {
    if (at === Infinity || (this.#timer && this.#timer.at <= at)) return;
    if (this.#timer) this.#env.clearTimeout(this.#timer.timer);
    const look = () => {
      this.#timer = null;
      this.look();
    };
    this.#timer = { at, timer: this.#env.setTimeout(look, Math.max(1, at - this.#env.now())) };
  }
}
