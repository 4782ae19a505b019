// Rooms whose members are connected directly: who is, what goes which way, and that the application sees one room.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { encodeFrame, joinFrames } from '../src/frame.js';
import { Seen } from '../src/mesh/seen.js';
import { readSignal } from '../src/mesh/signals.js';
import { seeded } from './clock.js';
import { Browser } from './fake-tabs.js';
import { Rooms, all, isDirect, reach } from './rooms.js';

test('two in a room are connected, lossy messages go from one to the other, and the server has none', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  for (let count = 0; count < 20; count += 1) {
    ann.room.sendLossy(`${count}`, { stream: 3 });
    bob.room.sendLossy(Uint8Array.of(count), { to: ['ann'] });
    await world.clock.advance(20);
  }
  await world.clock.advance(200);
  assert.deepEqual(bob.data, Array.from({ length: 20 }, (_, count) => `${count}`));
  assert.deepEqual(ann.data.map(([first]) => first), Array.from({ length: 20 }, (_, count) => count));
  assert.equal(world.atServer, 0);
  const [event] = bob.events;
  assert.deepEqual([event.sender.user, event.stream, event.lossy, event.direct, event.seq], ['ann', 3, true, false, 1]);
  assert.equal(ann.events[0].direct, true, 'to named users');
  assert.deepEqual([ann.peers, bob.peers], [['bob direct'], ['ann direct']]);
  assert.deepEqual([ann.signals, bob.signals], [[], []], 'the application hears nothing of it');
  assert.ok(ann.room.peers.get(bob.room.self.member).rtt > 0);
});

test('what is reliable, and what is for a topic, goes over the server', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  bob.room.subscribe(['prices']);
  await world.clock.until(() => all([ann, bob]), 5_000);
  ann.room.send('reliable');
  ann.room.sendLossy('a price', { topic: 'prices' });
  await world.clock.until(() => bob.data.length === 2, 200);
  assert.equal(world.atServer, 1);
});

test('where some are reached directly and some are not, everybody has each message once', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  const eve = await world.enter(world.page('eve', { peerToPeer: 'off' }));
  await world.clock.until(() => reach(ann).join() === 'direct,server' && reach(bob).join() === 'direct,server', 5_000);
  for (let count = 0; count < 50; count += 1) {
    ann.room.sendLossy(`${count}`);
    await world.clock.advance(10);
  }
  await world.clock.advance(500);
  const wanted = Array.from({ length: 50 }, (_, count) => `${count}`);
  assert.deepEqual([bob.data, eve.data], [wanted, wanted]);
  assert.deepEqual([world.atServer, bob.room.counters.lossyDirect, bob.room.counters.lossyDoubled], [50, 50, 50]);
  assert.equal(bob.room.counters.lossyMissing + eve.room.counters.lossyMissing, 0);
  assert.deepEqual(eve.signals, [], 'one that takes no part is not bothered');
});

test('over a direct path that comes and goes nobody has a message twice', async () => {
  for (let seed = 1; seed <= 25; seed += 1) {
    const world = new Rooms({ seed });
    const places = await world.people('ann', 'bob', 'eve');
    await world.clock.until(() => all(places), 10_000);
    let sent = 0;
    for (let change = 0; change < 4; change += 1) {
      world.path.set(change % 2 === 1);
      for (const end = world.clock.now + world.random() * 9_000; world.clock.now < end; ) {
        places[0].room.sendLossy(`${(sent += 1)}`);
        await world.clock.advance(100);
      }
    }
    await world.clock.until(() => all(places), 60_000);
    const before = world.atServer;
    places[0].room.sendLossy('last');
    await world.clock.advance(500);
    assert.equal(world.atServer, before, `seed ${seed}: direct again`);
    for (const { data, room } of places.slice(1)) {
      assert.equal(new Set(data).size, data.length, `seed ${seed}`);
      assert.equal(data.at(-1), 'last');
      assert.ok(data.length > sent * 0.5, `seed ${seed}: ${data.length} of ${sent}`);
      assert.equal(room.counters.lossyReceived, data.length);
    }
  }
});

test('a path that falls silent is doubted at once: no cursor is late by more than half a second', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  let last = world.clock.now;
  let stall = 0;
  bob.room.on('data', () => {
    stall = Math.max(stall, world.clock.now - last);
    last = world.clock.now;
  });
  for (let count = 0; count < 400; count += 1) {
    if (count === 100) world.path.set(false);
    if (count === 300) world.path.set(true);
    ann.room.sendLossy(`${count}`);
    await world.clock.advance(50);
    if (count === 99) assert.equal(world.atServer, 0);
  }
  assert.ok(stall > 0 && stall < 500, `${stall} ms without a cursor`);
  assert.equal(new Set(bob.data).size, bob.data.length);
  assert.ok(bob.data.length > 390, `${bob.data.length} of 400`);
});

test('the server is away: what goes directly goes on', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  world.refuseSockets = true;
  world.breakSockets();
  await world.clock.advance(3_000);
  assert.equal(ann.session.state, 'reconnecting');
  ann.room.sendLossy('hello');
  await world.clock.until(() => bob.data.length === 1, 200);
});

test('the server starts anew: the connections stay, and serve the rooms that are joined again', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  let rejoined = 0;
  for (const { room } of [ann, bob]) room.on('rejoined', () => (rejoined += 1));
  world.server.forget();
  world.breakSockets();
  await world.clock.until(() => rejoined === 2 && all([ann, bob]), 60_000);
  ann.room.sendLossy('again');
  await world.clock.until(() => bob.data.includes('again'), 10_000);
  await world.clock.advance(60_000);
  assert.ok(all([ann, bob]));
  assert.equal(world.path.peers.length, 2, 'the connections of before');
});

test('one connection serves all rooms that two share, and ends with the last of them', async () => {
  const world = new Rooms();
  const pages = [world.page('ann'), world.page('bob')];
  const first = [];
  const second = [];
  for (const page of pages) first.push(await world.enter(page, 'one'));
  for (const page of pages) second.push(await world.enter(page, 'two'));
  await world.clock.until(() => all(first) && all(second), 10_000);
  assert.equal(world.path.peers.length, 2);
  first[0].room.sendLossy('in one');
  second[0].room.sendLossy('in two');
  await world.clock.advance(200);
  assert.deepEqual([first[1].data, second[1].data], [['in one'], ['in two']]);
  first[0].room.leave();
  await world.clock.advance(1_000);
  assert.ok(all(second));
  second[1].room.leave();
  await world.clock.advance(2_000);
  assert.deepEqual(world.path.open, []);
  assert.equal(world.path.peers.length, 2);
});

test('up to eight are all connected; with the ninth nobody is, and again when there are seven', async () => {
  const world = new Rooms();
  const places = await world.people(...'abcdefgh');
  await world.clock.until(() => all(places), 20_000);
  assert.equal(world.path.open.length, 8 * 7);
  const ninth = await world.enter(world.page('i'));
  await world.clock.until(() => [...places, ninth].every((place) => reach(place).every((state) => state === 'server')), 5_000);
  await world.clock.until(() => world.path.open.length === 0, 5_000);
  ninth.room.leave();
  await world.clock.advance(60_000);
  assert.equal(world.path.open.length, 0, 'eight again: not yet');
  places.pop().room.leave();
  await world.clock.until(() => all(places), 20_000);
});

test('whoever leaves in the middle of it leaves nothing behind', async () => {
  for (let at = 0; at < 40; at += 1) {
    const world = new Rooms({ seed: at + 1 });
    const [ann] = await world.people('ann');
    const bob = await world.enter(world.page('bob'));
    await world.clock.advance(at * 12);
    if (at % 2) bob.session.close();
    else bob.room.leave();
    await world.clock.advance(30_000);
    assert.deepEqual(world.path.open, [], `left after ${at * 12} ms`);
    assert.equal(ann.room.members.size, 0);
  }
});

test('switched off by the page, by its transport, by the server, or for who may only read: no connection is made', async () => {
  for (const [options, features] of [
    [{ peerToPeer: 'off' }, null],
    [{ peerToPeer: undefined }, null],
    [{ peerToPeer: 'relay' }, null],
    [{}, { webrtc: true, relay: true, p2p: false }],
    [{}, { webrtc: false, relay: true, p2p: true }],
  ]) {
    const world = new Rooms();
    world.server.features = features;
    const places = [];
    for (const user of ['ann', 'bob']) places.push(await world.enter(world.page(user, options)));
    await world.clock.advance(120_000);
    assert.equal(world.path.peers.length, 0, JSON.stringify([options, features]));
    places[0].room.sendLossy('hello');
    await world.clock.until(() => places[1].data.length === 1, 200);
  }
  const world = new Rooms();
  world.server.permissions = ['read'];
  await world.people('ann', 'bob');
  await world.clock.advance(60_000);
  assert.equal(world.path.peers.length, 0);
});

test('of tabs that share a session all say how the one that has the connections reaches the others (LAD6)', async () => {
  const world = new Rooms();
  const [bob] = await world.people('bob');
  const browser = new Browser(world);
  const [one, two] = [await world.tab(browser, 'ann'), await world.tab(browser, 'ann')];
  assert.deepEqual([one, two].map(({ session }) => session.stats().tabs.leads), [true, false]);
  await world.clock.until(() => all([one, two, bob], 1), 5_000);
  const three = await world.tab(browser, 'ann');
  assert.ok(isDirect(three, 1), 'who comes later, at once');
  await world.clock.advance(5_000);
  assert.ok(two.room.peers.get(bob.room.self.member).rtt > 0);
  // The next leader has to connect anew, and says so.
  one.tab.kill();
  await world.clock.until(() => two.session.stats().tabs.leads, 10_000);
  await world.clock.until(() => reach(two).join() === 'server' && reach(three).join() === 'server', 2_000);
  await world.clock.until(() => all([two, three, bob], 1), 20_000);
  assert.deepEqual([two.peers, three.peers], [['bob direct', 'bob server', 'bob direct'], ['bob server', 'bob direct']], 'and each change');
});

test('taken away half-way the connections close', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  const [session] = world.server.sessions.values();
  session.takeAway({ webrtc: true, relay: true, p2p: false });
  await world.clock.until(() => world.path.open.length === 0, 5_000);
  await world.clock.advance(300_000);
  assert.equal(world.path.peers.length, 2);
  assert.deepEqual([reach(ann), reach(bob)], [['server'], ['server']]);
});

test('with relays only: they are used, and nothing else', async () => {
  const world = new Rooms();
  world.server.ice = { ice_servers: [{ urls: ['turn:t.example'], username: 'u', credential: 'c' }], ice_ttl_ms: 3_600_000 };
  world.path.isRelayed = true;
  const places = [];
  for (const user of ['ann', 'bob']) places.push(await world.enter(world.page(user, { peerToPeer: 'relay' })));
  await world.clock.until(() => reach(places[0])[0] === 'relay' && reach(places[1])[0] === 'relay', 5_000);
  for (const { configuration } of world.path.peers) {
    assert.deepEqual([configuration.iceTransportPolicy, configuration.iceServers.length], ['relay', 1]);
  }
});

test('what the server would refuse is not taken directly either', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  ann.room.members.get(bob.room.self.member).write = false;
  bob.room.sendLossy('not permitted');
  await world.clock.advance(500);
  assert.deepEqual(ann.data, []);
  // One that may not write asks the server, which refuses and says so.
  bob.room.permissions = ['comment'];
  bob.room.sendLossy('refused');
  await world.clock.until(() => world.atServer === 1, 200);
});

test('frames that do not parse, for other rooms, of other kinds or too many are dropped, and the connection stands', async () => {
  const world = new Rooms();
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  const [, peer] = world.path.peers;
  const lossy = (more) => encodeFrame({ kind: 'lossy', flags: 1, room: 1, sender: 99, stream: 0, seq: 1, target: { tag: 'room' }, payload: new Uint8Array(1).fill(65), ...more });
  const from = [...world.path.open].find((each) => each.channels.get(1).readyState === 'open' && each === peer);
  const send = (bytes) => from.channels.get(1).send(bytes);
  send(Uint8Array.of(1));
  send(Uint8Array.of(0, 3, 0x10, 0, 0));
  send(joinFrames([lossy({ room: 77 })]));
  send(joinFrames([encodeFrame({ kind: 'data', flags: 6, laneSeq: 1, ack: 0, room: 1, sender: 2, stream: 0, payload: new Uint8Array(1) })]));
  send(joinFrames([encodeFrame({ kind: 'attach', gen: 9, ack: 9 })]));
  await world.clock.advance(100);
  assert.deepEqual([ann.data, bob.data], [[], []]);
  for (let seq = 1; seq <= 5_000; seq += 1) send(joinFrames([lossy({ seq })]));
  await world.clock.advance(50);
  const heard = ann.data.length + bob.data.length;
  assert.ok(heard >= 2_000 && heard < 2_200, `${heard} of 5000`);
  for (const { sender } of [...ann.events, ...bob.events]) assert.notEqual(sender.member, 99, 'the sender is who it is');
  await world.clock.advance(10_000);
  assert.ok(all([ann, bob]));
});

test('signals that are no such signals, of strangers, to others or too many change nothing', async () => {
  const world = new Rooms();
  const page = world.page('ann');
  const ann = await world.enter(page);
  const [bob] = await world.people('bob');
  await world.clock.until(() => all([ann, bob]), 5_000);
  const eve = await world.enter(world.page('eve', { peerToPeer: 'off' }));
  const { member } = ann.room.self;
  const id = '0123456789abcdef';
  const p2p = (more) => ({ switchyard: 'p2p', v: 1, ...more });
  for (const data of [
    p2p({}),
    p2p({ type: 'hello', id: 'short', handle: 1 }),
    p2p({ type: 'hello', id, handle: -1 }),
    p2p({ type: 'offer', id, to: id, c: 1, d: 1, sdp: 'v=0' }),
    p2p({ type: 'bye', id, to: id, c: 2 ** 31 }),
    { switchyard: 'p2p', v: 2, type: 'hello', id, handle: 1 },
  ]) {
    eve.room.signal({ member }, data);
  }
  await world.clock.advance(1_000);
  const before = world.server.signals;
  for (let c = 1; c < 200; c += 1) eve.room.signal({ member }, p2p({ type: 'offer', id, to: page.id, c, d: 1, sdp: 'v=0' }));
  eve.room.signal({ member }, { mine: true });
  await world.clock.advance(1_000);
  const answers = world.server.signals - before - 200;
  assert.ok(answers > 0 && answers < 80, `${answers} answers to 199 offers that nobody wants`);
  await world.clock.advance(30_000);
  assert.deepEqual(ann.signals, [{ mine: true }], "the application's own come through");
  assert.ok(isDirect({ room: { peers: new Map([...ann.room.peers].filter(([other]) => other === bob.room.self.member)) } }, 1));
  assert.equal(world.path.peers.length, 2);
});

test('a description has its limits', () => {
  const base = { v: 1, type: 'offer', id: '0123456789abcdef', to: '0123456789abcdef', c: 1, d: 1, sdp: 'v=0' };
  assert.equal(readSignal(base).sdp, 'v=0');
  for (const wrong of [{ sdp: 'x'.repeat(12_289) }, { c: 1.5 }, { d: -1 }, { id: 1 }, { type: 'pranswer' }, { type: 'answer' }]) {
    assert.equal(readSignal({ ...base, ...wrong }), null, JSON.stringify(wrong).slice(0, 60));
  }
  const list = [{ candidate: 'c' }, { candidate: 'x'.repeat(513) }, null, { candidate: 5 }];
  assert.equal(readSignal({ ...base, type: 'candidates', list }).list.length, 1);
  assert.equal(readSignal({ ...base, type: 'candidates', list: Array(17).fill(list[0]) }), null);
});

test('numbers are seen once, in any order, across the turn of the counter, and what is too old counts as seen', () => {
  const random = seeded(3);
  for (let round = 0; round < 200; round += 1) {
    const start = round % 2 ? 0xffff_ff80 : Math.floor(random() * 1_000);
    const seen = new Seen();
    const known = new Set();
    let newest = -1;
    for (let step = 0; step < 600; step += 1) {
      const number = Math.max(0, newest + Math.floor(random() * 300) - 200 + (random() < 0.01 ? 700 : 0));
      const isNew = !known.has(number) && (newest < 0 || number > newest - 256);
      assert.equal(seen.add((start + number) >>> 0), isNew, `${number} after ${newest}`);
      known.add(number);
      newest = Math.max(newest, number);
    }
  }
  const after = new Seen(10);
  assert.deepEqual([after.add(10), after.add(9), after.add(11), after.add(11)], [false, false, true, false]);
});
