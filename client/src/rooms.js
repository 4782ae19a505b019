/** The rooms this page is in or is joining, by name and by the handle each has in the session. */

/** @typedef {import('./room.js').Room} Room */

export class Rooms {
  /** @type {Map<string, Room>} */
  #byName = new Map();
  /** @type {Map<number, Room>} */
  #byHandle = new Map();
  /** @type {Map<Room, number>} */
  #handles = new Map();

  /** Those that are being joined too. */
  get all() {
    return this.#byName.values();
  }

  /** @param {string} name */
  get(name) {
    return this.#byName.get(name);
  }

  /** @param {number} handle */
  at(handle) {
    return this.#byHandle.get(handle);
  }

  /** None before the room is joined, and while it is joined anew. @param {Room} room */
  handleOf(room) {
    return this.#handles.get(room);
  }

  /** False once it has been left, whether or not another of its name is there. @param {Room} room */
  has(room) {
    return this.#byName.get(room.name) === room;
  }

  /** One that is to be joined. @param {Room} room */
  add(room) {
    this.#byName.set(room.name, room);
  }

  /** It is joined. @param {Room} room @param {number} handle */
  entered(room, handle) {
    this.#byHandle.set(handle, room);
    this.#handles.set(room, handle);
  }

  /** @param {Room} room */
  remove(room) {
    if (this.has(room)) this.#byName.delete(room.name);
    const handle = this.#handles.get(room);
    if (handle === undefined) return;
    this.#handles.delete(room);
    this.#byHandle.delete(handle);
  }

  /** The session that gave the handles is over. */
  forgetHandles() {
    this.#byHandle.clear();
    this.#handles.clear();
  }
}
