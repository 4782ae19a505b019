/** `switchyard doctor` where clients are: in a namespace of its own, with a router between it and the server that may drop UDP. */

import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { after, before, describe, test } from 'node:test';

import { NO_NAMESPACES, Network } from './lib/network.js';
import { Server } from './lib/server.js';
import { NAME } from './lib/stage.js';

const API_KEY = { key: 'app', secret: '6c1f0d9be27a4583b1c2d3e4f5061728' };

describe('doctor', { skip: NO_NAMESPACES }, () => {
  /** @type {Network} */
  let network;
  /** @type {Server} */
  let server;

  before(async () => {
    network = new Network({ client: true, serverName: NAME });
    server = await Server.start({
      ip: network.serverIp,
      prefix: network.inServer,
      environment: {
        [`SWITCHYARD__KEYS__${API_KEY.key.toUpperCase()}__SECRET`]: API_KEY.secret,
        SWITCHYARD__RTC__ADVERTISE_ADDRESSES: network.serverIp,
        SWITCHYARD__RTC__SHARDS: '1',
        SWITCHYARD__TURN__HOST: NAME,
        SWITCHYARD__TURN__LISTEN__TLS_ENABLED: 'false',
        // The network of tests is closed to relays as others are that are special.
        SWITCHYARD__TURN__ALLOW: '198.18.0.0/15',
      },
    });
  });
  after(async () => {
    await server?.stop();
    network?.remove();
  });

  /** What it finds: its exit code, and the outcome and the sentence of each test. */
  function examine() {
    const [command, ...args] = [...network.inClient, String(process.env.SWITCHYARD_BIN)];
    const access = ['--key', API_KEY.key, '--secret', API_KEY.secret, '--timeout', '3s', '--json'];
    const { status, stdout, stderr } = spawnSync(command, [...args, 'doctor', '--url', `http://${NAME}:${server.port}`, ...access]);
    /** @type {{ tests: { test: string, outcome: string, sentence?: string }[] }} */
    const { tests } = JSON.parse(String(stdout) || `{"error": ${JSON.stringify(String(stderr))}}`);
    const outcomes = Object.fromEntries(tests.map(({ test, outcome }) => [test, outcome]));
    const sentenceOf = (/** @type {string} */ name) => tests.find(({ test }) => test === name)?.sentence ?? '';
    return { status, outcomes, sentenceOf };
  }

  test('where everything is open every test succeeds, and the relay receives from outside', () => {
    const { status, outcomes, sentenceOf } = examine();
    const all = ['name', 'http', 'websocket', 'session', 'ice-udp', 'ice-tcp', 'stun', 'turn-udp', 'relay', 'turn-tcp'];
    assert.deepEqual(outcomes, Object.fromEntries(all.map((name) => [name, 'ok'])));
    assert.equal(sentenceOf('relay'), 'receives from outside');
    assert.equal(status, 0);
  });

  test('where UDP is dropped it says so of every UDP port, and what to open', () => {
    network.blockUdp();
    try {
      const { status, outcomes, sentenceOf } = examine();
      assert.deepEqual(outcomes, {
        name: 'ok', http: 'ok', websocket: 'ok', session: 'ok', 'ice-udp': 'failed', 'ice-tcp': 'ok', stun: 'failed', 'turn-udp': 'failed',
        'turn-tcp': 'ok', relay: 'failed',
      });
      assert.match(sentenceOf('ice-udp'), /^no answer in 3 s: open UDP port \d+ \(rtc\.udp_port\) to clients/);
      assert.match(sentenceOf('stun'), /^no answer in 3 s: open UDP port \d+ \(turn\.listen\.udp_port\) to clients/);
      assert.match(sentenceOf('relay'), /^nothing comes in there: open the relay's UDP ports/);
      assert.equal(status, 1);
    } finally {
      network.allowAll();
    }
  });
});
