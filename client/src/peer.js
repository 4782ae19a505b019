/**
 * One peer connection to the server and its two negotiated data channels, from the offer to its end. Whether it is
 * used, repaired or replaced is link.js's business.
 */

import { ChannelPipe } from './pipe.js';
import { Watch } from './watch.js';

const LOW_WATER_BYTES = 32_768;

/**
 * @typedef {'udp' | 'tcp' | 'relay'} ChannelRung
 *
 * @typedef {object} Way what the packets go over
 * @property {ChannelRung} rung
 * @property {'udp' | 'tcp' | 'tls' | null} relay of a relay: the transport to it, where the browser says
 * @property {number | null} bitrate bits per second that the browser believes it can send
 *
 * @typedef {object} PeerHandlers
 * @property {import('./watch.js').WatchHandlers} watch
 * @property {(message: Uint8Array) => void} message
 * @property {() => void} drained the browser's queue is short again
 * @property {(state: RTCPeerConnectionState) => void} state
 * @property {(candidate: string) => void} candidate
 * @property {() => void} closed a channel or the connection ended without `close` being called
 */

export class Peer {
  #connection;
  #handlers;
  #ended = false;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {number} number of this peer connection in the session
   * @param {RTCConfiguration} configuration
   * @param {import('./attempts.js').PeerAttempt} attempt records what becomes of it
   * @param {import('./trial.js').Hold} hold
   * @param {PeerHandlers} handlers
   */
  constructor(env, number, configuration, attempt, hold, handlers) {
    const Constructor = /** @type {NonNullable<typeof env.RTCPeerConnection>} */ (env.RTCPeerConnection);
    const connection = new Constructor(configuration);
    this.#connection = connection;
    this.#handlers = handlers;
    this.number = number;
    this.attempt = attempt;
    /** As last given. */
    this.configuration = configuration;
    /** Whether the server has been sent the newest offer. */
    this.offered = false;
    /** Whether frames have gone over it. */
    this.used = false;
    /** When trouble began and an ICE restart was asked for. @type {{ since: number, restarted: boolean } | null} */
    this.repair = null;

    const reliable = connection.createDataChannel('reliable', { negotiated: true, id: 0, ordered: true });
    const lossy = connection.createDataChannel('lossy', {
      negotiated: true,
      id: 1,
      ordered: false,
      maxRetransmits: 0,
    });
    attempt.watch(connection, reliable);
    this.pipe = new ChannelPipe(reliable, lossy, env.now());
    this.watch = new Watch(env, this.pipe, hold, handlers.watch);
    reliable.bufferedAmountLowThreshold = LOW_WATER_BYTES;
    reliable.onopen = () => this.#unlessEnded(() => this.watch.prove());
    for (const channel of [reliable, lossy]) {
      channel.binaryType = 'arraybuffer';
      channel.onmessage = ({ data }) =>
        this.#unlessEnded(() => {
          this.pipe.heard(env.now(), channel === reliable);
          if (typeof data !== 'string') handlers.message(new Uint8Array(data));
        });
      channel.onbufferedamountlow = () => this.#unlessEnded(() => handlers.drained());
      channel.onclose = () => this.#lost();
    }
    connection.onconnectionstatechange = () => {
      if (connection.connectionState === 'closed') this.#lost();
      else this.#unlessEnded(() => handlers.state(connection.connectionState));
    };
    connection.onicecandidate = ({ candidate }) =>
      this.#unlessEnded(() => this.offered && handlers.candidate(candidate?.candidate ?? ''));
  }

  get state() {
    return this.#connection.connectionState;
  }

  /** Whether the server has answered the newest offer. */
  get answered() {
    return this.offered && this.#connection.signalingState === 'stable';
  }

  /** Whether packets get through, if nothing else yet. */
  get reached() {
    return ['connected', 'completed'].includes(this.#connection.iceConnectionState);
  }

  /** The offer to send, with the candidates found so far. Those found later are given to the handler. */
  get sdp() {
    return this.#connection.localDescription?.sdp ?? '';
  }

  /**
   * Other servers from the next ICE restart on. False if the browser has no way to change them.
   * @param {RTCConfiguration} configuration
   */
  configure(configuration) {
    try {
      this.#connection.setConfiguration(configuration);
    } catch {
      return false;
    }
    this.configuration = configuration;
    this.attempt.configured(configuration);
    return true;
  }

  /**
   * Makes an offer, for a new connection or an ICE restart.
   * @param {{ iceRestart?: boolean }} [options]
   */
  async offer({ iceRestart = false } = {}) {
    this.offered = false;
    if (iceRestart) this.attempt.restarted();
    await this.#connection.setLocalDescription(await this.#connection.createOffer({ iceRestart }));
  }

  /** @param {string} sdp */
  async answer(sdp) {
    if (this.#connection.signalingState !== 'have-local-offer') return;
    await this.#connection.setRemoteDescription({ type: 'answer', sdp });
    this.attempt.answered();
  }

  /**
   * What the packets go over; null while the browser does not say.
   * @returns {Promise<Way | null>}
   */
  async way() {
    if (this.#ended) return null;
    const report = await this.#connection.getStats();
    this.attempt.read(report);
    const way = wayOf(report);
    if (way) this.attempt.reached(way);
    return way;
  }

  /**
   * It is not used any more. The browser closes it when its stats have been read, a moment later; `atOnce` where the page
   * may have no such moment.
   * @param {import('./attempts.js').Cause} cause
   * @param {{ atOnce?: boolean }} [options]
   */
  close(cause, { atOnce = false } = {}) {
    if (this.#ended) return;
    this.#ended = true;
    this.pipe.end();
    this.watch.stop();
    const recorded = this.attempt.end(cause, atOnce);
    if (atOnce) this.#connection.close();
    else recorded.finally(() => this.#connection.close());
  }

  #lost() {
    if (this.#ended) return;
    this.close('channel_closed');
    this.#handlers.closed();
  }

  /** Events may still be queued when the connection is closed. @param {() => void} call */
  #unlessEnded(call) {
    if (!this.#ended) call();
  }
}

/**
 * The way of the selected candidate pair in a stats report.
 * @param {RTCStatsReport | Map<string, any>} report
 * @returns {Way | null}
 */
export function wayOf(report) {
  const stats = /** @type {Map<string, any>} */ (report);
  let pair;
  for (const entry of stats.values()) {
    if (entry.type === 'transport' && entry.selectedCandidatePairId) pair = stats.get(entry.selectedCandidatePairId);
  }
  // Firefox marks the pair and has no transport entry.
  if (!pair) {
    for (const entry of stats.values()) {
      if (entry.type !== 'candidate-pair' || entry.state !== 'succeeded') continue;
      if (entry.selected || (!pair && entry.nominated)) pair = entry;
    }
  }
  const local = pair && stats.get(pair.localCandidateId);
  if (!local) return null;
  const bitrate = pair.availableOutgoingBitrate ?? null;
  if (local.candidateType === 'relay') {
    const relay = ['udp', 'tcp', 'tls'].includes(local.relayProtocol) ? local.relayProtocol : null;
    return { rung: 'relay', relay, bitrate };
  }
  return { rung: local.protocol === 'tcp' ? 'tcp' : 'udp', relay: null, bitrate };
}
