// The server's half of docs/protocol.md, section 9, small: one room's log, in memory that stands for a disk. It shares only
// record.js with the code under test.

import { deflateRawSync } from 'node:zlib';

import { decodeRecords, encodeRecords } from '../src/record.js';

const hex = (number) => BigInt.asUintN(64, BigInt(number) * 0x9e3779b97f4a7c15n).toString(16).padStart(16, '0');
const utf8 = new TextEncoder();
const textOf = (bytes) => new TextDecoder().decode(bytes);
const NAMES = [null, 'chat', 'comment', 'system', 'edit', 'delete', 'react', 'unreact', 'fields', 'custom'];
const END = 10;

export class FakeLog {
  #clock;
  #origins = new Map();
  #nextOrigin = 1;
  #nextStream = 1;
  epoch = 1;
  events = [];
  followers = new Set();
  /** Open streams by origin and key. */
  streams = new Map();
  /** Those that were ended without their author. */
  givenUp = new Set();
  /** Readers that are further behind get a snapshot. */
  resyncEvents = 1_000;
  /** Messages in a snapshot. */
  snapshotMessages = 50;
  /** Bytes of bodies in an answer to a pull. */
  answerBytes = 4_096;
  /** Milliseconds between submissions that are taken; 0: no limit. */
  every = 0;
  #takenAt = -Infinity;
  /** Why nothing can be written now. */
  broken = '';
  /** Whether a LOG message finds no room in the replay limit. */
  lose = () => false;
  /** How long a commit takes. */
  commitMs = 5;
  /** Submissions that came, repetitions among them. */
  submissions = 0;

  constructor(clock) {
    this.#clock = clock;
  }

  /** Sessions are gone, the disk stays. */
  restart() {
    this.followers.clear();
    this.streams.clear();
    this.givenUp.clear();
  }

  newOrigin(user) {
    const origin = hex(this.#nextOrigin++);
    this.#origins.set(origin, { user, last: 0, answers: new Map() });
    return origin;
  }

  /** A backup of now, and what puts it back: the log loses its end. */
  backup() {
    const events = [...this.events];
    const origins = structuredClone([...this.#origins]);
    return () => {
      this.events = events;
      this.#origins = new Map(origins);
      this.epoch += 1;
    };
  }

  /** Somebody else writes. */
  write(user, kind, body, target = 0) {
    const bytes = typeof body === 'string' ? utf8.encode(body) : body;
    this.#commit({ origin: hex(999_999), cseq: this.events.length + 1, user, name: user, kind, version: 0, flags: 0, target, body: bytes });
  }

  say(user, text) {
    this.write(user, 1, JSON.stringify({ text }));
  }

  /** The texts of the log, in order. */
  get texts() {
    return this.events.filter(({ kind }) => kind <= 3).map(({ body }) => JSON.parse(textOf(body)).text);
  }

  follow(self, position, send) {
    const follower = new Follower(this, self, send);
    this.followers.add(follower);
    follower.begin(position);
    return follower;
  }

  get head() {
    const seq = this.events.length;
    const digest = hex(this.epoch * 1_000_000 + seq);
    return { tag: 'head', epoch: this.epoch, seq, digest, proof: hex(seq + 7) };
  }

  headAt(seq) {
    return { tag: 'head', epoch: this.epoch, seq, digest: hex(this.epoch * 1_000_000 + seq), proof: hex(seq + 7) };
  }

  snapshot(reason) {
    const { epoch, seq, digest, proof } = this.head;
    const fields = {};
    for (const { kind, body } of this.events) if (kind === 8) Object.assign(fields, JSON.parse(textOf(body)));
    const all = this.messages();
    const messages = all.slice(-this.snapshotMessages);
    return json({ tag: 'snapshot' }, { reason, epoch, seq, digest, proof, fields, messages, more: all.length > messages.length });
  }

  messages() {
    const messages = new Map();
    for (const event of this.events) {
      const { seq, at, user, name, kind, target } = event;
      const of = messages.get(target);
      if (kind <= 3) {
        const message = { seq, kind: NAMES[kind], user, name, at, body: JSON.parse(textOf(event.body)) };
        if (target) message.parent = target;
        if (event.flags & 2) message.incomplete = true;
        messages.set(seq, message);
      } else if (kind === 4 && of) Object.assign(of, { body: JSON.parse(textOf(event.body)), edited: at });
      else if (kind === 5 && of) Object.assign(of, { body: {}, deleted: true });
      else if (kind === 6 && of) {
        of.reactions ??= [];
        of.reactions.push({ emoji: textOf(event.body), count: 1, users: [user] });
      }
    }
    return [...messages.values()];
  }

  /** One submission: section 9.3, case by case. Gives the answers. */
  submit(follower, { origin, cseq, base, nonce, kind, version, flags, target, body }) {
    this.submissions += 1;
    const writer = this.#origins.get(origin);
    const { user, name } = follower.self;
    const to = { origin, cseq };
    if (!writer || writer.user !== user) return [{ tag: 'refused', ...to, code: 'bad_origin', message: 'of another' }];
    if (base > writer.last + 1) writer.last = base - 1;
    for (const [number, answer] of writer.answers) if (number < base && answer.record.tag === 'refused') writer.answers.delete(number);
    const same = `${nonce} ${kind} ${textOf(body)}`;
    const before = writer.answers.get(cseq);
    if (cseq <= writer.last) {
      if (!before) throw new Error(`a refusal that was forgotten is asked for: ${cseq}`);
      if (before.same !== same) return [{ tag: 'conflict', ...to }];
      return before.record.seq > this.events.length ? [] : [before.record];
    }
    const expected = (code, retryAfterMs) => [{ tag: 'expected', origin, cseq: writer.last + 1, retryAfterMs, code }];
    if (cseq > writer.last + 1) return expected('out_of_order', 0);
    if (this.broken) return expected(this.broken, 500);
    if (this.#clock.now < this.#takenAt + this.every) return expected('rate_limited', this.#takenAt + this.every - this.#clock.now);
    const refuse = (code) => {
      const record = { tag: 'refused', ...to, code, message: code };
      writer.last = cseq;
      writer.answers.set(cseq, { same, record });
      return [record];
    };
    let content = { kind, version, flags, target, body };
    if (kind === END && this.givenUp.has(`${origin} ${target}`)) return refuse('no_such_stream');
    if (kind === END) {
      const stream = this.streams.get(`${origin} ${target}`);
      const length = new DataView(body.buffer, body.byteOffset).getUint32(0);
      const have = stream?.text.length ?? 0;
      if (have < length) return [{ tag: 'have', origin, key: target, offset: have }, ...expected('stream_behind', 100)];
      content = this.#streamed(stream);
    }
    if (kind === 1 && JSON.parse(textOf(content.body)).text.startsWith('forbidden')) return refuse('forbidden');
    if (kind === 4 && this.events[target - 1]?.user !== user) return refuse('not_author');
    if (kind >= 4 && kind <= 7 && !(this.events[target - 1]?.kind <= 3)) return refuse('no_such_message');
    this.#takenAt = this.#clock.now;
    writer.last = cseq;
    const seq = this.#commit({ ...to, user, name, ...content });
    writer.answers.set(cseq, { same, record: { tag: 'accepted', ...to, seq } });
    if (kind === END) this.#endStream(`${origin} ${target}`, seq);
    return follower.live && kind !== END ? [] : [{ tag: 'accepted', ...to, seq }];
  }

  mayWrite(origin, user) {
    return this.#origins.get(origin)?.user === user;
  }

  lastOf(origin) {
    return this.#origins.get(origin).last;
  }

  begin(follower, { origin, key, ...content }) {
    const id = `${origin} ${key}`;
    const open = this.streams.get(id);
    if (this.givenUp.has(id)) return [];
    if (open) return [{ tag: 'have', origin, key, offset: open.text.length }];
    const stream = { ...content, origin, key, follower, number: this.#nextStream++, text: new Uint8Array(0), ...follower.self };
    this.streams.set(id, stream);
    this.#toAll([streamRecord(stream)]);
    return [];
  }

  part({ origin, key, offset, text }) {
    const stream = this.streams.get(`${origin} ${key}`);
    const have = stream?.text.length ?? 0;
    if (this.givenUp.has(`${origin} ${key}`)) return [];
    if (!stream || offset > have) return [{ tag: 'have', origin, key, offset: have }];
    const fresh = text.subarray(have - offset);
    if (fresh.length === 0) return [];
    stream.text = Uint8Array.from([...stream.text, ...fresh]);
    this.#toAll([{ tag: 'text', stream: stream.number, offset: have, text: fresh }]);
    return [];
  }

  left(follower) {
    this.followers.delete(follower);
    for (const [id, stream] of this.streams) {
      if (stream.follower !== follower) continue;
      const { user, name, origin } = stream;
      this.givenUp.add(id);
      const content = this.#streamed(stream);
      this.#endStream(id, this.#commit({ origin, cseq: 0, user, name, ...content, flags: content.flags | 2 }));
    }
  }

  #streamed({ kind, version, flags, target, body, text }) {
    return { kind, version, flags, target, body: utf8.encode(JSON.stringify({ ...JSON.parse(textOf(body)), text: textOf(text) })) };
  }

  #endStream(id, seq) {
    const { number } = this.streams.get(id);
    this.streams.delete(id);
    this.#toAll([{ tag: 'ended', stream: number, seq }]);
  }

  #commit(event) {
    const seq = this.events.length + 1;
    const entry = { tag: 'event', seq, at: Math.round(this.#clock.now), ...event, body: event.body.slice() };
    this.events.push(entry);
    const head = this.headAt(seq);
    this.#toAll([entry, head]);
    return seq;
  }

  /** To everybody who is at the end of the log, in order. */
  #toAll(records) {
    for (const follower of this.followers) {
      if (!follower.live) continue;
      follower.later(() => {
        if (follower.live) follower.send(records);
      });
    }
  }
}

class Follower {
  #log;
  #send;
  live = false;

  constructor(log, self, send) {
    this.#log = log;
    this.#send = send;
    this.self = { user: self.user, name: self.name };
  }

  begin({ epoch, seq, digest }) {
    const { head, events, resyncEvents } = this.#log;
    const known = seq !== undefined && seq <= head.seq && this.#log.headAt(seq).digest === digest && epoch === head.epoch;
    if (known && head.seq - seq <= resyncEvents) this.pull(seq);
    else this.snapshot(seq === undefined ? 'new' : known ? 'behind' : epoch === head.epoch ? 'mismatch' : 'restored');
  }

  /** With the time that a disk takes, in order. */
  later(call) {
    const clock = this.#log.commitMs;
    if (clock === 0) call();
    else this.#queue.push(call) === 1 && queueMicrotask(() => this.#drain());
  }
  #queue = [];

  #drain() {
    while (this.#queue.length > 0) this.#queue.shift()();
  }

  send(records) {
    if (this.#log.lose(records)) {
      this.live = false;
      this.#send(null);
      return;
    }
    this.#send(encodeRecords(records));
  }

  snapshot(reason) {
    this.live = true;
    const streams = [...this.#log.streams.values()].map(streamRecord);
    this.later(() => this.send([this.#log.snapshot(reason), ...streams]));
  }

  pull(after) {
    const { events, answerBytes, resyncEvents } = this.#log;
    if (after > events.length || events.length - after > resyncEvents) {
      this.snapshot('behind');
      return;
    }
    const records = [];
    for (let at = after, bytes = 0; at < events.length && bytes < answerBytes; at += 1) {
      bytes += events[at].body.length + 64;
      records.push(events[at]);
    }
    const end = after + records.length;
    const streams = end === events.length ? [...this.#log.streams.values()].map(streamRecord) : [];
    if (end === events.length) this.live = true;
    this.later(() => this.send([...records, this.#log.headAt(end), ...streams]));
  }

  request(message) {
    const log = this.#log;
    switch (message.type) {
      case 'writer': {
        const origin = message.origin ?? log.newOrigin(this.self.user);
        if (!log.mayWrite(origin, this.self.user)) return { type: 'refused', id: message.id, code: 'bad_origin', message: 'no' };
        return { type: 'writer', id: message.id, origin, next: log.lastOf(origin) + 1 };
      }
      case 'pull':
        this.pull(message.after);
        return true;
      case 'history': {
        const before = message.before ?? Infinity;
        const all = log.messages().filter(({ seq, parent }) => seq < before && (!message.parent || parent === message.parent));
        const messages = all.slice(-(message.limit ?? 50));
        this.send([json({ tag: 'page', id: message.id }, { messages, more: all.length > messages.length })]);
        return true;
      }
      case 'replay': {
        const events = log.events.slice(message.from - 1, message.to ?? Infinity);
        const some = events.slice(0, 10);
        this.send([{ tag: 'answer', id: message.id, last: some.length === events.length ? 1 : 0 }, ...some]);
        return true;
      }
      default:
        return null;
    }
  }

  receive(payload) {
    const log = this.#log;
    const answers = [];
    for (const record of decodeRecords(payload)) {
      if (record.tag === 'submit') answers.push(...log.submit(this, record));
      else if (record.tag === 'begin') answers.push(...log.begin(this, record));
      else answers.push(...log.part(record));
    }
    if (answers.length > 0) this.later(() => this.send(answers));
  }

  leave() {
    this.#log.left(this);
  }
}

function streamRecord({ number, origin, key, kind, version, flags, target, user, name, body, text }) {
  return { tag: 'stream', stream: number, origin, key, kind, version, flags, target, user, name, body, text };
}

/** Compressed above 1 KiB. */
function json(record, value) {
  const bytes = utf8.encode(JSON.stringify(value));
  if (bytes.length <= 1_024) return { ...record, encoding: 0, json: bytes };
  return { ...record, encoding: 1, json: Uint8Array.from(deflateRawSync(bytes)) };
}
