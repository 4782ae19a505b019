/**
 * The leading tab's side of the talk: who follows, what each is told, which rooms each is in. It hears what followers want and
 * hands it to shared-link.js, which decides; what is decided goes out from here.
 *
 * A room is joined once for all tabs and left when the last tab in it leaves or dies. A tab that does not take what it is
 * told (it is frozen) is dropped before much has piled up for it; when it wakes it begins anew.
 */

import { parseObject } from '../socket.js';
import { Queue } from '../queue.js';
import { isBehind } from './lane.js';
import { readUp, sizeOf } from './wire.js';

/** Tabs that share one connection. */
const TABS = 256;
/** Numbers of slots, before they are given out again: requests have 32 bits, a slot leaves 20 of them. */
const SLOTS = 4_095;
/** What may be on its way to a tab that does not say that it has it: a second and more of what a fast connection brings. */
const UNSEEN_BYTES = 16_777_216;
/** A tab that does not say for so long that it has something is stopped: the others do not wait for it. */
const PROMPT_MS = 1_000;
/** Nor for one that lacks so much: the server keeps 1 MiB of what is not acknowledged, and then leaves out what comes. */
const PROMPT_BYTES = 393_216;

/** Further back than any frame that the server may send again: to acknowledge what was before that says nothing. */
const UNKNOWN = 2 ** 30;

/** Before the rooms of a tab that is gone are left: the others may not have said yet which ones they are in. */
const LINGER_MS = 2_000;

/**
 * @typedef {import('./wire.js').Down} Down
 * @typedef {import('./wire.js').Up} Up
 *
 * @typedef {object} Member a tab, as all tabs know it
 * @property {number} slot
 * @property {Map<string, number>} rooms names and handles; 0 until known
 *
 * @typedef {{ n: number, size: number, seq: number | null, isOffer: boolean, at: number }} Told
 *
 * @typedef {object} Port the way to one follower
 * @property {import('./surroundings.js').Channel} channel
 * @property {number} n last number used
 * @property {Queue<Told>} unseen what it has not said to have: `seq` of a
 *   frame of the server, and when it was told
 * @property {number} bytes of them
 * @property {number | null} has the last frame of the server that it has, as far as is known here
 * @property {number} heardAt when it has said so, or was told of this leader
 * @property {boolean} visible
 *
 * @typedef {object} Desk
 * @property {(tab: string, said: Up) => void} wants
 * @property {() => number} now
 * @property {() => number} received the last frame of the server that this tab has
 * @property {(call: () => void, ms: number) => void} later
 * @property {() => void} seen a tab has what it was told
 * @property {(followers: number) => void} changed
 * @property {() => Down} snapshot
 * @property {(message: Record<string, unknown>) => void} join sends a join
 * @property {(handle: number) => boolean} leave leaves a room, if what was sent to it has left
 * @property {(tab: string, handle: number) => void} left a tab is out of a room that others are in
 */

export class Hub {
  #surroundings;
  #names;
  #self;
  #facts;
  #desk;
  #up;
  #hall;
  /** @type {Map<string, Port>} */
  #ports = new Map();
  /** Waits for the end of tabs. */
  #watch = new AbortController();
  /** Rooms that nobody is in any more, by name. @type {Map<string, { handle: number, sent: boolean }>} */
  #leaving = new Map();
  /** Joins of rooms that are being left. @type {Record<string, unknown>[]} */
  #held = [];
  /** Whether every tab has had the time to say which rooms it is in. */
  #isSettled = false;
  /** How many sessions there have been: handles are of one. */
  session = 0;
  counters = { badTabMessages: 0, tabsDropped: 0 };

  /**
   * @param {import('./surroundings.js').Surroundings} surroundings
   * @param {ReturnType<typeof import('./wire.js').namesOf>} names
   * @param {string} self
   * @param {import('./facts.js').Facts} facts
   * @param {Desk} desk
   */
  constructor(surroundings, names, self, facts, desk) {
    this.#surroundings = surroundings;
    this.#names = names;
    this.#self = self;
    this.#facts = facts;
    this.#desk = desk;
    this.#up = surroundings.channel(names.up);
    this.#up.onmessage = ({ data }) => this.#heard(data);
    this.#hall = surroundings.channel(names.hall);
  }

  /** Tells the tabs there are. */
  open() {
    if (!this.#tabs.has(this.#self)) this.#tabs.set(this.#self, { slot: this.#nextSlot(), rooms: new Map() });
    for (const tab of this.#tabs.keys()) if (tab !== this.#self) this.#connect(tab, false);
    for (const tab of this.#ports.keys()) this.to(tab, this.#desk.snapshot());
    this.#hall.postMessage({ term: this.#facts.term });
    this.#desk.later(() => (this.#isSettled = true), LINGER_MS);
  }

  close() {
    this.#watch.abort();
    this.#up.close();
    this.#hall.close();
    for (const { channel } of this.#ports.values()) channel.close();
    this.#ports.clear();
  }

  /** How many tabs follow. */
  get followers() {
    return this.#ports.size;
  }

  /** Known to all tabs: whoever comes, goes, or changes rooms is told. */
  get #tabs() {
    return this.#facts.tabs;
  }

  /** A tab that is looked at. @returns {string | undefined} */
  get visibleTab() {
    for (const [tab, { visible }] of this.#ports) if (visible) return tab;
    return undefined;
  }

  /** To all followers but one. @param {Down} said @param {string} [but] */
  post(said, but) {
    for (const tab of [...this.#ports.keys()]) if (tab !== but) this.to(tab, said);
  }

  /** A frame of the server, to all. @param {Down} said @param {number | null} seq its number in the lane */
  pass(said, seq) {
    for (const tab of [...this.#ports.keys()]) this.to(tab, said, seq);
  }

  /** The first frame that a tab which is awake may not have; null if there is none. @returns {number | null} */
  get firstUnseen() {
    const received = this.#desk.received();
    let first = null;
    for (const { has } of this.#awaited()) {
      const unseen = ((has ?? received - UNKNOWN) + 1) >>> 0;
      if (isBehind(received, unseen) || (first !== null && !isBehind(unseen, first))) continue;
      first = unseen;
    }
    return first;
  }

  /** Whether a tab which is awake may not know of a message that was ordered. */
  get hasUnseenOffers() {
    for (const { unseen } of this.#awaited()) for (const { isOffer } of unseen) if (isOffer) return true;
    return false;
  }

  /** The tabs that are waited for. */
  *#awaited() {
    const prompt = this.#desk.now() - PROMPT_MS;
    for (const port of this.#ports.values()) {
      // What was told first of all that is answered at once says whether the tab is awake.
      if (port.bytes <= PROMPT_BYTES && (oldestOf(port.unseen)?.at ?? port.heardAt) >= prompt) yield port;
    }
  }

  /** A tab that has more of what the server has sent than this one. @returns {string | undefined} */
  get tabAhead() {
    const received = this.#desk.received();
    for (const [tab, { has }] of this.#ports) if (has !== null && isBehind(received, has)) return tab;
    return undefined;
  }

  /** @param {string} tab @param {Down} said @param {number | null} [seq] */
  to(tab, said, seq = null) {
    const port = this.#ports.get(tab);
    if (!port) return;
    port.n += 1;
    const size = sizeOf(said);
    port.unseen.push({ n: port.n, size, seq, isOffer: said.op === 'offer', at: this.#desk.now() });
    port.bytes += size;
    port.channel.postMessage({ term: this.#facts.term, n: port.n, said });
    if (port.bytes > UNSEEN_BYTES) {
      this.counters.tabsDropped += 1;
      this.#once(tab, { op: 'dropped' });
      this.gone(tab);
    }
  }

  /** The tab with this share of the numbers of requests. @param {number} slot @returns {string | undefined} */
  tabOf(slot) {
    for (const [tab, member] of this.#tabs) if (member.slot === slot) return tab;
    return undefined;
  }

  /** A tab wants to be in a room. @param {string} tab @param {Record<string, unknown>} message */
  join(tab, message) {
    const name = String(message.room);
    const rooms = this.#tabs.get(tab)?.rooms;
    if (rooms && !rooms.has(name)) {
      rooms.set(name, this.#handleOf(name));
      this.#tellTabs();
    }
    if (this.#leaving.get(name)?.sent) this.#held.push(message);
    else {
      this.#leaving.delete(name);
      this.#desk.join(message);
    }
  }

  /** @param {string} tab @param {string} name @param {number} handle */
  entered(tab, name, handle) {
    const rooms = this.#tabs.get(tab)?.rooms;
    if (!rooms || rooms.get(name) === handle || (handle === 0 && rooms.has(name))) return;
    rooms.set(name, handle);
    this.#tellTabs();
  }

  /** A tab is done with a room. @param {string} tab @param {string} name @param {number} handle */
  leave(tab, name, handle) {
    this.#tabs.get(tab)?.rooms.delete(name);
    this.#tellTabs();
    if (this.#isIn(name)) this.#desk.left(tab, handle);
    else this.#vacate(name, handle);
  }

  /** The server or the tab has ended a room for it. @param {string} tab @param {string} name */
  ended(tab, name) {
    if (this.#tabs.get(tab)?.rooms.delete(name)) this.#tellTabs();
  }

  /** The session is another: nothing is to be left in it. */
  restart() {
    this.session += 1;
    this.#leaving.clear();
    this.#held = [];
    for (const { rooms } of this.#tabs.values()) for (const name of rooms.keys()) rooms.set(name, 0);
  }

  /** Something has changed: what waits may have its turn. @param {import('../frame.js').Frame} frame of the server */
  saw(frame) {
    if (this.#leaving.size === 0) return;
    for (const [name, { handle }] of this.#leaving) {
      if (frame.kind !== 'control' || frame.room !== handle) continue;
      if (parseObject(new TextDecoder().decode(frame.payload))?.type === 'left') this.#leaving.delete(name);
    }
    this.#leaveRooms();
    const held = this.#held;
    this.#held = [];
    for (const message of held) {
      if (this.#leaving.has(String(message.room))) this.#held.push(message);
      else this.#desk.join(message);
    }
  }

  /** A tab is no more, or does not follow. @param {string} tab @param {boolean} [saidSo] */
  gone(tab, saidSo = false) {
    const member = this.#tabs.get(tab);
    this.#ports.get(tab)?.channel.close();
    if (this.#ports.delete(tab)) this.#desk.changed(this.#ports.size);
    if (!member) return;
    this.#tabs.delete(tab);
    this.#tellTabs();
    const leave = () => {
      for (const [name, handle] of member.rooms) if (handle && !this.#isIn(name)) this.#vacate(name, handle);
    };
    if (saidSo && this.#isSettled) return leave();
    const { session } = this;
    this.#desk.later(() => {
      if (!this.#watch.signal.aborted && session === this.session) leave();
    }, LINGER_MS);
  }

  // --- what followers say ----------------------------------------------------------------------------------------

  /** @param {unknown} data */
  #heard(data) {
    const heard = readUp(data);
    if (!heard) {
      this.counters.badTabMessages += 1;
      return;
    }
    const { tab, term, said } = heard;
    if (said.op === 'hello') return this.#hello(tab, said);
    const port = this.#ports.get(tab);
    if (!port) return said.op === 'bye' ? undefined : this.#once(tab, { op: 'dropped' });
    // For another leader: after this one's snapshot it comes again.
    if (term !== this.#facts.term) return undefined;
    switch (said.op) {
      case 'seen':
        return this.#seen(port, said.n);
      case 'has':
        [port.has, port.heardAt] = [said.received, this.#desk.now()];
        return this.#desk.seen();
      case 'visible':
        port.visible = said.visible;
        return undefined;
      case 'ping':
        return this.to(tab, { op: 'pong' });
      case 'bye':
        return this.gone(tab, true);
      case 'join':
        return this.join(tab, { ...said.message, offer: undefined });
      case 'entered':
        return this.entered(tab, said.room, said.handle);
      case 'leave':
        return this.leave(tab, said.room, said.handle);
      case 'ended':
        return this.ended(tab, said.room);
      default:
        return this.#desk.wants(tab, said);
    }
  }

  /** @param {string} tab @param {{ visible: boolean, ordered: number }} said */
  #hello(tab, { visible, ordered }) {
    if (tab === this.#self) return;
    this.gone(tab);
    if (this.#ports.size >= TABS) {
      this.#once(tab, { op: 'full' });
      return;
    }
    this.#tabs.set(tab, { slot: this.#nextSlot(), rooms: new Map() });
    // What it offered before is void.
    this.#facts.ordered.set(tab, ordered);
    this.#tellTabs();
    this.#connect(tab, visible);
    this.to(tab, this.#desk.snapshot());
  }

  /** @param {string} tab @param {boolean} visible */
  #connect(tab, visible) {
    const channel = this.#surroundings.channel(this.#names.down(tab));
    this.#ports.set(tab, { channel, n: 0, unseen: new Queue(), bytes: 0, has: null, heardAt: this.#desk.now(), visible });
    this.#desk.changed(this.#ports.size);
    const { signal } = this.#watch;
    const ended = this.#surroundings.hold(this.#names.life(tab), { signal }, () => {});
    ended.then((release) => {
      release?.();
      if (!signal.aborted) this.gone(tab);
    }, () => {});
  }

  /** @param {Port} port @param {number} n */
  #seen(port, n) {
    for (let first; (first = port.unseen.peek()) && first.n <= n; ) {
      port.unseen.shift();
      port.bytes -= first.size;
      if (first.seq !== null && port.has !== null && isBehind(port.has, first.seq)) port.has = first.seq;
    }
    port.heardAt = this.#desk.now();
    this.#desk.seen();
  }

  /** Tells a tab that does not follow. @param {string} tab @param {Down} said */
  #once(tab, said) {
    const channel = this.#surroundings.channel(this.#names.down(tab));
    channel.postMessage({ term: this.#facts.term, n: 0, said });
    channel.close();
  }

  #tellTabs() {
    this.post({ op: 'tabs', tabs: recordsOf(this.#tabs), slots: this.#facts.slots });
  }

  #nextSlot() {
    const used = new Set([...this.#tabs.values()].map(({ slot }) => slot));
    do this.#facts.slots = (this.#facts.slots + 1) % SLOTS;
    while (used.has(this.#facts.slots));
    return this.#facts.slots;
  }

  // --- rooms -----------------------------------------------------------------------------------------------------

  /** @param {string} name */
  #isIn(name) {
    return [...this.#tabs.values()].some(({ rooms }) => rooms.has(name));
  }

  /** @param {string} name */
  #handleOf(name) {
    return Math.max(0, ...[...this.#tabs.values()].map(({ rooms }) => rooms.get(name) ?? 0));
  }

  /** @param {string} name @param {number} handle */
  #vacate(name, handle) {
    this.#leaving.set(name, { handle, sent: false });
    this.#leaveRooms();
  }

  #leaveRooms() {
    for (const room of this.#leaving.values()) if (!room.sent) room.sent = this.#desk.leave(room.handle);
  }
}

/** The oldest that a tab which is awake answers at once. @param {Queue<Told>} unseen */
function oldestOf(unseen) {
  for (const told of unseen) if (told.seq !== null || told.isOffer) return told;
  return undefined;
}

/** @param {Map<string, Member>} tabs @returns {import('./wire.js').TabRecord[]} */
export function recordsOf(tabs) {
  return [...tabs].map(([tab, { slot, rooms }]) => ({ tab, slot, rooms: [...rooms] }));
}

/** @param {import('./wire.js').TabRecord[]} records @returns {Map<string, Member>} */
export function tabsOf(records) {
  return new Map(records.map(({ tab, slot, rooms }) => [tab, { slot, rooms: new Map(rooms) }]));
}
