/**
 * What `session.diagnose()` says in Chromium and Firefox on networks that let little through: why the connection is as it
 * is, what was tried in vain, and what worked.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Demo } from './lib/demo.js';
import { NO_NAMESPACES } from './lib/network.js';
import { NAME, Stage } from './lib/stage.js';
import { tokenFor } from './lib/token.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };
/** Any address of the networks here, or of an interface. */
const ADDRESS = /198\.18\.\d+\.\d+|127\.0\.0\.1|[\da-f]{1,4}::|\.local\b/;

describe('why', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;

  before(async () => {
    stage = await Stage.open();
  });
  after(() => stage?.close());

  /**
   * One window; afterwards it is closed and the network is whole.
   * @param {string} browser
   * @param {{ at?: { url: string }, hash?: string, width?: number }} options
   * @param {(window: Demo) => Promise<void>} act
   */
  async function inWindow(browser, { at = stage.server, ...options }, act) {
    /** @type {Demo | undefined} */
    let window;
    try {
      window = await Demo.join(stage.browsers[browser], at, { name: 'Ann', room: `why-${browser}`, ...options });
      await act(window);
    } finally {
      stage.network.allowAll();
      await window?.close();
    }
  }

  /**
   * Asks until the verdict is this one, and gives all that was said.
   * @param {import('node:test').TestContext} context
   * @param {Window} window
   * @param {string} verdict
   * @param {number} [within]
   */
  async function says(context, window, verdict, within = 20_000) {
    let said = await ask(window);
    try {
      await until(`the verdict ${verdict}`, async () => (said = await ask(window)).verdict === verdict, { within, every: 200 });
    } catch (error) {
      throw new Error(`${/** @type {Error} */ (error).message}\n${JSON.stringify(said, null, 1)}`);
    }
    context.diagnostic(said.sentence);
    assert.doesNotMatch(JSON.stringify(said), ADDRESS);
    return said;
  }

  for (const browser of ['chromium', 'firefox']) {
    test(`${browser}, where everything is open: connected over UDP`, async (context) => {
      await inWindow(browser, {}, async (window) => {
        await window.onRung('udp');
        const { now, sentence, attempts } = await says(context, window, 'connected');
        assert.deepEqual([now.state, now.rung], ['connected', 'udp']);
        assert.match(sentence, /^Connected over UDP after \d/);
        assert.deepEqual(attempts.map(({ by, endedMs }) => [by, endedMs]), [['webrtc', null], ['websocket', null]]);
        const pair = attempts[0].pairs.find(({ state }) => state === 'succeeded');
        assert.deepEqual([pair.from.endsWith('/udp'), pair.to], [true, 'host/udp']);
        for (const [of, state] of [['ice', 'connected'], ['dtls', 'connected'], ['sctp', 'connected'], ['channel', 'open']]) {
          assert.ok(attempts[0].states.some((change) => change.of === of && change.state === state), `${of} ${state}`);
        }
      });
    });

    test(`${browser}, UDP blocked: it says so, and that ICE over TCP worked; the panel shows it`, async (context) => {
      stage.network.blockUdp();
      await inWindow(browser, { width: 360 }, async (window) => {
        await window.onRung('tcp');
        const { sentence } = await says(context, window, 'udp_blocked');
        assert.match(sentence, /^UDP is blocked: .*over UDP.*; ICE over TCP worked\.$/);
        await window.page.focus('#why > summary');
        await window.page.keyboard.press('Enter');
        await until('the panel says it', async () => /^UDP is blocked: .*; ICE over TCP worked\.$/.test((await window.shown('why-sentence')) ?? ''));
        const shown = await window.evaluate(() => ({
          attempts: [...document.querySelectorAll('#why-attempts > li')].map(({ dataset }) => dataset.verdict),
          pairs: document.querySelector('#why-attempts')?.textContent?.includes('host/udp → host/udp'),
          tooWide: document.documentElement.scrollWidth > innerWidth,
        }));
        assert.deepEqual(shown, { attempts: ['connected', 'udp_blocked'], pairs: true, tooWide: false });
        assert.deepEqual(window.complaints, []);
      });
    });

    test(`${browser}, nothing but TCP 443: UDP is blocked, and TURN over TLS worked`, async (context) => {
      const single = await stage.startServer({
        SWITCHYARD__TURN__LISTEN__TLS_PORT: '443',
        SWITCHYARD__TURN__LISTEN__HTTPS: 'true',
        SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
      });
      stage.network.allowTcpOnly(443);
      try {
        const hash = `#token=${tokenFor(API_KEY, { user: 'ann', name: 'Ann', room: `why-${browser}` })}`;
        await inWindow(browser, { at: { url: `https://${NAME}` }, hash }, async (window) => {
          await window.onRung('relay');
          const { sentence, attempts } = await says(context, window, 'udp_blocked');
          assert.match(sentence, /^UDP is blocked: .*over UDP.*; TURN over TLS worked\.$/);
          const attempt = attempts.find(({ by }) => by === 'webrtc');
          assert.deepEqual([attempt.relays, attempt.restarts, attempt.relay], [true, 1, 'tls']);
          assert.ok(attempt.gathered.some(({ kind }) => kind === 'relay/tls'), JSON.stringify(attempt.gathered));
        });
      } finally {
        await single.stop();
      }
    });

    test(`${browser}, UDP blocked, neither ICE-TCP nor TURN: the attempt ends, and the WebSocket carries the data`, async (context) => {
      const plain = await stage.startServer({ SWITCHYARD__RTC__TCP_ENABLED: 'false', SWITCHYARD__TURN__MODE: 'off' });
      stage.network.blockUdp();
      try {
        await inWindow(browser, { at: plain }, async (window) => {
          await window.evaluate(() => {
            globalThis.ended = new Promise((resolve) => globalThis.switchyard.session.on('attempt', resolve));
          });
          const { sentence } = await says(context, window, 'udp_blocked');
          assert.match(sentence, /^UDP is blocked: .*over UDP.* The WebSocket carries the data\.$/);
          const ended = await window.evaluate(() => globalThis.ended);
          assert.deepEqual([ended.by, ended.verdict, ended.connectedMs], ['webrtc', 'udp_blocked', null]);
        });
      } finally {
        await plain.stop();
      }
    });

    test(`${browser}, a TURN server that nobody reaches: it says so`, async (context) => {
      const apart = await stage.startServer({ SWITCHYARD__RTC__TCP_ENABLED: 'false' });
      stage.network.allowTcpOnly(apart.port);
      try {
        await inWindow(browser, { at: apart }, async (window) => {
          const { sentence, attempts } = await says(context, window, 'relay_unreachable');
          assert.match(sentence, /over UDP.*the TURN server gave no relay/i);
          assert.equal(attempts.find(({ by }) => by === 'webrtc').relays, true);
        });
      } finally {
        await apart.stop();
      }
    });

    test(`${browser}, a TURN server that does not take the password: its answer is told`, async (context) => {
      const window = await Window.open(stage.browsers[browser], stage.server.url);
      try {
        await window.evaluate(async () => {
          const { connect } = await import('/client/index.js');
          const getToken = async (room) => {
            const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user: 'ann' })}`);
            return (await response.json()).token;
          };
          const iceServers = (servers) => servers.map((each) => (each.username ? { ...each, credential: 'wrong' } : each));
          const session = connect({ iceTransportPolicy: 'relay', iceServers, getToken });
          Object.assign(globalThis, { switchyard: { session } });
          await session.join({ room: 'refused', log: false });
        });
        const { sentence } = await says(context, window, 'relay_refused');
        assert.match(sentence, /TURN server refused: 401 .*over (UDP|TCP|TLS)/);
      } finally {
        await window.close();
      }
    });

    test(`${browser}, the server is gone: it cannot be reached`, async (context) => {
      const mortal = await stage.startServer();
      await inWindow(browser, { at: mortal }, async (window) => {
        await window.onRung('udp');
        await mortal.stop('SIGKILL');
        const { now, sentence, attempts } = await says(context, window, 'server_unreachable');
        assert.equal(now.state, 'reconnecting');
        assert.match(sentence, /^The server cannot be reached: .*HTTP is not answered either/);
        assert.deepEqual(attempts.filter(({ verdict }) => verdict === 'websocket_lost').length, 1);
      });
    });
  }
});

/** @param {Window} window @returns {Promise<any>} */
function ask(window) {
  return window.evaluate(() => globalThis.switchyard.session.diagnose());
}
