// Large things for one member: by either way, and across the change from one to the other.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { BulkReceiver, BulkSender, HEADER_BYTES } from '../src/mesh/bulk.js';
import { Browser } from './fake-tabs.js';
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
    world.server.drops = ({ stream, payload }) => stream === 65_535 && payload.length > HEADER_BYTES && world.random() < 0.15;
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
    const payload = new Uint8Array(HEADER_BYTES + bytes);
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
  const sender = new BulkSender(7, 3, {
    isDirect: () => ways.stands,
    directRoom: () => 65_536,
    acknowledges: () => true,
    direct: (chunk) => {
      if (chunk.flags & 4) ways.last.push(chunk);
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

test('what another tab has taken is not taken again, and what comes after it is next', () => {
  const receiver = new BulkReceiver(7, 262_144);
  const message = (n) => {
    const payload = new Uint8Array(HEADER_BYTES + 1);
    const view = new DataView(payload.buffer);
    view.setUint32(0, 7);
    view.setUint32(4, n);
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

// --- tabs that share a session ---------------------------------------------------------------------------------------------------

/** Tabs of Ann's, the first of which has the connection with Bob, and what makes more of them. */
async function tabsAndBob(count, options) {
  const world = new Rooms(options);
  const [bob] = await world.people('bob');
  const browser = new Browser(world);
  const open = () => world.tab(browser, 'ann');
  const tabs = [];
  while (tabs.length < count) tabs.push(await open());
  await world.clock.until(() => all([...tabs, bob], 1), 10_000);
  return { world, browser, bob, tabs, open, to: bob.room.self.member };
}

test('what the other tabs send takes the connection of the one that leads, and is confirmed to whom it is', async () => {
  const { world, bob, tabs, to } = await tabsAndBob(3);
  const confirmed = [0, 0, 0];
  for (let n = 1; n <= 40; n += 1) {
    tabs.forEach(({ room }, tab) => room.sendTo(to, numbered(n, n * 3_000), { stream: tab }).then(() => (confirmed[tab] += 1)));
  }
  await world.clock.until(() => confirmed.some((count) => count >= 30), 20_000);
  assert.ok(Math.min(...confirmed) >= 15, `nobody takes all the room: ${confirmed}`);
  await world.clock.until(() => confirmed.join() === '40,40,40', 20_000);
  for (const tab of [0, 1, 2]) assert.deepEqual(numbers({ events: bob.events.filter(({ stream }) => stream === tab) }), upTo(40));
  const ways = tabs.map(({ session }) => session.stats().mesh).map(({ bulkDirect, bulkServer }) => [bulkDirect, bulkServer]);
  assert.deepEqual(ways, Array(3).fill([40, 0]));
});

test('what is sent to tabs comes to all of them, once, and none of them falls behind', async () => {
  const { world, browser, bob, tabs } = await tabsAndBob(3);
  browser.messageDelay = 20;
  let confirmed = 0;
  for (let n = 1; n <= 40; n += 1) {
    bob.room.sendTo(tabs[0].room.self.member, numbered(n, 200_000)).then(() => (confirmed += 1));
    await world.clock.advance(10);
  }
  await world.clock.until(() => confirmed === 40 && tabs.every((tab) => numbers(tab).length === 40), 20_000);
  for (const tab of tabs) assert.deepEqual(numbers(tab), upTo(40));
  assert.equal(tabs[0].session.stats().counters.tabsDropped, 0);
});

test('tabs whose session is another count from the start again', async () => {
  const { world, bob, tabs, to } = await tabsAndBob(2);
  const { member } = tabs[0].room.self;
  for (let n = 1; n <= 5; n += 1) bob.room.sendTo(member, numbered(n, 50));
  await world.clock.until(() => tabs.every((tab) => numbers(tab).length === 5), 5_000);
  let rejoined = 0;
  for (const { room } of [bob, ...tabs]) room.on('rejoined', () => (rejoined += 1));
  world.server.forget();
  world.breakSockets();
  await world.clock.until(() => rejoined === 3, 30_000);
  await world.clock.until(() => all([bob, ...tabs], 1), 30_000);
  assert.deepEqual([bob.room.self.member, tabs[0].room.self.member], [to, member], 'as if they had never been there');
  let confirmed = 0;
  for (let n = 6; n <= 10; n += 1) bob.room.sendTo(member, numbered(n, 50)).then(() => (confirmed += 1));
  await world.clock.until(() => confirmed === 5, 10_000);
  for (const tab of tabs) assert.deepEqual(numbers(tab), upTo(10));
});

test('what a tab sends is complete, once and in order while leaders die and change, and the path comes and goes', async () => {
  let [direct, server, again, lost] = [0, 0, 0, 0];
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 60); seed += 1) {
    const { world, browser, bob, tabs, open, to } = await tabsAndBob(3, { seed });
    const left = [...tabs];
    /** What each has sent, in a stream of its own, and what became of that. */
    const sent = new Map([[bob, { stream: 0, sent: 0, confirmed: 0, lost: 0 }]]);
    const send = (from, member, bytes) => {
      if (!sent.has(from)) sent.set(from, { stream: sent.size, sent: 0, confirmed: 0, lost: 0 });
      const count = sent.get(from);
      count.sent += 1;
      const settled = from.room.sendTo(member, numbered(count.sent, bytes), { stream: count.stream });
      // All that knew of the session have died: the member is another.
      settled.then(() => (count.confirmed += 1), ({ code }) => (count.lost += ['session_lost', 'no_such_user'].includes(code) ? 1 : NaN));
    };
    for (let change = 0; change < 6; change += 1) {
      const dice = world.random();
      if (dice < 0.3) left.shift().tab.kill();
      else if (dice < 0.6) browser.look(left[1].tab);
      else world.path.set(!world.path.isOpen);
      if (left.length < 2) left.push(await open());
      for (const end = world.clock.now + world.random() * 6_000; world.clock.now < end; ) {
        const from = left[Math.floor(world.random() * left.length)];
        if (from.room.active) send(from, to, Math.floor(world.random() * 60_000));
        if (world.random() < 0.2 && bob.room.members.size > 0) send(bob, [...bob.room.members.keys()][0], 50);
        await world.clock.advance(world.random() * 300);
      }
    }
    world.path.set(true);
    const living = [bob, ...left];
    const isDone = () => living.every((from) => !sent.has(from) || sent.get(from).confirmed + sent.get(from).lost === sent.get(from).sent);
    await world.clock.until(isDone, 60_000).catch(() => assert.fail(`seed ${seed}: ${JSON.stringify([...sent.values()])}`));
    await world.clock.advance(1_000);
    for (const [from, count] of sent) {
      const stats = from.session.stats().mesh;
      [direct, server, again, lost] = [direct + stats.bulkDirect, server + stats.bulkServer, again + stats.bulkAgain, lost + count.lost];
      if (from === bob) continue;
      const came = numbers({ events: bob.events.filter(({ stream }) => stream === count.stream) });
      assert.ok(came.length >= count.confirmed && came.every((n, i) => i === 0 || n > came[i - 1]), `seed ${seed}: ${came}`);
      // A tab that was killed has taken with it what it had not sent.
      if (count.lost === 0) assert.deepEqual(came, upTo(left.includes(from) ? count.sent : came.length), `seed ${seed}`);
    }
    // To the tab that has been there all along, if there is one.
    const witness = tabs.find((tab) => left.includes(tab));
    if (witness && sent.get(bob).lost === 0) assert.deepEqual(numbers(witness), upTo(sent.get(bob).sent), `seed ${seed}`);
  }
  assert.ok(direct > 500 && server > 500 && again > 10, `${direct} directly, ${server} over the server, ${again} both, ${lost} lost`);
});
