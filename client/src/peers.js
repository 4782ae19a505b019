/**
 * Sees to it that there is a peer connection to the server: opens it, offers it, tries relays when nothing else gets through,
 * repairs it by an ICE restart, and opens another when it has come to nothing. sockets.js does as much for the WebSocket; which
 * of the two carries the frames is link.js's business.
 */

import { Backoff } from './backoff.js';
import { Peer } from './peer.js';
import { Timers } from './timers.js';
import { Hold } from './trial.js';

/** From the offer to a proven data channel. */
const PEER_MS = 15_000;
/** How long an ICE restart may take before a new peer connection is the better hope. */
const REPAIR_MS = 8_000;
/** How long a network may take to let packets through before relays are tried too. */
const RELAYS_MS = 1_000;

/**
 * @typedef {import('./pipe.js').ChannelPipe} ChannelPipe
 *
 * @typedef {object} PeersOwner
 * @property {() => boolean} inSession whether `say` reaches a session
 * @property {(message: Record<string, unknown>) => void} say to the server
 * @property {() => boolean} settled the newest offer is made, or there will be none. Whether the first join waited for that
 * @property {(pipe: ChannelPipe) => boolean} awaits whether an answer is awaited over the channel
 * @property {(pipe: ChannelPipe) => void} proven the channel works both ways
 * @property {() => void} doubted the channel in use is perhaps broken
 * @property {(peer: Peer) => void} suspected the channel in use does perhaps not
 * @property {(pipe: ChannelPipe) => void} leave it does not
 * @property {(pipe: ChannelPipe, message: Uint8Array) => void} message
 * @property {(pipe: ChannelPipe) => void} drained
 * @property {() => void} connected packets go through, perhaps another way than before
 */

export class Peers {
  #env;
  #ice;
  #attempts;
  #owner;
  #timers;
  #backoff;
  #hold = new Hold();
  #isOn;
  #number = 0;
  #offeredAt = 0;
  /** @type {Peer | null} */
  current = null;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {import('./ice.js').Ice} ice
   * @param {import('./attempts.js').Attempts} attempts
   * @param {boolean} isOn whether there is to be one at all
   * @param {PeersOwner} owner
   */
  constructor(env, ice, attempts, isOn, owner) {
    this.#env = env;
    this.#ice = ice;
    this.#attempts = attempts;
    this.#isOn = isOn;
    this.#owner = owner;
    this.#timers = new Timers(env);
    this.#backoff = new Backoff({ least: 2_000, first: 4_000, most: 60_000, random: env.random });
  }

  /** Whether there is to be one, in this session. */
  get isOn() {
    return this.#isOn;
  }

  /** @param {boolean} isOn */
  set isOn(isOn) {
    this.#isOn = isOn;
    if (!isOn && this.current) this.#failed(this.current, 'off');
  }

  /** Whether an offer will soon be there. */
  get isMaking() {
    return this.current !== null && !this.current.sdp;
  }

  /** Earlier ones of the session had numbers up to `above`. @param {number} above */
  adopt(above) {
    this.#number = above;
  }

  /** Opens one if there is none. */
  open() {
    this.#timers.cancel('again');
    if (!this.#isOn || this.current) return;
    const { configuration } = this.#ice;
    // There will be one when the server has named a relay.
    if (!configuration) return;
    this.#number += 1;
    const attempt = this.#attempts.peer(configuration, this.#number);
    const owner = this.#owner;
    /** @type {Peer} */
    let peer;
    try {
      peer = new Peer(this.#env, this.#number, configuration, attempt, this.#hold, {
        watch: {
          awaits: () => owner.awaits(peer.pipe) || peer.pipe.lossyBuffered > 0,
          proven: () => owner.proven(peer.pipe),
          doubted: () => owner.doubted(),
          suspected: () => owner.suspected(peer),
          dead: () => this.#troubled(peer, true),
        },
        message: (message) => owner.message(peer.pipe, message),
        drained: () => owner.drained(peer.pipe),
        state: (state) => this.#state(peer, state),
        candidate: (candidate) => {
          if (owner.inSession()) owner.say({ type: 'candidate', pc: peer.number, candidate });
        },
        closed: () => this.#failed(peer, 'channel_closed'),
      });
    } catch {
      // The browser forbids it, by policy or because too many are open.
      attempt.end('forbidden', true);
      this.#openLater();
      return;
    }
    this.current = peer;
    this.#offeredAt = this.#env.now();
    this.#makeOffer(peer, false);
  }

  /** The newest offer, to go with the first join; null if it is not made, or was sent. */
  takeOffer() {
    const peer = this.current;
    if (!peer || peer.offered || !peer.sdp) return null;
    this.#offered(peer);
    return { pc: peer.number, sdp: peer.sdp };
  }

  /** Sends the newest offer if it is made, not sent, and there is a session to send it in. */
  sendOffer() {
    const offer = this.#owner.inSession() ? this.takeOffer() : null;
    if (offer) this.#owner.say({ type: 'offer', ...offer });
  }

  /** What was taken has not arrived: it goes on its own when there is a session. */
  offerRefused() {
    if (this.current) this.current.offered = false;
  }

  /** The server does not want this offer. */
  refused() {
    if (this.current) this.#failed(this.current, 'refused');
  }

  /** @param {Record<string, unknown>} message */
  async answer({ pc, sdp }) {
    const peer = this.current;
    if (!peer || peer.number !== pc || typeof sdp !== 'string') return;
    try {
      await peer.answer(sdp);
    } catch {
      this.#failed(peer, 'browser');
      return;
    }
    if (this.current === peer && !peer.pipe.open) this.#timers.after('relays', RELAYS_MS, () => this.#addRelays(peer));
  }

  /** The session can be talked to again: says what has waited for that. */
  resumed() {
    this.sendOffer();
    const peer = this.current;
    if (peer?.repair && !peer.repair.restarted) this.#restartIce(peer);
  }

  /** The server names other relays, or the first. @param {boolean} hadNone */
  relaysNamed(hadNone) {
    const peer = this.current;
    if (!peer) {
      if (!this.#timers.has('again')) this.open();
    } else if (hadNone && peer.repair?.restarted) {
      this.#restartIce(peer);
    } else if (hadNone && !this.#timers.has('relays')) {
      this.#addRelays(peer);
    }
  }

  /** The channel is asked to carry the frames. */
  used() {
    if (!this.current) return;
    this.current.used = true;
    this.current.watch.use();
  }

  /** It carries them. */
  attached() {
    if (!this.current) return;
    this.current.repair = null;
    this.current.attempt.connected();
  }

  /** The network has been good: the next try may come soon. */
  forgive() {
    this.#backoff.reset();
  }

  /** Something came over the channel. */
  heard() {
    // After an ICE restart, that is the repair. The watch says when the channel is to be used.
    const peer = this.current;
    if (peer?.repair?.restarted && peer.state === 'connected') peer.repair = null;
  }

  /** The channel is silent: repaired, or replaced. @param {Peer} peer */
  silent(peer) {
    this.#troubled(peer, true);
  }

  /** What comes over the channel cannot be. @param {Peer} peer */
  broken(peer) {
    this.#failed(peer, 'broken');
  }

  /** Ends it. @param {import('./attempts.js').Cause} cause @param {{ atOnce?: boolean }} [options] */
  drop(cause, options) {
    const peer = this.current;
    this.current = null;
    this.#timers.cancelAll();
    peer?.close(cause, options);
  }

  /** Four times a second. @param {number} now @param {boolean} isInUse whether the channel carries the frames */
  tick(now, isInUse) {
    const peer = this.current;
    if (!peer) return;
    if (peer.repair) {
      const limit = peer.repair.restarted ? REPAIR_MS : 2 * REPAIR_MS;
      if (now - peer.repair.since <= limit) return;
      if (peer.state === 'connected' && isInUse) peer.repair = null;
      else this.#failed(peer, 'repair');
    } else if (!peer.used && peer.offered && now - this.#offeredAt > PEER_MS) {
      this.#failed(peer, 'timeout');
    }
  }

  /** @param {Peer} peer @param {boolean} iceRestart */
  async #makeOffer(peer, iceRestart) {
    try {
      await peer.offer({ iceRestart });
    } catch {
      this.#failed(peer, 'browser');
      return;
    }
    if (this.current === peer && !this.#owner.settled()) this.sendOffer();
  }

  /** @param {Peer} peer */
  #offered(peer) {
    peer.offered = true;
    this.#offeredAt = this.#env.now();
  }

  /** @param {Peer} peer @param {RTCPeerConnectionState} state */
  #state(peer, state) {
    if (state === 'failed') this.#troubled(peer, true);
    else if (state === 'disconnected') this.#troubled(peer, false);
    else if (state === 'connected') this.#owner.connected();
  }

  /**
   * Packets stay away. The data moves when it is sure, the repair begins at once.
   * @param {Peer} peer
   * @param {boolean} leave
   */
  #troubled(peer, leave) {
    if (!peer.used && !peer.repair) {
      if (!this.#addRelays(peer)) this.#failed(peer, 'ice');
      return;
    }
    peer.repair ??= { since: this.#env.now(), restarted: false };
    if (leave) this.#owner.leave(peer.pipe);
    else peer.watch.hint();
    if (!peer.repair.restarted && this.#owner.inSession()) this.#restartIce(peer);
  }

  /** @param {Peer} peer in repair */
  #restartIce(peer) {
    if (!peer.repair) return;
    peer.repair = { since: this.#env.now(), restarted: true };
    const { configuration } = this.#ice;
    if (configuration && configuration !== peer.configuration) peer.configure(configuration);
    this.#makeOffer(peer, true);
  }

  /**
   * Nothing gets through: perhaps by a relay. False if there is none that the peer has not tried.
   * @param {Peer} peer
   */
  #addRelays(peer) {
    if (this.current !== peer || !peer.answered || peer.pipe.open || peer.reached) return false;
    const { configuration } = this.#ice;
    if (!configuration?.iceServers || configuration === peer.configuration) return false;
    if (peer.configure(configuration)) {
      this.#makeOffer(peer, true);
    } else {
      this.drop('replaced');
      this.open();
    }
    return true;
  }

  /** @param {Peer} peer @param {import('./attempts.js').Cause} cause */
  #failed(peer, cause) {
    if (this.current !== peer) return;
    this.drop(cause);
    this.#owner.leave(peer.pipe);
    this.#openLater();
    this.#owner.settled();
  }

  #openLater() {
    this.#timers.after('again', this.#backoff.next(), () => this.open());
  }
}
