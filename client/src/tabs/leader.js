/**
 * The leading tab: has the Link to the server, decides what happens to the lane and in which order, and tells the followers
 * each thing before it does it. Alone it tells nobody.
 */

import { SwitchyardError } from '../errors.js';
import { encodeFrame } from '../frame.js';
import { Hub } from './hub.js';
import { IDS, plain } from './wire.js';

/** A leader that is not looked at goes on for so long, and has been it for so long, before it hands over. */
const HIDDEN_MS = 1_000;
const TERM_MS = 5_000;
/** Offers of all tabs together that are taken. */
const OFFERED_BYTES = 8_388_608;
/** Each term has so many numbers for pipes and peer connections. */
const GENERATIONS = 65_536;
/** Refusals that concern the leader's pipes alone. */
const PIPE_CODES = new Set(['webrtc_disabled', 'bad_offer', 'stale_attach', 'lane_gap']);

/**
 * @typedef {import('../link.js').Link} Link
 * @typedef {import('../link.js').LinkOwner} LinkOwner
 * @typedef {import('../link.js').LinkState} LinkState
 * @typedef {import('../lane.js').Message<any>} Message
 * @typedef {import('./wire.js').Down} Down
 * @typedef {import('./wire.js').Up} Up
 * @typedef {import('./shared-link.js').Sharing} Sharing
 *
 * @typedef {object} Company what the leader asks of its own tab
 * @property {() => boolean} visible
 * @property {() => LinkState} state as the session has been told
 * @property {(state: LinkState) => void} setState
 * @property {(tab: string, id: number, message: Message) => void} admit
 * @property {() => void} lost the session is another: a new lane
 * @property {(code: string, message: string) => void} ended
 * @property {() => void} replaced another tab has resumed the session
 * @property {(to: string) => void} handOver
 */

export class Leader {
  #env;
  #tab;
  #facts;
  #lane;
  #owner;
  #company;
  #link;
  /** @type {Hub | null} */
  #hub = null;
  #since;
  /** @type {number | null} */
  #hiddenSince = null;
  /** Whether the session is another leader's, and the server has not said what it has of it. */
  #isTakingOver;
  /** What waits for its place in the lane. @type {{ tab: string, id: number, message: Message }[]} */
  #offers = [];
  /** Whether this tab leads no more: what its link says then concerns nobody. */
  #isOver = false;

  /**
   * @param {object} options
   * @param {import('../environment.js').Environment} options.env
   * @param {string} options.tab
   * @param {import('./facts.js').Facts} options.facts
   * @param {import('./lane.js').TabLane} options.lane
   * @param {LinkOwner & Sharing} options.owner the session
   * @param {(owner: LinkOwner) => Link} options.makeLink
   * @param {{ surroundings: import('./surroundings.js').Surroundings, names: ReturnType<typeof import('./wire.js').namesOf> } | null} options.others
   *   null: there are none, for good
   * @param {Company} company
   */
  constructor({ env, tab, facts, lane, owner, makeLink, others }, company) {
    this.#env = env;
    this.#tab = tab;
    this.#facts = facts;
    this.#lane = lane;
    this.#owner = owner;
    this.#company = company;
    this.#since = env.now();
    this.#link = makeLink(this.#linkOwner());
    this.#isTakingOver = facts.identity !== null;
    if (facts.identity) this.#link.adopt(facts.identity, facts.term * GENERATIONS);
    if (others) this.#hub = this.#newHub(others.surroundings, others.names);
  }

  /** Tells the tabs there are, and begins. @param {{ rooms: Map<string, number>, leaving: Map<number, string> }} own of this tab */
  open({ rooms, leaving }) {
    this.#hub?.open();
    this.#link.keep(this.followers > 0);
    for (const { id, message } of this.#lane.offers) this.order(this.#tab, id, message);
    for (const [room, handle] of rooms) this.#hub?.entered(this.#tab, room, handle);
    for (const [handle, room] of leaving) this.leave(room, handle);
    if (this.#facts.wanted) this.#link.start();
  }

  get link() {
    return this.#link;
  }

  get followers() {
    return this.#hub?.followers ?? 0;
  }

  get counters() {
    return this.#hub?.counters;
  }

  /** The first frame of the server that another tab may not have; null if there is none. */
  get firstUnseen() {
    return this.#hub?.firstUnseen ?? null;
  }

  /** The connection as it is now. @returns {import('./wire.js').Status} */
  get status() {
    const { rung, relay, rtt, takesJoins, queued, buffered, counters } = this.#link;
    const health = this.#link.health(this.#env.now());
    return { state: this.#company.state(), rung, relay, rtt, takesJoins, queued, buffered, counters: { ...counters }, health };
  }

  /** Leads no more, and leaves the session as it is. @param {string | null} to who is to lead; null: whoever has the seat */
  release(to) {
    if (to !== null) this.#hub?.post({ op: 'handover', to });
    this.#over();
    this.#link.release();
  }

  /** The same at the end of this tab. @param {boolean} forGood */
  close(forGood) {
    if (this.followers > 0) return this.release('');
    this.#over();
    if (forGood) this.#link.close();
    else this.#link.rest();
  }

  /** @param {Record<string, unknown>} message */
  join(message) {
    if (this.#hub) this.#hub.join(this.#tab, message);
    else this.#link.sendText(message);
  }

  /** @param {string} room @param {number} handle */
  entered(room, handle) {
    this.#hub?.entered(this.#tab, room, handle);
  }

  /** @param {string} room @param {number} handle */
  leave(room, handle) {
    this.#hub?.leave(this.#tab, room, handle);
  }

  /** @param {string} room */
  ended(room) {
    this.#hub?.ended(this.#tab, room);
  }

  /** @param {Down} said */
  tell(said) {
    this.#hub?.post(said);
  }

  /** Whether nothing new may be sent to the server: should this tab crash, another might send something else in its place. */
  get holds() {
    return this.#hub?.hasUnseenOffers ?? false;
  }

  /**
   * A message of a tab gets its place in the lane. While the others lack what was told of those before it waits, or they might
   * never have everything at once.
   * @param {string} tab
   * @param {number} id
   * @param {Message} message
   */
  order(tab, id, message) {
    this.#offers.push({ tab, id, message });
    this.#orderNext();
  }

  #orderNext() {
    if (this.#isTakingOver || this.holds) return;
    const offers = this.#offers;
    this.#offers = [];
    for (const { tab, id, message } of offers) this.#order(tab, id, message);
  }

  /** @param {string} tab @param {number} id @param {Message} message */
  #order(tab, id, message) {
    const { ordered } = this.#facts;
    if (id !== (ordered.get(tab) ?? 0) + 1) return;
    ordered.set(tab, id);
    if (this.#lane.heldBytes > OFFERED_BYTES) {
      this.tell({ op: 'refuse', tab, id });
      if (tab === this.#tab) this.#owner.refused(this.#lane.refuse(id));
      return;
    }
    this.tell({ op: 'offer', tab, id, message: plain(message) });
    this.#company.admit(tab, id, message);
    this.#link.wake();
  }

  /** Once a second. @param {number} now */
  beat(now) {
    this.#tellStatus();
    this.#seen();
    this.#hiddenSince = this.#company.visible() ? null : (this.#hiddenSince ?? now);
    if (this.#hiddenSince === null || now - this.#hiddenSince < HIDDEN_MS || now - this.#since < TERM_MS) return;
    const to = this.#hub?.visibleTab;
    if (to !== undefined) this.#company.handOver(to);
  }

  /** What waits for its place was for the session that is lost: the tabs send it anew, in the next, under other numbers. */
  #dropOffers() {
    const { ordered } = this.#facts;
    const offers = this.#offers;
    this.#offers = [];
    for (const { tab, id } of offers) {
      if (id !== (ordered.get(tab) ?? 0) + 1) continue;
      ordered.set(tab, id);
      this.tell({ op: 'refuse', tab, id });
    }
  }

  /** The lane is what the server knows of it: new messages may have their places in it. */
  #takenOver() {
    this.#isTakingOver = false;
    this.#orderNext();
  }

  /** Another tab has more than before: what has waited for that may go. */
  #seen() {
    this.#acknowledge();
    if (this.#isTakingOver || this.holds) return;
    if (this.#lane.hasNext) this.#link.flush();
    if (this.#offers.length > 0) this.#orderNext();
  }

  /** What the others were waited for, once they have it. */
  #acknowledge() {
    if (this.#lane.owesMore) this.#link.ackAt(this.#lane.owe(this.#env.now()));
  }

  #over() {
    this.#isOver = true;
    this.#hub?.close();
    this.#hub = null;
  }

  // --- the server speaks -------------------------------------------------------------------------------------------

  /** What the link has in place of the session: the others hear it first. @returns {LinkOwner} */
  #linkOwner() {
    const owner = this.#owner;
    return {
      ...owner,
      ready: (offer) => {
        this.#tellStatus();
        this.tell({ op: 'ready' });
        owner.ready(offer);
      },
      resumed: () => {
        this.#tellStatus();
        this.tell({ op: 'resumed' });
        owner.resumed();
      },
      lost: () => {
        this.#noteIdentity();
        this.#hub?.restart();
        this.tell({ op: 'lost' });
        this.#dropOffers();
        this.#company.lost();
        this.#takenOver();
      },
      text: (message) => this.#route(message),
      frame: (frame, length) => this.#frame(frame, length),
      replay: (ack) => {
        const isPossible = owner.replay(ack);
        if (isPossible) {
          this.tell({ op: 'ack', ack });
          this.#takenOver();
        }
        return isPossible;
      },
      state: (state) => {
        if (this.#isOver) return;
        this.#noteIdentity();
        // To the tabs it is the session that goes on.
        this.#company.setState(state === 'connecting' && this.#facts.identity ? 'reconnecting' : state);
        this.#tellStatus();
      },
      rung: (rung) => {
        this.#tellStatus();
        owner.rung(rung);
      },
      rtt: (rtt, answer) => {
        this.tell({ op: 'rtt', rtt, answer: { rtt: answer.rtt, skipped: answer.skipped } });
        owner.rtt(rtt, answer);
      },
      closed: (code, message) => {
        if (this.#isOver) return;
        // This tab had been taken for dead.
        if (code === 'replaced' && this.#hub) return this.#company.replaced();
        this.tell({ op: 'closed', code, message });
        this.#company.ended(code, message);
      },
      limits: (limits) => {
        this.#facts.limits = { ...limits };
        this.tell({ op: 'limits', limits: this.#facts.limits });
        owner.limits(limits);
      },
      features: (features) => {
        this.#noteIdentity();
        this.#facts.features = features;
        this.tell({ op: 'features', features });
        owner.features(features);
      },
    };
  }

  /** @param {import('../frame.js').Frame} frame @param {number} length */
  #frame(frame, length) {
    this.#noteIdentity();
    const isAhead = 'laneSeq' in frame && this.#lane.isAhead(frame.laneSeq);
    const ahead = isAhead ? this.#hub?.tabAhead : undefined;
    if (ahead !== undefined) {
      // The last leader did not wait for this tab, and had more acknowledged than it has.
      this.#company.handOver(ahead);
      return 'taken';
    }
    if (isAhead || frame.kind === 'unknown') return this.#owner.frame(frame, length);
    if (this.followers > 0) this.#hub?.pass({ op: 'frame', bytes: encodeFrame(frame) }, 'laneSeq' in frame ? frame.laneSeq : null);
    const taken = this.#owner.frame(frame, length);
    this.#hub?.saw(frame);
    return taken;
  }

  /** A refusal belongs to the tab that asked. @param {Record<string, unknown>} message */
  #route(message) {
    if (typeof message.id === 'number' && this.#hub) {
      const tab = this.#hub.tabOf(Math.floor(message.id / IDS));
      if (tab !== undefined && tab !== this.#tab) return this.#hub.to(tab, { op: 'text', message });
    } else if (!PIPE_CODES.has(String(message.code))) {
      this.tell({ op: 'text', message });
    }
    return this.#owner.text(message);
  }

  #tellStatus() {
    if (this.followers > 0) this.tell({ op: 'status', status: this.status });
    this.tellPeers();
  }

  /** This tab's connections reach others than before, or other ways. */
  tellPeers() {
    const peers = this.#owner.reached();
    if (this.#isOver || JSON.stringify(peers) === JSON.stringify(this.#facts.peers)) return;
    this.#facts.peers = peers;
    if (this.followers > 0) this.tell({ op: 'peers', peers });
  }

  /** A tab's large thing has come. @param {import('./wire.js').BulkAck} what */
  acknowledged(what) {
    const tab = this.#hub?.tabOf(what.slot);
    if (tab !== undefined && tab !== this.#tab) this.#hub?.to(tab, { op: 'acknowledged', what });
  }

  #noteIdentity() {
    if (this.#isOver) return;
    const { identity } = this.#link;
    if (identity?.session === this.#facts.identity?.session) return;
    this.#facts.identity = identity;
    this.tell({ op: 'identity', identity });
  }

  // --- the followers speak -----------------------------------------------------------------------------------------

  /** @param {import('./surroundings.js').Surroundings} surroundings @param {ReturnType<typeof import('./wire.js').namesOf>} names */
  #newHub(surroundings, names) {
    const hub = new Hub(surroundings, names, this.#tab, this.#facts, {
      now: () => this.#env.now(),
      received: () => this.#lane.received,
      later: (call, ms) => this.#env.setTimeout(call, ms),
      seen: () => this.#seen(),
      changed: (followers) => this.#link.keep(followers > 0),
      wants: (tab, said) => this.#wants(tab, said),
      snapshot: () => ({ op: 'snapshot', snapshot: this.#facts.snapshot(this.#lane, this.status) }),
      join: (message) => {
        if (this.#link.takesJoins) this.#link.sendText(message);
      },
      leave: (handle) => !this.#lane.waitsFor(handle) && this.#lane.offer(leaveOf(handle, this.#slot * IDS)),
      left: (tab, handle) => (tab === this.#tab ? this.#owner.left(handle) : hub.to(tab, { op: 'left', handle })),
    });
    return hub;
  }

  get #slot() {
    return this.#facts.tabs.get(this.#tab)?.slot ?? 0;
  }

  /** @param {string} tab @param {Up} said */
  #wants(tab, said) {
    switch (said.op) {
      case 'offer':
        return this.order(tab, said.id, said.message);
      case 'lossy':
        this.#hub?.post({ op: 'echo', message: said.message }, tab);
        this.#owner.echo(said.message, true);
        return this.#owner.lossy(said.message, said.coalesce);
      case 'start':
        this.#facts.wanted = true;
        return this.#link.start();
      case 'hurry':
        return this.#link.hurry();
      case 'ask':
        return this.#answer(tab, said.id, said.what);
      case 'bulk': {
        const { room, member, chunk } = said.wanted;
        const passed = { op: /** @type {const} */ ('passed'), to: { room, member }, bytes: chunk.payload.length };
        return this.#owner.lend(said.wanted, () => this.#hub?.to(tab, passed));
      }
      default:
        return undefined;
    }
  }

  /** @param {string} tab @param {number} id @param {'ice' | 'diagnosis'} what */
  async #answer(tab, id, what) {
    try {
      const value = await (what === 'ice' ? this.#link.iceServers() : this.#link.diagnose());
      this.#hub?.to(tab, { op: 'answer', id, value, error: '' });
    } catch (error) {
      this.#hub?.to(tab, { op: 'answer', id, value: null, error: error instanceof SwitchyardError ? error.code : 'failed' });
    }
  }
}

/** @param {number} handle @param {number} id @returns {Message} */
function leaveOf(handle, id) {
  const payload = new TextEncoder().encode(JSON.stringify({ type: 'leave', id }));
  return { kind: 'control', room: handle, stream: 0, text: true, target: { tag: 'room' }, payload };
}
