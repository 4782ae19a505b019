/**
 * A talk at twenty messages a second each way and a bulk stream beside it, while the network fails in ways of its own:
 * everything arrives, once and in order, and the longest silences are printed.
 *
 * The bounds are loose, for a machine that does other things too; a quiet one shows some 300 ms where the WebSocket is up.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { NO_NAMESPACES } from './lib/network.js';
import { NAME, Stage } from './lib/stage.js';
import { tokenFor } from './lib/token.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const EVERY_MS = 50;
const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };
/** `BULK_MESSAGES=1250` is 20 MB. */
const BULK_MESSAGES = Number(process.env.BULK_MESSAGES ?? 200);
const BULK_BYTES = 16_000;
/** The WebSocket is up all the time. */
const BESIDE_MS = 1_500;
/** It is not. */
const ANEW_MS = 4_000;

describe('a network that fails', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;

  before(async () => {
    stage = await Stage.open();
    stage.network.translateClient(40);
  });
  after(() => stage?.close());

  /**
   * Ann in Chromium and Ben in Firefox, on data channels over UDP, counting; Ann sends bulk as well.
   * @param {string} room
   * @param {(windows: Window[]) => Promise<void>} act
   * @param {{ bulk?: number, url?: string }} [options] how many bulk messages, and where the page is if not at the stage's server
   */
  async function talk(room, act, { bulk = BULK_MESSAGES, url = stage.server.url } = {}) {
    /** @type {Window[]} */
    const windows = [];
    try {
      for (const [browser, user] of [['chromium', 'ann'], ['firefox', 'ben']]) {
        const window = await Window.open(stage.browsers[browser], url);
        windows.push(window);
        const token = url === stage.server.url ? null : tokenFor(API_KEY, { user, name: user, room });
        await window.evaluate(enter, room, user, token);
      }
      for (const window of windows) await window.until('both are on UDP', () => globalThis.talk.isReady());
      await windows[0].evaluate((most, size) => globalThis.talk.pour(most, size), bulk, BULK_BYTES);
      for (const window of windows) await window.evaluate((every) => globalThis.talk.begin(every), EVERY_MS);
      for (const window of windows) await window.until('they hear each other', () => globalThis.talk.heard.length > 20);
      await act(windows);
    } finally {
      stage.network.allowAll();
      await Promise.all(windows.map((window) => window.close()));
    }
  }

  /**
   * Waits until everything has arrived, and checks that it is complete, once, and in order. Gives the longest silence after
   * `from`.
   * @param {import('node:test').TestContext} context
   * @param {Window[]} windows
   * @param {number} from
   */
  async function settle(context, windows, from) {
    const said = await Promise.all(windows.map((window) => window.evaluate(() => globalThis.talk.end())));
    const all = await Promise.all(
      windows.map((window, i) =>
        until('everything has arrived', async () => {
          const { heard, bulk, ...rest } = await window.evaluate(() => globalThis.talk.report());
          const isAll = heard.length >= said[1 - i] && bulk.length >= (i === 0 ? 0 : BULK_MESSAGES);
          return isAll && { heard, bulk, ...rest };
        }, { within: 30_000, every: 200 }),
      ),
    );
    const stalls = all.map(({ heard, bulk, counters }, i) => {
      assert.deepEqual(heard.map(([number]) => number), upTo(said[1 - i]));
      assert.deepEqual(bulk, i === 0 ? [] : upTo(BULK_MESSAGES));
      const { sessionsLost, laneGaps, badFrames } = counters;
      assert.deepEqual({ sessionsLost, laneGaps, badFrames }, { sessionsLost: 0, laneGaps: 0, badFrames: 0 });
      const times = heard.map(([, at]) => at).filter((at) => at >= from);
      const gaps = times.map((at, n) => ({ gap: Math.round(at - (times[n - 1] ?? from) - EVERY_MS), at: Math.round(at - from) }));
      return gaps.reduce((most, each) => (each.gap > most.gap ? each : most));
    });
    const words = stalls.map(({ gap, at }, i) => `${['Chromium', 'Firefox'][i]} ${gap} ms (until ${at} ms)`);
    context.diagnostic(`${said.join(' and ')} messages; longest stalls: ${words.join(', ')}`);
    for (const { rungs } of all) context.diagnostic(`rungs: ${rungs.map(([rung, at]) => `${rung} ${Math.round(at - from)} ms`).join(', ')}`);
    return Math.max(...stalls.map(({ gap }) => gap));
  }

  /** Each has got further messages of the other. @param {Window[]} windows @param {number} more */
  async function hearMore(windows, more) {
    for (const window of windows) {
      const before = await window.evaluate(() => globalThis.talk.heard.length);
      await until('further messages', () => window.evaluate((least) => globalThis.talk.heard.length > least, before + more), { within: 20_000 });
    }
  }

  test('UDP is blocked: on over the WebSocket, and back', async (context) => {
    await talk('blocked', async (windows) => {
      const from = Date.now();
      stage.network.blockUdp();
      await hearMore(windows, 80);
      stage.network.allowAll();
      await hearMore(windows, 40);
      const stall = await settle(context, windows, from);
      assert.ok(stall <= BESIDE_MS, `a stall of ${stall} ms`);
    });
  });

  test('who only listens is told by the server that something is missing', async (context) => {
    await talk('listening', async (windows) => {
      await windows[1].evaluate(() => globalThis.talk.end());
      await windows[1].until('all is acknowledged', () => globalThis.talk.session.stats().unacknowledgedFrames === 0);
      const doubts = (await stage.server.metrics()).sum('channel_doubts_total');
      const from = Date.now();
      stage.network.blockUdp();
      await hearMore([windows[1]], 60);
      await until('the server has asked', async () => (await stage.server.metrics()).sum('channel_doubts_total') > doubts);
      stage.network.allowAll();
      await windows[0].evaluate(() => globalThis.talk.end());
      const heard = (await windows[1].evaluate(() => globalThis.talk.heard)).map(([, at]) => at).filter((at) => at >= from);
      const stall = Math.round(Math.max(...heard.map((at, n) => at - (heard[n - 1] ?? from))) - EVERY_MS);
      context.diagnostic(`longest stall: Firefox ${stall} ms`);
      assert.ok(stall <= BESIDE_MS, `a stall of ${stall} ms`);
    }, { bulk: 0 });
  });

  test('a translator gives other addresses: every connection is dead, new ones are not', async (context) => {
    await talk('translated', async (windows) => {
      const from = Date.now();
      stage.network.translateClient(41);
      await hearMore(windows, 60);
      const stall = await settle(context, windows, from);
      assert.ok(stall <= ANEW_MS, `a stall of ${stall} ms`);
    });
  });

  test('the client gets another address', async (context) => {
    await talk('moved', async (windows) => {
      const from = Date.now();
      stage.network.moveClient(35);
      stage.network.translateClient(42);
      await hearMore(windows, 60);
      const stall = await settle(context, windows, from);
      assert.ok(stall <= ANEW_MS, `a stall of ${stall} ms`);
    });
  });

  test('another network, out of which only TCP 443 leads', async (context) => {
    const single = await stage.startServer({
      SWITCHYARD__TURN__LISTEN__TLS_PORT: '443',
      SWITCHYARD__TURN__LISTEN__HTTPS: 'true',
      SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
    });
    const act = async (/** @type {Window[]} */ windows) => {
      const from = Date.now();
      stage.network.moveClient(36);
      stage.network.allowTcpOnly(443);
      await hearMore(windows, 60);
      for (const window of windows) await window.until('the relay carries the data', () => globalThis.talk.session.rung === 'relay');
      await hearMore(windows, 20);
      const stall = await settle(context, windows, from);
      assert.ok(stall <= ANEW_MS, `a stall of ${stall} ms`);
    };
    try {
      await talk('phone', act, { url: `https://${NAME}` });
    } finally {
      await single.stop();
    }
  });

  for (const seconds of [1, 5, 20]) {
    test(`nothing gets through for ${seconds} s`, async (context) => {
      await talk(`away-${seconds}`, async (windows) => {
        stage.network.dropClient();
        // What is waited for is time.
        await sleep(seconds * 1_000);
        stage.network.allowAll();
        const from = Date.now();
        await hearMore(windows, 60);
        const stall = await settle(context, windows, from);
        assert.ok(stall <= ANEW_MS, `a stall of ${stall} ms`);
      });
    });
  }

  test('the server is restarted: what was written to the log is there, once', async (context) => {
    /** @type {Window[]} */
    const windows = [];
    try {
      for (const [browser, user] of [['chromium', 'ann'], ['firefox', 'ben']]) {
        const window = await Window.open(stage.browsers[browser], stage.server.url);
        windows.push(window);
        await window.evaluate(write, 'log', user);
      }
      const enough = (/** @type {number} */ least) => Promise.all(
        windows.map((window) => until('posts of both', () => window.evaluate((n) => globalThis.posts() >= n, least), { within: 30_000 })),
      );
      await enough(10);
      await stage.server.stop();
      const stopped = Date.now();
      await stage.server.start();
      await enough(40);
      context.diagnostic(`posts go on ${Date.now() - stopped} ms after the end`);
      const written = await Promise.all(windows.map((window) => window.evaluate(() => globalThis.stopWriting())));
      for (const window of windows) {
        const texts = await until('all posts', async () => {
          const texts = await window.evaluate(() => globalThis.texts());
          return texts.length >= written[0] + written[1] && texts;
        }, { within: 30_000 });
        for (const [i, user] of ['ann', 'ben'].entries()) {
          const numbers = texts.filter((text) => text.startsWith(user)).map((text) => Number(text.split(' ')[1]));
          assert.deepEqual(numbers, upTo(written[i]));
        }
      }
    } finally {
      await Promise.all(windows.map((window) => window.close()));
    }
  });
});

/** @param {number} last */
function upTo(last) {
  return Array.from({ length: last }, (_, index) => index + 1);
}

/** In the page: a session in a room, and what is said there. @param {string} name @param {string} user @param {string | null} token */
async function enter(name, user, token) {
  const { connect } = await import('/client/index.js');
  const getToken = async (/** @type {string} */ room) => {
    if (token) return token;
    const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user })}`);
    return (await response.json()).token;
  };
  const session = connect({ getToken });
  const room = await session.join({ room: name, log: false });
  /** @type {[number, number][]} */
  const heard = [];
  const bulk = [];
  const rungs = [];
  const [BULK, CONFIRMED] = [7, 8];
  // The server keeps 1 MiB for a receiver that is away.
  const WINDOW = 16;
  let confirmed = 0;
  let said = 0;
  let saying;
  session.on('rung', (rung) => rungs.push([rung, Date.now()]));
  room.on('data', ({ data, stream }) => {
    if (stream === CONFIRMED) {
      confirmed = Number(data);
    } else if (stream === BULK) {
      bulk.push(Number(data.slice(0, data.indexOf(' '))));
      room.send(String(bulk.length), { stream: CONFIRMED });
    } else heard.push([Number(data), performance.timeOrigin + performance.now()]);
  });
  globalThis.talk = {
    session,
    heard,
    isReady: () => session.rung === 'udp' && room.members.size === 1,
    begin(every) {
      saying = setInterval(() => {
        room.send(String(said + 1));
        said += 1;
      }, every);
    },
    /** Bulk, as long as little of it is on its way. */
    pour(most, size) {
      const pad = 'x'.repeat(size);
      let poured = 0;
      const pouring = setInterval(() => {
        if (poured >= most) return clearInterval(pouring);
        if (poured - confirmed >= WINDOW) return;
        room.send(`${(poured += 1)} ${pad}`, { stream: BULK });
      }, 20);
    },
    end() {
      clearInterval(saying);
      return said;
    },
    report: () => ({ heard, bulk, rungs, counters: session.stats().counters }),
  };
}

/** In the page: a room with a log, in which something is written four times a second. @param {string} name @param {string} user */
async function write(name, user) {
  const { connect } = await import('/client/index.js');
  const getToken = async (/** @type {string} */ room) => {
    const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user })}`);
    return (await response.json()).token;
  };
  const session = connect({ getToken });
  const room = session.open({ room: name, user });
  let written = 0;
  const writing = setInterval(() => room.post(`${user} ${(written += 1)}`), 250);
  globalThis.posts = () => room.messages.filter(({ state }) => state !== 'pending').length;
  globalThis.texts = () => room.messages.filter(({ state }) => state !== 'pending').map(({ body }) => body.text);
  globalThis.stopWriting = () => {
    clearInterval(writing);
    return written;
  };
}
