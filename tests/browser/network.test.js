/**
 * The demo on a network that misbehaves: UDP blocked from the start or half-way, the WebSocket reset, the server
 * restarted; and Firefox as it is, without the loopback that the other tests permit it.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { firefoxIn, launch } from './lib/browsers.js';
import { Demo } from './lib/demo.js';
import { NO_NAMESPACES, Network } from './lib/network.js';
import { Server } from './lib/server.js';
import { until } from './lib/wait.js';

/** A dead data channel is left within some 300 ms; the rest is for machines that do other things too. */
const STALL_MS = 2_000;

describe('on a network of its own', { skip: NO_NAMESPACES }, () => {
  /** @type {Network} */
  let network;
  /** @type {Server} */
  let server;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    network = new Network({ client: true });
    server = await startServer();
    const [chromium, firefox, inside] = await Promise.all([
      launch('chromium'),
      launch('firefox'),
      firefoxIn(network.inClient),
    ]);
    Object.assign(browsers, { chromium, firefox, inside });
  });

  after(async () => {
    await Promise.all([...Object.values(browsers).map((browser) => browser.close()), server?.stop()]);
    network?.remove();
  });

  /** @param {Record<string, string>} [environment] */
  function startServer(environment = {}) {
    return Server.start({ ip: network.serverIp, prefix: network.inServer, environment });
  }

  /**
   * Ann in Firefox and Ben in Chromium; afterwards the windows are closed and the network is whole.
   * @param {string} room
   * @param {(ann: Demo, ben: Demo) => Promise<void>} act
   * @param {{ at?: Server, ann?: string, ben?: string }} [options]
   */
  async function together(room, act, { at = server, ann: first = 'firefox', ben: second = 'chromium' } = {}) {
    /** @type {Demo[]} */
    const windows = [];
    try {
      windows.push(await Demo.join(browsers[first], at, { name: 'Ann', room }));
      windows.push(await Demo.join(browsers[second], at, { name: 'Ben', room }));
      await act(windows[0], windows[1]);
    } finally {
      network.allowAll();
      await Promise.all(windows.map((window) => window.close()));
    }
  }

  /** @param {Demo} ann @param {Demo} ben */
  async function talk(ann, ben) {
    await Promise.all([ann.sees('Ann', 'Ben'), ben.sees('Ben', 'Ann')]);
    await ann.say('from Ann');
    await ben.hears('Ann', 'from Ann');
    await ben.say('from Ben');
    await ann.hears('Ben', 'from Ben');
    await ann.point(0.3, 0.4);
    await ben.seesCursor('Ann', 0.3, 0.4);
    await ann.draw([0.2, 0.2], [0.4, 0.6]);
    await ben.seesInk(0.3, 0.4);
  }

  test('Firefox with its ordinary preferences reaches the data channel over UDP', async () => {
    await together(
      'ordinary',
      async (ann, ben) => {
        await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
        await talk(ann, ben);
        assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      },
      { ann: 'inside' },
    );
  });

  test('with UDP blocked, the data channel goes over TCP', async () => {
    network.blockUdp();
    await together('over-tcp', async (ann, ben) => {
      await Promise.all([ann.onRung('tcp'), ben.onRung('tcp')]);
      await talk(ann, ben);
      await until('the metrics say so', async () => (await server.metrics()).sum('sessions', { rung: 'tcp' }) === 2);
      assert.deepEqual([...ann.complaints, ...ben.complaints], []);
    });
  });

  test('with UDP blocked, and neither ICE-TCP nor TURN, everything goes over the WebSocket', async () => {
    const plain = await startServer({ SWITCHYARD__RTC__TCP_ENABLED: 'false', SWITCHYARD__TURN__MODE: 'off' });
    network.blockUdp();
    try {
      await together(
        'over-websocket',
        async (ann, ben) => {
          await talk(ann, ben);
          assert.deepEqual([await ann.rung(), await ben.rung()], ['websocket', 'websocket']);
          await until('the metrics say so', async () => {
            return (await plain.metrics()).sum('sessions', { rung: 'websocket' }) === 2;
          });
          assert.deepEqual([...ann.complaints, ...ben.complaints], []);
        },
        { at: plain },
      );
    } finally {
      await plain.stop();
    }
  });

  /**
   * Both count on; then it is checked that each has seen every number of the other, once and in order.
   * @param {import('node:test').TestContext} context
   * @param {Demo} ann
   * @param {Demo} ben
   * @returns {Promise<{ stall: number, counts: any[] }>} longest time in which one saw nothing of the other
   */
  async function settle(context, ann, ben) {
    const [byAnn, byBen] = await Promise.all([ann.stopCounting(), ben.stopCounting()]);
    await until('everything has arrived', async () => {
      return (await ben.counted('Ann')) >= byAnn && (await ann.counted('Ben')) >= byBen;
    });
    const counts = [await ann.counts(), await ben.counts()];
    const upTo = (last) => Array.from({ length: last }, (_, index) => index + 1);
    assert.deepEqual(counts[1].seen.Ann.numbers, upTo(byAnn), 'what Ben has of Ann');
    assert.deepEqual(counts[0].seen.Ben.numbers, upTo(byBen), 'what Ann has of Ben');
    for (const { gap, error } of counts) assert.deepEqual([gap, error], [undefined, undefined]);
    const stalls = [counts[1].seen.Ann.stall, counts[0].seen.Ben.stall].map(Math.round);
    context.diagnostic(`${byAnn} and ${byBen} messages; longest stalls ${stalls[0]} ms (Ben), ${stalls[1]} ms (Ann)`);
    return { stall: Math.max(...stalls), counts };
  }

  /** Both have got further messages of the other. @param {Demo} ann @param {Demo} ben */
  async function exchangeMore(ann, ben) {
    const before = [await ann.counted('Ben'), await ben.counted('Ann')];
    await until('further messages', async () => {
      return (await ann.counted('Ben')) > before[0] + 20 && (await ben.counted('Ann')) > before[1] + 20;
    });
  }

  for (const { next, turn, tcp } of [
    { next: 'websocket', turn: false, tcp: false },
    { next: 'tcp', turn: true, tcp: true },
    { next: 'relay', turn: true, tcp: false },
  ]) {
    const without = `${tcp ? '' : ', ICE-TCP is off'}${turn ? '' : ', so is TURN'}`;
    test(`UDP dies half-way${without}: nothing is lost, doubled or out of order`, async (context) => {
      const at = await startServer({
        SWITCHYARD__RTC__TCP_ENABLED: String(tcp),
        SWITCHYARD__TURN__MODE: turn ? 'embedded' : 'off',
      });
      try {
        await together(
          `udp-dies-${next}`,
          async (ann, ben) => {
            await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
            await Promise.all([ann.startCounting(), ben.startCounting()]);
            await exchangeMore(ann, ben);
            network.blockUdp();
            const blocked = Date.now();
            await Promise.all([ann, ben].map((each) => until('off UDP', async () => (await each.rung()) !== 'udp')));
            context.diagnostic(`off UDP after ${Date.now() - blocked} ms: ${await ann.rung()}, ${await ben.rung()}`);
            await exchangeMore(ann, ben);
            if (next !== 'websocket') {
              await Promise.all([ann.onRung(next), ben.onRung(next)]);
              context.diagnostic(`on ${next} after ${Date.now() - blocked} ms`);
            }
            network.allowAll();
            const allowed = Date.now();
            if (next === 'websocket') {
              await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
              context.diagnostic(`back on UDP after ${Date.now() - allowed} ms`);
            }
            await exchangeMore(ann, ben);
            const { stall } = await settle(context, ann, ben);
            assert.ok(stall <= STALL_MS, `a stall of ${stall} ms`);
          },
          { at },
        );
      } finally {
        await at.stop();
      }
    });
  }

  test('the WebSocket is reset while the data channel lives: nobody notices', async (context) => {
    await together('websocket-dies', async (ann, ben) => {
      await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
      await Promise.all([ann.startCounting(), ben.startCounting()]);
      await exchangeMore(ann, ben);
      const reconnects = await Promise.all([ann, ben].map(reconnectsOf));
      network.resetTcp(server.port);
      await until('the WebSockets are gone', async () => {
        const now = await Promise.all([ann, ben].map(reconnectsOf));
        return now.every((count, index) => count > reconnects[index]);
      });
      await exchangeMore(ann, ben);
      network.allowAll();
      await until('the WebSockets are back', async () => (await server.metrics()).sum('websockets') === 2, { within: 25_000 });
      await exchangeMore(ann, ben);
      const { stall, counts } = await settle(context, ann, ben);
      assert.ok(stall < 1_000, `a stall of ${stall} ms`);
      for (const { states, rungs } of counts) assert.deepEqual({ states, rungs }, { states: [], rungs: [] });
    });
  });

  for (const [how, signal] of /** @type {const} */ ([
    ['restarted', 'SIGTERM'],
    ['crashed and restarted', 'SIGKILL'],
  ])) {
    test(`the server is ${how}: the windows come back into the room by themselves`, async (context) => {
      const at = await startServer();
      try {
        await together(
          'restart',
          async (ann, ben) => {
            await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
            await ann.say('before');
            await ben.hears('Ann', 'before');
            await at.stop(signal);
            const stopped = Date.now();
            await at.start();
            await Promise.all([ann, ben].map((each) => isBack(each, 1)));
            context.diagnostic(`back in the room ${Date.now() - stopped} ms after the end (${signal})`);
            await Promise.all([ann.sees('Ann', 'Ben'), ben.sees('Ben', 'Ann')]);
            await ann.say('after');
            await ben.hears('Ann', 'after');
            await ben.say('also after');
            await ann.hears('Ben', 'also after');
            await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
          },
          { at },
        );
      } finally {
        await at.stop();
      }
    });
  }

  test('one setting rolls a server back to the WebSocket, and forward again: the windows follow, nothing is lost', async (context) => {
    const at = await startServer();
    const said = [];
    /** @param {Demo} ann @param {Demo} ben @param {string} text */
    const say = async (ann, ben, text) => {
      said.push(text);
      await ann.say(text);
      await ben.hears('Ann', text);
    };
    try {
      await together(
        'roll-back',
        async (ann, ben) => {
          await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
          await say(ann, ben, 'over the data channel');
          for (const [restart, webrtc] of [[1, 'false'], [2, 'true']]) {
            await at.stop();
            const stopped = Date.now();
            const meanwhile = `while the server is away ${restart}`;
            said.push(meanwhile);
            await ann.say(meanwhile);
            await at.start({ SWITCHYARD__FEATURES__WEBRTC: webrtc });
            await Promise.all([ann, ben].map((each) => isBack(each, restart)));
            context.diagnostic(`webrtc ${webrtc}: back in the room ${Date.now() - stopped} ms after the end`);
            await ben.hears('Ann', meanwhile);
            await say(ann, ben, `back ${restart}`);
            if (webrtc === 'true') break;
            await until('both are on the WebSocket', async () => (await at.metrics()).sum('sessions', { rung: 'websocket' }) === 2);
            // A client that tries again does so after 2 to 4 s.
            await new Promise((resolve) => setTimeout(resolve, 6_000));
            const offers = (await at.metrics()).sum('webrtc_total', { outcome: 'disabled' });
            assert.ok(offers <= 2, `${offers} offers: one of each window, with its join`);
            for (const each of [ann, ben]) {
              const shown = await each.evaluate(() => [window.switchyard.session.rung, window.switchyard.session.features.webrtc]);
              assert.deepEqual(shown, ['websocket', false]);
            }
          }
          await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
          await say(ann, ben, 'over the data channel again');
          for (const each of [ann, ben]) {
            const texts = await each.evaluate(() => {
              return [...document.querySelectorAll('#chat-log li .text')].map((text) => text.textContent);
            });
            assert.deepEqual(texts, said);
          }
        },
        { at },
      );
    } finally {
      await at.stop();
    }
  });
});

/** The window has a new session, for so many times, and the other one is in the room. @param {Demo} window @param {number} times */
function isBack(window, times) {
  const isIn = () => window.evaluate((least) => {
    const { session, room } = globalThis.switchyard;
    const isNew = session.stats().counters.sessionsLost >= least && session.state === 'connected';
    return isNew && room.active && room.members.size === 1;
  }, times);
  return until('a new session, and the other in the room', isIn, { within: 30_000 });
}

/** @param {Demo} window */
function reconnectsOf(window) {
  return window.evaluate(() => globalThis.switchyard.session.stats().counters.reconnects);
}
