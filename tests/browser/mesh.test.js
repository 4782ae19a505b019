/**
 * Direct connections between the browsers of a room: lossy data goes from one to the other, and the server has nothing of it.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { NO_NAMESPACES } from './lib/network.js';
import { Stage } from './lib/stage.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

describe('mesh', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;
  let rooms = 0;

  before(async () => {
    stage = await Stage.open();
  });
  after(() => stage?.close());

  /**
   * A window in a room: `session`, `room`, `inbox` with what came, `peers` with what was told of the others' connections, and
   * all `connections` of the page.
   * @param {string} browser @param {string} user @param {string} room @param {object} [options] of `connect`
   */
  async function enter(browser, user, room, options = {}) {
    const window = await Window.open(stage.browsers[browser], stage.server.url);
    await window.evaluate(
      async (who, name, more) => {
        const { connect } = await import('/client/index.js');
        const getToken = async () => {
          const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room: name, user: who })}`);
          return (await response.json()).token;
        };
        const connections = [];
        const watched = class extends RTCPeerConnection {
          constructor(...args) {
            super(...args);
            connections.push(this);
          }
        };
        const session = connect({ getToken, environment: { RTCPeerConnection: watched }, ...more });
        const room = await session.join({ room: name, log: false });
        const inbox = [];
        const peers = [];
        room.on('data', ({ data, sender, seq }) => inbox.push({ from: sender.user, data, seq }));
        room.on('peer', ({ member, state }) => peers.push({ user: member.user, state, at: performance.now() }));
        Object.assign(globalThis, { session, room, inbox, peers, connections });
      },
      user,
      room,
      options,
    );
    return window;
  }

  /** Waits until a window reaches everybody so. @param {Window} window @param {number} others @param {string} state */
  async function reaches(window, others, state) {
    const ask = () => window.evaluate(() => [...globalThis.room.peers.values()].map((peer) => peer.state));
    await until(`all ${others} are reached: ${state}`, async () => (await ask()).join() === Array(others).fill(state).join(), { within: 30_000 });
  }

  const lossy = async () => {
    const metrics = await stage.server.metrics();
    return metrics.sum('messages_total', { lane: 'lossy' });
  };

  for (const [one, other] of [
    ['chromium', 'chromium'],
    ['firefox', 'firefox'],
    ['chromium', 'firefox'],
  ]) {
    test(`${one} and ${other} are connected directly, and cursors do not go over the server`, async (context) => {
      const room = `direct-${(rooms += 1)}`;
      const started = Date.now();
      const ann = await enter(one, 'ann', room);
      const ben = await enter(other, 'ben', room);
      try {
        await Promise.all([reaches(ann, 1, 'direct'), reaches(ben, 1, 'direct')]);
        context.diagnostic(`direct ${Date.now() - started} ms after the first began to load the page`);
      } finally {
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }
});
