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

test('who is refused waits at random below a bound that doubles; who is not answered waits some seconds at first', () => {
  const refused = new Reconnect(() => 1);
  assert.deepEqual([1, 2, 3, 4, 5, 6, 7, 8].map((n) => refused.failed(n, n, false)), [200, 400, 800, 1_600, 3_200, 6_400, 12_800, 20_000]);
  for (const [random, wait] of [[() => 0, 4_000], [() => 1, 6_000]]) {
    const silent = new Reconnect(random);
    assert.deepEqual([0, 8_000, 16_000].map((now) => silent.failed(now, now - 2_000, true)), [wait, wait, wait]);
  }
});

test('after half a minute without an answer the waits grow, less what the attempts took', () => {
  const reconnect = new Reconnect(() => 1);
  for (let n = 0; n < 6; n += 1) reconnect.failed(n, n, true);
  assert.equal(reconnect.failed(30_000, 28_000, true), 12_800 - 2_000);
  assert.equal(reconnect.failed(50_000, 48_000, true), 20_000 - 2_000);
});
