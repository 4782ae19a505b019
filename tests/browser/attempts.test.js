/**
 * What the operator is told of Chromium and Firefox: records of their attempts to connect, with what the server has seen of
 * them, and the mark of a member's connection in the demo's list of people.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Demo } from './lib/demo.js';
import { NO_NAMESPACES } from './lib/network.js';
import { Stage } from './lib/stage.js';
import { tokenFor } from './lib/token.js';
import { until } from './lib/wait.js';

const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };

/** @typedef {{ by: string, verdict: string, seen?: string, told_by: string, rung?: string, rooms: string[], details?: any }} Told */

describe('records of attempts', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;
  /** @type {import('./lib/server.js').Server} */
  let server;

  before(async () => {
    stage = await Stage.open();
    server = await stage.startServer({
      SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
      SWITCHYARD__RTC__TCP_ENABLED: 'false',
      SWITCHYARD__TURN__MODE: 'off',
    });
  });
  after(async () => {
    await server?.stop();
    await stage?.close();
  });

  /** @param {string} browser @param {string} user */
  function join(browser, user) {
    const hash = `#token=${tokenFor(API_KEY, { user, name: user, room: 'lab' })}`;
    return Demo.join(stage.browsers[browser], server, { name: user, room: 'lab', hash });
  }

  /** A record of this user that is told. @param {string} user @param {(told: Told) => boolean} isIt */
  async function told(user, isIt) {
    /** @type {Told[]} */
    let attempts = [];
    const headers = { authorization: `Bearer ${API_KEY.key}:${API_KEY.secret}` };
    try {
      await until('the record is there', async () => {
        const answer = await fetch(`${server.url}/v1/attempts?user=${user}`, { headers });
        ({ attempts } = /** @type {{ attempts: Told[] }} */ (await answer.json()));
        return attempts.some(isIt);
      }, { within: 40_000, every: 200 });
    } catch (error) {
      throw new Error(`${/** @type {Error} */ (error).message}\n${JSON.stringify(attempts, null, 1)}`);
    }
    return /** @type {Told} */ (attempts.find(isIt));
  }

  for (const browser of ['chromium', 'firefox']) {
    test(`${browser}: what connects is told with its rung, and the server has seen it open`, async () => {
      const user = `open-${browser}`;
      const window = await join(browser, user);
      try {
        await window.onRung('udp');
        const peer = await told(user, ({ by, told_by: teller }) => by === 'webrtc' && teller === 'client');
        assert.deepEqual([peer.verdict, peer.seen, peer.rung, peer.rooms], ['connected', 'open', 'udp', ['lab']]);
        assert.ok(peer.details.states.length > 0);
        const socket = await told(user, ({ by }) => by === 'websocket');
        assert.deepEqual([socket.verdict, socket.rung], ['connected', 'websocket']);
      } finally {
        await window.close();
      }
    });

    test(`${browser}, UDP blocked: the client's word and the server's agree that no check came`, async () => {
      const user = `blocked-${browser}`;
      stage.network.blockUdp();
      const window = await join(browser, user);
      try {
        const server = await told(user, ({ told_by: teller }) => teller === 'server');
        assert.deepEqual([server.verdict, server.seen], ['no_path', 'offer']);
        const client = await told(user, ({ by, told_by: teller }) => by === 'webrtc' && teller === 'client');
        assert.deepEqual([client.verdict, client.seen], ['udp_blocked', 'offer'], JSON.stringify(client));
        assert.doesNotMatch(JSON.stringify(client), /198\.18\.\d+\.\d+|\.local\b/);
      } finally {
        stage.network.allowAll();
        await window.close();
      }
    });
  }

  test('in the list of people everybody else has a mark that says how good their connection is', async () => {
    const windows = [await join('chromium', 'ann'), await join('firefox', 'bob')];
    try {
      for (const window of windows) {
        await until('there is a mark', async () => {
          const marks = await window.evaluate(() =>
            [...document.querySelectorAll('#people .signal')].map((mark) => [mark.getAttribute('role'), mark.getAttribute('aria-label') ?? '']),
          );
          return marks.length === 1 && marks[0][0] === 'img' && /connection, (udp|websocket)$/.test(marks[0][1]);
        }, { within: 20_000 });
      }
    } finally {
      await Promise.all(windows.map((window) => window.close()));
    }
  });
});
