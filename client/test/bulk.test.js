// Large things for one member: by either way, and across the change from one to the other.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { decodeFrame } from '../src/frame.js';
import { BulkReceiver, BulkSender, readWithoutNumber, withoutNumber } from '../src/mesh/bulk.js';
import { Rooms, all } from './rooms.js';

/** What of the streams of large things has come, as numbers. */
const numbers = ({ events }) => events.map(({ data }) => new DataView(data.buffer, data.byteOffset).getUint32(0));
const upTo = (count) => Array.from({ length: count }, (_, index) => index + 1);

/** A message that begins with its number. */
function numbered(n, bytes) {
  const data = new Uint8Array(Math.max(4, bytes));
  new DataView(data.buffer).setUint32(0, n);
  return data;
}

async function two(options) {
  const world = new Rooms(options);
  const [ann, bob] = await world.people('ann', 'bob');
  await world.clock.until(() => all([ann, bob]), 10_000);
  return { world, ann, bob, to: bob.room.self.member };
}

test('where there is a connection they take it, whole and in order, and the sender knows when they are there', async () => {
  const { world, ann, bob, to } = await two();
  let confirmed = 0;
  for (let n = 1; n <= 60; n += 1) ann.room.sendTo(to, numbered(n, n * 1_700), { stream: n % 3 }).then(() => (confirmed += 1));
  await world.clock.until(() => confirmed === 60, 10_000);
  assert.deepEqual(numbers(bob), upTo(60));
  assert.deepEqual(bob.events.map(({ data }) => data.length), upTo(60).map((n) => n * 1_700));
  const [first] = bob.events;
  assert.deepEqual([first.stream, first.sender.user, first.lossy, first.direct], [1, 'ann', false, true]);
  const { bulkDirect, bulkServer } = ann.session.stats().mesh;
  assert.deepEqual([bulkDirect, bulkServer], [60, 0]);
  ann.room.sendTo(to, 'text');
  await world.clock.until(() => bob.data.at(-1) === 'text', 100);
});

test('where there is none they take the server, and only that one session of the user has them', async () => {
  const world = new Rooms();
  const ann = await world.enter(world.page('ann', { peerToPeer: 'off' }));
  const [bob, other] = await world.people('bob', 'bob');
  let confirmed = 0;

  for (let n = 1; n <= 40; n += 1) ann.room.sendTo(bob.room.self.member, numbered(n, 100_000)).then(() => (confirmed += 1));
  await world.clock.until(() => numbers(bob).length === 40 && confirmed === 40, 400_000);
  assert.deepEqual(numbers(bob), upTo(40));
  assert.deepEqual(other.events, []);
});

for (const tellsGaps of [true, false]) {
  test(`what the server gives up on the way, ${tellsGaps ? 'and says so' : 'and does not say so'}, is sent again`, async () => {
    const world = new Rooms();
    const ann = await world.enter(world.page('ann', { peerToPeer: 'off' }));
    const [bob] = await world.people('bob');
    world.server.tellsGaps = tellsGaps;
    world.server.drops = ({ stream, payload }) => stream === 65_535 && payload.length > 11 && world.random() < 0.15;
    let confirmed = 0;
    for (let n = 1; n <= 60; n += 1) ann.room.sendTo(bob.room.self.member, numbered(n, 10_000)).then(() => (confirmed += 1));
    const took = await world.clock.until(() => confirmed === 60, 600_000);
    assert.deepEqual(numbers(bob), upTo(60));
    if (tellsGaps) assert.ok(took < 20_000, `${took} ms`);
  });
}

test('to one who may only read, over the server: what that has taken counts, and after a gap it goes on', async () => {
  const world = new Rooms();
  const ann = await world.enter(world.page('ann', { peerToPeer: 'off' }));
  const [bob] = await world.people('bob');
  bob.room.permissions = ['read'];
  ann.room.members.get(bob.room.self.member).write = false;
  let count = 0;
  world.server.drops = ({ stream }) => stream === 65_535 && (count += 1) === 5;
  let confirmed = 0;
  for (let n = 1; n <= 20; n += 1) ann.room.sendTo(bob.room.self.member, numbered(n, 10_000)).then(() => (confirmed += 1));
  await world.clock.until(() => confirmed === 20 && bob.events.length === 19, 20_000);
  assert.deepEqual(numbers(bob), upTo(20).filter((n) => n !== 5));
});

test('over a path that comes and goes: complete, once, in order', async () => {
  let [direct, server, again] = [0, 0, 0];
  for (let seed = 1; seed <= 40; seed += 1) {
    const { world, ann, bob, to } = await two({ seed });
    let [sent, back, confirmed] = [0, 0, 0];
    for (let change = 0; change < 5; change += 1) {
      world.path.set(change % 2 === 1 || world.random() < 0.2);
      for (const end = world.clock.now + world.random() * 8_000; world.clock.now < end; ) {
        ann.room.sendTo(to, numbered((sent += 1), Math.floor(world.random() * 60_000))).then(() => (confirmed += 1));
        if (world.random() < 0.3) bob.room.sendTo(ann.room.self.member, numbered((back += 1), 50)).then(() => (confirmed += 1));
        await world.clock.advance(world.random() * 300);
      }
    }
    world.path.set(true);
    await world.clock.until(() => confirmed === sent + back, 60_000).catch(() => assert.fail(`seed ${seed}: ${confirmed} of ${sent + back}`));
    await world.clock.advance(1_000);
    assert.deepEqual(numbers(bob), upTo(sent), `seed ${seed}`);
    assert.deepEqual(numbers(ann), upTo(back), `seed ${seed}`);
    const stats = ann.session.stats().mesh;
    [direct, server, again] = [direct + stats.bulkDirect, server + stats.bulkServer, again + stats.bulkAgain];
  }
  assert.ok(direct > 500 && server > 500 && again > 10, `${direct} directly, ${server} over the server, ${again} both`);
});

test('an acknowledgement that finds no room on the connection goes over the server', async () => {
  const { world, ann, to } = await two();
  const [channel] = world.path.open.filter(({ owner }) => owner === 'bob').map(({ channels }) => channels.get(0));
  let isConfirmed = false;
  channel.bufferedAmount += 65_536;
  ann.room.sendTo(to, 'hello').then(() => (isConfirmed = true));
  await world.clock.until(() => isConfirmed, 500);
  assert.equal(ann.session.stats().mesh.bulkDirect, 1);
});

test('one that leaves: what it has not confirmed is rejected', async () => {
  const { world, ann, bob, to } = await two();
  world.path.set(false);
  const codes = [];
  for (let n = 1; n <= 3; n += 1) ann.room.sendTo(to, numbered(n, 10)).catch(({ code }) => codes.push(code));
  bob.session.close();
  await world.clock.advance(1_000);
  assert.deepEqual(codes, ['no_such_user', 'no_such_user', 'no_such_user']);
  assert.throws(() => ann.room.sendTo(to, 'hello'), { code: 'no_such_user' });
});

test('more than may be kept, and too large ones, are refused at once', async () => {
  const { world, ann, to } = await two();
  assert.throws(() => ann.room.sendTo(to, new Uint8Array(262_144)), { code: 'too_large' });
  assert.throws(() => ann.room.sendTo(to, 'x', { stream: 65_535 }), { code: 'bad_argument' });
  world.path.set(false);
  assert.throws(() => {
    for (let n = 1; n < 1_000; n += 1) ann.room.sendTo(to, numbered(n, 200_000));
  }, { code: 'buffer_full' });
});

test('a receiver holds only so much of what comes too early, and goes on after a gap of the server', () => {
  const receiver = new BulkReceiver(7, 262_144);
  const message = (n, bytes = 4, to = 7) => {
    const payload = new Uint8Array(11 + bytes);
    const view = new DataView(payload.buffer);
    view.setUint32(0, to);
    view.setUint32(4, n);
    return payload;
  };
  assert.equal(receiver.takeMessage(message(1, 4, 8)).length, 0, 'for another');
  assert.equal(receiver.takeMessage(new Uint8Array(5)).length, 0);
  assert.deepEqual([receiver.takeMessage(message(2)).length, receiver.takeMessage(message(1)).length], [0, 2]);
  for (let again = 0; again < 100; again += 1) assert.equal(receiver.takeMessage(message(2, 200_000)).length, 0, 'again');
  for (let n = 4; n < 100; n += 1) receiver.takeMessage(message(n, 200_000));
  const due = receiver.takeMessage(message(3)).length;
  assert.ok(due > 5 && due < 12, `${due} were held`);
  receiver.gap();
  assert.equal(receiver.takeMessage(message(500)).length, 1);
  assert.equal(receiver.acknowledged, 500);
});

test('what is not acknowledged stays within its window, and goes again over the next connection if the server has no room', () => {
  const ways = { stands: true, last: [] };
  const sender = new BulkSender(7, () => 3, {
    isDirect: () => ways.stands,
    directRoom: () => 65_536,
    acknowledges: () => true,
    direct: (bytes) => {
      const frame = decodeFrame(bytes);
      if (frame.flags & 4) ways.last.push(frame);
      return true;
    },
    server: () => {
      throw new Error('no room');
    },
  });
  for (let n = 1; n <= 10; n += 1) sender.send(new Uint8Array(200_000), false, 0);
  assert.equal(ways.last.length, 5, 'a window');
  sender.acknowledge(2);
  assert.equal(ways.last.length, 7);
  ways.stands = false;
  sender.pump();
  ways.stands = true;
  sender.pump();
  assert.equal(ways.last.length, 12, 'the five of which nothing is known');
  sender.acknowledge(7);
  assert.equal(ways.last.length, 15, 'and the rest');
  assert.deepEqual([sender.counters.direct, sender.counters.again], [15, 5]);
});

test('one without a number is for one member, and is none of those with numbers', () => {
  const data = Uint8Array.of(1, 2, 3);
  const payload = withoutNumber(7, { data, isText: false, stream: 9 });
  assert.deepEqual(readWithoutNumber(payload, 7), { n: 0, data, isText: false, stream: 9 });
  assert.equal(readWithoutNumber(payload, 8), null);
  assert.equal(readWithoutNumber(payload.subarray(0, 10), 7), null);
  assert.deepEqual(new BulkReceiver(7, 262_144).takeMessage(payload), []);
});

test('what another tab has taken is not taken again, and what comes after it is next', () => {
  const receiver = new BulkReceiver(7, 262_144);
  const message = (n) => {
    const payload = withoutNumber(7, { data: Uint8Array.of(n), isText: false, stream: 0 });
    new DataView(payload.buffer).setUint32(4, n);
    return payload;
  };
  assert.equal(receiver.takeMessage(message(2)).length, 0, 'too early');
  receiver.tookTo(3);
  assert.equal(receiver.acknowledged, 3);
  assert.equal(receiver.takeMessage(message(3)).length, 0, 'there already');
  assert.deepEqual(receiver.takeMessage(message(4)).map(({ n }) => n), [4]);
  receiver.tookTo(1);
  assert.equal(receiver.acknowledged, 4);
});
