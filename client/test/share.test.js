// What the server and the room are told of a connection's quality, and how often.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { Share } from '../src/share.js';
import { World } from './fake-network.js';

const GOOD = { score: 'good', level: 'all', rtt: 120.4, jitter: 3.6, loss: 0.0124, bufferAgeMs: 0, bitrate: null, rung: 'udp' };

/** One that tells, or has nobody to tell. */
function share() {
  const sent = [];
  const it = { sent, inSession: true };
  it.share = new Share((message) => it.inSession && sent.push(message) > 0);
  return it;
}

test('a score is told when it is known, when it is another and once a minute', () => {
  const { share: it, sent } = share();
  it.tick(0, { ...GOOD, score: 'lost', rtt: null, rung: null });
  assert.deepEqual(sent, [], 'nothing is measured yet');
  for (let now = 0; now < 60_000; now += 250) it.tick(now, GOOD);
  assert.deepEqual(sent, [{ type: 'quality', score: 'good', rung: 'udp', rtt_ms: 120, jitter_ms: 4, loss_permille: 12, queue_ms: 0, bitrate: null }]);
  it.tick(60_000, GOOD);
  assert.equal(sent.length, 2);
});

test('how the members are reached is told with it, and what was sent past the server since the last time', () => {
  const { share: it, sent } = share();
  const pairs = { direct: 1, relay: 0, server: 2 };
  it.tick(0, GOOD, { ...pairs, sent: 10 });
  it.tick(1_000, GOOD, { ...pairs, direct: 2, sent: 25 });
  it.tick(5_000, GOOD, { ...pairs, direct: 2, sent: 30 });
  it.tick(65_000, GOOD, { ...pairs, direct: 2, sent: 31 });
  assert.deepEqual(sent.map(({ pairs: { direct }, direct_messages }) => [direct, direct_messages]), [[1, 10], [2, 20], [2, 1]]);
});

test('however often it changes it is told every five seconds, the last word at the end', () => {
  const { share: it, sent } = share();
  let now = 0;
  for (; now <= 20_000; now += 250) it.tick(now, { ...GOOD, score: now % 500 === 0 ? 'good' : 'poor' });
  assert.ok(sent.length >= 4 && sent.length <= 5, `${sent.length}`);
  for (; now <= 26_000; now += 250) it.tick(now, { ...GOOD, score: 'excellent' });
  assert.equal(sent.at(-1).score, 'excellent');
});

test('what could not be told is told when there is a session, and again when it is another one', () => {
  const it = share();
  it.inSession = false;
  it.share.tick(0, GOOD);
  it.inSession = true;
  it.share.tick(250, GOOD);
  assert.equal(it.sent.length, 1);
  it.share.forget();
  it.share.tick(500, GOOD);
  assert.equal(it.sent.length, 2);
});

test('the others in the room see it, from the join on', async () => {
  const world = new World();
  const enter = (user) => {
    const session = connect({ url: 'ws://server', environment: world.browser(), transport: 'websocket' });
    const room = session.open({ room: 'r', token: JSON.stringify({ user }), log: false });
    const heard = [];
    room.on('quality', (event) => heard.push(event));
    return { session, room, heard };
  };
  const ann = enter('ann');
  const bob = enter('bob');
  await world.clock.until(() => ann.heard.length > 0 && bob.heard.length > 0, 20_000);
  const [{ member, score, rung }] = ann.heard;
  assert.deepEqual([member.user, score, rung, member.quality], ['bob', 'excellent', 'websocket', { score, rung }]);
  const carl = enter('carl');
  await world.clock.until(() => carl.room.members.size === 2, 1_000);
  assert.deepEqual([...carl.room.members.values()].map(({ quality }) => quality?.score), ['excellent', 'excellent']);
  world.latency = 400;
  const before = ann.heard.length;
  await world.clock.until(() => ann.heard.length > before + 1, 30_000);
  assert.equal(ann.heard.at(-1).score, 'poor');
});
