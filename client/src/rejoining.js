/** Joins the rooms anew when the server has lost the session, and tells each how many of its messages have an unknown fate. */

import { codeOf } from './errors.js';

/**
 * @typedef {import('./room.js').Room} Room
 *
 * @typedef {object} RejoiningPorts what this asks of its session
 * @property {(room: Room) => Promise<string> | string | undefined} token
 * @property {(room: Room, token: string | undefined) => Promise<void>} join
 * @property {(room: Room, code: string) => void} failed the room has ended
 */

export class Rejoining {
  #ports;
  /** Rooms whose join is on its way. @type {Set<Room>} */
  #underway = new Set();
  /** Messages of unknown fate, until the room is joined anew. @type {Map<Room, number>} */
  #unconfirmed = new Map();

  /** @param {RejoiningPorts} ports */
  constructor(ports) {
    this.#ports = ports;
  }

  /** The server may have one more message of the room, or not. @param {Room} room */
  unconfirmed(room) {
    this.#unconfirmed.set(room, (this.#unconfirmed.get(room) ?? 0) + 1);
  }

  /** Those that are not on their way already. @param {Room[]} rooms */
  async all(rooms) {
    await Promise.all(rooms.filter((room) => !this.#underway.has(room)).map((room) => this.#rejoin(room)));
  }

  /** @param {Room} room */
  async #rejoin(room) {
    this.#underway.add(room);
    try {
      const token = this.#ports.token(room);
      // One that need not be waited for goes at once.
      await this.#ports.join(room, token instanceof Promise ? await token : token);
      this.#underway.delete(room);
      if (room.topics.length > 0) room.subscribe(room.topics);
      const unconfirmed = this.#unconfirmed.get(room) ?? 0;
      this.#unconfirmed.delete(room);
      room.emit('rejoined', { unconfirmed });
      room.emit('joined', room);
    } catch (error) {
      this.#underway.delete(room);
      this.#ports.failed(room, codeOf(error));
    }
  }
}
