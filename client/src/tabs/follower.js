/**
 * What a tab does that does not lead: hears the leader's decisions and does the same to its own copy, tells the leader what it
 * wants, and notices when the leader does not answer any more.
 */

import { FrameError, decodeFrame } from '../frame.js';
import { readLimits } from '../limits.js';
import { tabsOf } from './hub.js';
import { waitingIn } from './lane.js';
import { plain } from './wire.js';

/** A leader that says nothing for so long is asked, and if it does not answer, replaced. */
const QUIET_MS = 3_000;
const DEAD_MS = 6_000;
/** Lossy messages to a leader that does not answer. */
const LOSSY_AHEAD = 512;
const SEEN_EVERY = 32;
/** Given to the leader for a connection, and not passed on by it. */
const BORROWED_BYTES = 262_144;

/**
 * @typedef {import('./wire.js').Down} Down
 * @typedef {import('./wire.js').Up} Up
 * @typedef {import('./wire.js').Snapshot} Snapshot
 *
 * @typedef {object} Company what a follower asks of its tab
 * @property {(tab: string, id: number, message: import('../lane.js').Message<any>) => void} admit
 * @property {(tab: string, id: number, message: import('../lane.js').Message<any>) => void} echo a message of another tab that this one may have heard of
 * @property {(ordered: Map<string, number>) => void} begins nothing is told of messages before these
 * @property {(begins?: import('./lane.js').LaneState, epoch?: number) => void} lost the session is another: a new lane
 * @property {(state: import('../link.js').LinkState) => void} setState
 * @property {(code: string, message: string) => void} ended
 * @property {() => void} missed it has not heard everything
 * @property {(to: string) => void} handedOver the leader has let go, and all it said is here
 */

class Borrowed {
  /** @type {Map<string, number>} */
  #bytes = new Map();

  /** @param {import('./wire.js').BulkPlace} to */
  of({ room, member }) {
    return this.#bytes.get(`${room} ${member}`) ?? 0;
  }

  /** @param {import('./wire.js').BulkPlace} to @param {number} bytes */
  add({ room, member }, bytes) {
    const sum = this.of({ room, member }) + bytes;
    if (sum > 0) this.#bytes.set(`${room} ${member}`, sum);
    else this.#bytes.delete(`${room} ${member}`);
  }
}

export class Follower {
  #env;
  #tab;
  #facts;
  #lane;
  #owner;
  #up;
  #questions;
  #company;
  /** The last decision heard. */
  #n = 0;
  #heardAt;
  #askedAt = -Infinity;
  #lossyAhead = 0;
  /** Bytes that were given to the leader for its connections, by room and member, and have not left it, as far as is known. */
  #borrowed = new Borrowed();

  /**
   * @param {object} options
   * @param {import('../environment.js').Environment} options.env
   * @param {string} options.tab
   * @param {import('./facts.js').Facts} options.facts
   * @param {import('./lane.js').TabLane} options.lane
   * @param {import('../link.js').LinkOwner & import('./shared-link.js').Sharing} options.owner the session
   * @param {import('./surroundings.js').Channel} options.up
   * @param {import('./questions.js').TabQuestions} options.questions
   * @param {Company} company
   */
  constructor({ env, tab, facts, lane, owner, up, questions }, company) {
    this.#env = env;
    this.#tab = tab;
    this.#facts = facts;
    this.#lane = lane;
    this.#owner = owner;
    this.#up = up;
    this.#questions = questions;
    this.#company = company;
    this.#heardAt = env.now();
  }

  /** Asks to be taken in. @param {boolean} visible */
  hello(visible) {
    this.say({ op: 'hello', visible, ordered: this.#lane.lastId });
  }

  /** @param {Up} said */
  say(said) {
    this.#up.postMessage({ tab: this.#tab, term: this.#facts.term, said });
  }

  /** @param {import('../lossy.js').LossyMessage} message @param {boolean} coalesce */
  lossy(message, coalesce) {
    if (this.#lossyAhead < LOSSY_AHEAD) this.say({ op: 'lossy', message, coalesce });
    this.#lossyAhead += 1;
  }

  /** Bytes that the leader takes for its connection with a member now. @param {import('./wire.js').BulkPlace} to */
  lendable(to) {
    return BORROWED_BYTES - this.#borrowed.of(to);
  }

  /** @param {import('./wire.js').BulkChunk} wanted */
  borrow(wanted) {
    this.#borrowed.add(wanted, wanted.chunk.payload.length);
    this.say({ op: 'bulk', wanted });
  }

  /**
   * A leader has taken this tab in, or a new one goes on.
   * @param {{ term: number, n: number, snapshot: Snapshot }} taken
   * @param {{ knew: boolean, missed: boolean }} was whether it followed before, and whether it has missed something
   */
  takeIn({ term, n, snapshot }, { knew, missed }) {
    const facts = this.#facts;
    this.#n = n;
    this.#heardAt = this.#env.now();
    facts.take(snapshot, term);
    if (snapshot.limits) this.#takeLimits(snapshot.limits);
    if (snapshot.features) this.#takeFeatures(snapshot.features);
    const isLost = missed || (knew && snapshot.epoch !== this.#lane.epoch);
    if (isLost || !knew) this.#company.begins(facts.ordered);
    if (isLost) this.#company.lost(snapshot.lane, snapshot.epoch);
    else {
      this.#lane.epoch = snapshot.epoch;
      const done = this.#lane.follow(snapshot.lane, facts.ordered.get(this.#tab) ?? 0, knew);
      done.forEach((tag) => this.#owner.confirmed(tag));
      for (const { tag, ...message } of waitingIn(snapshot.lane)) this.#company.echo(tag.tab, tag.id, message);
    }
    this.#borrowed = new Borrowed();
    this.#takePeers(snapshot.peers);
    this.#takeStatus(snapshot.status);
  }

  /** All that a leader needs to hear of this tab. @param {{ rooms: Map<string, number>, leaving: Map<number, string>, visible: boolean }} own */
  sayAll({ rooms, leaving, visible }) {
    this.say({ op: 'has', received: this.#lane.received });
    this.say({ op: 'visible', visible });
    for (const { id, message } of this.#lane.offers) this.say({ op: 'offer', id, message: plain(message) });
    for (const [room, handle] of rooms) this.say({ op: 'entered', room, handle });
    for (const [handle, room] of leaving) this.say({ op: 'leave', room, handle });
    this.#questions.again((id, what) => this.say({ op: 'ask', id, what }));
    if (this.#facts.wanted) this.say({ op: 'start' });
  }

  /** Does what the leader has decided, if it is the next. @param {number} n @param {Down} said */
  follow(n, said) {
    if (n !== this.#n + 1) return this.#company.missed();
    this.#n = n;
    this.#heardAt = this.#env.now();
    this.#lossyAhead = 0;
    // The leader waits for it, before it acknowledges or sends what that is about; or it is large, and what is not seen is limited.
    const isAwaited = said.op === 'frame' || said.op === 'offer' || said.op === 'bulk';
    if (isAwaited || n % SEEN_EVERY === 0) this.say({ op: 'seen', n });
    return this.#apply(said);
  }

  /** This tab has slept, or led: it has heard nothing of anybody. */
  listenAnew() {
    this.#heardAt = this.#env.now();
  }

  /** Once a second. Whether the leader is dead. @param {number} now @param {boolean} follows */
  beat(now, follows) {
    if (follows) this.say({ op: 'seen', n: this.#n });
    const quiet = now - this.#heardAt;
    if (quiet < QUIET_MS) return false;
    if (now - this.#askedAt > DEAD_MS) this.#askedAt = now;
    if (follows) this.say({ op: 'ping' });
    return quiet >= DEAD_MS && now - this.#askedAt >= DEAD_MS - QUIET_MS;
  }

  /** @param {Down} said */
  #apply(said) {
    const owner = this.#owner;
    const facts = this.#facts;
    switch (said.op) {
      case 'frame':
        return this.#frame(said.bytes);
      case 'direct':
        return this.#direct(said.bytes);
      case 'bulk':
        facts.took(said.bulk);
        return owner.bulk(said.bulk);
      case 'passed':
        this.#borrowed.add(said.to, -said.bytes);
        return owner.lends();
      case 'acknowledged':
        return owner.acknowledged(said.what);
      case 'offer':
        facts.ordered.set(said.tab, said.id);
        return this.#company.admit(said.tab, said.id, said.message);
      case 'refuse':
        facts.ordered.set(said.tab, said.id);
        return said.tab === this.#tab ? owner.refused(this.#lane.refuse(said.id)) : undefined;
      case 'take':
        return this.#lane.take();
      case 'ack':
        owner.frame({ kind: 'ack', ack: said.ack }, 0);
        return undefined;
      case 'lost':
        return this.#company.lost();
      case 'ready':
      case 'resumed':
        return owner.resumed();
      case 'text':
        return owner.text(said.message);
      case 'status':
        return this.#takeStatus(said.status);
      case 'peers':
        return this.#takePeers(said.peers);
      case 'tabs':
        facts.tabs = tabsOf(said.tabs);
        facts.slots = said.slots;
        return undefined;
      case 'identity':
        facts.identity = said.identity;
        return undefined;
      case 'limits':
        return this.#takeLimits(said.limits);
      case 'features':
        return this.#takeFeatures(said.features);
      case 'rtt':
        facts.status = { ...facts.status, rtt: said.rtt };
        return owner.rtt(said.rtt, said.answer);
      case 'left':
        return owner.left(said.handle);
      case 'echo':
        return owner.echo(said.message, true);
      case 'answer':
        return this.#questions.answer(said.id, said.value, said.error);
      case 'handover':
        return this.#company.handedOver(said.to);
      case 'closed':
        return this.#company.ended(said.code, said.message);
      default:
        return undefined;
    }
  }

  /** @param {Uint8Array} bytes */
  #frame(bytes) {
    let taken;
    try {
      taken = this.#owner.frame(decodeFrame(bytes), bytes.length);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      taken = 'lane_gap';
    }
    if (taken === 'lane_gap') this.#company.missed();
  }

  /** @param {Uint8Array} bytes */
  #direct(bytes) {
    try {
      const frame = decodeFrame(bytes);
      if (frame.kind === 'lossy') this.#owner.direct(frame);
    } catch (error) {
      if (!(error instanceof FrameError)) throw error;
      this.#company.missed();
    }
  }

  /** @param {Record<string, unknown>} limits */
  #takeLimits(limits) {
    this.#facts.limits = limits;
    this.#owner.limits(readLimits(limits));
  }

  /** @param {import('../link.js').Features} features */
  #takeFeatures(features) {
    this.#facts.features = features;
    this.#owner.features(features);
  }

  /** @param {import('./wire.js').Reached[]} peers */
  #takePeers(peers) {
    const before = this.#facts.peers;
    this.#facts.peers = peers;
    this.#owner.peers(before, peers);
  }

  /** @param {import('./wire.js').Status} status */
  #takeStatus(status) {
    const { rung } = this.#facts.status;
    this.#facts.status = status;
    this.#company.setState(status.state);
    if (status.rung !== null && status.rung !== rung) this.#owner.rung(status.rung);
    if (status.state === 'connected') this.#owner.tick(this.#env.now());
  }
}
