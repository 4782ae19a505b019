/**
 * The server's own TURN: browsers reach rooms through it by UDP, TCP and TLS, and each other; and where a network lets
 * nothing out but TCP 443, one port serves page, WebSocket and relay.
 */

import assert from 'node:assert/strict';
import { after, before, describe, test } from 'node:test';

import { Demo } from './lib/demo.js';
import { NO_NAMESPACES } from './lib/network.js';
import { NAME, Stage } from './lib/stage.js';
import { tokenFor } from './lib/token.js';
import { until } from './lib/wait.js';
import { Window } from './lib/window.js';

const TRANSPORTS = /** @type {const} */ (['udp', 'tcp', 'tls']);
const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };
const MESSAGE_BYTES = 100_000;

describe('TURN', { skip: NO_NAMESPACES }, () => {
  /** @type {Stage} */
  let stage;

  before(async () => {
    stage = await Stage.open();
  });
  after(() => stage?.close());

  /**
   * A window whose session goes by a relay alone, reached by one transport: `session`, `room`, and what arrives in `inbox`.
   * `pairOf` names the ends of a peer connection's selected pair.
   * @param {string} browser
   * @param {string} room
   * @param {string} transport
   */
  async function enter(browser, room, transport) {
    const window = await Window.open(stage.browsers[browser], stage.server.url);
    await window.evaluate(
      async (who, name, by) => {
        const { connect } = await import('/client/index.js');
        const isWanted = (url) => (by === 'tls' ? url.startsWith('turns:') : url.startsWith('turn:') && url.endsWith(`=${by}`));
        const iceServers = (servers) => {
          const wanted = servers.map((server) => ({ ...server, urls: server.urls.filter(isWanted) }));
          return wanted.filter(({ urls }) => urls.length > 0);
        };
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
        const environment = { RTCPeerConnection: watched };
        const session = connect({ iceTransportPolicy: 'relay', peerToPeer: 'off', iceServers, getToken, environment });
        const pairOf = async (connection) => {
          const stats = new Map([...(await connection.getStats())]);
          const all = [...stats.values()];
          const transport = all.find(({ type, selectedCandidatePairId }) => type === 'transport' && selectedCandidatePairId);
          const pair = transport
            ? stats.get(transport.selectedCandidatePairId)
            : all.find(({ type, selected }) => type === 'candidate-pair' && selected);
          const local = pair && stats.get(pair.localCandidateId);
          const remote = pair && stats.get(pair.remoteCandidateId);
          return pair && { local: local.candidateType, by: local.relayProtocol, remote: remote.candidateType };
        };
        const room = await session.join({ room: name, log: false });
        const inbox = [];
        room.on('data', ({ data, sender }) => inbox.push({ from: sender.user, data }));
        Object.assign(globalThis, { session, room, inbox, connections, pairOf });
      },
      browser,
      room,
      transport,
    );
    return window;
  }

  /**
   * Chromium and Firefox in one room; afterwards both windows are closed. The server may take them for present for a while.
   * @param {string} room
   * @param {string} transport
   * @param {(windows: Record<string, Window>) => Promise<void>} act
   */
  async function together(room, transport, act) {
    /** @type {Record<string, Window>} */
    const windows = {};
    try {
      for (const browser of ['chromium', 'firefox']) windows[browser] = await enter(browser, room, transport);
      for (const [browser, window] of Object.entries(windows)) {
        await window.until(`${browser} sees the other`, () => globalThis.room.members.size === 1);
      }
      await act(windows);
      for (const window of Object.values(windows)) assert.deepEqual(window.complaints, []);
    } finally {
      await Promise.all(Object.values(windows).map((window) => window.close()));
    }
  }

  /** How a metric of the relay grows while something is done. @param {() => Promise<void>} act */
  async function growth(act) {
    const read = async () => {
      const metrics = await stage.server.metrics();
      const of = (direction) => metrics.sum('turn_relayed_bytes_total', { direction });
      return {
        toSfu: of('to_sfu'),
        toClients: of('to_clients'),
        between: of('between_allocations'),
        ...Object.fromEntries(TRANSPORTS.map((by) => [by, metrics.sum('turn_allocations_total', { transport: by })])),
      };
    };
    const start = await read();
    await act();
    return async () => {
      const end = await read();
      return Object.fromEntries(Object.entries(end).map(([name, value]) => [name, value - start[name]]));
    };
  }

  for (const transport of TRANSPORTS) {
    test(`a room is reached by ${transport.toUpperCase()}, and data goes both ways`, async () => {
      const grown = await growth(() =>
        together(`room-${transport}`, transport, async (windows) => {
          for (const [browser, window] of Object.entries(windows)) {
            await until(`${browser} is on a relay`, () => window.evaluate(() => globalThis.session.rung === 'relay'), { within: 20_000 });
            const seen = await window.evaluate(async () => {
              const pair = await globalThis.pairOf(globalThis.connections[0]);
              return { pair, relay: globalThis.session.stats().relay, connections: globalThis.connections.length };
            });
            assert.deepEqual([seen.pair.local, seen.pair.by, seen.relay, seen.connections], ['relay', transport, transport, 1], browser);
          }
          await until('the metrics say so', async () => (await stage.server.metrics()).sum('sessions', { rung: 'relay' }) === 2);
          for (const window of Object.values(windows)) {
            await window.evaluate((size) => {
              globalThis.room.send(Uint8Array.from({ length: size }, (_, index) => (index * 31) % 251));
            }, MESSAGE_BYTES);
          }
          for (const [browser, window] of Object.entries(windows)) {
            await window.until(
              `${browser} has what the other sent`,
              (size) => {
                const [{ data } = { data: '' }, ...more] = globalThis.inbox;
                return data.length === size && data.every((byte, index) => byte === (index * 31) % 251) && more.length === 0;
              },
              MESSAGE_BYTES,
            );
          }
          assert.deepEqual(await windows.chromium.evaluate(() => globalThis.session.rung), 'relay', 'still');
        }),
      );
      const enough = await until('the relay has counted it', async () => {
        const now = await grown();
        return now.toSfu > 2 * MESSAGE_BYTES && now.toClients > 2 * MESSAGE_BYTES ? now : null;
      });
      for (const by of TRANSPORTS) assert.equal(enough[by] >= 2, by === transport, `allocations by ${by}: ${enough[by]}`);
      assert.equal(enough.between, 0);
    });
  }

  for (const transport of TRANSPORTS) {
    test(`Chromium and Firefox reach each other by ${transport.toUpperCase()}, relay to relay`, async () => {
      const grown = await growth(() =>
        together(`pair-${transport}`, transport, async (windows) => {
          for (const window of Object.values(windows)) await window.evaluate(prepare);
          await windows.chromium.evaluate(() => globalThis.call());
          for (const [browser, window] of Object.entries(windows)) {
            await until(`${browser}'s channel is open`, () => window.evaluate(() => globalThis.own.channel?.readyState === 'open'), { within: 20_000 });
          }
          for (const window of Object.values(windows)) {
            await window.evaluate((size) => {
              for (let left = size; left > 0; left -= 10_000) globalThis.own.channel.send(new Uint8Array(10_000));
            }, MESSAGE_BYTES);
          }
          for (const [browser, window] of Object.entries(windows)) {
            await window.until(`${browser} has all of it`, (size) => globalThis.own.received === size, MESSAGE_BYTES);
            const pair = await window.evaluate(() => globalThis.pairOf(globalThis.own.connection));
            assert.deepEqual(pair, { local: 'relay', by: transport, remote: 'relay' }, browser);
          }
        }),
      );
      await until('the relay has counted it', async () => (await grown()).between > 2 * MESSAGE_BYTES);
    });
  }

  test('where nothing but TCP 443 gets out, page, WebSocket and relay come through it', async (context) => {
    const single = await stage.startServer({
      SWITCHYARD__TURN__LISTEN__TLS_PORT: '443',
      SWITCHYARD__TURN__LISTEN__HTTPS: 'true',
      SWITCHYARD__KEYS__APP__SECRET: API_KEY.secret,
    });
    /** @type {Demo[]} */
    const windows = [];
    stage.network.allowTcpOnly(443);
    try {
      const people = { Ann: 'firefox', Ben: 'chromium' };
      for (const [name, browser] of Object.entries(people)) {
        const token = tokenFor(API_KEY, { user: name.toLowerCase(), name, room: 'narrow' });
        const started = Date.now();
        const window = await Demo.join(stage.browsers[browser], { url: `https://${NAME}` }, { name, room: 'narrow', hash: `#token=${token}` });
        windows.push(window);
        await window.onRung('relay');
        context.diagnostic(`${browser} is on the relay ${Date.now() - started} ms after it began to load the page`);
        assert.equal(await window.evaluate(() => window.switchyard.session.stats().relay), 'tls');
        await until('the panel says so', async () => (await window.shown('stat-rung')) === 'Data channel, TURN relay over TLS');
      }
      const [ann, ben] = windows;
      await Promise.all([ann.sees('Ann', 'Ben'), ben.sees('Ben', 'Ann')]);
      await ann.say('from Ann');
      await ben.hears('Ann', 'from Ann');
      await ben.say('from Ben');
      await ann.hears('Ben', 'from Ben');
      await ann.draw([0.2, 0.2], [0.4, 0.6]);
      await ben.seesInk(0.3, 0.4);
      assert.deepEqual([await ann.rung(), await ben.rung()], ['relay', 'relay']);
      assert.deepEqual([...ann.complaints, ...ben.complaints], []);
      const metrics = await single.metrics();
      assert.equal(metrics.sum('turn_allocations', { transport: 'tls' }) >= 2, true);
      assert.equal(metrics.sum('turn_allocations_total', { transport: 'udp' }) + metrics.sum('turn_allocations_total', { transport: 'tcp' }), 0);
      assert.ok(metrics.sum('turn_connections_total', { transport: 'tls', outcome: 'http' }) >= 4, 'pages and WebSockets');
    } finally {
      stage.network.allowAll();
      await Promise.all([...windows.map((window) => window.close()), single.stop()]);
    }
  });
});

/** In the page: a peer connection to the other in the room, by relays of the session, signalled by the room. */
async function prepare() {
  const { session, room } = globalThis;
  const [peer] = room.members.values();
  const connection = new RTCPeerConnection({ iceServers: await session.iceServers(), iceTransportPolicy: 'relay' });
  const own = { connection, channel: null, received: 0 };
  const tell = (data) => room.signal({ member: peer.member }, data);
  const use = (channel) => {
    channel.binaryType = 'arraybuffer';
    channel.onmessage = ({ data }) => (own.received += data.byteLength);
    own.channel = channel;
  };
  connection.onicecandidate = ({ candidate }) => candidate && tell({ candidate: candidate.toJSON() });
  connection.ondatachannel = ({ channel }) => use(channel);
  room.on('signal', async ({ data }) => {
    if (data.candidate) {
      await connection.addIceCandidate(data.candidate);
      return;
    }
    await connection.setRemoteDescription(data.description);
    if (data.description.type !== 'offer') return;
    await connection.setLocalDescription(await connection.createAnswer());
    tell({ description: connection.localDescription.toJSON() });
  });
  const call = async () => {
    use(connection.createDataChannel('direct'));
    await connection.setLocalDescription(await connection.createOffer());
    tell({ description: connection.localDescription.toJSON() });
  };
  Object.assign(globalThis, { own, call });
}
