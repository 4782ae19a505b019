// Peer connections of browsers that talk to each other, over an imagined network with switches: as strict as the real ones
// about what may be called when, and with a path that is there or not. Signals are somebody else's: see `Post`.

/** A path between browsers. */
export class Path {
  /** Whether packets get through, and whether they need a relay. */
  isOpen = true;
  isRelayed = false;
  /** Whether a connection that was cut needs an ICE restart when the path is back: another NAT mapping, say. */
  needsRestart = false;
  latency = 10;
  /** All that were made. */
  peers = [];

  constructor(clock, random) {
    this.clock = clock;
    this.random = random;
  }

  /** The constructor of one browser. */
  browser(owner) {
    const path = this;
    return class extends FakePeer {
      owner = owner;

      constructor(configuration) {
        super(path, configuration);
      }
    };
  }

  get open() {
    return this.peers.filter((peer) => peer.connectionState !== 'closed');
  }

  set(isOpen) {
    this.isOpen = isOpen;
    for (const peer of this.open) peer.pathChanged();
  }
}

/** Carries signals: late, twice, never, in another order. */
export class Post {
  loss = 0;
  doubled = 0;
  /** Loses those for which it holds. */
  loses = () => false;
  /** All that were delivered. */
  delivered = [];
  /** Milliseconds: the least, and how much more it may be. */
  delay = [5, 0];
  sent = 0;

  constructor(clock, random) {
    this.clock = clock;
    this.random = random;
  }

  send(signal, take) {
    this.sent += 1;
    const deliver = () => {
      this.delivered.push(deliver);
      take({ ...signal });
    };
    const copies = (this.random() < this.loss || this.loses(signal) ? 0 : 1) + (this.random() < this.doubled ? 1 : 0);
    for (let copy = 0; copy < copies; copy += 1) {
      this.clock.setTimeout(deliver, this.delay[0] + this.random() * this.delay[1]);
    }
  }
}

const DISCONNECTED_MS = 6_000;
const FAILED_MS = 16_000;

class FakePeer {
  signalingState = 'stable';
  connectionState = 'new';
  onconnectionstatechange = null;
  onicecandidate = null;
  channels = new Map();
  /** What is agreed, and what is not yet: descriptions as { id, ufrag }. */
  #current = { local: null, remote: null };
  #pending = { local: null, remote: null };
  #generation = 0;
  #knows = null;
  #isCut = false;
  #path;
  #timers = [];
  /** Ice credentials with which packets have got through. */
  through = null;

  constructor(path, configuration) {
    this.#path = path;
    this.configuration = configuration;
    this.id = path.peers.push(this);
  }

  get localDescription() {
    return this.#pending.local ?? this.#current.local;
  }

  createDataChannel(label, options) {
    const channel = new FakeChannel(this, this.#path, options);
    this.channels.set(options.id, channel);
    return channel;
  }

  setConfiguration(configuration) {
    this.configuration = configuration;
  }

  async createOffer({ iceRestart = false } = {}) {
    await this.#step();
    return this.#describe('offer', this.#generation + (iceRestart && this.#current.local ? 1 : 0));
  }

  async createAnswer() {
    await this.#step();
    if (this.signalingState !== 'have-remote-offer') throw new Error('InvalidStateError: no offer to answer');
    const before = this.#current.remote && JSON.parse(this.#current.remote.sdp).ufrag;
    const isRestart = before && before !== JSON.parse(this.#pending.remote.sdp).ufrag;
    return this.#describe('answer', this.#generation + (isRestart ? 1 : 0));
  }

  async setLocalDescription(description) {
    await this.#step();
    const wanted = description.type === 'offer' ? 'stable' : 'have-remote-offer';
    if (this.signalingState !== wanted) throw new Error(`InvalidStateError: ${description.type} in ${this.signalingState}`);
    this.#pending.local = description;
    this.#generation = JSON.parse(description.sdp).generation;
    if (description.type === 'offer') this.signalingState = 'have-local-offer';
    else this.#agree();
    this.#gather(JSON.parse(description.sdp).ufrag);
  }

  async setRemoteDescription(description) {
    await this.#step();
    const { type } = description;
    if (!JSON.parse(description.sdp).ufrag) throw new Error('OperationError: no description');
    if (type === 'offer' && this.signalingState === 'have-remote-offer') throw new Error('InvalidStateError: offer');
    if (type === 'answer' && this.signalingState !== 'have-local-offer') throw new Error('InvalidStateError: answer');
    if (type === 'offer') {
      // Rolls an own offer back.
      this.#pending.local = null;
      this.signalingState = 'have-remote-offer';
      this.#pending.remote = description;
    } else {
      this.#pending.remote = description;
      this.#agree();
    }
    if (this.connectionState === 'new') this.#become('connecting');
  }

  async addIceCandidate({ candidate }) {
    await this.#step();
    const remote = this.#pending.remote ?? this.#current.remote;
    if (!remote) throw new Error('InvalidStateError: no remote description');
    if (candidate === '') return;
    const ufrag = candidate.split(' ')[1];
    if (ufrag !== JSON.parse(remote.sdp).ufrag) throw new Error('OperationError: of another description');
    this.#knows = ufrag;
    this.pathChanged();
  }

  async getStats() {
    const candidateType = this.#path.isRelayed ? 'relay' : 'host';
    return new Map([
      ['T', { type: 'transport', selectedCandidatePairId: 'P' }],
      ['P', { type: 'candidate-pair', localCandidateId: 'L' }],
      ['L', { type: 'local-candidate', candidateType, protocol: 'udp' }],
    ]);
  }

  close() {
    if (this.connectionState === 'closed') return;
    const { other } = this;
    this.connectionState = this.signalingState = 'closed';
    this.#timers.forEach((timer) => this.#path.clock.clearTimeout(timer));
    for (const channel of this.channels.values()) channel.readyState = 'closed';
    if (other && this.#path.isOpen) this.#path.clock.setTimeout(() => other.#channelsClosed(), this.#path.latency);
  }

  /** The end with which this one has agreed, if that end has agreed with it. */
  get other() {
    const { local, remote } = this.#current;
    if (!local || !remote || this.signalingState === 'closed') return null;
    const other = this.#path.peers[JSON.parse(remote.sdp).id - 1];
    if (!other || other.signalingState === 'closed') return null;
    const theirs = other.#current;
    const agrees = theirs.local?.sdp === remote.sdp && theirs.remote?.sdp === local.sdp;
    return agrees ? other : null;
  }

  /** Whether packets get to the other end and back. */
  get isThrough() {
    const { other } = this;
    if (!other || !this.#path.isOpen) return false;
    if (this.#path.needsRestart && (this.#isCut || other.#isCut) && this.through === JSON.parse(this.#current.local.sdp).ufrag) return false;
    const knows = (peer) => peer.#knows === JSON.parse(peer.#current.remote.sdp).ufrag;
    return knows(this) || knows(other);
  }

  /** Looks whether packets get through, now that something is different; in time. */
  pathChanged(isOther = false) {
    const { clock, latency } = this.#path;
    this.#timers.forEach((timer) => clock.clearTimeout(timer));
    this.#timers = [];
    if (this.connectionState === 'closed') return;
    if (!isOther) this.other?.pathChanged(true);
    if (this.isThrough) {
      const ufrag = JSON.parse(this.#current.local.sdp).ufrag;
      const isCut = this.connectionState === 'disconnected' || this.#isCut;
      if (this.through === ufrag && (this.connectionState === 'failed' || (isCut && this.#path.needsRestart))) return;
      this.#isCut = false;
      this.#after(2 * latency, () => this.#connected(ufrag));
    } else if (this.connectionState === 'connected' || this.connectionState === 'disconnected') {
      this.#isCut = true;
      if (this.connectionState === 'connected') this.#after(DISCONNECTED_MS, () => this.#become('disconnected'));
      this.#after(FAILED_MS, () => this.#become('failed'));
    } else if (this.connectionState === 'connecting') {
      this.#after(FAILED_MS, () => this.#become('failed'));
    }
  }

  #connected(ufrag) {
    if (!this.isThrough) return;
    this.through = ufrag;
    this.#become('connected');
    for (const channel of this.channels.values()) channel.opened();
  }

  #agree() {
    this.#current = { local: this.#pending.local ?? this.#current.local, remote: this.#pending.remote ?? this.#current.remote };
    this.#pending = { local: null, remote: null };
    this.signalingState = 'stable';
    this.pathChanged();
  }

  #describe(type, generation) {
    const ufrag = `u${this.id}.${generation}`;
    return { type, sdp: JSON.stringify({ id: this.id, type, ufrag, generation, nonce: this.#path.random() }) };
  }

  #gather(ufrag) {
    const { clock, random } = this.#path;
    const say = (candidate) => this.connectionState !== 'closed' && this.onicecandidate?.({ candidate });
    const count = 1 + Math.floor(random() * 3);
    for (let index = 0; index < count; index += 1) {
      const candidate = { candidate: `candidate ${ufrag} ${index}`, sdpMid: '0', sdpMLineIndex: 0 };
      clock.setTimeout(() => say({ ...candidate, toJSON: () => candidate }), random() * 100);
    }
    clock.setTimeout(() => say(null), 120);
  }

  #become(state) {
    if (this.connectionState === 'closed' || this.connectionState === state) return;
    this.connectionState = state;
    this.onconnectionstatechange?.({});
  }

  #channelsClosed() {
    if (this.connectionState === 'closed') return;
    for (const channel of this.channels.values()) {
      if (channel.readyState === 'closed') continue;
      channel.readyState = 'closed';
      channel.onclose?.({});
    }
  }

  #after(ms, call) {
    this.#timers.push(this.#path.clock.setTimeout(call, ms));
  }

  /** Every call takes its time, and fails when the connection is closed meanwhile. */
  async #step() {
    await new Promise((resolve) => this.#path.clock.setTimeout(resolve, this.#path.random() * 4));
    if (this.signalingState === 'closed') throw new Error('InvalidStateError: closed');
  }
}

class FakeChannel {
  readyState = 'connecting';
  bufferedAmount = 0;
  bufferedAmountLowThreshold = 0;
  onopen = null;
  onmessage = null;
  onclose = null;
  onbufferedamountlow = null;
  /** Reliable messages that have not come. */
  #stuck = [];
  #peer;
  #path;

  constructor(peer, path, options) {
    this.#peer = peer;
    this.#path = path;
    this.options = options;
  }

  opened() {
    if (this.readyState === 'closed') return;
    if (this.readyState === 'connecting') {
      this.readyState = 'open';
      this.onopen?.({});
    }
    this.#pump();
  }

  send(data) {
    if (this.readyState !== 'open') throw new Error('InvalidStateError: not open');
    const copy = data.slice().buffer;
    this.bufferedAmount += data.length;
    if (!this.options.ordered && !this.#peer.isThrough) {
      this.bufferedAmount -= data.length;
      return;
    }
    this.#stuck.push(copy);
    this.#path.clock.setTimeout(() => this.#pump(), this.#path.latency);
  }

  #pump() {
    const { other } = this.#peer;
    if (!other || !this.#peer.isThrough) return;
    const wasHigh = this.bufferedAmount > this.bufferedAmountLowThreshold;
    for (const data of this.#stuck.splice(0)) {
      this.bufferedAmount -= data.byteLength;
      const channel = other.channels.get(this.options.id);
      if (channel.readyState === 'open') channel.onmessage?.({ data });
      else if (this.options.ordered) return void this.#stuck.unshift(data);
    }
    if (wasHigh && this.bufferedAmount <= this.bufferedAmountLowThreshold) this.onbufferedamountlow?.({});
  }
}
