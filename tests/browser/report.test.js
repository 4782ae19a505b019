/** The load program's report, opened from disk: its charts are drawn, it asks for nothing, and nothing in it runs. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { sampleReports } from './lib/reports.js';
import { Window } from './lib/window.js';

describe('a report', () => {
  /** @type {ReturnType<typeof sampleReports>} */
  let reports;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    reports = sampleReports();
    const [chromium, firefox] = await Promise.all([launch('chromium'), launch('firefox')]);
    Object.assign(browsers, { chromium, firefox });
  });

  after(async () => {
    await Promise.all(Object.values(browsers).map((browser) => browser.close()));
    reports?.remove();
  });

  /**
   * Opens a report; afterwards nobody has complained, and only the file itself was asked for.
   * @param {string} browser
   * @param {string} name
   * @param {{ width?: number }} view
   * @param {(window: Window) => Promise<void>} act
   */
  async function opened(browser, name, view, act) {
    const url = reports.url(name);
    const window = await Window.open(browsers[browser], 'about:blank', view);
    /** @type {string[]} */
    const requests = [];
    window.page.on('request', (request) => requests.push(request.url()));
    try {
      await window.page.goto(url, { waitUntil: 'load' });
      await act(window);
      assert.deepEqual(window.complaints, []);
      // Firefox loads the triangle of `summary` from a font that it holds itself, as data.
      assert.deepEqual(requests.filter((request) => request !== url && !request.startsWith('data:')), []);
    } finally {
      await window.close();
    }
  }

  /** Titles of charts that show something. @param {Window} window */
  function charts(window) {
    return window.evaluate(() =>
      [...document.querySelectorAll('figure.chart')]
        .filter((figure) => {
          const lines = [...figure.querySelectorAll(':scope > svg > path')];
          return lines.length > 0 && lines.every((line) => /^M[\d. ]/.test(line.getAttribute('d') ?? '') && !/NaN|Infinity/.test(line.outerHTML));
        })
        .map((figure) => figure.querySelector('h3')?.textContent),
    );
  }

  const ALL = [
    'Messages a second',
    'Latency',
    'Users by rung',
    'Errors and refusals',
    'CPU',
    'Memory of the server',
    'Packets dropped by simulated networks',
    'Users that joined',
    'Latency by lane',
    'Connecting, by stage',
    'Recovery, by what was lost',
    'Latency by window',
  ];

  for (const browser of ['chromium', 'firefox']) {
    test(`has its charts, in ${browser}`, () =>
      opened(browser, 'run', {}, async (window) => {
        assert.deepEqual(await charts(window), ALL);
        assert.match((await window.evaluate(() => document.querySelector('.verdict')?.textContent)) ?? '', /FAILED/);
      }));

    test(`that holds markup shows it as text, in ${browser}`, () =>
      opened(browser, 'evil', {}, async (window) => {
        assert.equal(await window.evaluate(() => 'injected' in globalThis), false);
        assert.equal(await window.evaluate(() => document.querySelectorAll('img').length), 0);
        const title = await window.evaluate(() => document.querySelector('h1')?.textContent);
        assert.match(title ?? '', /^<\/script><script>/);
      }));
  }

  test('lets single values be read with the keyboard, and all of them as a table', () =>
    opened('chromium', 'run', {}, async (window) => {
      await window.evaluate(() => /** @type {SVGElement} */ (document.querySelector('[data-chart=latency] svg')).focus());
      await window.page.keyboard.press('End');
      // In the last second nothing was received.
      await window.page.keyboard.press('ArrowLeft');
      const legend = await window.evaluate(() => document.querySelector('[data-chart=latency] .legend')?.textContent);
      assert.match(legend ?? '', /^p50 [\d.]+ ms.*p99 [\d.]+ ms.*at 2:19$/);
      await window.page.click('[data-chart=latency] summary');
      await window.until('the table', () => (document.querySelectorAll('[data-chart=latency] tbody tr').length ?? 0) === 140);
      const label = await window.evaluate(() => document.querySelector('[data-chart=latency] svg')?.getAttribute('aria-label'));
      assert.match(label ?? '', /^Latency\. p50: [\d.]+ ms to [\d.]+ m?s, median/);
    }));

  test('fits a phone', () =>
    opened('chromium', 'run', { width: 360 }, async (window) => {
      assert.deepEqual(await charts(window), ALL);
      assert.equal(await window.evaluate(() => document.documentElement.scrollWidth), 360);
    }));

  test('of two hours loses no peak', () =>
    opened('chromium', 'long', {}, async (window) => {
      assert.deepEqual(await charts(window), ALL);
      // The server was away for three of 7,020 seconds.
      const depth = await window.evaluate(() => {
        const line = document.querySelector('[data-chart=messages] path');
        const heights = (line?.getAttribute('d') ?? '').split(/[ML]/).slice(1).map((point) => parseFloat(point.split(' ')[1]));
        const middle = heights.slice(heights.length / 4, (heights.length * 3) / 4).sort((a, b) => a - b);
        return middle[middle.length - 1] - middle[middle.length >> 1];
      });
      assert.ok(depth > 100, `${depth} pixels`);
    }));

  test('of a run that came to nothing says so', () =>
    opened('chromium', 'empty', {}, async (window) => {
      assert.deepEqual(await charts(window), []);
      assert.ok((await window.evaluate(() => document.querySelectorAll('.none').length)) > 0);
    }));

  test('of two runs has both in each chart', () =>
    opened('firefox', 'comparison', {}, async (window) => {
      const legends = await window.evaluate(() => [...document.querySelectorAll('.legend')].map((legend) => legend.textContent));
      assert.ok(legends.length >= 10, String(legends.length));
      assert.deepEqual([...new Set(legends)], ['AB']);
    }));
});
