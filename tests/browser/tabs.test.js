/** Tabs of one user in one browser: one connection, and what becomes of it when the tab that has it goes or crashes. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Server } from './lib/server.js';
import { until } from './lib/wait.js';

const EVERY_MS = 50;
/** Of each writer before and after a disturbance. */
const SOME = 60;
/** How often the leading one of six tabs is closed. */
const CLOSINGS = Number(process.env.CLOSINGS ?? 5);

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

  for (const browser of ['chromium', 'firefox']) {
    test(`six tabs of ${browser} have one connection to the server and one to the other browser; the leading one is closed ${CLOSINGS} times`, async (t) => {
      const server = await Server.start();
      const context = await browsers[browser].createBrowserContext();
      const elsewhere = await browsers.chromium.createBrowserContext();
      let opened = 0;
      const next = async () => {
        const name = `tab${(opened += 1)}`;
        const page = await open(context, server.url, 'ann', name);
        await page.evaluate(() => globalThis.answer());
        return { name, page };
      };
      const told = { longest: 0, written: 0 };
      try {
        const ben = await open(elsewhere, server.url, 'ben', 'ben');
        const tabs = [];
        for (let i = 0; i < 6; i += 1) tabs.push(await next());
        await ben.evaluate(() => globalThis.write());
        for (let closing = 0; closing < CLOSINGS; closing += 1) {
          const leading = async () => (await Promise.all(tabs.map(({ page }) => leads(page)))).filter(Boolean).length;
          await until('one of them leads', async () => (await leading()) === 1, { within: 15_000 });
          assert.equal((await server.metrics()).sum('sessions'), 2);
          await until('ben is connected to their browser', async () => (await ben.evaluate(reached)).join() === 'direct', { within: 15_000 });
          const ways = await Promise.all(tabs.map(({ page }) => page.evaluate(reached)));
          assert.equal(ways.flat().filter((state) => state === 'direct').length, 1, JSON.stringify(ways));
          const before = await sent(ben);
          await until('a while of writing', async () => (await sent(ben)) > before + 10);
          const isLeading = await Promise.all(tabs.map(({ page }) => leads(page)));
          const [closed] = tabs.splice(Math.max(0, isLeading.indexOf(true)), 1);
          const written = await sent(closed.page);
          await closed.page.close();
          tabs.push(await next());
          await until(`ben has all ${written} of ${closed.name}`, async () => (await heardOf(ben, closed.name)).numbers.length >= written);
        }
        await ben.evaluate(() => globalThis.stop());
        const bens = await sent(ben);
        for (const { name, page } of tabs) {
          await until(`${name} has everything`, async () => (await heardOf(page, 'ben')).numbers.at(-1) === bens);
          const written = await sent(page);
          await until(`ben has everything of ${name}`, async () => (await heardOf(ben, name)).numbers.length >= written);
          assertWhole((await heardOf(page, 'ben')).numbers, `what ${name} heard`);
          assert.equal(await page.evaluate(() => globalThis.state.rejoined), 0, 'the session is the same');
        }
        for (let number = 1; number <= opened; number += 1) {
          const { numbers, longest } = await heardOf(ben, `tab${number}`);
          assertWhole([0, ...numbers], `what ben heard of tab${number}`);
          told.longest = Math.max(told.longest, longest);
          told.written += numbers.length;
        }
        t.diagnostic(`${browser}: ${CLOSINGS} leading tabs closed, ${told.written} messages up, ${bens} down to each; longest stall of a tab ${told.longest.toFixed(0)} ms`);
      } finally {
        await Promise.all([context.close(), elsewhere.close()]);
        await server.stop();
      }
    });
  }
});

/** How a page reaches the others of the room. */
function reached() {
  const [room] = globalThis.state.session.rooms;
  return [...room.peers.values()].map(({ state }) => state);
}
