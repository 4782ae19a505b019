// Several tabs of one user, one connection: tabs, browser, network and server are imagined, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { Browser } from './fake-tabs.js';
import { World } from './fake-network.js';

const token = (user) => `x.${Buffer.from(JSON.stringify({ iss: 'k', sub: user })).toString('base64url')}.x`;

/** A tab of `browser` in `room`, with all it hears. */
function open(browser, user, { room: name = 'r', log = false, transport = 'websocket', ...options } = {}) {
  const tab = browser.open();
  const session = connect({ url: 'ws://server', transport, environment: tab.environment, getToken: () => token(user), ...options });
  const room = session.open({ room: name, log });
  const heard = [];
  const entry = { tab, session, room, heard, errors: [], rejoined: 0, left: null };
  room.on('data', (event) => heard.push(event));
  room.on('rejoined', () => (entry.rejoined += 1));
  room.on('left', ({ reason }) => (entry.left = reason));
  session.on('error', (error) => entry.errors.push(error.code));
  return entry;
}

async function enter(browser, user, options) {
  const entry = open(browser, user, options);
  await browser.world.clock.until(() => entry.room.active);
  return entry;
}

const texts = ({ heard }) => heard.map(({ data }) => data);
const leads = ({ session }) => session.stats().tabs.leads;

test('three tabs have one connection, one session and one member', async () => {
  const world = new World();
  const browser = new Browser(world);
  const [one, two, three] = [await enter(browser, 'ann'), await enter(browser, 'ann'), await enter(browser, 'ann')];
  const bob = await enter(new Browser(world), 'bob');
  assert.equal(browser.openSockets, 1);
  assert.equal(world.server.sessions.size, 2);
  assert.deepEqual([one, two, three].map(leads), [true, false, false]);
  assert.equal(one.session.stats().tabs.count, 3);
  assert.equal(three.room.self.member, one.room.self.member);
  assert.equal(bob.room.members.size, 1);
  for (const [i, tab] of [one, two, three].entries()) tab.room.send(`from ${i}`);
  bob.room.send('from bob');
  await world.clock.until(() => bob.heard.length === 3 && [one, two, three].every(({ heard }) => heard.length === 3));
  assert.deepEqual(texts(bob), ['from 0', 'from 1', 'from 2']);
  assert.deepEqual(texts(two).sort(), ['from 0', 'from 2', 'from bob']);
  assert.equal(two.heard.find(({ data }) => data === 'from 0').sender.user, 'ann');
  assert.deepEqual([one, two, three].map(({ session }) => session.state), ['connected', 'connected', 'connected']);
});

test('a promise of send resolves in the tab that sent, wherever the connection is', async () => {
  const world = new World();
  const browser = new Browser(world);
  const [, two] = [await enter(browser, 'ann'), await enter(browser, 'ann')];
  let settled = false;
  two.room.send('hello').then(() => (settled = true));
  await world.clock.until(() => settled, 1_000);
});

for (const [how, end] of [
  ['is closed', ({ session, tab }) => { session.close(); tab.kill(); }],
  ['is killed', ({ tab }) => tab.kill()],
]) {
  test(`the leading tab ${how} in mid-stream: the others go on in the same session, complete, once, in order`, async () => {
    const world = new World();
    const browser = new Browser(world);
    const tabs = [await enter(browser, 'ann'), await enter(browser, 'ann'), await enter(browser, 'ann')];
    const bob = await enter(new Browser(world), 'bob');
    const sent = { two: [], bob: [] };
    for (let i = 0; i < 100; i += 1) {
      if (i === 50) end(tabs[0]);
      tabs[1].room.send(`two ${i}`);
      bob.room.send(`bob ${i}`);
      sent.two.push(`two ${i}`);
      sent.bob.push(`bob ${i}`);
      await world.clock.advance(10);
    }
    await world.clock.until(() => bob.heard.length === 100 && tabs[1].heard.length === 100, 5_000);
    await world.clock.advance(1_000);
    assert.deepEqual(texts(bob), sent.two);
    assert.deepEqual(texts(tabs[1]), sent.bob);
    assert.deepEqual(texts(tabs[2]).filter((text) => text.startsWith('bob')), sent.bob);
    assert.deepEqual(texts(tabs[2]).filter((text) => text.startsWith('two')), sent.two);
    assert.deepEqual(tabs.map(({ rejoined }) => rejoined), [0, 0, 0]);
    assert.equal(world.server.sessions.size, 2);
    assert.equal(browser.openSockets, 1);
  });
}

/** What a receiver heard of one sender and stream: contiguous, and from where to where. */
function spanOf(numbers, what) {
  numbers.forEach((number, i) => assert.equal(number, numbers[0] + i, `${what}: ${numbers}`));
  return { from: numbers[0] ?? null, to: numbers.at(-1) ?? null };
}

/** Numbers heard, by sender and stream, without what makes some messages long. */
function numbersOf(heard) {
  const lists = new Map();
  for (const { data, stream } of heard) {
    const [, sender, number] = /^(\w+) (\d+)/.exec(data);
    const key = `${sender} ${stream}`;
    if (!lists.has(key)) lists.set(key, []);
    lists.get(key).push(Number(number));
  }
  return lists;
}

/** Two to five tabs that come, write, go, die, freeze and hide at random, and somebody elsewhere who talks with them. */
class Chaos {
  constructor(seed) {
    this.world = new World({ seed });
    this.random = this.world.random;
    this.browser = new Browser(this.world);
    this.tabs = [];
    this.names = 0;
    this.transport = seed % 4 === 0 ? 'auto' : 'websocket';
    this.sessions = new Set();
    this.outages = 0;
  }

  pick(list) {
    return list[Math.floor(this.random() * list.length)];
  }

  get living() {
    return this.tabs.filter(({ tab, closed }) => tab.alive && !closed);
  }

  async run(steps) {
    const { world } = this;
    this.bob = await enter(new Browser(world), 'bob');
    Object.assign(this.bob, { name: 'bob', sent: new Map() });
    this.come();
    await world.clock.until(() => this.tabs[0].room.active);
    this.come();
    for (let i = 0; i < steps; i += 1) {
      await world.clock.advance(Math.floor(this.random() * 60));
      this.write(this.bob);
      for (const tab of this.living) if (!tab.tab.frozen && tab.room.active && this.random() < 0.7) this.write(tab);
      if (this.random() < 0.08) this.disturb();
      for (const id of world.server.sessions.keys()) {
        if (!this.sessions.has(id)) this.note(`session ${id}`);
        this.sessions.add(id);
      }
    }
    for (const { tab } of this.tabs) if (tab.frozen) tab.thaw();
    await world.clock.advance(12_000);
    this.check();
  }

  come() {
    this.note(`come ${this.names + 1}`);
    const entry = open(this.browser, 'ann', { transport: this.transport });
    this.tabs.push(Object.assign(entry, { name: `t${(this.names += 1)}`, sent: new Map(), wasFrozen: false, closed: false }));
  }

  write(entry) {
    const stream = Math.floor(this.random() * 2);
    const number = (entry.sent.get(stream) ?? 0) + 1;
    const long = this.random() < 0.05 ? ' '.repeat(20_000 + 30_000 * this.random()) : '';
    try {
      entry.room.send(`${entry.name} ${number}${long}`, { stream });
      entry.sent.set(stream, number);
    } catch (error) {
      if (error.code !== 'buffer_full') throw error;
    }
  }

  /** For who looks for the reason of a failure. */
  note(what) {
    if (process.env.NOTES) console.error(`${this.world.clock.now} ${what}`);
  }

  disturb() {
    const { living, world } = this;
    const leader = living.find(leads);
    const any = this.pick(living);
    const what = this.random();
    if (what < 0.25 && living.length < 5) this.come();
    else if (what < 0.4 && living.length > 1 && leader) this.close(leader);
    else if (what < 0.55 && living.length > 1 && leader) this.kill(leader);
    else if (what < 0.62 && living.length > 1) this.close(any);
    else if (what < 0.7 && living.length > 1) this.kill(any);
    else if (what < 0.78) this.freeze(this.random() < 0.5 && leader ? leader : any);
    else if (what < 0.9) this.browser.look(any.tab);
    else if (what < 0.95) world.breakSockets();
    else this.silence();
  }

  close(entry) {
    // A page that is stopped says no goodbye.
    if (entry.tab.frozen) return this.kill(entry);
    this.note(`close ${entry.name}`);
    entry.session.close();
    entry.closed = true;
    entry.tab.kill();
  }

  kill(entry) {
    this.note(`kill ${entry.name} ${leads(entry)}`);
    entry.tab.kill();
  }

  freeze(entry) {
    if (entry.tab.frozen) return;
    this.note(`freeze ${entry.name} ${leads(entry)}`);
    entry.wasFrozen = true;
    entry.tab.freeze({ warned: this.random() < 0.5 });
    this.world.clock.setTimeout(() => entry.tab.thaw(), 200 + 9_000 * this.random());
  }

  silence() {
    this.world.socketsSilent = true;
    this.world.clock.setTimeout(() => (this.world.socketsSilent = false), 2_000 * this.random());
  }

  check() {
    const { world, bob, living } = this;
    const everybody = [bob, ...living];
    for (const { name, session, tab } of this.tabs) {
      const open = tab.sockets.filter((socket) => socket.readyState === 1).length;
      this.note(`${name} ${session.state} ${JSON.stringify(session.stats().tabs)} ${open} open`);
    }
    for (const entry of living) {
      assert.equal(entry.left, null, `${entry.name} was put out: ${entry.left}`);
      assert.equal(entry.session.state, 'connected', entry.name);
      if (!entry.wasFrozen) assert.equal(entry.rejoined, 0, `${entry.name} lost its session`);
      assert.deepEqual(entry.errors, []);
    }
    assert.equal(living.filter(leads).length, 1, 'one leader');
    assert.equal(world.server.sessions.size, 2, 'one session for all tabs');
    assert.equal(this.browser.openSockets, 1, 'one connection');
    for (const receiver of everybody) {
      const heard = numbersOf(receiver.heard);
      for (const sender of [bob, ...this.tabs]) {
        if (sender === receiver) continue;
        for (const [stream, last] of sender.sent) {
          const what = `${receiver.name} of ${sender.name} ${stream}`;
          const { from, to } = spanOf(heard.get(`${sender.name} ${stream}`) ?? [], what);
          // Who was frozen for long may have been left behind, and has been told.
          if (receiver.rejoined > 0) continue;
          if (receiver === bob && from !== null) assert.equal(from, 1, `${what} from the beginning`);
          // A tab that was killed may not have got its last words out.
          if (everybody.includes(sender)) assert.ok(to === last || (receiver !== bob && to === null), `${what}: ${to} of ${last}`);
        }
      }
    }
    return everybody;
  }
}

const SEEDS = Number(process.env.SEEDS ?? 200);
const FIRST = Number(process.env.SEED ?? 1);

test(`tabs that come, go, die, freeze and hide: ${SEEDS} seeds`, async () => {
  for (let seed = FIRST; seed < FIRST + SEEDS; seed += 1) {
    try {
      await new Chaos(seed).run(150);
    } catch (error) {
      error.message = `seed ${seed}: ${error.message}`;
      throw error;
    }
  }
});
