/**
 * A session's way to the server when the tabs of one user share one connection: to session.js it looks like link.js. In the
 * leading tab there is a Link behind it; in the others there is the leading tab.
 *
 * What keeps a change of leaders from losing, doubling or reordering anything: every tab has the whole of the session's
 * reliable lane (lane.js). Whatever the leader does to it (takes a frame of the server, orders a message that a tab offers,
 * gives the next frame its number) it tells the others first and does then, and they do the same; so a leader that is gone in
 * the middle has sent and acknowledged nothing that the others do not know of. The next leader resumes the session at the
 * server, with its key, under higher generations, and the lane's replay does the rest.
 *
 * The key of the session goes from tab to tab of one origin and is in memory only.
 */

import { SwitchyardError } from '../errors.js';
import { FrameError, decodeFrame, encodeFrame } from '../frame.js';
import { CLIENT_ACKS, DEFAULT_LIMITS, readLimits } from '../limits.js';
import { identityIn } from '../token.js';
import { Hub, recordsOf, tabsOf } from './hub.js';
import { EMPTY, TabLane, isBehind } from './lane.js';
import { Seat } from './seat.js';
import { namesOf, readDown } from './wire.js';

const BEAT_MS = 1_000;
/** A leader that says nothing for so long is asked, and if it does not answer, replaced. */
const QUIET_MS = 3_000;
const DEAD_MS = 6_000;
/** What a leader said before it died may still be on its way. */
const SETTLE_MS = 100;
/** A leader that is not looked at goes on for so long, and has been it for so long, before it hands over. */
const HIDDEN_MS = 1_000;
const TERM_MS = 5_000;
/** A successor that was named and has not taken the seat is gone too. */
const HEIR_MS = 2_000;
/** Offers of all tabs together that a leader takes. */
const OFFERED_BYTES = 8_388_608;
/** Lossy messages to a leader that does not answer. */
const LOSSY_AHEAD = 512;
const ANSWER_MS = 10_000;
const SEEN_EVERY = 32;
/** Each term has so many numbers for pipes and peer connections. */
const GENERATIONS = 65_536;
/** Each tab has so many numbers for requests. */
export const IDS = 1_048_576;
/** Refusals that concern the leader's pipes alone. */
const PIPE_CODES = new Set(['webrtc_disabled', 'bad_offer', 'stale_attach', 'lane_gap']);

/**
 * @typedef {import('../link.js').Link} Link
 * @typedef {import('../link.js').LinkOwner} LinkOwner
 * @typedef {import('./wire.js').Down} Down
 * @typedef {import('./wire.js').Up} Up
 * @typedef {import('../lane.js').Message<any>} Message
 * @typedef {import('../lossy.js').LossyMessage} LossyMessage
 *
 * @typedef {object} Sharing what the session does for the tabs besides what it does for a link
 * @property {(message: Message | LossyMessage, isLossy: boolean) => void} echo another tab of the same user has sent this
 * @property {(message: LossyMessage, coalesce: boolean) => void} lossy sends it for another tab
 * @property {(handle: number) => void} left the tab is out of the room
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
  /** @type {import('./surroundings.js').Surroundings | null} */
  #surroundings = null;
  /** @type {ReturnType<typeof namesOf> | null} */
  #names = null;
  /** @type {Seat | null} */
  #seat = null;
  /** Of the leader. @type {Link | null} */
  #link = null;
  /** Of the leader, unless it is alone. @type {Hub | null} */
  #hub = null;
  /** What ends being in the group. @type {(() => void)[]} */
  #endings = [];
  /** @type {import('./surroundings.js').Channel | null} */
  #up = null;

  // What all tabs know.
  #term = 0;
  /** @type {{ session: string, key: string } | null} */
  #identity = null;
  /** @type {Map<string, import('./hub.js').Member>} */
  #tabs = new Map();
  #slots = 0;
  /** The last offer of each tab that was ordered. @type {Map<string, number>} */
  #ordered = new Map();
  /** @type {Record<string, unknown> | null} */
  #limits = null;
  /** @type {import('../link.js').Features | null} */
  #features = null;
  #wanted = false;
  /** @type {import('./wire.js').Status} */
  #status = nothing();
  #lane;

  /** The last decision heard. */
  #n = 0;
  #heardAt = 0;
  #pingedAt = -Infinity;
  #leadsSince = 0;
  /** @type {number | null} */
  #hiddenSince = null;
  /** Whether the leader has let go by itself: all it said is here. */
  #isHeir = false;
  #settling = false;
  /** What the lane begins with when the session makes a new one. @type {import('./lane.js').LaneState} */
  #fresh = EMPTY;
  /** Whether this tab has missed something. */
  #isBehind = false;
  #lossyAhead = 0;
  /** @type {import('../link.js').LinkState} */
  #state = 'idle';
  /** Resolves when the tab leads or follows. @type {{ promise: Promise<void>, resolve: () => void }} */
  #in = deferred();
  /** Rooms that this tab is in or is joining, and their handles. @type {Map<string, number>} */
  #rooms = new Map();
  /** Rooms that are being left. @type {Map<number, string>} */
  #leaving = new Map();
  /** Questions to the leader. @type {Map<number, { what: 'ice' | 'diagnosis', timer: unknown, resolve: (value: any) => void, reject: (error: Error) => void }>} */
  #questions = new Map();
  #lastQuestion = 0;
  #counters = { handovers: 0, badTabMessages: 0 };
  /** Ends what belongs to one stay in a group. */
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
    this.#lane = new TabLane({ limit: DEFAULT_LIMITS.replay_limit_bytes, acks: CLIENT_ACKS }, {
      offered: (id, message) => {
        if (this.#role === 'leader') this.#order(this.#tab, id, message);
        else if (this.#role === 'follower') this.#say({ op: 'offer', id, message: plain(message) });
      },
      took: () => this.#tell({ op: 'take' }),
    });
  }

  // --- for the session, as a link --------------------------------------------------------------------------------

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
    return { ...counters, ...this.#counters, ...this.#hub?.counters };
  }

  /** @param {number} now */
  health(now) {
    return this.#link?.health(now) ?? this.#status.health;
  }

  diagnose() {
    return this.#link ? this.#link.diagnose() : this.#ask('diagnosis');
  }

  iceServers() {
    return this.#link ? this.#link.iceServers() : this.#ask('ice');
  }

  start() {
    if (this.#state === 'closed') return;
    this.#wanted = true;
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

  /** @param {Record<string, unknown>} message a join */
  sendText(message) {
    const name = String(message.room);
    this.#rooms.set(name, this.#rooms.get(name) ?? 0);
    if (this.#hub) this.#hub.join(this.#tab, message);
    else if (this.#link) this.#link.sendText(message);
    else this.#say({ op: 'join', message });
  }

  offerRefused() {
    this.#link?.offerRefused();
  }

  /** @param {boolean} ever */
  peerRefused(ever) {
    this.#link?.peerRefused(ever);
  }

  attachRefused() {
    this.#link?.attachRefused();
  }

  replay() {
    this.#link?.replay();
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

  // --- for the session, because tabs share ---------------------------------------------------------------------

  /** The numbers of this tab's requests begin here. */
  get idBase() {
    return (this.#tabs.get(this.#tab)?.slot ?? 0) * IDS;
  }

  /** Whether the number of a request is this tab's. @param {number} id */
  isOwn(id) {
    return Math.floor(id / IDS) === this.idBase / IDS;
  }

  /** What shows in `session.stats()`. */
  get tabs() {
    return { leads: this.#role === 'leader', count: Math.max(1, this.#tabs.size) };
  }

  /** Whether other tabs may be in the session. */
  get isShared() {
    return this.#names !== null;
  }

  /** Whether other tabs are in a room. @param {string} name */
  sharesRoom(name) {
    return [...this.#tabs].some(([tab, { rooms }]) => tab !== this.#tab && rooms.has(name));
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
      if (surroundings && (who || this.#names)) {
        if (who) this.#names = namesOf([...this.#options.key, who.tenant, who.user]);
        this.#enter(surroundings);
      } else {
        this.#beAlone();
      }
    }
    return this.#role === 'joining' ? this.#in.promise : null;
  }

  /** @param {string} room @param {number} handle */
  entered(room, handle) {
    this.#rooms.set(room, handle);
    this.#hub?.entered(this.#tab, room, handle);
    this.#say({ op: 'entered', room, handle });
  }

  /** Leaves a room, or stays in it for the other tabs. False if that is not for the tabs to decide. @param {string} room @param {number} handle */
  leave(room, handle) {
    if (!this.#names) return false;
    this.#leaving.set(handle, room);
    this.#sayLeave(room, handle);
    return true;
  }

  /** @param {string} room @param {number | undefined} handle */
  ended(room, handle) {
    this.#rooms.delete(room);
    if (handle !== undefined) this.#leaving.delete(handle);
    this.#hub?.ended(this.#tab, room);
    this.#say({ op: 'ended', room, handle: handle ?? 0 });
  }

  /** Whether a lossy message went by another tab. @param {LossyMessage} message @param {boolean} coalesce */
  lossy(message, coalesce) {
    if (this.#link) {
      this.#hub?.post({ op: 'echo', message });
      return false;
    }
    if (this.#lossyAhead < LOSSY_AHEAD) this.#say({ op: 'lossy', message, coalesce });
    this.#lossyAhead += 1;
    return true;
  }

  // --- coming and going ----------------------------------------------------------------------------------------------

  #beAlone() {
    this.#names = null;
    this.#role = 'leader';
    this.#link = this.#options.makeLink(this.#served());
    this.#in.resolve();
    if (this.#wanted) this.#link.start();
  }

  /** @param {import('./surroundings.js').Surroundings} surroundings */
  async #enter(surroundings) {
    const names = /** @type {ReturnType<typeof namesOf>} */ (this.#names);
    const stay = (this.#stay += 1);
    this.#tab = [0, 0, 0, 0].map(() => Math.floor(this.#env.random() * 4_294_967_296).toString(36)).join('');
    this.#lane.tab = this.#tab;
    this.#surroundings = surroundings;
    this.#role = 'joining';
    this.#heardAt = this.#env.now();
    const down = surroundings.channel(names.down(this.#tab));
    down.onmessage = ({ data }) => this.#heard(data);
    const hall = surroundings.channel(names.hall);
    hall.onmessage = () => this.#role === 'joining' && this.#hello();
    this.#up = surroundings.channel(names.up);
    const { close } = { close: () => [down, hall, this.#up].forEach((channel) => channel?.close()) };
    this.#endings = [close, surroundings.onVisibility(() => this.#looked()), surroundings.onFreeze(() => this.#froze())];
    const seat = new Seat(surroundings, names.leader, { seated: () => this.#seated(), unseated: () => this.#unseated() });
    this.#seat = seat;
    this.#beatLater();
    // Before anybody can wait for its end.
    const life = await surroundings.hold(names.life(this.#tab), {}, () => {});
    if (this.#stay !== stay) return life?.();
    this.#endings.push(() => life?.());
    await seat.tryNow();
    if (this.#stay === stay && this.#role === 'joining' && !seat.taken) this.#hello();
  }

  #hello() {
    this.#say({ op: 'hello', visible: this.#isVisible, ordered: this.#lane.lastId });
  }

  /** Goes without ending the session, if there are others to go on with it. @param {boolean} forGood */
  #leave(forGood) {
    this.#stay += 1;
    this.#env.clearTimeout(this.#timer);
    const link = this.#link;
    const hub = this.#hub;
    this.#say({ op: 'bye' });
    this.#link = null;
    this.#hub = null;
    this.#role = 'out';
    if (hub && hub.followers > 0) {
      hub.post({ op: 'handover', to: '' });
      link?.release();
    } else if (forGood) {
      link?.close();
    } else {
      link?.rest();
    }
    hub?.close();
    this.#seat?.leave();
    this.#seat = null;
    this.#endings.forEach((end) => end());
    this.#endings = [];
    this.#up = null;
    this.#term = 0;
    this.#identity = null;
    this.#tabs = new Map();
    this.#ordered.clear();
    this.#wanted = false;
    this.#isBehind = false;
    this.#isHeir = false;
    this.#fresh = EMPTY;
    this.#status = nothing();
    this.#leaving.clear();
    this.#rooms.clear();
    for (const { timer, reject } of this.#questions.values()) {
      this.#env.clearTimeout(timer);
      reject(new SwitchyardError('closed', 'the session is closed'));
    }
    this.#questions.clear();
    this.#in.resolve();
    this.#in = deferred();
  }

  // --- leading -------------------------------------------------------------------------------------------------------

  #seated() {
    if (this.#role === 'joining' || this.#isHeir) return this.#lead();
    if (this.#settling) return undefined;
    this.#settling = true;
    const stay = this.#stay;
    this.#env.setTimeout(() => {
      this.#settling = false;
      if (this.#stay === stay && this.#seat?.taken && this.#role === 'follower') this.#lead();
    }, SETTLE_MS);
    return undefined;
  }

  #lead() {
    const names = /** @type {ReturnType<typeof namesOf>} */ (this.#names);
    const surroundings = /** @type {import('./surroundings.js').Surroundings} */ (this.#surroundings);
    const resumes = this.#role === 'follower' && !this.#isBehind;
    const epoch = Math.floor(this.#env.random() * 2 ** 48);
    if (!resumes) this.#forget(epoch);
    this.#role = 'leader';
    this.#isHeir = false;
    this.#term += 1;
    this.#leadsSince = this.#env.now();
    this.#hiddenSince = this.#isVisible ? null : this.#leadsSince;
    this.#counters.handovers += resumes ? 1 : 0;
    const state = { tab: this.#tab, term: this.#term, tabs: this.#tabs, slots: this.#slots };
    const hub = new Hub(surroundings, names, state, {
      wants: (tab, said) => this.#wants(tab, said),
      later: (call, ms) => this.#env.setTimeout(call, ms),
      changed: (followers) => this.#link?.keep(followers > 0),
      came: (tab, ordered) => this.#ordered.set(tab, ordered),
      snapshot: () => this.#snapshot(),
      join: (message) => {
        if (this.#link?.takesJoins) this.#link.sendText(message);
      },
      leave: (handle) => !this.#lane.waitsFor(handle) && this.#lane.offer(leaveOf(handle, this.idBase)),
      left: (tab, handle) => (tab === this.#tab ? this.#owner.left(handle) : hub.to(tab, { op: 'left', handle })),
    });
    this.#hub = hub;
    this.#link = this.#options.makeLink(this.#served());
    if (this.#identity) this.#link.adopt(this.#identity, this.#term * GENERATIONS);
    hub.open();
    this.#link.keep(hub.followers > 0);
    for (const { id, message } of this.#lane.offers) this.#order(this.#tab, id, message);
    for (const [room, handle] of this.#rooms) hub.entered(this.#tab, room, handle);
    for (const [handle, room] of this.#leaving) hub.leave(this.#tab, room, handle);
    if (this.#wanted) this.#link.start();
    for (const [id, { what }] of this.#questions) this.#answerOwn(id, what);
    if (this.#isBehind) this.#loseLane(EMPTY, epoch);
    this.#in.resolve();
  }

  /** What there was is of no use: this tab has missed some of it, or there was nothing. @param {number} epoch that no tab knows */
  #forget(epoch) {
    this.#lane.epoch = epoch;
    this.#identity = null;
    this.#tabs = new Map();
    this.#ordered.clear();
    this.#slots = 0;
  }

  /** Another tab has the seat. */
  #unseated() {
    if (this.#role === 'leader') this.#stepDown();
    this.#seat?.wait();
  }

  /** Leads no more; the session stays. */
  #stepDown() {
    const link = this.#link;
    this.#status = { ...this.#now, state: this.#state };
    this.#link = null;
    this.#hub?.close();
    this.#hub = null;
    this.#role = 'follower';
    this.#heardAt = this.#env.now();
    link?.release();
  }

  /** @param {string} to */
  #handOver(to) {
    this.#hub?.post({ op: 'handover', to });
    this.#stepDown();
    const stay = this.#stay;
    this.#env.setTimeout(() => {
      if (this.#stay !== stay || this.#role === 'leader') return;
      // Nobody took it.
      this.#seat?.stand();
      this.#seat?.wait();
    }, HEIR_MS);
  }

  /** What the link is given in place of the session: the others hear it first. @returns {LinkOwner} */
  #served() {
    const owner = this.#owner;
    const stay = this.#stay;
    const term = this.#term;
    const isMine = () => this.#stay === stay && this.#term === term && this.#role === 'leader';
    return {
      ...owner,
      ready: (offer) => {
        this.#tellStatus();
        this.#tell({ op: 'ready' });
        owner.ready(offer);
      },
      resumed: () => {
        this.#tellStatus();
        this.#tell({ op: 'resumed' });
        owner.resumed();
      },
      lost: () => {
        this.#noteIdentity();
        this.#hub?.restart();
        this.#tell({ op: 'lost' });
        this.#loseLane(EMPTY);
      },
      text: (message) => this.#route(message),
      frame: (frame, length) => {
        this.#noteIdentity();
        if (('laneSeq' in frame && this.#lane.isAhead(frame.laneSeq)) || frame.kind === 'unknown') return owner.frame(frame, length);
        if (this.#hub?.followers) this.#tell({ op: 'frame', bytes: encodeFrame(frame) });
        const taken = owner.frame(frame, length);
        this.#hub?.saw(frame);
        return taken;
      },
      replay: (ack) => {
        const isPossible = owner.replay(ack);
        if (isPossible) this.#tell({ op: 'ack', ack });
        return isPossible;
      },
      state: (state) => {
        if (!isMine()) return;
        this.#noteIdentity();
        // To the tabs it is the session that goes on.
        this.#setState(state === 'connecting' && this.#identity ? 'reconnecting' : state);
        this.#tellStatus();
      },
      rung: (rung) => {
        this.#tellStatus();
        owner.rung(rung);
      },
      rtt: (rtt, answer) => {
        this.#tell({ op: 'rtt', rtt, answer: { rtt: answer.rtt, skipped: answer.skipped } });
        owner.rtt(rtt, answer);
      },
      closed: (code, message) => {
        if (!isMine()) return;
        // Another tab has resumed the session, and this one had been taken for dead.
        if (code === 'replaced' && this.#hub) return this.#replaced();
        this.#tell({ op: 'closed', code, message });
        this.#endFor(code, message);
      },
      limits: (limits) => {
        this.#limits = { ...limits };
        this.#tell({ op: 'limits', limits: this.#limits });
        owner.limits(limits);
      },
      features: (features) => {
        this.#noteIdentity();
        this.#features = features;
        this.#tell({ op: 'features', features });
        owner.features(features);
      },
    };
  }

  #replaced() {
    this.#stepDown();
    this.#seat?.stand();
    this.#seat?.wait();
  }

  /** A refusal belongs to the tab that asked. @param {Record<string, unknown>} message */
  #route(message) {
    if (typeof message.id === 'number' && this.#hub) {
      const tab = this.#hub.tabOf(Math.floor(message.id / IDS));
      if (tab !== undefined && tab !== this.#tab) return this.#hub.to(tab, { op: 'text', message });
    } else if (!PIPE_CODES.has(String(message.code))) {
      this.#tell({ op: 'text', message });
    }
    return this.#owner.text(message);
  }

  /** @param {Down} said */
  #tell(said) {
    this.#hub?.post(said);
  }

  #tellStatus() {
    if (this.#hub?.followers) this.#tell({ op: 'status', status: { ...this.#now, state: this.#state } });
  }

  #noteIdentity() {
    const identity = this.#link?.identity ?? null;
    if (identity?.session === this.#identity?.session) return;
    this.#identity = identity;
    this.#tell({ op: 'identity', identity });
  }

  /** @returns {Down} */
  #snapshot() {
    return {
      op: 'snapshot',
      snapshot: {
        epoch: this.#lane.epoch,
        lane: this.#lane.state(),
        ordered: [...this.#ordered].filter(([tab]) => this.#tabs.has(tab)),
        tabs: recordsOf(this.#tabs),
        slots: this.#hub?.slots ?? this.#slots,
        identity: this.#identity,
        limits: this.#limits,
        features: this.#features,
        wanted: this.#wanted,
        status: { ...this.#now, state: this.#state },
      },
    };
  }

  /** A message of a tab gets its place in the lane. @param {string} tab @param {number} id @param {Message} message */
  #order(tab, id, message) {
    if (id !== (this.#ordered.get(tab) ?? 0) + 1) return;
    this.#ordered.set(tab, id);
    if (this.#lane.heldBytes > OFFERED_BYTES) {
      this.#tell({ op: 'refuse', tab, id });
      if (tab === this.#tab) this.#owner.refused(this.#lane.refuse(id));
      return;
    }
    this.#tell({ op: 'offer', tab, id, message: plain(message) });
    this.#admit(tab, id, message);
    this.#link?.wake();
  }

  /** @param {string} tab @param {Up} said */
  #wants(tab, said) {
    switch (said.op) {
      case 'offer':
        return this.#order(tab, said.id, said.message);
      case 'lossy':
        this.#hub?.post({ op: 'echo', message: said.message }, tab);
        this.#owner.echo(said.message, true);
        return this.#owner.lossy(said.message, said.coalesce);
      case 'start':
        this.#wanted = true;
        return this.#link?.start();
      case 'hurry':
        return this.#link?.hurry();
      case 'ask':
        return this.#answer(tab, said.id, said.what);
      default:
        return undefined;
    }
  }

  /** @param {string} tab @param {number} id @param {'ice' | 'diagnosis'} what */
  async #answer(tab, id, what) {
    try {
      const value = await (what === 'ice' ? this.#link?.iceServers() : this.#link?.diagnose());
      this.#hub?.to(tab, { op: 'answer', id, value, error: '' });
    } catch (error) {
      this.#hub?.to(tab, { op: 'answer', id, value: null, error: error instanceof SwitchyardError ? error.code : 'failed' });
    }
  }

  // --- following -----------------------------------------------------------------------------------------------------

  /** @param {unknown} data */
  #heard(data) {
    const heard = readDown(data);
    if (!heard) {
      this.#counters.badTabMessages += 1;
      return;
    }
    const { term, n, said } = heard;
    if (this.#role === 'out' || term < this.#term || (this.#role === 'leader' && term === this.#term)) return;
    if (said.op === 'snapshot') return this.#taken(term, n, said.snapshot);
    if (said.op === 'full') {
      this.#leaveForOwn();
      return;
    }
    if (this.#role !== 'follower') return;
    if (said.op === 'dropped' || term !== this.#term || n !== this.#n + 1) return this.#fellBehind();
    this.#n = n;
    this.#heardAt = this.#env.now();
    this.#lossyAhead = 0;
    if (n % SEEN_EVERY === 0) this.#say({ op: 'seen', n });
    this.#apply(said);
  }

  /** A leader has taken this tab in, or a new one goes on. @param {number} term @param {number} n @param {import('./wire.js').Snapshot} snapshot */
  #taken(term, n, snapshot) {
    if (this.#role === 'leader') this.#stepDown();
    const knew = this.#role === 'follower' && !this.#isBehind;
    const ordered = new Map(snapshot.ordered);
    this.#role = 'follower';
    this.#isHeir = false;
    this.#term = term;
    this.#n = n;
    this.#heardAt = this.#env.now();
    this.#identity = snapshot.identity;
    this.#tabs = tabsOf(snapshot.tabs);
    this.#slots = snapshot.slots;
    this.#ordered = ordered;
    this.#wanted ||= snapshot.wanted;
    if (snapshot.limits) this.#takeLimits(snapshot.limits);
    if (snapshot.features) this.#owner.features((this.#features = snapshot.features));
    const isNew = snapshot.epoch !== this.#lane.epoch || isBehind(this.#lane.received, snapshot.lane.received);
    if (this.#isBehind || (knew && isNew)) this.#loseLane(snapshot.lane, snapshot.epoch);
    else {
      this.#lane.epoch = snapshot.epoch;
      this.#lane.follow(snapshot.lane, ordered.get(this.#tab) ?? 0).forEach((tag) => this.#owner.confirmed(tag));
    }
    this.#takeStatus(snapshot.status);
    this.#seat?.wait();
    this.#say({ op: 'visible', visible: this.#isVisible });
    for (const { id, message } of this.#lane.offers) this.#say({ op: 'offer', id, message: plain(message) });
    for (const [room, handle] of this.#rooms) this.#say({ op: 'entered', room, handle });
    for (const [handle, room] of this.#leaving) this.#sayLeave(room, handle);
    for (const [id, { what }] of this.#questions) this.#say({ op: 'ask', id, what });
    if (this.#wanted) this.#say({ op: 'start' });
    this.#in.resolve();
    if (this.takesJoins) this.#owner.resumed();
  }

  /** Does what the leader has decided. @param {Down} said */
  #apply(said) {
    const owner = this.#owner;
    switch (said.op) {
      case 'frame':
        return this.#frame(said.bytes);
      case 'offer':
        this.#ordered.set(said.tab, said.id);
        return this.#admit(said.tab, said.id, said.message);
      case 'refuse':
        this.#ordered.set(said.tab, said.id);
        return said.tab === this.#tab ? owner.refused(this.#lane.refuse(said.id)) : undefined;
      case 'take':
        return this.#lane.take();
      case 'ack':
        owner.frame({ kind: 'ack', ack: said.ack }, 0);
        return undefined;
      case 'lost':
        return this.#loseLane(EMPTY);
      case 'ready':
      case 'resumed':
        return owner.resumed();
      case 'text':
        return owner.text(said.message);
      case 'status':
        return this.#takeStatus(said.status);
      case 'tabs':
        this.#tabs = tabsOf(said.tabs);
        this.#slots = said.slots;
        return undefined;
      case 'identity':
        this.#identity = said.identity;
        return undefined;
      case 'limits':
        return this.#takeLimits(said.limits);
      case 'features':
        return owner.features((this.#features = said.features));
      case 'rtt':
        this.#status = { ...this.#status, rtt: said.rtt };
        return owner.rtt(said.rtt, said.answer);
      case 'left':
        return owner.left(said.handle);
      case 'echo':
        return owner.echo(said.message, true);
      case 'answer':
        return this.#answered(said.id, said.value, said.error);
      case 'handover':
        this.#isHeir = true;
        if (said.to === this.#tab) this.#seat?.steal();
        return undefined;
      case 'closed':
        return this.#endFor(said.code, said.message);
      default:
        return undefined;
    }
  }

  /** @param {Uint8Array} bytes */
  #frame(bytes) {
    let taken;
    try {
      taken = this.#owner.frame(decodeFrame(bytes), bytes.length);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      taken = 'lane_gap';
    }
    if (taken === 'lane_gap') this.#fellBehind();
  }

  /** Something was missed: begins anew, and says so to the rooms. */
  #fellBehind() {
    this.#role = 'joining';
    this.#isBehind = true;
    this.#seat?.stopWaiting();
    this.#hello();
  }

  /** There is no place in the group. */
  #leaveForOwn() {
    const wanted = this.#wanted;
    const isBehind = this.#isBehind;
    const wait = this.#in;
    this.#in = deferred();
    this.#leave(false);
    this.#in = wait;
    this.#wanted = wanted;
    this.#beAlone();
    if (isBehind) this.#loseLane(EMPTY);
  }

  /** @param {string} tab @param {number} id @param {Message} message */
  #admit(tab, id, message) {
    this.#lane.admit({ tab, id }, message);
    if (tab !== this.#tab && message.kind === 'data') this.#owner.echo(message, false);
  }

  /** The session is another, or this tab has missed a part of it. @param {import('./lane.js').LaneState} begins @param {number} [epoch] */
  #loseLane(begins, epoch = this.#lane.epoch + 1) {
    this.#isBehind = false;
    this.#leaving.clear();
    for (const room of this.#rooms.keys()) this.#rooms.set(room, 0);
    this.#lane.epoch = epoch;
    this.#fresh = begins;
    this.#owner.lost();
  }

  /** @param {Record<string, unknown>} limits */
  #takeLimits(limits) {
    this.#limits = limits;
    this.#owner.limits(readLimits(limits));
  }

  /** @param {import('./wire.js').Status} status */
  #takeStatus(status) {
    const { rung } = this.#status;
    this.#status = status;
    this.#setState(status.state);
    if (status.rung !== null && status.rung !== rung) this.#owner.rung(status.rung);
    if (status.state === 'connected') this.#owner.tick(this.#env.now());
  }

  /** To the leader. @param {Up} said */
  #say(said) {
    if (this.#role !== 'follower' && said.op !== 'hello') return;
    this.#up?.postMessage({ tab: this.#tab, term: this.#term, said });
  }

  /** @param {string} room @param {number} handle */
  #sayLeave(room, handle) {
    if (this.#hub) this.#hub.leave(this.#tab, room, handle);
    else this.#say({ op: 'leave', room, handle });
  }

  /** @param {'ice' | 'diagnosis'} what @returns {Promise<any>} */
  #ask(what) {
    if (this.#role === 'out') return Promise.reject(new SwitchyardError('not_connected', 'there is no session'));
    return new Promise((resolve, reject) => {
      const id = (this.#lastQuestion += 1);
      const timer = this.#env.setTimeout(() => this.#answered(id, null, 'timeout'), ANSWER_MS);
      this.#questions.set(id, { what, timer, resolve, reject });
      this.#say({ op: 'ask', id, what });
    });
  }

  /** Has become the leader meanwhile. @param {number} id @param {'ice' | 'diagnosis'} what */
  #answerOwn(id, what) {
    const link = /** @type {Link} */ (this.#link);
    const answer = what === 'ice' ? link.iceServers() : link.diagnose();
    answer.then((/** @type {unknown} */ value) => this.#answered(id, value, ''), () => this.#answered(id, null, 'failed'));
  }

  /** @param {number} id @param {unknown} value @param {string} error */
  #answered(id, value, error) {
    const question = this.#questions.get(id);
    if (!question) return;
    this.#questions.delete(id);
    this.#env.clearTimeout(question.timer);
    if (error) question.reject(new SwitchyardError(error, 'the leading tab had no answer'));
    else question.resolve(value);
  }

  // --- time, and being looked at ---------------------------------------------------------------------------------------

  #beatLater() {
    const stay = this.#stay;
    const last = this.#env.now();
    this.#timer = this.#env.setTimeout(() => {
      if (this.#stay !== stay) return;
      const now = this.#env.now();
      // Who has slept itself has heard nothing of anybody.
      if (now - last > 2 * BEAT_MS) this.#heardAt = now;
      this.#beat(now);
      if (this.#stay === stay) this.#beatLater();
    }, BEAT_MS);
  }

  /** @param {number} now */
  #beat(now) {
    if (this.#role === 'leader') {
      this.#tellStatus();
      this.#considerHandover(now);
      return;
    }
    if (this.#role === 'joining') {
      this.#hello();
      this.#seat?.tryNow();
    } else this.#say({ op: 'seen', n: this.#n });
    const quiet = now - this.#heardAt;
    if (quiet < QUIET_MS) return;
    if (now - this.#pingedAt > DEAD_MS) this.#pingedAt = now;
    this.#say({ op: 'ping' });
    if (quiet >= DEAD_MS && now - this.#pingedAt >= DEAD_MS - QUIET_MS) this.#seat?.steal();
  }

  /** @param {number} now */
  #considerHandover(now) {
    this.#hiddenSince = this.#isVisible ? null : (this.#hiddenSince ?? now);
    if (this.#hiddenSince === null || now - this.#hiddenSince < HIDDEN_MS || now - this.#leadsSince < TERM_MS) return;
    const to = this.#hub?.visibleTab;
    if (to !== undefined) this.#handOver(to);
  }

  #looked() {
    if (this.#role === 'leader') this.#hiddenSince = this.#isVisible ? null : this.#env.now();
    else this.#say({ op: 'visible', visible: this.#isVisible });
  }

  /** The browser is about to stop this tab. */
  #froze() {
    if (this.#role !== 'leader' || !this.#hub?.followers) return;
    this.#hub.post({ op: 'handover', to: '' });
    this.#replaced();
  }

  get #isVisible() {
    return this.#surroundings?.visible() ?? true;
  }

  /** The connection as it is now. @returns {import('./wire.js').Status} */
  get #now() {
    const link = this.#link;
    if (!link) return this.#status;
    const { state, rung, relay, rtt, takesJoins, queued, buffered, counters } = link;
    return { state, rung, relay, rtt, takesJoins, queued, buffered, counters: { ...counters }, health: link.health(this.#env.now()) };
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

/** Without what concerns its tab alone. @param {Message} message @returns {Message} */
function plain({ kind, room, stream, text, target, payload }) {
  return { kind, room, stream, text, target, payload };
}

/** @returns {import('./wire.js').Status} */
function nothing() {
  const health = { connected: false, rung: null, waitingMs: 0, silentMs: 0, bufferAgeMs: 0, bitrate: null };
  const buffered = { websocket: 0, reliable: 0, lossy: 0 };
  const counters = { reconnects: 0, pipeChanges: 0, badFrames: 0, unknownFrames: 0 };
  return { state: 'idle', rung: null, relay: null, rtt: null, takesJoins: false, queued: 0, buffered, counters, health };
}

/** @param {number} handle @param {number} id @returns {Message} */
function leaveOf(handle, id) {
  const payload = new TextEncoder().encode(JSON.stringify({ type: 'leave', id }));
  return { kind: 'control', room: handle, stream: 0, text: true, target: { tag: 'room' }, payload };
}

/** @returns {{ promise: Promise<void>, resolve: () => void }} */
function deferred() {
  let resolve = () => {};
  const promise = /** @type {Promise<void>} */ (new Promise((done) => (resolve = done)));
  return { promise, resolve };
}
