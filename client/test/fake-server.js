// The server's half of docs/protocol.md, small and without limits, for tests of the client. It shares only frame.js
// with the code under test; its lane is its own. Tokens are JSON texts: {"user", "name"?}, or the middle part of a JWT in a
// JWT's place; the token "bad" is refused.

import { Flag, decodeFrame, encodeFrame, joinFrames, splitFrames } from '../src/frame.js';
import { FakeLog } from './fake-log.js';

const GRACE_MS = 10_000;
const utf8 = new TextEncoder();

export class FakeServer {
  #clock;
  #next = 1;
  rooms = new Map();
  /** What is on disk: logs by room. */
  logs = new Map();
  sessions = new Map();
  /** Peer connections by the number in their fake SDP. */
  #offers = new Map();
  #pipes = new Map();
  /** Peer connections whose other end is no more: what is on its way from there never arrives. */
  #gone = new Set();
  /** Text messages received, in order. */
  texts = [];
  webRtc = true;
  /** What new sessions are told is on; nothing if null. @type {{ webrtc: boolean, relay: boolean } | null} */
  features = null;
  limits = {};
  /** Of everybody. */
  permissions = ['write'];
  /** Lossy messages and signals that came. */
  lossy = 0;
  signals = 0;
  /** Data messages of one chunk for which it holds are given up, with or without saying so. */
  drops = () => false;
  tellsGaps = true;
  /** What sessions are told of STUN and TURN: a list of servers, and how long it holds. @type {object | null} */
  ice = null;
  /** Answers to `ice_servers`, or not. */
  tellsIce = true;
  /** What comes with an ATTACH is read before that is answered. */
  readsFirst = false;
  /** Milliseconds after which an ATTACH is answered, with the acknowledgement of then. */
  answersLate = 0;
  /** Answers to PING, or not. */
  pongs = true;
  /** How long a `hello` takes more than other messages, and whether one is on its way. */
  helloMs = 0;
  helloWaits = false;
  /** The last member's number. */
  members = 0;
  /** Why sessions were not resumed. @type {string[]} */
  refused = [];

  constructor(clock) {
    this.#clock = clock;
  }

  connect(socket) {
    return new Connection(this, this.#clock, socket);
  }

  /** A peer connection is through; its offer says whose it is. */
  peer(id, channel) {
    const session = this.#offers.get(id);
    const pipe = { kind: 'datachannel', send: (message) => channel.send(0, message), lossy: (message) => channel.send(1, message) };
    this.#pipes.set(id, pipe);
    const receive = (channelId, message) => session?.receive(pipe, message, channelId === 1 ? pipe.lossy : pipe.send);
    return { receive: (channelId, message) => this.#gone.has(id) || receive(channelId, message) };
  }

  /** The server sees that the other end of a peer connection is gone. */
  peerGone(id) {
    this.#gone.add(id);
    this.#offers.get(id)?.pipeGone(this.#pipes.get(id));
  }

  offered(session, sdp) {
    const [, id] = sdp.split(' ');
    this.#offers.set(Number(id), session);
    return sdp;
  }

  number() {
    return this.#next++;
  }

  log(room) {
    if (!this.logs.has(room)) this.logs.set(room, new FakeLog(this.#clock));
    return this.logs.get(room);
  }

  /** The server restarts: every session is gone, the sockets break. */
  forget() {
    for (const log of this.logs.values()) log.restart();
    for (const session of this.sessions.values()) session.end('timeout', false);
    this.sessions.clear();
    this.rooms.clear();
    this.members = 0;
  }
}

function claimsOf(token) {
  if (token.startsWith('{')) return JSON.parse(token);
  const { sub, name = sub } = JSON.parse(Buffer.from(token.split('.')[1], 'base64url').toString());
  return { user: sub, name };
}

/** One WebSocket. */
class Connection {
  #server;
  #clock;
  #socket;
  #session = null;
  #greeted = false;
  /** Whether the session outlives the page. */
  #keeps = false;
  #open = true;

  constructor(server, clock, socket) {
    this.#server = server;
    this.#clock = clock;
    this.#socket = socket;
    this.pipe = { kind: 'websocket', send: (message) => socket.send(message), lossy: (message) => socket.send(message) };
  }

  receive(data) {
    if (!this.#open) return;
    if (typeof data !== 'string') {
      this.#session?.receive(this.pipe, data);
      return;
    }
    const message = JSON.parse(data);
    this.#server.texts.push(message);
    if (!this.#greeted && message.type !== 'hello') throw new Error(`${message.type} before hello`);
    this.#handle(message);
  }

  closed(code) {
    this.#open = false;
    if (this.#session?.connection === this) this.#session.socketClosed(code === 1001 && this.#keeps ? 1006 : code);
    this.#session = null;
  }

  /** Nothing that comes on it counts any more. */
  end(code, reason) {
    this.#open = false;
    this.#session = null;
    this.#socket.close(code, reason);
  }

  text(message) {
    this.#socket.send(JSON.stringify(message));
  }

  close(code, reason) {
    this.#socket.close(code, reason);
  }

  #handle(message) {
    switch (message.type) {
      case 'hello':
        this.#greeted = true;
        if (!this.#server.helloMs) return this.#hello(message);
        this.#server.helloWaits = true;
        this.#clock.setTimeout(() => {
          this.#server.helloWaits = false;
          if (this.#open) this.#hello(message);
        }, this.#server.helloMs);
        return undefined;
      case 'join':
        return this.#join(message);
      case 'offer':
        return this.#offer(message);
      case 'bye':
        this.#session?.end('left');
        return undefined;
      case 'ping':
        return this.text({ type: 'pong', t: message.t });
      case 'keep':
        this.#keeps = message.on;
        return undefined;
      case 'candidate':
      case 'attempt':
        return undefined;
      case 'quality':
        this.#session?.judged(message);
        return undefined;
      case 'ice_servers':
        if (this.#server.tellsIce) this.text({ type: 'ice_servers', ...(this.#server.ice ?? { ice_servers: [], ice_ttl_ms: 0 }) });
        return undefined;
      default:
        throw new Error(`unknown text message ${message.type}`);
    }
  }

  #hello({ v, resume }) {
    if (v !== 1) throw new Error('version');
    const session = resume && this.#server.sessions.get(resume.session);
    const refusal = resume ? (session?.show(resume.ticket) ?? (session ? null : 'unknown_session')) : null;
    const resumed = Boolean(session) && !refusal;
    if (refusal) this.#server.refused.push(refusal);
    if (refusal) this.text({ type: 'error', code: refusal, message: 'no', fatal: false });
    const ice = resumed ? this.#server.ice : null;
    if (resumed && resume.takes_over) session.takenOver();
    this.text({ type: 'welcome', v: 1, resumed, limits: this.#server.limits, ping_interval_ms: 5_000, ...ice, ...(resumed && session.told), ...(resumed && { ack: session.received }) });
    if (!resumed) return;
    this.#session = session;
    session.resumedOn(this);
  }

  #join({ id, room, token, offer, follow, signing_key: signingKey }) {
    if (token === 'bad') {
      this.text({ type: 'error', id, code: 'token_signature', message: 'no', fatal: !this.#session });
      if (!this.#session) this.close(4401, 'token_signature');
      return;
    }
    if (!this.#session) {
      const session = new Session(this.#server, this.#clock, this);
      this.#session = session;
      this.text({ type: 'session', session: session.id, ticket: session.ticket, ...this.#server.ice, ...session.told });
    }
    this.#session.join(id, room, claimsOf(token), follow, signingKey);
    if (offer) this.#offer(offer);
  }

  #offer({ pc, sdp }) {
    if (!this.#session) throw new Error('offer before join');
    if (!this.#server.webRtc || this.#session.features?.webrtc === false) {
      this.text({ type: 'error', code: 'webrtc_disabled', message: 'off', fatal: false });
      return;
    }
    if (pc < this.#session.pc) throw new Error('an old peer connection');
    this.#session.pc = pc;
    Promise.resolve(this.#server.offered(this.#session, sdp)).then((answer) => this.text({ type: 'answer', pc, sdp: answer }));
  }
}

class Session {
  #server;
  #clock;
  #pipe;
  #gen = 1;
  #grace = null;
  #sent = [];
  #lastSent = 0;
  #received = 0;
  #ackTimer = null;
  /** By handle. */
  memberships = new Map();
  /** Targets of messages whose first chunk came, by room and stream. */
  #targets = new Map();
  #nextHandle = 1;
  pc = 0;
  duplicates = 0;
  /** Tickets that are worth nothing any more. */
  #used = new Set();
  /** The ticket that is on its way. */
  #successor = null;
  /** Whether what is sent over the data channel goes over the WebSocket, too. */
  #doubts = false;
  /** Data channels of pages that another has taken over from. */
  #void = new WeakSet();

  constructor(server, clock, connection) {
    this.#server = server;
    this.#clock = clock;
    this.connection = connection;
    this.#pipe = connection.pipe;
    this.id = `s${server.number()}`;
    this.ticket = `t${server.number()}`;
    server.sessions.set(this.id, this);
    this.features = server.features;
  }

  /** Frames that the client may lack. */
  get unacknowledged() {
    return this.#sent.length;
  }

  get received() {
    return this.#received;
  }

  get pipeKind() {
    return this.#pipe?.kind ?? null;
  }

  join(id, name, { user, name: shown = user }, follow, signingKey) {
    let room = this.#server.rooms.get(name);
    if (!room) this.#server.rooms.set(name, (room = new Map()));
    let mine = [...this.memberships.values()].find((membership) => membership.room === room);
    if (!mine) {
      const handle = this.#nextHandle++;
      const self = { member: (this.#server.members += 1), user, name: shown, role: 'editor' };
      mine = { handle, room, name, self, session: this, topics: new Set() };
      for (const other of room.values()) other.session.control(other.handle, { type: 'member_joined', member: self });
      room.set(self.member, mine);
      this.memberships.set(handle, mine);
    }
    if (signingKey && this.features?.tentative) this.#certify(mine, signingKey);
    const members = [...room.values()].filter((other) => other !== mine).map((other) => other.self);
    const { member, role } = mine.self;
    // A member follows once, and has one origin: whoever joins again is told that.
    const log = (follow || mine.log) && this.#server.log(name);
    const isNew = log && !mine.log;
    if (isNew) mine.origin = log.newOrigin(user);
    this.control(mine.handle, {
      type: 'joined', id, room: name, handle: mine.handle, member, user, role, permissions: this.#server.permissions, topics: [], members,
      ...(log && { log: { origin: mine.origin } }),
    });
    if (isNew) {
      mine.log = log.follow(mine.self, follow, (payload) => this.pushLog(mine.handle, payload));
    }
  }

  #certify({ room, self }, key) {
    if (self.signing_keys?.includes(key)) return;
    self.signing_keys = [...(self.signing_keys ?? []), key];
    for (const other of room.values()) {
      if (other.session !== this) other.session.control(other.handle, { type: 'member_joined', member: self });
    }
  }

  judged({ score, rung }) {
    for (const { room, self } of this.memberships.values()) {
      self.quality = { score, rung };
      for (const other of room.values()) {
        if (other.session !== this) other.session.control(other.handle, { type: 'quality', member: self.member, score, rung });
      }
    }
  }

  /** What is wrong with a ticket that is shown. */
  show(ticket) {
    if (ticket === this.#successor?.ticket) this.#consume();
    if (ticket === this.ticket) return null;
    return this.#used.has(ticket) ? 'ticket_used' : 'unknown_session';
  }

  /** The next ticket, if none is on its way. */
  renew() {
    if (this.#successor) return;
    const ticket = `t${this.#server.number()}`;
    this.control(0, { type: 'ticket', ticket });
    this.#successor = { ticket, seq: this.#lastSent };
  }

  #consume() {
    this.#used.add(this.ticket);
    this.ticket = this.#successor.ticket;
    this.#successor = null;
  }

  resumedOn(connection) {
    this.renew();
    const replaced = this.connection;
    this.connection = connection;
    replaced?.end(4409, 'replaced');
    this.#clock.clearTimeout(this.#grace);
  }

  /** Another page goes on: what the last one has under way on its data channel is void. */
  takenOver() {
    if (this.#pipe?.kind !== 'datachannel') return;
    this.#void.add(this.#pipe);
    this.#pipe = null;
  }

  socketClosed(code) {
    this.connection = null;
    if (this.#pipe?.kind !== 'datachannel') this.#pipe = null;
    if (this.#pipe) return;
    if (code === 1000 || code === 1001) this.end('left');
    else this.#grace = this.#clock.setTimeout(() => this.end('timeout'), GRACE_MS);
  }

  /** What `session` and `welcome` say of features. */
  get told() {
    return this.features ? { features: this.features } : {};
  }

  /** A join has taken something away. */
  takeAway(features) {
    this.features = features;
    this.connection?.text({ type: 'features', features });
    if (!features.webrtc && this.#pipe?.kind === 'datachannel') this.#moveTo(this.connection?.pipe ?? null, this.#lastAcked());
  }

  /** Acknowledgements do not come: the client is asked to look, over the WebSocket, and is sent there what it may lack. */
  doubt() {
    this.connection?.pipe.send(joinFrames([encodeFrame({ kind: 'ping', nonce: 1 })]));
    this.#doubts = true;
    for (const entry of this.#sent) this.#copy(entry);
  }

  #copy(entry) {
    this.connection?.pipe.send(joinFrames([encodeFrame({ ...entry, ack: this.#received })]));
  }

  pipeGone(pipe) {
    if (!pipe || this.#pipe !== pipe) return;
    this.#moveTo(this.connection?.pipe ?? null, this.#lastAcked());
    if (!this.#pipe) this.#grace = this.#clock.setTimeout(() => this.end('timeout'), GRACE_MS);
  }

  /** The server finds the peer connection dead. */
  peerDied() {
    if (this.#pipe?.kind === 'datachannel') this.#moveTo(this.connection?.pipe ?? null, this.#lastAcked());
    this.connection?.text({ type: 'renegotiate', wanted: ['data'], reason: 'pipe_lost' });
  }

  end(reason, close = true) {
    this.#clock.clearTimeout(this.#grace);
    this.#server.sessions.delete(this.id);
    for (const membership of this.memberships.values()) this.#leave(membership, reason);
    this.#pipe = null;
    if (close) this.connection?.close(1000, 'bye');
  }

  /** A PING is answered on the channel on which it came. */
  receive(pipe, message, answer = pipe.send) {
    if (this.#void.has(pipe)) return;
    if (pipe.kind === 'datachannel') this.#doubts = false;
    for (const bytes of splitFrames(message)) {
      const frame = decodeFrame(bytes);
      switch (frame.kind) {
        case 'ping':
          if (this.#server.pongs) answer(joinFrames([encodeFrame({ kind: 'pong', nonce: frame.nonce })]));
          break;
        case 'pong':
          break;
        case 'attach':
          this.#attach(pipe, frame);
          break;
        case 'ack':
          this.#acknowledge(frame.ack);
          break;
        case 'lossy':
          this.#server.lossy += 1;
          this.#forward(frame);
          break;
        case 'data':
        case 'control':
        case 'log':
          this.#reliable(pipe, frame);
          break;
        default:
          throw new Error(`unexpected ${frame.kind}`);
      }
    }
  }

  control(room, message) {
    const payload = utf8.encode(JSON.stringify(message));
    this.push({ kind: 'control', flags: Flag.TEXT | Flag.FIRST | Flag.LAST, room, sender: 0, stream: 0, payload });
  }

  /** Queues a reliable frame of any kind. */
  push(frame) {
    this.#lastSent += 1;
    const entry = { ...frame, laneSeq: this.#lastSent, ack: this.#received };
    this.#sent.push(entry);
    this.#pipe?.send(joinFrames([encodeFrame(entry)]));
    if (this.#doubts) this.#copy(entry);
  }

  #lossy(frame) {
    this.#pipe?.lossy(joinFrames([encodeFrame(frame)]));
  }

  #attach(pipe, { gen, ack }) {
    if (gen <= this.#gen) {
      this.connection?.text({ type: 'error', code: 'stale_attach', message: 'stale', fatal: false });
      return;
    }
    this.#gen = gen;
    this.#clock.clearTimeout(this.#grace);
    const ackThen = this.#received;
    const answer = () => {
      pipe.send(joinFrames([encodeFrame({ kind: 'attached', gen, ack: this.#server.answersLate ? ackThen : this.#received })]));
      this.#clock.clearTimeout(this.#ackTimer);
      this.#ackTimer = null;
    };
    // As a real server does, which reads first what came with the ATTACH.
    if (this.#server.readsFirst) this.#clock.setTimeout(answer, 5);
    else if (this.#server.answersLate) this.#clock.setTimeout(answer, this.#server.answersLate);
    else answer();
    this.#moveTo(pipe, ack);
  }

  #moveTo(pipe, ack) {
    this.#pipe = pipe;
    this.#doubts = false;
    this.#acknowledge(ack);
    for (const entry of this.#sent) pipe?.send(joinFrames([encodeFrame({ ...entry, ack: this.#received })]));
  }

  #lastAcked() {
    return this.#sent.length > 0 ? this.#sent[0].laneSeq - 1 : this.#lastSent;
  }

  #acknowledge(ack) {
    // An old one.
    if ((this.#lastSent - ack) >>> 0 > 0x3fff_ffff) return;
    while (this.#sent.length > 0 && this.#sent[0].laneSeq <= ack) this.#sent.shift();
    if (this.#successor && this.#successor.seq <= ack) this.#consume();
  }

  #reliable(pipe, frame) {
    this.#acknowledge(frame.ack);
    if (frame.laneSeq <= this.#received) {
      this.duplicates += 1;
      return;
    }
    if (frame.laneSeq !== this.#received + 1) {
      if (pipe === this.#pipe) throw new Error(`lane_gap: ${frame.laneSeq} after ${this.#received}`);
      return;
    }
    this.#received = frame.laneSeq;
    this.#ackTimer ??= this.#clock.setTimeout(() => {
      this.#ackTimer = null;
      this.#pipe?.send(joinFrames([encodeFrame({ kind: 'ack', ack: this.#received })]));
    }, 20);
    if (frame.sender !== 0) throw new Error('a client stamps no sender');
    if (frame.kind === 'control') this.#request(frame);
    else if (frame.kind === 'log') this.#records(frame);
    else this.#forward(frame);
  }

  #request(frame) {
    const message = JSON.parse(new TextDecoder().decode(frame.payload));
    const membership = this.memberships.get(frame.room);
    if (!membership) return;
    const { room, self } = membership;
    const answer = membership.log?.request(message);
    if (answer) {
      if (answer !== true) this.control(frame.room, answer);
      return;
    }
    switch (message.type) {
      case 'leave':
        this.#leave(membership, 'left');
        this.control(frame.room, { type: 'left', reason: 'left' });
        break;
      case 'subscribe':
        message.topics.forEach((topic) => membership.topics.add(topic));
        break;
      case 'unsubscribe':
        message.topics.forEach((topic) => membership.topics.delete(topic));
        break;
      case 'signal': {
        this.#server.signals += 1;
        const to = [...room.values()].filter(
          (other) => other !== membership && (other.self.user === message.to || other.self.member === message.to_member),
        );
        const { data } = message;
        for (const other of to) {
          other.session.control(other.handle, { type: 'signal', from: self.member, user: self.user, data });
        }
        if (to.length === 0) {
          this.control(frame.room, { type: 'refused', id: message.id, code: 'no_such_user', message: 'nobody' });
        }
        break;
      }
      default:
        throw new Error(`unknown control message ${message.type}`);
    }
  }

  /** A LOG message in chunks; null is one that found no room in the replay limit. */
  pushLog(room, payload) {
    if (payload === null) {
      this.push({ kind: 'gap', room, sender: 0, stream: 0, count: 1 });
      return;
    }
    for (let at = 0; at < payload.length; at += 16_384) {
      const flags = (at === 0 ? Flag.FIRST : 0) | (at + 16_384 >= payload.length ? Flag.LAST : 0);
      const part = payload.subarray(at, at + 16_384);
      this.push({ kind: 'log', flags, room, sender: 0, stream: 0, total: payload.length, payload: part });
    }
  }

  #records(frame) {
    const parts = this.#logParts;
    parts.push(...frame.payload);
    if (!(frame.flags & Flag.LAST)) return;
    this.#logParts = [];
    this.memberships.get(frame.room)?.log?.receive(Uint8Array.from(parts));
  }
  #logParts = [];

  #forward(frame) {
    const membership = this.memberships.get(frame.room);
    if (!membership) {
      this.control(0, { type: 'refused', code: 'not_in_room', message: 'no' });
      return;
    }
    const key = `${frame.kind} ${frame.room} ${frame.stream}`;
    if (frame.target) this.#targets.set(key, frame.target);
    const target = this.#targets.get(key);
    for (const other of membership.room.values()) {
      if (other === membership) continue;
      if (target.tag === 'users' && !target.users.includes(other.self.user)) continue;
      if (target.tag === 'topic' && !other.topics.has(target.topic)) continue;
      const out = { ...frame, room: other.handle, sender: membership.self.member };
      if (out.target?.tag === 'users') out.target = { tag: 'users', users: [] };
      if (frame.kind === 'lossy') other.session.#lossy(out);
      else if (this.#server.drops(frame)) {
        if (this.#server.tellsGaps) other.session.push({ kind: 'gap', room: other.handle, sender: out.sender, stream: frame.stream, count: 1 });
      }
      else other.session.push(out);
    }
  }

  #leave(membership, reason) {
    membership.room.delete(membership.self.member);
    membership.log?.leave();
    this.memberships.delete(membership.handle);
    for (const other of membership.room.values()) {
      other.session.control(other.handle, { type: 'member_left', member: membership.self.member, reason });
    }
  }
}
