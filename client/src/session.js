/**
 * A session: the rooms this page is in and the messages that come and go, over whatever link.js has. Owns the reliable
 * lane, so that a change of pipe neither loses nor doubles anything; when the server has lost the session, joins all
 * rooms anew (rejoining.js). What goes out is in sending.js and ephemera.js, what comes in in receiving.js and notices.js, and
 * what does not pass the server in direct.js; here they are put together.
 */

import { Emitter } from './emitter.js';
import { Direct } from './direct.js';
import { endpoint } from './endpoint.js';
import { environment } from './environment.js';
import { Ephemera } from './ephemera.js';
import { SwitchyardError, codeOf, lost } from './errors.js';
import { Flag } from './frame.js';
import { Joins } from './joins.js';
import { Lane } from './lane.js';
import { CLIENT_ACKS, DEFAULT_LIMITS } from './limits.js';
import { Link } from './link.js';
import { HEADER_BYTES } from './mesh/bulk.js';
import { COPY_STREAM } from './mesh/mesh.js';
import { Notices } from './notices.js';
import { Page } from './page.js';
import { Quality } from './quality.js';
import { Receiving } from './receiving.js';
import { Rejoining } from './rejoining.js';
import { Report } from './report.js';
import { Room } from './room.js';
import { Rooms } from './rooms.js';
import { Sending } from './sending.js';
import { Share } from './share.js';
import { BackgroundSync } from './sync.js';
import { SharedLink } from './tabs/shared-link.js';
import { Signing } from './tentative/signing.js';
import { identityIn } from './token.js';
import { Tokens } from './tokens.js';

/**
 * @typedef {import('./link.js').LinkState} SessionState
 * @typedef {import('./link.js').Rung} Rung
 * @typedef {import('./link.js').Features} Features
 *
 * @typedef {object} SessionOptions
 * @property {string | URL} [url] of the server: `wss://host`, or with a path of its own. By default the page's host.
 * @property {'auto' | 'websocket'} [transport] `websocket` never tries WebRTC
 * @property {RTCIceTransportPolicy} [iceTransportPolicy] `relay`: WebRTC only over a TURN server, so that nobody else
 *   learns this device's addresses
 * @property {(servers: RTCIceServer[]) => RTCIceServer[]} [iceServers] changes the list of STUN and TURN servers that the
 *   server names
 * @property {import('./mesh/mesh.js').PeerToPeer} [peerToPeer] direct connections to the members of small rooms: `relay` over
 *   TURN servers only, so that they do not learn this device's addresses; `off` none. By default `auto`, `relay` with
 *   `iceTransportPolicy: 'relay'`, and `off` with `transport: 'websocket'`.
 * @property {'shared' | 'own'} [tabs] `shared`, the default: the tabs of one user in one browser have one connection, where
 *   the browser has Web Locks and BroadcastChannel and the token says whose it is
 * @property {boolean} [tentative] whether events go to connected members ahead of the log, and come so from them, where the
 *   server has it on; false by default
 * @property {import('./sync.js').Registration | Promise<import('./sync.js').Registration>} [backgroundSync] the service worker
 *   that sends what waits when the pages are gone (background.js); without one it waits for the next page
 * @property {(room: string) => string | Promise<string>} [getToken] asked for a token when a room is joined without
 *   one, and when it must be joined anew
 * @property {Partial<import('./environment.js').Environment>} [environment] for tests
 *
 * @typedef {object} SessionEvents
 * @property {SessionState} state
 * @property {Rung} rung
 * @property {number} rtt milliseconds, smoothed
 * @property {import('./quality.js').QualityReport} quality the score or the level is another
 * @property {Features} features what the server, the rooms and their tokens leave on has changed
 * @property {{ leads: boolean, count: number }} tabs another tab of the user has the connection, or there is another number of them
 * @property {import('./attempts.js').Attempt} attempt an attempt to connect has ended: a WebSocket, or a peer connection
 * @property {SwitchyardError} error a refusal that belongs to no request, or the reason of the end
 *
 * @typedef {object} JoinOptions
 * @property {string} room
 * @property {string} [token] by default from `getToken`
 * @property {boolean} [log] whether the room's log is followed and can be written; true by default
 * @property {string} [user] whose the room is, where there may be no token yet to tell it: an offline page finds by it
 *   what this user has written before
 *
 * @typedef {import('./sending.js').Delivery} Delivery
 * @typedef {import('./sending.js').Outgoing} Outgoing
 */

/** @extends {Emitter<SessionEvents>} */
export class Session extends Emitter {
  #env;
  #url;
  #link;
  /** The link, if tabs may share it. @type {SharedLink | null} */
  #tabs;
  #limits = DEFAULT_LIMITS;
  /** @type {Features | null} */
  #features = null;
  /** @type {Lane<Delivery>} */
  #lane;
  #receiving;
  #notices;
  #ephemera;
  #direct;
  #mesh;
  /** Where tentative copies are wanted. @type {Signing | null} */
  #signing;
  #quality = new Quality();
  #report;
  #share;
  #rooms = new Rooms();
  #joins;
  #sending;
  #tokens;
  #rejoining = new Rejoining({
    token: (room) => this.#tokens.anew(room),
    join: (room, token) => this.#join(room, token, false),
    failed: (room, code) => this.#roomEnded(room, code),
  });
  /** @type {BackgroundSync} */
  #sync;
  #page = new Page({
    isInUse: () => this.state !== 'closed' && this.state !== 'idle',
    away: () => {
      this.#sync.away({ waits: [...this.#rooms.all].some((room) => room.logOrNull?.mayLeave) });
      this.#mesh.rest();
      this.#link.rest();
    },
    back: () => {
      this.#link.start();
      this.#sessionLost();
    },
    hurry: () => {
      this.#link.hurry();
      this.#mesh.hurry();
    },
  });
  #counters = { bytesSent: 0, sessionsLost: 0 };

  /** @param {SessionOptions} [options] */
  constructor(options = {}) {
    const { url, transport = 'auto', iceTransportPolicy = 'all', iceServers, getToken, tabs = 'shared', environment: given } = options;
    const { peerToPeer = transport === 'websocket' ? 'off' : iceTransportPolicy === 'relay' ? 'relay' : 'auto' } = options;
    super();
    this.#env = environment(given);
    this.#sync = new BackgroundSync(options.backgroundSync);
    if (!this.#env.WebSocket) throw new SwitchyardError('no_websocket', 'this browser has no WebSocket');
    this.#tokens = new Tokens(this.#env, getToken, { isLeft: (room) => !this.#rooms.has(room), signal: this.#page.signal });
    this.#url = endpoint(url);
    const ice = { policy: iceTransportPolicy, choose: iceServers ?? ((servers) => servers) };
    const makeLink = (/** @type {import('./link.js').LinkOwner} */ owner) =>
      new Link(this.#env, { url: this.#url, webRtc: transport !== 'websocket', ice }, owner);
    this.#signing = options.tentative ? new Signing(this.#env.subtle) : null;
    const key = [this.#url, transport, iceTransportPolicy, peerToPeer, ...(options.tentative ? ['tentative'] : [])];
    this.#tabs = tabs === 'own' ? null : new SharedLink(this.#env, { key, makeLink }, { ...this.#linkOwner(), ...this.#sharing() });
    this.#link = this.#tabs ?? makeLink(this.#linkOwner());
    this.#lane = this.#freshLane();
    this.#sending = new Sending({
      rooms: this.#rooms,
      tabs: this.#tabs,
      lane: () => this.#lane,
      wake: () => this.#link.wake(),
      limit: () => this.#limits.replay_limit_bytes,
    });
    this.#joins = new Joins(this.#env, () => this.#link);
    this.#receiving = new Receiving(DEFAULT_LIMITS.max_message_bytes, {
      rooms: this.#rooms,
      tabs: this.#tabs,
      lane: () => this.#lane,
      mesh: () => this.#mesh,
      now: () => this.#env.now(),
      ackAt: (due) => this.#link.ackAt(due),
      leaving: (room) => this.#sending.leave(room),
      control: (handle, payload) => this.#notices.take(handle, payload),
    });
    this.#direct = new Direct(this.#env, peerToPeer, {
      rooms: this.#rooms,
      sending: this.#sending,
      tabs: this.#tabs,
      signing: this.#signing,
      servers: () => this.#link.knownIceServers,
      features: () => this.#features,
      limit: () => this.#limits.max_message_bytes,
      message: (from, payload, lossy) => this.#receiving.message(from, payload, lossy),
    });
    this.#mesh = this.#direct.mesh;
    this.#notices = new Notices({
      rooms: this.#rooms,
      joins: this.#joins,
      sending: this.#sending,
      tokens: this.#tokens,
      mesh: this.#mesh,
      tabs: this.#tabs,
      renew: (ticket) => this.#link.renew(ticket),
      ended: (room, reason) => this.#roomEnded(room, reason),
      bad: () => void (this.#receiving.counters.badMessages += 1),
      error: (error) => this.emit('error', error),
    });
    this.#ephemera = new Ephemera(this.#env, {
      link: () => this.#link,
      mesh: () => this.#mesh,
      room: (handle) => this.#rooms.at(handle),
      hasReliable: () => this.#lane.hasNext,
    });
    this.#direct.allow();
    const tell = (/** @type {Record<string, unknown>} */ message) => {
      if (!this.#link.inSession) return false;
      this.#link.sendText(message);
      return true;
    };
    this.#report = new Report(this.#env, tell);
    this.#share = new Share(tell);
    this.#page.follow();
  }

  /** @returns {SessionState} */
  get state() {
    return this.#link.state;
  }

  /** What carries the data now; null before anything does. @returns {Rung | null} */
  get rung() {
    return this.#link.rung;
  }

  /** How good the connection is, and what it bears. */
  get quality() {
    return this.#quality.report;
  }

  /** Rooms one is in. @returns {Room[]} */
  get rooms() {
    return [...this.#rooms.all].filter((room) => room.active);
  }

  /** The limits the server has stated. */
  get limits() {
    return this.#limits;
  }

  /**
   * What the server, the rooms and their tokens leave on: data channels (`webrtc`), being told STUN and TURN servers
   * (`relay`), connections between members (`p2p`), copies of events over them (`tentative`). Null before there is a session.
   */
  get features() {
    return this.#features;
  }

  /**
   * Joins a room, connecting first if need be. Rejects with the server's code if it refuses.
   * @param {JoinOptions} options
   * @returns {Promise<Room>}
   */
  async join(options) {
    if (this.state === 'closed') throw new SwitchyardError('closed', 'the session is closed');
    const known = this.#rooms.get(options.room);
    if (known?.active) {
      await known.refresh(options.token);
      return known;
    }
    if (known) throw new SwitchyardError('bad_argument', `room ${options.room} is being joined already`);
    const room = this.#newRoom(options);
    try {
      const token = options.token ?? (await this.#tokens.fresh(room.name));
      this.#identify(room, token);
      await this.#join(room, token, false);
    } catch (error) {
      this.#rooms.remove(room);
      room.logOrNull?.close('not_joined');
      throw error;
    }
    room.emit('joined', room);
    return room;
  }

  /**
   * Gives the room at once and joins it as soon as that is possible, however long it takes: what is written to its log
   * meanwhile is kept. The room says `joined`, or `left` with the code of the server's refusal.
   * @param {JoinOptions} options
   * @returns {Room}
   */
  open(options) {
    if (this.state === 'closed') throw new SwitchyardError('closed', 'the session is closed');
    const known = this.#rooms.get(options.room);
    if (known) return known;
    const room = this.#newRoom(options);
    this.#enter(room, options.token).catch((error) => this.#roomEnded(room, codeOf(error)));
    return room;
  }

  /** Leaves all rooms and ends the session. It cannot be used again. */
  close() {
    if (this.state === 'closed') return;
    this.#page.close();
    this.#mesh.close();
    this.#link.close();
    this.#endAll('closed', 'the session was closed');
  }

  /**
   * STUN and TURN servers for the application's own peer connections, with credentials of this user that are good for at
   * least half of what the server grants. Rejects while there is no session.
   * @returns {Promise<RTCIceServer[]>}
   */
  iceServers() {
    return this.#link.iceServers();
  }

  /**
   * Why the connection is as it is: the last attempts to connect, a code and a sentence with the evidence; and what became of
   * tentative copies in this page. It holds no addresses and no tokens.
   */
  async diagnose() {
    return { .../** @type {Awaited<ReturnType<Link['diagnose']>>} */ (await this.#link.diagnose()), tentative: this.#direct.copies };
  }

  /** What the connection is doing, for display. */
  stats() {
    return {
      state: this.state,
      rung: this.rung,
      /** With the rung `relay`: the transport to the TURN server, `udp`, `tcp` or `tls`, where the browser says it. */
      relay: this.#link.relay,
      /** Milliseconds. */
      rtt: this.#link.rtt,
      /** Bytes that have not had their turn yet. */
      waitingBytes: this.#lane.waitingBytes + this.#sending.parkedBytes,
      /** Sent and not acknowledged. */
      unacknowledgedBytes: this.#lane.unacknowledgedBytes,
      unacknowledgedFrames: this.#lane.unacknowledgedFrames,
      lossyWaiting: this.#ephemera.length,
      /** Of the connections to other browsers. */
      mesh: this.#mesh.counters,
      /** How many tabs share the connection, and whether it is this one's. */
      tabs: this.#tabs?.tabs ?? { leads: true, count: 1 },
      /** Bytes in the browser's queue of each pipe. */
      buffered: this.#link.buffered,
      counters: { ...this.#link.counters, ...this.#receiving.counters, ...this.#counters, ...this.#ephemera.counters },
    };
  }

  // --- joining ---------------------------------------------------------------------------------------------------

  /** @param {JoinOptions} options */
  #newRoom({ room: name, token, log = true, user }) {
    const scope = JSON.stringify([this.#url, name]);
    const room = new Room(name, this.#roomCore(), log ? { scope, env: this.#env, user: user ?? '', signing: this.#signing } : null);
    this.#rooms.add(room);
    room.logOrNull?.linked(this.state === 'connected');
    room.on('status', () => this.#lookAtSync());
    if (user !== undefined) room.logOrNull?.identify({ tenant: '', user });
    if (token !== undefined) this.#identify(room, token);
    return room;
  }

  #lookAtSync() {
    const waits = [...this.#rooms.all].some((room) => room.logOrNull?.leaves);
    this.#sync.look({ waits, connected: this.state === 'connected' });
  }

  /** Joins with a token that may have to be waited for. @param {Room} room @param {string} [given] */
  async #enter(room, given) {
    const token = given ?? (await this.#tokens.patient(room));
    this.#identify(room, token);
    await this.#join(room, token, false);
    room.emit('joined', room);
  }

  /** @param {Room} room @param {string} token */
  #identify(room, token) {
    const identity = identityIn(token);
    if (identity) room.logOrNull?.identify(identity);
  }

  /**
   * @param {Room} room
   * @param {string | undefined} token asked for when it is needed
   * @param {boolean} refresh
   * @returns {Promise<void>}
   */
  #join(room, token, refresh) {
    const awaited = [this.#tabs?.identify(token), this.#signing?.ready].filter((each) => each);
    if (awaited.length === 0) return this.#joinNow(room, token, refresh);
    return Promise.all(awaited).then(() => {
      if (!this.#rooms.has(room)) throw new SwitchyardError('left', 'the room was left');
      return this.#joinNow(room, token, refresh);
    });
  }

  /**
   * @param {Room} room
   * @param {string | undefined} token
   * @param {boolean} refresh
   * @returns {Promise<void>}
   */
  #joinNow(room, token, refresh) {
    const answered = this.#joins.add({ id: this.#sending.newId(), room, token, signingKey: this.#signing?.publicKey ?? null, refresh });
    this.#link.start();
    if (this.#link.takesJoins) this.#joins.send(null);
    return answered;
  }

  /** The session is new at the server: every room is joined with a fresh token if there is a way to get one. */
  #rejoinAll() {
    this.#joins.failAll(lost(), ({ refresh }) => refresh);
    this.#rejoining.all([...this.#rooms.all].filter((room) => room.active));
  }

  // --- what the link asks and tells --------------------------------------------------------------------------------

  /** @returns {import('./link.js').LinkOwner} */
  #linkOwner() {
    return {
      ready: (offer) => this.#joins.sendAnew(offer),
      resumed: () => this.#joins.sendAnew(null),
      lost: () => this.#sessionLost(),
      text: (message) => this.#text(message),
      frame: (frame, length) => this.#receiving.frame(frame, length),
      replay: (ack) => {
        const done = this.#lane.replayFrom(ack);
        done?.forEach((delivery) => delivery.resolve());
        return done !== null;
      },
      newest: (ack) => this.#lane.newest(ack),
      received: () => this.#lane.takeAck(),
      next: (room) => this.#nextFrame(room),
      hasNext: () => this.#lane.hasNext || this.#ephemera.hasNext,
      copyAnew: () => this.#lane.copyAnew(),
      copy: (room) => this.#lane.copy(room),
      copies: () => this.#lane.copies,
      nextLossy: (room) => this.#ephemera.next(room),
      ackDueAt: () => this.#lane.ackDueAt,
      unacknowledged: () => this.#lane.unacknowledgedFrames > 0,
      state: (state) => {
        for (const room of this.#rooms.all) room.logOrNull?.linked(state === 'connected');
        this.#lookAtSync();
        this.emit('state', state);
        if (state !== 'connected') this.#judged(this.#quality.tick(this.#env.now(), this.#link.health(this.#env.now())));
        // A refused token ended the connection, and others wait with theirs.
        if (state === 'idle' && !this.#page.isAsleep && this.#joins.size > 0) queueMicrotask(() => this.#link.start());
      },
      rung: (rung) => this.emit('rung', rung),
      rtt: (rtt, answer) => {
        this.emit('rtt', rtt);
        this.#judged(this.#quality.answered(this.#env.now(), answer));
      },
      tick: (now) => {
        this.#judged(this.#quality.tick(now, this.#link.health(now)));
        this.#report.flush();
        this.#share.tick(now, this.quality, this.#mesh.isOff ? undefined : this.#mesh.ways);
      },
      attempt: (attempt) => {
        this.#report.take(attempt);
        if (attempt.endedMs !== null) this.emit('attempt', attempt);
      },
      closed: (code, message) => {
        this.#page.close();
        this.#endAll(code, message);
        this.emit('error', new SwitchyardError(code, message));
      },
      limits: (limits) => {
        this.#limits = limits;
        this.#receiving.limit = limits.max_message_bytes;
        this.#lane.limit = limits.replay_limit_bytes;
      },
      features: (features) => {
        const { webrtc, relay, p2p, tentative } = this.#features ?? {};
        const isSame = webrtc === features.webrtc && relay === features.relay && p2p === features.p2p;
        if (isSame && tentative === features.tentative) return;
        this.#features = features;
        this.#direct.allow();
        this.emit('features', features);
      },
    };
  }

  /** What tabs that share the connection do for each other. @returns {import('./tabs/shared-link.js').Sharing} */
  #sharing() {
    return {
      echo: (message, isLossy) => this.#receiving.echo(message, isLossy),
      lossy: (message, coalesce) => {
        const room = this.#rooms.at(message.room);
        if (message.stream !== COPY_STREAM) this.#ephemera.send(message, coalesce);
        else if (room) this.#mesh.sendCopy(room, message.payload, null);
      },
      direct: (frame) => this.#direct.received(frame),
      bulk: (message) => this.#direct.bulkElsewhere(message),
      lend: (wanted, passed) => this.#direct.lend(wanted, passed),
      acknowledged: (what) => this.#direct.acknowledgedElsewhere(what),
      lends: () => this.#mesh.pump(),
      reached: () => this.#mesh.reached,
      peers: (before, now) => this.#direct.reachedElsewhere(before, now),
      leads: () => this.#direct.allow(),
      left: (handle) => {
        const room = this.#rooms.at(handle);
        if (room) this.#roomEnded(room, 'left');
      },
      moved: () => this.emit('tabs', this.stats().tabs),
      confirmed: (tag) => tag.resolve(),
      refused: (tag) => tag?.reject(new SwitchyardError('buffer_full', 'too much waits to be sent or acknowledged')),
    };
  }

  /** @param {number} room */
  #nextFrame(room) {
    const frame = this.#lane.next(room);
    if (frame) this.#counters.bytesSent += frame.length;
    return frame;
  }

  #sessionLost() {
    this.#counters.sessionsLost += 1;
    this.#share.forget();
    for (const room of this.#rooms.all) room.logOrNull?.detached();
    const { uncertain, waiting } = this.#lane.abandon();
    this.#newLane();
    for (const { tag } of uncertain) {
      if (!tag) continue;
      this.#rejoining.unconfirmed(tag.room);
      tag.reject(lost());
    }
    const leaving = [...this.#rooms.all].filter((room) => room.leaving);
    for (const room of leaving) this.#roomEnded(room, 'left');
    this.#sending.sessionLost(waiting, (room) => this.#rooms.get(room.name) !== undefined);
    this.#rejoinAll();
  }

  #freshLane() {
    const limit = this.#limits.replay_limit_bytes;
    return this.#tabs?.lane(limit) ?? new Lane({ limit, acks: CLIENT_ACKS });
  }

  #newLane() {
    this.#lane = this.#freshLane();
    this.#receiving.restart(this.#limits.max_message_bytes);
    this.#ephemera.clear();
    this.#rooms.forgetHandles();
    this.#sending.forgetRequests();
  }

  /** @param {Record<string, unknown>} message */
  #text(message) {
    if (message.type !== 'error') return;
    const code = typeof message.code === 'string' ? message.code : 'malformed';
    const text = typeof message.message === 'string' ? message.message : code;
    const retryAfterMs = typeof message.retry_after_ms === 'number' ? message.retry_after_ms : undefined;
    const error = new SwitchyardError(code, text, { retryAfterMs });
    if (code === 'webrtc_disabled' || code === 'bad_offer') {
      this.#link.peerRefused(code === 'webrtc_disabled');
      return;
    }
    if (code === 'stale_attach' || code === 'lane_gap') this.#link.attachAnew();
    const join = this.#joins.get(message.id);
    if (join) this.#joins.fail(join, error);
    else this.emit('error', error);
    if (code === 'unsupported_version') {
      this.#link.close();
      this.#endAll(code, text);
    }
  }

  // --- ending ------------------------------------------------------------------------------------------------------

  /** @param {Room} room @param {string} reason */
  #roomEnded(room, reason) {
    if (!this.#rooms.has(room)) return;
    const handle = this.#rooms.handleOf(room);
    this.#rooms.remove(room);
    this.#tabs?.ended(room.name, handle);
    if (handle !== undefined) this.#receiving.forget(handle);
    this.#sending.unpark(room, null);
    this.#mesh.left(room);
    room.ended(reason);
  }

  /** @param {string} code @param {string} message */
  #endAll(code, message) {
    const error = new SwitchyardError(code, message);
    const { uncertain, waiting } = this.#lane.abandon();
    for (const { tag } of [...uncertain, ...waiting]) tag?.reject(error);
    this.#joins.failAll(error);
    for (const room of [...this.#rooms.all]) this.#roomEnded(room, code);
    this.#newLane();
  }

  // --- sending ---------------------------------------------------------------------------------------------------

  /** @returns {import('./room.js').RoomCore} */
  #roomCore() {
    return {
      send: (room, payload, isText, stream, target) => {
        const limit = this.#limits.max_message_bytes;
        if (payload.length > limit) {
          throw new SwitchyardError('too_large', `a message has at most ${limit} bytes, this one ${payload.length}`);
        }
        const sent = this.#sending.offer(room, { kind: 'data', room: 0, stream, text: isText, target, payload });
        room.counters.sent += 1;
        return sent;
      },
      sendTo: (room, member, payload, isText, stream) => {
        const limit = this.#limits.max_message_bytes - HEADER_BYTES;
        if (payload.length > limit) {
          throw new SwitchyardError('too_large', `a message to one member has at most ${limit} bytes, this one ${payload.length}`);
        }
        room.counters.sent += 1;
        return this.#mesh.send(room, member, payload, isText, stream);
      },
      sendLossy: (room, payload, isText, stream, target, coalesce) => this.#sendLossy(room, payload, isText, stream, target, coalesce),
      peer: (room, member) => this.#direct.peer(room, member),
      lossyReceived: (sender, missing) => this.#quality.lossyReceived(sender, missing),
      control: (room, message) => {
        // Another tab may want the topics; this one hears no more of them.
        if (message.type === 'unsubscribe' && this.#tabs?.sharesRoom(room.name)) return Promise.resolve();
        return this.#sending.request(room, message).sent;
      },
      request: (room, message) => {
        try {
          return this.#rooms.handleOf(room) !== undefined ? this.#sending.request(room, message).id : null;
        } catch {
          return null;
        }
      },
      fitsLog: (room) => this.#sending.fitsLog(room),
      sendLog: (room, payload) => this.#sending.log(room, payload),
      copies: (room) => ({ isOn: this.#direct.copiesOff === '', tenant: identityIn(this.#tokens.last(room) ?? '')?.tenant ?? '' }),
      sendCopy: (room, payload, to) => this.#direct.sendCopy(room, payload, to),
      leave: (room) => {
        if (room.active) this.#sending.leave(room);
        else this.#abandon(room);
      },
      refresh: async (room, token) => {
        if (!room.active) throw new SwitchyardError('not_in_room', `not in room ${room.name}`);
        await this.#join(room, token ?? (await this.#tokens.fresh(room.name)), true);
      },
    };
  }

  /**
   * @param {Room} room
   * @param {Uint8Array} payload
   * @param {boolean} isText
   * @param {number} stream
   * @param {import('./frame.js').Target} target
   * @param {boolean} coalesce
   */
  #sendLossy(room, payload, isText, stream, target, coalesce) {
    const limit = this.#limits.max_lossy_bytes;
    if (payload.length > limit) {
      throw new SwitchyardError('too_large', `a lossy message has at most ${limit} bytes, this one ${payload.length}`);
    }
    const handle = this.#rooms.handleOf(room);
    room.counters.lossySent += 1;
    if (handle === undefined) {
      this.#ephemera.drop();
      return;
    }
    const message = { flags: isText ? Flag.TEXT : 0, room: handle, stream, target, payload };
    if (!this.#tabs?.lossy(message, coalesce)) this.#ephemera.send(message, coalesce);
  }

  /** The score may be another. @param {boolean} isChanged */
  #judged(isChanged) {
    this.#ephemera.paceMs = this.#quality.paceMs;
    if (!isChanged) return;
    // What waited for its time may go at once.
    this.#link.wake();
    this.emit('quality', this.quality);
  }

  /** A room is left that has not been joined yet. @param {Room} room */
  #abandon(room) {
    this.#joins.failAll(new SwitchyardError('left', 'the room was left'), (join) => join.room === room);
    this.#roomEnded(room, 'left');
  }
}
