// A browser with several tabs: Web Locks and BroadcastChannels between them, tabs that can be hidden, frozen, closed and
// killed at any moment. What a killed tab has posted still arrives, unless it crashes: then what is on its way is lost. A frozen one
// hears everything when it wakes.

import { Profile } from './fake-storage.js';

export class Browser {
  /** Milliseconds that a message takes from tab to tab, and a lock from one to the next. */
  messageDelay = 1;
  lockDelay = 1;
  /** Name to the request that has it, and those that wait. */
  locks = new Map();
  /** @type {Map<string, Set<Channel>>} */
  channels = new Map();
  tabs = [];
  /** Messages from tab to tab. */
  posted = 0;

  constructor(world, { profile = new Profile() } = {}) {
    this.world = world;
    this.profile = profile;
  }

  open({ visible = true } = {}) {
    const tab = new Tab(this, visible);
    this.tabs.push(tab);
    return tab;
  }

  /** Only one is looked at. */
  look(at) {
    for (const tab of this.tabs) tab.show(tab === at);
  }

  /** Sockets that tabs have open. */
  get openSockets() {
    return this.tabs.flatMap((tab) => tab.sockets).filter((socket) => socket.readyState === 1).length;
  }
}

class Tab {
  alive = true;
  crashed = false;
  /** Whom what it had posted when it crashed reaches all the same. @type {Set<Tab>} */
  #reached = new Set();
  sockets = [];
  peers = [];
  /** Milliseconds that what others say takes to this one. @type {number | null} */
  messageDelay = null;
  #frozen = false;
  /** What happens when it wakes. */
  #later = [];
  #visible;
  #watchers = new Set();
  #freezers = new Set();
  #channels = new Set();

  constructor(browser, visible) {
    this.browser = browser;
    this.#visible = visible;
    this.environment = this.#environment();
  }

  /** Runs what belongs to this tab, when it can. */
  run(call) {
    if (!this.alive) return;
    if (this.#frozen) this.#later.push(call);
    else call();
  }

  show(visible) {
    if (this.#visible === visible) return;
    this.#visible = visible;
    for (const call of this.#watchers) this.run(call);
  }

  /** Stops: as a debugger does, or, with a word of warning, as the browser does. */
  freeze({ warned = false } = {}) {
    if (warned) for (const call of this.#freezers) this.run(call);
    this.#frozen = true;
  }

  thaw() {
    this.#frozen = false;
    while (this.#later.length > 0 && !this.#frozen && this.alive) this.#later.shift()();
  }

  get frozen() {
    return this.#frozen;
  }

  /** As `kill`, and what it has posted and nobody has heard yet is lost, but for what these tabs hear. */
  crash(reached = []) {
    this.crashed = true;
    this.#reached = new Set(reached);
    this.kill();
  }

  /** Whether a message to this tab gets there. */
  reaches(tab) {
    return !this.crashed || this.#reached.has(tab);
  }

  kill() {
    if (!this.alive) return;
    this.alive = false;
    for (const socket of this.sockets) if (socket.readyState === 1) socket.drop(1001);
    this.environment.page.kill();
    for (const peer of this.peers) {
      peer.close();
      this.browser.world.server.peerGone(peer.id);
    }
    for (const channel of [...this.#channels]) channel.close();
    for (const [name, lock] of this.browser.locks) {
      lock.waiting = lock.waiting.filter((request) => request.tab !== this);
      if (lock.holder?.tab === this) this.#passOn(name);
    }
  }

  #environment() {
    const tab = this;
    const { world, profile } = this.browser;
    const browser = world.browser(profile);
    return {
      ...browser,
      WebSocket: class extends browser.WebSocket {
        constructor(url, protocols) {
          super(url, protocols);
          tab.sockets.push(this);
          for (const name of ['onopen', 'onmessage', 'onclose']) {
            let heard = null;
            const set = (call) => (heard = call && ((event) => tab.run(() => call(event))));
            Object.defineProperty(this, name, { get: () => heard, set });
          }
        }
      },
      RTCPeerConnection: class extends browser.RTCPeerConnection {
        constructor(configuration) {
          super(configuration);
          tab.peers.push(this);
        }
      },
      setTimeout: (call, ms) => world.clock.setTimeout(() => tab.run(call), ms),
      tabs: () => ({
        hold: (name, options, lost) => this.#hold(name, options, lost),
        channel: (name) => {
          const channel = new Channel(this, name);
          this.#channels.add(channel);
          return channel;
        },
        visible: () => this.#visible,
        onVisibility: (call) => listen(this.#watchers, call),
        onFreeze: (call) => listen(this.#freezers, call),
      }),
    };
  }

  #hold(name, { ifAvailable = false, steal = false, signal }, lost) {
    const { locks } = this.browser;
    if (!locks.has(name)) locks.set(name, { holder: null, waiting: [] });
    const lock = locks.get(name);
    return new Promise((resolve, reject) => {
      const request = { tab: this, lost, grant: (release) => this.run(() => resolve(release)) };
      if (steal) {
        const robbed = lock.holder;
        lock.holder = request;
        if (robbed) this.#soon(() => robbed.tab.run(robbed.lost));
        this.#soon(() => request.grant(() => this.#give(name, request)));
      } else if (!lock.holder && lock.waiting.length === 0) {
        lock.holder = request;
        this.#soon(() => request.grant(() => this.#give(name, request)));
      } else if (ifAvailable) {
        this.#soon(() => request.grant(null));
      } else {
        lock.waiting.push(request);
        signal?.addEventListener('abort', () => {
          lock.waiting = lock.waiting.filter((other) => other !== request);
          reject(new Error('AbortError'));
        });
      }
    });
  }

  #give(name, request) {
    if (this.browser.locks.get(name).holder === request) this.#passOn(name);
  }

  #passOn(name) {
    const lock = this.browser.locks.get(name);
    lock.holder = lock.waiting.shift() ?? null;
    const { holder } = lock;
    if (holder) this.#soon(() => holder.grant(() => this.#give(name, holder)));
  }

  #soon(call) {
    this.browser.world.clock.setTimeout(call, this.browser.lockDelay);
  }
}

class Channel {
  onmessage = null;
  #tab;
  #name;

  constructor(tab, name) {
    this.#tab = tab;
    this.#name = name;
    const { channels } = tab.browser;
    if (!channels.has(name)) channels.set(name, new Set());
    channels.get(name).add(this);
  }

  postMessage(message) {
    if (!this.#tab.alive) return;
    const { browser } = this.#tab;
    browser.posted += 1;
    for (const other of browser.channels.get(this.#name) ?? []) {
      if (other === this) continue;
      const data = structuredClone(message);
      browser.world.clock.setTimeout(() => {
        if (this.#tab.reaches(other.#tab)) other.#tab.run(() => other.onmessage?.({ data }));
      }, other.#tab.messageDelay ?? browser.messageDelay);
    }
  }

  close() {
    this.onmessage = null;
    this.#tab.browser.channels.get(this.#name)?.delete(this);
  }
}

function listen(set, call) {
  set.add(call);
  return () => set.delete(call);
}
