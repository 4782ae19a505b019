// What the server switches off: at once, half-way, and for all its sessions when it starts anew.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { World } from './fake-network.js';

const ON = { webrtc: true, relay: true, p2p: true, tentative: false };
const NO_WEBRTC = { ...ON, webrtc: false };
const NO_RELAY = { ...ON, relay: false };
const ICE = {
  ice_servers: [{ urls: ['turn:turn.example:3478'], username: 'ann', credential: 'password' }],
  ice_ttl_ms: 3_600_000,
};

/** A page in the room, and what it is told and hears. */
async function enter(world, user, options = {}) {
  const token = JSON.stringify({ user });
  const session = connect({ url: 'ws://server', environment: world.browser(), getToken: () => token, ...options });
  const heard = { data: [], messages: [], features: [], errors: [] };
  session.on('features', (features) => heard.features.push(features));
  session.on('error', (error) => heard.errors.push(error.code));
  let room;
  session.join({ room: 'r' }).then((it) => (room = it));
  await world.clock.until(() => room);
  room.on('data', ({ data }) => heard.data.push(data));
  room.on('message', ({ body }) => heard.messages.push(body.text));
  return { session, room, heard };
}

/** Lets time pass until a promise settles. */
async function finish(world, promise) {
  let settled = false;
  const mark = () => (settled = true);
  promise.then(mark, mark);
  await world.clock.until(() => settled);
  return promise;
}

const sent = (world, type) => world.server.texts.filter((text) => text.type === type);
const upTo = (count) => Array.from({ length: count }, (_, index) => `${index}`);

test('a session without WebRTC is on the WebSocket and never offers again', async () => {
  const world = new World();
  world.server.features = NO_WEBRTC;
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.advance(300_000);
  assert.deepEqual(ann.session.features, NO_WEBRTC);
  assert.equal((await ann.session.diagnose()).verdict, 'switched_off');
  assert.deepEqual([ann.session.state, ann.session.rung], ['connected', 'websocket']);
  assert.deepEqual([sent(world, 'offer').length, world.peers.length], [0, 2], 'but for the offers that went with the joins');
  ann.room.send('hello');
  await world.clock.until(() => bob.heard.data.length === 1, 100);
  assert.deepEqual([ann.heard.errors, bob.heard.errors], [[], []]);
});

test('a server that says nothing of features has all of them', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  assert.deepEqual(ann.session.features, ON);
  await world.clock.until(() => ann.session.rung === 'udp', 500);
});

test('before there is a session nothing is known', () => {
  const session = connect({ url: 'ws://server', environment: new World().browser() });
  assert.equal(session.features, null);
});

test('WebRTC that is taken away half-way: on over the WebSocket, nothing lost or doubled, no further offer', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => ann.session.rung === 'udp' && bob.session.rung === 'udp', 500);
  const [session] = world.server.sessions.values();
  for (let i = 0; i < 100; i += 1) {
    ann.room.send(`${i}`);
    bob.room.send(`${i}`);
    if (i === 50) session.takeAway(NO_WEBRTC);
    await world.clock.advance(3);
  }
  await world.clock.until(() => ann.heard.data.length >= 100 && bob.heard.data.length >= 100, 1_000);
  await world.clock.advance(300_000);
  assert.deepEqual([ann.heard.data, bob.heard.data], [upTo(100), upTo(100)]);
  assert.deepEqual([ann.session.rung, bob.session.rung], ['websocket', 'udp']);
  assert.deepEqual(ann.heard.features, [ON, NO_WEBRTC]);
  assert.deepEqual([sent(world, 'offer').length, world.peers.length], [0, 2]);
  assert.deepEqual(ann.heard.errors, []);
});

test('a resumed session is told again', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp', 500);
  const [session] = world.server.sessions.values();
  // What told of it is lost with the WebSocket.
  session.features = NO_WEBRTC;
  world.breakSockets();
  await world.clock.until(() => ann.session.rung === 'websocket', 2_000);
  assert.deepEqual(ann.session.features, NO_WEBRTC);
  await world.clock.advance(120_000);
  assert.deepEqual([ann.session.rung, sent(world, 'offer').length], ['websocket', 0]);
});

test('relays that are taken away are forgotten, and the data channel stays', async () => {
  const world = new World();
  world.server.ice = ICE;
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp', 500);
  assert.equal((await finish(world, ann.session.iceServers())).length, 1);
  world.server.ice = null;
  [...world.server.sessions.values()][0].takeAway(NO_RELAY);
  await world.clock.advance(100);
  assert.deepEqual(ann.session.features, NO_RELAY);
  assert.deepEqual(await finish(world, ann.session.iceServers()), []);
  assert.equal(ann.session.rung, 'udp');
});

test('a server rolled back to the WebSocket and forward again: everybody comes back, nothing written is lost', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const on = (rung) => () => ann.session.rung === rung && bob.session.rung === rung;
  const all = (count) => () => [ann, bob].every(({ heard }) => heard.messages.length >= count);
  await world.clock.until(on('udp'), 1_000);
  let written = 0;
  for (const [features, rung, offers] of [
    [NO_WEBRTC, 'websocket', 1],
    [NO_WEBRTC, 'websocket', 0],
    [ON, 'udp', 1],
  ]) {
    const offered = () => sent(world, 'offer').length + sent(world, 'join').filter((join) => join.offer).length;
    const before = offered();
    for (let i = 0; i < 60; i += 1) {
      if (i === 20) {
        world.refuseSockets = true;
        world.server.features = features;
        world.server.forget();
        world.breakSockets();
        world.failPeers();
      }
      if (i === 40) world.refuseSockets = false;
      ann.room.post(`${written}`);
      written += 1;
      await world.clock.advance(10);
    }
    await world.clock.until(all(written), 20_000);
    await world.clock.until(on(rung), 20_000);
    await world.clock.advance(120_000);
    assert.ok(on(rung)(), `${ann.session.rung} and ${bob.session.rung}`);
    assert.deepEqual(ann.session.features, features);
    assert.equal(offered() - before, 2 * offers, `offers on the way to ${rung}`);
  }
  assert.deepEqual([ann.heard.messages, bob.heard.messages], [upTo(180), upTo(180)]);
});
