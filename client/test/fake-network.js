// Browsers' WebSockets and peer connections over an imagined network, and the switches to disturb it. The server at
// the other end is fake-server.js.

import { inflateRawSync } from 'node:zlib';

import { Clock, seeded } from './clock.js';
import { FakeServer } from './fake-server.js';
import { Page } from './fake-storage.js';

export class World {
  clock = new Clock();
  /** One way, in milliseconds. */
  latency = 10;
  /** Bytes per millisecond of each socket and channel, from the browser. */
  rate = Infinity;
  /** New WebSockets fail, those that are open stay as they are. */
  refuseSockets = false;
  /** So many new WebSockets hang: the browser gives them connections that it began in silence. */
  hang = 0;
  /** Packets of WebSockets, or of peer connections, vanish. */
  socketsSilent = false;
  peersSilent = false;
  /** Who repeats in vain waits twice as long each time, as TCP and SCTP do. */
  backsOff = false;
  /** Silence ends for a peer connection when its ICE is restarted. */
  restartHeals = false;
  /** From the first packet that gets through to open channels. */
  handshakeMs = 0;
  relayProtocol = 'udp';
  /** The network lets nothing through but what goes over a relay. */
  onlyRelays = false;
  /** What the browser says of the network. */
  online = true;
  /** Whether the server answers HTTP, and how often it was asked. */
  http = true;
  reached = 0;
  /** Entries of stats beyond those of the pair in use. */
  stats = [];
  /** Stats never come. */
  statsHang = false;
  /** The browser cannot change the servers of a peer connection. */
  configurable = true;
  sockets = [];
  peers = [];

  constructor({ seed = 1 } = {}) {
    this.random = seeded(seed);
    this.server = new FakeServer(this.clock);
  }

  /**
   * The environment of one page, of a browser profile if what it stores is to outlive it, on a link of its own if what it
   * sends is to share one.
   */
  browser(profile, link = null) {
    const world = this;
    const page = new Page(this, profile);
    return {
      WebSocket: class extends FakeWebSocket {
        constructor(url, protocols) {
          super(world, url, protocols, link);
          page.sockets.push(this);
        }
      },
      RTCPeerConnection: class extends FakePeerConnection {
        constructor(configuration) {
          super(world, configuration, link);
        }
      },
      now: () => this.clock.now,
      date: () => 1_800_000_000_000 + this.clock.now,
      page,
      inflate: async (bytes) => inflateRawSync(bytes),
      storage: () => page.storage(),
      setTimeout: (call, ms) => this.clock.setTimeout(() => page.alive && call(), ms),
      clearTimeout: (timer) => this.clock.clearTimeout(timer),
      random: this.random,
      online: () => this.online,
      reach: async () => {
        this.reached += 1;
        return this.http && !this.socketsSilent;
      },
    };
  }

  later(call) {
    this.clock.setTimeout(call, this.latency);
  }

  /** What is open now never gets through again, as when a NAT forgets its mappings. New connections do. */
  forgetMappings() {
    for (const each of [...this.sockets, ...this.peers]) each.isLost = true;
  }

  /** Every open WebSocket breaks, as when a proxy restarts. */
  breakSockets() {
    for (const socket of this.sockets) socket.drop(1006);
  }

  /** What the browser notices after a while on a dead path. */
  failPeers() {
    for (const peer of this.peers) peer.become('failed');
  }
}

/** What all that a page sends has to pass: one packet after the other, at a rate, and some are lost. */
export class SharedLink {
  /** Bytes per millisecond. */
  rate = Infinity;
  /** Of a packet, beyond what is sent: IP, UDP, DTLS and SCTP. */
  overhead = 85;
  /** Milliseconds besides the world's latency. */
  delay = 0;
  loss = 0;
  freeAt = 0;
}

/** How long a reliable transport waits before it repeats what was lost: the least of SCTP. */
const REPEAT_MS = 1_000;

/** A direction of a connection with a rate: counts what has not left yet. */
class Uplink {
  #world;
  #link;
  #isReliable;
  #freeAt = 0;
  #arrivesAt = 0;
  #leaving = new Set();
  highest = 0;

  constructor(world, link = null, isReliable = true) {
    this.#world = world;
    this.#link = link;
    this.#isReliable = isReliable;
  }

  /** A message leaves packet by packet. */
  get buffered() {
    const { now } = this.#world.clock;
    let bytes = 0;
    for (const { size, from, to } of this.#leaving) bytes += now >= to ? size : Math.ceil(size * Math.min(1, (to - now) / (to - from)));
    return bytes;
  }

  send(size, deliver, drained = () => {}) {
    const { clock, latency } = this.#world;
    const from = Math.max(clock.now, this.#freeAt, this.#link?.freeAt ?? 0);
    const leavesAt = this.#leave(size);
    const leaving = { size, from, to: leavesAt };
    this.#leaving.add(leaving);
    this.highest = Math.max(this.highest, this.buffered);
    clock.setTimeout(() => {
      this.#leaving.delete(leaving);
      drained();
    }, leavesAt - clock.now);
    let arrivesAt = leavesAt + latency + (this.#link?.delay ?? 0);
    if (this.#link?.loss > 0 && this.#world.random() < this.#link.loss) {
      if (!this.#isReliable) return;
      arrivesAt += REPEAT_MS;
    }
    // A latency that falls lets nothing overtake, and what is repeated holds up what follows.
    if (this.#isReliable) arrivesAt = this.#arrivesAt = Math.max(this.#arrivesAt, arrivesAt);
    clock.setTimeout(deliver, arrivesAt - clock.now);
  }

  #leave(size) {
    const { clock, rate } = this.#world;
    const link = this.#link;
    if (link) return (link.freeAt = Math.max(link.freeAt, clock.now) + (size + link.overhead) / link.rate);
    return (this.#freeAt = Math.max(this.#freeAt, clock.now) + size / rate);
  }
}

/** One direction of something reliable: what meets silence arrives later, in order, as TCP and SCTP see to it. */
class Ordered {
  #world;
  #silent;
  #queue = [];
  #arrivesAt = 0;
  #repeatMs = 100;

  constructor(world, silent) {
    this.#world = world;
    this.#silent = silent;
  }

  /** After the network's latency, and not before what was sent earlier. */
  send(call) {
    const { clock, latency } = this.#world;
    this.#arrivesAt = Math.max(this.#arrivesAt, clock.now + latency);
    clock.setTimeout(() => this.arrive(call), this.#arrivesAt - clock.now);
  }

  arrive(call) {
    this.#queue.push(call);
    if (this.#queue.length === 1) this.#pump();
  }

  #pump() {
    while (this.#queue.length > 0) {
      if (this.#silent()) {
        if (this.#world.backsOff) this.#repeatMs *= 2;
        this.#world.clock.setTimeout(() => this.#pump(), this.#repeatMs);
        return;
      }
      this.#repeatMs = 100;
      this.#queue[0]();
      this.#queue.shift();
    }
  }
}

class FakeWebSocket {
  readyState = 0;
  isLost = false;
  binaryType = 'blob';
  onopen = null;
  onmessage = null;
  onclose = null;
  #world;
  #uplink;
  #connection = null;
  #up;
  #down;
  sent = [];

  constructor(world, url, protocols, link) {
    this.#world = world;
    this.#uplink = new Uplink(world, link);
    this.#up = new Ordered(world, () => this.silent);
    this.#down = new Ordered(world, () => this.silent);
    this.url = url;
    this.protocols = protocols;
    world.sockets.push(this);
    this.isLost = world.hang > 0;
    world.hang -= this.isLost ? 1 : 0;
    world.later(() => this.#open(1_000));
  }

  get silent() {
    return this.#world.socketsSilent || this.isLost;
  }

  #open(repeatMs) {
    const world = this.#world;
    if (this.readyState !== 0) return;
    if (this.silent) {
      if (world.backsOff) world.clock.setTimeout(() => this.#open(2 * repeatMs), repeatMs);
      return;
    }
    if (world.refuseSockets) {
      this.drop(1006);
      return;
    }
    this.readyState = 1;
    this.#connection = world.server.connect({
      send: (data) => this.#deliver(data),
      close: (code, reason) => world.later(() => this.drop(code, reason)),
    });
    this.onopen?.({});
  }

  get bufferedAmount() {
    return this.#uplink.buffered;
  }

  get highestBuffered() {
    return this.#uplink.highest;
  }

  send(data) {
    if (this.readyState === 0) throw new Error('InvalidStateError');
    if (this.readyState !== 1) return;
    this.sent.push(data);
    const copy = typeof data === 'string' ? data : data.slice();
    const connection = this.#connection;
    this.#uplink.send(data.length, () => this.#up.arrive(() => connection.receive(copy)));
  }

  close(code = 1000, reason = '') {
    if (this.readyState >= 2) return;
    this.readyState = 3;
    const connection = this.#connection;
    this.#connection = null;
    this.#uplink.send(0, () => this.#up.arrive(() => connection?.closed(code)));
    this.#world.later(() => this.onclose?.({ code, reason }));
  }

  /** It breaks, at both ends. */
  drop(code, reason = '') {
    if (this.readyState === 3) return;
    this.readyState = 3;
    const connection = this.#connection;
    this.#connection = null;
    // Browsers say 1001 for a page that is gone.
    connection?.closed(code === 1001 ? 1001 : 1006);
    this.onclose?.({ code, reason });
  }

  #deliver(data) {
    const copy = typeof data === 'string' ? data : data.slice().buffer;
    this.#down.send(() => {
      if (this.readyState === 1) this.onmessage?.({ data: copy });
    });
  }
}

/** Calls `on…` first, and then who listens. */
class Listened {
  #listeners = new Map();

  addEventListener(type, call) {
    this.#listeners.set(type, [...(this.#listeners.get(type) ?? []), call]);
  }

  say(type, event = {}) {
    this[`on${type}`]?.(event);
    for (const call of this.#listeners.get(type) ?? []) call(event);
  }
}

class FakePeerConnection extends Listened {
  connectionState = 'new';
  iceConnectionState = 'new';
  signalingState = 'stable';
  localDescription = null;
  onconnectionstatechange = null;
  onicecandidate = null;
  onicecandidateerror = null;
  #world;
  #restarts = 0;
  #healed = false;
  isLost = false;
  channels = new Map();
  /** The server's end. */
  remote = null;
  /** As at the last offer: what is set later counts from the next ICE restart on. */
  #gathered = {};

  constructor(world, configuration, link) {
    super();
    this.#world = world;
    this.link = link;
    this.configuration = configuration;
    this.id = world.peers.push(this);
  }

  get silent() {
    return (this.isLost || this.#world.peersSilent || (this.#world.onlyRelays && !this.#relays)) && !this.#healed;
  }

  get #relays() {
    const urls = this.#gathered.iceServers?.flatMap((server) => server.urls) ?? [];
    return urls.some((url) => url.startsWith('turn'));
  }

  setConfiguration(configuration) {
    if (!this.#world.configurable) throw new Error('NotSupportedError');
    this.configuration = configuration;
  }

  createDataChannel(label, options) {
    const channel = new FakeChannel(this.#world, this, label, options);
    this.channels.set(options.id, channel);
    return channel;
  }

  async createOffer({ iceRestart = false } = {}) {
    if (iceRestart) this.#restarts += 1;
    this.#gathered = this.configuration;
    return { type: 'offer', sdp: `fake ${this.id} ${this.#restarts}` };
  }

  async setLocalDescription(description) {
    this.localDescription = description;
    this.signalingState = 'have-local-offer';
    this.#world.later(() => this.onicecandidate?.({ candidate: { candidate: 'candidate:fake' } }));
  }

  async setRemoteDescription({ sdp }) {
    const [, number, restarts] = sdp.split(' ');
    if (Number(number) !== this.id) throw new Error('answer of another');
    this.signalingState = 'stable';
    if (Number(restarts) > 0 && this.#world.restartHeals) this.#healed = true;
    this.#world.clock.setTimeout(() => this.#connected(), 4 * this.#world.latency);
  }

  async getStats() {
    if (this.#world.statsHang) return new Promise(() => {});
    await null;
    // Asked for before it was closed, and not ready then: it does not come.
    if (this.connectionState === 'closed') throw new Error('InvalidStateError');
    const relayed = this.#relays && (this.#world.onlyRelays || this.#gathered.iceTransportPolicy === 'relay');
    const local = relayed
      ? { candidateType: 'relay', protocol: 'udp', relayProtocol: this.#world.relayProtocol }
      : { candidateType: 'host', protocol: 'udp' };
    if (this.iceConnectionState === 'new') return new Map(this.#world.stats.map((entry) => [entry.id, entry]));
    return new Map([
      ...this.#world.stats.map((entry) => [entry.id, entry]),
      ['T', { id: 'T', type: 'transport', selectedCandidatePairId: 'P' }],
      ['P', { id: 'P', type: 'candidate-pair', localCandidateId: 'L' }],
      ['L', { id: 'L', type: 'local-candidate', ...local }],
    ]);
  }

  close() {
    this.connectionState = 'closed';
    for (const channel of this.channels.values()) channel.readyState = 'closed';
  }

  become(state) {
    if (this.connectionState === 'closed' || this.connectionState === state) return;
    this.connectionState = state;
    this.say('connectionstatechange');
  }

  #connected() {
    if (this.connectionState === 'closed' || this.silent) return;
    this.remote ??= this.#world.server.peer(this.id, {
      send: (id, message) => this.channels.get(id)?.deliver(message),
    });
    this.iceConnectionState = 'connected';
    this.say('iceconnectionstatechange');
    this.#world.clock.setTimeout(() => {
      this.become('connected');
      for (const channel of this.channels.values()) channel.open();
    }, this.#world.handshakeMs);
  }
}

class FakeChannel extends Listened {
  /** Nothing gets through here, whatever becomes of the rest. */
  isStuck = false;
  readyState = 'connecting';
  binaryType = 'arraybuffer';
  bufferedAmountLowThreshold = 0;
  onopen = null;
  onmessage = null;
  onclose = null;
  onbufferedamountlow = null;
  #world;
  #peer;
  #uplink;
  #up;
  #down;
  sent = [];

  constructor(world, peer, label, options) {
    super();
    this.#world = world;
    this.#peer = peer;
    this.#uplink = new Uplink(world, peer.link, options.ordered);
    this.#up = new Ordered(world, () => peer.silent || this.isStuck);
    this.#down = new Ordered(world, () => peer.silent || this.isStuck);
    this.label = label;
    this.options = options;
  }

  get bufferedAmount() {
    return this.#uplink.buffered;
  }

  get highestBuffered() {
    return this.#uplink.highest;
  }

  open() {
    if (this.readyState !== 'connecting') return;
    this.readyState = 'open';
    this.say('open');
  }

  send(data) {
    if (this.readyState !== 'open') throw new Error('InvalidStateError');
    this.sent.push(data);
    const copy = data.slice();
    const before = this.bufferedAmount + data.length;
    this.#uplink.send(
      data.length,
      () => {
        const call = () => this.#peer.remote?.receive(this.options.id, copy);
        if (this.options.ordered) this.#up.arrive(call);
        else if (!this.#peer.silent) call();
      },
      () => {
        const low = this.bufferedAmountLowThreshold;
        if (before > low && this.bufferedAmount <= low && this.readyState === 'open') this.onbufferedamountlow?.({});
      },
    );
  }

  deliver(message) {
    const copy = message.slice();
    const call = () => {
      if (this.readyState === 'open') this.onmessage?.({ data: copy.buffer });
    };
    if (this.options.ordered) this.#down.send(call);
    else this.#world.later(() => this.#peer.silent || call());
  }
}
