/**
 * What goes past the server: has the direct connections to the members of the rooms (mesh/mesh.js), which of the tabs that
 * share a session the leading one has for all; gives them what they need of the session, the session what comes over them, and
 * tentative copies (tentative/tentative.js) their way.
 */

import { Flag } from './frame.js';
import { BULK_STREAM } from './mesh/bulk.js';
import { COPY_STREAM, Mesh } from './mesh/mesh.js';

/** Signals of the mesh, which are not the application's. */
export const MESH_REQUEST = 'p2p';

/**
 * @typedef {import('./room.js').Room} Room
 * @typedef {import('./frame.js').Target} Target
 * @typedef {import('./mesh/mesh.js').Reached} Reached
 *
 * @typedef {object} From where a message is from
 * @property {number} room its handle
 * @property {number} flags
 * @property {number} sender
 * @property {number} stream
 * @property {Target} [target]
 *
 * @typedef {object} DirectPorts what this asks of its session
 * @property {import('./rooms.js').Rooms} rooms
 * @property {import('./sending.js').Sending} sending
 * @property {import('./tabs/shared-link.js').SharedLink | null} tabs
 * @property {import('./tentative/signing.js').Signing | null} signing where tentative copies are wanted
 * @property {() => RTCIceServer[]} servers
 * @property {() => import('./link.js').Features | null} features
 * @property {() => number} limit bytes of a message
 * @property {(from: From, payload: Uint8Array, lossy?: { seq: number, isDirect: true }) => void} message has come
 */

export class Direct {
  #ports;
  /** The connections. */
  mesh;

  /**
   * @param {import('./environment.js').Environment} env
   * @param {import('./mesh/mesh.js').PeerToPeer} policy
   * @param {DirectPorts} ports
   */
  constructor(env, policy, ports) {
    this.#ports = ports;
    this.mesh = new Mesh(env, policy, this.#meshPorts());
  }

  /** Another tab leads, or the server allows something else. Of the tabs that share a session, the leading one connects. */
  allow() {
    const { webrtc, p2p } = this.#ports.features() ?? { webrtc: true, p2p: true };
    this.mesh.allow(webrtc && p2p && this.#leads);
  }

  /** Over the connection of the tab that has it. @param {Room} room @param {Uint8Array} payload @param {number | null} to */
  sendCopy(room, payload, to) {
    const { tabs, rooms } = this.#ports;
    const handle = rooms.handleOf(room);
    if (!tabs || tabs.leads) this.mesh.sendCopy(room, payload, to);
    // What has to be said to one member, the tab with the connection says for itself.
    else if (handle !== undefined && to === null) {
      tabs.lossy({ flags: 0, room: handle, stream: COPY_STREAM, target: { tag: 'room' }, payload }, false);
    }
  }

  /** Why there are no tentative copies; empty if there are. */
  get copiesOff() {
    const { signing, features } = this.#ports;
    if (!signing) return 'not_asked_for';
    if (this.mesh.isOff) return 'no_connections';
    const { webrtc, p2p, tentative } = features() ?? {};
    return signing.reason || (webrtc && p2p && tentative ? '' : 'switched_off');
  }

  /** What became of tentative copies in this page. */
  get copies() {
    const all = [...this.#ports.rooms.all];
    const rooms = all.flatMap(({ name, tentativeOrNull: copies }) => (copies ? [{ room: name, ...copies.counters }] : []));
    return { off: this.copiesOff, rooms };
  }

  /** A lossy message has come, to this tab or to the one that has the connection. @param {import('./frame.js').LossyFrame} frame */
  received(frame) {
    const { rooms, message } = this.#ports;
    if (frame.stream === COPY_STREAM) rooms.at(frame.room)?.tentativeOrNull?.receive(frame.sender, frame.payload);
    else message(frame, frame.payload, { seq: frame.seq, isDirect: true });
  }

  /** A large thing has come to the tab that has the connection. @param {import('./mesh/bulk.js').Bulk} bulk */
  bulkElsewhere(bulk) {
    const room = this.#ports.rooms.at(bulk.room);
    if (room) this.mesh.took(room, bulk);
    this.#bulk(bulk);
  }

  /** How a member is reached, by the tab that has the connection. @param {Room} room @param {number} member */
  peer(room, member) {
    const { tabs, rooms } = this.#ports;
    return tabs && !tabs.leads ? tabs.peer(rooms.handleOf(room), member) : this.mesh.peer(room, member);
  }

  /** The tab that has the connection reaches others than before. @param {Reached[]} before @param {Reached[]} now */
  reachedElsewhere(before, now) {
    const states = new Map(now.map(([handle, member, state]) => [`${handle} ${member}`, state]));
    const gone = before.filter(([handle, member]) => !states.has(`${handle} ${member}`));
    const were = new Map(before.map(([handle, member, state]) => [`${handle} ${member}`, state]));
    const others = now.filter(([handle, member, state]) => were.get(`${handle} ${member}`) !== state);
    for (const [handle, member] of gone) this.#changed(this.#ports.rooms.at(handle), member, 'server');
    for (const [handle, member, state] of others) this.#changed(this.#ports.rooms.at(handle), member, state);
    this.mesh.pump();
  }

  /** Another tab wants to use this one's connections for a large thing. @param {import('./tabs/wire.js').BulkChunk} wanted @param {() => void} passed */
  lend({ room: handle, member, slot, chunk }, passed) {
    const room = this.#ports.rooms.at(handle);
    if (room) this.mesh.lend(room, member, slot, chunk, passed);
    else passed();
  }

  /** What this tab has sent over the leading one's connections has come. @param {import('./tabs/wire.js').BulkAck} what */
  acknowledgedElsewhere({ room: handle, member, slot, n }) {
    const room = this.#ports.rooms.at(handle);
    if (room) this.mesh.acknowledged(room, member, { tab: slot, n, isAgain: false });
  }

  /** The connections of the tab that leads, if that is another. @returns {import('./mesh/mesh.js').Elsewhere | null} */
  get #elsewhere() {
    const { tabs, rooms } = this.#ports;
    if (!tabs || tabs.leads) return null;
    return {
      isDirect: (room, member) => this.peer(room, member).state !== 'server',
      space: (room, member) => tabs.lendable({ room: rooms.handleOf(room) ?? 0, member }),
      send: (room, member, slot, chunk) => tabs.borrow({ room: rooms.handleOf(room) ?? 0, member, slot, chunk }),
    };
  }

  /** @param {Room | undefined} room @param {number} member @param {import('./mesh/pair.js').PairState} state */
  #changed(room, member, state) {
    const known = room?.members.get(member);
    if (known) room?.emit('peer', { member: known, state });
  }

  /** @param {import('./mesh/bulk.js').Bulk} bulk */
  #bulk({ room, member, data, isText, stream }) {
    this.#ports.message({ room, flags: isText ? Flag.TEXT : 0, sender: member, stream, target: { tag: 'users', users: [] } }, data);
  }

  get #leads() {
    return this.#ports.tabs?.leads ?? true;
  }

  /** @returns {import('./mesh/mesh.js').MeshPorts} */
  #meshPorts() {
    const { rooms, sending, tabs, servers, limit } = this.#ports;
    return {
      servers,
      signal: (room, member, data) => {
        if (rooms.handleOf(room) === undefined || room.leaving) return;
        try {
          sending.request(room, { type: 'signal', to_member: member, data }, MESH_REQUEST);
        } catch {
          // No room for it now: it is repeated, as if it were lost.
        }
      },
      deliver: (room, frame) => {
        const known = { ...frame, room: rooms.handleOf(room) ?? 0 };
        tabs?.direct(known);
        this.received(known);
      },
      deliverBulk: (room, member, message) => {
        const known = { ...message, room: rooms.handleOf(room) ?? 0, self: room.self?.member ?? 0, member };
        tabs?.bulk(known);
        this.#bulk(known);
      },
      takesBulk: () => this.#leads,
      tab: () => tabs?.slot ?? 0,
      taken: (room, member, tab) => tabs?.taken({ room: rooms.handleOf(room) ?? 0, self: room.self?.member ?? 0, member, tab }) ?? 0,
      elsewhere: () => this.#elsewhere,
      acknowledged: (room, member, slot, n) => tabs?.acknowledged({ room: rooms.handleOf(room) ?? 0, member, slot, n }),
      sendBulk: (room, user, payload) => {
        /** @type {Target} */
        const target = { tag: 'users', users: [user] };
        return sending.offer(room, { kind: 'data', room: 0, stream: BULK_STREAM, text: false, target, payload });
      },
      limit,
      changed: (room, member, state) => {
        tabs?.tellPeers();
        this.#changed(room, member, state);
      },
    };
  }
}
