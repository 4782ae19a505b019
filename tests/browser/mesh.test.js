/**
 * Direct connections between the browsers of a room: lossy data goes from one to the other, and the server has nothing of it.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { NO_NAMESPACES } from './lib/network.js';
import { Stage } from './lib/stage.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const COUNT = 50;
const PARTS = 160;
const PART_BYTES = 131_072;

describe('mesh', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;
  let rooms = 0;

  before(async () => {
    stage = await Stage.open();
  });
  after(() => stage?.close());

  /**
   * A window in a room: `session`, `room`, `inbox` with what came, `peers` with what was told of the others' connections, and
   * all `connections` of the page.
   * @param {string} browser @param {string} user @param {string} room
   * @param {{ peerToPeer?: string, noRelays?: boolean }} [options] @param {string} [url]
   */
  async function enter(browser, user, room, options = {}, url = stage.server.url) {
    const window = await Window.open(stage.browsers[browser], url);
    await window.evaluate(
      async (who, name, { noRelays, peerToPeer }) => {
        const { connect } = await import('/client/index.js');
        const getToken = async () => {
          const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room: name, user: who })}`);
          return (await response.json()).token;
        };
        const connections = [];
        const watched = class extends RTCPeerConnection {
          constructor(...args) {
            super(...args);
            connections.push(this);
          }
        };
        const iceServers = noRelays ? () => [] : undefined;
        const session = connect({ getToken, environment: { RTCPeerConnection: watched }, iceServers, peerToPeer });
        const room = await session.join({ room: name, log: false });
        const inbox = [];
        const peers = [];
        room.on('data', ({ data, sender, seq }) => inbox.push({ from: sender.user, data, seq }));
        room.on('peer', ({ member, state }) => peers.push({ user: member.user, state, at: performance.now() }));
        Object.assign(globalThis, { session, room, inbox, peers, connections });
      },
      user,
      room,
      options,
    );
    return window;
  }

  /** Waits until a window reaches everybody so. @param {Window} window @param {number} others @param {string} state */
  async function reaches(window, others, state) {
    const ask = () => window.evaluate(() => [...globalThis.room.peers.values()].map((peer) => peer.state));
    await until(`all ${others} are reached: ${state}`, async () => (await ask()).join() === Array(others).fill(state).join(), { within: 30_000 });
  }

  /** Messages that the server has been sent. */
  const messages = async (lane = 'lossy') => (await stage.server.metrics()).sum('messages_total', { direction: 'in', lane });

  /** @param {Window} window */
  const rtt = (window) => window.evaluate(() => [...globalThis.room.peers.values()][0].rtt);

  for (const [one, other] of [
    ['chromium', 'chromium'],
    ['firefox', 'firefox'],
    ['chromium', 'firefox'],
  ]) {
    test(`${one} and ${other} are connected directly, and cursors do not go over the server`, async (context) => {
      const room = `direct-${(rooms += 1)}`;
      const started = Date.now();
      const ann = await enter(one, 'ann', room);
      const ben = await enter(other, 'ben', room);
      try {
        await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
        context.diagnostic(`direct ${Date.now() - started} ms after the first began to load the page`);
        const before = await messages();
        const sending = [ann, ben].map((window) => window.evaluate(point, COUNT));
        await Promise.all(sending);
        for (const window of [ann, ben]) {
          await window.until('the cursors of the other are here', (count) => globalThis.inbox.length === count, COUNT);
        }
        // Each shard publishes its counts once a second: these come after what has been sent.
        const reliable = await messages('reliable');
        for (const window of [ann, ben]) await window.evaluate(() => globalThis.room.send('after'));
        await until('the server has counted', async () => (await messages('reliable')) >= reliable + 2);
        assert.equal(await messages(), before, 'lossy messages at the server');
        context.diagnostic(`${2 * COUNT} cursors, none over the server; round trip ${(await rtt(ann)).toFixed(1)} ms`);
        const numbers = await ben.evaluate(() => globalThis.inbox.filter(({ seq }) => seq !== undefined).map(({ data }) => Number(data)));
        assert.equal(new Set(numbers).size, COUNT, 'each once');

        await ann.evaluate(() => globalThis.session.close());
        await ben.until('the connection is closed at the other end too', () => {
          const [, ...others] = globalThis.connections;
          return others.length > 0 && others.every(({ connectionState }) => connectionState === 'closed');
        });
        assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      } finally {
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }

  test('switched off by one of two, neither makes a connection, and lossy messages go over the server', async () => {
    const room = `off-${(rooms += 1)}`;
    const ann = await enter('chromium', 'ann', room, { peerToPeer: 'off' });
    const ben = await enter('firefox', 'ben', room);
    try {
      for (const window of [ann, ben]) await window.until('the data channel to the server is up', () => globalThis.session.rung === 'udp');
      await ann.evaluate(point, COUNT);
      await ben.until('cursors come', (count) => globalThis.inbox.length > count / 2, COUNT);
      for (const window of [ann, ben]) {
        assert.equal(await window.evaluate(() => globalThis.connections.length), 1);
        assert.deepEqual(await window.evaluate(() => globalThis.peers), []);
      }
    } finally {
      await Promise.all([ann.close(), ben.close()]);
    }
  });

  test('switched off by the server for a room, nobody makes a connection', async () => {
    const other = await stage.startServer({ SWITCHYARD__FEATURES__P2P: 'false' });
    const room = `forbidden-${(rooms += 1)}`;
    const ann = await enter('chromium', 'ann', room, {}, other.url);
    const ben = await enter('firefox', 'ben', room, {}, other.url);
    try {
      for (const window of [ann, ben]) await window.until('the data channel to the server is up', () => globalThis.session.rung === 'udp');
      assert.equal(await ann.evaluate(() => globalThis.session.features.p2p), false);
      await ann.evaluate(point, COUNT);
      await ben.until('cursors come', (count) => globalThis.inbox.length > count / 2, COUNT);
      for (const window of [ann, ben]) assert.equal(await window.evaluate(() => globalThis.connections.length), 1);
    } finally {
      await Promise.all([ann.close(), ben.close()]);
      await other.stop();
    }
  });

  for (const [one, other] of [
    ['chromium', 'chromium'],
    ['firefox', 'firefox'],
    ['chromium', 'firefox'],
  ]) {
    test(`${one} and ${other}: the path between them is cut; over the server meanwhile, and directly again`, async (context) => {
      const room = `cut-${(rooms += 1)}`;
      const options = { noRelays: true };
      const ann = await enter(one, 'ann', room, options);
      const ben = await enter(other, 'ben', room, options);
      try {
        await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
        for (const window of [ann, ben]) await window.evaluate(pour);
        const cut = Date.now();
        stage.network.cutWithinClient(true);
        await Promise.all([reaches(ann, 1, 'server'), reaches(ben, 1, 'server')]);
        context.diagnostic(`over the server ${Date.now() - cut} ms after the cut`);
        for (const window of [ann, ben]) {
          const seen = await window.evaluate(() => globalThis.inbox.length);
          await window.until('cursors come on', (before) => globalThis.inbox.length > before + 5, seen);
        }
        stage.network.cutWithinClient(false);
        const healed = Date.now();
        await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
        context.diagnostic(`direct again ${Date.now() - healed} ms after it was allowed`);
        for (const [window, peer] of [
          [ann, ben],
          [ben, ann],
        ]) {
          const { reliable, stall } = await window.evaluate(() => globalThis.pouring.stop());
          await peer.until('every reliable message is here', (count) => globalThis.poured.reliable.length === count, reliable);
          const { seen, seqs } = await peer.evaluate(() => ({ seen: globalThis.poured.reliable, seqs: globalThis.poured.lossy }));
          assert.deepEqual(seen, Array.from({ length: reliable }, (_, index) => index + 1), 'complete, once, in order');
          assert.equal(new Set(seqs).size, seqs.length, 'no cursor twice');
          context.diagnostic(`the longest time without a cursor: ${stall.toFixed(0)} ms`);
        }
        // Firefox tells the page's console that ICE has failed.
        assert.deepEqual([...ann.complaints, ...ben.complaints].filter((complaint) => !complaint.includes('ICE failed')), []);
      } finally {
        stage.network.cutWithinClient(false);
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }

  for (const [one, other] of [
    ['chromium', 'chromium'],
    ['chromium', 'firefox'],
    ['firefox', 'chromium'],
  ]) {
    test(`${one} sends ${other} 20 MB; the path is cut in the middle and comes back: complete, once, in order`, async (context) => {
      const room = `bulk-${(rooms += 1)}`;
      const ann = await enter(one, 'ann', room, { noRelays: true });
      const ben = await enter(other, 'ben', room, { noRelays: true });
      try {
        await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
        await ben.evaluate(() => {
          globalThis.parts = [];
          globalThis.room.on('data', ({ data }) => globalThis.parts.push([new DataView(data.buffer, data.byteOffset).getUint32(0), data.length, data.at(-1)]));
        });
        const started = Date.now();
        await ann.evaluate(sendParts, PARTS, PART_BYTES);
        const arrived = (count) => ben.until(`${count} parts`, (wanted) => globalThis.parts.length >= wanted, count);
        await arrived(PARTS / 4);
        stage.network.cutWithinClient(true);
        await ann.evaluate(() => globalThis.sending.go());
        await arrived(PARTS / 2);
        stage.network.cutWithinClient(false);
        await until('all parts', () => ben.evaluate((wanted) => globalThis.parts.length >= wanted, PARTS), { within: 60_000 });
        const took = Date.now() - started;
        await ann.until('the sender knows', () => globalThis.sending.done);
        const parts = await ben.evaluate(() => globalThis.parts);
        assert.deepEqual(parts, Array.from({ length: PARTS }, (_, index) => [index, PART_BYTES, index % 251]));
        const { bulkDirect, bulkServer, bulkAgain } = await ann.evaluate(() => globalThis.session.stats().mesh);
        assert.ok(bulkDirect >= PARTS / 4 && bulkServer > 0, `${bulkDirect} directly, ${bulkServer} over the server`);
        context.diagnostic(`${took} ms; ${bulkDirect} parts sent directly, ${bulkServer} over the server, ${bulkAgain} a second time`);
      } finally {
        stage.network.cutWithinClient(false);
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }

  test('the path between them is cut, and there is a TURN server: over it, without a new connection', async (context) => {
    const room = `relayed-${(rooms += 1)}`;
    const ann = await enter('chromium', 'ann', room);
    const ben = await enter('firefox', 'ben', room);
    try {
      await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
      const cut = Date.now();
      stage.network.cutWithinClient(true);
      await Promise.all([reaches(ann, 1, 'relay'), reaches(ben, 1, 'relay')]);
      context.diagnostic(`by relay ${Date.now() - cut} ms after the cut`);
      const before = await messages();
      await ann.evaluate(point, COUNT);
      await ben.until('cursors come', (count) => globalThis.inbox.length > count / 2, COUNT);
      assert.equal(await messages(), before);
    } finally {
      stage.network.cutWithinClient(false);
      await Promise.all([ann.close(), ben.close()]);
    }
  });
});

/** In the page: cursors, one after the other. @param {number} count */
async function point(count) {
  for (let index = 1; index <= count; index += 1) {
    globalThis.room.sendLossy(String(index), { stream: 1 });
    // Timers of windows in the background come once a second.
    const { port1, port2 } = new MessageChannel();
    await new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(null);
    });
    port1.close();
  }
}

/** In the page: parts of something large, as fast as they are taken. @param {number} count @param {number} bytes */
function sendParts(count, bytes) {
  const [to] = globalThis.room.members.keys();
  const sending = { done: false, go: () => {} };
  const isCut = new Promise((resolve) => (sending.go = () => resolve(undefined)));
  globalThis.sending = sending;
  const all = async () => {
    let open = [];
    for (let index = 0; index < count; index += 1) {
      if (index === count / 4) await isCut;
      const part = new Uint8Array(bytes).fill(index % 251);
      new DataView(part.buffer).setUint32(0, index);
      open.push(globalThis.room.sendTo(to, part));
      if (open.length === 16) await open.shift();
    }
    await Promise.all(open);
    sending.done = true;
  };
  all().catch((error) => console.error(`parts: ${error}`));
}

/** In the page: reliable messages and cursors until it is stopped, and notes of those that come. */
function pour() {
  const { room } = globalThis;
  const counts = { reliable: 0, lossy: 0 };
  const poured = { reliable: [], lossy: [] };
  let last = performance.now();
  let stall = 0;
  room.on('data', ({ data, lossy, seq }) => {
    if (!lossy) poured.reliable.push(Number(data));
    else {
      const now = performance.now();
      stall = Math.max(stall, now - last);
      last = now;
      poured.lossy.push(seq);
    }
  });
  const timer = setInterval(() => {
    room.send(String((counts.reliable += 1)), { stream: 2 });
    room.sendLossy(String((counts.lossy += 1)), { stream: 1 });
  }, 50);
  const stop = () => {
    clearInterval(timer);
    return { ...counts, stall };
  };
  Object.assign(globalThis, { poured, pouring: { stop } });
}
