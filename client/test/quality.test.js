// The score of a connection, and what the client does about a poor one.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { decodeFrame } from '../src/frame.js';
import { LossyQueue } from '../src/lossy.js';
import { ChannelPipe, SocketPipe } from '../src/pipe.js';
import { Probe } from '../src/probe.js';
import { Quality } from '../src/quality.js';
import { QueueAge } from '../src/queue-age.js';
import { seeded } from './clock.js';
import { SharedLink, World } from './fake-network.js';

const HEALTHY = { connected: true, rung: 'udp', waitingMs: 0, silentMs: 0, bufferAgeMs: 0, bitrate: null };

/** A link whose probes are answered every half second. */
class Rig {
  quality = new Quality();
  now = 0;
  health = { ...HEALTHY };
  /** Scores as they came. */
  scores = [];

  constructor() {
    this.quality.tick(0, this.health);
  }

  get score() {
    return this.quality.report.score;
  }

  answer(rtt, count = 1) {
    for (let i = 0; i < count; i += 1) {
      this.now += 500;
      this.note(this.quality.tick(this.now, this.health));
      this.note(this.quality.answered(this.now, { rtt, skipped: 0 }));
    }
    return this.score;
  }

  tick(changes = {}, ms = 250) {
    this.now += ms;
    this.health = { ...this.health, ...changes };
    this.note(this.quality.tick(this.now, this.health));
    return this.score;
  }

  note(isChanged) {
    if (isChanged) this.scores.push({ at: this.now, ...this.quality.report });
  }
}

test('the first answer decides, and before it the link is lost without anything being held back', () => {
  for (const [rtt, score, level] of [[40, 'excellent', 'all'], [250, 'good', 'all'], [500, 'poor', 'no-video'], [950, 'poor', 'essential']]) {
    const rig = new Rig();
    assert.deepEqual([rig.score, rig.quality.report.rtt, rig.quality.paceMs], ['lost', null, 0]);
    rig.answer(rtt);
    assert.deepEqual([rig.score, rig.quality.report.level], [score, level]);
  }
});

test('one bad sample makes no poor link, the second in a row does', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  assert.equal(rig.answer(700), 'excellent');
  assert.equal(rig.answer(40, 60), 'excellent');
  assert.equal(rig.scores.some(({ score }) => score === 'poor'), false);
  assert.equal(rig.answer(700), 'excellent');
  assert.equal(rig.answer(700), 'poor');
});

test('of two bad samples the less bad one is believed', () => {
  for (const [first, second] of [[2_000, 250], [250, 700]]) {
    const rig = new Rig();
    rig.answer(40, 10);
    rig.answer(first);
    rig.answer(second);
    assert.equal(rig.score, 'good', `${first} ms, then ${second} ms`);
  }
});

test('one slow answer is no jitter for long, many are', () => {
  const rig = new Rig();
  rig.answer(40, 20);
  rig.answer(2_000);
  rig.answer(40, 20);
  assert.notEqual(rig.score, 'poor');
  for (let i = 0; i < 10; i += 1) rig.answer(i % 2 ? 20 : 220);
  assert.equal(rig.score, 'poor');
  assert.ok(rig.quality.report.jitter > 100);
});

test('a queue older than a second is believed at once', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  assert.equal(rig.tick({ bufferAgeMs: 750 }), 'excellent');
  assert.equal(rig.tick({ bufferAgeMs: 1_000 }), 'poor');
  assert.equal(rig.quality.report.bufferAgeMs, 1_000);
});

test('two late answers in fifteen seconds are loss, one is not', () => {
  const rig = new Rig();
  rig.answer(40, 60);
  rig.answer(1_100);
  rig.answer(40, 1);
  assert.ok(rig.quality.report.loss > 0.03);
  assert.notEqual(rig.score, 'poor');
  rig.answer(1_300);
  rig.answer(40, 2);
  assert.equal(rig.score, 'poor');
});

test('probes that are never answered count as lost', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  rig.now += 500;
  rig.quality.answered(rig.now, { rtt: 40, skipped: 3 });
  assert.ok(Math.abs(rig.quality.report.loss - 3 / 14) < 1e-9);
});

test('an answer that does not come makes the link poor after two seconds and lost after three', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  const seen = [];
  for (let wait = 250; wait <= 3_000; wait += 250) seen.push(rig.tick({ waitingMs: wait, silentMs: wait }));
  assert.deepEqual([...new Set(seen)], ['excellent', 'poor', 'lost']);
  assert.deepEqual([seen.indexOf('poor'), seen.indexOf('lost')], [8, 11]);
  assert.equal(rig.quality.report.level, 'offline');
});

test('while other things come a slow answer is poor, not lost', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  for (let wait = 250; wait <= 6_000; wait += 250) rig.tick({ waitingMs: wait, silentMs: 0 });
  assert.equal(rig.score, 'poor');
});

test('without a pipe the link is lost at once, and what comes back must prove itself', () => {
  const rig = new Rig();
  rig.answer(40, 10);
  assert.equal(rig.tick({ connected: false }), 'lost');
  rig.tick({ connected: true });
  assert.equal(rig.score, 'lost');
  assert.equal(rig.answer(40), 'poor');
  assert.equal(rig.answer(40, 19), 'poor');
  assert.equal(rig.answer(40, 3), 'excellent');
});

test('the score rises after ten good seconds, to the worst of them', () => {
  const rig = new Rig();
  rig.answer(700, 2);
  rig.answer(250);
  assert.equal(rig.answer(40, 19), 'poor');
  assert.equal(rig.answer(40, 1), 'good');
});

test('after each relapse the score rises later', () => {
  const rig = new Rig();
  rig.answer(40);
  const waits = [];
  for (let round = 0; round < 6; round += 1) {
    for (let i = 0; i < 10 && rig.score !== 'poor'; i += 1) rig.answer(700);
    const since = rig.now;
    for (let i = 0; i < 200 && rig.score === 'poor'; i += 1) rig.answer(40);
    waits.push(Math.round((rig.now - since) / 1_000));
  }
  assert.ok(waits[0] >= 10 && waits[0] < 20, `${waits}`);
  assert.ok(waits[2] > waits[0] && waits[5] >= 60 && waits[5] < 75, `${waits}`);
});

test('another rung is measured anew', () => {
  const rig = new Rig();
  rig.answer(600, 10);
  rig.tick({ rung: 'websocket' });
  const { rtt, jitter, loss, rung } = rig.quality.report;
  assert.deepEqual([rtt, jitter, loss, rung], [null, null, null, 'websocket']);
});

test('a bitrate too small for speech is poor, an unknown one says nothing', () => {
  const rig = new Rig();
  rig.answer(40, 4);
  assert.equal(rig.score, 'excellent');
  rig.tick({ bitrate: 300_000 });
  assert.equal(rig.answer(40, 4), 'excellent');
  rig.tick({ bitrate: 60_000 });
  assert.equal(rig.answer(40, 4), 'poor');
});

test('missing lossy messages count by the sender with the least, and never make a link poor alone', () => {
  const rig = new Rig();
  rig.answer(40, 4);
  const hear = (loss) => {
    for (let i = 0; i < 100; i += 1) {
      rig.quality.lossyReceived('careless', 3);
      rig.quality.lossyReceived('careful', i % 10 < loss ? 1 : 0);
    }
    rig.quality.lossyReceived('scarce', 0);
    rig.answer(40, 31);
  };
  hear(0);
  assert.deepEqual([rig.score, rig.quality.report.loss], ['excellent', 0]);
  hear(5);
  assert.equal(rig.score, 'good');
  assert.ok(Math.abs(rig.quality.report.loss - 1 / 3) < 1e-9);
});

test('the poorer the link, the slower the pace', () => {
  const pace = (rtt) => {
    const rig = new Rig();
    rig.answer(rtt, 2);
    return rig.quality.paceMs;
  };
  assert.deepEqual([pace(40), pace(290), pace(310), pace(900), pace(5_000)], [0, 0, 207, 600, 1_000]);
});

for (const seed of [1, 2, 3, 4, 5, 6, 7, 8]) {
  test(`a measure that wanders makes no score that flaps (seed ${seed})`, () => {
    const random = seeded(seed);
    const rig = new Rig();
    let rtt = 280;
    let crossings = 0;
    let wasPoor = false;
    for (let i = 0; i < 2 * 3_600; i += 1) {
      // Round the limit between good and poor, in steps large enough to cross it all the time.
      rtt = Math.min(420, Math.max(180, rtt + (random() - 0.5) * 160));
      if (rtt > 300 !== wasPoor) crossings += 1;
      wasPoor = rtt > 300;
      rig.answer(rtt);
    }
    assert.ok(crossings > 500, `${crossings} crossings are no trial`);
    assert.ok(rig.scores.length < 40, `seed ${seed}: ${rig.scores.length} changes in an hour, for ${crossings} crossings`);
    for (let i = 1; i < rig.scores.length; i += 1) {
      const [before, after] = [rig.scores[i - 1], rig.scores[i]];
      const rises = before.score === 'poor' && after.score !== 'poor';
      if (rises) assert.ok(after.at - before.at >= 10_000, `seed ${seed}: up after ${after.at - before.at} ms`);
    }
  });
}

test('nothing that is measured breaks the score', () => {
  const random = seeded(9);
  const rig = new Rig();
  const wild = () => [0, -1, 1e9, Infinity, random() * 2_000][Math.floor(random() * 5)];
  for (let i = 0; i < 5_000; i += 1) {
    rig.tick({ connected: random() < 0.9, rung: random() < 0.9 ? 'udp' : null, bufferAgeMs: wild(), waitingMs: wild(), bitrate: wild() });
    rig.quality.answered(rig.now, { rtt: random() * 3_000, skipped: Math.floor(random() * 64) });
    rig.quality.lossyReceived(`${i}`, Math.floor(random() * 1e6));
    const { loss } = rig.quality.report;
    assert.ok(loss === null || (loss >= 0 && loss <= 1), `${loss}`);
    assert.ok(rig.quality.paceMs >= 0 && rig.quality.paceMs <= 1_000, `${rig.quality.paceMs}`);
  }
});

test('the age of a queue is that of its oldest byte', () => {
  const age = new QueueAge();
  assert.equal(age.look(0, 0), 0);
  age.given(100);
  assert.equal(age.look(250, 100), 0);
  age.given(50);
  assert.equal(age.look(500, 150), 250);
  assert.equal(age.look(750, 51), 500);
  assert.equal(age.look(1_000, 50), 500);
  assert.equal(age.look(1_250, 0), 0);
});

test('a probe tells how long it waits, and which were skipped', () => {
  const probe = new Probe(0);
  assert.deepEqual(probe.wait(900), { waitingMs: 0, silentMs: 0 });
  const first = probe.ping(1_000);
  const second = probe.ping(1_500);
  probe.heard(1_600);
  assert.deepEqual(probe.wait(2_000), { waitingMs: 1_000, silentMs: 400 });
  probe.pong(second, 2_100);
  assert.deepEqual(probe.latest, { rtt: 600, skipped: 1 });
  assert.equal(probe.pong(first, 2_200), false);
});

test('a pipe knows the age of what waits in each of its queues', () => {
  const channel = (bufferedAmount) => ({ bufferedAmount, readyState: 'open', send() {} });
  for (const [send, held] of [['send', [9, 0]], ['sendLossy', [0, 9]]]) {
    const pipe = new ChannelPipe(channel(held[0]), channel(held[1]), 0);
    pipe[send](new Uint8Array(9));
    assert.deepEqual([pipe.bufferAgeMs(100), pipe.bufferAgeMs(600)], [0, 500], send);
    const socket = new SocketPipe(channel(9), 0);
    socket[send](new Uint8Array(9));
    assert.deepEqual([socket.bufferAgeMs(100), socket.bufferAgeMs(600)], [0, 500], send);
  }
});

// --- the queue of lossy messages --------------------------------------------------------------------------------------

const lossy = (text, { stream = 0, target = { tag: 'room' } } = {}) => ({
  flags: 1, room: 1, stream, target, payload: new TextEncoder().encode(text),
});

/** What a queue gives now. */
function drain(queue, now, isBusy = false) {
  const given = [];
  for (let frame; (frame = queue.next(16_384, now, isBusy)); ) {
    const { stream, seq, payload } = decodeFrame(frame);
    given.push([new TextDecoder().decode(payload), stream, seq].join(' '));
  }
  return given;
}

test('without a pace every lossy message goes at once, in order', () => {
  const queue = new LossyQueue();
  for (const text of ['a', 'b', 'c']) queue.push(lossy(text));
  assert.deepEqual(drain(queue, 0, true), ['a 0 1', 'b 0 2', 'c 0 3']);
  assert.deepEqual([queue.coalesced, queue.dropped, queue.dueAt], [0, 0, null]);
});

test('with a pace the newest takes the place and the number of the one that waits', () => {
  const queue = new LossyQueue();
  queue.paceMs = 200;
  queue.push(lossy('a'));
  assert.deepEqual(drain(queue, 0), ['a 0 1']);
  for (const text of ['b', 'c', 'd']) queue.push(lossy(text));
  queue.push(lossy('other', { stream: 1 }));
  queue.push(lossy('topic', { target: { tag: 'topic', topic: 't' } }));
  assert.equal(queue.dueAt, -Infinity);
  assert.deepEqual(drain(queue, 100), ['other 1 1', 'topic 0 3']);
  assert.equal(queue.dueAt, 200);
  assert.deepEqual(drain(queue, 199), []);
  assert.deepEqual(drain(queue, 200), ['d 0 2']);
  assert.equal(queue.coalesced, 2);
});

test('the last message of a kind is sent once more, unless there is a newer one', () => {
  const queue = new LossyQueue();
  queue.paceMs = 200;
  queue.push(lossy('a'));
  assert.deepEqual(drain(queue, 0), ['a 0 1']);
  queue.push(lossy('b'));
  assert.deepEqual(drain(queue, 300), ['b 0 2']);
  assert.equal(queue.dueAt, 1_300);
  assert.deepEqual(drain(queue, 1_299), []);
  assert.deepEqual(drain(queue, 1_300), ['b 0 3']);
  assert.equal(queue.dueAt, null);
  assert.deepEqual(drain(queue, 60_000), []);
});

test('what was sent last is not sent again after a newer one that waited', () => {
  const queue = new LossyQueue();
  queue.paceMs = 1_000;
  queue.push(lossy('a'));
  assert.deepEqual(drain(queue, 0), ['a 0 1']);
  queue.push(lossy('b'));
  assert.deepEqual([drain(queue, 1_000), drain(queue, 2_000), drain(queue, 3_000)], [['b 0 2'], ['b 0 3'], []]);
});

test('independent messages keep their order and their number', () => {
  const queue = new LossyQueue();
  queue.paceMs = 1_000;
  for (const text of ['a', 'b', 'c']) queue.push(lossy(text), { coalesce: false });
  assert.deepEqual(drain(queue, 0), ['a 0 1', 'b 0 2', 'c 0 3']);
  assert.equal(queue.dueAt, null);
});

test('reliable messages go first, and cannot keep lossy ones away for good', () => {
  const queue = new LossyQueue();
  queue.paceMs = 200;
  queue.push(lossy('a'));
  drain(queue, 0);
  queue.push(lossy('b'));
  queue.push(lossy('c', { stream: 1 }));
  assert.deepEqual(drain(queue, 1_900, true), []);
  assert.deepEqual(drain(queue, 2_000, true), ['b 0 2']);
  assert.deepEqual(drain(queue, 2_000), ['c 1 1']);
});

test('a pace that begins leaves the newest of each kind, one that ends lets all go', () => {
  const queue = new LossyQueue();
  for (const text of ['a', 'b']) queue.push(lossy(text));
  queue.push(lossy('independent'), { coalesce: false });
  queue.push(lossy('c'));
  queue.paceMs = 200;
  assert.deepEqual(drain(queue, 0), ['independent 0 3', 'c 0 4']);
  queue.push(lossy('d'));
  assert.deepEqual(drain(queue, 1), []);
  queue.paceMs = 0;
  assert.deepEqual(drain(queue, 2), ['d 0 5']);
});

test('the queue stays bounded in messages and in bytes', () => {
  const queue = new LossyQueue();
  queue.paceMs = 200;
  for (let stream = 0; stream < 1_000; stream += 1) queue.push(lossy('x', { stream }));
  assert.equal(queue.length, 64);
  for (let stream = 0; stream < 10; stream += 1) queue.push(lossy('x'.repeat(15_000), { stream }));
  assert.ok(queue.length <= 5);
  assert.equal(drain(queue, 0).length + queue.dropped, 1_010);
});

// --- the whole client on a poor link ----------------------------------------------------------------------------------

const token = (user) => JSON.stringify({ user });

/** Ann on a link of her own, Ben on a good one. */
async function pair(world, link, transport) {
  const enter = async (user, environment) => {
    const session = connect({ url: 'ws://server', environment, transport });
    let room;
    session.join({ room: 'r', token: token(user), log: false }).then((joined) => (room = joined));
    await world.clock.until(() => room);
    return { session, room };
  };
  const ann = await enter('ann', world.browser(undefined, link));
  const ben = await enter('ben', world.browser());
  if (transport === 'auto') await world.clock.until(() => ann.session.rung === 'udp' && ben.session.rung === 'udp');
  return { ann, ben };
}

/** A minute on 32 kbit/s, 100 ms and 1 % loss, with fifty cursors a second and a word every half. */
async function poorMinute(transport) {
  const world = new World({ seed: 7 });
  world.latency = 50;
  const link = new SharedLink();
  const { ann, ben } = await pair(world, link, transport);
  await world.clock.advance(5_000);
  Object.assign(link, { rate: 4, delay: 50, loss: 0.01 });
  const times = [];
  let cursor = null;
  ben.room.on('data', ({ data, lossy: isLossy }) => {
    if (isLossy) cursor = JSON.parse(data).i;
    else times.push(world.clock.now - Number(data));
  });
  let words = 0;
  for (let i = 0; i < 3_000; i += 1) {
    ann.room.sendLossy(JSON.stringify({ t: 'cursor', x: 0.1234, y: 0.5678, i }));
    if (i % 25 === 0) {
      ann.room.send(`${world.clock.now}`);
      words += 1;
    }
    await world.clock.advance(20);
  }
  const { score } = ann.session.quality;
  await world.clock.advance(30_000);
  assert.equal(times.length, words, 'every reliable message arrives once');
  const stats = ann.session.stats();
  times.sort((a, b) => a - b);
  const at = (share) => Math.round(times[Math.ceil(times.length * share) - 1]);
  return { p50: at(0.5), p95: at(0.95), score, cursor, coalesced: stats.counters.lossyCoalesced, pipeChanges: stats.counters.pipeChanges };
}

for (const transport of ['websocket', 'auto']) {
  test(`on a poor link the cursor gives way to what is reliable (${transport})`, async (t) => {
    const adapted = await poorMinute(transport);
    const getter = Object.getOwnPropertyDescriptor(Quality.prototype, 'paceMs');
    Object.defineProperty(Quality.prototype, 'paceMs', { get: () => 0, configurable: true });
    let plain;
    try {
      plain = await poorMinute(transport);
    } finally {
      Object.defineProperty(Quality.prototype, 'paceMs', getter);
    }
    t.diagnostic(`reliable p50/p95 with adaptation ${adapted.p50}/${adapted.p95} ms, without ${plain.p50}/${plain.p95} ms`);
    t.diagnostic(JSON.stringify({ adapted, plain }));
    assert.ok(adapted.p95 <= plain.p95 / 2, `${adapted.p95} ms against ${plain.p95} ms`);
    assert.equal(adapted.cursor, 2_999, 'the last cursor is right in the end');
    assert.ok(adapted.coalesced > 1_000 && plain.coalesced === 0);
  });
}

for (const transport of ['websocket', 'auto']) {
  test(`a good link delays and drops nothing (${transport})`, async () => {
    const world = new World();
    const { ann, ben } = await pair(world, new SharedLink(), transport);
    const heard = [];
    ben.room.on('data', ({ data }) => heard.push([world.clock.now, data]));
    for (let i = 0; i < 500; i += 1) {
      ann.room.sendLossy(`${world.clock.now}`);
      await world.clock.advance(20);
    }
    assert.equal(ann.session.quality.score, 'excellent');
    assert.equal(heard.length, 500);
    assert.ok(heard.every(([at, sent]) => at - Number(sent) <= 2 * world.latency));
    assert.equal(ann.session.stats().counters.lossyCoalesced, 0);
  });
}

test('on a poor link five cursors a second arrive, and independent messages all', async () => {
  const world = new World();
  const link = new SharedLink();
  const { ann, ben } = await pair(world, link, 'auto');
  link.delay = 310;
  await world.clock.until(() => ann.session.quality.score === 'poor', 20_000);
  await world.clock.advance(20_000);
  const heard = [0, 0];
  ben.room.on('data', ({ stream }) => (heard[stream] += 1));
  for (let i = 0; i < 500; i += 1) {
    ann.room.sendLossy('state');
    ann.room.sendLossy('event', { stream: 1, coalesce: false });
    await world.clock.advance(20);
  }
  await world.clock.advance(5_000);
  assert.ok(heard[0] >= 40 && heard[0] <= 52, `${heard[0]} in ten seconds`);
  assert.equal(heard[1], 500);
  assert.equal(ben.room.counters.lossyMissing, 0, 'what was replaced is not missed');
});

/** Ann on a long way, which is all that is wrong with it. */
async function farAway() {
  const world = new World();
  const link = new SharedLink();
  const { ann, ben } = await pair(world, link, 'auto');
  link.delay = 310;
  await world.clock.until(() => ann.session.quality.score === 'poor', 20_000);
  await world.clock.advance(10_000);
  return { world, link, ann, ben };
}

test('the last state goes as soon as its time has come', async () => {
  const { world, ann, ben } = await farAway();
  const heard = [];
  ben.room.on('data', ({ data }) => heard.push([data, world.clock.now]));
  ann.room.sendLossy('first');
  await world.clock.advance(100);
  ann.room.sendLossy('last');
  await world.clock.advance(1_000);
  assert.deepEqual(heard.map(([data]) => data), ['first', 'last']);
  assert.ok(heard[1][1] - heard[0][1] <= 300, `${heard[1][1] - heard[0][1]} ms later`);
});

test('many streams of cursors do not add up to a queue before what is reliable', async () => {
  const { world, link, ann, ben } = await farAway();
  link.rate = 4;
  const times = [];
  ben.room.on('data', ({ data, lossy: isLossy }) => isLossy || times.push(world.clock.now - Number(data)));
  for (let i = 0; i < 1_000; i += 1) {
    for (let stream = 1; stream <= 30; stream += 1) ann.room.sendLossy(`${i} `.repeat(10), { stream });
    if (i % 25 === 0) ann.room.send(`${world.clock.now}`);
    await world.clock.advance(20);
  }
  await world.clock.advance(20_000);
  times.sort((a, b) => a - b);
  assert.equal(times.length, 40);
  // What was on its way when the rate fell, a kilobyte in the queue and a round of the streams beyond the way itself.
  assert.ok(times[37] < 1_200, `p95 ${times[37]} ms`);
});

test('who receives sees the loss of lossy messages', async () => {
  const world = new World();
  const link = new SharedLink();
  const { ann, ben } = await pair(world, link, 'auto');
  link.loss = 0.2;
  for (let i = 0; i < 700; i += 1) {
    ann.room.sendLossy(`${i}`, { coalesce: false });
    await world.clock.advance(50);
  }
  const { score, loss } = ben.session.quality;
  assert.ok(loss > 0.1 && loss < 0.3, `${loss}`);
  assert.equal(score, 'good');
});

test('the session tells when the score changes, and what the link bears', async () => {
  const world = new World();
  const link = new SharedLink();
  const { ann } = await pair(world, link, 'auto');
  await world.clock.advance(5_000);
  const told = [];
  ann.session.on('quality', (report) => told.push(report));
  assert.deepEqual([ann.session.quality.score, ann.session.quality.rung], ['excellent', 'udp']);
  link.delay = 500;
  await world.clock.until(() => told.length > 0, 10_000);
  assert.deepEqual([told[0].score, told[0].level], ['poor', 'no-video']);
  link.delay = 0;
  await world.clock.until(() => ann.session.quality.level === 'all', 40_000);
  world.peersSilent = true;
  world.socketsSilent = true;
  await world.clock.until(() => ann.session.quality.score === 'lost', 6_000);
  world.peersSilent = false;
  world.socketsSilent = false;
  await world.clock.until(() => ann.session.quality.level === 'all', 60_000);
  ann.session.close();
  assert.deepEqual([ann.session.quality.score, ann.session.quality.level, told.at(-1).score], ['lost', 'offline', 'lost']);
  for (let i = 1; i < told.length; i += 1) assert.notDeepEqual([told[i].score, told[i].level], [told[i - 1].score, told[i - 1].level]);
});

test('a last state that the network loses is set right', async () => {
  let set = 0;
  for (let seed = 1; seed <= 20; seed += 1) {
    const world = new World({ seed });
    const link = new SharedLink();
    const { ann, ben } = await pair(world, link, 'auto');
    link.delay = 500;
    await world.clock.until(() => ann.session.quality.score === 'poor', 20_000);
    let state = null;
    ben.room.on('data', ({ data }) => (state = data));
    for (let i = 0; i < 10; i += 1) ann.room.sendLossy(`${i}`);
    await world.clock.until(() => state !== null, 5_000);
    link.loss = 1;
    ann.room.sendLossy('last');
    await world.clock.advance(300);
    link.loss = 0;
    await world.clock.advance(5_000);
    if (state === 'last') set += 1;
  }
  assert.equal(set, 20);
});
