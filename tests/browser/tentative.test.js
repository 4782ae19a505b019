/** Tentative copies of events in real browsers: seen while the server cannot be reached, confirmed by the log, and refused where the signature is wrong. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { NO_NAMESPACES } from './lib/network.js';
import { NAME, Stage } from './lib/stage.js';
import { tokenFor } from './lib/token.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };
/** After a snapshot a page takes none for so long, with some to spare. */
const SETTLED_MS = 5_500;
/** Nothing gets to the server and back. */
const NO_PORT = 1;

describe('tentative copies', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;
  /** @type {import('./lib/server.js').Server} */
  let server;
  let rooms = 0;

  before(async () => {
    stage = await Stage.open();
    // Pages can sign only where they came by TLS.
    server = await stage.startServer({
      SWITCHYARD__TURN__LISTEN__TLS_PORT: '443',
      SWITCHYARD__TURN__LISTEN__HTTPS: 'true',
      SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
      SWITCHYARD__FEATURES__TENTATIVE: 'true',
    });
  });
  after(async () => {
    await server?.stop();
    await stage?.close();
  });

  /**
   * A window in a room: `told` has what became of copies, and the events of the log, in the order of their coming. A `forger`
   * signs wrongly.
   * @param {string} browser @param {string} user @param {string} room @param {{ isForger?: boolean, url?: string }} [options]
   */
  async function enter(browser, user, room, { isForger = false, url = `https://${NAME}` } = {}) {
    const window = await Window.open(stage.browsers[browser], url);
    await window.evaluate(
      async (token, name, forges) => {
        const { connect } = await import('/client/index.js');
        const real = globalThis.crypto.subtle;
        const forging = {
          generateKey: (...args) => real.generateKey(...args),
          exportKey: (...args) => real.exportKey(...args),
          importKey: (...args) => real.importKey(...args),
          verify: (...args) => real.verify(...args),
          sign: async (...args) => new Uint8Array(await real.sign(...args)).map((byte, at) => (at === 20 ? byte ^ 1 : byte)).buffer,
        };
        const environment = forges ? { subtle: forging } : {};
        const session = connect({ getToken: () => token, tentative: true, environment });
        const room = await session.join({ room: name });
        const told = [];
        const refused = [];
        room.on('tentative', ({ state, event }) => told.push(`${state} ${event.body.text}`));
        room.on('event', ({ body }) => told.push(`event ${body.text}`));
        room.on('tentativerefused', ({ member, code }) => refused.push(`${member.user} ${code}`));
        Object.assign(globalThis, { session, room, told, refused });
      },
      tokenFor(API_KEY, { user, room }),
      room,
      isForger,
    );
    return window;
  }

  /** Waits until two reach each other, and what was before is over. @param {Window[]} windows */
  async function settle(windows) {
    for (const window of windows) {
      await window.until('the other is reached directly', () => [...globalThis.room.peers.values()].map(({ state }) => state).join() === 'direct');
    }
    await new Promise((resolve) => setTimeout(resolve, SETTLED_MS));
  }

  /** @param {Window} window */
  const told = (window) => window.evaluate(() => globalThis.told);
  /** @param {Window} window @param {string} text */
  const post = (window, text) => window.evaluate((words) => void globalThis.room.post(words), text);

  for (const [one, other] of [
    ['chromium', 'firefox'],
    ['firefox', 'chromium'],
  ]) {
    test(`${one} writes, and ${other} sees it while the server cannot be reached; the log confirms it`, async (context) => {
      const room = `ahead-${(rooms += 1)}`;
      const [ann, ben] = [await enter(one, 'ann', room), await enter(other, 'ben', room)];
      try {
        await settle([ann, ben]);
        await post(ann, 'near');
        await ben.until('the log has it', () => globalThis.told.includes('event near'));
        assert.deepEqual(await told(ben), ['shown near', 'confirmed near', 'event near']);

        stage.network.allowTcpOnly(NO_PORT);
        const from = Date.now();
        await post(ann, 'ahead');
        await until('it is seen', async () => (await told(ben)).includes('shown ahead'), { within: 3_000, every: 20 });
        context.diagnostic(`seen after ${Date.now() - from} ms, with the server cut off`);
        assert.deepEqual(await told(ben).then((all) => all.slice(3)), ['shown ahead']);
        stage.network.allowAll();
        await ben.until('the log has it', () => globalThis.told.includes('event ahead'));
        context.diagnostic(`in the log after ${Date.now() - from} ms`);
        const [shown, end, event] = (await told(ben)).slice(3);
        assert.deepEqual([shown, event], ['shown ahead', 'event ahead']);
        assert.ok(['confirmed ahead', 'rolledback ahead'].includes(end), end);
        assert.deepEqual(await ben.evaluate(() => globalThis.room.tentative), []);
      } finally {
        stage.network.allowAll();
        await Promise.all([ann.close(), ben.close()]);
      }
    });

    test(`${other} refuses what ${one} has signed wrongly, and tells it; the log has the event all the same`, async () => {
      const room = `forged-${(rooms += 1)}`;
      const [eve, ben] = [await enter(one, 'eve', room, { isForger: true }), await enter(other, 'ben', room)];
      try {
        await settle([eve, ben]);
        await post(eve, 'forged');
        await ben.until('it is refused', () => globalThis.refused.length > 0);
        await ben.until('the log has it', () => globalThis.told.includes('event forged'));
        assert.deepEqual(await told(ben), ['event forged']);
        assert.deepEqual(await ben.evaluate(() => globalThis.refused), ['eve bad_signature']);
        const counted = (window) => window.evaluate(async () => (await globalThis.session.diagnose()).tentative.rooms[0]);
        assert.deepEqual((await counted(ben)).refused, { bad_signature: 1 });
        await until('its author knows', async () => (await counted(eve)).refusedByOthers.bad_signature === 1);
      } finally {
        await Promise.all([eve.close(), ben.close()]);
      }
    });

    test(`${one}, from a page that did not come by TLS: no copies, and diagnose says why`, async () => {
      const window = await enter(one, 'ann', `plain-${(rooms += 1)}`, { url: server.url });
      try {
        assert.equal(await window.evaluate(async () => (await globalThis.session.diagnose()).tentative.off), 'no_crypto');
      } finally {
        await window.close();
      }
    });
  }
});
