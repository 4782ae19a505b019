/**
 * What was written without a network is sent though no window is open any more (LAD5), in Chromium, which has Background Sync,
 * and by the demo's own service worker.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Demo } from './lib/demo.js';
import { Server } from './lib/server.js';
import { stored } from './lib/storage.js';
import { until } from './lib/wait.js';

describe('without a window', () => {
  /** @type {import('puppeteer-core').Browser} */
  let chromium;
  before(async () => void (chromium = await launch('chromium')));
  after(() => chromium?.close());

  test('the service worker sends what was written before the window was closed, in order, once', async () => {
    const server = await Server.start();
    const ann = await Demo.join(chromium, server, { name: 'Ann', room: 'sync' });
    const context = ann.page.browserContext();
    try {
      // Of another window, for this one will be closed.
      const other = await context.newPage();
      const workers = await other.createCDPSession();
      /** @type {string | undefined} */
      let registrationId;
      workers.on('ServiceWorker.workerRegistrationUpdated', ({ registrations }) => {
        registrationId = registrations.find(({ scopeURL }) => scopeURL === `${server.url}/demo/`)?.registrationId ?? registrationId;
      });
      await workers.send('ServiceWorker.enable');
      await until('the worker is there', () => registrationId !== undefined);

      await server.stop();
      await ann.until('the connection is lost', () => window.switchyard.session.state === 'reconnecting');
      for (const text of ['one', 'two', 'three']) await ann.say(text);
      await until('all are stored', async () => (await stored(ann)) === 3);
      await ann.until('the browser is asked', async () => {
        const tags = async () => (await /** @type {any} */ (navigator.serviceWorker.getRegistration('/demo/')))?.sync.getTags();
        // Chromium sometimes never answers, and answers when it is asked again.
        const soon = new Promise((resolve) => setTimeout(resolve, 1_000, []));
        return (await Promise.race([tags(), soon]))?.includes('switchyard');
      });
      await ann.page.close();

      await server.start();
      const bob = await Demo.join(chromium, server, { name: 'Bob', room: 'sync' });
      // The browser has woken the worker already, since it thinks that it has a network; the worker tries for a while. Once more,
      // as the browser does some minutes later.
      const origin = server.url;
      await workers.send('ServiceWorker.dispatchSyncEvent', { origin, registrationId: String(registrationId), tag: 'switchyard', lastChance: false });
      await until('all have come', async () => (await textsOf(bob)).length >= 3, { within: 20_000 });
      assert.deepEqual(await textsOf(bob), ['one', 'two', 'three']);
      await bob.sees('Bob');
      assert.deepEqual(bob.complaints, []);
      await bob.close();
    } finally {
      await context.close();
      await server.stop();
    }
  });
});

/** @param {Demo} window */
function textsOf(window) {
  return window.evaluate(() => window.switchyard.room.messages.map(({ body }) => body.text));
}
