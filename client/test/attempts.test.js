// What a session records of its attempts to connect, and that recording disturbs nothing.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { World } from './fake-network.js';

const TURN = { urls: ['turn:turn.example:3478?transport=udp', 'turns:turn.example:5349'], username: 'u', credential: 'c' };
const VAIN = [
  { id: 'VL', type: 'local-candidate', candidateType: 'host', protocol: 'udp', address: '198.18.0.9' },
  { id: 'VR', type: 'remote-candidate', candidateType: 'host', protocol: 'udp', address: '198.18.0.1' },
  { id: 'VP', type: 'candidate-pair', localCandidateId: 'VL', remoteCandidateId: 'VR', state: 'in-progress', requestsSent: 3, responsesReceived: 0 },
];

function open(world, options = {}) {
  const session = connect({ url: 'ws://server', environment: { ...world.browser(), ...options.environment }, ...options.session });
  const ended = [];
  session.on('attempt', (attempt) => ended.push(attempt));
  session.open({ room: 'r', token: JSON.stringify({ user: 'ann' }), log: false });
  return { session, ended };
}

/** Lets a promise settle in virtual time. */
async function settled(world, promise) {
  let done = false;
  promise.finally(() => (done = true)).catch(() => {});
  await world.clock.until(() => done);
  return promise;
}

const by = (attempts, way) => attempts.filter((attempt) => attempt.by === way);

test('where all is well there is a WebSocket and a peer connection, with times and states', async () => {
  const world = new World();
  const { session, ended } = open(world);
  await world.clock.until(() => session.rung === 'udp');
  const said = await session.diagnose();
  assert.deepEqual([said.now.state, said.now.rung, said.verdict], ['connected', 'udp', 'connected']);
  assert.deepEqual(said.attempts.map((attempt) => [attempt.by, attempt.verdict, attempt.endedMs]), [['webrtc', 'connected', null], ['websocket', 'connected', null]]);
  const [peer, socket] = said.attempts;
  assert.deepEqual([peer.began, peer.connectedMs > 0, peer.rung, peer.relays, peer.answered], [1_800_000_000_000, true, 'udp', false, true]);
  assert.deepEqual(peer.states.map(({ of, state }) => `${of} ${state}`), ['ice connected', 'connection connected', 'channel open']);
  assert.deepEqual(socket.states, [{ ms: 10, of: 'websocket', state: 'open' }]);
  assert.deepEqual(JSON.parse(JSON.stringify(said)), said, 'plain JSON');
  assert.deepEqual([ended.length, world.reached], [0, 0]);
});

test('an ICE restart with relays is a part of its attempt', async () => {
  const world = new World();
  world.server.ice = { ice_servers: [TURN], ice_ttl_ms: 3_600_000 };
  Object.assign(world, { onlyRelays: true, relayProtocol: 'tls', stats: VAIN });
  const { session } = open(world);
  await world.clock.until(() => session.rung === 'relay', 2_000);
  const { attempts, verdict, sentence } = await session.diagnose();
  assert.equal(by(attempts, 'webrtc').length, 1);
  const [{ restarts, relays, rung, relay, pairs }] = attempts;
  assert.deepEqual([restarts, relays, rung, relay], [1, true, 'relay', 'tls']);
  assert.deepEqual(pairs[0], { from: 'host/udp', to: 'host/udp', state: 'in-progress', count: 1, sent: 3, answered: 0 });
  assert.equal(verdict, 'udp_blocked');
  assert.match(sentence, /3 checks .* TURN over TLS worked/);
});

test('the stats of a peer connection that fails are read before it is closed', async () => {
  const world = new World();
  Object.assign(world, { peersSilent: true, stats: VAIN });
  const { session, ended } = open(world);
  await world.clock.until(() => world.peers[0].connectionState === 'closed', 20_000);
  await world.clock.advance(0);
  const [attempt] = by(ended, 'webrtc');
  assert.deepEqual([attempt.verdict, attempt.cause, attempt.connectedMs], ['udp_blocked', 'timeout', null]);
  assert.ok(attempt.endedMs >= 15_000 && attempt.endedMs < 15_400, `${attempt.endedMs}`);
  assert.deepEqual([attempt.pairs.length, attempt.pairs[0].sent, attempt.gathered[0].kind], [1, 3, 'host/udp']);
  assert.doesNotMatch(JSON.stringify(attempt), /198\.18/);
  assert.equal(session.rung, 'websocket');
});

test('pairs that the browser forgets before the end are known from before', async () => {
  const world = new World();
  Object.assign(world, { peersSilent: true, stats: VAIN });
  const { ended } = open(world);
  await world.clock.advance(6_000);
  world.stats = [];
  await world.clock.until(() => world.peers[0].connectionState === 'closed', 20_000);
  await world.clock.advance(0);
  const [attempt] = by(ended, 'webrtc');
  assert.deepEqual([attempt.verdict, attempt.pairs[0].sent], ['udp_blocked', 3]);
});

test('stats that never come keep nothing: the connection is closed, and the next one is tried in time', async () => {
  for (const statsHang of [false, true]) {
    const world = new World();
    Object.assign(world, { peersSilent: true, statsHang });
    const { session, ended } = open(world);
    await world.clock.advance(1_000);
    const before = world.clock.now;
    assert.equal((await settled(world, session.diagnose())).verdict, 'connected');
    assert.ok(world.clock.now - before < 300);
    await world.clock.until(() => world.peers.length === 2, 30_000);
    const second = world.clock.now;
    await world.clock.until(() => world.peers[0].connectionState === 'closed' && by(ended, 'webrtc').length === 1, 1_500);
    assert.ok(second < 25_000, `${second}`);
  }
});

test('a connection that is left is not written to while its stats are read', async () => {
  const world = new World();
  const { session } = open(world);
  await world.clock.until(() => session.rung === 'udp');
  world.statsHang = true;
  const [server] = world.server.sessions.values();
  const channel = world.peers[0].channels.get(0);
  server.peerDied();
  await world.clock.until(() => world.peers.length === 2, 500);
  const { length } = channel.sent;
  const sent = session.rooms[0].send('to the WebSocket');
  await settled(world, sent);
  assert.deepEqual([channel.sent.length, session.rung], [length, 'websocket']);
});

test('a session that is closed closes at once', async () => {
  const world = new World();
  const { session, ended } = open(world);
  await world.clock.until(() => session.rung === 'udp');
  session.close();
  assert.equal(world.peers[0].connectionState, 'closed');
  await world.clock.advance(1_000);
  assert.deepEqual(ended.map(({ by: way, cause, verdict }) => [way, cause, verdict]).sort(), [['webrtc', 'page', 'connected'], ['websocket', 'page', 'connected']]);
});

test('a server that cannot be reached: the last attempts only, and HTTP is asked when somebody asks why', async () => {
  const world = new World();
  Object.assign(world, { refuseSockets: true, http: false });
  const { session, ended } = open(world);
  await world.clock.advance(600_000);
  assert.ok(ended.length > 25, `${ended.length}`);
  const asked = world.reached;
  const said = await settled(world, session.diagnose());
  assert.deepEqual([said.verdict, said.attempts.length], ['server_unreachable', 20]);
  assert.match(said.sentence, /code 1006, and HTTP is not answered/);
  assert.equal(by(said.attempts, 'webrtc').length, 1, 'the one that goes on is not forgotten');
  await settled(world, session.diagnose());
  assert.equal(world.reached, asked + 1, 'once for an attempt');
  world.online = false;
  assert.equal((await settled(world, session.diagnose())).verdict, 'offline');
});

test('a WebSocket that is refused, or lost, says how', async () => {
  const world = new World();
  world.refuseSockets = true;
  const { session, ended } = open(world, { session: { transport: 'websocket' } });
  await world.clock.advance(3_000);
  assert.equal((await settled(world, session.diagnose())).verdict, 'websocket_refused', 'HTTP is answered');
  await world.clock.advance(10_000);
  world.refuseSockets = false;
  await world.clock.until(() => session.state === 'connected');
  const asked = world.reached;
  await settled(world, session.diagnose());
  assert.equal(world.reached, asked, 'what has failed before is not asked about');
  ended.length = 0;
  world.breakSockets();
  assert.deepEqual([ended[0].verdict, ended[0].close], ['websocket_lost', { code: 1006, reason: '' }]);
  world.socketsSilent = true;
  await world.clock.advance(30_000);
  assert.ok(ended.some(({ cause, opened, verdict }) => cause === 'silent' && !opened && verdict === 'server_unreachable'));
});

test('what ICE servers answer is kept, counted, bounded, and without addresses', async () => {
  const world = new World();
  const { session } = open(world);
  await world.clock.until(() => session.rung === 'udp');
  const answer = (errorCode, errorText, url = 'turn:turn.example:3478') => world.peers[0].say('icecandidateerror', { url, errorCode, errorText });
  answer(401, 'Unauthorized.');
  answer(401, 'Unauthorized.');
  answer(701, 'no answer from 198.18.0.9 or fe80::1:2 at 12:30');
  const errors = async () => (await session.diagnose()).attempts[0].errors;
  assert.deepEqual(await errors(), [
    { url: 'turn:turn.example:3478', code: 401, text: 'Unauthorized.', count: 2 },
    { url: 'turn:turn.example:3478', code: 701, text: 'no answer from … or … at 12:30', count: 1 },
  ]);
  for (let code = 300; code < 400; code += 1) answer(code, 'x'.repeat(500), `turn:${'y'.repeat(500)}`);
  assert.equal((await errors()).length, 16);
  for (let i = 0; i < 200; i += 1) world.peers[0].say('iceconnectionstatechange');
  const [{ states }] = (await session.diagnose()).attempts;
  assert.equal(states.length, 40);
  assert.deepEqual(states[0].of, 'ice');
  assert.ok(JSON.stringify(await session.diagnose()).length < 12_000);
});

test('a browser that makes no peer connection', async () => {
  const world = new World();
  const forbidden = class {
    constructor() {
      throw new Error('NotAllowedError');
    }
  };
  const { session } = open(world, { environment: { RTCPeerConnection: forbidden } });
  await world.clock.until(() => session.rung === 'websocket');
  const { verdict, sentence } = await session.diagnose();
  assert.equal(verdict, 'no_webrtc');
  assert.match(sentence, /refused to make a peer connection.*WebSocket carries/);
});

test('a copy is given away: what is done to it changes nothing', async () => {
  const world = new World();
  const { session } = open(world);
  await world.clock.until(() => session.rung === 'udp');
  const { attempts } = await session.diagnose();
  attempts[0].states.length = 0;
  attempts.length = 0;
  assert.ok((await session.diagnose()).attempts[0].states.length > 0);
});
