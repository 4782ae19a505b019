// What is held of tentative copies, alone: many readers of one log, an imagined network that loses, doubles and delays, and a
// checker that reads nothing but what each reader was told.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { HOLD_MS, Held } from '../src/tentative/held.js';
import { Clock, seeded } from './clock.js';

const utf8 = new TextEncoder();

function copyOf(member, origin, cseq, { text = 'x', after = 0, parents = [] } = {}) {
  return { type: 'event', key: 'k', tenant: 't', room: 'r', member, origin, cseq, after, parents, kind: 1, version: 0, flags: 0, target: 0, body: utf8.encode(text) };
}

function eventOf(seq, { origin, cseq, kind, version, flags, target, body }, user = 'u1') {
  return { tag: 'event', seq, at: 0, origin, cseq, user, name: user, kind, version, flags, target, body };
}

const states = (held) => held.poll().map(({ state, entry, code }) => [state, entry.copy.cseq, ...(code ? [code] : [])].join(' '));

test('a copy is shown, and confirmed by the event of the log', () => {
  const held = new Held();
  const copy = copyOf(1, 'a', 1);
  assert.equal(held.take(copy, 'u1', 0), null);
  assert.deepEqual(states(held), ['shown 1']);
  held.committed(eventOf(1, copy));
  assert.deepEqual(states(held), ['confirmed 1']);
  assert.equal(held.size, 0);
  held.tick(HOLD_MS);
  assert.deepEqual(states(held), [], 'one end');
});

test('an event that the log has before others that were shown before it is ordered', () => {
  const held = new Held();
  const [first, second] = [copyOf(1, 'a', 1), copyOf(2, 'b', 1)];
  held.take(first, 'u1', 0);
  held.take(second, 'u2', 0);
  held.committed(eventOf(1, second, 'u2'));
  held.committed(eventOf(2, first));
  assert.deepEqual(held.poll().map(({ state, entry }) => `${state} ${entry.copy.origin}`), ['shown a', 'shown b', 'ordered b', 'confirmed a']);
});

test('what the log does not have after five seconds is rolled back, and not a moment before', () => {
  const held = new Held();
  held.take(copyOf(1, 'a', 1), 'u1', 100);
  assert.equal(held.dueAt, 100 + HOLD_MS);
  held.tick(99 + HOLD_MS);
  assert.deepEqual(states(held), ['shown 1']);
  held.tick(100 + HOLD_MS);
  assert.deepEqual(states(held), ['rolledback 1 timeout']);
});

test('what was refused is rolled back: by the word of its author, or when the log passes it over', () => {
  const held = new Held();
  held.take(copyOf(1, 'a', 1), 'u1', 0);
  held.withdraw({ member: 2, origin: 'a', cseq: 1 });
  assert.deepEqual(states(held), ['shown 1'], 'not by the word of another member');
  held.withdraw({ member: 1, origin: 'a', cseq: 1 });
  held.take(copyOf(1, 'a', 2), 'u1', 0);
  held.committed(eventOf(1, copyOf(1, 'a', 3)));
  assert.deepEqual(states(held), ['rolledback 1 refused', 'shown 2', 'rolledback 2 refused']);
});

test('a copy that says something else than the log, or is another user\'s, is rolled back', () => {
  for (const [event, user] of [[{ ...copyOf(1, 'a', 1), body: utf8.encode('y') }, 'u1'], [copyOf(1, 'a', 1), 'u2'], [{ ...copyOf(1, 'a', 1), target: 3 }, 'u1']]) {
    const held = new Held();
    held.take(copyOf(1, 'a', 1), 'u1', 0);
    held.committed(eventOf(1, event, user));
    assert.deepEqual(states(held), ['shown 1', 'rolledback 1 differs']);
  }
});

test('a copy that comes after its event is dropped without a word', () => {
  const held = new Held();
  held.committed(eventOf(1, copyOf(1, 'a', 2)));
  for (const cseq of [1, 2]) assert.equal(held.take(copyOf(1, 'a', cseq), 'u1', 0), null);
  assert.deepEqual([states(held), held.size, held.counters.late], [[], 0, 2]);
});

test('what its author had seen is waited for: events of the log and other copies', () => {
  const held = new Held();
  const parents = [{ origin: 'a', cseq: 1 }];
  held.take(copyOf(2, 'b', 1, { parents }), 'u2', 0);
  held.take(copyOf(3, 'c', 1, { after: 1 }), 'u3', 1_000);
  assert.deepEqual(states(held), []);
  held.take(copyOf(1, 'a', 1), 'u1', 1_000);
  assert.deepEqual(held.poll().map(({ state, entry }) => `${state} ${entry.copy.origin}`), ['shown a', 'shown b']);
  held.committed(eventOf(1, copyOf(9, 'z', 1), 'u9'));
  assert.deepEqual(states(held), [], 'the event is given out first');
  held.release();
  assert.deepEqual(held.poll().map(({ state, entry }) => `${state} ${entry.copy.origin}`), ['shown c']);
});

test('what is waited for in vain goes without a word', () => {
  const held = new Held();
  held.take(copyOf(2, 'b', 1, { parents: [{ origin: 'a', cseq: 1 }] }), 'u2', 0);
  held.tick(HOLD_MS);
  assert.deepEqual([states(held), held.size, held.counters.unshown], [[], 0, 1]);
});

test('own copies are no reason to wait, and are what the next one comes behind', () => {
  const held = new Held();
  held.wrote({ origin: 'o', cseq: 1 });
  held.take(copyOf(1, 'a', 1, { parents: [{ origin: 'o', cseq: 1 }] }), 'u1', 0);
  assert.deepEqual(states(held), ['shown 1']);
  assert.deepEqual(held.heads(8), [{ origin: 'o', cseq: 1 }, { origin: 'a', cseq: 1 }]);
  for (let cseq = 2; cseq < 20; cseq += 1) held.take(copyOf(1, 'a', cseq), 'u1', 0);
  assert.equal(held.heads(8).length, 8);
  held.committed(eventOf(1, copyOf(4, 'o', 1)));
  assert.ok(held.heads(8).every(({ origin }) => origin === 'a'), 'what the log has is said by `after`');
});

test('a snapshot rolls back what is shown, and nothing is taken until no copy can be of what it contains', () => {
  const held = new Held();
  held.take(copyOf(1, 'a', 1), 'u1', 0);
  held.synced(10, 0);
  held.take(copyOf(1, 'a', 2), 'u1', HOLD_MS - 1);
  assert.deepEqual(states(held), ['shown 1', 'rolledback 1 sync_required']);
  held.take(copyOf(1, 'a', 3, { after: 10 }), 'u1', HOLD_MS);
  assert.deepEqual(states(held), ['shown 3']);
});

test('a copy that comes again is replayed, while it is here and when it has ended', () => {
  const held = new Held();
  held.take(copyOf(1, 'a', 1), 'u1', 0);
  assert.equal(held.take(copyOf(1, 'a', 1), 'u1', 1), 'replayed');
  held.tick(HOLD_MS);
  assert.equal(held.take(copyOf(1, 'a', 1), 'u1', HOLD_MS + 1), 'replayed');
  assert.equal(held.take(copyOf(2, 'a', 1), 'u2', HOLD_MS + 1), null, 'a name is a member\'s own: nobody takes it from another');
});

test('of one member and of all together so many are held, and so many bytes', () => {
  const held = new Held();
  const taken = Array.from({ length: 100 }, (_, i) => held.take(copyOf(1, 'a', i + 1), 'u1', 0));
  assert.deepEqual([taken.filter((code) => code === null).length, held.size], [64, 64]);
  assert.ok(taken.slice(64).every((code) => code === 'too_many_held'));
  for (let member = 2; member < 20; member += 1) {
    for (let cseq = 1; cseq <= 64; cseq += 1) held.take(copyOf(member, `o${member}`, cseq), 'u', 0);
  }
  assert.equal(held.size, 512);
  const heavy = new Held();
  const text = 'x'.repeat(15_000);
  const codes = Array.from({ length: 30 }, (_, i) => heavy.take(copyOf(1, 'a', i + 1, { text }), 'u1', 0));
  assert.equal(codes.filter((code) => code === null).length, 17);
});

// --- many readers, many seeds ----------------------------------------------------------------------------------------------

/** A room: every reader writes, the network and the log take their time. */
class World {
  clock = new Clock();
  log = [];
  /** Beyond the end of the log nothing happens any more. */
  writing = true;

  constructor(seed, { readers = 4, plant = () => {} } = {}) {
    this.random = seeded(seed);
    this.loss = this.random() * 0.4;
    this.delay = 20 + this.random() * 1_500;
    this.commit = 20 + this.random() * 6_000;
    this.forbidden = this.random() * 0.3;
    this.snapshots = this.random() < 0.5 ? 0.05 : 0;
    this.readers = Array.from({ length: readers }, (_, i) => new Reader(this, i + 1));
    for (const reader of this.readers) plant(reader.held);
  }

  later(ms, call) {
    this.clock.setTimeout(call, this.random() * ms);
  }

  async run() {
    for (let at = 0; at < 20_000; at += 1) {
      if (at < 12_000 && this.random() < 0.01) this.readers[Math.floor(this.random() * this.readers.length)].write();
      if (at % 50 === 0) await this.clock.advance(50);
    }
    await this.clock.advance(30_000);
    return this.readers.flatMap((reader) => reader.complaints());
  }
}

class Reader {
  held = new Held();
  cseq = 0;
  /** What it was told, in order: states of copies, events and snapshots. */
  history = [];
  /** The last event that it was given, and those that are on their way. */
  seq = 0;
  most = 0;
  #submitted = Promise.resolve();

  constructor(world, member) {
    Object.assign(this, { world, member, user: `u${member}`, origin: `o${member}` });
  }

  write() {
    const { world, held, origin, member } = this;
    this.cseq += 1;
    const copy = copyOf(member, origin, this.cseq, { text: `${member} ${this.cseq}`, after: this.seq, parents: held.heads(8) });
    held.wrote(copy);
    for (const other of world.readers) {
      for (let copies = world.random() < 0.1 ? 2 : 1; other !== this && copies > 0; copies -= 1) {
        if (world.random() >= world.loss) world.later(world.delay, () => other.receive(copy));
      }
    }
    this.#submit(copy);
  }

  /** In order, with the time that it takes. */
  #submit(copy) {
    const { world } = this;
    const decided = new Promise((resolve) => world.later(world.commit, resolve));
    this.#submitted = Promise.all([this.#submitted, decided]).then(() => {
      if (world.random() < world.forbidden) {
        for (const other of world.readers) {
          if (other !== this && world.random() >= world.loss) world.later(world.delay, () => other.withdrawn(copy));
        }
        return;
      }
      world.log.push(eventOf(world.log.length + 1, copy, this.user));
      for (const reader of world.readers) world.later(400, () => reader.read());
    });
  }

  receive(copy) {
    this.held.take(copy, `u${copy.member}`, this.world.clock.now);
    this.#hear();
  }

  withdrawn(copy) {
    this.held.withdraw(copy);
    this.#hear();
  }

  /** Up to the end: event by event, or by a snapshot. */
  read() {
    const { log, random, snapshots, clock } = this.world;
    if (this.seq < log.length && random() < snapshots) {
      this.seq = log.length;
      this.held.synced(this.seq, clock.now);
      this.#hear();
      this.history.push({ what: 'snapshot', seq: this.seq, at: clock.now });
    }
    for (; this.seq < log.length; ) {
      const event = log[this.seq];
      this.seq += 1;
      this.held.committed(event);
      this.#hear();
      this.history.push({ what: 'event', event, at: clock.now });
      this.held.release();
      this.#hear();
    }
  }

  #hear() {
    const { clock } = this.world;
    this.most = Math.max(this.most, this.held.size);
    for (const told of this.held.poll()) this.history.push({ what: told.state, entry: told.entry, seq: told.seq, at: clock.now });
    clock.clearTimeout(this.timer);
    if (this.held.dueAt === null) return;
    const tick = () => {
      this.held.tick(clock.now);
      this.#hear();
    };
    this.timer = clock.setTimeout(tick, Math.max(1, this.held.dueAt - clock.now));
  }

  /** What is wrong with what it was told. */
  complaints() {
    const wrong = [];
    const name = ({ origin, cseq }) => `${origin} ${cseq}`;
    const shown = new Map();
    const ended = new Set();
    /** What the log has told by then, for each writer. */
    const told = new Map();
    let seq = 0;
    for (const { what, entry, event, seq: at, at: time } of this.history) {
      if (what === 'event') {
        told.set(event.origin, event.cseq);
        seq = event.seq;
        continue;
      }
      if (what === 'snapshot') {
        seq = at;
        if (shown.size > ended.size) wrong.push('shown through a snapshot');
        continue;
      }
      const { copy, id } = entry;
      if (what === 'shown') {
        if (shown.has(id)) wrong.push(`${id} shown twice`);
        if (copy.cseq <= (told.get(copy.origin) ?? 0)) wrong.push(`${id} shown after the log had told it`);
        // A snapshot does not tell its events one by one: whoever looks at the whole log knows.
        const place = this.world.log.findIndex((each) => name(each) === name(copy));
        if (place >= 0 && place < seq) wrong.push(`${id} shown after a snapshot contained it`);
        if (copy.after > seq) wrong.push(`${id} shown before what its author had read`);
        for (const parent of copy.parents) {
          const isHere = parent.origin === this.origin || parent.cseq <= (told.get(parent.origin) ?? 0);
          const isShown = [...shown.values()].some(({ copy: other }) => name(other) === name(parent));
          if (!isHere && !isShown) wrong.push(`${id} shown before its parent`);
        }
        shown.set(id, { copy, time });
        continue;
      }
      if (!shown.has(id) || ended.has(id)) wrong.push(`${id} ${what} without being shown, or twice`);
      ended.add(id);
      if (time - (shown.get(id)?.time ?? time) > HOLD_MS + 1) wrong.push(`${id} held too long`);
      const inLog = this.world.log[(at ?? 0) - 1];
      if (what !== 'rolledback' && (at !== seq + 1 || name(inLog) !== name(copy))) wrong.push(`${id} ${what} by another event`);
    }
    for (const id of shown.keys()) if (!ended.has(id)) wrong.push(`${id} was never resolved`);
    if (this.most > 64 * this.world.readers.length || this.held.size > 0) wrong.push('too much is held');
    return wrong;
  }
}

const SEEDS = Number(process.env.SEEDS ?? 60);

test('over any network, every copy that was shown has one end in time, and none is shown that the log has told', async () => {
  const counts = { shown: 0, confirmed: 0, ordered: 0, rolledback: 0, late: 0, unshown: 0 };
  for (let seed = 1; seed <= SEEDS; seed += 1) {
    const world = new World(seed);
    assert.deepEqual(await world.run(), [], `seed ${seed}`);
    for (const { held } of world.readers) for (const name of Object.keys(counts)) counts[name] += held.counters[name];
  }
  for (const [name, count] of Object.entries(counts)) assert.ok(count > 0, `${name} happens`);
});

for (const [fault, plant] of [
  ['late copies are taken', (held) => (held.isLate = () => false)],
  ['nothing ends in time', (held) => (held.tick = () => {})],
  ['a snapshot goes unnoticed', (held) => (held.synced = () => {})],
  ['the log confirms nothing', (held) => (held.committed = () => {})],
]) {
  test(`the checker finds it where ${fault}`, async () => {
    let found = [];
    for (let seed = 1; seed <= 20 && found.length === 0; seed += 1) found = await new World(seed, { plant }).run();
    assert.notDeepEqual(found, []);
  });
}
