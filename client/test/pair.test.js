// The direct connection of two browsers: agreed upon over signals that get lost, doubled and reordered, kept up over a path
// that comes and goes.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Pair } from '../src/mesh/pair.js';
import { encodeFrame } from '../src/frame.js';
import { Clock, seeded } from './clock.js';
import { Path, Post } from './fake-pairs.js';

/** Two browsers, each with its half of the pair. */
class Couple {
  clock = new Clock();
  ends = [];

  constructor(seed = 1) {
    this.random = seeded(seed);
    this.path = new Path(this.clock, this.random);
    this.post = new Post(this.clock, this.random);
    for (const isPolite of [false, true]) this.ends.push(this.#end(isPolite));
  }

  #end(isPolite) {
    const { clock } = this;
    const end = { states: [], frames: [], configuration: {}, timers: new Set() };
    const env = {
      RTCPeerConnection: this.path.browser(),
      now: () => clock.now,
      random: this.random,
      setTimeout: (call, ms) => {
        const timer = clock.setTimeout(() => {
          end.timers.delete(timer);
          call();
        }, ms);
        end.timers.add(timer);
        return timer;
      },
      clearTimeout: (timer) => {
        end.timers.delete(timer);
        clock.clearTimeout(timer);
      },
    };
    end.pair = new Pair(env, {
      isPolite,
      configuration: () => end.configuration,
      signal: (signal) => this.post.send(signal, (copy) => this.ends[isPolite ? 0 : 1].pair.take(copy)),
      frame: (frame) => end.frames.push(frame),
      changed: () => end.states.push(end.pair.state),
      drained: () => {},
    });
    return end;
  }

  start() {
    for (const { pair } of this.ends) pair.start();
  }

  get states() {
    return this.ends.map(({ pair }) => pair.state);
  }

  get isDirect() {
    return this.states.every((state) => state === 'direct');
  }

  get made() {
    return this.path.peers.length;
  }

  /** Both ends are on one connection, and there is no other. */
  assertOne() {
    const { open } = this.path;
    assert.equal(open.length, 2);
    assert.equal(open[0].other, open[1]);
  }

  assertClosed() {
    assert.deepEqual(this.path.open, []);
    assert.deepEqual(this.ends.map(({ timers }) => timers.size), [0, 0]);
  }

  /** A lossy message goes each way. */
  async assertTalks() {
    for (const [from, to] of [this.ends, [...this.ends].reverse()]) {
      const before = to.frames.length;
      const frame = { kind: 'lossy', flags: 0, room: 1, sender: 0, stream: 0, seq: 1, target: { tag: 'room' }, payload: new Uint8Array(3) };
      assert.ok(from.pair.sendLossy(encodeFrame(frame)));
      await this.clock.until(() => to.frames.length === before + 1, 100);
    }
  }
}

test('two browsers connect at once, over one connection each', async () => {
  const couple = new Couple();
  couple.start();
  await couple.clock.until(() => couple.isDirect, 500);
  assert.equal(couple.made, 2);
  couple.assertOne();
  await couple.assertTalks();
  await couple.clock.advance(600_000);
  assert.deepEqual([couple.made, couple.states], [2, ['direct', 'direct']]);
  assert.ok(couple.ends[0].pair.rtt > 0);
});

test('over a relay it says so', async () => {
  const couple = new Couple();
  couple.path.isRelayed = true;
  couple.start();
  await couple.clock.until(() => couple.states.join() === 'relay,relay', 1_000);
});

test('both offer at the same moment: the polite one gives way', async () => {
  const couple = new Couple();
  // The first offer is lost until the polite one makes its own.
  couple.post.loss = 1;
  couple.start();
  await couple.clock.advance(1_600);
  couple.post.loss = 0;
  await couple.clock.until(() => couple.isDirect, 5_000);
  assert.equal(couple.made, 2, 'no other connection was needed');
  couple.assertOne();
});

for (const type of ['offer', 'answer', 'candidates']) {
  test(`the first ${type} of each is lost: it is made good on the same connection`, async () => {
    const couple = new Couple();
    const lost = [];
    couple.post.loses = (signal) => signal.type === type && lost.length < 1 && lost.push(signal);
    couple.start();
    await couple.clock.until(() => couple.isDirect, 8_000);
    assert.deepEqual([lost.length, couple.made], [1, 2]);
  });
}

test('signals of the past change nothing, however often they come', async () => {
  const couple = new Couple();
  couple.start();
  await couple.clock.until(() => couple.isDirect);
  couple.path.set(false);
  await couple.clock.until(() => couple.made >= 4);
  couple.path.set(true);
  await couple.clock.until(() => couple.isDirect, 60_000);
  const { made, restarts } = { made: couple.made, restarts: couple.ends.map(({ pair }) => pair.counters.restarts) };
  const states = couple.ends.map((end) => end.states.length);
  for (const deliver of [...couple.post.delivered, ...couple.post.delivered].reverse()) {
    deliver();
    await couple.clock.advance(7);
  }
  await couple.clock.advance(30_000);
  assert.deepEqual(couple.ends.map((end) => end.states.length), states, 'it stood all the time');
  assert.deepEqual([couple.made, couple.ends.map(({ pair }) => pair.counters.restarts)], [made, restarts]);
  await couple.assertTalks();
});

test('one that is closed is closed at the other end, and nothing is left', async () => {
  const couple = new Couple();
  couple.start();
  await couple.clock.until(() => couple.isDirect);
  const [one, other] = couple.ends;
  one.pair.close();
  await couple.clock.until(() => other.pair.state === 'server', 100);
  await couple.clock.advance(600_000);
  assert.equal(couple.made, 2, 'nobody has called again');
  other.pair.close({ tell: false });
  couple.assertClosed();
});

test('closed in the middle of the negotiation, at every moment of it: nothing is left', async () => {
  for (let at = 0; at < 200; at += 1) {
    const couple = new Couple(at);
    couple.post.delay = [1, 60];
    couple.start();
    await couple.clock.advance(at);
    for (const { pair } of couple.ends) pair.close({ tell: false });
    await couple.clock.advance(1_000);
    couple.assertClosed();
  }
});

test('a path that is gone for a while: an ICE restart brings it back, on the same connection', async () => {
  const couple = new Couple();
  couple.start();
  await couple.clock.until(() => couple.isDirect);
  couple.path.needsRestart = true;
  couple.path.set(false);
  const noticed = await couple.clock.until(() => couple.states.join() === 'server,server', 5_000);
  assert.ok(noticed <= 3_000, `the server takes over after ${noticed} ms`);
  await couple.clock.advance(4_000);
  couple.path.set(true);
  await couple.clock.until(() => couple.isDirect, 5_000);
  assert.equal(couple.made, 2);
  assert.ok(couple.ends.some(({ pair }) => pair.counters.restarts > 0));
  await couple.assertTalks();
});

test('a path that stays away: a new connection, then the server, and later direct again', async () => {
  const couple = new Couple();
  couple.start();
  await couple.clock.until(() => couple.isDirect);
  couple.path.set(false);
  await couple.clock.advance(60_000);
  assert.deepEqual(couple.states, ['server', 'server']);
  assert.ok(couple.made >= 4, 'a new one was tried');
  const before = couple.made;
  await couple.clock.advance(3_600_000);
  const tries = (couple.made - before) / 4;
  assert.ok(tries >= 12 && tries < 80, `${tries} tries in an hour`);
  couple.path.set(true);
  await couple.clock.until(() => couple.isDirect, 330_000);
  couple.assertOne();
  await couple.assertTalks();
});

test('without a path there is none, and when the network is said to be another it is tried at once', async () => {
  const couple = new Couple();
  couple.path.set(false);
  couple.start();
  await couple.clock.advance(300_000);
  assert.deepEqual(couple.states, ['server', 'server']);
  couple.path.set(true);
  couple.ends[0].pair.hurry();
  await couple.clock.until(() => couple.isDirect, 15_000);
});

test('without a relay, where nothing else is wanted, nobody connects', async () => {
  const couple = new Couple();
  for (const end of couple.ends) end.configuration = null;
  couple.start();
  await couple.clock.advance(60_000);
  assert.equal(couple.made, 0);
  for (const end of couple.ends) end.configuration = {};
  await couple.clock.until(() => couple.isDirect, 120_000);
});

test('over signals that are lost, doubled, late and out of order, and a path that comes and goes: in the end one connection', async () => {
  let made = 0;
  for (let seed = 1; seed <= 300; seed += 1) {
    const couple = new Couple(seed);
    const { random, post, path, clock } = couple;
    post.loss = [0, 0.1, 0.3, 0.5][seed % 4];
    post.doubled = random() < 0.5 ? 0 : 0.4;
    post.delay = [1 + random() * 50, random() < 0.3 ? 0 : random() * 800];
    couple.ends[0].pair.start();
    await clock.advance(random() * 3_000);
    couple.ends[1].pair.start();
    for (let change = 0; change < 6; change += 1) {
      await clock.advance(random() * 12_000);
      path.set(random() < 0.5);
    }
    path.set(true);
    post.loss = 0;
    await clock.until(() => couple.isDirect, 400_000).catch(() => assert.fail(`seed ${seed}: ${couple.states}`));
    await clock.advance(5_000);
    assert.deepEqual(couple.states, ['direct', 'direct'], `seed ${seed}: it stays`);
    couple.assertOne();
    await couple.assertTalks();
    made += couple.made;
    for (const { pair } of couple.ends) pair.close();
    await clock.advance(2_000);
    couple.assertClosed();
  }
  assert.ok(made < 300 * 16, `${made} connections were made`);
});

test('another browser cannot make this one open connections without end', async () => {
  const couple = new Couple();
  const [{ pair }] = couple.ends;
  couple.post.loss = 1;
  for (let c = 1; c <= 1_000; c += 1) {
    pair.take({ type: 'offer', id: '', to: '', c, d: 1, re: 0, sdp: 'nonsense' });
    await couple.clock.advance(10);
  }
  assert.ok(pair.counters.connections <= 20, `${pair.counters.connections} connections`);
  assert.ok(couple.path.open.length <= 1);
  pair.close();
  couple.ends[1].pair.close();
});
