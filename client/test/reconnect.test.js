// How long a WebSocket may take to open, and what is waited for before the next attempt.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Reconnect } from '../src/reconnect.js';

test('a known network is given two seconds and four round trips, an unknown one six seconds', () => {
  const reconnect = new Reconnect(() => 0);
  assert.equal(reconnect.patience(0, null), 6_000);
  assert.equal(reconnect.patience(0, 25), 2_100);
  assert.equal(reconnect.patience(0, 5_000), 6_000);
});

test('after some failures an attempt may take longer, in case the network has become slow', () => {
  const reconnect = new Reconnect(() => 0);
  const patience = [];
  for (let now = 0; now < 36_000; now += 6_000) {
    reconnect.failed(now, now - 2_000, true);
    patience.push(reconnect.patience(now, 25));
  }
  assert.deepEqual(patience, [2_100, 2_100, 2_100, 4_100, 4_100, 6_000]);
  reconnect.reset();
  assert.equal(reconnect.patience(40_000, 25), 2_100);
});

test('who is not answered waits some seconds at first, and somebody asks for the network', () => {
  for (const [random, wait] of [[() => 0, 4_000], [() => 1, 6_000]]) {
    const silent = new Reconnect(random);
    assert.deepEqual([0, 8_000, 16_000].map((now) => silent.failed(now, now - 2_000, true)), [wait, wait, wait]);
    assert.ok(silent.asks(16_000, true));
  }
});

test('who is refused tries three times soon, once more, and when half a minute has passed, while somebody asks for the network: the own link may be down, or the server away for a moment', () => {
  const refused = new Reconnect(() => 1);
  const at = [0, 200, 600, 1_400, 13_400, 29_000];
  const seen = at.map((now) => [refused.failed(now, now, false), refused.asks(now, false)]);
  assert.deepEqual(seen, [[200, false], [400, false], [800, false], [12_000, true], [16_600 + 4_000, true], [12_000, true]]);
});

test('who has been refused for half a minute waits at random below a bound that doubles, and nobody asks', () => {
  const refused = new Reconnect(() => 1);
  for (let n = 0; n < 5; n += 1) refused.failed(n, n, false);
  const seen = [30_000, 40_000, 60_000, 90_000].map((now) => [refused.failed(now, now, false), refused.asks(now, false)]);
  assert.deepEqual(seen, [[6_400, false], [12_800, false], [20_000, false], [20_000, false]]);
});

test('who is refused though the network has been found back waits longer each time, and nobody asks again', () => {
  const refused = new Reconnect(() => 1);
  for (let n = 0; n < 4; n += 1) refused.failed(n, n, false);
  refused.found();
  assert.deepEqual([5, 6].map((now) => [refused.failed(now, now, false), refused.asks(now, false)]), [[3_200, false], [6_400, false]]);
  refused.reset();
  for (let n = 0; n < 4; n += 1) refused.failed(n, n, false);
  assert.ok(refused.asks(4, false));
});

test('after half a minute without an answer the waits grow, less what the attempts took', () => {
  const reconnect = new Reconnect(() => 1);
  for (let n = 0; n < 6; n += 1) reconnect.failed(n, n, true);
  assert.equal(reconnect.failed(30_000, 28_000, true), 12_800 - 2_000);
  assert.equal(reconnect.failed(50_000, 48_000, true), 20_000 - 2_000);
});
