// When a data channel is suspected: on imagined paths, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Suspicion } from '../src/suspicion.js';
import { Hold, Trial } from '../src/trial.js';
import { seeded } from './clock.js';

/** The server acknowledges after that. */
const ACK_MS = 100;
/** SCTP repeats a lost packet after about that where few follow it. */
const REPEAT_MS = 1_000;

/**
 * A client that sends a message every 50 ms over a path, and hears acknowledgements and answers. Counts the suspicions,
 * each of which ends when something is heard again.
 */
class Path {
  now = 0;
  suspicions = [];
  probes = 0;
  #suspicion = new Suspicion(0);
  #random;
  #rtt;
  #jitter;
  #loss;
  #deadAt;
  #events = [];
  /** Nothing of the reliable channel arrives before what was sent earlier: up, down. */
  #inOrder = [0, 0];
  #unacknowledged = 0;
  #isSuspected = false;

  constructor({ rtt, jitter = 0, loss = 0, deadAt = Infinity, seed = 1, idle = false }) {
    this.#random = seeded(seed);
    this.#rtt = rtt;
    this.#jitter = jitter;
    this.#loss = loss;
    this.#deadAt = deadAt;
    // The answer that proved the channel.
    this.#suspicion.answered(0, rtt);
    if (!idle) this.#at(0, () => this.#send());
  }

  run(until) {
    for (;;) {
      const suspicion = this.#suspicion;
      const next = this.#isSuspected ? suspicion.probeAt : suspicion.nextAt;
      const event = this.#events[0]?.at ?? Infinity;
      const at = Math.max(this.now, Math.min(next, event));
      if (at > until) break;
      this.now = at;
      if (event <= at) this.#events.shift().call();
      this.#look();
    }
    this.now = until;
    return this;
  }

  hint() {
    this.#suspicion.hint(this.now);
    return this;
  }

  #look() {
    const suspicion = this.#suspicion;
    suspicion.expect(this.now, this.#unacknowledged > 0);
    if (this.now >= suspicion.probeAt) this.#probe();
    const isSuspected = suspicion.verdict(this.now) === 'suspected';
    if (isSuspected && !this.#isSuspected) this.suspicions.push(this.now);
    this.#isSuspected = isSuspected;
  }

  #probe() {
    this.probes += 1;
    const nonce = this.#suspicion.ping(this.now);
    this.#unordered(() =>
      this.#unordered(() => {
        this.#suspicion.heard(this.now);
        this.#suspicion.pong(nonce, this.now);
      }),
    );
  }

  #send() {
    this.#unacknowledged += 1;
    this.#reliable(0, () => this.#at(this.now + ACK_MS, () => this.#reliable(1, () => (this.#unacknowledged -= 1))));
    this.#at(this.now + 50, () => this.#send());
  }

  #unordered(call) {
    if (this.#isLost()) return;
    this.#at(this.now + this.#oneWay(), call);
  }

  #reliable(direction, call) {
    if (this.now >= this.#deadAt) return;
    let arrives = this.now + this.#oneWay();
    while (this.#isLost()) arrives += REPEAT_MS;
    this.#inOrder[direction] = Math.max(this.#inOrder[direction], arrives);
    this.#at(this.#inOrder[direction], () => {
      if (direction === 1) this.#suspicion.heard(this.now);
      call();
    });
  }

  #isLost() {
    return this.now >= this.#deadAt || this.#random() < this.#loss;
  }

  #oneWay() {
    return this.#rtt / 2 + this.#random() * this.#jitter;
  }

  #at(at, call) {
    const index = this.#events.findLastIndex((event) => event.at <= at) + 1;
    this.#events.splice(index, 0, { at, call });
  }
}

test('a path that loses 5 % each way is suspected a few times an hour at most', (t) => {
  for (const [rtt, jitter, traces] of [[50, 20, 1_000], [50, 0, 200], [20, 5, 200], [200, 40, 200]]) {
    let suspicions = 0;
    let probes = 0;
    for (let seed = 1; seed <= traces; seed += 1) {
      const path = new Path({ rtt, jitter, loss: 0.05, seed }).run(60_000);
      suspicions += path.suspicions.length;
      probes += path.probes;
    }
    const perHour = (suspicions / traces) * 60;
    t.diagnostic(`rtt ${rtt} ms, jitter ${jitter} ms: ${perHour.toFixed(2)} false suspicions an hour, ${(probes / traces / 60).toFixed(1)} probes a second`);
    assert.ok(perHour <= 5, `${perHour} an hour`);
  }
});

test('a dead path is suspected within 350 ms where it is short, and within 150 ms and three round trips where it is long', (t) => {
  for (const [rtt, most] of [[1, 350], [20, 350], [50, 400], [100, 500], [200, 800], [600, 2_000]]) {
    const took = [];
    for (let seed = 1; seed <= 200; seed += 1) {
      const deadAt = 5_000 + seeded(seed)() * 1_000;
      const path = new Path({ rtt, jitter: rtt / 20, seed, deadAt }).run(deadAt + 10_000);
      assert.equal(path.suspicions.length, 1, `seed ${seed}`);
      // What was on its way still arrives.
      took.push(path.suspicions[0] - deadAt - rtt);
    }
    took.sort((a, b) => a - b);
    t.diagnostic(`rtt ${rtt} ms: median ${Math.round(took[100])} ms, longest ${Math.round(took[199])} ms after the last that could be heard`);
    assert.ok(took[199] <= most, `${took[199]} ms`);
  }
});

test('an idle channel is not probed, and one that is hinted at is within 250 ms', () => {
  const idle = new Path({ rtt: 20, idle: true, deadAt: 0 }).run(60_000);
  assert.equal(idle.probes, 0);
  idle.hint().run(60_300);
  assert.equal(idle.suspicions.length, 1);
  assert.ok(idle.suspicions[0] <= 60_250, `${idle.suspicions[0]}`);
  const alive = new Path({ rtt: 20, idle: true }).run(1_000).hint().run(60_000);
  assert.deepEqual([alive.suspicions.length, alive.probes], [0, 1]);
});

test('things heard do not save a channel over which nothing is answered', () => {
  const suspicion = new Suspicion(0);
  suspicion.answered(0, 20);
  let suspectedAt = null;
  for (let now = 0; now < 5_000 && suspectedAt === null; now += 10) {
    suspicion.expect(now, true);
    if (now % 50 === 0) suspicion.heard(now);
    if (now >= suspicion.probeAt) suspicion.ping(now);
    if (suspicion.verdict(now) === 'suspected') suspectedAt = now;
  }
  assert.ok(suspectedAt > 1_000 && suspectedAt < 1_500, `${suspectedAt}`);
});

test('a page that was busy reads first what has come', () => {
  const suspicion = new Suspicion(0);
  suspicion.answered(0, 20);
  suspicion.expect(0, true);
  while (suspicion.probeAt < suspicion.nextAt || suspicion.nextAt < 250) suspicion.ping(suspicion.probeAt);
  assert.equal(suspicion.verdict(5_000), 'trusted');
  assert.equal(suspicion.verdict(5_020), 'trusted');
  assert.equal(suspicion.verdict(5_030), 'suspected');
  suspicion.heard(5_031);
  assert.equal(suspicion.verdict(5_031), 'trusted');
});

test('a doubt comes when an answer is overdue, and not before what a busy page has not read', () => {
  const suspicion = new Suspicion(0);
  suspicion.answered(0, 100);
  suspicion.expect(10, true);
  assert.equal(suspicion.doubtAt, 275, 'the first answer takes a round trip');
  suspicion.heard(250);
  assert.equal(suspicion.doubtAt, 415, 'the next ones follow as what they answer does');
  assert.deepEqual([414, 420].map((now) => suspicion.doubts(now)), [false, true]);
  suspicion.heard(421);
  assert.equal(suspicion.doubts(421), false);
  assert.deepEqual([900, 920, 930].map((now) => suspicion.doubts(now)), [false, false, true]);
  suspicion.expect(940, false);
  assert.equal(suspicion.doubts(5_000), false, 'nothing is awaited');
});

test('an answer counts once, and only to a probe that was sent', () => {
  const suspicion = new Suspicion(0);
  const nonce = suspicion.ping(10);
  assert.equal(suspicion.pong(nonce + 1, 20), false);
  assert.equal(suspicion.pong(nonce - 0x8000_0000, 20), false);
  assert.equal(suspicion.pong(nonce, 30), true);
  assert.equal(suspicion.rtt, 20);
  assert.equal(suspicion.pong(nonce, 40), false);
});

test('the hold doubles with each false suspicion up to a minute, and is halved after each quiet one', () => {
  const hold = new Hold();
  const seen = [];
  for (let i = 0; i < 8; i += 1) {
    seen.push(hold.ms(1_000));
    hold.falseAlarm(1_000);
  }
  assert.deepEqual(seen, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
  assert.equal(hold.ms(60_999), 60_000);
  assert.equal(hold.ms(61_000), 32_000);
  assert.equal(hold.ms(361_000), 1_000);
  assert.equal(hold.ms(9_000_000), 1_000);
});

test('a trial is won by answers for the whole hold, and begins anew when it is suspected', () => {
  const trial = new Trial(0, 1_000);
  assert.equal(trial.probeAt, Infinity);
  for (const now of [100, 400, 700]) trial.answered(now, true);
  assert.equal(trial.isProven(1_100), false, 'three answers are too few');
  trial.answered(1_050, false);
  assert.equal(trial.isProven(1_099), false);
  assert.equal(trial.isProven(1_100), true);
  trial.failed();
  assert.equal(trial.isProven(5_000), false);
  for (const now of [5_000, 5_300, 5_600, 5_900]) trial.answered(now, false);
  assert.equal(trial.isProven(6_000), false, 'nothing over the ordered channel');
  trial.answered(5_950, true);
  assert.equal(trial.isProven(5_999), false);
  assert.equal(trial.isProven(6_000), true);
});
