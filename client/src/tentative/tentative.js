/**
 * The tentative copies of one room, off unless server, room, token and application want them: what this page writes to the log
 * goes signed to the members that it is connected with, ahead of the log; what comes so from them is shown until the log says
 * what became of it. copy.js has the bytes, signing.js the keys, held.js what is here and its ends.
 *
 * A copy comes from another browser and is that member's word alone: it is believed to be by the member whose key the server
 * has certified, for this room, and nothing else of it is believed. It changes nothing but what is shown.
 */

import { readEvent } from '../body.js';
import { Bucket } from '../bucket.js';
import { COPY_BYTES, PARENTS, SIGNATURE_BYTES, decodeCopy, encodeRefusal, encodeStatement } from './copy.js';
import { HELD, HELD_BYTES, HOLD_MS, Held } from './held.js';
import { keyId } from './signing.js';
import { joined } from '../record.js';

/** Copies of one member: so many at once, then so many a second. */
const COPIES = 128;
const COPIES_A_SECOND = 64;
/** Signatures of one member's that are being verified. */
const VERIFYING = 64;
/** How often the application, and whoever sent it, is told that a copy of a member was refused. */
const TOLD = 4;
const TOLD_A_SECOND = 1;
/** Own copies: half of what others take, so that they refuse nothing. */
const OWN = COPIES / 2;
const OWN_A_SECOND = COPIES_A_SECOND / 2;
/** Members of whom something is remembered. */
const MEMBERS = 64;

/**
 * @typedef {object} TentativeEvent
 * @property {string} id the same from `shown` to the end
 * @property {'shown' | 'confirmed' | 'ordered' | 'rolledback'} state `ordered`: the log has it, before others that were shown
 *   before it
 * @property {import('../room.js').Member} member
 * @property {import('../messages.js').LogEvent} event as its author wrote it; its `seq` is 0 until the log has it
 * @property {string} code why it was rolled back: `timeout`, `refused`, `differs`, `sync_required`, `left`; else empty
 *
 * @typedef {{ member: import('../room.js').Member, code: string }} TentativeRefusal
 *
 * @typedef {object} TentativePorts what it asks of its room and session
 * @property {() => boolean} isOn
 * @property {() => string} tenant
 * @property {() => import('../room.js').Member | null} self
 * @property {(member: number) => import('../room.js').Member | undefined} member
 * @property {() => boolean} mayWrite
 * @property {() => boolean} isHeard whether any other member has a key
 * @property {() => number} seq the last event that was read
 * @property {(payload: Uint8Array, to: number | null) => void} send to one member, or to all that are connected and have a key
 * @property {(event: TentativeEvent) => void} changed
 * @property {(refusal: TentativeRefusal) => void} refused
 *
 * @typedef {{ bucket: Bucket, told: Bucket, verifying: number }} Sender
 * @typedef {import('./copy.js').EventId & { bytes: number, until: number }} Sent
 */

export class Tentative {
  #env;
  #signing;
  #room;
  #ports;
  #held = new Held();
  /** @type {Map<number, Sender>} */
  #senders = new Map();
  /** Own copies that others may hold, by the id of the item in the outbox. @type {Map<string, Sent>} */
  #sent = new Map();
  #pace;
  /** When what is shown came. @type {WeakMap<import('./held.js').Entry, number>} */
  #shownAt = new WeakMap();
  /** @type {unknown} */
  #timer = null;
  #closed = false;
  #counters = { sent: 0, withdrawn: 0, unsent: 0, received: 0 };
  /** Copies that were refused here, and own ones that others say they have refused, by code. */
  #refused = /** @type {Record<string, number>} */ ({});
  #refusedByOthers = /** @type {Record<string, number>} */ ({});

  /**
   * @param {object} options
   * @param {string} options.room
   * @param {import('../environment.js').Environment} options.env
   * @param {import('./signing.js').Signing} options.signing
   * @param {TentativePorts} options.ports
   */
  constructor({ room, env, signing, ports }) {
    this.#room = room;
    this.#env = env;
    this.#signing = signing;
    this.#ports = ports;
    this.#pace = new Bucket(OWN, OWN_A_SECOND, env.now());
  }

  /** What is shown, in that order. @returns {TentativeEvent[]} */
  get list() {
    return this.#held.shown.map((entry) => this.#describe(entry, 'shown', 0, ''));
  }

  get counters() {
    const { refused, refusedByOthers } = { refused: { ...this.#refused }, refusedByOthers: { ...this.#refusedByOthers } };
    return { ...this.#counters, ...this.#held.counters, held: this.#held.size, refused, refusedByOthers };
  }

  // --- what this page writes -------------------------------------------------------------------------------------------

  /**
   * Something of this page is stored and is going to be sent under this name.
   * @param {import('../store.js').Item} item @param {string} origin
   */
  async wrote(item, origin) {
    const { id, cseq, kind, version, flags, target, body } = item;
    const heading = this.#heading();
    // What others have not seen for so long, they need not see a moment earlier.
    if (!heading || item.stream || this.#env.date() - item.at >= HOLD_MS) return;
    const parents = this.#held.heads(PARENTS);
    const content = { kind, version, flags, target, body };
    const statement = encodeStatement({ type: 'event', ...heading, origin, cseq, after: this.#ports.seq(), parents, ...content });
    if (statement.length + SIGNATURE_BYTES > COPY_BYTES || !this.#fits(body.length)) {
      this.#counters.unsent += 1;
      return;
    }
    this.#held.wrote({ origin, cseq });
    this.#sent.set(id, { origin, cseq, bytes: body.length, until: this.#env.now() + HOLD_MS });
    if (await this.#sign(statement)) this.#counters.sent += 1;
  }

  /** The server has refused it. @param {string} id of the item */
  async refused(id) {
    const sent = this.#sent.get(id);
    const heading = this.#heading();
    this.#sent.delete(id);
    if (!sent || !heading || !this.#pace.take(this.#env.now())) return;
    if (await this.#sign(encodeStatement({ type: 'withdrawn', ...heading, ...sent }))) this.#counters.withdrawn += 1;
  }

  /** Whether others would take another one. @param {number} bytes */
  #fits(bytes) {
    const now = this.#env.now();
    for (const [id, { until }] of this.#sent) if (until <= now) this.#sent.delete(id);
    const held = [...this.#sent.values()].reduce((sum, sent) => sum + sent.bytes, bytes);
    return this.#sent.size < HELD && held <= HELD_BYTES && this.#pace.take(now);
  }

  /** @returns {import('./copy.js').Heading | null} null: nothing can be signed now */
  #heading() {
    const { publicKey } = this.#signing;
    const self = this.#ports.self();
    if (!publicKey || !self || this.#closed || !this.#ports.isOn()) return null;
    if (!this.#ports.mayWrite() || !this.#ports.isHeard()) return null;
    return { key: keyId(publicKey), tenant: this.#ports.tenant(), room: this.#room, member: self.member };
  }

  /** Signs and sends. False if that came to nothing. @param {Uint8Array} statement */
  async #sign(statement) {
    const signature = await this.#signing.sign(statement).catch(() => null);
    if (!signature || this.#closed || !this.#ports.isOn()) return false;
    this.#ports.send(joined([statement, signature]), null);
    return true;
  }

  // --- what comes ------------------------------------------------------------------------------------------------------

  /** From another browser, over the connection with that member. @param {number} member @param {Uint8Array} bytes */
  async receive(member, bytes) {
    if (this.#closed) return;
    this.#counters.received += 1;
    const sender = this.#sender(member);
    const code = await this.#take(member, sender, bytes);
    if (code && !this.#closed) this.#refuse(member, sender, code);
    this.#tell();
  }

  /**
   * @param {number} from @param {Sender} sender @param {Uint8Array} bytes
   * @returns {Promise<string | null>} why it is refused
   */
  async #take(from, sender, bytes) {
    if (!this.#ports.isOn()) return 'switched_off';
    if (!sender.bucket.take(this.#env.now())) return 'rate_limited';
    const read = decodeCopy(bytes);
    if ('code' in read) return read.code;
    if (read.said.type === 'refused') {
      count(this.#refusedByOthers, read.said.code);
      return null;
    }
    const { said, statement, signature } = /** @type {{ said: import('./copy.js').Statement, statement: Uint8Array, signature: Uint8Array }} */ (read);
    const author = this.#ports.member(from);
    if (said.room !== this.#room || said.tenant !== this.#ports.tenant()) return 'wrong_room';
    if (said.member !== from || !author) return 'wrong_sender';
    const key = author.signingKeys?.find((each) => keyId(each) === said.key);
    if (!key) return 'unknown_signer';
    if (sender.verifying >= VERIFYING) return 'rate_limited';
    sender.verifying += 1;
    const isGenuine = await this.#signing.verify(key, statement, signature);
    sender.verifying -= 1;
    if (!isGenuine) return 'bad_signature';
    // Whoever has left meanwhile, or was removed, shows nothing any more.
    if (!this.#ports.member(from)) return null;
    if (said.type === 'withdrawn') {
      this.#held.withdraw(said);
      return null;
    }
    // The bytes it came in belong to a larger message.
    return this.#held.take({ ...said, body: said.body.slice() }, author.user, this.#env.now());
  }

  /** Not so often that refusing costs more than sending. @param {number} from @param {Sender} sender @param {string} code */
  #refuse(from, sender, code) {
    count(this.#refused, code);
    const member = this.#ports.member(from);
    if (!member || !sender.told.take(this.#env.now())) return;
    this.#ports.refused({ member, code });
    if (this.#ports.isOn()) this.#ports.send(encodeRefusal(code), from);
  }

  /** @param {number} member */
  #sender(member) {
    let sender = this.#senders.get(member);
    if (!sender) {
      const now = this.#env.now();
      sender = { bucket: new Bucket(COPIES, COPIES_A_SECOND, now), told: new Bucket(TOLD, TOLD_A_SECOND, now), verifying: 0 };
      this.#senders.set(member, sender);
      if (this.#senders.size > MEMBERS) this.#senders.delete(this.#senders.keys().next().value ?? 0);
    }
    return sender;
  }

  // --- what the log says -----------------------------------------------------------------------------------------------

  /** The next event of the log, before the application has it. @param {import('../record.js').EventRecord} event */
  committed(event) {
    const isIt = (/** @type {Sent} */ { origin, cseq }) => origin === event.origin && cseq === event.cseq;
    for (const [id, sent] of this.#sent) if (isIt(sent)) this.#sent.delete(id);
    this.#held.committed(event);
    this.#tell();
  }

  /** The application has that event. */
  released() {
    this.#held.release();
    this.#tell();
  }

  /** A snapshot has taken the place of events. @param {number} seq */
  synced(seq) {
    this.#held.synced(seq, this.#env.now());
    this.#tell();
  }

  /** The room is left. */
  close() {
    if (this.#closed) return;
    this.#held.close();
    this.#tell();
    this.#closed = true;
    this.#env.clearTimeout(this.#timer);
  }

  /** Says what has happened, and sees to it that nothing is held for too long. */
  #tell() {
    for (const told of this.#held.poll()) {
      const seq = 'seq' in told ? told.seq : 0;
      const code = 'code' in told ? told.code : '';
      if (told.state === 'shown') this.#shownAt.set(told.entry, this.#env.date());
      this.#ports.changed(this.#describe(told.entry, told.state, seq, code));
    }
    this.#env.clearTimeout(this.#timer);
    const { dueAt } = this.#held;
    if (dueAt === null || this.#closed) return;
    const tick = () => {
      this.#held.tick(this.#env.now());
      this.#tell();
    };
    this.#timer = this.#env.setTimeout(tick, Math.max(1, dueAt - this.#env.now()));
  }

  /**
   * @param {import('./held.js').Entry} entry @param {TentativeEvent['state']} state @param {number} seq @param {string} code
   * @returns {TentativeEvent}
   */
  #describe(entry, state, seq, code) {
    const { id, user, copy } = entry;
    const member = this.#ports.member(copy.member) ?? { member: copy.member, user, name: '', role: '' };
    const at = this.#shownAt.get(entry) ?? this.#env.date();
    const event = readEvent({ tag: 'event', ...copy, seq, at, user, name: member.name });
    return { id, state, member, event: /** @type {import('../messages.js').LogEvent} */ (event), code };
  }
}

/** @param {Record<string, number>} counts @param {string} code */
function count(counts, code) {
  counts[code] = (counts[code] ?? 0) + 1;
}
