/**
 * How good the connection is: measurements and time in, one score out, with the features that such a link bears and the
 * pace of lossy messages on a poor one. Pure: no clock, no pipe; link.js measures, session.js asks.
 *
 * A sample is one probe: answered, or overdue. It is as good as its worst measure:
 *
 * | measure | excellent | good | source |
 * |---|---|---|---|
 * | round trip | 100 ms | 300 ms | Microsoft's targets for media to its edge; ITU-T G.114, 150 ms each way |
 * | jitter | 30 ms | 100 ms | Microsoft's targets; our choice |
 * | loss in 15 s | 1 % | 5 % | Microsoft's targets and interval; our choice |
 * | oldest byte in the browser's queue | 250 ms | 500 ms | our choice; 250 ms is how finely it is known |
 * | bitrate, where it is known | – | 100 kbit/s | our choice: speech with what text needs |
 *
 * Beyond `good` a link is poor, from three times these limits on for all but the essential (our choice). It is lost while there is no
 * connection, or when nothing has answered for 3 s.
 *
 * The score falls with the second bad sample in a row, at once when the queue is older than a second or the link is lost,
 * and rises after ten seconds without a worse sample; after each relapse twice as long, up to a minute.
 */

/**
 * @typedef {'excellent' | 'good' | 'poor' | 'lost'} Score
 *
 * @typedef {'all' | 'no-video' | 'essential' | 'offline'} Level what the link bears. `all`: everything. `no-video`: no video,
 *   no screen and no large transfers; speech, text, presence. `essential`: what users write and little more; no speech, no
 *   previews, no transfers, cursors once a second. `offline`: what is kept until there is a connection.
 *
 * @typedef {object} QualityReport
 * @property {Score} score
 * @property {Level} level
 * @property {number | null} rtt milliseconds, smoothed; null before the first answer on this rung
 * @property {number | null} jitter milliseconds: smoothed difference of successive round trips
 * @property {number | null} loss share of probes late or unanswered in the last 15 s, or of lossy messages missing if more
 * @property {number} bufferAgeMs age of the oldest byte in the browser's queue, known to a quarter of a second
 * @property {number | null} bitrate bits per second that the browser believes it can send; null where it does not tell:
 *   Firefox never, Chromium not while there is nothing but data
 * @property {import('./link.js').Rung | null} rung
 *
 * @typedef {object} Health what the link can say at any time
 * @property {boolean} connected
 * @property {import('./link.js').Rung | null} rung
 * @property {number} waitingMs age of the oldest probe without an answer; 0 if there is none
 * @property {number} silentMs how long nothing has come since that probe
 * @property {number} bufferAgeMs
 * @property {number | null} bitrate
 *
 * @typedef {object} Answer
 * @property {number} rtt milliseconds
 * @property {number} skipped probes before it that were never answered
 */

const EXCELLENT = { rtt: 100, jitter: 30, loss: 0.01, bufferAgeMs: 250 };
const GOOD = { rtt: 300, jitter: 100, loss: 0.05, bufferAgeMs: 500 };
const GOOD_BITRATE = 100_000;
/** So many times the limits of `good`, and only the essential is left. */
const ESSENTIAL = 3;

/** From best to worst. @type {readonly { score: Score, level: Level }[]} */
const STEPS = Object.freeze([
  { score: 'excellent', level: 'all' },
  { score: 'good', level: 'all' },
  { score: 'poor', level: 'no-video' },
  { score: 'poor', level: 'essential' },
  { score: 'lost', level: 'offline' },
]);
const POOR = 2;
const LOST = 4;

/** SCTP repeats what is lost after a second (RTO.Min, RFC 9260, section 16): an answer later than that was repeated. */
const LATE_MS = 1_000;
const SILENT_MS = 3_000;
const STALLED_MS = 1_000;
const LOSS_WINDOW_MS = 15_000;
const RAISE_MS = 10_000;
const RAISE_MOST_MS = 60_000;
/** More than that is an outlier, which the round trip tells: it is not to pass for jitter for long. */
const JITTER_MOST_MS = 200;
/** Probes come every half second or two: RFC 3550's sixteenth would take half a minute. */
const GAIN = 1 / 4;
/** So few lossy messages of one sender prove nothing. */
const LOSSY_LEAST = 20;
const LOSSY_SENDERS = 64;
/** Between lossy messages of one kind on a poor link. */
const PACE_MS = 200;
const PACE_MOST_MS = 1_000;

export class Quality {
  #step = LOST;
  /** Nothing has answered yet: the first sample decides alone. */
  #isFresh = true;
  /** @type {Health} */
  #health = { connected: false, rung: null, waitingMs: 0, silentMs: 0, bufferAgeMs: 0, bitrate: null };
  /** @type {number | null} */
  #rtt = null;
  /** @type {number | null} */
  #lastRtt = null;
  #jitter = 0;
  /** Outcomes of probes in the loss window, oldest first. @type {{ at: number, lost: boolean }[]} */
  #probes = [];
  #lossy = new LossyLoss();
  #sampledAt = -Infinity;
  /** Step of the last sample, if that was worse than the score. @type {number | null} */
  #bad = null;
  /** Samples better than the score, without interruption. @type {{ since: number, worst: number } | null} */
  #better = null;
  #raiseMs = RAISE_MS;
  /** When the score last rose; null if it has fallen since. @type {number | null} */
  #raisedAt = null;
  /** Of the last two samples: how many times the limits of `good`. */
  #strains = [0, 0];

  /** @returns {QualityReport} */
  get report() {
    const { bufferAgeMs, bitrate, rung } = this.#health;
    const isMeasured = this.#rtt !== null;
    const { score, level } = STEPS[this.#step];
    const loss = isMeasured ? Math.max(this.#probeLoss(), this.#lossy.share) : null;
    return { score, level, rtt: this.#rtt, jitter: isMeasured ? this.#jitter : null, loss, bufferAgeMs, bitrate, rung };
  }

  /** Milliseconds between lossy messages of one kind; 0 where nothing is held back, as before anything is known. */
  get paceMs() {
    if (this.#step < POOR || this.#isFresh) return 0;
    return Math.min(PACE_MOST_MS, Math.round(PACE_MS * Math.max(1, Math.min(...this.#strains))));
  }

  /**
   * Looks at the link; to be called a few times a second. Whether score or level changed.
   * @param {number} now
   * @param {Health} health
   */
  tick(now, health) {
    const before = this.#step;
    if (health.rung !== this.#health.rung) this.#moved(health.rung);
    this.#health = health;
    this.#lossy.tick(now);
    if (!health.connected || health.silentMs >= SILENT_MS) {
      this.#fall(LOST, now);
    } else if (this.#step !== LOST) {
      if (health.bufferAgeMs >= STALLED_MS) this.#stalled(now);
      const isOverdue = health.waitingMs > LATE_MS + (this.#rtt ?? 0);
      if (isOverdue && now - this.#sampledAt >= LATE_MS) this.#sample(now, health.waitingMs);
    }
    return this.#step !== before;
  }

  /**
   * A probe was answered. Whether score or level changed.
   * @param {number} now
   * @param {Answer} answer
   */
  answered(now, { rtt, skipped }) {
    const before = this.#step;
    for (let i = 0; i < skipped; i += 1) this.#probes.push({ at: now, lost: true });
    this.#probes.push({ at: now, lost: rtt > LATE_MS + (this.#rtt ?? 0) });
    this.#probes = this.#probes.filter(({ at }) => now - at < LOSS_WINDOW_MS).slice(-256);
    if (this.#lastRtt !== null) {
      const difference = Math.min(JITTER_MOST_MS, Math.abs(rtt - this.#lastRtt));
      this.#jitter += (difference - this.#jitter) * GAIN;
    }
    this.#lastRtt = rtt;
    this.#rtt = this.#rtt === null ? rtt : this.#rtt + (rtt - this.#rtt) * GAIN;
    this.#sample(now, rtt);
    return this.#step !== before;
  }

  /**
   * A lossy message came, and before it `missing` numbers of its stream did not.
   * @param {string} sender
   * @param {number} missing
   */
  lossyReceived(sender, missing) {
    this.#lossy.received(sender, missing);
  }

  /** What was measured on another way says nothing. @param {Health['rung']} rung */
  #moved(rung) {
    if (rung === null) this.#isFresh = true;
    this.#rtt = null;
    this.#lastRtt = null;
    this.#jitter = 0;
    this.#probes = [];
    this.#bad = null;
    this.#better = null;
  }

  /** The queue is not to wait for a second sample. @param {number} now */
  #stalled(now) {
    const { step, strain } = this.#grade(0);
    this.#strains = [strain, strain];
    this.#better = null;
    if (step > this.#step) this.#fall(step, now);
  }

  /** @param {number} now @param {number} rtt as measured, so that one outlier is one bad sample */
  #sample(now, rtt) {
    const { step, strain } = this.#grade(rtt);
    this.#sampledAt = now;
    this.#strains = [this.#strains[1], strain];
    if (this.#step === LOST) {
      this.#step = this.#isFresh ? step : Math.max(step, POOR);
      this.#isFresh = false;
      this.#bad = null;
      this.#better = null;
    } else if (step > this.#step) {
      this.#better = null;
      if (this.#bad === null) this.#bad = step;
      else this.#fall(Math.min(step, this.#bad), now);
    } else {
      this.#bad = null;
      this.#mayRise(step, now);
    }
  }

  /** @param {number} step @param {number} now */
  #mayRise(step, now) {
    if (step === this.#step) {
      this.#better = null;
      return;
    }
    this.#better ??= { since: now, worst: step };
    this.#better.worst = Math.max(this.#better.worst, step);
    if (now - this.#better.since < this.#raiseMs) return;
    this.#step = this.#better.worst;
    this.#better = null;
    this.#raisedAt = now;
  }

  /** @param {number} step @param {number} now */
  #fall(step, now) {
    if (step === this.#step) return;
    this.#step = step;
    this.#bad = null;
    this.#better = null;
    if (this.#raisedAt === null) return;
    const isRelapse = now - this.#raisedAt < 3 * this.#raiseMs;
    this.#raiseMs = isRelapse ? Math.min(RAISE_MOST_MS, 2 * this.#raiseMs) : RAISE_MS;
    this.#raisedAt = null;
  }

  /** @param {number} rtt */
  #grade(rtt) {
    const { bufferAgeMs, bitrate } = this.#health;
    const probeLoss = this.#probeLoss();
    // One late probe is no rate of loss.
    const isLossy = this.#probes.filter(({ lost }) => lost).length > 1;
    // Missing messages may have been lost by their sender, or left out by the server on purpose: never poor by them alone.
    const loss = Math.max(isLossy ? probeLoss : Math.min(probeLoss, GOOD.loss), Math.min(this.#lossy.share, GOOD.loss));
    const measures = { rtt, jitter: this.#jitter, loss, bufferAgeMs };
    const keys = /** @type {(keyof typeof GOOD)[]} */ (Object.keys(GOOD));
    const scarce = bitrate === null ? 0 : GOOD_BITRATE / Math.max(1, bitrate);
    const strain = Math.max(scarce, ...keys.map((key) => measures[key] / GOOD[key]));
    if (strain > 1) return { step: strain < ESSENTIAL ? POOR : POOR + 1, strain };
    return { step: keys.every((key) => measures[key] <= EXCELLENT[key]) ? 0 : 1, strain };
  }

  #probeLoss() {
    return this.#probes.filter(({ lost }) => lost).length / Math.max(1, this.#probes.length);
  }
}

/** What share of the lossy messages of others does not come, by the sender with the least: the others lose their own. */
class LossyLoss {
  /** Of the running window. @type {Map<string, { received: number, missing: number }>} */
  #senders = new Map();
  #since = 0;
  /** Of the last whole window. */
  share = 0;

  /** @param {string} sender @param {number} missing */
  received(sender, missing) {
    const known = this.#senders.get(sender) ?? { received: 0, missing: 0 };
    known.received += 1;
    known.missing += missing;
    if (this.#senders.size < LOSSY_SENDERS) this.#senders.set(sender, known);
  }

  /** @param {number} now */
  tick(now) {
    if (now - this.#since < LOSS_WINDOW_MS) return;
    this.#since = now;
    const counts = [...this.#senders.values()].filter(({ received, missing }) => received + missing >= LOSSY_LEAST);
    this.share = counts.length > 0 ? Math.min(...counts.map(({ received, missing }) => missing / (received + missing))) : 0;
    this.#senders.clear();
  }
}
