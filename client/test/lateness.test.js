// How late answers usually are, and that a doubt waits for that.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Lateness } from '../src/lateness.js';
import { Suspicion } from '../src/suspicion.js';

test('the bound is above what happens, and a long silence is forgotten', () => {
  const lateness = new Lateness();
  let now = 0;
  const after = (late, times) => {
    for (let n = 0; n < times; n += 1) {
      now += 200;
      lateness.came(now - late, now);
      // The rest of the bunch.
      lateness.came(now, now + 9);
    }
    return lateness.bound;
  };
  assert.equal(after(0, 10), 0);
  assert.ok(Math.abs(after(40, 60) - 40) < 2, `${lateness.bound}`);
  assert.equal(after(5_000, 1), 400);
  assert.ok(after(40, 20) < 90, `${lateness.bound}`);
  for (let n = 0; n < 40; n += 1) {
    after(0, 1);
    after(120, 1);
  }
  assert.ok(lateness.bound > 250 && lateness.bound < 400, `${lateness.bound}`);
});

test('a channel on which answers often take longer is doubted later, and sooner again when they do not', () => {
  const suspicion = new Suspicion(0);
  suspicion.answered(0, 40);
  suspicion.expect(0, true);
  let now = 0;
  const comes = (ms) => suspicion.heard((now += ms));
  for (let n = 0; n < 20; n += 1) comes(50);
  assert.equal(suspicion.doubtAt, now + 10 + 140);
  for (let n = 0; n < 10; n += 1) [20, 310].forEach(comes);
  assert.ok(suspicion.doubtAt >= now + 10 + 350, `${suspicion.doubtAt - now}`);
  for (let n = 0; n < 20; n += 1) comes(50);
  assert.equal(suspicion.doubtAt, now + 10 + 140);
});
