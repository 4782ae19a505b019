// Tentative copies between pages, whole: sessions, direct connections, log; and every way in which a copy is refused.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { encodeFields, joined } from '../src/record.js';
import { COPY_BYTES, decodeCopy, encodeRefusal, encodeStatement } from '../src/tentative/copy.js';
import { Signing, keyId } from '../src/tentative/signing.js';
import { seeded } from './clock.js';
import { fakeSubtle } from './fake-subtle.js';
import { Browser } from './fake-tabs.js';
import { Rooms, all } from './rooms.js';

const ON = { webrtc: true, relay: true, p2p: true, tentative: true };
const utf8 = new TextEncoder();

class Copies extends Rooms {
  constructor({ features = ON, ...options } = {}) {
    super(options);
    this.server.features = features;
    this.subtle = fakeSubtle(seeded(99));
  }

  /** A page in a room with a log, with all that it is told. `slow`: what it writes takes so long to the server. */
  async writer(user, { tentative = true, subtle = this.subtle, environment = {}, name = 'r', ...options } = {}) {
    const page = this.page(user, { tentative, ...options, environment: { ...this.browser(), ...this.environmentOf(user), subtle, ...environment } });
    let room;
    page.session.join({ room: name }).then((it) => (room = it));
    await this.clock.until(() => room);
    const told = [];
    const place = { room, session: page.session, told, refused: [], page };
    room.on('tentative', ({ id, state, event, code }) => told.push({ what: state, id, text: event.body.text, seq: event.seq, code }));
    room.on('event', ({ seq, body }) => told.push({ what: 'event', seq, text: body.text }));
    room.on('sync', ({ seq }) => told.push({ what: 'sync', seq }));
    room.on('tentativerefused', ({ member, code }) => place.refused.push(`${member.user} ${code}`));
    return place;
  }

  environmentOf(user) {
    const own = Array.from({ length: 16 }, () => Math.floor(this.ids() * 16).toString(16)).join('');
    return { id: () => own, RTCPeerConnection: this.path.browser(user) };
  }

  /** Pages that have been connected for so long that nothing of before is on its way. */
  async writers(...users) {
    const places = [];
    for (const user of users) places.push(await this.writer(user));
    await this.clock.until(() => all(places), 20_000);
    await this.clock.advance(6_000);
    for (const { told } of places) told.length = 0;
    return places;
  }
}

const said = ({ told }) => told.map(({ what, text }) => `${what} ${text}`);
const countersOf = async ({ session }) => (await session.diagnose()).tentative.rooms[0];

test('a copy is shown before the log has the event, and confirmed by it', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  world.latency = 300;
  ann.room.post('hello');
  await world.clock.until(() => bob.told.length > 0, 100);
  assert.deepEqual(said(bob), ['shown hello']);
  const [{ member, event, state }] = bob.room.tentative;
  assert.deepEqual([member.user, event.kind, event.body, event.user, state], ['ann', 'chat', { text: 'hello' }, 'ann', 'shown']);
  await world.clock.until(() => bob.told.length === 3, 2_000);
  assert.deepEqual(said(bob), ['shown hello', 'confirmed hello', 'event hello']);
  assert.deepEqual([bob.told[1].id, bob.told[1].seq, bob.room.tentative], [bob.told[0].id, bob.told[2].seq, []]);
  assert.deepEqual(said(ann), ['event hello'], 'its author needs no copy');
});

test('a server that is away for a while: copies are seen all the same, and end with the connection or in time', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  world.refuseSockets = true;
  world.breakSockets();
  ann.room.post('while it is away');
  await world.clock.until(() => bob.told.length > 0, 100);
  await world.clock.advance(2_000);
  world.refuseSockets = false;
  await world.clock.until(() => bob.told.some(({ what }) => what === 'event'), 20_000);
  const ends = bob.told.filter(({ what }) => what !== 'shown' && what !== 'event');
  assert.equal(ends.length, 1);
  assert.ok(said(bob)[0] === 'shown while it is away');
});

test('what the server refuses is rolled back at the word of its author', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  ann.room.post('forbidden words');
  await world.clock.until(() => bob.told.length === 2, 1_000);
  assert.deepEqual(bob.told.map(({ what, code }) => `${what} ${code}`), ['shown ', 'rolledback refused']);
});

test('a snapshot in place of events rolls back what is shown', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  const log = world.server.log('r');
  world.latency = 400;
  ann.room.post('hello');
  await world.clock.until(() => bob.told.length === 1, 100);
  log.lose = (records) => records.some(({ tag }) => tag === 'event');
  log.resyncEvents = -1;
  await world.clock.until(() => bob.told.some(({ what }) => what === 'sync'), 10_000);
  assert.deepEqual(bob.told.slice(0, 3).map(({ what, code }) => `${what} ${code ?? ''}`), ['shown ', 'rolledback sync_required', 'sync ']);
});

test('who leaves the room is told of no copy any more', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  world.latency = 400;
  ann.room.post('hello');
  await world.clock.until(() => bob.told.length === 1, 100);
  bob.session.close();
  assert.deepEqual(bob.told.map(({ what, code }) => `${what} ${code}`), ['shown ', 'rolledback left']);
  await world.clock.advance(10_000);
  assert.equal(bob.told.length, 2);
});

for (const [how, features, options, off] of [
  ['by nobody\'s wish', ON, { tentative: false }, 'not_asked_for'],
  ['by the server', { ...ON, tentative: false }, {}, 'switched_off'],
  ['by a server that does not know it', { webrtc: true, relay: true, p2p: true }, {}, 'switched_off'],
  ['without connections between members', { ...ON, p2p: false }, {}, 'switched_off'],
  ['where the page wants no connections', ON, { peerToPeer: 'off' }, 'no_connections'],
  ['where there is no WebCrypto', ON, { environment: { subtle: undefined } }, 'no_crypto'],
  ['where no key can be made', ON, { subtle: { generateKey: async () => Promise.reject(new Error('no')) } }, 'no_key'],
]) {
  test(`off ${how}: nothing is sent, nothing is shown, and diagnose says why`, async () => {
    const world = new Copies({ features });
    const [ann, bob] = [await world.writer('ann', options), await world.writer('bob', options)];
    if (features.p2p && !options.peerToPeer) await world.clock.until(() => all([ann, bob]), 20_000);
    await world.clock.advance(6_000);
    bob.told.length = 0;
    ann.room.post('hello');
    await world.clock.until(() => bob.told.length > 0, 5_000);
    assert.deepEqual(said(bob), ['event hello']);
    const { tentative } = await ann.session.diagnose();
    assert.equal(tentative.off, off);
    for (const { sent } of tentative.rooms) assert.equal(sent, 0);
  });
}

test('a member without a key gets no copies and sends none; the others have theirs', async () => {
  const world = new Copies();
  const places = [await world.writer('ann'), await world.writer('bob'), await world.writer('eve', { tentative: false })];
  const [ann, bob, eve] = places;
  await world.clock.until(() => all(places), 20_000);
  await world.clock.advance(6_000);
  for (const { told } of places) told.length = 0;
  ann.room.post('hello');
  eve.room.post('plain');
  await world.clock.until(() => places.every(({ told }) => told.filter(({ what }) => what === 'event').length === 2), 5_000);
  assert.deepEqual(said(bob).filter((each) => each.startsWith('shown')), ['shown hello']);
  // As if the server had certified none of Bob's.
  delete ann.room.members.get(bob.room.self.member).signingKeys;
  const { received } = await countersOf(bob);
  ann.room.members.get(eve.room.self.member).signingKeys = ['x'];
  ann.room.post('not for Bob');
  await world.clock.until(() => said(bob).includes('event not for Bob'), 5_000);
  assert.deepEqual([(await countersOf(bob)).received, (await countersOf(ann)).sent], [received, 2]);
  assert.ok(said(eve).every((each) => each.startsWith('event')));
});

test('who writes more at once than others would take sends copies of a part, and nothing is refused', async () => {
  const world = new Copies();
  const [ann, bob] = await world.writers('ann', 'bob');
  world.latency = 1_000;
  for (let count = 0; count < 400; count += 1) ann.room.post(`${count}`);
  for (let count = 0; count < 30; count += 1) ann.room.emitEvent(new Uint8Array(14_000));
  await world.clock.until(() => bob.told.filter(({ what }) => what === 'event').length === 430, 60_000);
  const [sender, receiver] = [await countersOf(ann), await countersOf(bob)];
  assert.deepEqual([receiver.refused, sender.refusedByOthers, receiver.held], [{}, {}, 0]);
  assert.ok(sender.sent > 0 && sender.sent + sender.unsent === 430, JSON.stringify(sender));
  assert.equal(receiver.shown, receiver.confirmed + receiver.ordered + receiver.rolledback);
});

// --- refusals ----------------------------------------------------------------------------------------------------------------

/** Eve is a member with a key, and sends Bob whatever she likes over their connection. */
async function stage() {
  const world = new Copies();
  const [ann, bob, eve] = await world.writers('ann', 'bob', 'eve');
  // Her own signing, with the key that the server knows.
  const signing = new Signing(world.subtle);
  await signing.ready;
  const member = eve.room.self.member;
  const known = bob.room.members.get(member);
  known.signingKeys = [signing.publicKey];
  let cseq = 0;
  const statement = (changes = {}) => {
    const heading = { key: keyId(signing.publicKey), tenant: '', room: 'r', member, origin: '00000000000000ee', cseq: (cseq += 1) };
    const content = { kind: 1, version: 0, flags: 0, target: 0, body: utf8.encode('{"text":"eve"}') };
    return encodeStatement({ type: 'event', ...heading, after: 0, parents: [], ...content, ...changes });
  };
  const sign = async (bytes, by = signing) => joined([bytes, await by.sign(bytes)]);
  const copies = bob.room.tentativeOrNull;
  const send = (bytes, from = member) => copies.receive(from, bytes);
  return { world, ann, bob, eve, signing, member, known, statement, sign, send, copies };
}

const PARENTS_9 = Array.from({ length: 9 }, (_, i) => ({ origin: '00000000000000aa', cseq: i + 1 }));

for (const [what, code, make] of [
  ['with a wrong signature', 'bad_signature', async ({ statement, sign }) => {
    const bytes = await sign(statement());
    bytes[bytes.length - 1] ^= 1;
    return bytes;
  }],
  ['of which one byte was changed on the way', 'bad_signature', async ({ statement, sign }) => {
    const bytes = await sign(statement());
    bytes[bytes.length - 70] ^= 1;
    return bytes;
  }],
  ['signed with another key that says it is hers', 'bad_signature', async ({ world, statement, sign }) => {
    const other = new Signing(world.subtle);
    await other.ready;
    return sign(statement(), other);
  }],
  ['signed with a key that the server has not certified', 'unknown_signer', async ({ world, statement, sign }) => {
    const other = new Signing(world.subtle);
    await other.ready;
    return sign(statement({ key: keyId(other.publicKey) }), other);
  }],
  ['of a member without a key', 'unknown_signer', async ({ known, statement, sign }) => {
    delete known.signingKeys;
    return sign(statement());
  }],
  ['of another room', 'wrong_room', ({ statement, sign }) => sign(statement({ room: 'q' }))],
  ['of a room of that name of another tenant', 'wrong_room', ({ statement, sign }) => sign(statement({ tenant: 'elsewhere' }))],
  ['of another member, passed on', 'wrong_sender', ({ ann, statement, sign }) => sign(statement({ member: ann.room.self.member }))],
  ['that came before', 'replayed', async ({ statement, sign, send }) => {
    const bytes = await sign(statement());
    await send(bytes);
    return bytes;
  }],
  ['with more than eight parents', 'too_many_parents', ({ statement, sign }) => sign(statement({ parents: PARENTS_9 }))],
  ['that is too large', 'too_large', ({ statement, sign }) => sign(statement({ body: new Uint8Array(COPY_BYTES) }))],
  ['of half its bytes', 'malformed', async ({ statement, sign }) => (await sign(statement())).subarray(0, 80)],
  ['of a kind that the server alone writes', 'malformed', ({ statement, sign }) => sign(statement({ kind: 3 }))],
  ['of an unknown type', 'malformed', async () => Uint8Array.of(9, 9, 9)],
  ['of nothing', 'malformed', async () => new Uint8Array(0)],
]) {
  test(`a copy ${what} is refused with ${code}, counted, and its sender is told`, async () => {
    const all = await stage();
    const { world, bob, eve, send } = all;
    const bytes = await make(all);
    bob.told.length = 0;
    await send(bytes);
    await world.clock.advance(200);
    assert.deepEqual([bob.refused, said(bob)], [[`eve ${code}`], []]);
    assert.deepEqual((await countersOf(bob)).refused, { [code]: 1 });
    assert.deepEqual((await countersOf(eve)).refusedByOthers, { [code]: 1 });
  });
}

test('what is right is taken from the same member afterwards', async () => {
  const { bob, statement, sign, send } = await stage();
  const wrong = await sign(statement());
  wrong[wrong.length - 1] ^= 1;
  await send(wrong);
  await send(await sign(statement()));
  assert.deepEqual(said(bob), ['shown eve']);
});

test('a member that is removed while its signature is being verified shows nothing', async () => {
  const { bob, member, statement, sign, send } = await stage();
  const taken = send(await sign(statement()));
  bob.room.memberLeft(member, 'removed');
  await taken;
  assert.deepEqual([said(bob), bob.room.tentative, bob.refused], [[], [], []]);
});

test('a copy that answers an event is shown behind it', async () => {
  const { world, ann, bob, statement, sign, send } = await stage();
  await send(await sign(statement({ after: bob.told.length + 1 })));
  assert.deepEqual([said(bob), bob.room.tentative], [[], []]);
  world.path.set(false);
  ann.room.post('first');
  await world.clock.until(() => said(bob).length === 2, 3_000);
  assert.deepEqual(said(bob), ['event first', 'shown eve']);
});

test('copies of a member come at a rate, refusals are told at a lower one, and nothing grows', async () => {
  const { bob, statement, sign, send } = await stage();
  const wrong = await sign(statement());
  wrong[wrong.length - 1] ^= 1;
  for (let count = 0; count < 1_000; count += 1) await send(wrong);
  const { refused, held } = await countersOf(bob);
  assert.equal(refused.bad_signature + refused.rate_limited, 1_000);
  assert.ok(refused.bad_signature <= 130 && bob.refused.length <= 6, `${refused.bad_signature} verified, ${bob.refused.length} told`);
  assert.equal(held, 0);
});

test('more copies than are held of one member are refused', async () => {
  const { world, bob, statement, sign, send } = await stage();
  for (let count = 0; count < 70; count += 1) await send(await sign(statement({ parents: [PARENTS_9[0]] })));
  const { refused, held } = await countersOf(bob);
  assert.deepEqual([refused.too_many_held, held], [6, 64]);
  await world.clock.advance(6_000);
  assert.equal((await countersOf(bob)).held, 0);
});

test('a copy that comes where copies are off is refused', async () => {
  const { world, bob, statement, sign, send } = await stage();
  for (const session of world.server.sessions.values()) session.takeAway({ ...ON, tentative: false });
  await world.clock.advance(100);
  await send(await sign(statement()));
  assert.deepEqual((await countersOf(bob)).refused, { switched_off: 1 });
  assert.deepEqual(said(bob), []);
});

test('a refusal is not answered by another one, whatever it says', async () => {
  const { world, bob, eve, send } = await stage();
  await send(encodeRefusal('bad_signature'));
  await world.clock.advance(200);
  assert.deepEqual([(await countersOf(bob)).refusedByOthers, (await countersOf(eve)).received], [{ bad_signature: 1 }, 0]);
});

// --- bytes and keys ------------------------------------------------------------------------------------------------------------

test('what is written as a copy is read as the same', () => {
  const heading = { key: '0123456789abcdef', tenant: 'app', room: 'räum', member: 7, origin: 'fedcba9876543210', cseq: 9 };
  const parents = PARENTS_9.slice(0, 8);
  const event = { type: 'event', ...heading, after: 2 ** 40, parents, kind: 9, version: 3, flags: 1, target: 12, body: Uint8Array.of(1, 2) };
  for (const each of [event, { type: 'withdrawn', ...heading }]) {
    const statement = encodeStatement(each);
    const read = decodeCopy(joined([statement, new Uint8Array(64).fill(5)]));
    assert.deepEqual([read.said, read.statement, read.signature], [each, statement, new Uint8Array(64).fill(5)]);
  }
  assert.deepEqual(decodeCopy(encodeRefusal('replayed')), { said: { type: 'refused', code: 'replayed' } });
  const unknown = encodeFields([['type', 'u8'], ['code', 'name']], { type: 3, code: 'novel' });
  assert.deepEqual(decodeCopy(unknown), { code: 'malformed' });
});

test('no bytes from outside are more than refused', () => {
  const random = seeded(5);
  for (let round = 0; round < 20_000; round += 1) {
    const bytes = Uint8Array.from({ length: Math.floor(random() * 200) }, () => Math.floor(random() * 256));
    if (bytes.length > 0) bytes[0] = 1 + (round % 3);
    const read = decodeCopy(bytes);
    assert.ok('code' in read || read.said);
  }
});

test('a real signature is right for its key, its bytes and this purpose alone', async () => {
  let pair;
  const subtle = ['exportKey', 'importKey', 'sign', 'verify'].map((name) => [name, (...args) => crypto.subtle[name](...args)]);
  const generateKey = async (...args) => (pair = await crypto.subtle.generateKey(...args));
  const [ann, eve] = [new Signing({ ...Object.fromEntries(subtle), generateKey }), new Signing(crypto.subtle)];
  await Promise.all([ann.ready, eve.ready]);
  assert.match(ann.publicKey, /^[\w-]{87}$/);
  const statement = utf8.encode('a statement');
  const signature = await ann.sign(statement);
  assert.equal(signature.length, 64);
  const forAnother = new Uint8Array(await crypto.subtle.sign({ name: 'ECDSA', hash: 'SHA-256' }, pair.privateKey, statement));
  await assert.rejects(crypto.subtle.exportKey('pkcs8', pair.privateKey), 'it cannot be taken away');
  const verdicts = [
    [false, ann.publicKey, statement, forAnother],
    [true, ann.publicKey, statement, signature],
    [false, eve.publicKey, statement, signature],
    [false, ann.publicKey, utf8.encode('another'), signature],
    [false, ann.publicKey, statement, signature.map((byte, at) => (at === 10 ? byte ^ 1 : byte))],
    [false, ann.publicKey, statement, new Uint8Array(64)],
    [false, ann.publicKey, statement, signature.subarray(0, 63)],
    [false, `A${ann.publicKey.slice(1)}`, statement, signature],
    [false, '', statement, signature],
  ];
  for (const [verdict, ...of] of verdicts) assert.equal(await eve.verify(...of), verdict);
});

// --- tabs ------------------------------------------------------------------------------------------------------------------------

test('tabs that share a connection all send and get copies by the one that has it', async () => {
  const world = new Copies();
  const bob = await world.writer('bob');
  const browser = new Browser(world);
  const token = `x.${Buffer.from(JSON.stringify({ sub: 'ann' })).toString('base64url')}.x`;
  const tabs = [];
  for (let count = 0; count < 2; count += 1) {
    const tab = browser.open();
    const environment = { ...tab.environment, ...world.environmentOf('ann') };
    tabs.push(await world.writer('ann', { environment, getToken: () => token }));
  }
  const [one, two] = tabs;
  assert.deepEqual(tabs.map(({ session }) => session.stats().tabs.leads), [true, false]);
  await world.clock.until(() => all([one, bob], 1), 20_000);
  await world.clock.advance(6_000);
  assert.equal(bob.room.members.get(one.room.self.member).signingKeys.length, 2, 'one of each tab');
  // The first time a tab writes it asks for an origin.
  for (const { room } of tabs) room.post('first');
  await world.clock.advance(1_000);
  world.latency = 300;
  for (const { told } of [bob, ...tabs]) told.length = 0;
  const data = [];
  for (const { room } of tabs) room.on('data', (event) => data.push(event));
  two.room.post('from the second tab');
  await world.clock.until(() => bob.told.length > 0, 200);
  assert.deepEqual(said(bob), ['shown from the second tab']);
  await world.clock.advance(4_000);
  assert.equal(bob.told[1].what, 'confirmed');
  for (const { told } of tabs) told.length = 0;
  bob.room.post('to both');
  await world.clock.until(() => tabs.every(({ told }) => told.length > 0), 200);
  assert.deepEqual(tabs.map(said), [['shown to both'], ['shown to both']]);
  await world.clock.advance(4_000);
  assert.deepEqual(tabs.map(said), Array(2).fill(['shown to both', 'confirmed to both', 'event to both']));
  assert.deepEqual(data, [], 'a copy is no data');
});

// --- many seeds --------------------------------------------------------------------------------------------------------------------

test('whole pages over networks that come and go: every copy that was shown has one end in time, none comes behind its event', async () => {
  const ends = new Map();
  for (let seed = 1; seed <= Number(process.env.SEEDS ?? 12); seed += 1) {
    const world = new Copies({ seed });
    const places = await world.writers('ann', 'bob', 'eve');
    for (let change = 0; change < 30; change += 1) {
      const dice = world.random();
      if (dice < 0.15) world.path.set(!world.path.isOpen);
      else if (dice < 0.25) world.latency = 10 + world.random() * 800;
      else if (dice < 0.3) world.breakSockets();
      else if (dice < 0.32) {
        world.server.forget();
        world.breakSockets();
      }
      const { room } = places[Math.floor(world.random() * 3)];
      room.post(`${world.random() < 0.2 ? 'forbidden ' : ''}${change}`);
      await world.clock.advance(world.random() * 1_000);
    }
    world.path.set(true);
    await world.clock.advance(30_000);
    for (const { told, room, session } of places) {
      const open = new Set();
      const events = new Set();
      for (const { what, id, text } of told) {
        if (what === 'event') events.add(text);
        else if (what === 'shown') {
          assert.ok(!events.has(text) && !open.has(id), `seed ${seed}: ${text} shown late or twice`);
          open.add(id);
        } else if (what !== 'sync') {
          assert.ok(open.delete(id), `seed ${seed}: ${text} ${what} without being shown`);
          ends.set(what, (ends.get(what) ?? 0) + 1);
        }
      }
      assert.equal(open.size, 0, `seed ${seed}: every one is resolved`);
      assert.deepEqual(room.tentative, []);
      assert.deepEqual((await session.diagnose()).tentative.rooms[0].refused, {}, `seed ${seed}: among honest members nothing is refused`);
    }
  }
  for (const end of ['confirmed', 'ordered', 'rolledback']) assert.ok(ends.get(end) > 0, `${end} happens`);
});
