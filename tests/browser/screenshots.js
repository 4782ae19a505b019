/**
 * Takes the screenshots in docs/screenshots: two people at work in one room, in both browsers and at phone width, and a
 * report of the load program.
 */

import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Demo } from './lib/demo.js';
import { sampleReports } from './lib/reports.js';
import { Server } from './lib/server.js';
import { Window } from './lib/window.js';

const FOLDER = join(import.meta.dirname, '../../docs/screenshots');

/** A house, a roof, a path: shares of the board. @type {[number, number][][]} */
const BY_ADA = [
  [[0.2, 0.75], [0.2, 0.45], [0.42, 0.45], [0.42, 0.75], [0.2, 0.75]],
  [[0.28, 0.75], [0.28, 0.6], [0.34, 0.6], [0.34, 0.75]],
];
/** @type {[number, number][][]} */
const BY_GRACE = [
  [[0.17, 0.47], [0.31, 0.25], [0.45, 0.47]],
  Array.from({ length: 25 }, (_, step) => {
    const angle = (step / 24) * 2 * Math.PI;
    return [0.72 + 0.06 * Math.cos(angle), 0.3 + 0.1 * Math.sin(angle)];
  }),
];

/** @type {[file: string, browser: string, view: { width: number, height: number, scale?: number }, dark?: boolean][]} */
const SHOTS = [
  ['demo-chromium', 'chromium', { width: 1_280, height: 800 }],
  ['demo-firefox', 'firefox', { width: 1_280, height: 800 }],
  ['demo-phone', 'chromium', { width: 360, height: 740, scale: 2 }],
  ['demo-dark', 'chromium', { width: 1_280, height: 800 }, true],
];

test('the demo', async () => {
  mkdirSync(FOLDER, { recursive: true });
  const [server, chromium, firefox] = await Promise.all([Server.start(), launch('chromium'), launch('firefox')]);
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = { chromium, firefox };
  try {
    const lobby = await Demo.open(chromium, server.url);
    await lobby.page.screenshot({ path: join(FOLDER, 'lobby.png') });
    await lobby.close();
    for (const [file, browser, view, dark] of SHOTS) {
      const ada = /** @type {Demo} */ (await Demo.open(browsers[browser], server.url, view));
      await isUser(ada, 'ada');
      if (dark) await ada.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
      await ada.enter({ name: 'Ada Lovelace', room: 'house-plans' });
      const grace = /** @type {Demo} */ (await Demo.open(chromium, server.url));
      await isUser(grace, 'grace');
      await grace.enter({ name: 'Grace Hopper', room: 'house-plans' });
      await Promise.all([ada.onRung('udp'), grace.onRung('udp')]);
      await ada.say('Shall we put the door in the middle?');
      await grace.hears('Ada Lovelace', 'Shall we put the door in the middle?');
      await grace.say('A little to the right, please. I am drawing the roof.');
      for (const stroke of BY_GRACE) await grace.draw(...stroke);
      for (const stroke of BY_ADA) await ada.draw(...stroke);
      await grace.point(0.6, 0.62);
      await ada.page.bringToFront();
      await ada.seesCursor('Grace Hopper', 0.6, 0.62);
      await ada.seesInk(0.31, 0.25);
      await ada.until('a line of round-trip times', () => {
        const points = document.getElementById('spark-line')?.getAttribute('points') ?? '';
        return points.split(' ').length > 6;
      });
      await ada.page.screenshot({ path: join(FOLDER, `${file}.png`), fullPage: view.width < 500 });
      await Promise.all([ada.close(), grace.close()]);
    }
  } finally {
    await Promise.all([chromium.close(), firefox.close(), server.stop()]);
  }
});

test('a report', async () => {
  const [reports, chromium] = [sampleReports(), await launch('chromium')];
  try {
    const window = await Window.open(chromium, reports.url('run'), { width: 1_280, height: 1_500 });
    await window.page.screenshot({ path: join(FOLDER, 'report.png') });
    await window.page.setViewport({ width: 360, height: 740, deviceScaleFactor: 2 });
    await window.page.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]);
    await window.evaluate(() => document.querySelector('[data-chart=latency]')?.scrollIntoView());
    await window.page.screenshot({ path: join(FOLDER, 'report-phone.png') });
    await window.close();
  } finally {
    await chromium.close();
    reports.remove();
  }
});

/** The user's id decides on the colour. @param {Demo} window @param {string} user */
async function isUser(window, user) {
  await window.evaluate((id) => sessionStorage.setItem('switchyard.demo', JSON.stringify({ user: id })), user);
}
