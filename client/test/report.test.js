// What the server is told of attempts to connect, and when.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { Report, messageOf } from '../src/report.js';
import { Clock } from './clock.js';
import { World } from './fake-network.js';

function open(world, options = {}) {
  const session = connect({ url: 'ws://server', environment: world.browser(), ...options });
  session.open({ room: 'r', token: JSON.stringify({ user: 'ann' }), log: false });
  return session;
}

const told = (world) => world.server.texts.filter((text) => text.type === 'attempt');

function attempt(id, more = {}) {
  return { id, by: 'websocket', began: 5, connectedMs: null, endedMs: 10, cause: 'closed', online: true, verdict: 'server_unreachable', sentence: 'so', states: [], ...more };
}

/** A report with what it has sent, in a session or not. */
function report() {
  const clock = new Clock();
  const world = { clock, sent: [], inSession: true };
  const env = { now: () => clock.now };
  world.report = new Report(env, (message) => world.inSession && world.sent.push(message.n) > 0);
  return world;
}

test('what connects is told at once, with its rung and the time it took; nothing else while all is well', async () => {
  const world = new World();
  const session = open(world);
  await world.clock.until(() => session.rung === 'udp');
  await world.clock.advance(2_000);
  const both = told(world).map(({ by, verdict, rung, pc, ended_ms, details }) => [by, verdict, rung, pc, ended_ms, details.states.length > 0]);
  assert.deepEqual(both, [['websocket', 'connected', 'websocket', null, null, true], ['webrtc', 'connected', 'udp', 1, null, true]]);
  assert.ok(told(world).every(({ connected_ms }) => connected_ms > 0));
  session.close();
  await world.clock.advance(2_000);
  assert.equal(told(world).length, 2, 'a page that goes is no failure');
});

test('what ends without a session is told in the next one, in order, and the application hears of ends alone', async () => {
  const world = new World();
  world.refuseSockets = true;
  const session = open(world, { transport: 'websocket' });
  const heard = [];
  session.on('attempt', ({ id }) => heard.push(id));
  await world.clock.until(() => heard.length === 3, 30_000);
  assert.deepEqual(told(world), []);
  world.refuseSockets = false;
  await world.clock.until(() => told(world).length === 4, 60_000);
  assert.deepEqual(told(world).map(({ n, verdict }) => [n, verdict]), [
    [1, 'server_unreachable'], [2, 'server_unreachable'], [3, 'server_unreachable'], [4, 'connected'],
  ]);
  assert.deepEqual(heard, [1, 2, 3]);
});

test('a way that breaks is told again, with the number that it had', async () => {
  const world = new World();
  const session = open(world);
  await world.clock.until(() => session.rung === 'udp' && told(world).length === 2);
  world.peersSilent = true;
  await world.clock.until(() => told(world).length > 2, 60_000);
  const [, first, last] = told(world);
  assert.deepEqual([last.n, last.pc, last.verdict], [first.n, first.pc, 'path_lost']);
  assert.ok(last.ended_ms > last.connected_ms);
});

test('only the last twenty wait, and the newer word on an attempt takes the place of the older', () => {
  const outside = report();
  outside.inSession = false;
  for (let id = 1; id <= 30; id += 1) outside.report.take(attempt(id, { connectedMs: 1, endedMs: null, cause: null }));
  outside.report.take(attempt(12, { connectedMs: 1 }));
  outside.inSession = true;
  outside.report.flush();
  assert.deepEqual(outside.sent.slice(0, 3), [11, 13, 14]);
  const inside = report();
  inside.report.take(attempt(1, { connectedMs: 1, cause: 'page' }));
  assert.deepEqual(inside.sent, [], 'what this page ended after it had worked is not told');
});

test('no more is told than the server takes', () => {
  const { report: it, sent, clock } = report();
  for (let id = 1; id <= 20; id += 1) it.take(attempt(id));
  assert.equal(sent.length, 15);
  clock.now += 4_000;
  it.flush();
  assert.equal(sent.length, 16);
  clock.now += 60_000;
  it.flush();
  assert.deepEqual(sent, Array.from({ length: 20 }, (_, index) => index + 1));
});

test('a message keeps to the limits of the server, whatever the record', () => {
  const many = (count, entry) => Array.from({ length: count }, () => entry);
  const message = messageOf(attempt(1, {
    sentence: '…'.repeat(2_000),
    states: many(40, { ms: 100_000, of: 'connection', state: 'disconnected' }),
    errors: many(16, { url: 'ü'.repeat(120), code: 701, text: '…'.repeat(120), count: 3 }),
    pairs: many(32, { from: 'relay/tls', to: 'host/udp', state: 'in-progress', count: 9, sent: 1_000, answered: 0 }),
    gathered: many(32, { kind: 'srflx/udp', address: 'ipv6', count: 12 }),
  }));
  const bytes = (value) => Buffer.byteLength(typeof value === 'string' ? value : JSON.stringify(value));
  assert.ok(bytes(message.sentence) <= 1_024 && bytes(message.details) <= 6_144, `${bytes(message.details)}`);
  assert.ok(message.details.states.length > 0 && message.details.errors.length > 0);
  assert.ok(bytes(message) < 8_192);
});
