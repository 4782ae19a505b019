/**
 * The server's control messages (docs/protocol.md, section 4): answers to joins, and what is new in a room. Each is told to
 * whom it concerns: the room, its log, the mesh, whoever has joined.
 */

import { list, readMember, readQuality, text } from './control.js';
import { MESH_REQUEST } from './direct.js';
import { SwitchyardError } from './errors.js';
import { parseObject } from './socket.js';
import { identityIn } from './token.js';

/**
 * @typedef {import('./room.js').Room} Room
 *
 * @typedef {object} NoticesPorts what this asks of its session
 * @property {import('./rooms.js').Rooms} rooms
 * @property {import('./joins.js').Joins} joins
 * @property {import('./sending.js').Sending} sending
 * @property {import('./tokens.js').Tokens} tokens
 * @property {import('./mesh/mesh.js').Mesh} mesh
 * @property {import('./tabs/shared-link.js').SharedLink | null} tabs
 * @property {(ticket: string) => void} renew the session's ticket is another
 * @property {(room: Room, reason: string) => void} ended the room was left
 * @property {() => void} bad a message cannot be read
 * @property {(error: SwitchyardError) => void} error
 */

export class Notices {
  #ports;

  /** @param {NoticesPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /** @param {number} handle @param {Uint8Array} payload */
  take(handle, payload) {
    const message = parseObject(new TextDecoder().decode(payload));
    const room = this.#ports.rooms.at(handle);
    if (this.#ports.tabs && message?.type === 'refused' && typeof message.id === 'number' && !this.#ports.tabs.isOwn(message.id)) return;
    if (message?.type === 'joined') {
      this.#joined(message);
      return;
    }
    if (handle === 0 && message?.type === 'ticket') {
      if (typeof message.ticket === 'string') this.#ports.renew(message.ticket);
      return;
    }
    const join = message?.type === 'refused' ? this.#ports.joins.get(message.id) : undefined;
    if (message && join) {
      // The room refused, not the server: an offer that came with the join stands.
      this.#ports.joins.fail(join, new SwitchyardError(text(message.code), text(message.message)), { offerStands: true });
      return;
    }
    if (!message || !room) {
      if (!message) this.#ports.bad();
      return;
    }
    if (room.logOrNull?.control(message)) return;
    switch (message.type) {
      case 'left':
        this.#ports.ended(room, text(message.reason));
        break;
      case 'member_joined': {
        const member = readMember(message.member);
        if (member) room.memberJoined(member);
        this.#ports.mesh.memberJoined(room);
        break;
      }
      case 'member_left':
        // Its last messages may still follow, for control messages go first; the server has them whole.
        room.memberLeft(Number(message.member), text(message.reason));
        this.#ports.mesh.memberLeft(room, Number(message.member));
        break;
      case 'quality':
        room.memberQuality(Number(message.member), readQuality(message));
        break;
      case 'signal': {
        if (this.#ports.mesh.signal(room, Number(message.from), text(message.user), message.data)) break;
        const known = room.member(Number(message.from));
        room.emit('signal', { from: { ...known, user: text(message.user) }, data: message.data });
        break;
      }
      case 'subscribed':
        room.emit('subscribed', { topics: list(message.topics).map(text) });
        break;
      case 'refused':
        this.#refused(room, message);
        break;
      default:
        break;
    }
  }

  /** @param {Record<string, unknown>} message */
  #joined(message) {
    const join = this.#ports.joins.get(message.id);
    if (!join || typeof message.handle !== 'number' || message.room !== join.room.name) return;
    this.#ports.joins.take(join);
    const { room } = join;
    const permissions = list(message.permissions).map(text);
    if (join.refresh) {
      room.permissions = permissions;
    } else {
      const self = readMember({ name: '', ...message });
      const members = list(message.members).flatMap((member) => readMember(member) ?? []);
      this.#ports.rooms.entered(room, message.handle);
      this.#ports.tabs?.entered(room.name, message.handle);
      room.enter(self ?? { member: 0, user: '', name: '', role: '' }, members, permissions);
      this.#ports.sending.unpark(room, message.handle);
      this.#enterLog(join, message);
      this.#ports.mesh.entered(room, message.handle);
    }
    if (join.token !== undefined) this.#ports.tokens.accepted(room, join.token);
    join.resolve();
  }

  /** @param {import('./joins.js').Join} join @param {Record<string, unknown>} joined */
  #enterLog({ room, token }, joined) {
    const log = room.logOrNull;
    if (!log) return;
    try {
      log.identify({ tenant: identityIn(token ?? '')?.tenant ?? '', user: text(joined.user) });
    } catch (error) {
      // What another user has written must not be sent as this one's.
      queueMicrotask(() => room.leave());
      this.#ports.error(/** @type {SwitchyardError} */ (error));
      return;
    }
    const sent = /** @type {Record<string, unknown> | undefined} */ (joined.log);
    const origin = typeof sent?.origin === 'string' ? sent.origin : null;
    // The origin of a member that is several tabs may be another tab's; the first snapshot may have come to that too.
    log.entered(origin, this.#ports.tabs?.isShared ? { isSecond: this.#ports.tabs.sharesRoom(room.name) } : undefined);
  }

  /** @param {Room} room @param {Record<string, unknown>} message */
  #refused(room, message) {
    room.counters.refused += 1;
    // The mesh tries again by itself, and the member may be gone.
    const request = this.#ports.sending.requestOf(message.id);
    if (request === MESH_REQUEST) return;
    /** @type {import('./room.js').RefusedEvent} */
    const event = { code: text(message.code), message: text(message.message) };
    if (request) event.request = request;
    if (typeof message.stream === 'number') event.stream = message.stream;
    if (typeof message.retry_after_ms === 'number') event.retryAfterMs = message.retry_after_ms;
    room.emit('refused', event);
  }
}
