/**
 * A session's way to the server when the tabs of one user share one connection: to session.js it looks like link.js. In the
 * leading tab there is a Link behind it; in the others there is the leading tab.
 *
 * What keeps a change of leaders from losing, doubling or reordering anything: every tab has the whole of the session's
 * reliable lane (lane.js). Whatever the leader does to it (takes a frame of the server, orders a message that a tab offers,
 * gives the next frame its number) it tells the others first and does then, and they do the same; so a leader that is gone in
 * the middle has sent and acknowledged nothing that the others cannot go on with. It waits until they have said to have what it
 * acknowledges, and to know what it sends, since a crash may take with it what was told last. The next leader resumes the session
 * at the server, with its ticket, under higher generations, and the lane's replay does the rest.
 *
 * The ticket goes from tab to tab of one origin and is in memory only.
 */

import { SwitchyardError } from '../errors.js';
import { encodeFrame } from '../frame.js';
import { CLIENT_ACKS, DEFAULT_LIMITS } from '../limits.js';
import { identityIn } from '../token.js';
import { Facts } from './facts.js';
import { Follower } from './follower.js';
import { EMPTY, TabLane } from './lane.js';
import { Leader } from './leader.js';
import { TabQuestions } from './questions.js';
import { Seat } from './seat.js';
import { IDS, namesOf, plain, readDown } from './wire.js';

const BEAT_MS = 1_000;
/** What a leader said before it died may still be on its way. */
const SETTLE_MS = 100;
/** A successor that was named and has not taken the seat is gone too. */
const HEIR_MS = 2_000;

/**
 * @typedef {import('../link.js').Link} Link
 * @typedef {import('../link.js').LinkOwner} LinkOwner
 * @typedef {import('./wire.js').Up} Up
 * @typedef {import('../lane.js').Message<any>} Message
 * @typedef {import('../lossy.js').LossyMessage} LossyMessage
 * @typedef {{ surroundings: import('./surroundings.js').Surroundings, names: ReturnType<typeof namesOf> }} Others
 *
 * @typedef {object} Sharing what the session does for the tabs besides what it does for a link
 * @property {(message: Message | LossyMessage, isLossy: boolean) => void} echo another tab of the same user has sent this
 * @property {(message: LossyMessage, coalesce: boolean) => void} lossy sends it for another tab
 * @property {(frame: import('../frame.js').LossyFrame) => void} direct came to another tab from another browser
 * @property {(bulk: import('../mesh/bulk.js').Bulk) => void} bulk came to another tab
 * @property {(wanted: import('./wire.js').BulkChunk, passed: () => void) => void} lend sends a large thing of another tab to a member directly
 * @property {(what: import('./wire.js').BulkAck) => void} acknowledged one that this tab has sent has come
 * @property {() => void} lends the leading tab takes more for its connections
 * @property {() => import('./wire.js').Reached[]} reached whom this tab's connections reach past the server
 * @property {(before: import('./wire.js').Reached[], now: import('./wire.js').Reached[]) => void} peers the leading tab's reach others than before
 * @property {() => void} leads this tab has the connection now, or has it no more
 * @property {(handle: number) => void} left the tab is out of the room
 * @property {() => void} moved another tab has the connection, or another number of tabs
 * @property {(tag: any) => void} confirmed
 * @property {(tag: any) => void} refused there was no room for it
 *
 * @typedef {object} Options
 * @property {unknown[]} key what tabs must have in common, besides user and tenant
 * @property {(owner: LinkOwner) => Link} makeLink
 */

export class SharedLink {
  #env;
  #options;
  /** @type {LinkOwner & Sharing} */
  #owner;
  /** This tab's name among the others. */
  #tab = 'alone';
  /** `out`: of no group; `joining`: knows nothing yet; then one of the two. @type {'out' | 'joining' | 'follower' | 'leader'} */
  #role = 'out';
  /** Set while there may be other tabs. @type {Others | null} */
  #others = null;
  /** Who the user is, for the next time. @type {ReturnType<typeof namesOf> | null} */
  #names = null;
  /** @type {Seat | null} */
  #seat = null;
  /** @type {Leader | null} */
  #leader = null;
  /** What ends being in the group. @type {(() => void)[]} */
  #endings = [];
  /** @type {Follower | null} */
  #follower = null;
  #facts = new Facts();
  #lane;
  /** What the lane begins with when the session makes a new one. @type {import('./lane.js').LaneState} */
  #fresh = EMPTY;
  /** Whether the leader has let go by itself: all it said is here. */
  #isHeir = false;
  #isSettling = false;
  /** Whether this tab has missed something. */
  #isBehind = false;
  /** @type {import('../link.js').LinkState} */
  #state = 'idle';
  /** Resolves when the tab leads or follows. @type {{ promise: Promise<void>, resolve: () => void }} */
  #in = deferred();
  /** Rooms that this tab is in or is joining, and their handles. @type {Map<string, number>} */
  #rooms = new Map();
  /** The last message of each tab that its rooms have heard of. @type {Map<string, number>} */
  #echoed = new Map();
  /** Rooms that are being left. @type {Map<number, string>} */
  #leaving = new Map();
  #questions;
  #counters = { handovers: 0, badTabMessages: 0 };
  /** What the session has been told of the tabs. */
  #told = '';
  /** Counts the stays in a group. */
  #stay = 0;
  /** @type {unknown} */
  #timer = null;

  /**
   * @param {import('../environment.js').Environment} env
   * @param {Options} options
   * @param {LinkOwner & Sharing} owner
   */
  constructor(env, options, owner) {
    this.#env = env;
    this.#options = options;
    this.#owner = owner;
    this.#questions = new TabQuestions(env);
    this.#lane = new TabLane({ limit: DEFAULT_LIMITS.replay_limit_bytes, acks: CLIENT_ACKS }, {
      offered: (id, message) => {
        if (this.#leader) this.#leader.order(this.#tab, id, message);
        else this.#say({ op: 'offer', id, message: plain(message) });
      },
      took: () => this.#leader?.tell({ op: 'take' }),
      firstUnseen: () => this.#leader?.firstUnseen ?? null,
      holds: () => this.#leader?.holds ?? false,
    });
  }

  // --- for the session, as a link ------------------------------------------------------------------------------------

  get state() {
    return this.#state;
  }

  get rung() {
    return this.#now.rung;
  }

  get relay() {
    return this.#now.relay;
  }

  get rtt() {
    return this.#now.rtt;
  }

  get queued() {
    return this.#now.queued;
  }

  get buffered() {
    return this.#now.buffered;
  }

  get takesJoins() {
    return this.#now.takesJoins;
  }

  get counters() {
    const { counters } = this.#now;
    return { ...counters, ...this.#counters, ...this.#leader?.counters };
  }

  /** How the leading tab reaches a member of a room. @param {number | undefined} handle @param {number} member */
  peer(handle, member) {
    const [, , state = /** @type {const} */ ('server'), rtt = null] = this.#facts.peers.find((row) => row[0] === handle && row[1] === member) ?? [];
    return { state, rtt };
  }

  /** @param {number} now */
  health(now) {
    return this.#link?.health(now) ?? this.#facts.status.health;
  }

  diagnose() {
    return this.#link ? this.#link.diagnose() : this.#ask('diagnosis');
  }

  iceServers() {
    return this.#link ? this.#link.iceServers() : this.#ask('ice');
  }

  start() {
    if (this.#state === 'closed') return;
    this.#facts.wanted = true;
    if (this.#link) this.#link.start();
    else this.#say({ op: 'start' });
  }

  hurry() {
    if (this.#link) this.#link.hurry();
    else this.#say({ op: 'hurry' });
  }

  close() {
    this.#leave(true);
    this.#setState('closed');
  }

  rest() {
    this.#leave(false);
    this.#setState('idle');
  }

  /** Whether text can be sent to the server from this tab. */
  get inSession() {
    return this.#link?.inSession ?? false;
  }

  get knownIceServers() {
    return this.#link?.knownIceServers ?? [];
  }

  /** Whether this tab has the connection. */
  get leads() {
    return this.#role === 'leader';
  }

  /** @param {Record<string, unknown>} message a join, or of a tab in session */
  sendText(message) {
    if (message.type !== 'join') {
      this.#link?.sendText(message);
      return;
    }
    const name = String(message.room);
    this.#rooms.set(name, this.#rooms.get(name) ?? 0);
    if (this.#leader) this.#leader.join(message);
    else this.#say({ op: 'join', message });
  }

  offerRefused() {
    this.#link?.offerRefused();
  }

  /** @param {boolean} ever */
  peerRefused(ever) {
    this.#link?.peerRefused(ever);
  }

  attachAnew() {
    this.#link?.attachAnew();
  }

  wake() {
    this.#link?.wake();
  }

  flush() {
    this.#link?.flush();
  }

  /** @param {number} at */
  ackAt(at) {
    this.#link?.ackAt(at);
  }

  // --- for the session, because tabs share -----------------------------------------------------------------------------

  /** The numbers of this tab's requests begin here. */
  get idBase() {
    return this.slot * IDS;
  }

  /** Whether the number of a request is this tab's. @param {number} id */
  isOwn(id) {
    return Math.floor(id / IDS) === this.idBase / IDS;
  }

  /** What shows in `session.stats()`. */
  get tabs() {
    return { leads: this.#role === 'leader', count: Math.max(1, this.#facts.tabs.size) };
  }

  /** Whether other tabs may be in the session. */
  get isShared() {
    return this.#others !== null;
  }

  /** Whether other tabs are in a room. @param {string} name */
  sharesRoom(name) {
    return [...this.#facts.tabs].some(([tab, { rooms }]) => tab !== this.#tab && rooms.has(name));
  }

  /** The lane of a session that is new. @param {number} limit */
  lane(limit) {
    this.#lane.limit = limit;
    this.#lane.restore(this.#fresh);
    this.#fresh = EMPTY;
    return this.#lane;
  }

  /**
   * Finds the tabs of the same user, or finds that there are none. Null if that is done.
   * @param {string | undefined} token of the first join
   * @returns {Promise<void> | null}
   */
  identify(token) {
    if (this.#state === 'closed') return null;
    if (this.#role === 'out') {
      const who = token === undefined ? null : identityIn(token);
      const surroundings = this.#env.tabs();
      if (who) this.#names = namesOf([...this.#options.key, who.tenant, who.user]);
      if (surroundings && this.#names) this.#enter({ surroundings, names: this.#names });
      else this.#lead(null);
    }
    return this.#role === 'joining' ? this.#in.promise : null;
  }

  /** @param {string} room @param {number} handle */
  entered(room, handle) {
    this.#rooms.set(room, handle);
    this.#leader?.entered(room, handle);
    this.#say({ op: 'entered', room, handle });
  }

  /** Leaves a room, or stays in it for the other tabs. False if that is not for the tabs to decide. @param {string} room @param {number} handle */
  leave(room, handle) {
    if (!this.#others) return false;
    this.#leaving.set(handle, room);
    this.#leader?.leave(room, handle);
    this.#say({ op: 'leave', room, handle });
    return true;
  }

  /** @param {string} room @param {number | undefined} handle */
  ended(room, handle) {
    this.#rooms.delete(room);
    if (handle !== undefined) this.#leaving.delete(handle);
    this.#leader?.ended(room);
    this.#say({ op: 'ended', room, handle: handle ?? 0 });
  }

  /** Whether a lossy message went by another tab. @param {LossyMessage} message @param {boolean} coalesce */
  lossy(message, coalesce) {
    if (this.#leader) {
      this.#leader.tell({ op: 'echo', message });
      return false;
    }
    this.#follower?.lossy(message, coalesce);
    return true;
  }

  /** The server has sent the next ticket: every tab has heard it. @param {string} ticket */
  renew(ticket) {
    if (this.#facts.identity) this.#facts.identity = { ...this.#facts.identity, ticket };
    this.#leader?.link.renew(ticket);
  }

  /** A lossy message has come from another browser directly: for the others, as it came. @param {import('../frame.js').LossyFrame} frame */
  direct(frame) {
    this.#leader?.tell({ op: 'direct', bytes: encodeFrame(frame) });
  }

  /** A large thing has come to this tab: the others have it before it is acknowledged. @param {import('../mesh/bulk.js').Bulk} bulk */
  bulk(bulk) {
    this.#facts.took(bulk);
    this.#leader?.tell({ op: 'bulk', bulk });
  }

  /** The last large thing of a member's tab that the tabs have; 0 for none. @param {import('./facts.js').Whose} whose */
  taken(whose) {
    return this.#facts.taken(whose);
  }

  /** What another tab has sent to a member has come. @param {import('./wire.js').BulkAck} what */
  acknowledged(what) {
    this.#leader?.acknowledged(what);
  }

  /** This tab's connections reach others than before. */
  tellPeers() {
    this.#leader?.tellPeers();
  }

  /** Bytes that the leading tab takes for its connection with a member now. @param {import('./wire.js').BulkPlace} to */
  lendable(to) {
    return this.#role === 'follower' ? (this.#follower?.lendable(to) ?? 0) : 0;
  }

  /** Sends over the leading tab's connections. @param {import('./wire.js').BulkChunk} wanted */
  borrow(wanted) {
    if (this.#role === 'follower') this.#follower?.borrow(wanted);
  }

  /** This tab's number among those that share the session; 0 alone. */
  get slot() {
    return this.#facts.tabs.get(this.#tab)?.slot ?? 0;
  }

  // --- coming and going ------------------------------------------------------------------------------------------------

  /** @param {Others} others */
  async #enter(others) {
    const { surroundings, names } = others;
    const stay = (this.#stay += 1);
    this.#others = others;
    this.#tab = [0, 0, 0, 0].map(() => Math.floor(this.#env.random() * 4_294_967_296).toString(36)).join('');
    this.#lane.tab = this.#tab;
    this.#role = 'joining';
    const down = surroundings.channel(names.down(this.#tab));
    down.onmessage = ({ data }) => this.#heard(data);
    const hall = surroundings.channel(names.hall);
    hall.onmessage = () => this.#role === 'joining' && follower.hello(this.#isVisible);
    const up = surroundings.channel(names.up);
    const follower = this.#newFollower(up);
    this.#follower = follower;
    const close = () => [down, hall, up].forEach((channel) => channel.close());
    this.#endings = [close, surroundings.onVisibility(() => this.#looked()), surroundings.onFreeze(() => this.#froze())];
    const seat = new Seat(surroundings, names.leader, { seated: () => this.#seated(), unseated: () => this.#unseated() });
    this.#seat = seat;
    this.#beatLater();
    // Before anybody can wait for its end.
    const life = await surroundings.hold(names.life(this.#tab), {}, () => {});
    if (this.#stay !== stay) return life?.();
    this.#endings.push(() => life?.());
    await seat.tryNow();
    if (this.#stay === stay && this.#role === 'joining' && !seat.taken) follower.hello(this.#isVisible);
  }

  /** Goes without ending the session, if there are others to go on with it. @param {boolean} forGood */
  #leave(forGood) {
    this.#stay += 1;
    this.#env.clearTimeout(this.#timer);
    const leader = this.#leader;
    this.#say({ op: 'bye' });
    this.#leader = null;
    this.#role = 'out';
    this.#others = null;
    leader?.close(forGood);
    this.#seat?.leave();
    this.#seat = null;
    this.#endings.forEach((end) => end());
    this.#endings = [];
    this.#follower = null;
    this.#facts = new Facts();
    this.#isBehind = false;
    this.#isHeir = false;
    this.#fresh = EMPTY;
    this.#leaving.clear();
    this.#rooms.clear();
    this.#questions.close();
    this.#in.resolve();
    this.#in = deferred();
  }

  /** There is no place in the group. */
  #standAlone() {
    const { wanted } = this.#facts;
    const wasBehind = this.#isBehind;
    const waiting = this.#in;
    this.#in = deferred();
    this.#leave(false);
    this.#in = waiting;
    this.#facts.wanted = wanted;
    this.#lead(null);
    if (wasBehind) this.#loseLane(EMPTY);
  }

  // --- the seat --------------------------------------------------------------------------------------------------------

  #seated() {
    if (this.#role === 'joining' || this.#isHeir) return this.#lead(this.#others);
    if (this.#isSettling) return undefined;
    this.#isSettling = true;
    const stay = this.#stay;
    this.#env.setTimeout(() => {
      this.#isSettling = false;
      if (this.#stay === stay && this.#seat?.taken && this.#role === 'follower') this.#lead(this.#others);
    }, SETTLE_MS);
    return undefined;
  }

  /** Another tab has the seat. */
  #unseated() {
    if (this.#role === 'leader') this.#stepDown(null);
    this.#seat?.wait();
  }

  /** @param {Others | null} others */
  #lead(others) {
    const goesOn = this.#role === 'follower' && !this.#isBehind;
    // That no tab knows.
    const epoch = Math.floor((others ? this.#env.random() : 0) * 2 ** 48);
    if (!goesOn) {
      this.#facts.forget();
      this.#lane.epoch = epoch;
    }
    this.#role = 'leader';
    this.#isHeir = false;
    this.#facts.term += 1;
    this.#counters.handovers += goesOn ? 1 : 0;
    const options = { env: this.#env, tab: this.#tab, facts: this.#facts, lane: this.#lane, owner: this.#owner, makeLink: this.#options.makeLink, others };
    this.#forgetPeers();
    const leader = new Leader(options, {
      visible: () => this.#isVisible,
      state: () => this.#state,
      setState: (state) => this.#setState(state),
      admit: (tab, id, message) => this.#admit(tab, id, message),
      lost: () => this.#loseLane(EMPTY),
      ended: (code, message) => this.#endFor(code, message),
      replaced: () => this.#giveUpSeat(null),
      handOver: (to) => this.#handOver(to),
    });
    this.#leader = leader;
    leader.open({ rooms: this.#rooms, leaving: this.#leaving });
    this.#questions.again((id, what) => this.#answerOwn(id, what));
    if (this.#isBehind) this.#loseLane(EMPTY, epoch);
    this.#owner.leads();
    this.#in.resolve();
    this.#tellTabs();
  }

  /** Leads no more; the session stays. @param {string | null} to */
  #stepDown(to) {
    const leader = /** @type {Leader} */ (this.#leader);
    this.#facts.status = leader.status;
    this.#leader = null;
    this.#role = 'follower';
    this.#follower?.listenAnew();
    leader.release(to);
    this.#facts.peers = [];
    this.#owner.leads();
    this.#tellTabs();
  }

  /** Those that the last leader reached this tab does not. */
  #forgetPeers() {
    const before = this.#facts.peers;
    this.#facts.peers = [];
    this.#owner.peers(before, []);
  }

  /** @param {string} to */
  #handOver(to) {
    this.#stepDown(to);
    const stay = this.#stay;
    this.#env.setTimeout(() => {
      if (this.#stay !== stay || this.#role === 'leader') return;
      // Nobody took it.
      this.#seat?.stand();
      this.#seat?.wait();
    }, HEIR_MS);
  }

  /** @param {string | null} to */
  #giveUpSeat(to) {
    this.#stepDown(to);
    this.#seat?.stand();
    this.#seat?.wait();
  }

  // --- following -------------------------------------------------------------------------------------------------------

  /** @param {import('./surroundings.js').Channel} up */
  #newFollower(up) {
    const own = { env: this.#env, tab: this.#tab, facts: this.#facts, lane: this.#lane, owner: this.#owner, questions: this.#questions };
    return new Follower({ ...own, up }, {
      admit: (from, id, message) => this.#admit(from, id, message),
      echo: (from, id, message) => this.#echo(from, id, message),
      begins: (ordered) => (this.#echoed = new Map(ordered)),
      lost: (begins = EMPTY, epoch) => this.#loseLane(begins, epoch),
      setState: (state) => this.#setState(state),
      ended: (code, message) => this.#endFor(code, message),
      missed: () => this.#fallBehind(),
      handedOver: (to) => {
        this.#isHeir = true;
        if (to === this.#tab) this.#seat?.steal();
      },
    });
  }

  /** @param {unknown} data */
  #heard(data) {
    const heard = readDown(data);
    if (!heard) {
      this.#counters.badTabMessages += 1;
      return undefined;
    }
    const { term, n, said } = heard;
    const { term: known } = this.#facts;
    if (this.#role === 'out' || term < known || (this.#role === 'leader' && term === known)) return undefined;
    if (said.op === 'snapshot') return this.#takeIn({ term, n, snapshot: said.snapshot });
    if (said.op === 'full') return this.#standAlone();
    if (this.#role !== 'follower') return undefined;
    if (said.op === 'dropped' || term !== known) return this.#fallBehind();
    return this.#follower?.follow(n, said);
  }

  /** A leader has taken this tab in, or a new one goes on. @param {{ term: number, n: number, snapshot: import('./wire.js').Snapshot }} taken */
  #takeIn(taken) {
    if (this.#role === 'leader') this.#stepDown(null);
    const knew = this.#role === 'follower' && !this.#isBehind;
    this.#role = 'follower';
    this.#isHeir = false;
    this.#follower?.takeIn(taken, { knew, missed: this.#isBehind });
    // It may have been free for a moment, between two others.
    this.#seat?.stand();
    this.#seat?.wait();
    this.#follower?.sayAll({ rooms: this.#rooms, leaving: this.#leaving, visible: this.#isVisible });
    this.#in.resolve();
    this.#tellTabs();
    if (this.takesJoins) this.#owner.resumed();
  }

  /** Something was missed: begins anew, and says so to the rooms. */
  #fallBehind() {
    this.#role = 'joining';
    this.#isBehind = true;
    // Others, that have heard everything, can go on with the session.
    this.#seat?.stopWaiting();
    this.#seat?.stand();
    this.#follower?.hello(this.#isVisible);
  }

  /** @param {string} tab @param {number} id @param {Message} message */
  #admit(tab, id, message) {
    this.#lane.admit({ tab, id }, message);
    this.#echo(tab, id, message);
  }

  /** What another tab sends comes to the rooms of this one, too: once, though the next leader may say it again. @param {string} tab @param {number} id @param {Message} message */
  #echo(tab, id, message) {
    if (id <= (this.#echoed.get(tab) ?? 0)) return;
    this.#echoed.set(tab, id);
    if (tab !== this.#tab && message.kind === 'data') this.#owner.echo(message, false);
  }

  /** The session is another, or this tab has missed a part of it. @param {import('./lane.js').LaneState} begins @param {number} [epoch] */
  #loseLane(begins, epoch = this.#lane.epoch + 1) {
    this.#isBehind = false;
    if (begins === EMPTY) this.#facts.forgetTaken();
    this.#leaving.clear();
    for (const room of this.#rooms.keys()) this.#rooms.set(room, 0);
    this.#lane.epoch = epoch;
    this.#fresh = begins;
    this.#owner.lost();
  }

  /** To the leader, if there is one and it is another tab. @param {Up} said */
  #say(said) {
    if (this.#role === 'follower') this.#follower?.say(said);
  }

  /** @param {import('./questions.js').What} what */
  #ask(what) {
    if (this.#role === 'out') return Promise.reject(new SwitchyardError('not_connected', 'there is no session'));
    return this.#questions.ask(what, (id) => this.#say({ op: 'ask', id, what }));
  }

  /** Has become the leader meanwhile. @param {number} id @param {import('./questions.js').What} what */
  #answerOwn(id, what) {
    const link = /** @type {Link} */ (this.#link);
    const answer = /** @type {Promise<unknown>} */ (what === 'ice' ? link.iceServers() : link.diagnose());
    answer.then((value) => this.#questions.answer(id, value, ''), () => this.#questions.answer(id, null, 'failed'));
  }

  // --- time, and being looked at -----------------------------------------------------------------------------------------

  #beatLater() {
    const stay = this.#stay;
    const last = this.#env.now();
    this.#timer = this.#env.setTimeout(() => {
      if (this.#stay !== stay) return;
      const now = this.#env.now();
      // Who has slept itself has heard nothing of anybody.
      if (now - last > 2 * BEAT_MS) this.#follower?.listenAnew();
      this.#beat(now);
      if (this.#stay === stay) this.#beatLater();
    }, BEAT_MS);
  }

  /** @param {number} now */
  #beat(now) {
    this.#tellTabs();
    if (this.#leader) return this.#leader.beat(now);
    if (this.#role === 'joining') {
      this.#follower?.hello(this.#isVisible);
      this.#seat?.tryNow();
    }
    if (this.#follower?.beat(now, this.#role === 'follower')) this.#seat?.steal();
    return undefined;
  }

  #tellTabs() {
    const told = JSON.stringify(this.tabs);
    if (told === this.#told) return;
    this.#told = told;
    this.#owner.moved();
  }

  #looked() {
    this.#say({ op: 'visible', visible: this.#isVisible });
  }

  /** The browser is about to stop this tab. */
  #froze() {
    if (this.#leader && this.#leader.followers > 0) this.#giveUpSeat('');
  }

  get #isVisible() {
    return this.#others?.surroundings.visible() ?? true;
  }

  get #link() {
    return this.#leader?.link;
  }

  /** The connection as it is now. */
  get #now() {
    return this.#leader?.status ?? this.#facts.status;
  }

  /** @param {import('../link.js').LinkState} state */
  #setState(state) {
    if (this.#state === state || this.#state === 'closed') return;
    this.#state = state;
    this.#owner.state(state);
  }

  /** The server wants no more of this session. @param {string} code @param {string} message */
  #endFor(code, message) {
    this.#leave(true);
    this.#state = 'closed';
    this.#owner.closed(code, message);
  }
}

/** @returns {{ promise: Promise<void>, resolve: () => void }} */
function deferred() {
  let resolve = () => {};
  const promise = /** @type {Promise<void>} */ (new Promise((done) => (resolve = done)));
  return { promise, resolve };
}
