// From one pipe to the other and back, in virtual time: how soon, how often, and that nothing is lost, doubled or reordered.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { World } from './fake-network.js';

const token = (user) => JSON.stringify({ user, name: user });
const EVERY_MS = 50;

/** Two in a room who each say a number every 50 ms; the second is on the WebSocket alone, which does not fail. */
class Talk {
  world = new World();
  said = [0, 0];
  #talking = false;

  static async begin() {
    const talk = new Talk();
    talk.users = [await talk.#enter('ann', {}), await talk.#enter('bob', { transport: 'websocket' })];
    await talk.world.clock.until(() => talk.ann.session.rung === 'udp');
    talk.resume();
    await talk.pass(3_000);
    return talk;
  }

  get ann() {
    return this.users[0];
  }

  get switches() {
    return this.ann.session.stats().counters.pipeChanges;
  }

  async #enter(user, options) {
    const session = connect({ url: 'ws://server', environment: this.world.browser(), ...options });
    const joining = session.join({ room: 'r', token: token(user) });
    await this.world.clock.advance(500);
    const room = await joining;
    const heard = [];
    room.on('data', ({ data }) => heard.push({ at: this.world.clock.now, number: Number(data) }));
    return { session, room, heard };
  }

  resume() {
    this.#talking = true;
    this.#say();
  }

  stop() {
    this.#talking = false;
  }

  #say() {
    if (!this.#talking) return;
    this.users.forEach(({ room }, i) => room.send(String((this.said[i] += 1))));
    this.world.clock.setTimeout(() => this.#say(), EVERY_MS);
  }

  pass(ms) {
    return this.world.clock.advance(ms);
  }

  /** The longest time beyond the usual in which one heard nothing of the other, from `from` on. */
  stall(from) {
    const gaps = this.users.map(({ heard }) => {
      const times = [...heard.map(({ at }) => at).filter((at) => at > from), this.world.clock.now];
      return Math.max(...times.map((at, i) => at - (times[i - 1] ?? from)));
    });
    return Math.max(...gaps) - EVERY_MS;
  }

  /** Lets everything arrive, and checks that it did: complete, once, in order. */
  async check() {
    this.stop();
    await this.pass(5_000);
    this.users.forEach(({ heard, session }, i) => {
      assert.deepEqual(heard.map(({ number }) => number), Array.from({ length: this.said[1 - i] }, (_, n) => n + 1));
      const { laneGaps, badFrames, sessionsLost } = session.stats().counters;
      assert.deepEqual({ laneGaps, badFrames, sessionsLost }, { laneGaps: 0, badFrames: 0, sessionsLost: 0 });
    });
  }
}

test('frames go over the WebSocket within 500 ms of the last that the data channel brought', async (t) => {
  const talk = await Talk.begin();
  const from = talk.world.clock.now;
  talk.world.peersSilent = true;
  await talk.pass(2_500);
  const stall = talk.stall(from);
  t.diagnostic(`longest stall: ${stall} ms`);
  assert.ok(stall <= 500, `${stall} ms`);
  assert.equal(talk.ann.session.rung, 'websocket');
  await talk.check();
});

test('on a long path, too: what is not acknowledged goes over the WebSocket before the data channel is suspected', async (t) => {
  const talk = await Talk.begin();
  talk.world.latency = 90;
  await talk.pass(10_000);
  const from = talk.world.clock.now;
  talk.world.peersSilent = true;
  let heardAt = 0;
  talk.users[1].room.on('data', () => (heardAt ||= talk.world.clock.now));
  // What had passed the silence before it began.
  await talk.pass(100);
  heardAt = 0;
  await talk.world.clock.until(() => heardAt > 0, 1_000);
  assert.equal(talk.ann.session.rung, 'udp', 'not suspected yet');
  t.diagnostic(`heard again after ${heardAt - from} ms`);
  assert.ok(heardAt - from <= 500, `${heardAt - from} ms`);
  // The lane goes on in order, and what the server has is not sent a third time.
  await talk.world.clock.until(() => talk.ann.session.rung === 'websocket', 2_000);
  assert.ok([...talk.world.server.sessions.values()].every(({ duplicates }) => duplicates < 10));
  talk.world.peersSilent = false;
  await talk.pass(20_000);
  await talk.check();
});

test('an ATTACHED that comes behind later acknowledgements ends no session', async () => {
  const talk = await Talk.begin();
  talk.world.server.answersLate = 600;
  talk.world.peersSilent = true;
  await talk.pass(400);
  // The ATTACH is there; what had been waiting on the data channel comes behind it, and is acknowledged.
  talk.world.peersSilent = false;
  await talk.world.clock.until(() => talk.ann.session.rung === 'websocket', 1_000);
  talk.world.server.answersLate = 0;
  await talk.check();
});

test('a doubt that is relieved moves nothing', async () => {
  const talk = await Talk.begin();
  const before = talk.switches;
  talk.world.peersSilent = true;
  await talk.pass(160);
  talk.world.peersSilent = false;
  await talk.pass(3_000);
  assert.equal(talk.switches, before);
  assert.equal(talk.ann.session.rung, 'udp');
  await talk.check();
});

test('a data channel that comes back is used again when it has proven itself', async () => {
  const talk = await Talk.begin();
  talk.world.peersSilent = true;
  await talk.pass(1_500);
  assert.equal(talk.ann.session.rung, 'websocket');
  talk.world.peersSilent = false;
  const back = talk.world.clock.now;
  await talk.world.clock.until(() => talk.ann.session.rung === 'udp', 2_000);
  const took = talk.world.clock.now - back;
  assert.ok(took >= 1_000, `after ${took} ms`);
  assert.equal(talk.world.peers.length, 1, 'the same peer connection');
  assert.equal(talk.stall(back) <= 200, true, `${talk.stall(back)} ms`);
  await talk.check();
});

test('a spike of two seconds loses, doubles and reorders nothing', async () => {
  const talk = await Talk.begin();
  const from = talk.world.clock.now;
  talk.world.latency = 2_000;
  await talk.pass(100);
  talk.world.latency = 10;
  await talk.pass(10_000);
  assert.ok(talk.stall(from) < 2_200, `${talk.stall(from)} ms`);
  await talk.check();
});

test('a channel that comes and goes every 700 ms is not followed', async (t) => {
  const talk = await Talk.begin();
  const before = talk.switches;
  const from = talk.world.clock.now;
  for (let i = 0; i < 86; i += 1) {
    talk.world.peersSilent = i % 2 === 0;
    await talk.pass(700);
  }
  const switches = talk.switches - before;
  t.diagnostic(`${switches} switches in a minute, longest stall ${talk.stall(from)} ms`);
  assert.ok(switches <= 2, `${switches}`);
  assert.ok(talk.stall(from) <= 500, `${talk.stall(from)} ms`);
  await talk.check();
});

test('a channel that fails again after each proof is used ever more rarely', async (t) => {
  const talk = await Talk.begin();
  const before = talk.switches;
  for (let i = 0; i < 60; i += 1) {
    talk.world.peersSilent = true;
    await talk.pass(600);
    talk.world.peersSilent = false;
    await talk.pass(2_400);
  }
  const switches = talk.switches - before;
  t.diagnostic(`${switches} switches in three minutes`);
  assert.ok(switches <= 14, `${switches}`);
  await talk.check();
});

test('who only listens is told by the server that something is missing, and has it by then', async (t) => {
  const talk = await Talk.begin();
  talk.stop();
  await talk.pass(1_000);
  talk.world.peersSilent = true;
  talk.users[1].room.send(String((talk.said[1] += 1)));
  const from = talk.world.clock.now;
  await talk.pass(290);
  [...talk.world.server.sessions.values()][0].doubt();
  await talk.world.clock.until(() => talk.ann.heard.at(-1)?.number === talk.said[1], 20);
  assert.equal(talk.ann.session.rung, 'udp', 'not suspected yet');
  await talk.world.clock.until(() => talk.ann.session.rung === 'websocket', 400);
  t.diagnostic(`moved after ${talk.world.clock.now - from} ms`);
  await talk.check();
});

test('without a WebSocket a suspected channel is kept, and a new one is opened at once', async () => {
  const talk = await Talk.begin();
  talk.world.refuseSockets = true;
  talk.world.sockets[0].drop(1006);
  await talk.pass(10_000);
  talk.world.peersSilent = true;
  const from = talk.world.clock.now;
  const opened = talk.world.sockets.length;
  await talk.world.clock.until(() => talk.world.sockets.length > opened, 400);
  talk.world.peersSilent = false;
  await talk.pass(1_000);
  assert.equal(talk.ann.session.rung, 'udp');
  assert.equal(talk.ann.session.state, 'connected');
  assert.ok(talk.stall(from) <= 600, `${talk.stall(from)} ms`);
  talk.world.refuseSockets = false;
  await talk.check();
});

test('where both are dead a second WebSocket is opened beside the silent one, and takes over', async (t) => {
  const talk = await Talk.begin();
  talk.world.backsOff = true;
  const from = talk.world.clock.now;
  talk.world.sockets[0].isLost = true;
  talk.world.peers[0].isLost = true;
  await talk.pass(10_000);
  t.diagnostic(`longest stall: ${talk.stall(from)} ms`);
  assert.ok(talk.stall(from) <= 2_000 + 4 * 20, `${talk.stall(from)} ms`);
  assert.equal(talk.ann.session.state, 'connected');
  await talk.world.clock.until(() => talk.ann.session.rung === 'udp', 30_000);
  await talk.check();
});

test('the server closes the WebSocket that was replaced, which does not end the session', async () => {
  const talk = await Talk.begin();
  const [, first] = talk.world.sockets;
  const errors = [];
  talk.users[1].session.on('error', ({ code }) => errors.push(code));
  first.isLost = true;
  await talk.world.clock.until(() => talk.world.sockets.length > 2, 3_000);
  // It still hears, and is told before the new one is.
  first.drop(4409, 'replaced');
  await talk.pass(3_000);
  assert.deepEqual([errors, talk.users[1].session.state], [[], 'connected']);
  await talk.check();
});

test('a second WebSocket is not needed when the first one speaks again', async () => {
  const talk = await Talk.begin();
  talk.world.socketsSilent = true;
  const before = talk.world.sockets.length;
  await talk.world.clock.until(() => talk.world.sockets.length > before, 3_000);
  // It would open after a second if it were left to.
  talk.world.backsOff = true;
  await talk.pass(50);
  talk.world.socketsSilent = false;
  await talk.pass(2_000);
  assert.equal(talk.world.sockets.filter((socket) => socket.readyState === 1).length, 2);
  assert.equal(talk.world.sockets[1].readyState, 1);
  await talk.check();
});

for (const seconds of [1, 5, 20]) {
  test(`after ${seconds} s without any network frames flow again within 2 s and four round trips`, async (t) => {
    const talk = await Talk.begin();
    talk.world.backsOff = true;
    talk.world.sockets[1].isLost = false;
    talk.world.socketsSilent = talk.world.peersSilent = true;
    await talk.pass(seconds * 1_000);
    talk.world.socketsSilent = talk.world.peersSilent = false;
    const from = talk.world.clock.now;
    await talk.pass(15_000);
    const stall = talk.stall(from);
    t.diagnostic(`longest stall after the network was back: ${stall} ms`);
    assert.ok(stall <= 2_000 + 4 * 20, `${stall} ms`);
    await talk.check();
  });
}

for (const hang of [1, 2]) {
  test(`the same where the browser gives ${hang} new WebSockets connections that hang (LAD3)`, async () => {
    const stalls = [];
    for (let wait = 0; wait < 8_000; wait += 500) {
      const talk = await Talk.begin();
      talk.world.backsOff = true;
      talk.world.socketsSilent = talk.world.peersSilent = true;
      await talk.pass(12_000 + wait);
      talk.world.socketsSilent = talk.world.peersSilent = false;
      talk.world.hang = hang;
      const from = talk.world.clock.now;
      await talk.pass(15_000);
      stalls.push(talk.stall(from));
      await talk.check();
    }
    const most = 1_000 + 750 * hang;
    assert.ok(Math.max(...stalls) <= most, `${stalls.join(', ')} ms`);
  });
}

test('where all WebSockets hang although HTTP is answered few are opened', async () => {
  const talk = await Talk.begin();
  talk.world.socketsSilent = talk.world.peersSilent = true;
  await talk.pass(10_000);
  const before = talk.world.sockets.length;
  talk.world.hang = Infinity;
  talk.world.socketsSilent = false;
  await talk.pass(60_000);
  const opened = talk.world.sockets.length - before;
  assert.ok(opened < 60, `${opened} in a minute, by two pages`);
});

test('when the network is said to be back, what has been silent is opened anew at once', async () => {
  const talk = await Talk.begin();
  talk.world.backsOff = true;
  talk.world.forgetMappings();
  talk.world.socketsSilent = true;
  await talk.pass(5_300);
  talk.world.socketsSilent = false;
  const from = talk.world.clock.now;
  await talk.pass(10_000);
  assert.ok(talk.stall(from) <= 2_000, `${talk.stall(from)} ms`);
  await talk.check();
});

test('a channel whose ordered half waits for its next retry is left, and not used again before that has answered', async () => {
  const talk = await Talk.begin();
  const reliable = talk.world.peers[0].channels.get(0);
  const from = talk.world.clock.now;
  reliable.isStuck = true;
  await talk.pass(6_000);
  assert.equal(talk.ann.session.rung, 'websocket');
  assert.ok(talk.stall(from) <= 2_000 + 4 * 20, `${talk.stall(from)} ms`);
  assert.equal(talk.switches, 2);
  reliable.isStuck = false;
  await talk.world.clock.until(() => talk.ann.session.rung === 'udp', 2_500);
  await talk.check();
});

test('a link that is down at this end: every attempt fails at once, and the session goes on soon after the link is back', async () => {
  for (const away of [1_000, 5_000, 9_000]) {
    const talk = await Talk.begin();
    talk.world.http = false;
    talk.world.refuseSockets = true;
    talk.world.breakSockets();
    talk.world.failPeers();
    await talk.pass(away);
    talk.world.http = true;
    talk.world.refuseSockets = false;
    const tried = talk.world.sockets.length;
    assert.ok(tried <= 2 + 2 * (4 + away / 4_000), `${tried} attempts: Firefox lets the next one wait for each`);
    const from = talk.world.clock.now;
    await talk.pass(2_000);
    assert.ok(talk.stall(from) <= 1_500, `${talk.stall(from)} ms after ${away}`);
    await talk.check();
  }
});

for (const [what, say] of [
  ['the browser says that there is a network', ({ listeners }) => listeners.get('online')()],
  ['the page is looked at', ({ listeners }) => listeners.get('visibilitychange')()],
  ['the network is another one', ({ listeners }) => listeners.get('change')()],
]) {
  test(`a WebSocket is opened at once when ${what}`, async (t) => {
    const page = { listeners: new Map() };
    const listener = { addEventListener: (name, call) => page.listeners.set(name, call) };
    const navigator = Object.getOwnPropertyDescriptor(globalThis, 'navigator');
    globalThis.addEventListener = listener.addEventListener;
    globalThis.document = { ...listener, visibilityState: 'visible' };
    Object.defineProperty(globalThis, 'navigator', { value: { connection: listener }, configurable: true });
    t.after(() => {
      delete globalThis.addEventListener;
      delete globalThis.document;
      if (navigator) Object.defineProperty(globalThis, 'navigator', navigator);
      else delete globalThis.navigator;
    });
    const talk = await Talk.begin();
    talk.world.refuseSockets = true;
    talk.world.breakSockets();
    await talk.pass(20_000);
    talk.world.refuseSockets = false;
    const open = () => talk.world.sockets.filter((socket) => socket.readyState === 1).length;
    assert.equal(open(), 0);
    say(page);
    // The listeners are Bob's, who came last.
    await talk.world.clock.until(() => open() === 1, 50);
  });
}
