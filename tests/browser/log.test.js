/** A room's log in real browsers: written offline, over reloads and broken networks; streamed messages. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';

import { chromiumIn, launch } from './lib/browsers.js';
import { NO_NAMESPACES, Network } from './lib/network.js';
import { Server } from './lib/server.js';
import { stored } from './lib/storage.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

/** Nobody waits for the rate limit here. */
const UNLIMITED = { SWITCHYARD__LIMITS__WRITES_PER_MINUTE: '0' };
const FLIPPING_MS = 15_000;
const FLIP_MS = 1_000;
const EVERY_MS = 20;

/**
 * A page with the room `r` of `server` open; its files may come from elsewhere. `window.room` is the room, `window.heard`
 * its messages in the order of their coming.
 * @param {Window} window
 * @param {Server} server
 * @param {string} user
 * @param {{ transport?: string }} [options]
 */
async function open(window, server, user, { transport = 'auto' } = {}) {
  await window.evaluate(
    async (url, who, way) => {
      const { connect } = await import('/client/index.js');
      const real = globalThis.WebSocket;
      const sockets = (globalThis.sockets = new Set());
      class Watched extends real {
        /** @param {string} to @param {string[]} protocols */
        constructor(to, protocols) {
          // Port 9 discards, and here nobody listens on it.
          super(globalThis.cutOff ? 'ws://127.0.0.1:9/' : to, protocols);
          sockets.add(this);
        }
      }
      const getToken = (room) => globalThis.tokenFor(room, who);
      const session = connect({ url, transport: way, getToken, environment: { WebSocket: Watched } });
      const room = session.open({ room: 'r', user: who });
      Object.assign(globalThis, { session, room, heard: [], grown: [] });
      room.on('message', (message) => globalThis.heard.push([message.seq, message.body.text]));
      room.on('change', (messages) => {
        const growing = messages.find((message) => message.streaming);
        if (growing) globalThis.grown.push(growing.body.text.length);
      });
    },
    server.url.replace('http', 'ws'),
    user,
    transport,
  );
}

/** Lets the page ask this program for tokens; without the server that fails as a network does. @param {Window} window @param {Server} server */
function giveTokens(window, server) {
  return window.page.exposeFunction('tokenFor', async (/** @type {string} */ room, /** @type {string} */ user) => {
    const response = await fetch(`${server.url}/v1/dev/token?${new URLSearchParams({ room, user })}`);
    return (await response.json()).token;
  });
}

/** @param {Window} window */
function shown(window) {
  return window.evaluate(() => globalThis.room.messages.map(({ state, body }) => (state === 'pending' ? `${body.text}?` : body.text)));
}

describe('the log', () => {
  /** Whose files the pages have. @type {Server} */
  let files;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    const [started, chromium, firefox] = await Promise.all([Server.start(), launch('chromium'), launch('firefox')]);
    files = started;
    Object.assign(browsers, { chromium, firefox });
  });

  after(async () => {
    await Promise.all([...Object.values(browsers).map((browser) => browser.close()), files?.stop()]);
  });

  for (const browser of ['chromium', 'firefox']) {
    test(`written offline, reloaded offline, the tab closed: back in ${browser} it arrives in order, once`, async () => {
      const server = await Server.start({ environment: UNLIMITED });
      await server.stop();
      const ann = await Window.open(browsers[browser], files.url);
      const context = ann.page.browserContext();
      try {
        await giveTokens(ann, server);
        await open(ann, server, 'ann');
        await ann.evaluate(() => ['one', 'two'].forEach((text) => globalThis.room.post(text)));
        assert.deepEqual(await shown(ann), ['one?', 'two?']);
        await until('both are stored', async () => (await stored(ann)) === 2);
        await ann.page.reload();
        await open(ann, server, 'ann');
        await until('both are there again', async () => (await shown(ann)).join() === 'one?,two?');
        await ann.evaluate(() => globalThis.room.post('three'));
        await until('all are stored', async () => (await stored(ann)) === 3);
        const next = new Window(await context.newPage());
        await next.page.goto(files.url);
        await ann.page.close();
        await giveTokens(next, server);
        await open(next, server, 'ann');
        await next.evaluate(() => globalThis.room.post('four'));
        await server.start();
        await until('the server has them', async () => (await shown(next)).join() === 'one,two,three,four', { within: 30_000 });
        assert.equal(await stored(next), 0);
        const ben = await Window.open(browsers.chromium, files.url);
        await giveTokens(ben, server);
        await open(ben, server, 'ben');
        await until('another sees the same', async () => (await shown(ben)).join() === 'one,two,three,four');
        await ben.close();
      } finally {
        await context.close();
        await server.stop();
      }
    });
  }

  test('two windows write 50 messages a second each, one of them flips its network: equal transcripts', { skip: NO_NAMESPACES }, async (context) => {
    const network = new Network({ client: true });
    const server = await Server.start({ ip: network.serverIp, prefix: network.inServer, environment: UNLIMITED });
    const away = await chromiumIn(network.inClient);
    const flips = await Window.open(away, server.url);
    const stays = await Window.open(browsers.chromium, server.url);
    try {
      for (const [window, user] of /** @type {[Window, string][]} */ ([[flips, 'ann'], [stays, 'ben']])) {
        await giveTokens(window, server);
        await open(window, server, user);
        await window.until(`${user} is in the room`, () => globalThis.room.active);
      }
      for (const window of [flips, stays]) {
        await window.evaluate((every) => {
          globalThis.written = 0;
          globalThis.writing = setInterval(() => globalThis.room.post(`${globalThis.room.self.user} ${(globalThis.written += 1)}`), every);
        }, EVERY_MS);
      }
      for (let passed = 0; passed < FLIPPING_MS; passed += 2 * FLIP_MS) {
        network.cutClient();
        await sleep(FLIP_MS);
        network.allowAll();
        await sleep(FLIP_MS);
      }
      const stop = () => {
        clearInterval(globalThis.writing);
        return globalThis.written;
      };
      const [ofAnn, ofBen] = await Promise.all([flips.evaluate(stop), stays.evaluate(stop)]);
      const total = ofAnn + ofBen;
      for (const window of [flips, stays]) {
        await until('all have come', () => window.evaluate((all) => globalThis.room.status.queued === 0 && globalThis.heard.length >= all, total), { within: 60_000 });
      }
      const [first, second] = await Promise.all([flips, stays].map((window) => window.evaluate(() => globalThis.heard)));
      assert.deepEqual(first, second, 'the transcripts are equal');
      assert.deepEqual(first.map(([seq]) => seq), Array.from({ length: total }, (_, at) => at + 1), 'without holes');
      for (const [user, count] of /** @type {[string, number][]} */ ([['ann', ofAnn], ['ben', ofBen]])) {
        const numbers = first.map(([, text]) => text.split(' ')).filter(([who]) => who === user).map(([, number]) => Number(number));
        assert.deepEqual(numbers, Array.from({ length: count }, (_, at) => at + 1), `${user} once and in order`);
      }
      const { counters } = await flips.evaluate(() => globalThis.session.stats());
      context.diagnostic(`${total} messages, ${counters.reconnects} reconnects, ${counters.pipeChanges} changes of pipe, ${counters.sessionsLost} sessions lost`);
      assert.ok(counters.reconnects + counters.pipeChanges >= 5, 'the network did flip');
    } finally {
      await Promise.all([away.close(), stays.close(), server.stop()]);
      network.remove();
    }
  });

  test('a streamed message grows for who is there, who comes late, and who comes back', async () => {
    const server = await Server.start({ environment: UNLIMITED });
    const windows = await Promise.all(['chromium', 'firefox', 'chromium'].map((name) => Window.open(browsers[name], server.url)));
    const [author, late, returning] = windows;
    try {
      await Promise.all(windows.map((window) => giveTokens(window, server)));
      await open(author, server, 'ann');
      await open(returning, server, 'eve', { transport: 'websocket' });
      await returning.until('the reader is there', () => globalThis.room.active);
      await author.evaluate(() => {
        const stream = globalThis.room.stream();
        globalThis.words = 0;
        globalThis.streaming = setInterval(() => stream.write(`wörd ${(globalThis.words += 1)} `), 20);
        globalThis.finish = () => {
          clearInterval(globalThis.streaming);
          return stream.end();
        };
      });
      await returning.until('the text grows', () => globalThis.grown.at(-1) > 100);
      // Longer than the server keeps a session for a client that is away.
      await returning.evaluate(() => {
        globalThis.cutOff = true;
        globalThis.sockets.forEach((socket) => socket.close(4_000));
      });
      await open(late, server, 'ben');
      await late.until('the late one has the text so far', () => globalThis.grown.at(-1) > 100);
      const before = await returning.evaluate(() => globalThis.grown.at(-1));
      await sleep(12_000);
      await returning.evaluate(() => (globalThis.cutOff = false));
      await until('the text goes on for who came back', () => returning.evaluate((was) => globalThis.grown.at(-1) > 2 * was, before), { within: 20_000 });
      const seq = await author.evaluate(() => globalThis.finish());
      for (const window of windows) await window.until('it is one message', () => globalThis.heard.length === 1);
      const all = await Promise.all(windows.map((window) => window.evaluate(() => [globalThis.heard, globalThis.room.messages.map(({ body, streaming }) => [body.text, streaming])])));
      const words = await author.evaluate(() => Array.from({ length: globalThis.words }, (_, at) => `wörd ${at + 1} `).join(''));
      for (const each of all) assert.deepEqual(each, [[[seq, words]], [[words, false]]]);
    } finally {
      await Promise.all([...windows.map((window) => window.close()), server.stop()]);
    }
  });
});
