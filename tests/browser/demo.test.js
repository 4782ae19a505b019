/** The demo in two windows: everything one does appears in the other, whatever the browsers and pipes. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Demo } from './lib/demo.js';
import { Server } from './lib/server.js';
import { until } from './lib/wait.js';

const LEAVE_MS = 500;
/** The tests write faster than people do. */
const UNLIMITED = { SWITCHYARD__LIMITS__WRITES_PER_MINUTE: '0' };

describe('the demo', () => {
  /** @type {Server} */
  let server;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    const [started, chromium, firefox] = await Promise.all([Server.start({ environment: UNLIMITED }), launch('chromium'), launch('firefox')]);
    server = started;
    Object.assign(browsers, { chromium, firefox });
  });

  after(async () => {
    await Promise.all([...Object.values(browsers).map((browser) => browser.close()), server?.stop()]);
  });

  /**
   * Two people in the demo; afterwards both windows are closed and nobody has complained.
   * @param {string} room
   * @param {[string, string?][]} whom browser, and transport if not any
   * @param {(ann: Demo, ben: Demo) => Promise<void>} act
   */
  async function together(room, [first, second], act) {
    const ann = await Demo.join(browsers[first[0]], server, { name: 'Ann', room, transport: first[1] });
    const ben = await Demo.join(browsers[second[0]], server, { name: 'Ben', room, transport: second[1] });
    try {
      await act(ann, ben);
      assert.deepEqual([...ann.complaints, ...ben.complaints], []);
    } finally {
      await Promise.all([ann.close(), ben.close()]);
    }
  }

  /** @param {Demo} ann @param {Demo} ben */
  async function seeEachOther(ann, ben) {
    await Promise.all([ann.sees('Ann', 'Ben'), ben.sees('Ben', 'Ann')]);
    await ann.say('hello from Ann');
    await ben.hears('Ann', 'hello from Ann');
    await ben.say('hello from Ben');
    await ann.hears('Ben', 'hello from Ben');
    await ann.point(0.3, 0.4);
    await ben.seesCursor('Ann', 0.3, 0.4);
    await ann.draw([0.2, 0.2], [0.4, 0.6]);
    await ben.seesInk(0.3, 0.4);
    await ben.draw([0.7, 0.2], [0.7, 0.6]);
    await ann.seesInk(0.7, 0.4);
  }

  for (const [first, second] of [
    ['chromium', 'chromium'],
    ['firefox', 'firefox'],
    ['chromium', 'firefox'],
  ]) {
    test(`${first} and ${second} see each other over the data channel`, async () => {
      await together(`${first}-${second}`, [[first], [second]], async (ann, ben) => {
        await Promise.all([ann.onRung('udp'), ben.onRung('udp')]);
        await seeEachOther(ann, ben);
        for (const window of [ann, ben]) {
          await until('the panel says so', async () => /UDP/.test((await window.shown('stat-rung')) ?? ''));
          await until('the quality has a score', async () => /^(Excellent|Good|Poor)$/.test((await window.shown('quality-score')) ?? ''));
        }
        await until('the metrics say so', async () => {
          const metrics = await server.metrics();
          return metrics.sum('sessions', { rung: 'udp' }) === 2 && metrics.sum('sessions', { rung: 'websocket' }) === 0;
        });
      });
    });
  }

  for (const [first, second] of [
    ['chromium', 'firefox'],
    ['firefox', 'chromium'],
  ]) {
    test(`${first} on the WebSocket and ${second} on the data channel see no difference`, async () => {
      await together(`mixed-${first}`, [[first, 'websocket'], [second]], async (ann, ben) => {
        await ben.onRung('udp');
        await seeEachOther(ann, ben);
        assert.equal(await ann.rung(), 'websocket');
        assert.equal(await ben.rung(), 'udp');
      });
    });
  }

  for (const browser of ['chromium', 'firefox']) {
    test(`a reloaded window of ${browser} is back in the room, with what was said and drawn`, async () => {
      await together(`reload-${browser}`, [[browser], ['chromium']], async (ann, ben) => {
        await ann.say('before');
        await ben.hears('Ann', 'before');
        await ben.draw([0.5, 0.2], [0.5, 0.6]);
        await ann.seesInk(0.5, 0.4);
        await ann.page.reload();
        await ann.joined();
        await Promise.all([ann.sees('Ann', 'Ben'), ben.sees('Ben', 'Ann')]);
        await ann.hears('Ann', 'before');
        await ann.seesInk(0.5, 0.4);
        await ann.onRung('udp');
        await ann.say('after');
        await ben.hears('Ann', 'after');
      });
    });

    for (const [how, transport] of [
      ['by the button', undefined],
      ['by the button, on the WebSocket', 'websocket'],
      ['by closing the tab', undefined],
      ['by closing the tab, on the WebSocket', 'websocket'],
      ['by closing the tab, without a goodbye', undefined],
    ]) {
      test(`who leaves ${how} in ${browser} is gone for the others within ${LEAVE_MS} ms`, async (context) => {
        await together(`leave-${browser}`, [[browser, transport], ['chromium']], async (ann, ben) => {
          await ann.onRung(transport ?? 'udp');
          await ben.sees('Ben', 'Ann');
          // Firefox does not always tell a page that it goes.
          if (how.includes('without')) {
            await ann.evaluate(() => addEventListener('pagehide', (event) => event.stopImmediatePropagation(), { capture: true }));
          }
          await ben.evaluate(() => {
            window.switchyard.room.on('memberleft', ({ reason }) => (window.gone = { at: Date.now(), reason }));
          });
          let left = Date.now();
          if (how.includes('button')) {
            left = await ann.evaluate(() => {
              const now = Date.now();
              document.getElementById('leave')?.click();
              return now;
            });
          } else {
            await ann.page.close();
          }
          const gone = await until('the other sees it', () => ben.evaluate(() => window.gone));
          context.diagnostic(`leave seen after ${gone.at - left} ms (${how}, ${browser}; reason ${gone.reason})`);
          assert.ok(gone.at - left <= LEAVE_MS, `after ${gone.at - left} ms`);
          await ben.sees('Ben');
        });
      });
    }
  }

  for (const browser of ['chromium', 'firefox']) {
    test(`in ${browser} messages are changed, answered, reacted to and deleted, by pointer and by keys`, async () => {
      await together(`chat-${browser}`, [[browser], ['chromium']], async (ann, ben) => {
        await ann.say('frist');
        await ben.hears('Ann', 'frist');
        await press(ann, 'frist', 'Edit');
        await ann.page.keyboard.press('Backspace');
        await ann.say(' (first)');
        await ben.hears('Ann', 'fris (first)');
        await press(ben, 'fris (first)', '♥');
        await ann.until('the reaction is counted', () => document.querySelector('#chat-log .reaction')?.textContent === '♥ 1');
        await press(ben, 'fris (first)', 'Reply');
        await ben.say('second');
        await ann.until('the answer shows what it answers', () => document.querySelector('#chat-log .quote')?.textContent === 'Ann: fris (first)');
        await tabTo(ann, 'chat-log', { back: true });
        await ann.page.keyboard.press('ArrowUp');
        await ann.page.keyboard.press('ArrowUp');
        for (const label of ['♥ 1', '✓', '★', 'Reply', 'Edit', 'Delete']) {
          await ann.page.keyboard.press('Tab');
          assert.equal(await ann.evaluate(() => document.activeElement?.textContent), label);
        }
        await ann.page.keyboard.press('Enter');
        await ben.hears('Ann', 'deleted');
      });
    });
  }

  test('an answer is streamed word by word, and older messages come by scrolling up', async () => {
    await together('paging', [['chromium'], ['chromium']], async (ann, ben) => {
      await ann.evaluate(async () => {
        const { room } = window.switchyard;
        for (let at = 1; at <= 119; at += 1) room.post(`number ${at}`);
        await room.post('number 120').settled;
      });
      await ben.hears('Ann', 'number 120');
      await ben.page.reload();
      await ben.joined();
      await ben.hears('Ann', 'number 120');
      await ben.page.click('#chat-stream');
      await ann.until('it grows', () => Number(document.querySelector('#chat-log .streaming .text')?.textContent?.length) > 20);
      await ann.until('it is a message', () => /once, on disk\.$/.test([...document.querySelectorAll('#chat-log .text')].at(-1)?.textContent ?? ''));
      await ann.until('it is no stream any more', () => !document.querySelector('#chat-log .streaming'));
      const late = await Demo.join(browsers.firefox, server, { name: 'Eve', room: 'paging' });
      try {
        const lines = () => late.evaluate(() => document.querySelectorAll('#chat-log .message').length);
        await until('the newest are there', async () => (await lines()) === 50);
        for (const count of [100, 121]) {
          await late.evaluate(() => (/** @type {Element} */ (document.getElementById('chat-log')).scrollTop = 0));
          await until(`${count} are there`, async () => (await lines()) === count);
          assert.ok(await late.evaluate(() => /** @type {Element} */ (document.getElementById('chat-log')).scrollTop > 100), 'what was in view stays there');
        }
        assert.equal(await late.evaluate(() => document.querySelector('#chat-log .message .text')?.textContent), 'number 1');
      } finally {
        await late.close();
      }
    });
  });

  for (const browser of ['chromium', 'firefox']) {
    test(`at phone width, and with nothing but keys, ${browser} joins, talks and draws`, async () => {
      const ben = await Demo.join(browsers.chromium, server, { name: 'Ben', room: `keys-${browser}` });
      const ann = /** @type {Demo} */ (
        await Demo.open(browsers[browser], `${server.url}/?room=keys-${browser}`, { width: 360, height: 740 })
      );
      try {
        await ann.page.bringToFront();
        await tabTo(ann, 'name');
        await ann.page.keyboard.type('Ann');
        await ann.page.keyboard.press('Enter');
        await ann.joined();
        await ben.sees('Ben', 'Ann');
        await tabTo(ann, 'chat-input');
        await ann.page.keyboard.type('typed');
        await ann.page.keyboard.press('Enter');
        await ben.hears('Ann', 'typed');
        await tabTo(ann, 'board', { back: true });
        for (const key of [' ', 'ArrowRight', 'ArrowRight', 'ArrowRight', ' ']) {
          await ann.page.keyboard.press(/** @type {import('puppeteer-core').KeyInput} */ (key));
        }
        await ann.seesInk(0.515, 0.5);
        await ben.seesInk(0.515, 0.5);
        const overflow = await ann.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
        assert.equal(overflow, 0, 'nothing is wider than the screen');
        await tabTo(ann, 'leave', { back: true });
        await ann.page.keyboard.press('Enter');
        await ben.sees('Ben');
        assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      } finally {
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }
});

/**
 * Clicks a button of the message with this text.
 * @param {Demo} window
 * @param {string} text
 * @param {string} label
 */
async function press(window, text, label) {
  const button = await window.page.waitForSelector(`xpath///li[contains(@class, "message")][.//span[text()="${text}"]]//button[text()="${label}"]`);
  await window.evaluate((element) => element?.click(), /** @type {any} */ (button));
}

/**
 * Presses Tab, or Shift and Tab, until the focus is there.
 * @param {Demo} window
 * @param {string} id
 * @param {{ back?: boolean }} [options]
 */
async function tabTo(window, id, { back = false } = {}) {
  const { keyboard } = window.page;
  if (back) await keyboard.down('Shift');
  try {
    for (let presses = 0; presses < 30; presses += 1) {
      if (await window.evaluate((wanted) => document.activeElement?.id === wanted, id)) return;
      await keyboard.press('Tab');
    }
  } finally {
    if (back) await keyboard.up('Shift');
  }
  assert.fail(`Tab does not lead to #${id}`);
}
