/**
 * SIG2, SIG3, SIG5, LAD1: two people, each behind a gateway of their own, on networks that let less and less through. In
 * every one of them both reach the room and each other, both are on the best rung that the network leaves them, and where
 * there is a way between them they have a connection of their own beside it.
 *
 * Chromium and Firefox, each with each. `ATTEMPTS=10` makes ten attempts in each network instead of four.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { chromiumIn, firefoxIn } from './lib/browsers.js';
import { Crossing, NO_UDP, onlyTcp } from './lib/crossing.js';
import { NO_NAMESPACES } from './lib/network.js';
import { Server } from './lib/server.js';
import { tokenFor } from './lib/token.js';
import { Window } from './lib/window.js';

const NAME = 'switchyard.test';
const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };
const ATTEMPTS = Number(process.env.ATTEMPTS ?? 4);
const PAIRS = [
  ['chromium', 'firefox'],
  ['chromium', 'chromium'],
  ['firefox', 'firefox'],
  ['firefox', 'chromium'],
];
/** From the first call to data on the best rung. Relays join in after a second; a browser takes a while under load. */
const BEST_RUNG_MS = 15_000;

describe('two people behind gateways', { skip: NO_NAMESPACES }, () => {
  /** @type {Crossing} */
  let crossing;
  /** @type {Server} */
  let server;
  /** By place and name. @type {Record<string, Record<string, import('puppeteer-core').Browser>>} */
  const browsers = { a: {}, b: {} };
  let people = 0;

  before(async () => {
    crossing = new Crossing(NAME);
    server = await Server.start({
      ip: crossing.serverIp,
      prefix: crossing.inServer,
      environment: {
        SWITCHYARD__TURN__HOST: NAME,
        SWITCHYARD__TURN__LISTEN__TLS_PORT: '443',
        SWITCHYARD__TURN__LISTEN__HTTPS: 'true',
        SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
      },
    });
    for (const place of /** @type {const} */ (['a', 'b'])) {
      browsers[place].chromium = await chromiumIn(crossing.at(place), { anyCertificate: true });
      browsers[place].firefox = await firefoxIn(crossing.at(place), { anyCertificate: true });
    }
  });

  after(async () => {
    const all = Object.values(browsers).flatMap((each) => Object.values(each));
    await Promise.all([...all.map((browser) => browser.close()), server?.stop()]);
    crossing?.remove();
  });

  /**
   * A window in a room, with what it measured from the call of `connect` on: `joined`, from when on it can send,
   * `firstMessage` from the other, who may come later, `bestRung`, and `peer`: the wanted way to the other.
   * @param {'a' | 'b'} place
   * @param {string} browser
   * @param {string} url
   * @param {{ room: string, rung: string, peer: string }} where
   */
  async function enter(place, browser, url, { room, rung, peer }) {
    people += 1;
    const user = `${place}${people}`;
    const window = await Window.open(browsers[place][browser], url);
    await window.evaluate(
      async (name, token, wanted, way) => {
        const { connect } = await import('/client/index.js');
        const began = performance.now();
        /** @type {Record<string, number | undefined>} */
        const measured = {};
        const note = (what) => (measured[what] ??= Math.round(performance.now() - began));
        const session = connect();
        session.on('rung', (reached) => reached === wanted && note('bestRung'));
        const joined = await session.join({ room: name, token, log: false });
        note('joined');
        if (way === 'server') note('peer');
        joined.on('peer', ({ state }) => state === way && note('peer'));
        const inbox = [];
        joined.on('data', ({ data }) => {
          note('firstMessage');
          inbox.push(data);
        });
        const send = () => joined.members.size > 0 && joined.send(String((sent += 1)));
        let sent = 0;
        const timer = setInterval(send, 50);
        const stop = () => {
          clearInterval(timer);
          return sent;
        };
        Object.assign(globalThis, { session, room: joined, inbox, measured, stop });
      },
      room,
      tokenFor(API_KEY, { user, name: user, room }),
      rung,
      peer,
    );
    return window;
  }

  const plain = () => server.url;
  const https = () => `https://${NAME}`;
  /** What each network is, the rung that each place is to reach, and the way from one to the other. */
  const NETWORKS = [
    { title: 'open', a: {}, b: {}, rungs: ['udp', 'udp'], peer: 'direct', url: plain },
    { title: 'port-restricted NAT at both', a: { nat: 'port-restricted' }, b: { nat: 'port-restricted' }, rungs: ['udp', 'udp'], peer: 'direct', url: plain },
    { title: 'symmetric NAT at both', a: { nat: 'symmetric' }, b: { nat: 'symmetric' }, rungs: ['udp', 'udp'], peer: 'relay', url: plain },
    { title: 'no UDP at one', a: { lets: NO_UDP }, b: { nat: 'port-restricted' }, rungs: ['tcp', 'udp'], peer: 'relay', url: plain },
    { title: 'nothing but TCP 443', a: { lets: onlyTcp(443) }, b: { lets: onlyTcp(443) }, rungs: ['relay', 'relay'], peer: 'relay', url: https },
    {
      title: 'nothing but HTTP to the server',
      a: () => ({ lets: onlyTcp(server.port) }),
      b: () => ({ lets: onlyTcp(server.port) }),
      rungs: ['websocket', 'websocket'],
      peer: 'server',
      url: plain,
    },
  ];

  for (const { title, a, b, rungs, peer, url } of NETWORKS) {
    test(`${title}: ${rungs.join(' and ')}, to each other ${peer}`, async (context) => {
      crossing.set('a', typeof a === 'function' ? a() : a);
      crossing.set('b', typeof b === 'function' ? b() : b);
      for (let attempt = 0; attempt < ATTEMPTS; attempt += 1) {
        const pair = PAIRS[attempt % PAIRS.length];
        const room = `${title.replaceAll(' ', '-')}-${attempt}`;
        /** @type {Window[]} */
        const windows = [];
        try {
          windows.push(
            ...(await Promise.all(
              /** @type {const} */ (['a', 'b']).map((place, index) => enter(place, pair[index], url(), { room, rung: rungs[index], peer })),
            )),
          );
          const measured = await Promise.all(
            windows.map(async (window, index) => {
              await window.until('the other is heard', () => globalThis.inbox.length > 0);
              await window.until(`${pair[index]} is on ${rungs[index]}`, () => globalThis.measured.bestRung !== undefined);
              await window.until(`${pair[index]} has the way ${peer}`, () => globalThis.measured.peer !== undefined);
              return window.evaluate(() => globalThis.measured);
            }),
          );
          // Across the climbing: complete, once, in order.
          const sent = await Promise.all(windows.map((window) => window.evaluate(() => globalThis.stop())));
          for (const [index, window] of windows.entries()) {
            const expected = sent[1 - index];
            await window.until(`all ${expected} messages`, (count) => globalThis.inbox.length >= count, expected);
            const inbox = await window.evaluate(() => globalThis.inbox);
            assert.deepEqual(inbox, Array.from({ length: expected }, (_, at) => String(at + 1)));
            assert.ok(measured[index].bestRung <= BEST_RUNG_MS, `${pair[index]}: ${measured[index].bestRung} ms`);
          }
          const told = measured.map(({ joined, firstMessage, bestRung, peer: way }, index) =>
              `${pair[index]} joined after ${joined} ms, heard the other after ${firstMessage} ms, on ${rungs[index]} after ${bestRung} ms, ${peer} after ${way} ms`);
          context.diagnostic(told.join('; '));
        } finally {
          await Promise.all(windows.map((window) => window.close()));
        }
      }
    });
  }
});
