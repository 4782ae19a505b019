// The small pure parts, and what the demo accepts from others.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { readMessage } from '../demo/wire.js';
import { Assembly } from '../src/assembly.js';
import { Backoff } from '../src/backoff.js';
import { Emitter } from '../src/emitter.js';
import { decodeFrame } from '../src/frame.js';
import { Lane } from '../src/lane.js';
import { COPY_BYTES, readLimits } from '../src/limits.js';
import { wayOf } from '../src/peer.js';
import { Probe } from '../src/probe.js';
import { Queue } from '../src/queue.js';

const chunk = (flags, { stream = 0, sender = 1, total, length = 16_384, fill = 1 } = {}) => ({
  kind: 'data', flags, laneSeq: 0, ack: 0, room: 1, sender, stream, total,
  target: flags & 2 ? { tag: 'room' } : undefined,
  payload: new Uint8Array(length).fill(fill),
});

test('chunks of different streams become their own messages', () => {
  const assembly = new Assembly(262_144);
  assert.equal(assembly.take(chunk(2, { stream: 1, total: 20_000, fill: 1 })), null);
  assert.equal(assembly.take(chunk(2, { stream: 2, total: 16_385, fill: 2 })), null);
  const second = assembly.take(chunk(4, { stream: 2, length: 1, fill: 3 }));
  const first = assembly.take(chunk(4, { stream: 1, length: 3_616, fill: 4 }));
  assert.deepEqual([first.payload.length, first.payload[0], first.payload[16_384]], [20_000, 1, 4]);
  assert.deepEqual([second.payload.length, second.payload[0], second.payload[16_384]], [16_385, 2, 3]);
});

test('chunks that contradict their message are refused, and the stream goes on', () => {
  const assembly = new Assembly(100_000);
  assert.equal(assembly.take(chunk(4, { length: 5 })), 'bad', 'no beginning');
  assert.equal(assembly.take(chunk(2, { total: 100_001 })), 'bad', 'above the limit');
  assert.equal(assembly.take(chunk(2, { total: 20_000 })), null);
  assert.equal(assembly.take(chunk(4, { length: 3_615 })), 'bad', 'shorter than announced');
  assert.equal(assembly.take(chunk(2, { total: 20_000 })), null);
  assert.equal(assembly.take(chunk(0)), 'bad', 'longer than announced');
  assert.equal(assembly.take(chunk(4, { length: 3_616 })), 'bad', 'what was refused is gone');
  assert.equal(assembly.take(chunk(6, { length: 3 })).payload.length, 3);
});

test('what is unfinished is bounded in bytes, and given up when its sender, stream or room is', () => {
  const assembly = new Assembly(262_144);
  for (let stream = 0; stream < 1_024; stream += 1) assert.equal(assembly.take(chunk(2, { stream, total: 20_000 })), null);
  assert.equal(assembly.take(chunk(2, { sender: 2, total: 20_000 })), 'bad');
  assembly.forget(1, 1, 5);
  assert.equal(assembly.take(chunk(2, { sender: 2, total: 20_000 })), null);
  assert.equal(assembly.take(chunk(4, { stream: 5, length: 3_616 })), 'bad');
  assembly.forget(1, 1);
  assert.equal(assembly.take(chunk(4, { stream: 6, length: 3_616 })), 'bad');
  assert.equal(assembly.take(chunk(4, { sender: 2, length: 3_616 })).payload.length, 20_000);
});

const lane = (options) => new Lane({ limit: 10_000_000, ...options });
const message = (length, stream = 0) => ({
  kind: 'data', room: 1, stream, text: false, target: { tag: 'room' }, payload: new Uint8Array(length),
});

test('at most sixteen messages are begun and not finished', () => {
  const sender = lane();
  for (let stream = 1; stream <= 18; stream += 1) sender.offer(message(49_152, stream));
  const next = () => decodeFrame(sender.next());
  for (let i = 0; i < 16; i += 1) assert.equal(next().flags, 2);
  for (let i = 0; i < 16; i += 1) assert.equal(next().flags, 0);
  assert.deepEqual([next(), next(), next()].map(({ stream, flags }) => [stream, flags]), [[1, 4], [2, 4], [3, 4]]);
  const rest = [];
  while (sender.hasNext) rest.push(next());
  assert.equal(rest.length, 18 * 3 - 35);
  assert.deepEqual(rest.slice(13, 16).map(({ stream, flags }) => [stream, flags]), [[17, 2], [18, 2], [17, 0]]);
});

test('what is not acknowledged is copied once and in order, up to a limit', () => {
  const sender = lane();
  const send = (count, length = 1) => {
    for (let i = 0; i < count; i += 1) sender.offer(message(length));
    while (sender.hasNext) sender.next();
  };
  const copied = () => {
    const numbers = [];
    for (let bytes; (bytes = sender.copy(Infinity)); ) numbers.push(decodeFrame(bytes).laneSeq);
    assert.equal(sender.copies, false);
    return numbers;
  };
  sender.offer(message(1));
  assert.deepEqual(copied(), [], 'nothing has been sent');
  send(2);
  sender.acknowledge(1);
  assert.equal(sender.copies, true);
  assert.equal(sender.copy(10), null, 'no room');
  assert.deepEqual(copied(), [2, 3]);
  send(1);
  sender.acknowledge(3);
  assert.deepEqual(copied(), [4]);
  sender.copyAnew();
  assert.deepEqual(copied(), [4]);
  // Those that are still to be sent again on the pipe itself are no copies.
  sender.replayFrom(3);
  assert.deepEqual(copied(), []);
  send(COPY_BYTES / 16_384 + 5, 16_384);
  sender.copyAnew();
  assert.equal(copied().length, COPY_BYTES / 16_384 + 1);
});

test('a frame that does not fit in the pipe message waits, and nothing passes it', () => {
  const sender = lane();
  sender.offer(message(20_000, 1));
  assert.equal(sender.next(16_406), null);
  assert.equal(sender.next(16_407).length, 16_407);
  sender.offer(message(100, 2));
  assert.equal(sender.next(118), null);
  assert.equal(decodeFrame(sender.next(119)).stream, 2);
});

test('the numbers of a lane wrap', () => {
  const end = lane({ sent: 0xffff_fffe, received: 0xffff_ffff });
  assert.equal(end.receive(0xffff_ffff, 1, 0), 'duplicate');
  assert.equal(end.receive(1, 1, 0), 'lane_gap');
  assert.equal(end.receive(0, 1, 0), 'next');
  for (let i = 0; i < 3; i += 1) end.offer(message(1));
  assert.deepEqual([1, 2, 3].map(() => decodeFrame(end.next()).laneSeq), [0xffff_ffff, 0, 1]);
  end.acknowledge(0);
  assert.equal(end.unacknowledgedFrames, 1);
  assert.notEqual(end.replayFrom(0), null);
  assert.equal(decodeFrame(end.next()).laneSeq, 1);
  assert.equal(end.replayFrom(0xffff_ffff), null, 'not kept any more');
  assert.deepEqual([0xffff_ffff, 0, 1].map((ack) => end.newest(ack)), [0, 0, 1], 'one on another pipe may overtake a welcome');
});

test('delays are random below a bound that doubles, and never below the least', () => {
  const high = new Backoff({ least: 2_000, first: 4_000, most: 60_000, random: () => 1 });
  assert.deepEqual([1, 2, 3, 4, 5, 6].map(() => high.next()), [4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
  high.reset();
  assert.equal(high.next(), 4_000);
  const low = new Backoff({ least: 2_000, first: 4_000, most: 60_000, random: () => 0 });
  assert.deepEqual([low.next(), low.next()], [2_000, 2_000]);
});

test('silence counts only while a PING waits for its answer', () => {
  const probe = new Probe(0);
  assert.equal(probe.silent(10_000, 3_000), false);
  const nonce = probe.ping(10_000);
  assert.equal(probe.silent(12_900, 3_000), false);
  assert.equal(probe.silent(13_000, 3_000), true);
  probe.heard(13_000);
  assert.equal(probe.silent(15_900, 3_000), false);
  assert.equal(probe.silent(16_000, 3_000), true);
  assert.equal(probe.pong(nonce, 16_100), true);
  assert.equal(probe.rtt, 6_100);
  assert.equal(probe.pong(nonce, 16_200), false);
  assert.equal(probe.silent(20_000, 3_000), false);
});

test('the rung is read from the reports of Chromium and of Firefox', () => {
  const chromium = (local, pair = {}) =>
    new Map([
      ['T', { id: 'T', type: 'transport', selectedCandidatePairId: 'P' }],
      ['P', { id: 'P', type: 'candidate-pair', localCandidateId: 'L', ...pair }],
      ['L', local],
    ]);
  assert.deepEqual(wayOf(chromium({ candidateType: 'host', protocol: 'udp' })), { rung: 'udp', relay: null, bitrate: null });
  assert.deepEqual(wayOf(chromium({ candidateType: 'prflx', protocol: 'tcp' })), { rung: 'tcp', relay: null, bitrate: null });
  const estimate = { availableOutgoingBitrate: 250_000 };
  assert.equal(wayOf(chromium({ candidateType: 'host', protocol: 'udp' }, estimate)).bitrate, 250_000);
  for (const relay of ['udp', 'tcp', 'tls']) {
    const local = { candidateType: 'relay', protocol: 'udp', relayProtocol: relay };
    assert.deepEqual(wayOf(chromium(local)), { rung: 'relay', relay, bitrate: null });
  }
  for (const relayProtocol of [undefined, 'dtls']) {
    assert.deepEqual(wayOf(chromium({ candidateType: 'relay', protocol: 'udp', relayProtocol })), { rung: 'relay', relay: null, bitrate: null });
  }
  const firefox = new Map([
    ['A', { type: 'candidate-pair', state: 'succeeded', nominated: true, localCandidateId: 'X' }],
    ['B', { type: 'candidate-pair', state: 'succeeded', nominated: true, selected: true, localCandidateId: 'Y' }],
    ['X', { candidateType: 'host', protocol: 'udp' }],
    ['Y', { candidateType: 'host', protocol: 'tcp' }],
  ]);
  assert.deepEqual(wayOf(firefox), { rung: 'tcp', relay: null, bitrate: null });
  assert.equal(wayOf(new Map()), null);
});

test('senseless limits keep their defaults', () => {
  const limits = readLimits({ max_message_bytes: 10, max_lossy_bytes: -1, replay_limit_bytes: 'x', other: 5 });
  assert.deepEqual([limits.max_message_bytes, limits.max_lossy_bytes, limits.replay_limit_bytes], [10, 15_360, 1_048_576]);
  assert.equal(readLimits(null).max_message_bytes, 262_144);
});

test('a queue keeps its order through thousands', () => {
  const queue = new Queue();
  let out = 0;
  for (let i = 0; i < 5_000; i += 1) {
    queue.push(i);
    if (i % 3 === 2) assert.equal(queue.shift(), out++);
  }
  assert.equal(queue.length, 5_000 - out);
  while (queue.length > 0) assert.equal(queue.shift(), out++);
  assert.equal(queue.shift(), undefined);
});

test('a listener that throws disturbs no other', (t) => {
  t.mock.method(console, 'error', () => {});
  const emitter = new Emitter();
  const heard = [];
  emitter.on('x', () => {
    throw new Error('mine');
  });
  const off = emitter.on('x', (value) => heard.push(value));
  emitter.emit('x', 1);
  off();
  emitter.emit('x', 2);
  assert.deepEqual(heard, [1]);
});

test('the demo takes only what it understands, and stamps the author itself', () => {
  const sender = { member: 3, user: 'eve', name: 'Eve', role: 'editor' };
  const read = (value) => readMessage({ data: typeof value === 'string' ? value : JSON.stringify(value), sender });
  const stroke = read({ t: 'stroke', id: 'a', user: 'ann', points: [0, 1] });
  assert.deepEqual([stroke.user, stroke.points], ['eve', [0, 1]]);
  for (const bad of [
    'no json', 'null', '[]', { t: 'line', id: 'a', text: 'x', at: 1 }, { t: 'stroke', id: 5, points: [0, 1] },
    { t: 'stroke', id: 'a', points: [0] }, { t: 'stroke', id: 'a', points: [0, 2] }, { t: 'stroke', id: 'a', points: ['0', 1] },
    { t: 'stroke', id: 'a', points: Array(4_002).fill(0) }, { t: 'cursor', x: 'a', y: 0 }, { t: 'other' },
  ]) {
    assert.equal(read(bad), null, JSON.stringify(bad).slice(0, 60));
  }
  assert.equal(readMessage({ data: new Uint8Array(3), sender }), null);
});
