/** Tabs of one user in one browser: one connection, and what becomes of it when the tab that has it goes or crashes. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Server } from './lib/server.js';
import { until } from './lib/wait.js';

const EVERY_MS = 50;
/** Of each writer before and after a disturbance. */
const SOME = 60;
/** How often the leader of six is ended. */
const LEADERS = Number(process.env.LEADERS ?? 6);

/** @typedef {import('puppeteer-core').Page} Page */

/**
 * A page in the room: `heard` are the messages and when they came. `write` begins to write and `stop` ends it; `answer` writes
 * with each message of another user, for the timers of hidden tabs are slow.
 * @param {import('puppeteer-core').BrowserContext} context
 * @param {string} url
 * @param {string} user
 * @param {string} name what its messages begin with
 */
async function open(context, url, user, name) {
  const page = await context.newPage();
  await page.goto(url);
  await page.evaluate(
    async (who, named, every) => {
      const { connect } = await import('/client/index.js');
      const getToken = async (/** @type {string} */ room) => {
        const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user: who })}`);
        return (await response.json()).token;
      };
      const session = connect({ getToken, tabs: 'shared' });
      const heard = [];
      const state = { session, heard, sent: 0, rejoined: 0, timer: 0 };
      Object.assign(globalThis, { state });
      const room = await session.join({ room: 'tabs', log: false });
      room.on('data', ({ data }) => heard.push([data, performance.now()]));
      room.on('rejoined', () => (state.rejoined += 1));
      globalThis.answer = () => {
        room.on('data', ({ sender }) => sender.user !== who && room.send(`${named} ${(state.sent += 1)}`));
      };
      globalThis.write = () => (state.timer = setInterval(() => room.send(`${named} ${(state.sent += 1)}`), every));
      globalThis.stop = () => clearInterval(state.timer);
    },
    user,
    name,
    EVERY_MS,
  );
  return page;
}

/** @param {Page} page */
const leads = (page) => page.evaluate(() => globalThis.state.session.stats().tabs.leads);
/** @param {Page} page */
const sent = (page) => page.evaluate(() => globalThis.state.sent);

/** What a page has heard of one writer, and the longest pause between two of its messages. @param {Page} page @param {string} name */
async function heardOf(page, name) {
  const heard = await page.evaluate(() => globalThis.state.heard);
  const own = heard.filter(([text]) => text.startsWith(`${name} `));
  let longest = 0;
  for (let i = 1; i < own.length; i += 1) longest = Math.max(longest, own[i][1] - own[i - 1][1]);
  return { numbers: own.map(([text]) => Number(text.split(' ')[1])), longest };
}

/** @param {number[]} numbers @param {string} what */
function assertWhole(numbers, what) {
  const wrong = numbers.findIndex((number, i) => number !== numbers[0] + i);
  assert.equal(wrong, -1, `${what}: … ${numbers.slice(Math.max(0, wrong - 3), wrong + 6)} …`);
}

describe('tabs of one user', () => {
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    const [chromium, firefox] = await Promise.all([launch('chromium'), launch('firefox')]);
    Object.assign(browsers, { chromium, firefox });
  });

  after(async () => {
    await Promise.all(Object.values(browsers).map((browser) => browser.close()));
  });

  for (const [browser, ends] of /** @type {const} */ ([
    ['chromium', ['closed', 'crashed']],
    ['firefox', ['closed', 'closed']],
  ])) {
    test(`three tabs of ${browser}, one connection; the leading one is ${ends.join(' and then ')}: nothing is lost, doubled or reordered`, async (t) => {
      const server = await Server.start();
      const context = await browsers[browser].createBrowserContext();
      const elsewhere = await browsers.chromium.createBrowserContext();
      try {
        /** @type {Page[]} */
        const tabs = [];
        for (const name of ['one', 'two', 'three']) tabs.push(await open(context, server.url, 'ann', name));
        const ben = await open(elsewhere, server.url, 'ben', 'ben');
        await until('two sessions', async () => (await server.metrics()).sum('sessions') === 2);
        // The last one stays to the end.
        const [writer] = tabs.slice(-1);
        await writer.evaluate(() => globalThis.answer());
        await ben.evaluate(() => globalThis.write());
        let told = '';
        for (const end of ends) {
          const before = await sent(ben);
          await until('a while of writing', async () => (await sent(ben)) > before + SOME);
          const leader = /** @type {Page} */ (tabs.shift());
          await leader.bringToFront();
          await until('the tab that is looked at leads', () => leads(leader), { within: 15_000 });
          if (end === 'closed') await leader.close();
          else (await leader.createCDPSession()).send('Page.crash').catch(() => {});
          await until('another one leads', async () => (await Promise.all(tabs.map(leads))).includes(true));
          const after = await sent(ben);
          await until('a while of writing', async () => (await sent(ben)) > after + SOME);
          told += ` ${end}`;
        }
        await ben.evaluate(() => globalThis.stop());
        const bens = await sent(ben);
        await until('the tab has everything', async () => (await heardOf(writer, 'ben')).numbers.at(-1) === bens);
        const all = await sent(writer);
        await until('ben has everything', async () => (await heardOf(ben, 'three')).numbers.at(-1) === all);
        const [up, down] = [await heardOf(ben, 'three'), await heardOf(writer, 'ben')];
        assertWhole(up.numbers, 'what ben heard');
        assertWhole(down.numbers, 'what the tab heard');
        assert.equal(up.numbers[0], 1);
        assert.equal(down.numbers[0], 1);
        assert.equal(await writer.evaluate(() => globalThis.state.rejoined), 0, 'the session is the same');
        assert.equal((await server.metrics()).sum('sessions'), 2);
        t.diagnostic(`${browser}:${told}: ${all} up and ${bens} down; longest stall up ${up.longest.toFixed(0)} ms, down ${down.longest.toFixed(0)} ms`);
      } finally {
        await Promise.all([context.close(), elsewhere.close()]);
        await server.stop();
      }
    });
  }

  test(`six tabs of chromium have one connection to the server and one to the other browser; the leading one is closed or crashed ${LEADERS} times while all write`, async (t) => {
    const server = await Server.start();
    const context = await browsers.chromium.createBrowserContext();
    const elsewhere = await browsers.chromium.createBrowserContext();
    try {
      const ben = await open(elsewhere, server.url, 'ben', 'ben');
      /** @type {Map<string, Page>} */
      const tabs = new Map();
      const names = Array.from({ length: 6 + LEADERS }, (_, i) => `t${i}`);
      const add = async (/** @type {string} */ name) => {
        const page = await open(context, server.url, 'ann', name);
        await page.evaluate(() => globalThis.answer());
        tabs.set(name, page);
      };
      for (const name of names.slice(0, 6)) await add(name);
      await ben.evaluate(() => globalThis.write());
      let most = 0;
      for (let i = 0; i < LEADERS; i += 1) {
        const before = await sent(ben);
        const pause = 5 + Math.floor(Math.random() * 20);
        await until('a moment of writing', async () => (await sent(ben)) > before + pause);
        let leader = '';
        await until('one leads', async () => {
          for (const [name, page] of tabs) if (await leads(page)) leader = name;
          return leader !== '';
        });
        const page = /** @type {Page} */ (tabs.get(leader));
        // Of all tabs the leading one alone has a connection to the other browser.
        await until('ben is connected to their browser', async () => (await ben.evaluate(reached)).join() === 'direct', { within: 20_000 });
        const ways = await Promise.all([...tabs.values()].map((tab) => tab.evaluate(reached)));
        assert.equal(ways.flat().filter((state) => state === 'direct').length, 1, JSON.stringify(ways));
        tabs.delete(leader);
        if (i % 2 === 0) await page.close();
        else (await page.createCDPSession()).send('Page.crash').catch(() => {});
        await add(names[6 + i]);
        most = Math.max(most, (await server.metrics()).sum('sessions'));
      }
      // For the last one that came to hear something.
      const last = await sent(ben);
      await until('a moment of writing', async () => (await sent(ben)) > last + 10);
      await ben.evaluate(() => globalThis.stop());
      const bens = await sent(ben);
      for (const [name, page] of tabs) {
        await until(`${name} has everything up to ${bens}`, async () => (await heardOf(page, 'ben')).numbers.at(-1) === bens);
        assertWhole((await heardOf(page, 'ben')).numbers, `what ${name} heard`);
        assert.equal(await page.evaluate(() => globalThis.state.rejoined), 0, `the session of ${name} is the same`);
        const all = await sent(page);
        await until('ben has everything', async () => (await heardOf(ben, name)).numbers.at(-1) === all || all === 0);
      }
      let messages = 0;
      for (const name of names) {
        const { numbers } = await heardOf(ben, name);
        assertWhole(numbers, `what ben heard of ${name}`);
        if (numbers.length > 0) assert.equal(numbers[0], 1);
        messages += numbers.length;
      }
      assert.equal(most, 2, 'never more than one session besides');
      const { longest } = await heardOf([...tabs.values()][0], 'ben');
      t.diagnostic(`${LEADERS} leaders ended: ${messages} up, ${bens} down to each; longest stall down ${longest.toFixed(0)} ms`);
    } finally {
      await Promise.all([context.close(), elsewhere.close()]);
      await server.stop();
    }
  });
});

/** How a page reaches the others of the room. */
function reached() {
  const [room] = globalThis.state.session.rooms;
  return [...room.peers.values()].map(({ state }) => state);
}
