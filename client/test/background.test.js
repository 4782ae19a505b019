// What waits is sent without a page: the worker, pages, browser profile and server are imagined, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { flush } from '../src/background.js';
import { connect } from '../src/index.js';
import { BackgroundSync } from '../src/sync.js';
import { seeded } from './clock.js';
import { World } from './fake-network.js';
import { Profile } from './fake-storage.js';

const URL = 'ws://server';
const token = (user, tenant = 'k') => `x.${Buffer.from(JSON.stringify({ iss: tenant, sub: user })).toString('base64url')}.x`;

/** A page that has rooms open, in whose log it can write. */
function open(world, profile, { user = 'ann', rooms = ['r'], ...options } = {}) {
  const environment = world.browser(profile);
  const session = connect({ url: URL, transport: 'websocket', environment, getToken: () => token(user), ...options });
  return { session, page: environment.page, rooms: rooms.map((room) => session.open({ room, user })) };
}

/** What a page leaves that has written without a network and is gone. */
async function leave(world, profile, texts, options) {
  world.refuseSockets = true;
  const { rooms, page } = open(world, profile, options);
  for (const room of rooms) for (const text of texts) room.post(text);
  await world.clock.advance(500);
  page.kill();
  world.refuseSockets = false;
}

/** The worker is woken, and does what it can within this time. */
function wake(world, profile, { user = 'ann', getToken = () => token(user), within = 200_000, ...options } = {}) {
  const environment = world.browser(profile);
  const result = { page: environment.page, is: 'under way', rejected: [] };
  flush({ url: URL, getToken, environment, rejected: (room, { body, code }) => result.rejected.push([room, body.text, code]), ...options }).then(
    ({ sent }) => (result.is = sent),
    ({ code }) => (result.is = code),
  );
  return within === 0 ? result : world.clock.until(() => result.is !== 'under way', within).then(() => result);
}

test('what a page has written without a network the worker sends when the page is gone, in order, once (LAD5)', async () => {
  const world = new World();
  const profile = new Profile();
  await leave(world, profile, ['a', 'b', 'c'], { rooms: ['r', 's'] });
  assert.equal((await wake(world, profile)).is, 6);
  for (const name of ['r', 's']) assert.deepEqual(world.server.log(name).texts, ['a', 'b', 'c']);
  await world.clock.advance(100);
  assert.equal(world.server.sessions.size, 0, 'the user is not left there');
  const sockets = world.sockets.length;
  assert.equal((await wake(world, profile)).is, 0);
  assert.equal(world.sockets.length, sockets, 'and nothing is opened for nothing');
  const back = open(world, profile);
  await world.clock.until(() => back.rooms[0].messages.length === 3);
  assert.equal(back.rooms[0].status.queued, 0);
});

test('a worker that is stopped at any moment has doubled and lost nothing', async () => {
  let inTheMiddle = 0;
  for (let seed = 1; seed <= 60; seed += 1) {
    const world = new World({ seed });
    const random = seeded(seed);
    const profile = new Profile();
    const texts = Array.from({ length: 30 }, (_, i) => `${i}`);
    await leave(world, profile, texts);
    world.server.log('r').every = 10;
    for (let times = 0; times < 3; times += 1) {
      const worker = wake(world, profile, { within: 0 });
      await world.clock.advance(Math.floor(random() * 300));
      worker.page.kill();
      const { length } = world.server.log('r').texts;
      if (length > 0 && length < texts.length) inTheMiddle += 1;
    }
    await wake(world, profile);
    assert.deepEqual(world.server.log('r').texts, texts, `seed ${seed}`);
  }
  assert.ok(inTheMiddle > 10, `${inTheMiddle} times some were answered, and not all`);
});

test('what a living page has is left to that', async () => {
  const world = new World();
  const profile = new Profile();
  world.refuseSockets = true;
  const { rooms: [room], page } = open(world, profile);
  room.post('mine');
  await world.clock.advance(500);
  const worker = wake(world, profile, { within: 0 });
  await world.clock.advance(5_000);
  world.refuseSockets = false;
  await world.clock.until(() => worker.is !== 'under way', 60_000);
  assert.deepEqual([worker.is, world.server.log('r').texts], [1, ['mine']]);
  world.refuseSockets = true;
  page.sockets.forEach((socket) => socket.drop(1006));
  room.post('mine, too');
  await world.clock.advance(500);
  assert.equal((await wake(world, profile)).is, 'unsent', 'the browser is to try again');
});

test('what another user has written is not sent, nor waited for', async () => {
  const world = new World();
  const profile = new Profile();
  await leave(world, profile, ['secret']);
  assert.equal((await wake(world, profile, { user: 'bob' })).is, 0);
  assert.equal((await wake(world, profile, { getToken: () => token('ann', 'of another tenant') })).is, 0);
  assert.deepEqual(world.server.log('r').texts, []);
  await leave(world, profile, ['from bob'], { user: 'bob' });
  assert.equal((await wake(world, profile, { user: 'bob' })).is, 1);
  assert.equal((await wake(world, profile)).is, 1);
  assert.deepEqual(world.server.log('r').texts, ['from bob', 'secret']);
});

test('what the server refuses is told, by the worker or by the next page', async () => {
  const world = new World();
  const profile = new Profile();
  await leave(world, profile, ['fine', 'forbidden', 'fine again']);
  const { is, rejected } = await wake(world, profile);
  assert.deepEqual([is, rejected], [3, [['r', 'forbidden', 'forbidden']]]);
  assert.deepEqual(world.server.log('r').texts, ['fine', 'fine again']);
  await leave(world, profile, ['forbidden']);
  const { rooms: [room] } = open(world, profile);
  const told = [];
  room.on('rejected', ({ body, code, message }) => told.push([body.text, code, typeof message]));
  const refused = room.post('forbidden').settled.then(() => '', ({ code }) => code);
  await world.clock.until(() => room.status.queued === 0, 5_000);
  assert.equal(await refused, 'forbidden', 'its promise says so');
  assert.deepEqual(told, [['forbidden', 'forbidden', 'string']]);
});

test('without a server, a token or the room it ends, and the browser is told to try again', async () => {
  const world = new World();
  const profile = new Profile();
  await leave(world, profile, ['a']);
  world.refuseSockets = true;
  const began = world.clock.now;
  assert.equal((await wake(world, profile)).is, 'unsent');
  assert.ok(world.clock.now - began < 25_000, `${world.clock.now - began} ms`);
  world.refuseSockets = false;
  const failing = () => Promise.reject(new Error('offline'));
  assert.equal((await wake(world, profile, { getToken: failing })).is, 'unsent');
  const before = world.clock.now;
  assert.equal((await wake(world, profile, { getToken: () => 'bad' })).is, 'unsent');
  assert.ok(world.clock.now - before < 1_000, 'a refusal is not waited out');
  assert.equal((await wake(world, profile)).is, 1);
});

test('a worker of another server, or without storage, does nothing', async () => {
  const world = new World();
  const profile = new Profile();
  await leave(world, profile, ['a']);
  assert.equal((await wake(world, profile, { url: 'ws://elsewhere' })).is, 0);
  assert.equal((await wake(world, undefined)).is, 0);
  assert.deepEqual(world.server.log('r').texts, []);
});

test('much that waits is not given up while some of it is answered', async () => {
  const world = new World();
  const profile = new Profile();
  const texts = Array.from({ length: 20 }, (_, i) => `${i}`);
  await leave(world, profile, texts);
  // As a rate limit does: 60 s for all.
  world.server.log('r').every = 3_000;
  assert.equal((await wake(world, profile)).is, 20);
  assert.deepEqual(world.server.log('r').texts, texts);
});

test('the page asks the browser once for each time that something waits without a connection', async () => {
  const world = new World();
  const tags = [];
  const backgroundSync = Promise.resolve({ sync: { register: async (tag) => void tags.push(tag) } });
  const { session, page, rooms: [room] } = open(world, new Profile(), { backgroundSync });
  await world.clock.until(() => session.state === 'connected');
  room.post('at once');
  await world.clock.until(() => room.messages[0]?.state === 'confirmed', 5_000);
  assert.deepEqual(tags, []);
  for (const times of [1, 2]) {
    world.refuseSockets = true;
    page.sockets.forEach((socket) => socket.drop(1006));
    await world.clock.until(() => session.state === 'reconnecting');
    room.post('later');
    await world.clock.advance(100);
    room.post('later still');
    await world.clock.advance(5_000);
    assert.deepEqual(tags, Array(times).fill('switchyard'));
    world.refuseSockets = false;
    await world.clock.until(() => room.status.queued === 0, 60_000);
  }
});

test('a worker that is woken at once finds what it was woken for', async () => {
  for (let seed = 1; seed <= 40; seed += 1) {
    const world = new World({ seed });
    const profile = new Profile();
    const woken = [];
    const backgroundSync = { sync: { register: async () => void woken.push(wake(world, profile, { within: 0 })) } };
    const { session, page, rooms: [room] } = open(world, profile, { backgroundSync });
    await world.clock.until(() => session.state === 'connected');
    world.refuseSockets = true;
    page.sockets.forEach((socket) => socket.drop(1006));
    await world.clock.until(() => session.state === 'reconnecting');
    room.post('later');
    await world.clock.advance(1_000);
    page.kill();
    const [worker] = woken;
    assert.equal(worker.is, 'under way', `seed ${seed}: done, with nothing sent`);
    world.refuseSockets = false;
    await world.clock.until(() => worker.is !== 'under way', 60_000);
    assert.deepEqual([worker.is, world.server.log('r').texts], [1, ['later']], `seed ${seed}`);
  }
});

test('the page asks when it goes with something that waits; a browser that cannot, or a worker that failed, is no error', async () => {
  const tags = [];
  const sync = new BackgroundSync({ sync: { register: async (tag) => void tags.push(tag) } });
  sync.away({ waits: false });
  await null;
  assert.deepEqual(tags, []);
  sync.look({ waits: true, connected: false });
  sync.away({ waits: true });
  await new Promise(setImmediate);
  assert.deepEqual(tags, ['switchyard', 'switchyard']);
  for (const registration of [undefined, {}, Promise.reject(new Error('no worker')), { sync: { register: () => Promise.reject(new Error('not allowed')) } }]) {
    new BackgroundSync(registration).look({ waits: true, connected: false });
  }
  await new Promise(setImmediate);
});
