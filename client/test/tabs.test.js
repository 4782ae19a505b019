// Several tabs of one user, one connection: tabs, browser, network and server are imagined, in virtual time.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { connect } from '../src/index.js';
import { Browser } from './fake-tabs.js';
import { World } from './fake-network.js';

const token = (user) => `x.${Buffer.from(JSON.stringify({ iss: 'k', sub: user })).toString('base64url')}.x`;

/** A tab of `browser` in `room`, with all it hears. */
function open(browser, user, { room: name = 'r', log = false, transport = 'websocket', ...options } = {}) {
  const tab = browser.open();
  const session = connect({ url: 'ws://server', transport, environment: tab.environment, getToken: () => token(user), ...options });
  const room = session.open({ room: name, log });
  const heard = [];
  const entry = { tab, session, room, heard, errors: [], rejoined: 0, left: null };
  room.on('data', (event) => heard.push(event));
  room.on('rejoined', () => (entry.rejoined += 1));
  room.on('left', ({ reason }) => (entry.left = reason));
  session.on('error', (error) => entry.errors.push(error.code));
  return entry;
}

async function enter(browser, user, options) {
  const entry = open(browser, user, options);
  await browser.world.clock.until(() => entry.room.active);
  return entry;
}

const texts = ({ heard }) => heard.map(({ data }) => data);
const leads = ({ session }) => session.stats().tabs.leads;

test('three tabs have one connection, one session and one member', async () => {
  const world = new World();
  const browser = new Browser(world);
  const [one, two, three] = [await enter(browser, 'ann'), await enter(browser, 'ann'), await enter(browser, 'ann')];
  const bob = await enter(new Browser(world), 'bob');
  assert.equal(browser.openSockets, 1);
  assert.equal(world.server.sessions.size, 2);
  assert.deepEqual([one, two, three].map(leads), [true, false, false]);
  assert.equal(one.session.stats().tabs.count, 3);
  assert.equal(three.room.self.member, one.room.self.member);
  assert.equal(bob.room.members.size, 1);
  for (const [i, tab] of [one, two, three].entries()) tab.room.send(`from ${i}`);
  bob.room.send('from bob');
  await world.clock.until(() => bob.heard.length === 3 && [one, two, three].every(({ heard }) => heard.length === 3));
  assert.deepEqual(texts(bob), ['from 0', 'from 1', 'from 2']);
  assert.deepEqual(texts(two).sort(), ['from 0', 'from 2', 'from bob']);
  assert.equal(two.heard.find(({ data }) => data === 'from 0').sender.user, 'ann');
  assert.deepEqual([one, two, three].map(({ session }) => session.state), ['connected', 'connected', 'connected']);
});

test('a promise of send resolves in the tab that sent, wherever the connection is', async () => {
  const world = new World();
  const browser = new Browser(world);
  const [, two] = [await enter(browser, 'ann'), await enter(browser, 'ann')];
  let settled = false;
  two.room.send('hello').then(() => (settled = true));
  await world.clock.until(() => settled, 1_000);
});

for (const [how, end] of [
  ['is closed', ({ session, tab }) => { session.close(); tab.kill(); }],
  ['is killed', ({ tab }) => tab.kill()],
]) {
  test(`the leading tab ${how} in mid-stream: the others go on in the same session, complete, once, in order`, async () => {
    const world = new World();
    const browser = new Browser(world);
    const tabs = [await enter(browser, 'ann'), await enter(browser, 'ann'), await enter(browser, 'ann')];
    const bob = await enter(new Browser(world), 'bob');
    const sent = { two: [], bob: [] };
    for (let i = 0; i < 100; i += 1) {
      if (i === 50) end(tabs[0]);
      tabs[1].room.send(`two ${i}`);
      bob.room.send(`bob ${i}`);
      sent.two.push(`two ${i}`);
      sent.bob.push(`bob ${i}`);
      await world.clock.advance(10);
    }
    await world.clock.until(() => bob.heard.length === 100 && tabs[1].heard.length === 100, 5_000);
    await world.clock.advance(1_000);
    assert.deepEqual(texts(bob), sent.two);
    assert.deepEqual(texts(tabs[1]), sent.bob);
    assert.deepEqual(texts(tabs[2]).filter((text) => text.startsWith('bob')), sent.bob);
    assert.deepEqual(texts(tabs[2]).filter((text) => text.startsWith('two')), sent.two);
    assert.deepEqual(tabs.map(({ rejoined }) => rejoined), [0, 0, 0]);
    assert.equal(world.server.sessions.size, 2);
    assert.equal(browser.openSockets, 1);
  });
}
