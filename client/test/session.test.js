// The client against a server and a network that are both imagined, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { World } from './fake-network.js';
import { seeded } from './clock.js';

const token = (user) => JSON.stringify({ user, name: user.toUpperCase() });

/** A browser in `room`, with everything it hears. */
async function enter(world, user, { room = 'r', ...options } = {}) {
  const session = connect({ url: 'ws://server', environment: world.browser(), ...options });
  const states = [];
  const rungs = [];
  session.on('state', (state) => states.push(state));
  session.on('rung', (rung) => rungs.push(rung));
  const joined = await finish(world, session.join({ room, token: token(user) }));
  const heard = [];
  joined.on('data', (event) => heard.push(event));
  return { session, room: joined, heard, states, rungs };
}

/** Lets time pass until a promise settles. */
async function finish(world, promise) {
  let settled = false;
  const mark = () => (settled = true);
  promise.then(mark, mark);
  await world.clock.until(() => settled);
  return promise;
}

const texts = (heard) => heard.map((event) => event.data);
const bytes = (length, seed = 1) => Uint8Array.from({ length }, (_, i) => (i * 31 + seed * 17 + (i >> 8)) & 0xff);

test('data flows over the WebSocket at once, and over the data channel when it is proven', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  assert.deepEqual(bob.rungs, ['websocket']);
  ann.room.send('early');
  await world.clock.until(() => bob.heard.length === 1, 200);
  await world.clock.until(() => ann.session.rung === 'udp' && bob.session.rung === 'udp', 500);
  ann.room.send('late');
  await world.clock.until(() => bob.heard.length === 2, 200);
  assert.deepEqual(texts(bob.heard), ['early', 'late']);
  assert.deepEqual(ann.states, ['connecting', 'connected']);
  assert.equal(bob.heard[0].sender.user, 'ann');
  assert.equal(bob.heard[0].sender.name, 'ANN');
});

test('the first offer is bound to the first join', async () => {
  const world = new World();
  await enter(world, 'ann');
  const join = world.server.texts.find((text) => text.type === 'join');
  assert.equal(join.offer.pc, 1);
  assert.equal(world.server.texts.filter((text) => text.type === 'offer').length, 0);
});

test('transport "websocket" makes no peer connection', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  await world.clock.advance(60_000);
  assert.equal(world.peers.length, 0);
  assert.equal(ann.session.rung, 'websocket');
});

test('a server without WebRTC is asked once', async () => {
  const world = new World();
  world.server.webRtc = false;
  const ann = await enter(world, 'ann');
  await world.clock.advance(300_000);
  assert.equal(world.peers.length, 1);
  assert.equal(ann.session.state, 'connected');
});

for (const transport of ['websocket', 'auto']) {
  test(`256 KiB of binary arrive byte for byte, both ways (${transport})`, async () => {
    const world = new World();
    const ann = await enter(world, 'ann', { transport });
    const bob = await enter(world, 'bob', { transport });
    await world.clock.advance(1_000);
    const big = bytes(262_144);
    const sent = ann.room.send(big);
    bob.room.send(bytes(262_144, 2));
    await finish(world, sent);
    await world.clock.until(() => ann.heard.length === 1 && bob.heard.length === 1);
    assert.deepEqual(bob.heard[0].data, big);
    assert.deepEqual(ann.heard[0].data, bytes(262_144, 2));
  });

  test(`the browser's queue stays short and short messages pass long ones (${transport})`, async () => {
    const world = new World();
    const ann = await enter(world, 'ann', { transport });
    const bob = await enter(world, 'bob', { transport });
    await world.clock.advance(1_000);
    world.rate = 100;
    ann.room.send(bytes(262_144), { stream: 1 });
    ann.room.send(bytes(262_144), { stream: 2 });
    await world.clock.advance(100);
    ann.room.send('short', { stream: 3 });
    await world.clock.until(() => bob.heard.length === 3);
    assert.deepEqual(bob.heard.map((event) => event.stream), [3, 1, 2]);
    const queues = [...world.sockets.map((s) => s.highestBuffered), ...world.peers.map((p) => p.channels.get(0).highestBuffered)];
    assert.ok(Math.max(...queues) <= 65_536 + 1_024, `${queues}`);
    assert.ok(Math.max(...queues) > 32_768, `${queues}`);
  });
}

test('what is sent together travels together', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  await world.clock.advance(300);
  const before = world.sockets[0].sent.length;
  for (let i = 0; i < 50; i += 1) ann.room.send(`${i}`);
  await world.clock.advance(0);
  assert.equal(world.sockets[0].sent.length - before, 1);
});

test('what cannot be sent is refused before anything is sent', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const code = (call) => {
    try {
      call();
    } catch (error) {
      return error.code;
    }
    return 'sent';
  };
  assert.equal(code(() => ann.room.send(bytes(262_145))), 'too_large');
  assert.equal(code(() => ann.room.send('é'.repeat(131_073))), 'too_large');
  assert.equal(code(() => ann.room.sendLossy(bytes(15_361))), 'too_large');
  assert.equal(code(() => ann.room.send('x', { stream: 65_536 })), 'bad_argument');
  assert.equal(code(() => ann.room.send('x', { to: [] })), 'bad_argument');
  assert.equal(code(() => ann.room.send('x', { topic: '' })), 'bad_topic');
  assert.equal(code(() => ann.room.send({})), 'bad_argument');
  for (let i = 0; i < 3; i += 1) assert.equal(code(() => ann.room.send(bytes(262_144))), 'sent');
  assert.equal(code(() => ann.room.send(bytes(262_144))), 'buffer_full');
  await world.clock.advance(2_000);
  assert.equal(code(() => ann.room.send(bytes(262_144))), 'sent');
  await finish(world, ann.room.leave());
  assert.equal(code(() => ann.room.send('x')), 'not_in_room');
});

test('messages reach the room, named users, or those who subscribed', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const cid = await enter(world, 'cid');
  cid.room.subscribe(['news']);
  await world.clock.advance(100);
  ann.room.send('all');
  ann.room.send('you', { to: ['bob'] });
  ann.room.send('news', { topic: 'news' });
  ann.room.sendLossy('news?', { topic: 'news' });
  await world.clock.advance(100);
  assert.deepEqual(texts(bob.heard), ['all', 'you']);
  assert.equal(bob.heard[1].direct, true);
  assert.deepEqual(texts(cid.heard), ['all', 'news', 'news?']);
  assert.equal(cid.heard[1].topic, 'news');
  assert.deepEqual([cid.heard[2].lossy, cid.heard[2].seq], [true, 1]);
  assert.deepEqual(texts(ann.heard), []);
});

test('signals reach a user, and a refusal names what was refused', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const signals = [];
  const refusals = [];
  bob.room.on('signal', (event) => signals.push(event));
  ann.room.on('refused', (event) => refusals.push(event));
  ann.room.signal('bob', { offer: 1 });
  ann.room.signal({ member: bob.room.self.member }, [2]);
  ann.room.signal('nobody', {});
  await world.clock.advance(100);
  assert.deepEqual(signals.map(({ from, data }) => [from.user, data]), [['ann', { offer: 1 }], ['ann', [2]]]);
  assert.deepEqual(refusals.map(({ code, request }) => [code, request]), [['no_such_user', 'signal']]);
});

test('members come and go, and leaving follows what was sent', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const events = [];
  ann.room.on('memberjoined', (member) => events.push(`+${member.user}`));
  ann.room.on('memberleft', ({ member, reason }) => events.push(`-${member.user} ${reason}`));
  const bob = await enter(world, 'bob');
  await world.clock.advance(500);
  assert.deepEqual([...bob.room.members.values()].map((member) => member.user), ['ann']);
  world.rate = 100;
  bob.room.send(bytes(100_000));
  const left = bob.room.leave();
  await finish(world, left);
  await world.clock.advance(100);
  assert.equal(ann.heard[0].data.length, 100_000);
  assert.deepEqual(events, ['+bob', '-bob left']);
  assert.equal(ann.room.members.size, 0);
});

test('one session is in several rooms', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { room: 'a' });
  const second = await finish(world, ann.session.join({ room: 'b', token: token('ann') }));
  const bob = await enter(world, 'bob', { room: 'b' });
  const heard = [];
  second.on('data', (event) => heard.push(event.data));
  bob.room.send('in b');
  await world.clock.advance(100);
  assert.deepEqual(heard, ['in b']);
  assert.deepEqual(ann.heard, []);
  assert.equal(world.server.sessions.size, 2);
});

test('a refused token rejects the join with its code, and a better one is taken', async () => {
  const world = new World();
  const session = connect({ url: 'ws://server', environment: world.browser() });
  await assert.rejects(finish(world, session.join({ room: 'r', token: 'bad' })), { code: 'token_signature' });
  await world.clock.advance(1_000);
  const room = await finish(world, session.join({ room: 'r', token: token('ann') }));
  assert.equal(room.active, true);
  await world.clock.until(() => session.rung === 'udp');
});

test('a refused first join costs the others nothing', async () => {
  const world = new World();
  const session = connect({ url: 'ws://server', environment: world.browser() });
  const refused = assert.rejects(session.join({ room: 'x', token: 'bad' }), { code: 'token_signature' });
  const room = await finish(world, session.join({ room: 'r', token: token('ann') }));
  await refused;
  assert.equal(room.active, true);
  await world.clock.until(() => session.rung === 'udp');
});

test('a token is refreshed without a change of member', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const { member } = ann.room.self;
  await finish(world, ann.room.refresh(token('ann')));
  assert.equal(ann.room.self.member, member);
  await assert.rejects(finish(world, ann.room.refresh('bad')), { code: 'token_signature' });
  assert.equal(ann.room.active, true);
});

test('a data channel that stays silent is repaired or replaced, and used again when it gets through', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp');
  world.peersSilent = true;
  ann.room.send('x');
  await world.clock.advance(30_000);
  assert.deepEqual(ann.states, ['connecting', 'connected']);
  assert.ok(world.peers.length > 1, 'a new peer connection was tried');
  world.peersSilent = false;
  await world.clock.until(() => ann.session.rung === 'udp', 70_000);
});

test('an ICE restart brings the data channel back without a new peer connection', async () => {
  const world = new World();
  world.restartHeals = true;
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp');
  world.peersSilent = true;
  await world.clock.until(() => ann.session.rung === 'websocket', 6_000);
  await world.clock.until(() => ann.session.rung === 'udp', 3_000);
  assert.equal(world.peers.length, 1);
});

test('a failed connectionState moves the data at once', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob', { transport: 'websocket' });
  await world.clock.until(() => ann.session.rung === 'udp');
  world.peersSilent = true;
  ann.room.send('x');
  world.failPeers();
  await world.clock.until(() => bob.heard.length === 1, 200);
});

test('renegotiate makes a peer connection with a new number', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp');
  [...world.server.sessions.values()][0].peerDied();
  await world.clock.until(() => ann.session.rung === 'websocket', 500);
  await world.clock.until(() => ann.session.rung === 'udp', 2_000);
  assert.equal(world.peers.length, 2);
  assert.equal(world.server.texts.findLast((text) => text.type === 'offer').pc, 2);
});

test('a lost WebSocket is replaced while the data channel goes on', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => ann.session.rung === 'udp' && bob.session.rung === 'udp');
  world.breakSockets();
  ann.room.send('on');
  await world.clock.until(() => bob.heard.length === 1, 100);
  await world.clock.advance(2_000);
  assert.equal(world.sockets.filter((socket) => socket.readyState === 1).length, 2);
  assert.equal(ann.states.includes('reconnecting'), false);
  // The new WebSocket is of use when the data channel goes.
  world.peersSilent = true;
  world.failPeers();
  ann.room.send('again');
  await world.clock.until(() => bob.heard.length === 2, 1_000);
});

test('with both gone the session is resumed and what was sent meanwhile arrives', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => ann.session.rung === 'udp');
  world.peersSilent = true;
  world.refuseSockets = true;
  world.failPeers();
  world.breakSockets();
  for (let i = 0; i < 10; i += 1) ann.room.send(`${i}`);
  assert.equal(ann.session.state, 'reconnecting');
  await world.clock.advance(4_000);
  world.refuseSockets = false;
  await world.clock.until(() => bob.heard.length === 10, 6_000);
  assert.deepEqual(texts(bob.heard), Array.from({ length: 10 }, (_, i) => `${i}`));
  assert.equal(ann.session.stats().counters.sessionsLost, 0);
});

test('what waits leaves with the ATTACH: the welcome says where the server stands', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  const bob = await enter(world, 'bob', { transport: 'websocket' });
  world.server.readsFirst = true;
  world.refuseSockets = true;
  world.sockets[0].drop(1006);
  await world.clock.advance(100);
  for (let i = 0; i < 10; i += 1) ann.room.send(`${i}`);
  world.refuseSockets = false;
  let heardAt = 0;
  bob.room.on('data', () => (heardAt = world.clock.now));
  await world.clock.until(() => bob.heard.length === 10, 20_000);
  const { began, states } = (await ann.session.diagnose()).attempts.at(-1);
  const openedAt = began - 1_800_000_000_000 + states[0].ms;
  // To the server and back with the greeting, to the server with the frames, and to the other page.
  assert.ok(heardAt - openedAt < 5 * world.latency, `${heardAt - openedAt} ms`);
  assert.deepEqual(texts(bob.heard), Array.from({ length: 10 }, (_, i) => `${i}`));
  await world.clock.advance(20);
  assert.equal(ann.session.stats().unacknowledgedFrames, 0, 'ATTACHED acknowledges what came with the ATTACH');
});

test('each WebSocket that resumes the session shows the ticket that came last (ACL1)', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  const [session] = world.server.sessions.values();
  const shown = [];
  const { show } = session;
  session.show = function (ticket) {
    shown.push(ticket);
    return show.call(this, ticket);
  };
  const tickets = [];
  for (let i = 0; i < 3; i += 1) {
    tickets.push(session.ticket);
    world.breakSockets();
    await world.clock.until(() => ann.session.state === 'connected' && session.ticket !== tickets.at(-1), 3_000);
  }
  assert.deepEqual(shown, tickets);
  assert.equal(new Set(shown).size, 3);
  assert.equal(ann.session.stats().counters.sessionsLost, 0);
});

test('a ticket whose successor comes while it is on its way costs another WebSocket, not the session (ACL1)', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  await world.clock.until(() => ann.session.rung === 'udp');
  const [session] = world.server.sessions.values();
  const { ticket } = session;
  world.server.helloMs = 1_500;
  world.breakSockets();
  await world.clock.until(() => world.server.helloWaits, 2_000);
  session.renew();
  await world.clock.until(() => session.ticket !== ticket, 1_000);
  assert.ok(world.server.helloWaits, 'the old ticket is still on its way');
  world.server.helloMs = 0;
  await world.clock.until(() => session.connection, 3_000);
  await world.clock.advance(1_000);
  assert.equal(world.server.refused.at(-1), 'ticket_used');
  assert.deepEqual([ann.session.state, ann.session.stats().counters.sessionsLost], ['connected', 0]);
});

test('a session whose ticket has expired is made anew', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  const [session] = world.server.sessions.values();
  session.show = () => 'ticket_expired';
  world.breakSockets();
  await world.clock.until(() => ann.session.stats().counters.sessionsLost === 1, 3_000);
  await world.clock.until(() => ann.session.state === 'connected', 3_000);
  assert.equal(world.server.sessions.size, 1 + Number(world.server.sessions.has(session.id)));
});

test('a silent WebSocket is noticed and replaced', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  world.socketsSilent = true;
  await world.clock.until(() => ann.session.state === 'reconnecting', 9_000);
  world.socketsSilent = false;
  await world.clock.until(() => ann.session.state === 'connected', 8_000);
});

test('a lost session is made anew with a fresh token, and what never left is sent', async () => {
  const world = new World();
  const asked = [];
  const getToken = (room) => {
    asked.push(room);
    return Promise.resolve(token('ann'));
  };
  const ann = await enter(world, 'ann', { getToken });
  const topics = [];
  ann.room.subscribe(['t']);
  await world.clock.advance(200);
  const rejoined = [];
  ann.room.on('rejoined', (event) => rejoined.push(event));
  const confirmed = ann.room.send('into the void');
  await world.clock.advance(1);
  world.peersSilent = true;
  world.refuseSockets = true;
  world.server.forget();
  world.breakSockets();
  world.failPeers();
  await world.clock.advance(500);
  const waiting = ann.room.send('later');
  world.refuseSockets = false;
  world.peersSilent = false;
  await assert.rejects(finish(world, confirmed), { code: 'session_lost' });
  await finish(world, waiting);
  assert.deepEqual(asked, ['r']);
  await world.clock.until(() => rejoined.length === 1);
  assert.deepEqual(rejoined, [{ unconfirmed: 1 }]);
  const bob = await enter(world, 'bob');
  await world.clock.advance(100);
  ann.room.on('data', (event) => topics.push(event.topic));
  bob.room.send('x', { topic: 't' });
  await world.clock.advance(100);
  assert.deepEqual(topics, ['t']);
  await world.clock.until(() => ann.session.rung === 'udp', 2_000);
});

test('a session lost twice in a row joins each room once', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  await world.clock.advance(500);
  for (let i = 0; i < 2; i += 1) {
    world.server.forget();
    world.breakSockets();
    world.failPeers();
    await world.clock.advance(35);
  }
  await world.clock.until(() => ann.session.state === 'connected', 20_000);
  await world.clock.advance(500);
  assert.equal(world.server.rooms.get('r').size, 1);
  assert.equal(ann.room.active, true);
});

test('a missing stretch is told as a gap', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const gaps = [];
  bob.room.on('gap', (event) => gaps.push([event.sender.user, event.stream, event.count]));
  const session = [...world.server.sessions.values()][1];
  session.push({ kind: 'gap', room: 1, sender: ann.room.self.member, stream: 4, count: 7 });
  await world.clock.advance(100);
  assert.deepEqual(gaps, [['ann', 4, 7]]);
});

test('lossy messages that find no room make way, oldest first, and are counted', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => ann.session.rung === 'udp');
  world.rate = 10;
  ann.room.sendLossy('{}');
  await world.clock.advance(10);
  const pad = 'x'.repeat(1_000);
  for (let i = 1; i < 500; i += 1) ann.room.sendLossy(JSON.stringify({ i, pad }), { coalesce: false });
  await world.clock.advance(20_000);
  const last = JSON.parse(bob.heard.at(-1).data);
  assert.equal(last.i, 499);
  const dropped = ann.session.stats().counters.lossyDropped;
  assert.ok(dropped > 300, `${dropped}`);
  assert.equal(bob.heard.length + dropped, 500);
  assert.equal(bob.room.counters.lossyMissing, dropped);
});

test('many lossy messages at once all leave while the pipe has room', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => ann.session.rung === 'udp');
  for (let i = 0; i < 200; i += 1) ann.room.sendLossy(`${i}`);
  await world.clock.advance(100);
  assert.equal(bob.heard.length, 200);
});

test('closing says goodbye, and the others see it at once', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await world.clock.until(() => bob.session.rung === 'udp');
  const left = [];
  ann.room.on('memberleft', ({ member }) => left.push(member.user));
  bob.session.close();
  await world.clock.until(() => left.length === 1, 100);
  assert.equal(bob.session.state, 'closed');
  await assert.rejects(bob.session.join({ room: 'r', token: token('bob') }), { code: 'closed' });
});

test('a page that goes says goodbye and is back in its rooms when it returns', async (t) => {
  const listeners = new Map();
  globalThis.addEventListener = (name, call) => listeners.set(name, call);
  t.after(() => delete globalThis.addEventListener);
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob', { getToken: () => token('bob') });
  await world.clock.advance(500);
  const events = [];
  ann.room.on('memberjoined', (member) => events.push(`+${member.user}`));
  ann.room.on('memberleft', ({ member }) => events.push(`-${member.user}`));
  listeners.get('pagehide')({});
  await world.clock.until(() => events.length === 1, 100);
  listeners.get('pageshow')({});
  await world.clock.until(() => events.length === 2, 1_000);
  assert.deepEqual(events, ['-bob', '+bob']);
  assert.equal(bob.session.state, 'connected');
});

test('a draining server is left for the stated while', async () => {
  const world = new World();
  const ann = await enter(world, 'ann', { transport: 'websocket' });
  const { connection } = [...world.server.sessions.values()][0];
  connection.text({ type: 'draining', retry_after_ms: 8_000 });
  connection.close(4503, 'draining');
  const times = [];
  ann.session.on('state', () => times.push(world.clock.now));
  await world.clock.advance(10_000);
  assert.equal(ann.session.state, 'connected');
});

test('a session that was resumed elsewhere ends here', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const left = [];
  const errors = [];
  ann.room.on('left', (event) => left.push(event.reason));
  ann.session.on('error', (error) => errors.push(error.code));
  [...world.server.sessions.values()][0].connection.close(4409, 'replaced');
  await world.clock.advance(1_000);
  assert.deepEqual([left, errors, ann.session.state], [['replaced'], ['replaced'], 'closed']);
  assert.equal(world.sockets.length, 1);
});

for (let seed = 1; seed <= Number(process.env.SEEDS ?? 12); seed += 1) {
  test(`pipes that change at random instants lose and double nothing (seed ${seed})`, async () => {
    const world = new World({ seed });
    const random = seeded(seed * 7919);
    const users = [await enter(world, 'ann'), await enter(world, 'bob')];
    const sent = users.map(() => []);
    world.rate = 50 + random() * 500;
    world.restartHeals = random() < 0.5;
    for (let round = 0; round < 150; round += 1) {
      const who = random() < 0.5 ? 0 : 1;
      const stream = Math.floor(random() * 4);
      const size = random() < 0.2 ? Math.floor(random() * 60_000) : Math.floor(random() * 100);
      const text = `${round}:${'y'.repeat(size)}`;
      try {
        users[who].room.send(text, { stream });
        sent[who].push({ stream, text });
      } catch (error) {
        assert.equal(error.code, 'buffer_full');
      }
      const event = random();
      if (event < 0.04) world.breakSockets();
      else if (event < 0.07) world.peersSilent = !world.peersSilent;
      else if (event < 0.09) world.failPeers();
      else if (event < 0.11) world.latency = 5 + random() * 150;
      await world.clock.advance(random() * 400);
    }
    world.peersSilent = false;
    await world.clock.until(() => users.every((user, i) => user.heard.length >= sent[1 - i].length), 60_000);
    await world.clock.advance(5_000);
    users.forEach((user, i) => {
      for (let stream = 0; stream < 4; stream += 1) {
        const expected = sent[1 - i].filter((message) => message.stream === stream).map((message) => message.text);
        const heard = user.heard.filter((event) => event.stream === stream).map((event) => event.data);
        assert.deepEqual(heard.map((text) => text.length), expected.map((text) => text.length));
        assert.deepEqual(heard, expected);
      }
      assert.equal(user.session.stats().counters.sessionsLost, 0);
      assert.equal(user.session.stats().counters.laneGaps, 0);
      assert.equal(user.session.stats().counters.badFrames, 0);
    });
    assert.ok(users[0].session.stats().counters.pipeChanges > 0);
  });
}
