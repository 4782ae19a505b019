// The log of a room: pages and a server that are imagined, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { environment } from '../src/environment.js';
import { connect } from '../src/index.js';
import { seeded } from './clock.js';
import { World } from './fake-network.js';
import { Profile } from './fake-storage.js';

const token = (user) => JSON.stringify({ user, name: user.toUpperCase() });

/** A page with the room open: it joins when it can. */
function open(world, user, { profile, browser = {}, ...options } = {}) {
  const own = { ...world.browser(profile), ...browser };
  const session = connect({ url: 'ws://server', transport: 'websocket', environment: own, getToken: () => token(user), ...options });
  const room = session.open({ room: 'r', user });
  const heard = { messages: [], events: [], syncs: [], statuses: [], left: [] };
  room.on('message', (message) => heard.messages.push(message));
  room.on('event', (event) => heard.events.push(event));
  room.on('sync', (sync) => heard.syncs.push(sync));
  room.on('status', (status) => heard.statuses.push(status));
  room.on('left', ({ reason }) => heard.left.push(reason));
  return { session, room, heard, page: own.page };
}

async function enter(world, user, options) {
  const page = open(world, user, options);
  await world.clock.until(() => page.heard.syncs.length > 0 || page.room.status.storage === 'gone');
  return page;
}

/** Lets time pass until a promise settles. */
async function finish(world, promise, ms) {
  let settled = false;
  const mark = () => (settled = true);
  promise.then(mark, mark);
  await world.clock.until(() => settled, ms);
  return promise;
}

const texts = (messages) => messages.map(({ body }) => body.text);
const shown = (room) => room.messages.map(({ body, state }) => (state === 'pending' ? `${body.text}?` : body.text));
const codeOf = (promise) => promise.then(() => 'settled', (error) => error.code);

test('a message is shown at once and is in its place when the log has it, under the same id', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const { id, settled } = ann.room.post('one');
  assert.deepEqual(shown(ann.room), ['one?']);
  assert.equal(ann.room.messages[0].id, id);
  assert.equal(ann.room.messages[0].seq, null);
  world.server.log('r').say('eve', 'zero');
  await world.clock.until(() => bob.heard.messages.length === 2);
  assert.equal(await finish(world, settled), 2);
  assert.deepEqual(shown(ann.room), ['zero', 'one']);
  const message = ann.room.messages[1];
  assert.deepEqual([message.id, message.seq, message.state, message.user, message.name], [id, 2, 'confirmed', 'ann', 'ANN']);
  assert.deepEqual(texts(bob.heard.messages), ['zero', 'one']);
  assert.deepEqual(texts(ann.heard.messages), ['zero', 'one']);
  assert.deepEqual(ann.room.status, { storage: 'ok', code: '', queued: 0, durable: false });
});

test('what is written in one turn goes as one message', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const before = world.sockets[0].sent.length;
  for (let i = 0; i < 20; i += 1) ann.room.post(`${i}`);
  await world.clock.until(() => ann.heard.messages.length === 20);
  assert.ok(world.sockets[0].sent.length - before <= 3, `${world.sockets[0].sent.length - before}`);
});

test('edits, deletions and reactions show at once, are confirmed, and are rolled back when refused', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  await finish(world, ann.room.post('one').settled);
  await finish(world, bob.room.post('two').settled);
  const [one, two] = [1, 2];
  const outcomes = [
    ann.room.edit(one, 'one!'),
    ann.room.react(two, '👍'),
    ann.room.edit(two, 'mine now'),
    ann.room.remove(99),
  ].map(({ settled }) => codeOf(settled));
  assert.deepEqual(shown(ann.room), ['one!?', 'mine now?']);
  assert.deepEqual(ann.room.messages[1].reactions, [{ emoji: '👍', count: 1, users: ['ann'] }]);
  assert.deepEqual(await finish(world, Promise.all(outcomes)), ['settled', 'settled', 'not_author', 'no_such_message']);
  assert.deepEqual(shown(ann.room), ['one!', 'two']);
  await world.clock.until(() => bob.heard.events.length === 4);
  assert.deepEqual(shown(bob.room), ['one!', 'two']);
  assert.deepEqual(bob.room.messages[1].reactions, [{ emoji: '👍', count: 1, users: ['ann'] }]);
  bob.room.remove(two);
  assert.equal(bob.room.messages[1].deleted, true);
  await world.clock.until(() => ann.room.messages[1].deleted);
  assert.deepEqual(ann.room.messages[1].body, {});
});

test('a refused message goes away and says why', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const refused = ann.room.post('forbidden');
  const after = ann.room.post('fine');
  assert.equal(await finish(world, codeOf(refused.settled)), 'forbidden');
  assert.equal(await finish(world, after.settled), 1);
  assert.deepEqual(shown(ann.room), ['fine']);
});

test('what cannot be written is refused before it is shown', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const code = (call) => {
    try {
      call();
    } catch (error) {
      return error.code;
    }
    return 'written';
  };
  assert.equal(code(() => ann.room.post('x'.repeat(65_530))), 'too_large');
  assert.equal(code(() => ann.room.post({ text: 3 })), 'bad_argument');
  assert.equal(code(() => ann.room.post({ text: 'x', thread: -1 })), 'bad_argument');
  assert.equal(code(() => ann.room.react(1, '')), 'bad_argument');
  assert.equal(code(() => ann.room.edit('nobody', 'x')), 'not_confirmed');
  const pending = ann.room.post('x');
  assert.equal(code(() => ann.room.edit(pending.id, 'y')), 'not_confirmed');
  await finish(world, pending.settled);
  assert.equal(code(() => ann.room.edit(pending.id, 'y')), 'written');
});

test('fields are merged, one removed, and the application’s own events come with their bytes', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  ann.room.setFields({ status: 'open', tokens: 1 });
  ann.room.setFields({ tokens: 2, status: null });
  assert.deepEqual(ann.room.fields, { tokens: 2 });
  ann.room.emitEvent(Uint8Array.of(1, 2, 3), { version: 7 });
  ann.room.emitEvent({ step: 1 });
  await world.clock.until(() => bob.heard.events.length === 4);
  assert.deepEqual(bob.room.fields, { tokens: 2 });
  assert.deepEqual([...bob.heard.events[2].body], [1, 2, 3]);
  assert.equal(bob.heard.events[2].version, 7);
  assert.deepEqual(JSON.parse(Buffer.from(bob.heard.events[3].body)), { step: 1 });
  assert.deepEqual(bob.heard.messages, []);
});

test('opaque bodies come as the bytes that were given', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  ann.room.emitEvent(Uint8Array.of(0));
  await world.clock.until(() => bob.heard.events.length === 1);
  assert.throws(() => ann.room.stream({ opaque: Uint8Array.of(1) }), { code: 'bad_argument' });
});

test('messages written before the first join are shown, sent in order, and were never doubled', async () => {
  const world = new World();
  world.refuseSockets = true;
  const ann = open(world, 'ann');
  const written = ['a', 'b', 'c'].map((text) => ann.room.post(text));
  assert.deepEqual(shown(ann.room), ['a?', 'b?', 'c?']);
  await world.clock.advance(20_000);
  assert.equal(ann.room.status.queued, 3);
  world.refuseSockets = false;
  await world.clock.until(() => ann.heard.messages.length === 3, 60_000);
  assert.deepEqual(await Promise.all(written.map(({ settled }) => settled)), [1, 2, 3]);
  assert.deepEqual(world.server.log('r').texts, ['a', 'b', 'c']);
});

test('written offline, reloaded offline, written again: all of it arrives, in order, once', async () => {
  const world = new World();
  const profile = new Profile();
  world.refuseSockets = true;
  const first = open(world, 'ann', { profile });
  ['a', 'b'].forEach((text) => first.room.post(text));
  await world.clock.advance(100);
  assert.equal(first.room.status.durable, true);
  first.page.kill();
  const second = open(world, 'ann', { profile });
  second.room.post('c');
  await world.clock.until(() => shown(second.room).length === 3);
  assert.deepEqual(shown(second.room), ['a?', 'b?', 'c?']);
  await world.clock.advance(1_000);
  second.page.kill();
  const third = open(world, 'ann', { profile });
  await world.clock.until(() => shown(third.room).length === 3);
  world.refuseSockets = false;
  third.room.post('d');
  await world.clock.until(() => third.heard.messages.length === 4, 60_000);
  assert.deepEqual(world.server.log('r').texts, ['a', 'b', 'c', 'd']);
  assert.deepEqual(shown(third.room), ['a', 'b', 'c', 'd']);
});

test('another user of the same browser neither sees nor sends what one has written', async () => {
  const world = new World();
  const profile = new Profile();
  world.refuseSockets = true;
  const ann = open(world, 'ann', { profile });
  ann.room.post('secret');
  await world.clock.advance(100);
  ann.page.kill();
  world.refuseSockets = false;
  const bob = await enter(world, 'bob', { profile });
  await world.clock.advance(10_000);
  assert.deepEqual(shown(bob.room), []);
  assert.deepEqual(world.server.log('r').texts, []);
  const back = await enter(world, 'ann', { profile });
  await world.clock.until(() => back.heard.messages.length === 1);
});

test('a page whose token is for another user than it was opened for leaves, and sends nothing', async () => {
  const world = new World();
  const ann = open(world, 'ann', { getToken: () => token('bob') });
  ann.room.post('as ann');
  await world.clock.until(() => ann.heard.left.length === 1);
  assert.deepEqual(world.server.log('r').texts, []);
});

test('two pages of one user adopt what a third left, one of them, once', async () => {
  const world = new World();
  const profile = new Profile();
  world.refuseSockets = true;
  const gone = open(world, 'ann', { profile });
  for (let i = 0; i < 10; i += 1) gone.room.post(`${i}`);
  await world.clock.advance(500);
  gone.page.kill();
  const [left, right] = [open(world, 'ann', { profile }), open(world, 'ann', { profile })];
  await world.clock.advance(100);
  world.refuseSockets = false;
  await world.clock.until(() => left.heard.messages.length === 10 && right.heard.messages.length === 10, 60_000);
  await world.clock.advance(10_000);
  assert.deepEqual(world.server.log('r').texts, [...'0123456789']);
});

test('what a page leaves that dies later is adopted at once, and goes before what was written after it', async () => {
  const world = new World();
  const profile = new Profile();
  world.refuseSockets = true;
  const first = open(world, 'ann', { profile });
  first.room.post('first');
  await world.clock.advance(200);
  const second = open(world, 'ann', { profile });
  second.room.post('second');
  await world.clock.advance(200);
  assert.deepEqual(shown(second.room), ['second?']);
  first.page.kill();
  await world.clock.advance(200);
  assert.deepEqual(shown(second.room), ['first?', 'second?']);
  world.refuseSockets = false;
  await world.clock.until(() => second.heard.messages.length === 2, 60_000);
  assert.deepEqual(world.server.log('r').texts, ['first', 'second']);
  const third = await enter(world, 'ann', { profile });
  world.refuseSockets = true;
  world.breakSockets();
  second.room.post('third');
  await world.clock.advance(200);
  second.page.kill();
  world.refuseSockets = false;
  await world.clock.until(() => third.heard.messages.length === 1, 60_000);
});

test('a rate limit is waited for, and costs nothing but time', async () => {
  const world = new World();
  const log = world.server.log('r');
  log.every = 600;
  const ann = await enter(world, 'ann');
  for (let i = 0; i < 30; i += 1) ann.room.post(`${i}`);
  await world.clock.until(() => ann.heard.messages.length === 30, 60_000);
  assert.deepEqual(log.texts, Array.from({ length: 30 }, (_, i) => `${i}`));
  // A window is tried once; then the client feels its way.
  assert.ok(log.submissions < 30 + 64 + 30, `${log.submissions} submissions`);
});

test('storage that cannot be written holds messages back until it can', async () => {
  const world = new World();
  const log = world.server.log('r');
  const ann = await enter(world, 'ann');
  log.broken = 'storage_unavailable';
  const { settled } = ann.room.post('x');
  await world.clock.advance(10_000);
  assert.deepEqual(shown(ann.room), ['x?']);
  log.broken = '';
  await world.clock.until(() => ann.heard.messages.length === 1);
  assert.equal(await finish(world, settled), 1);
});

test('what finds no room in the replay limit is pulled', async () => {
  const world = new World();
  const log = world.server.log('r');
  const random = seeded(5);
  log.lose = () => random() < 0.3;
  const bob = await enter(world, 'bob');
  for (let i = 0; i < 200; i += 1) {
    log.say('eve', `${i}`);
    await world.clock.advance(20);
  }
  await world.clock.until(() => bob.heard.events.length === 200);
  assert.deepEqual(texts(bob.heard.messages), log.texts);
  assert.equal(bob.heard.syncs.length, 1);
});

test('a page that was away for a while gets what it missed; for too long, a snapshot with the reason', async () => {
  const world = new World();
  const log = world.server.log('r');
  const bob = await enter(world, 'bob');
  world.refuseSockets = true;
  world.breakSockets();
  await world.clock.advance(30_000);
  for (let i = 0; i < 300; i += 1) log.say('eve', `${i}`);
  world.refuseSockets = false;
  await world.clock.until(() => bob.heard.messages.length === 300, 60_000);
  assert.equal(bob.heard.syncs.length, 1);
  world.refuseSockets = true;
  world.breakSockets();
  await world.clock.advance(30_000);
  for (let i = 0; i < 1_500; i += 1) log.say('eve', `later ${i}`);
  world.refuseSockets = false;
  await world.clock.until(() => bob.heard.syncs.length === 2, 60_000);
  assert.equal(bob.heard.syncs[1].reason, 'behind');
  assert.equal(bob.room.messages.length, 50);
  assert.equal(bob.room.messages.at(-1).body.text, 'later 1499');
  assert.equal(bob.room.more, true);
  log.say('eve', 'live');
  await world.clock.until(() => bob.heard.messages.length === 301);
});

test('records behind a compressed snapshot wait for it', async () => {
  const world = new World();
  const log = world.server.log('r');
  for (let i = 0; i < 60; i += 1) log.say('eve', `${i} ${'x'.repeat(100)}`);
  const bob = open(world, 'bob', { browser: { inflate: environment().inflate } });
  bob.room.on('joined', () => {
    for (let i = 0; i < 20; i += 1) log.say('eve', `next ${i}`);
  });
  await world.clock.until(() => bob.heard.messages.length === 20);
  assert.equal(bob.room.messages.length, 70);
  assert.deepEqual(bob.heard.messages.map(({ seq }) => seq), Array.from({ length: 20 }, (_, i) => 61 + i));
});

test('history is paged backwards and joins the list without a hole', async () => {
  const world = new World();
  const log = world.server.log('r');
  for (let i = 0; i < 130; i += 1) log.say('eve', `${i}`);
  const bob = await enter(world, 'bob');
  assert.equal(bob.room.messages.length, 50);
  assert.equal(bob.room.more, true);
  const page = await finish(world, bob.room.history({ limit: 50 }));
  assert.equal(page.messages.length, 50);
  await finish(world, bob.room.history({ limit: 50 }));
  assert.equal(bob.room.more, false);
  assert.deepEqual(texts(bob.room.messages), log.texts);
});

test('a span of the log is replayed, also over a reconnect', async () => {
  const world = new World();
  const log = world.server.log('r');
  for (let i = 0; i < 45; i += 1) log.say('eve', `${i}`);
  const bob = await enter(world, 'bob');
  const seqs = [];
  const replay = async () => {
    for await (const event of bob.room.replay(3, 40)) {
      seqs.push(event.seq);
      if (event.seq !== 12) continue;
      world.server.forget();
      world.breakSockets();
    }
  };
  await finish(world, replay());
  assert.deepEqual(seqs, Array.from({ length: 38 }, (_, i) => i + 3));
});

test('a server restored from a backup gets what its log has lost, and everybody a snapshot', async () => {
  const world = new World();
  const log = world.server.log('r');
  const ann = await enter(world, 'ann');
  await finish(world, ann.room.post('kept').settled);
  const restore = log.backup();
  await finish(world, ann.room.post('lost').settled);
  world.refuseSockets = true;
  world.server.forget();
  world.breakSockets();
  restore();
  ann.room.post('after');
  world.refuseSockets = false;
  await world.clock.until(() => ann.heard.syncs.length === 2, 60_000);
  assert.equal(ann.heard.syncs[1].reason, 'restored');
  await world.clock.until(() => log.texts.length === 2, 60_000);
  assert.deepEqual(log.texts, ['kept', 'after']);
  await world.clock.until(() => shown(ann.room).length === 2);
});

test('a copied profile loses nothing: the second writer gets an origin of its own', async () => {
  const world = new World();
  const profile = new Profile();
  const ann = await enter(world, 'ann', { profile });
  await finish(world, ann.room.post('one').settled);
  world.refuseSockets = true;
  world.breakSockets();
  ann.room.post('both have this');
  await world.clock.advance(500);
  const copy = new Profile();
  for (const { id } of await profile.store.list(JSON.stringify(['ws://server/v1/connect', 'r']))) {
    const { record, items } = await profile.store.claim(id, 'copy');
    await copy.store.put(record, items);
    await profile.store.claim(id, record.claim);
  }
  ann.page.kill();
  const a = open(world, 'ann', { profile });
  const b = open(world, 'ann', { profile: copy });
  await world.clock.advance(500);
  a.room.post('from a');
  b.room.post('from b');
  await world.clock.advance(500);
  world.refuseSockets = false;
  await world.clock.until(() => a.heard.messages.length >= 3 && b.heard.messages.length >= 3, 60_000).catch(() => {});
  await world.clock.advance(10_000);
  assert.deepEqual(world.server.log('r').texts.toSorted(), ['both have this', 'from a', 'from b', 'one']);
  assert.equal(a.room.status.queued + b.room.status.queued, 0);
});

test('what is written is durable when it is stored and not before, and from then on a page may be killed', async () => {
  const world = new World();
  const profile = new Profile();
  profile.delay = 200;
  world.refuseSockets = true;
  const first = open(world, 'ann', { profile });
  const told = [];
  first.room.on('status', ({ queued, durable }) => told.push([queued, durable]));
  for (const text of ['a', 'b']) {
    first.room.post(text);
    assert.equal(first.room.status.durable, false);
    await world.clock.until(() => first.room.status.durable, 2_000);
  }
  first.page.kill();
  assert.deepEqual(told.slice(-3), [[1, true], [2, false], [2, true]]);
  const second = open(world, 'ann', { profile });
  await world.clock.until(() => shown(second.room).length === 2, 2_000);
  assert.deepEqual(shown(second.room), ['a?', 'b?']);
});

test('storage that fails costs durability alone', async () => {
  const world = new World();
  const profile = new Profile();
  const ann = await enter(world, 'ann', { profile });
  await finish(world, ann.room.post('one').settled);
  assert.equal(ann.room.status.durable, true);
  profile.failure = new Error('QuotaExceededError');
  await finish(world, ann.room.post('two').settled);
  assert.equal(ann.room.status.durable, false);
  await finish(world, ann.room.post('three').settled);
  assert.deepEqual(world.server.log('r').texts, ['one', 'two', 'three']);
});

test('a streamed message grows for the others, and for who comes later, and ends as one message', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const stream = ann.room.stream({ meta: { model: 'x' } });
  stream.write('Hello');
  await world.clock.until(() => bob.room.messages[0]?.body.text === 'Hello');
  assert.equal(bob.room.messages[0].streaming, true);
  assert.deepEqual(bob.heard.messages, []);
  const eve = await enter(world, 'eve');
  assert.equal(eve.room.messages[0].body.text, 'Hello');
  stream.write(', wörld ');
  stream.write('✓'.repeat(9_000));
  stream.end();
  await world.clock.until(() => [ann, bob, eve].every(({ heard }) => heard.messages.length === 1));
  for (const { room } of [ann, bob, eve]) {
    assert.equal(room.messages.length, 1);
    assert.equal(room.messages[0].body.text, `Hello, wörld ${'✓'.repeat(9_000)}`);
    assert.equal(room.messages[0].streaming, false);
    assert.deepEqual(room.messages[0].body.meta, { model: 'x' });
  }
  assert.equal(ann.room.messages[0].id, stream.id);
  assert.equal(await finish(world, stream.settled), 1);
});

test('a streamed message survives a restart of the server in the middle of it', async () => {
  const world = new World();
  const ann = await enter(world, 'ann');
  const bob = await enter(world, 'bob');
  const stream = ann.room.stream();
  stream.write('before, ');
  await world.clock.advance(500);
  world.server.forget();
  world.breakSockets();
  stream.write('meanwhile, ');
  await world.clock.until(() => bob.room.messages.some(({ body }) => body.text === 'before, meanwhile, '), 20_000);
  stream.write('after');
  stream.end();
  await world.clock.until(() => bob.heard.messages.length === 1);
  assert.deepEqual(world.server.log('r').texts, ['before, meanwhile, after']);
});

test('a streamed message that is ended survives its page; one that is not stays as far as it came', async () => {
  const world = new World();
  const profile = new Profile();
  const bob = await enter(world, 'bob');
  const ann = await enter(world, 'ann', { profile });
  const cut = ann.room.stream();
  cut.write('half a sent');
  await world.clock.advance(500);
  const whole = ann.room.stream();
  world.refuseSockets = true;
  world.breakSockets();
  whole.write('whole');
  whole.end();
  await world.clock.advance(1_000);
  ann.page.kill();
  await world.clock.advance(15_000);
  world.refuseSockets = false;
  await enter(world, 'ann', { profile });
  await world.clock.until(() => bob.heard.messages.length === 2, 60_000).catch(() => {});
  const [first, second] = bob.heard.messages.filter(({ body }) => body.text !== '');
  assert.deepEqual([first.body.text, first.incomplete], ['half a sent', true]);
  assert.deepEqual([second.body.text, second.incomplete], ['whole', false]);
});

test('a stream whose page was away too long leaves what had come, and then comes whole', async () => {
  const world = new World();
  const bob = await enter(world, 'bob');
  const ann = await enter(world, 'ann');
  const stream = ann.room.stream();
  stream.write('half ');
  await world.clock.advance(500);
  const ended = ann.room.stream();
  ended.write('another');
  await world.clock.advance(500);
  world.refuseSockets = true;
  world.breakSockets();
  stream.write('and half');
  ended.end();
  await world.clock.advance(20_000);
  world.refuseSockets = false;
  assert.equal(await finish(world, ended.settled, 60_000), 3);
  stream.end();
  assert.equal(await finish(world, stream.settled), 4);
  assert.deepEqual(texts(bob.heard.messages), ['half ', 'another', 'another', 'half and half']);
  assert.deepEqual(bob.heard.messages.map(({ incomplete }) => incomplete), [true, true, false, false]);
  await world.clock.until(() => ann.room.messages.length === 4);
  assert.deepEqual(shown(ann.room), shown(bob.room));
});

test('the same room without its log has none', async () => {
  const world = new World();
  const session = connect({ url: 'ws://server', transport: 'websocket', environment: world.browser() });
  const room = await finish(world, session.join({ room: 'r', token: token('ann'), log: false }));
  assert.deepEqual(room.messages, []);
  assert.throws(() => room.post('x'), { code: 'bad_argument' });
  assert.equal(world.server.texts.find(({ type }) => type === 'join').follow, undefined);
});

test('a page that is killed at whatever moment: what it had stored is sent by the next one, once, in order', async () => {
  for (let at = 0; at < 900; at += 3) {
    const world = new World({ seed: at });
    const log = world.server.log('r');
    const profile = new Profile();
    profile.delay = 60;
    const first = open(world, 'ann', { profile });
    const script = new Map([[0, ['a', 'forbidden', 'b']], [150, ['c']], [180, ['forbidden']], [240, ['d', 'forbidden', 'e']], [420, ['f']]]);
    const written = [];
    let now = 0;
    for (const [when, posts] of script) {
      if (when > at) break;
      await world.clock.advance(when - now);
      now = when;
      posts.forEach((text) => first.room.post(text));
      written.push(...posts.map((text) => ({ text, when })));
    }
    await world.clock.advance(at - now);
    first.page.kill();
    const second = open(world, 'ann', { profile });
    second.room.post('last');
    await world.clock.advance(1_000);
    await world.clock.until(() => second.room.active && second.room.status.queued === 0, 60_000);
    const expected = written.filter(({ text }) => text !== 'forbidden');
    const { texts: said } = log;
    assert.equal(said.at(-1), 'last', `killed after ${at} ms: ${said}`);
    assert.deepEqual(said.slice(0, -1), expected.slice(0, said.length - 1).map(({ text }) => text), `killed after ${at} ms`);
    // Opening the storage, adopting, and one transaction before its own.
    const kept = expected.filter(({ when }) => when <= at - 5 * profile.delay);
    assert.ok(said.length - 1 >= kept.length, `killed after ${at} ms: ${said}`);
  }
});

const FIRST = Number(process.env.FIRST ?? 1);
const SEEDS = Number(process.env.SEEDS ?? 40);

test(`pages killed, networks broken, servers restarted at any moment: once, in order (${SEEDS} seeds)`, async () => {
  for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
    try {
      await chaos(seed);
    } catch (error) {
      throw new Error(`seed ${seed}`, { cause: error });
    }
  }
});

/** A user whose only page is killed and opened again, one with two pages, and readers; everything goes wrong for a minute. */
async function chaos(seed) {
  const world = new World({ seed });
  const random = seeded(seed * 7_919);
  const chance = (share) => random() < share;
  const log = world.server.log('r');
  log.every = chance(0.3) ? 50 : 0;
  log.resyncEvents = chance(0.5) ? 20 : 1_000;
  let lossy = chance(0.5) ? 0.1 : 0;
  log.lose = () => chance(lossy);
  const writers = ['ann', 'bob', 'bob'].map((user, i) => {
    const profile = new Profile();
    profile.delay = [2, 40, 300][Math.floor(random() * 3)];
    return { user, name: `${user}${i}`, profile, page: open(world, user, { profile }), count: 0, written: [] };
  });
  const reader = open(world, 'eve');
  for (let step = 0; step < 150; step += 1) {
    for (const writer of writers) {
      if (chance(0.4)) {
        const text = `${writer.name} ${(writer.count += 1)}`;
        writer.written.push({ text, at: world.clock.now, kept: true });
        writer.page.room.post(text);
      }
      if (chance(0.1)) writer.page.room.post('forbidden');
      if (!chance(0.02)) continue;
      writer.page.page.kill();
      // What had no time to be stored goes with the page.
      const kept = world.clock.now - 4 * writer.profile.delay - 10;
      for (const each of writer.written) if (each.at > kept && !log.texts.includes(each.text)) each.kept = false;
      writer.page = open(world, writer.user, { profile: writer.profile });
    }
    if (chance(0.03)) world.breakSockets();
    if (chance(0.03)) world.refuseSockets = !world.refuseSockets;
    if (chance(0.01)) {
      world.server.forget();
      world.breakSockets();
    }
    log.broken = chance(0.05) ? 'storage_unavailable' : '';
    await world.clock.advance(Math.floor(random() * 400));
  }
  world.refuseSockets = false;
  log.broken = '';
  lossy = 0;
  const quiet = () => writers.every(({ page }) => page.room.active && page.room.status.queued === 0);
  await world.clock.until(quiet, 300_000);
  const pages = [reader, ...writers.map(({ page }) => page)];
  await world.clock.until(() => pages.every(({ room }) => room.log.seq === log.events.length), 300_000);
  await world.clock.advance(10_000);
  const { texts: said } = log;
  assert.equal(new Set(said).size, said.length, 'nothing is doubled');
  assert.ok(!said.includes('forbidden'));
  for (const { name, written } of writers) {
    const mine = said.filter((text) => text.startsWith(`${name} `));
    const numbers = mine.map((text) => Number(text.split(' ')[1]));
    assert.deepEqual(numbers, numbers.toSorted((a, b) => a - b), `${name} is in order`);
    const missing = written.filter(({ text, kept }) => kept && !mine.includes(text));
    assert.deepEqual(missing, [], `nothing of ${name} is lost`);
  }
  for (const { room, heard } of pages) {
    const seqs = heard.events.map(({ seq }) => seq);
    assert.deepEqual(seqs, seqs.toSorted((a, b) => a - b), 'events come in order');
    assert.equal(new Set(seqs).size, seqs.length, 'and once');
    if (heard.syncs.length <= 1) assert.equal(new Set(seqs.map((seq, i) => seq - i)).size <= 1, true, 'and without holes');
    assert.deepEqual(heard.left, [], 'nobody has left');
    assert.equal(room.messages.at(-1)?.seq, log.events.length, 'all is read');
    const shownSeqs = room.messages.map(({ seq }) => seq);
    assert.deepEqual(shownSeqs, shownSeqs.toSorted((a, b) => a - b));
    assert.ok(room.messages.every(({ state }) => state === 'confirmed'));
  }
}
