/**
 * One room as the application sees it: who is in it, sending to it, its log, and its events. What it knows comes from
 * session.js, which alone calls the methods marked internal. Data is passed on and forgotten; what is written to the log
 * (log.js) is kept, and docs/delivery.md says what that means for an application.
 */

import { Emitter } from './emitter.js';
import { SwitchyardError } from './errors.js';
import { Log } from './log.js';
import { SIGNAL_BYTES, TARGET_USERS, TOPIC_BYTES, USER_BYTES } from './limits.js';
import { BULK_STREAM } from './mesh/bulk.js';
import { Seen } from './mesh/seen.js';
import { Tentative } from './tentative/tentative.js';

/**
 * @typedef {object} Member one session in the room; several may have the same user
 * @property {number} member
 * @property {string} user
 * @property {string} name
 * @property {string} role
 * @property {boolean} [write] false: the server refuses its data
 * @property {MemberQuality | null} [quality] how good its connection is; null where that is not known
 * @property {string[]} [signingKeys] with which it signs tentative copies, certified by the server
 *
 * @typedef {object} MemberQuality
 * @property {import('./quality.js').Score} score
 * @property {import('./link.js').Rung | null} rung
 *
 * @typedef {'direct' | 'relay' | 'server'} Reach what carries lossy data between a member and this page: a connection of the
 *   two browsers, one over a TURN server, or the server
 *
 * @typedef {object} DataEvent a data message: passed on and not kept
 * @property {string | Uint8Array} data
 * @property {Member} sender
 * @property {number} stream
 * @property {string} [topic] the topic it was sent to
 * @property {boolean} direct whether it was sent to named users
 * @property {boolean} lossy
 * @property {number} [seq] of a lossy message, rising per sender and stream: newer ones may have arrived before
 *
 * @typedef {object} RefusedEvent
 * @property {string} code
 * @property {string} message
 * @property {string} [request] what was refused: 'subscribe', 'signal', …; absent for messages
 * @property {number} [stream]
 * @property {number} [retryAfterMs]
 *
 * @typedef {object} OwnEvents
 * @property {DataEvent} data
 * @property {Member} memberjoined
 * @property {{ member: Member, reason: string }} memberleft
 * @property {{ member: Member } & MemberQuality} quality a member's connection is another
 * @property {{ sender: Member | null, stream: number, count: number }} gap messages of a stream that are missing, at
 *   their place; without a sender, messages of the whole room
 * @property {{ from: Member, data: unknown }} signal
 * @property {RefusedEvent} refused
 * @property {{ unconfirmed: number }} rejoined the session was lost and made anew: members have new numbers, messages
 *   of others may have been missed, and so many of one's own may or may not have arrived
 * @property {{ reason: string }} left
 * @property {{ member: Member, state: Reach }} peer a member is reached in another way
 * @property {{ topics: string[] }} subscribed the server has taken a change of topics: all there are now
 * @property {import('./tentative/tentative.js').TentativeEvent} tentative a copy of an event that a member has sent ahead of the
 *   log, and what became of it: `shown`, then once `confirmed`, `ordered` or `rolledback`
 * @property {import('./tentative/tentative.js').TentativeRefusal} tentativerefused a copy was refused; not more than one a second
 *   and member is told, all are counted by `session.diagnose()`
 * @property {Room} joined the room is entered, for the first time or anew
 *
 * @typedef {OwnEvents & import('./log.js').LogEvents} RoomEvents
 *
 * @typedef {object} SendOptions
 * @property {number} [stream] 0–65534; order holds within a stream, streams do not wait for each other
 * @property {string[]} [to] only to these users
 * @property {string} [topic] only to those who have subscribed to it
 *
 * @typedef {object} RoomCore what a room asks of its session
 * @property {(room: Room, payload: Uint8Array, text: boolean, stream: number, target: import('./frame.js').Target) =>
 *   Promise<void>} send
 * @property {(room: Room, payload: Uint8Array, text: boolean, stream: number, target: import('./frame.js').Target,
 *   coalesce: boolean) => void} sendLossy
 * @property {(room: Room, member: Member, payload: Uint8Array, text: boolean, stream: number) => Promise<void>} sendTo
 * @property {(sender: string, missing: number) => void} lossyReceived
 * @property {(room: Room, member: number) => { state: Reach, rtt: number | null }} peer
 * @property {(room: Room, message: Record<string, unknown>) => Promise<void>} control
 * @property {(room: Room, message: Record<string, unknown>) => number | null} request as control; gives its id
 * @property {(room: Room) => boolean} fitsLog whether there is room for another message of records
 * @property {(room: Room, payload: Uint8Array) => void} sendLog
 * @property {(room: Room) => { isOn: boolean, tenant: string }} copies whether tentative copies may be sent and taken, and whose
 *   the room is
 * @property {(room: Room, payload: Uint8Array, to: number | null) => void} sendCopy
 * @property {(room: Room) => void} leave
 * @property {(room: Room, token: string | undefined) => Promise<void>} refresh
 */

/** Members that are gone are remembered, so that what they sent last still has a sender. */
const DEPARTED = 256;
const LOSSY_STREAMS = 1_024;

/** @extends {Emitter<RoomEvents>} */
export class Room extends Emitter {
  #core;
  /** @type {Map<number, Member>} */
  #members = new Map();
  /** @type {Map<number, Member>} */
  #departed = new Map();
  /** Last seq of lossy messages, by sender and stream. @type {Map<string, number>} */
  #lossySeqs = new Map();
  /** What has come, of streams that come directly too. @type {Map<string, Seen>} */
  #seen = new Map();
  #topics = new Set();
  /** @type {{ promise: Promise<void>, resolve: () => void } | null} */
  #leaving = null;

  #ended = false;
  /** @type {Log | null} */
  #log = null;
  /** @type {Tentative | null} */
  #tentative = null;

  /** Who one is in it. @type {Member | null} */
  self = null;
  /** What the server permits. @type {readonly string[]} */
  permissions = [];
  /** Whether messages can be sent: from the join until the room is left. */
  active = false;
  counters = { received: 0, sent: 0, lossyReceived: 0, lossySent: 0, lossyMissing: 0, lossyDirect: 0, lossyDoubled: 0, gaps: 0, refused: 0 };

  /**
   * @internal Rooms come from `session.join`.
   * @param {string} name
   * @param {RoomCore} core
   * @param {{ scope: string, env: import('./environment.js').Environment, user: string,
   *   signing: import('./tentative/signing.js').Signing | null } | null} log none: without a log
   */
  constructor(name, core, log) {
    super();
    this.name = name;
    this.#core = core;
    if (!log) return;
    const { scope, env, user, signing } = log;
    this.#tentative = signing && new Tentative({
      room: name,
      env,
      signing,
      ports: {
        isOn: () => this.active && core.copies(this).isOn,
        tenant: () => core.copies(this).tenant,
        self: () => this.self,
        member: (member) => this.#members.get(member),
        mayWrite: () => this.permissions.includes('write'),
        isHeard: () => [...this.#members.values()].some(({ signingKeys }) => signingKeys),
        seq: () => this.#log?.seq ?? 0,
        send: (payload, to) => core.sendCopy(this, payload, to),
        changed: (event) => this.emit('tentative', event),
        refused: (refusal) => this.emit('tentativerefused', refusal),
      },
    });
    this.#log = new Log({
      scope,
      env,
      core: {
        emit: (event, detail) => this.emit(event, /** @type {any} */ (detail)),
        self: () => ({ user: this.self?.user ?? user, name: this.self?.name ?? '' }),
        fits: () => core.fitsLog(this),
        send: (payload) => core.sendLog(this, payload),
        request: (message) => core.request(this, message),
        tentative: this.#tentative,
      },
    });
  }

  /** The others, by member number. @returns {ReadonlyMap<number, Member>} */
  get members() {
    return this.#members;
  }

  /** How the others are reached, by member number, and the round-trip time where that is not the server. */
  get peers() {
    return new Map([...this.#members.keys()].map((member) => [member, this.#core.peer(this, member)]));
  }

  /**
   * Sends on the reliable lane: in order within its stream, across reconnects. The promise resolves when the server
   * has it and rejects with `session_lost` when that cannot be known any more; it may be ignored.
   *
   * Throws, and sends nothing: `too_large`, `buffer_full` (more waits than may be kept), `not_in_room`,
   * `bad_argument`.
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} [options]
   * @returns {Promise<void>}
   */
  send(data, options = {}) {
    const { payload, text, stream, target } = this.#prepare(data, options);
    return this.#core.send(this, payload, text, stream, target);
  }

  /**
   * Sends a large thing, or part of one, to one member: reliably, in order within its stream among those to this member, and
   * directly where there is a connection. The promise resolves when the member has it (or the server, on the way to one that
   * may only read), and rejects with `session_lost` or `no_such_user` where that cannot be known any more.
   *
   * Throws, and sends nothing: `too_large`, `buffer_full`, `not_in_room`, `no_such_user`, `bad_argument`.
   * @param {number} member
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {{ stream?: number }} [options]
   * @returns {Promise<void>}
   */
  sendTo(member, data, { stream } = {}) {
    const { payload, text, stream: on } = this.#prepare(data, { stream });
    const known = this.#members.get(member);
    if (!known) throw new SwitchyardError('no_such_user', 'the member is not in the room');
    return this.#core.sendTo(this, known, payload, text, on);
  }

  /**
   * Sends on the lossy lane: at once or not at all, in no order. Throws `too_large`, `not_in_room`, `bad_argument`.
   *
   * On a poor link (`session.quality`) messages of one stream and target are taken for states of one thing: the newest
   * replaces the one that waits, one to five go out a second, and the last goes out twice. `coalesce: false` says that
   * they are independent.
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions & { coalesce?: boolean }} [options]
   */
  sendLossy(data, options = {}) {
    // Lossy is at once or not at all, and there is no more "at once" for a room that is being left.
    if (this.active && this.#leaving) return;
    const { payload, text, stream, target } = this.#prepare(data, options);
    this.#core.sendLossy(this, payload, text, stream, target, options.coalesce !== false);
  }

  /**
   * Asks for messages to these topics. They stay subscribed across reconnects.
   * @param {string[]} topics
   */
  subscribe(topics) {
    this.#mustBeActive();
    topics.forEach(checkTopic);
    const sent = this.#core.control(this, { type: 'subscribe', topics });
    for (const topic of topics) this.#topics.add(topic);
    return sent;
  }

  /** @param {string[]} topics */
  unsubscribe(topics) {
    this.#mustBeActive();
    const sent = this.#core.control(this, { type: 'unsubscribe', topics });
    for (const topic of topics) this.#topics.delete(topic);
    return sent;
  }

  /**
   * Sends any JSON to a user of the room, or to one member of it.
   * @param {string | { member: number }} to
   * @param {unknown} data
   */
  signal(to, data) {
    this.#mustBeActive();
    if (utf8.encode(JSON.stringify(data ?? null)).length > SIGNAL_BYTES) {
      throw new SwitchyardError('too_large', `a signal has at most ${SIGNAL_BYTES} bytes of JSON`);
    }
    const whom = typeof to === 'string' ? { to } : { to_member: to.member };
    return this.#core.control(this, { type: 'signal', ...whom, data: data ?? null });
  }

  // --- the log ---------------------------------------------------------------------------------------------------------

  /**
   * The messages as they are to be shown, oldest first: those of the log, those that are being written, and those of this
   * page that have no answer yet (`state: 'pending'`). A new list after each `change`.
   */
  get messages() {
    return this.#log?.messages ?? [];
  }

  /** The room's fields. */
  get fields() {
    return this.#log?.fields ?? {};
  }

  /**
   * What members have written and the log does not have yet, in the order in which it is to be shown behind `messages`: copies
   * that came over direct connections. Empty unless the session has `tentative`.
   */
  get tentative() {
    return this.#tentative?.list ?? [];
  }

  /** Whether there are older messages than those in `messages`. */
  get more() {
    return this.#log?.more ?? false;
  }

  /** How the log fares: whether the server can write, and what waits to be sent. */
  get status() {
    return this.#log?.status ?? { storage: /** @type {const} */ ('ok'), code: '', queued: 0, durable: false };
  }

  /**
   * Writes a message. It is shown at once and sent when that is possible, in order, once, after a reload too. Gives its
   * temporary id and `settled`, which resolves with its `seq` or rejects with the code of the refusal.
   *
   * Throws, and writes nothing: `too_large`, `bad_argument`, `buffer_full`, `not_in_room`. So do the next five.
   * @param {string | (import('./body.js').Post & import('./body.js').Placing)} message
   */
  post(message) {
    return this.log.post(message);
  }

  /** Replaces the body of a message. @param {string | number} message its id or seq @param {string | import('./body.js').Post} body */
  edit(message, body) {
    return this.log.edit(message, body);
  }

  /** Deletes a message; its place stays. @param {string | number} message its id or seq */
  remove(message) {
    return this.log.remove(message);
  }

  /** @param {string | number} message its id or seq @param {string} emoji */
  react(message, emoji) {
    return this.log.react('react', message, emoji);
  }

  /** @param {string | number} message its id or seq @param {string} emoji */
  unreact(message, emoji) {
    return this.log.react('unreact', message, emoji);
  }

  /** Changes fields of the room; `null` removes one. @param {Record<string, unknown>} changes */
  setFields(changes) {
    return this.log.setFields(changes);
  }

  /**
   * Writes an event of the application's own.
   * @param {unknown} data bytes as they are, anything else as JSON
   * @param {{ target?: number, version?: number }} [options]
   */
  emitEvent(data, options = {}) {
    return this.log.emitEvent(data, options);
  }

  /**
   * Writes a message that the others see while it grows; it ends as one message. What is not ended when the page goes
   * stays in the room as far as it came, marked incomplete.
   * @param {import('./body.js').Post & import('./body.js').Placing} [message]
   */
  stream(message = {}) {
    return this.log.stream(message);
  }

  /**
   * Messages before `before`, by default before the oldest of `messages`, to which they are then added; with `thread`
   * those of one thread.
   * @param {{ before?: number, limit?: number, thread?: number }} [options]
   */
  history(options = {}) {
    return this.log.history(options);
  }

  /** The events from one `seq` to another, or to the end. @param {number} from @param {number} [to] */
  replay(from, to) {
    return this.log.replay(from, to);
  }

  /** @internal */
  get log() {
    if (!this.#log) throw new SwitchyardError('bad_argument', 'the room was joined without its log');
    return this.#log;
  }

  /** @internal */
  get logOrNull() {
    return this.#log;
  }

  /** @internal */
  get tentativeOrNull() {
    return this.#tentative;
  }

  /** Replaces the token before it expires. @param {string} [token] by default from `getToken` */
  refresh(token) {
    return this.#core.refresh(this, token);
  }

  /** Leaves, after what was sent. @returns {Promise<void>} when it is done */
  leave() {
    if (this.#ended) return Promise.resolve();
    if (!this.#leaving) {
      let resolve = () => {};
      const promise = /** @type {Promise<void>} */ (new Promise((done) => (resolve = done)));
      this.#leaving = { promise, resolve };
      this.#core.leave(this);
    }
    return this.#leaving.promise;
  }

  /** @internal */
  get leaving() {
    return this.#leaving !== null;
  }

  /** @internal @returns {string[]} */
  get topics() {
    return /** @type {string[]} */ ([...this.#topics]);
  }

  /**
   * @internal
   * @param {Member} self
   * @param {Member[]} members
   * @param {string[]} permissions
   */
  enter(self, members, permissions) {
    this.self = self;
    this.permissions = permissions;
    this.#members = new Map(members.map((member) => [member.member, member]));
    this.#departed.clear();
    this.#lossySeqs.clear();
    this.#seen.clear();
    this.active = true;
  }

  /** @internal @param {Member} member */
  memberJoined(member) {
    const known = this.#members.has(member.member);
    this.#members.set(member.member, member);
    if (!known) this.emit('memberjoined', member);
  }

  /** @internal @param {number} number @param {MemberQuality | null} quality */
  memberQuality(number, quality) {
    const known = this.#members.get(number);
    if (!known || !quality) return;
    const member = { ...known, quality };
    this.#members.set(number, member);
    this.emit('quality', { member, ...quality });
  }

  /** @internal @param {number} number @param {string} reason */
  memberLeft(number, reason) {
    const member = this.#members.get(number);
    if (!member) return;
    this.#members.delete(number);
    this.#departed.set(number, member);
    if (this.#departed.size > DEPARTED) this.#departed.delete(this.#departed.keys().next().value ?? -1);
    this.emit('memberleft', { member, reason });
  }

  /** @internal @param {number} number @returns {Member} */
  member(number) {
    const known = this.#members.get(number) ?? this.#departed.get(number);
    if (known) return known;
    if (number === this.self?.member) return this.self;
    return { member: number, user: '', name: '', role: '' };
  }

  /**
   * A message is here.
   * @internal
   * @param {string | Uint8Array} data
   * @param {{ sender: number, stream: number, target: import('./frame.js').Target, seq?: number, isDirect?: boolean }} from
   */
  deliver(data, { sender, stream, target, seq, isDirect = false }) {
    const lossy = seq !== undefined;
    if (lossy) {
      if (this.#isDouble(`${sender} ${stream}`, seq, isDirect)) return;
      this.#countLossy(sender, stream, seq, isDirect);
    }
    this.counters[lossy ? 'lossyReceived' : 'received'] += 1;
    /** @type {DataEvent} */
    const event = { data, sender: this.member(sender), stream, direct: target.tag === 'users', lossy };
    if (target.tag === 'topic') event.topic = target.topic;
    if (lossy) event.seq = seq;
    this.emit('data', event);
  }

  /** @internal @param {number | null} sender @param {number} stream @param {number} count */
  gap(sender, stream, count) {
    this.counters.gaps += count;
    this.emit('gap', { sender: sender === null ? null : this.member(sender), stream, count });
  }

  /** @internal @param {string} reason */
  ended(reason) {
    if (this.#ended) return;
    this.#ended = true;
    this.active = false;
    this.#members.clear();
    this.#leaving?.resolve();
    this.#log?.close(reason);
    this.#tentative?.close();
    this.emit('left', { reason });
  }

  /** Whether it came before, the other way. @param {string} key of sender and stream @param {number} seq @param {boolean} isDirect */
  #isDouble(key, seq, isDirect) {
    let seen = this.#seen.get(key);
    if (!seen && !isDirect) return false;
    if (!seen) {
      this.#seen.set(key, (seen = new Seen(this.#lossySeqs.get(key))));
      if (this.#seen.size > LOSSY_STREAMS) this.#seen.delete(this.#seen.keys().next().value ?? '');
    }
    if (isDirect) this.counters.lossyDirect += 1;
    if (seen.add(seq)) return false;
    this.counters.lossyDoubled += 1;
    return true;
  }

  /** @param {number} sender @param {number} stream @param {number} seq @param {boolean} isDirect */
  #countLossy(sender, stream, seq, isDirect) {
    const key = `${sender} ${stream}`;
    const last = this.#lossySeqs.get(key);
    const ahead = last === undefined ? 1 : (seq - last) >>> 0;
    if (ahead > 0x7fff_ffff) {
      // A late one that was counted as missing.
      this.counters.lossyMissing = Math.max(0, this.counters.lossyMissing - 1);
      return;
    }
    if (ahead > 1) this.counters.lossyMissing += ahead - 1;
    // Of the link to the server only what came over it tells.
    if (!isDirect) this.#core.lossyReceived(`${this.name} ${sender}`, Math.max(0, ahead - 1));
    this.#lossySeqs.delete(key);
    this.#lossySeqs.set(key, seq);
    if (this.#lossySeqs.size > LOSSY_STREAMS) this.#lossySeqs.delete(this.#lossySeqs.keys().next().value ?? '');
  }

  /**
   * @param {string | ArrayBuffer | ArrayBufferView} data
   * @param {SendOptions} options
   */
  #prepare(data, { stream = 0, to, topic }) {
    this.#mustBeActive();
    if (!Number.isInteger(stream) || stream < 0 || stream >= BULK_STREAM) {
      throw new SwitchyardError('bad_argument', `a stream is a number from 0 to ${BULK_STREAM - 1}`);
    }
    if (to !== undefined && topic !== undefined) {
      throw new SwitchyardError('bad_argument', 'a message goes to users or to a topic, not both');
    }
    /** @type {import('./frame.js').Target} */
    let target = { tag: 'room' };
    if (to !== undefined) target = { tag: 'users', users: checkUsers(to) };
    else if (topic !== undefined) target = { tag: 'topic', topic: checkTopic(topic) };
    return { payload: toBytes(data), text: typeof data === 'string', stream, target };
  }

  #mustBeActive() {
    if (!this.active || this.#leaving) throw new SwitchyardError('not_in_room', `not in room ${this.name}`);
  }
}

const utf8 = new TextEncoder();

/** A copy: the application may write into its own while the message waits. @param {string | ArrayBuffer | ArrayBufferView} data */
function toBytes(data) {
  if (typeof data === 'string') return utf8.encode(data);
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
  throw new SwitchyardError('bad_argument', 'data is a string, an ArrayBuffer or a view of one');
}

/** @param {string[]} users */
function checkUsers(users) {
  const sizes = users.map((user) => utf8.encode(user).length);
  if (users.length < 1 || users.length > TARGET_USERS || sizes.some((size) => size < 1 || size > USER_BYTES)) {
    throw new SwitchyardError('bad_argument', `1 to ${TARGET_USERS} users of 1 to ${USER_BYTES} bytes`);
  }
  return [...users];
}

/** @param {string} topic */
function checkTopic(topic) {
  const size = utf8.encode(topic).length;
  if (size < 1 || size > TOPIC_BYTES) {
    throw new SwitchyardError('bad_topic', `a topic has 1 to ${TOPIC_BYTES} bytes`);
  }
  return topic;
}
