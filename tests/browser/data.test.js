/** The client's messages in real browsers: large ones byte for byte, and several rooms over one connection. */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { launch } from './lib/browsers.js';
import { Server } from './lib/server.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const MESSAGE_BYTES = 262_144;

describe('the client', () => {
  /** @type {Server} */
  let server;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  const browsers = {};

  before(async () => {
    const [started, chromium, firefox] = await Promise.all([Server.start(), launch('chromium'), launch('firefox')]);
    server = started;
    Object.assign(browsers, { chromium, firefox });
  });

  after(async () => {
    await Promise.all([...Object.values(browsers).map((browser) => browser.close()), server?.stop()]);
  });

  /**
   * A window with a session, `window.session`, in these rooms, `window.rooms`; what arrives is in `window.inbox`.
   * @param {string} browser
   * @param {string} user
   * @param {string[]} rooms
   * @param {string} rung to be waited for, if a room is joined
   */
  async function enter(browser, user, rooms, rung, at = server) {
    const window = await Window.open(browsers[browser], at.url);
    await window.evaluate(
      async (who, transport) => {
        const { connect } = await import('/client/index.js');
        const getToken = async (room) => {
          const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user: who })}`);
          return (await response.json()).token;
        };
        Object.assign(globalThis, { session: connect({ transport, getToken }), rooms: {}, inbox: [] });
      },
      user,
      rung === 'websocket' ? 'websocket' : 'auto',
    );
    for (const room of rooms) await join(window, room);
    if (rooms.length > 0) await window.until(`${user} is on ${rung}`, (wanted) => globalThis.session.rung === wanted, rung);
    return window;
  }

  /** @param {Window} window @param {string} room */
  function join(window, room) {
    return window.evaluate(async (name) => {
      const { session, rooms, inbox } = globalThis;
      rooms[name] = await session.join({ room: name, log: false });
      rooms[name].on('data', ({ data, sender }) => inbox.push({ room: name, from: sender.user, data }));
    }, room);
  }

  for (const [first, second, rung] of [
    ['chromium', 'firefox', 'udp'],
    ['chromium', 'firefox', 'websocket'],
    ['firefox', 'chromium', 'udp'],
    ['firefox', 'chromium', 'websocket'],
  ]) {
    test(`256 KiB arrive as they were sent, from ${first} to ${second} over ${rung}`, async () => {
      const room = `large-${first}-${rung}`;
      const ann = await enter(first, 'ann', [room], rung);
      const ben = await enter(second, 'ben', [room], rung);
      try {
        await ann.until('both are there', (name) => globalThis.rooms[name].members.size === 1, room);
        await ann.evaluate(
          (name, size, source) => {
            const { bytes, text } = new Function(`return ${source}`)()(size);
            globalThis.rooms[name].send(bytes);
            globalThis.rooms[name].send(text);
          },
          room,
          MESSAGE_BYTES,
          String(sample),
        );
        await ben.until('both messages are there', () => globalThis.inbox.length === 2);
        const verdict = await ben.evaluate(
          (size, source) => {
            const [first, second] = globalThis.inbox;
            const { bytes, text } = new Function(`return ${source}`)()(size);
            const same =
              first.data instanceof Uint8Array &&
              first.data.length === bytes.length &&
              first.data.every((byte, index) => byte === bytes[index]);
            return { binary: same, size: first.data.length, text: second.data === text, from: first.from };
          },
          MESSAGE_BYTES,
          String(sample),
        );
        assert.deepEqual(verdict, { binary: true, size: MESSAGE_BYTES, text: true, from: 'ann' });
        assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      } finally {
        await Promise.all([ann.close(), ben.close()]);
      }
    });
  }

  for (const browser of ['chromium', 'firefox']) {
    test(`a message that is too large is refused in ${browser} before anything is sent`, async () => {
      const ann = await enter(browser, 'ann', ['oversize'], 'udp');
      const ben = await enter('chromium', 'ben', ['oversize'], 'udp');
      try {
        const codes = await ann.evaluate((size) => {
          const room = globalThis.rooms.oversize;
          const before = globalThis.session.stats();
          const codes = [new Uint8Array(size + 1), `${'é'.repeat(size / 2)}!`].map((message) => {
            try {
              room.send(message);
              return 'sent';
            } catch (error) {
              return error.code;
            }
          });
          const after = globalThis.session.stats();
          room.send('the next one');
          return [...codes, after.waitingBytes - before.waitingBytes, after.unacknowledgedBytes - before.unacknowledgedBytes];
        }, MESSAGE_BYTES);
        assert.deepEqual(codes, ['too_large', 'too_large', 0, 0]);
        await ben.until('the next message', () => globalThis.inbox.length > 0);
        assert.equal(await ben.evaluate(() => globalThis.inbox[0].data), 'the next one');
      } finally {
        await Promise.all([ann.close(), ben.close()]);
      }
    });

    test(`a tab of ${browser} in three rooms on two shards talks in each of them`, async () => {
      // A server of its own: its metrics show these rooms and nothing else.
      const own = await Server.start();
      const roomsOn = async () => {
        const metrics = await own.metrics();
        return ['0', '1'].map((shard) => metrics.sum('rooms', { shard }));
      };
      const ann = await enter(browser, 'ann', [], 'udp', own);
      const ben = await enter('chromium', 'ben', [], 'udp', own);
      try {
        // Where a room lives depends on its name alone: rooms are joined until both shards have some.
        const names = ['one', 'two', 'three', 'four', 'five', 'six', 'seven', 'eight'];
        const joined = [];
        for (const name of names) {
          await join(ann, name);
          joined.push(name);
          const rooms = await until('the metrics show the room', async () => {
            const [first, second] = await roomsOn();
            return first + second === joined.length ? [first, second] : null;
          });
          if (joined.length >= 3 && rooms.every((count) => count > 0)) break;
        }
        const three = [joined[0], joined[1], joined[joined.length - 1]];
        for (const name of joined) {
          if (three.includes(name)) await join(ben, name);
          else await ann.evaluate((room) => globalThis.rooms[room].leave(), name);
        }
        await until('three rooms on two shards, with two in each, one session and one connection for each', async () => {
          const rooms = await roomsOn();
          const metrics = await own.metrics();
          const [members, sessions, peers] = ['participants', 'sessions', 'peers'].map((name) => metrics.sum(name));
          return rooms[0] > 0 && rooms[1] > 0 && rooms[0] + rooms[1] === 3 && members === 6 && sessions === 2 && peers === 2;
        });
        for (const [from, to, user] of /** @type {const} */ ([
          [ann, ben, 'ann'],
          [ben, ann, 'ben'],
        ])) {
          await from.evaluate((rooms) => rooms.forEach((room) => globalThis.rooms[room].send(`in ${room}`)), three);
          await to.until(`three messages of ${user}`, () => globalThis.inbox.length === 3);
          const inbox = await to.evaluate(() => globalThis.inbox);
          inbox.sort((a, b) => three.indexOf(a.room) - three.indexOf(b.room));
          assert.deepEqual(inbox, three.map((room) => ({ room, from: user, data: `in ${room}` })));
        }
        for (const window of [ann, ben]) assert.equal(await window.evaluate(() => globalThis.session.rung), 'udp');
        await ann.evaluate(() => globalThis.rooms.one.leave());
        await until('one room is left, the others are not', async () => (await own.metrics()).sum('participants') === 5);
        assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      } finally {
        await Promise.all([ann.close(), ben.close()]);
        await own.stop();
      }
    });
  }
});

/**
 * Bytes and a text of this size, the same everywhere: runs in the pages, on its own.
 * @param {number} size
 */
function sample(size) {
  const bytes = new Uint8Array(size);
  let state = 0x2545_f491;
  for (let at = 0; at < size; at += 1) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    bytes[at] = state;
  }
  // Characters of one, two, three and four bytes, so that chunks end within them.
  const pattern = 'aé€😀';
  const text = pattern.repeat(Math.floor(size / 10)) + 'x'.repeat(size % 10);
  return { bytes, text };
}
