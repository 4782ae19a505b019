/**
 * The session's way to the server: one WebSocket, one peer connection beside it, and the decision which of the two
 * carries the frames (docs/protocol.md, section 3.2). Opens both, probes both, moves from one to the other when one
 * is proven or has died, and resumes the session after both were gone.
 *
 * It never looks into rooms or messages: frames to send are pulled from its owner, frames received are handed to it.
 */

import { Attempts } from './attempts.js';
import { Course } from './course.js';
import { diagnosisOf } from './diagnosis.js';
import { FrameError, decodeFrame, encodeFrame, joinFrames, splitFrames } from './frame.js';
import { Ice } from './ice.js';
import { readLimits } from './limits.js';
import { Outflow } from './outflow.js';
import { Peers } from './peers.js';
import { Sockets } from './sockets.js';
import { Timers } from './timers.js';

const TICK_MS = 250;
/** A tick so late means that the page slept. Longer than the second to which browsers hold back hidden pages. */
const SLEPT_MS = 2_500;
const PING_MS = 2_000;
const PING_WAITING_MS = 500;
/** A data channel silent for so long is left for the WebSocket, where one is at hand. */
const CHANNEL_SILENT_MS = 3_000;
/** A WebSocket silent for so long is closed and opened anew. Longer, because TCP repairs loss by itself. */
const SOCKET_SILENT_MS = 6_000;
/**
 * A pipe on which frames wait for acknowledgement is stalled after this and four round trips: another one is used, or a second
 * WebSocket opened. SCTP and TCP repeat what is lost sooner than that.
 */
const STALLED_MS = 1_200;
const ATTACH_MS = 4_000;
/** A data channel that has served for so long had a good network: the next try may come soon. */
const PEER_GOOD_MS = 30_000;
/** How long the first join waits for its offer. */
const OFFER_MS = 500;
/** A full WebSocket is looked at again: browsers have no event for it. */
const DRAIN_MS = 5;
/** A close code with which the server keeps the session for a while: 1000 would end it. */
const HANDED_OVER = 4_000;
/** The server does not go on with the session for this client. */
const RESUME_CODES = new Set(['unknown_session', 'ticket_used', 'ticket_expired']);

/**
 * @typedef {import('./pipe.js').Pipe} Pipe
 * @typedef {import('./socket.js').Socket} Socket
 * @typedef {'idle' | 'connecting' | 'connected' | 'reconnecting' | 'closed'} LinkState
 * @typedef {'websocket' | import('./peer.js').ChannelRung} Rung
 * @typedef {{ session: string, ticket: string }} Identity a session, and the newest ticket to resume it with
 * @typedef {{ webrtc: boolean, relay: boolean, p2p: boolean, tentative: boolean }} Features what the server, the rooms and their tokens leave on
 *
 * @typedef {object} LinkOwner what the link asks of the session
 * @property {(offer: { pc: number, sdp: string } | null) => void} ready the WebSocket is welcomed and there is no
 *   session yet: send the joins, the offer with the first
 * @property {() => void} resumed the WebSocket is welcomed again in the running session
 * @property {() => void} lost the session is gone at the server
 * @property {(message: Record<string, unknown>) => void} text a text message that is not the link's own
 * @property {(frame: import('./frame.js').Frame, length: number) => 'taken' | 'lane_gap'} frame
 * @property {(ack: number) => boolean} replay go on after `ack` on the new pipe; false if that cannot be
 * @property {(ack: number) => number} newest the later of this and the last acknowledgement
 * @property {() => number} received the last number of the lane in order; no acknowledgement is owed afterwards
 * @property {(room: number) => Uint8Array | null} next the next reliable frame
 * @property {() => boolean} hasNext
 * @property {() => void} copyAnew frames that wait for acknowledgement are to be copied, from the oldest on
 * @property {(room: number) => Uint8Array | null} copy the next of them
 * @property {() => boolean} copies whether there is one
 * @property {(room: number) => Uint8Array | null} nextLossy
 * @property {() => number | null} ackDueAt when an acknowledgement is to be sent alone, if one is owed
 * @property {() => boolean} unacknowledged whether frames wait for acknowledgement
 * @property {(state: LinkState) => void} state
 * @property {(rung: Rung) => void} rung
 * @property {(rtt: number, answer: import('./quality.js').Answer) => void} rtt smoothed, and the answer as it was
 * @property {(now: number) => void} tick four times a second, while there is to be a connection
 * @property {(code: string, message: string) => void} closed for good, not by `close`
 * @property {(limits: import('./limits.js').Limits) => void} limits
 * @property {(features: Features) => void} features
 * @property {(attempt: import('./attempts.js').Attempt) => void} attempt one has connected, or has ended
 */

export class Link {
  #env;
  #url;
  #owner;
  #wantsWebRtc;
  #sockets;
  #peers;
  /** Where frames go. @type {Pipe | null} */
  #pipe = null;
  /** Where they went last. @type {Pipe | null} */
  #lastPipe = null;
  /** Was silent at the last tick. @type {Pipe | null} */
  #suspect = null;
  /** An ATTACH that is not answered. @type {{ pipe: Pipe, gen: number, since: number } | null} */
  #pending = null;
  #generation = 0;
  /** @type {Identity | null} */
  #identity = null;
  /** Whether the session is of another page, and the server has not closed the pipes of that. */
  #takesOver = false;
  /** @type {LinkState} */
  #state = 'idle';
  #course = new Course();
  #ice;
  #attempts;
  /** @type {import('./diagnosis.js').Surroundings['webRtc']} */
  #webRtc;
  /** Whether the operator leaves relays on. */
  #relays = true;
  #pingIntervalMs = 15_000;
  #socketPingedAt = 0;
  #channelSince = 0;
  #lastTick = 0;
  /** As measured last, on whatever pipe. @type {number | null} */
  #lastRtt = null;
  #flushQueued = false;
  #outflow;
  /** Whether other tabs would go on with the session. */
  #keeps = false;
  #timers;
  counters = { reconnects: 0, pipeChanges: 0, badFrames: 0, unknownFrames: 0 };

  /**
   * @param {import('./environment.js').Environment} env
   * @param {{ url: string, webRtc: boolean, ice: import('./ice.js').IceOptions }} options
   * @param {LinkOwner} owner
   */
  constructor(env, { url, webRtc, ice }, owner) {
    this.#env = env;
    this.#timers = new Timers(env);
    this.#url = url;
    this.#owner = owner;
    this.#ice = new Ice(env, ice, () => this.#askForIce());
    this.#wantsWebRtc = webRtc && Boolean(env.RTCPeerConnection);
    this.#webRtc = !webRtc ? 'off' : !env.RTCPeerConnection ? 'absent' : ice.policy === 'relay' ? 'relay' : 'on';
    this.#outflow = new Outflow(owner, (pipe, frames) => this.#sendFrames(pipe, frames));
    this.#attempts = new Attempts(env, (attempt) => owner.attempt(attempt));
    this.#sockets = new Sockets(env, url, this.#attempts, this.#socketsOwner());
    this.#peers = new Peers(env, this.#ice, this.#attempts, this.#wantsWebRtc, this.#peersOwner());
  }

  get state() {
    return this.#state;
  }

  get rung() {
    return this.#course.rung;
  }

  /** The transport to the relay, where the rung is one and the browser says it. */
  get relay() {
    return this.#course.relay;
  }

  /** Smoothed round-trip time on the attached pipe, in milliseconds. */
  get rtt() {
    return this.#pipe?.probe.rtt ?? null;
  }

  /** What the score is made of. @param {number} now @returns {import('./quality.js').Health} */
  health(now) {
    const { waitingMs, silentMs } = this.#pipe?.probe.wait(now) ?? { waitingMs: 0, silentMs: 0 };
    const connected = this.#state === 'connected';
    return { connected, rung: this.rung, waitingMs, silentMs, bufferAgeMs: this.#pipe?.bufferAgeMs(now) ?? 0, bitrate: this.#course.bitrate };
  }

  /** Bytes of the pipe in use that the browser has not sent. */
  get queued() {
    return this.#pipe ? this.#pipe.buffered + this.#pipe.lossyBuffered : 0;
  }

  /** Whether the server takes a join now. */
  get takesJoins() {
    return this.#socket?.ready === true && (this.#identity !== null || this.#socket.begun);
  }

  /** Whether there is a session, and a WebSocket to talk about it. */
  get inSession() {
    return this.#identity !== null && this.#socket?.ready === true;
  }

  /** Bytes in the browser's queues, per pipe. */
  get buffered() {
    return {
      websocket: this.#socket?.pipe.buffered ?? 0,
      reliable: this.#peer?.pipe.buffered ?? 0,
      lossy: this.#peer?.pipe.lossyBuffered ?? 0,
    };
  }

  /** What has been tried, and what that means. */
  async diagnose() {
    await Promise.all([this.#attempts.look(this.#url), this.#peer?.attempt.look()]);
    const now = { state: this.#state, rung: this.rung, relay: this.relay, rtt: this.rtt };
    const attempts = this.#attempts.list();
    const webRtc = this.#wantsWebRtc && !this.#peers.isOn ? 'switched_off' : this.#webRtc;
    return { now, attempts, ...diagnosisOf(now, attempts, { online: this.#env.online(), webRtc, relays: this.#relays }) };
  }

  /** Begins to connect; nothing if it has begun. */
  start() {
    if (this.#state !== 'idle') return;
    this.#setState('connecting');
    this.#lastTick = this.#env.now();
    this.#tickLater();
    this.#peers.open();
    this.#sockets.open();
  }

  /** Tries again now instead of after the back-off: the network is said to be back, or another. */
  hurry() {
    if (this.#state === 'idle' || this.#state === 'closed') return;
    this.#sockets.hurry();
    const socket = this.#socket;
    if (socket?.ready && socket.pipe.probe.silent(this.#env.now(), STALLED_MS)) this.#sockets.openBeside();
    this.#peer?.watch.hint();
  }

  /** The session is not wanted any more. The server is told, so that others see it at once. */
  close() {
    if (this.#state === 'closed') return;
    this.#end('closed');
  }

  /** As `close`, but `start` works afterwards: the page may come back, or a better token. */
  rest() {
    if (this.#state !== 'closed') this.#end('idle');
  }

  /** The server has sent the next ticket. @param {string} ticket */
  renew(ticket) {
    if (this.#identity) this.#identity = { ...this.#identity, ticket };
  }

  /** Whose session it is at the server; null while there is none. */
  get identity() {
    return this.#identity;
  }

  /**
   * Goes on, when it is started, with the session of a tab that is gone. Its pipes and peer connections had numbers up to
   * `above`.
   * @param {Identity} identity
   * @param {number} above
   */
  adopt(identity, above) {
    this.#identity = identity;
    this.#takesOver = true;
    this.#generation = above;
    this.#peers.adopt(above);
  }

  /** Whether other tabs would go on with the session if this page went away: every WebSocket is told. @param {boolean} on */
  keep(on) {
    if (this.#keeps === on) return;
    this.#keeps = on;
    this.#sockets.sayToAll({ type: 'keep', on });
  }

  /** Lets go of the session without ending it: another tab goes on with it. */
  release() {
    if (this.#state !== 'closed') this.#end('idle', false, HANDED_OVER);
  }

  /** @param {Record<string, unknown>} message */
  sendText(message) {
    this.#socket?.sendText(message);
  }

  /** STUN and TURN servers with credentials that are good for a while. */
  iceServers() {
    return this.#ice.current();
  }

  /** Those that are known now; asks for fresh ones in time. */
  get knownIceServers() {
    void this.#ice.configuration;
    return this.#ice.servers;
  }

  /** The join that carried the offer was refused: it goes on its own when there is a session. */
  offerRefused() {
    this.#peers.offerRefused();
  }

  /** The server cannot or does not want WebRTC with this offer. @param {boolean} ever */
  peerRefused(ever) {
    if (ever) this.#peers.isOn = false;
    else this.#peers.refused();
  }

  /**
   * The server missed a frame, or has refused an ATTACH, for a page that crashed may have had this generation: once more, with a
   * newer one.
   */
  attachAnew() {
    const pipe = this.#pending?.pipe ?? this.#pipe;
    if (pipe?.open) this.#attach(pipe);
  }

  /** Sends what waits, at the end of this turn of the event loop, so that what is sent together travels together. */
  wake() {
    if (this.#flushQueued) return;
    this.#flushQueued = true;
    queueMicrotask(() => {
      this.#flushQueued = false;
      this.#flush();
    });
  }

  /** Sends what waits now. */
  flush() {
    this.#flush();
  }

  /** An acknowledgement falls due at `at`. @param {number} at */
  ackAt(at) {
    const wait = at - this.#env.now();
    if (wait <= 0) this.wake();
    else if (!this.#timers.has('ack')) this.#timers.after('ack', wait, () => this.#flush());
  }

  // --- the WebSocket ---------------------------------------------------------------------------------------------

  get #socket() {
    return this.#sockets.current;
  }

  /** @returns {import('./sockets.js').SocketsOwner} */
  #socketsOwner() {
    return {
      hello: (socket) => {
        socket.shown = this.#identity?.ticket ?? null;
        const resume = this.#identity && { ...this.#identity, ...(this.#takesOver && { takes_over: true }) };
        const hello = { type: 'hello', v: 1, client: 'switchyard-client/0.1', ...(resume && { resume }) };
        return [hello, ...(this.#keeps ? [{ type: 'keep', on: true }] : [])];
      },
      text: (socket, message) => this.#text(socket, message),
      binary: (socket, message) => this.#pipeMessage(socket.pipe, message),
      replaced: (old) => this.#forget(old.pipe),
      closed: (socket, code, reason) => this.#socketClosed(socket, code, reason),
      rtt: () => this.#lastRtt,
    };
  }

  /** @param {Pipe} pipe */
  #forget(pipe) {
    if (this.#pending?.pipe === pipe) this.#pending = null;
    if (this.#pipe === pipe) this.#pipe = null;
  }

  /** @param {Socket} socket @param {Record<string, unknown>} message */
  #text(socket, message) {
    switch (message.type) {
      case 'welcome':
        return this.#welcome(socket, message);
      case 'session':
        return this.#session(socket, message);
      case 'answer':
        return this.#peers.answer(message);
      case 'renegotiate':
        return this.#renegotiate();
      case 'ice_servers':
        return this.#takeIce(message);
      case 'features':
        return this.#takeFeatures(message);
      case 'draining':
        return this.#sockets.draining(typeof message.retry_after_ms === 'number' ? message.retry_after_ms : 5_000);
      case 'pong':
        return undefined;
      case 'error':
        // The next ticket came while this one was on its way.
        if (message.code === 'ticket_used' && this.#identity && socket.shown !== this.#identity.ticket) return socket.abort('stale');
        if (RESUME_CODES.has(String(message.code))) return this.#sessionLost(socket);
        return this.#owner.text(message);
      default:
        return this.#owner.text(message);
    }
  }

  /** @param {Socket} socket @param {Record<string, unknown>} message */
  #welcome(socket, message) {
    socket.welcomed();
    this.#socketPingedAt = this.#env.now();
    if (typeof message.ping_interval_ms === 'number' && message.ping_interval_ms > 0) {
      this.#pingIntervalMs = Math.max(1_000, message.ping_interval_ms);
    }
    this.#owner.limits(readLimits(message.limits));
    if (!this.#identity) return this.#begin(socket);
    if (message.resumed !== true) return this.#sessionLost(socket);
    this.#takesOver = false;
    // What was copied to the WebSocket before may be lost with that.
    this.#owner.copyAnew();
    this.#takeFeatures(message);
    this.#takeIce(message);
    const peer = this.#peer;
    if (peer?.watch.suspected) this.#suspected(peer);
    else if ((!this.#pipe && this.#pending?.pipe.kind !== 'datachannel') || peer?.watch.onTrial) this.#attach(socket.pipe);
    if (!this.#attachedAlready(socket, message.ack)) return undefined;
    this.#owner.resumed();
    this.#peers.resumed();
    return undefined;
  }

  /**
   * Where the server's lane stands is known from its welcome: the move to the WebSocket need not wait for ATTACHED, which
   * comes behind all that the server has to send. False if that leaves no session.
   * @param {Socket} socket
   * @param {unknown} ack
   */
  #attachedAlready(socket, ack) {
    if (typeof ack !== 'number' || this.#pending?.pipe !== socket.pipe) return true;
    if (this.#owner.replay(this.#owner.newest(ack))) this.#attached(socket.pipe);
    else this.#leaveSession();
    return this.#identity !== null;
  }

  /** A session is to be made: the offer goes with the first join, if it is there soon. @param {Socket} socket */
  #begin(socket) {
    const go = () => {
      this.#timers.cancel('offer');
      if (this.#socket !== socket || this.#identity || socket.begun) return;
      socket.begun = true;
      this.#owner.ready(this.#peers.takeOffer());
    };
    if (!this.#peers.isMaking) go();
    else this.#timers.after('offer', OFFER_MS, go);
  }

  /** @param {Socket} socket @param {Record<string, unknown>} message */
  #session(socket, message) {
    const { session, ticket } = message;
    if (typeof session !== 'string' || typeof ticket !== 'string') return;
    this.#identity = { session, ticket };
    this.#generation = 1;
    this.#attached(socket.pipe);
    this.#takeFeatures(message);
    this.#peers.sendOffer();
    this.#takeIce(message);
  }

  /** The server does not know the session any more: another one is made. @param {Socket} socket */
  #sessionLost(socket) {
    if (!this.#identity) return;
    socket.welcomed();
    socket.begun = false;
    this.#forgetSession();
    this.#begin(socket);
  }

  /** The lane cannot go on from what the server has. Another session is made, on a WebSocket that is not of this one. */
  #leaveSession() {
    this.#forgetSession();
    this.sendText({ type: 'bye' });
    this.#socket?.abort('lost');
  }

  #forgetSession() {
    this.#identity = null;
    this.#takesOver = false;
    this.#generation = 0;
    this.#pipe = null;
    this.#pending = null;
    this.#peers.drop('replaced');
    this.#ice.forget();
    this.#setState('reconnecting');
    this.#owner.lost();
    this.#peers.open();
  }

  /** @param {Socket} socket @param {number} code @param {string} reason */
  #socketClosed(socket, code, reason) {
    this.#timers.cancel('offer');
    this.counters.reconnects += 1;
    if (code === 4409 || code === 4400) {
      this.#end('closed', false);
      this.#owner.closed(code === 4409 ? 'replaced' : 'abuse', reason || 'closed by the server');
      return false;
    }
    if (code === 4401 && !this.#identity) {
      this.#end('idle', false);
      return false;
    }
    this.#forget(socket.pipe);
    if (!this.#pipe && !this.#pending) this.#fallBack();
    return true;
  }

  // --- the peer connection ---------------------------------------------------------------------------------------

  get #peer() {
    return this.#peers.current;
  }

  /** @returns {import('./peers.js').PeersOwner} */
  #peersOwner() {
    return {
      inSession: () => this.inSession,
      say: (message) => this.sendText(message),
      settled: () => {
        const isAwaited = this.#timers.has('offer') && this.#socket !== null;
        if (this.#socket && isAwaited) this.#begin(this.#socket);
        return isAwaited;
      },
      awaits: (pipe) => this.#owner.unacknowledged() || this.#pending?.pipe === pipe,
      proven: (pipe) => this.#attach(pipe),
      doubted: () => {
        this.#owner.copyAnew();
        this.wake();
      },
      suspected: (peer) => this.#suspected(peer),
      leave: (pipe) => this.#leave(pipe),
      message: (pipe, message) => this.#pipeMessage(pipe, message),
      drained: (pipe) => this.#pipe === pipe && this.wake(),
      connected: () => this.#lookAtRung(),
    };
  }

  #renegotiate() {
    if (this.#peer) this.#peers.drop('replaced');
    if (this.#pipe?.kind !== 'websocket') this.#fallBack();
    this.#peers.open();
  }

  /** The data goes elsewhere, if there is elsewhere; the channel may prove itself meanwhile. @param {import('./peer.js').Peer} peer in use */
  #suspected(peer) {
    const socket = this.#socket;
    if (this.#pipe !== peer.pipe && this.#pending?.pipe !== peer.pipe) return;
    if (this.#pending?.pipe.kind === 'websocket') return;
    if (!socket?.ready || !socket.pipe.open || !this.#identity) return this.hurry();
    peer.watch.leave();
    this.#attach(socket.pipe);
  }

  #askForIce() {
    if (!this.#identity || !this.#socket?.ready) return false;
    this.sendText({ type: 'ice_servers' });
    return true;
  }

  /** @param {Record<string, unknown>} message that may name servers */
  #takeIce(message) {
    const hadNone = this.#ice.servers.length === 0;
    this.#ice.take(message);
    this.#peers.relaysNamed(hadNone);
  }

  /** What is on in this session; the next one may be told otherwise. @param {Record<string, unknown>} message */
  #takeFeatures({ features }) {
    const told = /** @type {Partial<Features>} */ (features ?? {});
    const { webrtc, relay, p2p } = { webrtc: told.webrtc !== false, relay: told.relay !== false, p2p: told.p2p !== false };
    // This one has to be switched on.
    const tentative = told.tentative === true;
    this.#relays = relay;
    this.#owner.features({ webrtc, relay, p2p, tentative });
    this.#peers.isOn = this.#wantsWebRtc && webrtc;
    if (!relay) this.#ice.take({});
  }

  // --- which pipe ------------------------------------------------------------------------------------------------

  /** Asks the server to move to `pipe`. @param {Pipe} pipe */
  #attach(pipe) {
    if (!this.#identity) return;
    this.#generation += 1;
    this.#pending = { pipe, gen: this.#generation, since: this.#env.now() };
    const now = this.#env.now();
    pipe.probe.wake(now);
    if (this.#peer?.pipe === pipe) this.#peers.used();
    const attach = encodeFrame({ kind: 'attach', gen: this.#generation, ack: this.#owner.received() });
    this.#sendFrames(pipe, [attach, encodeFrame({ kind: 'ping', nonce: pipe.probe.ping(now) })]);
  }

  /** Frames go over `pipe` from now on. @param {Pipe} pipe */
  #attached(pipe) {
    if (this.#lastPipe && this.#lastPipe !== pipe) this.counters.pipeChanges += 1;
    this.#lastPipe = pipe;
    this.#pipe = pipe;
    this.#pending = null;
    if (pipe.kind === 'datachannel') {
      this.#channelSince = this.#env.now();
      this.#peers.attached();
    }
    this.#setState('connected');
    this.#lookAtRung();
    this.wake();
  }

  /** `pipe` is not to be used any more. @param {Pipe} pipe */
  #leave(pipe) {
    const wasPending = this.#pending?.pipe === pipe;
    if (this.#peer?.pipe === pipe) this.#peer.watch.leave();
    if (this.#pipe === pipe) {
      this.#pipe = null;
      if (pipe.kind === 'datachannel' && this.#env.now() - this.#channelSince > PEER_GOOD_MS) this.#peers.forgive();
    } else if (!wasPending) {
      return;
    }
    if (wasPending) this.#pending = null;
    // Also when the pipe before is in use still: the server may have taken the ATTACH and moved.
    if (!this.#pending) this.#fallBack();
  }

  /** To whatever is left. */
  #fallBack() {
    const channel = this.#peer && !this.#peer.repair ? this.#peer.pipe : null;
    if (this.#socket?.ready && this.#socket.pipe.open && this.#identity) this.#attach(this.#socket.pipe);
    else if (channel?.open && this.#pipe !== channel) this.#attach(channel);
    if (!this.#pipe && !this.#pending && this.#state === 'connected') this.#setState('reconnecting');
  }

  /** @param {Pipe} pipe @param {Uint8Array} message */
  #pipeMessage(pipe, message) {
    try {
      for (const bytes of splitFrames(message)) this.#frame(pipe, bytes);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.counters.badFrames += 1;
      this.#broken(pipe);
    }
    if (this.#peer?.pipe === pipe) this.#peers.heard();
    if (this.#peer?.pipe === pipe && this.#peer.watch.onTrial) this.#heardOnTrial(this.#peer);
    if (this.#pipe && this.#owner.hasNext()) this.wake();
    this.#peer?.watch.look();
  }

  /** It need not prove itself where the other one is worse. @param {import('./peer.js').Peer} peer */
  #heardOnTrial(peer) {
    const other = this.#pending?.pipe ?? this.#pipe;
    if (!other || other === peer.pipe || other.probe.silent(this.#env.now(), STALLED_MS)) this.#attach(peer.pipe);
  }

  /** @param {Pipe} pipe @param {Uint8Array} bytes */
  #frame(pipe, bytes) {
    const frame = decodeFrame(bytes);
    switch (frame.kind) {
      case 'ping':
        // The server misses acknowledgements.
        if (pipe !== this.#pipe && pipe.kind === 'websocket') this.#peer?.watch.hint();
        return this.#sendFrames(pipe, [encodeFrame({ kind: 'pong', nonce: frame.nonce })]);
      case 'pong':
        return this.#pong(pipe, frame.nonce);
      case 'attached':
        if (this.#pending?.pipe !== pipe || this.#pending.gen !== frame.gen) {
          // Frames that went behind the ATTACH are acknowledged by nothing else.
          this.#owner.frame({ kind: 'ack', ack: frame.ack }, 0);
          return undefined;
        }
        // Another pipe may have brought a later acknowledgement meanwhile.
        if (this.#owner.replay(this.#owner.newest(frame.ack))) return this.#attached(pipe);
        return this.#leaveSession();
      case 'attach':
        return undefined;
      case 'unknown':
        this.counters.unknownFrames += 1;
        return undefined;
      default:
        // On a pipe that was left, or is not attached yet, a frame may be ahead: the attached one brings it again.
        if (this.#owner.frame(frame, bytes.length) === 'lane_gap' && pipe === this.#pipe && !this.#pending) {
          this.#broken(pipe);
        }
        return undefined;
    }
  }

  /** @param {Pipe} pipe @param {number} nonce */
  #pong(pipe, nonce) {
    const { probe } = pipe;
    this.#lastRtt = probe.rtt ?? this.#lastRtt;
    const isProbe = this.#peer?.pipe === pipe ? this.#peer.watch.pong(nonce) : probe.pong(nonce, this.#env.now());
    if (isProbe && pipe === this.#pipe) this.#owner.rtt(probe.rtt ?? 0, probe.latest);
  }

  /** What came over `pipe` cannot be: leave it. @param {Pipe} pipe */
  #broken(pipe) {
    if (this.#peer?.pipe === pipe) this.#peers.broken(this.#peer);
    else if (this.#socket?.pipe === pipe) this.#socket.abort('broken pipe');
  }

  // --- sending ---------------------------------------------------------------------------------------------------

  #flush() {
    this.#timers.cancel('ack');
    const pipe = this.#pipe;
    if (!pipe?.open || !this.#outflow.fill(pipe)) return;
    this.#peer?.watch.look();
    const aside = this.#copyTo;
    const waits = (aside && this.#outflow.copy(aside)) || (pipe.kind === 'websocket' && this.#owner.hasNext());
    // Last: any reliable frame has carried it already.
    const due = this.#owner.ackDueAt();
    if (due !== null && due <= this.#env.now()) {
      const ack = encodeFrame({ kind: 'ack', ack: this.#owner.received() });
      for (const each of [pipe, ...(aside ? [aside] : [])]) this.#sendFrames(each, [ack]);
    } else if (due !== null) this.ackAt(due);
    if (waits) this.#timers.after('drain', DRAIN_MS, () => this.#flush());
  }

  /** Where frames that wait for acknowledgement go too, while the data channel in use is doubted. @returns {Pipe | null} */
  get #copyTo() {
    const [peer, socket] = [this.#peer, this.#socket];
    const isDoubted = peer !== null && this.#pipe === peer.pipe && peer.watch.doubted;
    return isDoubted && socket?.ready && socket.pipe.open ? socket.pipe : null;
  }

  /** False when the pipe refused, being on its way down; what was lost is replayed. @param {Pipe} pipe @param {Uint8Array[]} frames */
  #sendFrames(pipe, frames) {
    if (!pipe.open) return false;
    try {
      pipe.send(joinFrames(frames));
      return true;
    } catch {
      this.#broken(pipe);
      return false;
    }
  }

  // --- time ------------------------------------------------------------------------------------------------------

  #tickLater() {
    this.#timers.after('tick', TICK_MS, () => {
      this.#tickLater();
      this.#tick();
    });
  }

  #tick() {
    const now = this.#env.now();
    if (now - this.#lastTick > SLEPT_MS) {
      this.#socket?.pipe.probe.wake(now);
      this.#peer?.pipe.probe.wake(now);
      this.#peer?.watch.acquit();
      if (this.#pending) this.#pending.since = now;
    }
    this.#lastTick = now;
    this.#tickPipe(now);
    this.#tickSocket(now);
    this.#peers.tick(now, this.#peer !== null && this.#pipe === this.#peer.pipe);
    if (this.#pending && now - this.#pending.since > ATTACH_MS) this.#broken(this.#pending.pipe);
    if (this.#pipe && this.#course.isStale(now)) this.#lookAtRung();
    this.#owner.tick(now);
  }

  /** @param {number} now */
  #tickPipe(now) {
    const pipe = this.#pending?.pipe ?? this.#pipe;
    if (!pipe) return;
    const isAwaited = this.#owner.unacknowledged() || this.#pending !== null;
    this.#probe(pipe, now, isAwaited ? PING_WAITING_MS : PING_MS);
    const isChannel = pipe.kind === 'datachannel';
    const silent = pipe.probe.silent(now, isChannel ? CHANNEL_SILENT_MS : SOCKET_SILENT_MS);
    // Twice in a row: after a busy moment a tick may come before the messages that are already here.
    if (silent && this.#suspect === pipe) {
      if (this.#peer?.pipe === pipe) this.#peers.silent(this.#peer);
      else this.#socket?.abort('silent');
    }
    this.#suspect = silent ? pipe : null;
    if (!isAwaited || !this.#identity || !pipe.probe.silent(now, STALLED_MS + 4 * (this.#lastRtt ?? STALLED_MS))) return;
    if (!isChannel) this.#sockets.openBeside();
    // The unordered channel may work while the ordered one waits for its next retry.
    else if (this.#peer?.pipe === pipe && this.#socket?.ready) this.#suspected(this.#peer);
  }

  /** @param {Pipe} pipe @param {number} now @param {number} interval */
  #probe(pipe, now, interval) {
    if (!pipe.open || !pipe.probe.due(now, interval)) return;
    this.#sendFrames(pipe, [encodeFrame({ kind: 'ping', nonce: pipe.probe.ping(now) })]);
  }

  /** @param {number} now */
  #tickSocket(now) {
    const socket = this.#socket;
    if (!socket?.ready || this.#pipe === socket.pipe) return;
    if (now - this.#socketPingedAt >= this.#pingIntervalMs) {
      this.#socketPingedAt = now;
      socket.sendText({ type: 'ping', t: Math.floor(now) });
    }
    if (socket.pipe.probe.quietFor(now) > 2 * this.#pingIntervalMs) socket.abort('silent');
  }

  async #lookAtRung() {
    const pipe = this.#pipe;
    if (!pipe) return;
    const isOther = await this.#course.look(this.#env.now(), pipe, this.#peer, () => this.#pipe === pipe);
    if (isOther && this.rung) this.#owner.rung(this.rung);
  }

  /** @param {LinkState} state */
  #setState(state) {
    if (this.#state === state) return;
    this.#state = state;
    this.#owner.state(state);
  }

  /** @param {'closed' | 'idle'} state @param {boolean} [tell] @param {number} [code] */
  #end(state, tell = true, code = 1000) {
    this.#timers.cancelAll();
    if (tell && this.#identity) this.sendText({ type: 'bye' });
    this.#sockets.close(code, code === 1000 ? 'bye' : 'handed over');
    this.#peers.drop('page', { atOnce: true });
    this.#ice.forget();
    this.#identity = null;
    this.#takesOver = false;
    this.#generation = 0;
    this.#pipe = null;
    this.#pending = null;
    this.#course = new Course();
    this.#setState(state);
  }
}
