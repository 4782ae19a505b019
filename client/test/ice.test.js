// STUN and TURN: which peer connections know of them, when, and with whose credentials.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { World } from './fake-network.js';

const HOUR = 3_600_000;
const STUN = { urls: ['stun:turn.example:3478'] };
const turn = (username) => ({
  urls: ['turn:turn.example:3478?transport=udp', 'turns:turn.example:5349?transport=tcp'],
  username,
  credential: `password of ${username}`,
});
const told = (username, ice_ttl_ms = HOUR) => ({ ice_servers: [STUN, turn(username)], ice_ttl_ms });

/** A world whose server names STUN and TURN servers. */
function withTurn() {
  const world = new World();
  world.server.ice = told('first');
  return world;
}

async function enter(world, options = {}) {
  const session = connect({ url: 'ws://server', environment: world.browser(), ...options });
  const rungs = [];
  session.on('rung', (rung) => rungs.push(rung));
  const joined = session.join({ room: 'r', token: JSON.stringify({ user: 'ann' }) });
  let room;
  joined.then((it) => (room = it));
  await world.clock.until(() => room);
  return { session, room, rungs };
}

const usernames = (peer) => (peer.configuration.iceServers ?? []).flatMap(({ username }) => username ?? []);
const sent = (world, type) => world.server.texts.filter((text) => text.type === type);

test('where the network is open the first offer goes with the join, and no relay is asked for anything', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  assert.equal(sent(world, 'join')[0].offer.pc, 1);
  await world.clock.until(() => session.rung === 'udp', 500);
  await world.clock.advance(60_000);
  assert.deepEqual(world.peers.map((peer) => peer.configuration), [{}]);
  assert.deepEqual([sent(world, 'offer').length, sent(world, 'ice_servers').length], [0, 0]);
});

test('where nothing gets through within a second relays are added to the same peer connection', async () => {
  const world = withTurn();
  world.onlyRelays = true;
  world.relayProtocol = 'tls';
  const { session, rungs } = await enter(world);
  const took = await world.clock.until(() => session.rung === 'relay', 2_000);
  assert.ok(took > 900 && took < 1_400, `${took} ms`);
  assert.deepEqual(rungs, ['websocket', 'relay']);
  assert.equal(world.peers.length, 1);
  assert.deepEqual(world.peers[0].configuration, { iceServers: told('first').ice_servers, iceTransportPolicy: 'all' });
  assert.deepEqual(sent(world, 'offer').map(({ pc }) => pc), [1]);
  assert.equal(session.stats().relay, 'tls');
});

test('a browser that cannot change the servers gets a new peer connection', async () => {
  const world = withTurn();
  world.onlyRelays = true;
  world.configurable = false;
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'relay', 2_000);
  assert.deepEqual(world.peers.map(usernames), [[], ['first']]);
});

test('a handshake that takes its time is left alone', async () => {
  const world = withTurn();
  world.handshakeMs = 3_000;
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp', 4_000);
  assert.equal(sent(world, 'offer').length, 0);
});

test('a peer connection that fails at once goes on with relays at once', async () => {
  const world = withTurn();
  world.onlyRelays = true;
  const { session } = await enter(world);
  await world.clock.advance(100);
  world.failPeers();
  await world.clock.until(() => session.rung === 'relay', 500);
  assert.equal(world.peers.length, 1);
});

test('later peer connections know the relays from the start', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp');
  world.onlyRelays = true;
  [...world.server.sessions.values()][0].peerDied();
  await world.clock.until(() => session.rung === 'relay', 1_000);
  assert.deepEqual(world.peers.map(usernames), [[], ['first']]);
});

test('an ICE restart after trouble brings relays in', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp');
  world.onlyRelays = true;
  await world.clock.until(() => session.rung === 'websocket', 6_000);
  await world.clock.until(() => session.rung === 'relay', 3_000);
  assert.equal(world.peers.length, 1);
});

test('with policy relay the join carries no offer, and the one that follows knows nothing but relays', async () => {
  const world = withTurn();
  const { session, rungs } = await enter(world, { iceTransportPolicy: 'relay' });
  assert.equal(sent(world, 'join')[0].offer, undefined);
  await world.clock.until(() => session.rung === 'relay', 500);
  assert.deepEqual(rungs, ['websocket', 'relay']);
  assert.deepEqual(world.peers.map((peer) => peer.configuration.iceTransportPolicy), ['relay']);
  assert.equal(sent(world, 'offer').length, 1);
});

test('with policy relay and no relay there is no peer connection, and everything works without', async () => {
  for (const ice of [null, { ice_servers: [], ice_ttl_ms: 0 }]) {
    const world = new World();
    world.server.ice = ice;
    const { session } = await enter(world, { iceTransportPolicy: 'relay' });
    await world.clock.advance(60_000);
    assert.deepEqual([world.peers.length, session.rung], [0, 'websocket']);
    assert.deepEqual(await session.iceServers(), []);
  }
});

test('a session that is lost takes its credentials with it', async () => {
  const world = withTurn();
  const { session } = await enter(world, { iceTransportPolicy: 'relay' });
  await world.clock.until(() => session.rung === 'relay');
  world.server.ice = told('second');
  world.server.forget();
  world.breakSockets();
  await world.clock.until(() => world.peers.length === 2);
  await world.clock.until(() => session.rung === 'relay');
  assert.deepEqual(world.peers.map(usernames), [['first'], ['second']]);
});

test('a WebSocket that resumes brings fresh credentials for the next peer connection', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp');
  world.server.ice = told('second');
  world.breakSockets();
  await world.clock.advance(3_000);
  [...world.server.sessions.values()][0].peerDied();
  await world.clock.until(() => world.peers.length === 2);
  assert.deepEqual(usernames(world.peers[1]), ['second']);
  assert.equal(sent(world, 'ice_servers').length, 0);
});

test('credentials half of whose life is over serve, while fresh ones are asked for', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp');
  await world.clock.advance(HOUR / 2 + 1_000);
  assert.equal(sent(world, 'ice_servers').length, 0, 'nothing is asked before it is needed');
  world.server.ice = told('second');
  const [server] = world.server.sessions.values();
  for (const peers of [2, 3]) {
    server.peerDied();
    await world.clock.until(() => world.peers.length === peers, 1_000);
    await world.clock.advance(1_000);
    assert.equal(session.rung, 'udp');
  }
  assert.deepEqual(world.peers.map(usernames), [[], ['first'], ['second']]);
  assert.equal(sent(world, 'ice_servers').length, 1);
});

test('credentials that have ended are not used: fresh ones come to the same peer connection', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  await world.clock.until(() => session.rung === 'udp');
  await world.clock.advance(HOUR + 1_000);
  world.server.ice = told('second');
  world.onlyRelays = true;
  await world.clock.until(() => session.rung === 'websocket', 6_000);
  await world.clock.until(() => session.rung === 'relay', 3_000);
  assert.deepEqual(world.peers.map(usernames), [['second']]);
});

test('the application gets servers for peer connections of its own, and fresh ones in time', async () => {
  const world = withTurn();
  const { session } = await enter(world);
  const got = async () => {
    let servers;
    session.iceServers().then((list) => (servers = list));
    await world.clock.until(() => servers);
    return servers;
  };
  assert.deepEqual(await got(), [STUN, turn('first')]);
  world.server.ice = told('second');
  assert.deepEqual(await got(), [STUN, turn('first')]);
  await world.clock.advance(HOUR / 2);
  assert.deepEqual(await Promise.all([got(), got()]), [[STUN, turn('second')], [STUN, turn('second')]]);
  assert.equal(sent(world, 'ice_servers').length, 1);
  await world.clock.advance(HOUR / 2);
  world.server.tellsIce = false;
  const late = assert.rejects(session.iceServers(), { code: 'timeout' });
  await world.clock.advance(6_000);
  await late;
  session.close();
  await assert.rejects(session.iceServers(), { code: 'not_connected' });
});

test('the application may choose among the servers', async () => {
  const world = withTurn();
  const iceServers = (servers) => servers.filter(({ username }) => username);
  const { session } = await enter(world, { iceTransportPolicy: 'relay', iceServers });
  await world.clock.until(() => session.rung === 'relay');
  assert.deepEqual(world.peers[0].configuration.iceServers, [turn('first')]);
});

test('what is no server is passed over', async () => {
  const world = new World();
  const bad = [null, 7, {}, { urls: 'turn:a' }, { urls: [] }, { urls: [3] }, { urls: ['stun:a'], username: 1 }];
  world.server.ice = { ice_servers: bad, ice_ttl_ms: 'x' };
  const { session } = await enter(world);
  assert.deepEqual(await session.iceServers(), [{ urls: ['stun:a'] }]);
});
