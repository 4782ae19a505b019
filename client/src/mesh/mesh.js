/**
 * Who has a direct connection with whom: up to eight members of a room each with each other, one connection between two
 * browsers however many rooms they share. Two that can say `hello` to each other by signals of a room they share; after that
 * pair.js keeps a connection up. What of the room's data may go that way does, and the rest goes over the server.
 *
 * A signal says who it comes from by the server's word (`from`, `user`); everything else in it, and everything that comes
 * over a connection, is the other browser's word, and is taken for that member's only.
 */

import { Bucket } from '../bucket.js';
import { SwitchyardError } from '../errors.js';
import { encodeFrame, Flag } from '../frame.js';
import { CHUNK_BYTES } from '../limits.js';
import { acknowledgement, BULK_STREAM, BulkReceiver, BulkSender, readAcknowledgement, readAddress } from './bulk.js';
import { Pair } from './pair.js';
import { isOurs, readSignal, signalData } from './signals.js';

/** Members of a room, oneself included, up to which all are connected; above it none, and below it again. */
const MEMBERS = 8;
const MEMBERS_AGAIN = 7;
/** Connections of this page. */
const PAIRS = 16;
/** A hello without an answer is repeated after this, doubling so often at most. */
const HELLO_MS = 4_000;
const HELLO_DOUBLINGS = 6;
/** Who was there before waits for the newcomer's hello. */
const GREET_MS = 3_000;
/** A pair without a room waits for one: the session may be made anew. */
const LINGER_MS = 15_000;
/** Signals of one member: so many at once, then so many a second. */
const SIGNALS = 60;
const SIGNALS_A_SECOND = 10;
/** Messages of one browser: so many at once, then so many a second, as at the server. */
const MESSAGES = 2_000;
const MESSAGES_A_SECOND = 1_000;

/** Lossy messages on it are tentative copies. */
export const COPY_STREAM = BULK_STREAM;

/** An acknowledgement over the server is for all that comes so close together. */
const ACK_MS = 30;
/** The server has taken something, and the receiver says nothing of it. */
const OVERDUE_MS = 5_000;
/** How soon the server is asked again to take something that it had no room for. */
const CROWDED_MS = 250;
/** Members that are gone and from whom something may still come over the server. */
const DEPARTED = 64;
/** Tabs of one member that large things may come from; above that the oldest is forgotten. */
const SENDING_TABS = 16;
/** Numbers of tabs. */
const TABS = 65_536;
/** Chunks that wait for a connection and are other tabs'; these have to wait for room before. */
const LENT = 4_096;

/**
 * @typedef {import('../room.js').Room} Room
 * @typedef {import('./pair.js').PairState} PairState
 * @typedef {'auto' | 'relay' | 'off'} PeerToPeer
 *
 * @typedef {object} MeshPorts what the mesh asks of its session
 * @property {(room: Room, member: number, data: unknown) => void} signal
 * @property {() => RTCIceServer[]} servers STUN and TURN servers as far as they are known
 * @property {(room: Room, frame: import('../frame.js').LossyFrame) => void} deliver
 * @property {(room: Room, member: number, message: import('./bulk.js').BulkMessage) => void} deliverBulk
 * @property {() => boolean} takesBulk whether this page takes large things, or another tab of the session does
 * @property {(room: Room, member: number, tab: number) => number} taken the last large thing of a member's tab that the tabs of this
 *   session have
 * @property {() => number} tab this page's number among the tabs that share the session
 * @property {() => Elsewhere | null} elsewhere the connections, where another tab has them
 * @property {(room: Room, member: number, tab: number, n: number) => void} acknowledged a member has what another tab has sent up to here
 * @property {(room: Room, user: string, payload: Uint8Array) => Promise<void>} sendBulk over the server; throws if it has no room
 * @property {() => number} limit bytes of a message
 * @property {(room: Room, member: number, state: PairState) => void} changed
 *
 * @typedef {object} Elsewhere the connections of another tab
 * @property {(room: Room, member: number) => boolean} isDirect
 * @property {(room: Room, member: number) => number} space bytes that it takes for a member now
 * @property {(room: Room, member: number, tab: number, chunk: import('./bulk.js').Chunk) => void} send
 *
 * @typedef {object} Lent a chunk of another tab
 * @property {Bond} bond
 * @property {number} tab
 * @property {import('./bulk.js').Chunk} chunk
 * @property {() => void} passed it has gone, or need not go any more
 *
 * @typedef {object} Bond a member of a room, and how it is reached
 * @property {number} member
 * @property {Link | null} link
 * @property {number} handle what frames to it for this room carry
 * @property {number} hellos sent and not answered
 * @property {unknown} timer
 * @property {Bucket} bucket
 * @property {PairState} state as last told
 *
 * @typedef {object} Place a room
 * @property {number} handle
 * @property {boolean} isForming
 * @property {Map<number, Bond>} bonds
 * @property {Bucket} bucket for signals of those that have no bond
 * @property {Map<number, BulkSender>} senders
 * @property {Map<number, BulkReceiver>} receivers by member and tab (`keyOf`)
 * @property {Map<number, boolean>} acks that are due over the server, likewise; true: with what is missing
 *
 * @typedef {{ direct: number, relay: number, server: number, sent: number }} Ways
 *
 * @typedef {[handle: number, member: number, state: 'direct' | 'relay', rtt: number | null]} Reached a member that is reached past the server
 *
 * @typedef {{ key: string, id: string, pair: Pair, bucket: Bucket, timer: unknown, lent: Lent[], lendsFirst: boolean }} Link another
 *   browser
 */

export class Mesh {
  #env;
  #policy;
  #ports;
  /** Of this page, as long as it is there. */
  #id;
  #isOn = true;
  /** @type {Map<Room, Place>} */
  #places = new Map();
  /** By user and id. @type {Map<string, Link>} */
  #links = new Map();
  /** By connections that are over. */
  #sentBefore = 0;

  /**
   * @param {import('../environment.js').Environment} env
   * @param {PeerToPeer} policy
   * @param {MeshPorts} ports
   */
  constructor(env, policy, ports) {
    this.#env = env;
    this.#policy = env.RTCPeerConnection ? policy : 'off';
    this.#ports = ports;
    this.#id = env.id();
  }

  /** Whether the page wants no connections, or can have none. */
  get isOff() {
    return this.#policy === 'off';
  }

  get #isUsed() {
    return this.#isOn && this.#policy !== 'off';
  }

  /** What the server, the rooms and their tokens leave on. @param {boolean} isOn */
  allow(isOn) {
    if (isOn === this.#isOn) return;
    this.#isOn = isOn;
    for (const room of this.#places.keys()) this.#form(room);
  }

  /** The room is joined, for the first time or anew. @param {Room} room @param {number} handle its number in this session */
  entered(room, handle) {
    const old = this.#places.get(room);
    if (old) {
      this.#dissolve(room, old, { tell: false, lingers: true });
      abandonAll(old);
    }
    const bucket = new Bucket(SIGNALS, SIGNALS_A_SECOND, this.#env.now());
    this.#places.set(room, { handle, isForming: false, bonds: new Map(), bucket, senders: new Map(), receivers: new Map(), acks: new Map() });
    this.#form(room, { isNew: true });
  }

  /** @param {Room} room */
  left(room) {
    const place = this.#places.get(room);
    if (!place) return;
    this.#dissolve(room, place, { tell: false });
    this.#places.delete(room);
    abandonAll(place);
  }

  /** @param {Room} room */
  memberJoined(room) {
    this.#form(room);
  }

  /** @param {Room} room @param {number} member */
  memberLeft(room, member) {
    const place = this.#places.get(room);
    if (!place) return;
    this.#unbind(room, place, member, { tell: false });
    place.senders.get(member)?.abandon(new SwitchyardError('no_such_user', 'the member has left'));
    place.senders.delete(member);
    this.#form(room);
  }

  /** The network is another. */
  hurry() {
    for (const { pair } of this.#links.values()) pair.hurry();
  }

  /** The page goes, or the session: all connections close. Rooms that are entered again get new ones. */
  rest() {
    for (const [room, place] of this.#places) this.#dissolve(room, place, { tell: false });
    for (const link of [...this.#links.values()]) this.#end(link, { tell: false });
  }

  close() {
    this.rest();
    for (const room of [...this.#places.keys()]) this.left(room);
  }

  /** How a member is reached, and its round-trip time. @param {Room} room @param {number} member */
  peer(room, member) {
    const pair = this.#places.get(room)?.bonds.get(member)?.link?.pair;
    return { state: pair?.state ?? /** @type {PairState} */ ('server'), rtt: pair?.rtt ?? null };
  }

  /** Who is reached past the server. */
  get reached() {
    /** @type {Reached[]} */
    const reached = [];
    for (const { handle, bonds } of this.#places.values()) {
      for (const { member, link } of bonds.values()) {
        if (link && link.pair.state !== 'server') reached.push([handle, member, link.pair.state, link.pair.rtt]);
      }
    }
    return reached;
  }

  /** How many members of all rooms are reached which way, and the lossy messages that have gone past the server. @returns {Ways} */
  get ways() {
    const ways = { direct: 0, relay: 0, server: 0, sent: this.#sentBefore };
    for (const { pair } of this.#links.values()) ways.sent += pair.counters.sent;
    for (const [room, { bonds }] of this.#places) {
      for (const member of room.members.keys()) ways[bonds.get(member)?.link?.pair.state ?? 'server'] += 1;
    }
    return ways;
  }

  /** What became of the connections so far, of those that are there now. */
  get counters() {
    const sum = { connections: 0, restarts: 0, failures: 0, sent: 0, received: 0, bad: 0, bulkDirect: 0, bulkServer: 0, bulkAgain: 0 };
    for (const { pair } of this.#links.values()) {
      for (const name of /** @type {(keyof typeof pair.counters)[]} */ (Object.keys(pair.counters))) sum[name] += pair.counters[name];
    }
    for (const { senders } of this.#places.values()) {
      for (const { counters } of senders.values()) {
        sum.bulkDirect += counters.direct;
        sum.bulkServer += counters.server;
        sum.bulkAgain += counters.again;
      }
    }
    return sum;
  }

  /**
   * A signal has come.
   * @param {Room} room
   * @param {number} from as stamped by the server
   * @param {string} user
   * @param {unknown} data
   * @returns {boolean} whether it was about direct connections
   */
  signal(room, from, user, data) {
    if (!isOurs(data)) return false;
    const place = this.#places.get(room);
    const known = room.members.get(from);
    if (!place || !known || known.user !== user || !this.#isUsed) return true;
    const signal = readSignal(data);
    const bond = place.bonds.get(from);
    if (!signal || signal.id === this.#id || !(bond ?? place).bucket.take(this.#env.now())) return true;
    if (signal.type === 'hello') {
      this.#hello(room, place, user, from, signal);
    } else if (signal.to === this.#id) {
      if (bond?.link?.id === signal.id) bond.link.pair.take(signal);
      // It does not know that it is not wanted.
      else if (signal.type === 'offer') this.#say(room, from, { type: 'bye', id: this.#id, to: signal.id, c: signal.c, gone: true });
    }
    return true;
  }

  /**
   * Who of those that a message is for is reached directly now.
   * @param {Room} room
   * @param {import('../frame.js').Target} target
   * @returns {'all' | 'some' | 'none'}
   */
  reach(room, target) {
    // The server knows who subscribes to a topic, and refuses what is not permitted.
    if (target.tag === 'topic' || this.#links.size === 0 || !room.permissions.includes('write')) return 'none';
    let [reached, missed] = [0, 0];
    for (const bond of this.#receivers(room, target)) {
      if (bond?.link && bond.link.pair.state !== 'server') reached += 1;
      else missed += 1;
    }
    if (reached === 0) return 'none';
    return missed === 0 ? 'all' : 'some';
  }

  /**
   * Sends a lossy message to those who are reached directly.
   * @param {Room} room
   * @param {Omit<import('../frame.js').LossyFrame, 'kind' | 'sender' | 'room'>} message
   * @returns {boolean} whether that was everybody it is for; the server need not have it then
   */
  sendLossy(room, message) {
    // As the server writes it: "to you, by name".
    const target = message.target.tag === 'users' ? { tag: /** @type {const} */ ('users'), users: [] } : message.target;
    let isAll = true;
    for (const bond of this.#receivers(room, message.target)) {
      if (!bond?.link) isAll = false;
      else if (!bond.link.pair.sendLossy(encodeFrame({ kind: 'lossy', sender: 0, ...message, target, room: bond.handle }))) isAll = false;
    }
    return isAll;
  }

  /** The members that a message is for; null for one who has no connection. @param {Room} room @param {import('../frame.js').Target} target */
  *#receivers(room, target) {
    const bonds = this.#places.get(room)?.bonds;
    for (const { member, user } of room.members.values()) {
      if (target.tag !== 'users' || target.users.includes(user)) yield bonds?.get(member) ?? null;
    }
  }

  /**
   * Sends a tentative copy over the connections that stand, to those who have a key themselves; over the server never.
   * @param {Room} room @param {Uint8Array} payload @param {number | null} to this member alone
   */
  sendCopy(room, payload, to) {
    const header = { kind: /** @type {const} */ ('lossy'), flags: 0, sender: 0, stream: COPY_STREAM, seq: 0, target: EVERYBODY };
    for (const { member, link, handle } of this.#places.get(room)?.bonds.values() ?? []) {
      const isMeant = to === null ? room.members.get(member)?.signingKeys : to === member;
      if (link && isMeant) link.pair.sendLossy(encodeFrame({ ...header, room: handle, payload }));
    }
  }

  // --- large things -------------------------------------------------------------------------------------------------

  /**
   * Sends a reliable message to one member, directly where that is possible.
   * @param {Room} room @param {import('../room.js').Member} member @param {Uint8Array} data @param {boolean} isText @param {number} stream
   */
  send(room, { member, user }, data, isText, stream) {
    const place = this.#places.get(room);
    if (!place) throw new SwitchyardError('not_in_room', `not in room ${room.name}`);
    let sender = place.senders.get(member);
    if (!sender) {
      const tab = this.#ports.tab();
      const pair = () => place.bonds.get(member)?.link?.pair;
      sender = new BulkSender(member, tab, {
        // The server refuses what is not permitted.
        isDirect: () => room.permissions.includes('write') && this.#isDirect(room, member),
        directRoom: () => this.#ports.elsewhere()?.space(room, member) ?? pair()?.room ?? 0,
        direct: (chunk) => this.#sendChunk(room, member, tab, chunk),
        server: (payload) => this.#byServer(room, user, member, payload),
        acknowledges: () => room.members.get(member)?.write !== false,
      });
      place.senders.set(member, sender);
    }
    if (!sender.fits(data.length)) throw new SwitchyardError('buffer_full', 'too much waits to be sent or acknowledged');
    const isFirst = sender.oldest === null;
    const sent = sender.send(data, isText, stream);
    if (isFirst) this.#watch(sender, place, member);
    return sent;
  }

  /** Whether a member is reached past the server, by this page or the tab that has the connections. @param {Room} room @param {number} member */
  #isDirect(room, member) {
    const elsewhere = this.#ports.elsewhere();
    return elsewhere ? elsewhere.isDirect(room, member) : this.peer(room, member).state !== 'server';
  }

  /** @param {Room} room @param {number} member @param {number} tab @param {import('./bulk.js').Chunk} chunk */
  #sendChunk(room, member, tab, chunk) {
    const elsewhere = this.#ports.elsewhere();
    const bond = this.#places.get(room)?.bonds.get(member);
    if (!elsewhere) return bond !== undefined && put(bond, tab, chunk);
    elsewhere.send(room, member, tab, chunk);
    return true;
  }

  /**
   * Sends a chunk of another tab. It is dropped where there is no connection: that tab has been told so, or will be, and sends again.
   * @param {Room} room @param {number} member @param {number} tab @param {import('./bulk.js').Chunk} chunk @param {() => void} passed
   */
  lend(room, member, tab, chunk, passed) {
    const bond = this.#places.get(room)?.bonds.get(member);
    if (!bond?.link || bond.link.lent.length >= LENT) return passed();
    bond.link.lent.push({ bond, tab, chunk, passed });
    this.#passOn(bond.link);
  }

  /** As much as has room, or all if there is no connection. @param {Link} link */
  #passOn(link) {
    for (let first; (first = link.lent[0]); link.lent.shift()) {
      const stands = link.pair.state !== 'server' && first.bond.link === link;
      if (stands && (link.pair.room < 2 * CHUNK_BYTES || !put(first.bond, first.tab, first.chunk))) return;
      first.passed();
    }
  }

  /** The connections of the tab that has them take more, or reach others than before. */
  pump() {
    for (const { senders } of this.#places.values()) for (const sender of senders.values()) sender.pump();
  }

  /** A member has what this tab has sent. @param {Room} room @param {number} member @param {import('./bulk.js').Acknowledgement} what */
  acknowledged(room, member, { tab, n, isAgain }) {
    const sender = this.#places.get(room)?.senders.get(member);
    if (sender?.tab !== tab) return false;
    sender.acknowledge(n);
    if (isAgain) sender.again();
    return true;
  }

  /** Another tab of the session has taken a message. @param {Room} room @param {import('./bulk.js').Bulk} message */
  took(room, { member, tab, n }) {
    const place = this.#places.get(room);
    if (place) this.#receiver(room, place, member, tab).tookTo(n);
  }

  /** Looks after what waits for an acknowledgement. @param {BulkSender} sender @param {Place} place @param {number} member */
  #watch(sender, place, member) {
    const { oldest } = sender;
    if (oldest === null || place.senders.get(member) !== sender) return;
    this.#env.setTimeout(() => {
      if (sender.oldest === oldest) sender.again();
      this.#watch(sender, place, member);
    }, OVERDUE_MS);
  }

  /** @param {Room} room @param {string} user @param {number} member @param {Uint8Array} payload */
  #byServer(room, user, member, payload) {
    // Others may have taken all the room, so nothing of this sender's own would wake it.
    const later = () => this.#env.setTimeout(() => this.#places.get(room)?.senders.get(member)?.pump(), CROWDED_MS);
    try {
      const taken = this.#ports.sendBulk(room, user, payload);
      taken.catch(({ code }) => code === 'buffer_full' && later());
      return taken;
    } catch (error) {
      later();
      throw error;
    }
  }

  /** A message has come over the server. @param {Room} room @param {number} member @param {Uint8Array} payload */
  received(room, member, payload) {
    const place = this.#places.get(room);
    if (!place) return;
    const self = room.self?.member ?? 0;
    const answer = readAcknowledgement(payload, self);
    // Each tab hears what is for another.
    if (answer) return void this.acknowledged(room, member, answer);
    const address = readAddress(payload);
    if (!this.#ports.takesBulk() || address?.member !== self) return;
    const key = keyOf(member, address.tab);
    for (const message of this.#receiver(room, place, member, address.tab).takeMessage(payload)) this.#ports.deliverBulk(room, member, message);
    if (!this.#acknowledge(place, key)) this.#acknowledgeLater(room, place, key);
  }

  /** Messages over the server are missing. @param {Room} room @param {number | null} member null: of anybody */
  gap(room, member) {
    const place = this.#places.get(room);
    for (const [key, receiver] of place?.receivers ?? []) {
      if (!place || (member !== null && memberOf(key) !== member)) continue;
      if (room.permissions.includes('write')) this.#acknowledgeLater(room, place, key, true);
      else receiver.gap();
    }
  }

  /** Over the server. @param {Room} room @param {Place} place @param {number} key @param {boolean} [isAgain] */
  #acknowledgeLater(room, place, key, isAgain = false) {
    const due = place.acks.get(key);
    place.acks.set(key, isAgain || due === true);
    if (due !== undefined) return;
    this.#env.setTimeout(() => {
      const again = place.acks.get(key) ?? false;
      place.acks.delete(key);
      const [member, tab] = [memberOf(key), key % TABS];
      const user = room.members.get(member)?.user;
      const receiver = place.receivers.get(key);
      if (user === undefined || !receiver || this.#places.get(room) !== place || !room.permissions.includes('write')) return;
      if (!again && this.#acknowledge(place, key)) return;
      try {
        this.#ports.sendBulk(room, user, acknowledgement(member, { tab, n: receiver.acknowledged, isAgain: again }));
      } catch {
        // The sender asks again by sending again.
      }
    }, ACK_MS);
  }

  /** @param {Room} room @param {Place} place @param {number} member @param {number} tab */
  #receiver(room, place, member, tab) {
    const key = keyOf(member, tab);
    let receiver = place.receivers.get(key);
    if (receiver) return receiver;
    receiver = new BulkReceiver(room.self?.member ?? 0, this.#ports.limit());
    receiver.tookTo(this.#ports.taken(room, member, tab));
    place.receivers.set(key, receiver);
    const keys = [...place.receivers.keys()];
    const tabs = keys.filter((each) => memberOf(each) === member);
    if (tabs.length > SENDING_TABS) place.receivers.delete(tabs[0]);
    const departed = keys.filter((each) => !room.members.has(memberOf(each)));
    if (departed.length > DEPARTED) place.receivers.delete(departed[0]);
    return receiver;
  }

  /** A chunk has come directly, or what the other has. @param {Room} room @param {Place} place @param {number} member @param {import('../frame.js').ReliableFrame} frame */
  #chunk(room, place, member, frame) {
    const { laneSeq: tab, ack: n } = frame;
    if (tab >= TABS) return;
    if (frame.payload.length === 0) {
      if (!this.acknowledged(room, member, { tab, n, isAgain: false })) this.#ports.acknowledged(room, member, tab, n);
      return;
    }
    const key = keyOf(member, tab);
    for (const message of this.#receiver(room, place, member, tab).takeChunk(frame)) this.#ports.deliverBulk(room, member, message);
    if (frame.flags & Flag.LAST && !this.#acknowledge(place, key)) this.#acknowledgeLater(room, place, key);
  }

  /** An empty message says what has come. False if it cannot go directly. @param {Place} place @param {number} key */
  #acknowledge(place, key) {
    const bond = place.bonds.get(memberOf(key));
    const receiver = place.receivers.get(key);
    if (!bond?.link || !receiver) return false;
    const header = { flags: Flag.FIRST | Flag.LAST, laneSeq: key % TABS, room: bond.handle, sender: 0, stream: BULK_STREAM };
    return bond.link.pair.send(encodeFrame({ kind: 'data', ...header, ack: receiver.acknowledged, target: EVERYBODY, payload: EMPTY }));
  }

  /** It has room again, or stands again. What could not be said of what has come is said now. @param {Link} link */
  #pump(link) {
    // In turn, for whoever is first takes all the room there is.
    link.lendsFirst = !link.lendsFirst;
    if (link.lendsFirst) this.#passOn(link);
    for (const [, place, bond] of this.#bondsOf(link)) {
      for (const key of place.receivers.keys()) if (memberOf(key) === bond.member) this.#acknowledge(place, key);
      place.senders.get(bond.member)?.pump();
    }
    this.#passOn(link);
  }

  // --- who with whom -----------------------------------------------------------------------------------------------

  /** Begins or ends the mesh of a room, and invites who is not in it. @param {Room} room @param {{ isNew?: boolean }} [options] */
  #form(room, { isNew = false } = {}) {
    const place = this.#places.get(room);
    if (!place) return;
    const members = room.members.size + 1;
    const most = place.isForming ? MEMBERS : MEMBERS_AGAIN;
    const wasForming = place.isForming;
    place.isForming = this.#isUsed && maySignal(room) && members <= (isNew ? MEMBERS : most);
    if (!this.#isUsed || members > MEMBERS) this.#dissolve(room, place, { tell: true });
    if (!place.isForming) return;
    for (const member of room.members.keys()) {
      if (place.bonds.has(member)) continue;
      const bond = this.#bond(place, member);
      if (isNew || !wasForming) this.#invite(room, place, bond);
      else bond.timer = this.#env.setTimeout(() => this.#invite(room, place, bond), GREET_MS);
    }
  }

  /** @param {Place} place @param {number} member @returns {Bond} */
  #bond(place, member) {
    let bond = place.bonds.get(member);
    if (!bond) {
      const bucket = new Bucket(SIGNALS, SIGNALS_A_SECOND, this.#env.now());
      bond = { member, link: null, handle: 0, hellos: 0, timer: null, bucket, state: 'server' };
      place.bonds.set(member, bond);
    }
    return bond;
  }

  /** Says hello until it is answered. @param {Room} room @param {Place} place @param {Bond} bond */
  #invite(room, place, bond) {
    this.#env.clearTimeout(bond.timer);
    if (bond.link || !place.isForming) return;
    this.#say(room, bond.member, { type: 'hello', id: this.#id, handle: place.handle, answer: true });
    bond.timer = this.#env.setTimeout(() => this.#invite(room, place, bond), HELLO_MS * 2 ** Math.min(bond.hellos, HELLO_DOUBLINGS));
    bond.hellos += 1;
  }

  /** @param {Room} room @param {Place} place @param {string} user @param {number} from @param {import('./signals.js').Hello} hello */
  #hello(room, place, user, from, { id, handle, answer }) {
    if (room.members.size + 1 > MEMBERS || !maySignal(room)) return;
    const bond = this.#bond(place, from);
    const key = JSON.stringify([user, id]);
    if (bond.link && bond.link.key !== key) this.#unlink(room, bond, { tell: false });
    const link = bond.link ?? this.#link(room, key, id);
    if (!link) return;
    this.#env.clearTimeout(bond.timer);
    this.#env.clearTimeout(link.timer);
    Object.assign(bond, { link, handle, hellos: 0 });
    if (answer) this.#say(room, bond.member, { type: 'hello', id: this.#id, handle: place.handle, answer: false });
    link.pair.start();
    this.#changed(link);
  }

  /** The other browser, known or new; null if there are too many. @param {Room} room @param {string} key @param {string} id */
  #link(room, key, id) {
    const known = this.#links.get(key);
    if (known || this.#links.size >= PAIRS) return known ?? null;
    const bucket = new Bucket(MESSAGES, MESSAGES_A_SECOND, this.#env.now());
    const pair = new Pair(this.#env, {
      isPolite: this.#id > id,
      configuration: () => this.#configuration(),
      signal: (signal) => this.#tell(link, signal),
      frame: (frame) => this.#frame(link, frame),
      changed: () => this.#changed(link),
      drained: () => this.#pump(link),
    });
    /** @type {Link} */
    const link = { key, id, pair, bucket, timer: null, lent: [], lendsFirst: false };
    this.#links.set(key, link);
    return link;
  }

  /** @returns {RTCConfiguration | null} */
  #configuration() {
    const iceServers = this.#ports.servers();
    if (this.#policy !== 'relay') return { iceServers };
    return iceServers.length > 0 ? { iceServers, iceTransportPolicy: 'relay' } : null;
  }

  /** @param {Room} room @param {Place} place @param {{ tell: boolean, lingers?: boolean }} options */
  #dissolve(room, place, options) {
    for (const member of [...place.bonds.keys()]) this.#unbind(room, place, member, options);
  }

  /** @param {Room} room @param {Place} place @param {number} member @param {{ tell: boolean, lingers?: boolean }} options */
  #unbind(room, place, member, options) {
    const bond = place.bonds.get(member);
    if (!bond) return;
    this.#env.clearTimeout(bond.timer);
    this.#unlink(room, bond, options);
    place.bonds.delete(member);
  }

  /** @param {Room} room @param {Bond} bond @param {{ tell: boolean, lingers?: boolean }} options */
  #unlink(room, bond, { tell, lingers = false }) {
    const { link } = bond;
    if (!link) return;
    const isLast = [...this.#bondsOf(link)].length === 1;
    if (isLast && !lingers) this.#end(link, { tell });
    bond.link = null;
    this.#places.get(room)?.senders.get(bond.member)?.pump();
    if (isLast && lingers) link.timer = this.#env.setTimeout(() => this.#end(link, { tell: false }), LINGER_MS);
    this.#tellState(room, bond);
  }

  /** @param {Link} link @param {{ tell: boolean }} options */
  #end(link, options) {
    this.#env.clearTimeout(link.timer);
    link.pair.close(options);
    this.#sentBefore += link.pair.counters.sent;
    this.#links.delete(link.key);
    this.#passOn(link);
  }

  /** The members that are this browser, in all rooms. @param {Link} link @returns {Generator<[Room, Place, Bond]>} */
  *#bondsOf(link) {
    for (const [room, place] of this.#places) {
      for (const bond of place.bonds.values()) if (bond.link === link) yield [room, place, bond];
    }
  }

  // --- to and from the others --------------------------------------------------------------------------------------

  /** By the signals of one of the rooms. @param {Link} link @param {Record<string, unknown>} signal */
  #tell(link, signal) {
    const [first] = this.#bondsOf(link);
    if (first) this.#say(first[0], first[2].member, /** @type {any} */ ({ id: this.#id, to: link.id, ...signal }));
  }

  /** @param {Room} room @param {number} member @param {import('./signals.js').Signal} signal */
  #say(room, member, signal) {
    this.#ports.signal(room, member, signalData(signal));
  }

  /** @param {Link} link */
  #changed(link) {
    for (const [room, , bond] of this.#bondsOf(link)) this.#tellState(room, bond);
    this.#pump(link);
  }

  /** @param {Room} room @param {Bond} bond */
  #tellState(room, bond) {
    const state = bond.link?.pair.state ?? 'server';
    if (state === bond.state) return;
    bond.state = state;
    this.#ports.changed(room, bond.member, state);
  }

  /** @param {Link} link @param {import('../frame.js').Frame} frame */
  #frame(link, frame) {
    const isChunk = frame.kind === 'data' && frame.stream === BULK_STREAM;
    if (!isChunk && (frame.kind !== 'lossy' || !link.bucket.take(this.#env.now()))) return;
    for (const [room, place, bond] of this.#bondsOf(link)) {
      if (place.handle !== frame.room) continue;
      // What the server would refuse is not taken from the sender itself.
      if (room.members.get(bond.member)?.write === false && frame.payload.length > 0) return;
      if (frame.kind === 'lossy') this.#ports.deliver(room, { ...frame, sender: bond.member });
      else if (frame.kind === 'data') this.#chunk(room, place, bond.member, frame);
      return;
    }
  }
}

const EMPTY = new Uint8Array(0);
const EVERYBODY = { tag: /** @type {const} */ ('room') };

/** @param {number} member @param {number} tab */
function keyOf(member, tab) {
  return member * TABS + tab;
}

/** @param {number} key */
function memberOf(key) {
  return Math.floor(key / TABS);
}

/** Sends a chunk, if there is room. @param {Bond} bond @param {number} tab @param {import('./bulk.js').Chunk} chunk */
function put({ link, handle }, tab, chunk) {
  const header = { laneSeq: tab, ack: 0, room: handle, sender: 0, stream: BULK_STREAM, target: EVERYBODY };
  return link?.pair.send(encodeFrame({ kind: 'data', ...header, ...chunk })) ?? false;
}

/** @param {Place} place */
function abandonAll({ senders }) {
  const error = new SwitchyardError('session_lost', 'the room was left before it was confirmed');
  for (const sender of senders.values()) sender.abandon(error);
  senders.clear();
}

/** Those who only read cannot. @param {Room} room */
function maySignal(room) {
  return room.permissions.includes('comment');
}
