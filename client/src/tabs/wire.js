/**
 * What tabs say to each other, and the check of it: another tab may be anything that runs on the same origin. Tabs of another
 * version of this talk never hear each other, because the version is in the names of the locks and channels: each version
 * then has a connection of its own.
 *
 * Up go what followers want, to the channel that the leader listens on; down go its decisions, on a channel for each follower,
 * numbered 1, 2, 3 … for each. Frames of the server travel as the bytes they are.
 */

import { TARGET_USERS } from '../limits.js';

const VERSION = 3;
/** Each tab has so many numbers for its requests to the server. */
export const IDS = 1_048_576;
/** Tabs of one session, rooms of a tab, and requests that are open: beyond that nothing is believed. */
const MANY = 4_096;
const MOST_BYTES = 1_048_576;
const STATES = ['idle', 'connecting', 'connected', 'reconnecting', 'closed'];

/**
 * @typedef {import('./lane.js').LaneState} LaneState
 * @typedef {import('../lane.js').Message<any>} Message
 * @typedef {import('../lossy.js').LossyMessage} LossyMessage
 * @typedef {import('../mesh/mesh.js').Reached} Reached
 * @typedef {{ room: number, member: number }} BulkPlace
 * @typedef {BulkPlace & { slot: number, chunk: import('../mesh/bulk.js').Chunk }} BulkChunk for the leader's connection
 * @typedef {BulkPlace & { slot: number, n: number }} BulkAck for the tab with this slot
 *
 * @typedef {object} TabRecord what all tabs know of one
 * @property {string} tab
 * @property {number} slot its share of the numbers of requests
 * @property {[string, number][]} rooms the rooms it is in, by name, with their handles; 0 until that is known
 *
 * @typedef {object} Status of the connection, as the leader sees it
 * @property {import('../link.js').LinkState} state
 * @property {import('../link.js').Rung | null} rung
 * @property {import('../peer.js').Way['relay']} relay
 * @property {number | null} rtt
 * @property {boolean} takesJoins
 * @property {number} queued
 * @property {{ websocket: number, reliable: number, lossy: number }} buffered
 * @property {import('../link.js').Link['counters']} counters
 * @property {import('../quality.js').Health} health
 *
 * @typedef {object} Snapshot all that a tab needs to follow, and to lead
 * @property {number} epoch of the lane
 * @property {LaneState} lane
 * @property {[string, number][]} ordered the last offer of each tab
 * @property {TabRecord[]} tabs
 * @property {number} slots given out
 * @property {import('../link.js').Identity | null} identity
 * @property {Record<string, unknown> | null} limits
 * @property {import('../link.js').Features | null} features
 * @property {boolean} wanted whether there is to be a connection
 * @property {Status} status
 * @property {Reached[]} peers
 * @property {[string, number][]} taken up to which number the tabs have the large things of each sender
 *
 * @typedef {(
 *   | { op: 'snapshot', snapshot: Snapshot }
 *   | { op: 'frame', bytes: Uint8Array }
 *   | { op: 'direct', bytes: Uint8Array }
 *   | { op: 'bulk', bulk: import('../mesh/bulk.js').Bulk }
 *   | { op: 'passed', to: BulkPlace, bytes: number }
 *   | { op: 'acknowledged', what: BulkAck }
 *   | { op: 'offer', tab: string, id: number, message: Message }
 *   | { op: 'refuse', tab: string, id: number }
 *   | { op: 'take' }
 *   | { op: 'ack', ack: number }
 *   | { op: 'lost' | 'ready' | 'resumed' | 'pong' | 'dropped' | 'full' }
 *   | { op: 'text', message: Record<string, unknown> }
 *   | { op: 'status', status: Status }
 *   | { op: 'peers', peers: Reached[] }
 *   | { op: 'tabs', tabs: TabRecord[], slots: number }
 *   | { op: 'identity', identity: import('../link.js').Identity | null }
 *   | { op: 'limits', limits: Record<string, unknown> }
 *   | { op: 'features', features: import('../link.js').Features }
 *   | { op: 'rtt', rtt: number, answer: import('../quality.js').Answer }
 *   | { op: 'left', handle: number }
 *   | { op: 'echo', message: LossyMessage }
 *   | { op: 'answer', id: number, value: unknown, error: string }
 *   | { op: 'handover', to: string }
 *   | { op: 'closed', code: string, message: string }
 * )} Down
 *
 * @typedef {(
 *   | { op: 'hello', visible: boolean, ordered: number }
 *   | { op: 'offer', id: number, message: Message }
 *   | { op: 'lossy', message: LossyMessage, coalesce: boolean }
 *   | { op: 'join', message: Record<string, unknown> }
 *   | { op: 'entered' | 'leave' | 'ended', room: string, handle: number }
 *   | { op: 'start' | 'bye' | 'ping' | 'hurry' }
 *   | { op: 'seen', n: number }
 *   | { op: 'has', received: number }
 *   | { op: 'visible', visible: boolean }
 *   | { op: 'ask', id: number, what: 'ice' | 'diagnosis' }
 *   | { op: 'bulk', wanted: BulkChunk }
 * )} Up
 */

/** Names of what the tabs of one user at one server share. @param {unknown[]} key */
export function namesOf(key) {
  const base = `switchyard.tabs.${VERSION} ${JSON.stringify(key)}`;
  return {
    leader: base,
    up: `${base} up`,
    hall: `${base} hall`,
    /** @param {string} tab */
    down: (tab) => `${base} down ${tab}`,
    /** Held for as long as the tab lives. @param {string} tab */
    life: (tab) => `${base} life ${tab}`,
  };
}

/** @param {any} value @returns {{ tab: string, term: number, said: Up } | null} */
export function readUp(value) {
  const { tab, term, said } = value ?? {};
  if (!isName(tab) || !isCount(term) || typeof said !== 'object' || said === null) return null;
  return isUp(said) ? { tab, term, said } : null;
}

/** @param {any} value @returns {{ term: number, n: number, said: Down } | null} */
export function readDown(value) {
  const { term, n, said } = value ?? {};
  if (!isCount(term) || !isCount(n) || typeof said !== 'object' || said === null) return null;
  return isDown(said) ? { term, n, said } : null;
}

/** Without what concerns its tab alone. @param {Message} message @returns {Message} */
export function plain({ kind, room, stream, text, target, payload }) {
  return { kind, room, stream, text, target, payload };
}

/** What a message costs in a queue, roughly. @param {any} said @returns {number} */
export function sizeOf(said) {
  const bytes = said.bytes?.length ?? said.message?.payload?.length ?? said.bulk?.data.length ?? 0;
  return 200 + bytes + (said.op === 'snapshot' ? said.snapshot.lane.sent.length * 200 : 0);
}

/** @param {any} said @returns {boolean} */
function isUp(said) {
  switch (said.op) {
    case 'hello':
      return typeof said.visible === 'boolean' && isCount(said.ordered);
    case 'offer':
      return isCount(said.id) && isMessage(said.message);
    case 'lossy':
      return isLossy(said.message) && typeof said.coalesce === 'boolean';
    case 'join':
      return said.message?.type === 'join' && isCount(said.message.id) && isName(said.message.room);
    case 'entered':
    case 'leave':
    case 'ended':
      return isName(said.room) && isUint16(said.handle);
    case 'start':
    case 'bye':
    case 'ping':
    case 'hurry':
      return true;
    case 'seen':
      return isCount(said.n);
    case 'has':
      return isCount(said.received);
    case 'visible':
      return typeof said.visible === 'boolean';
    case 'ask':
      return isCount(said.id) && (said.what === 'ice' || said.what === 'diagnosis');
    case 'bulk':
      return isBulkChunk(said.wanted);
    default:
      return false;
  }
}

/** @param {any} said @returns {boolean} */
function isDown(said) {
  switch (said.op) {
    case 'snapshot':
      return isSnapshot(said.snapshot);
    case 'frame':
    case 'direct':
      return isBytes(said.bytes);
    case 'bulk':
      return isBulk(said.bulk);
    case 'passed':
      return isBulkPlace(said.to) && isCount(said.bytes);
    case 'acknowledged':
      return isBulkPlace(said.what) && isUint16(said.what.slot) && isCount(said.what.n);
    case 'offer':
      return isName(said.tab) && isCount(said.id) && isMessage(said.message);
    case 'refuse':
      return isName(said.tab) && isCount(said.id);
    case 'ack':
      return isCount(said.ack);
    case 'take':
    case 'lost':
    case 'ready':
    case 'resumed':
    case 'pong':
    case 'dropped':
    case 'full':
      return true;
    case 'text':
      return isRecord(said.message);
    case 'status':
      return isStatus(said.status);
    case 'peers':
      return isList(said.peers, isReached);
    case 'tabs':
      return isList(said.tabs, isTab) && isCount(said.slots);
    case 'identity':
      return said.identity === null || isIdentity(said.identity);
    case 'limits':
      return isRecord(said.limits);
    case 'features':
      return isFeatures(said.features);
    case 'rtt':
      return Number.isFinite(said.rtt) && Number.isFinite(said.answer?.rtt) && isCount(said.answer.skipped);
    case 'left':
      return isUint16(said.handle);
    case 'echo':
      return isLossy(said.message);
    case 'answer':
      return isCount(said.id) && typeof said.error === 'string';
    case 'handover':
      return typeof said.to === 'string';
    case 'closed':
      return typeof said.code === 'string' && typeof said.message === 'string';
    default:
      return false;
  }
}

/** @param {any} value */
function isSnapshot(value) {
  if (!isRecord(value)) return false;
  const { epoch, lane, ordered, tabs, slots, identity, limits, features, wanted, status, peers, taken } = /** @type {any} */ (value);
  const areNumbers = (/** @type {any} */ list) => isList(list, (entry) => Array.isArray(entry) && isName(entry[0]) && isCount(entry[1]));
  const isRest = (limits === null || isRecord(limits)) && (features === null || isFeatures(features)) && typeof wanted === 'boolean';
  return (
    isCount(epoch) && isLane(lane) && areNumbers(ordered) && isList(tabs, isTab) && isCount(slots) && isRest && areNumbers(taken) &&
    (identity === null || isIdentity(identity)) && isStatus(status) && isList(peers, isReached)
  );
}

/** @param {any} value */
function isLane(value) {
  if (!isRecord(value) || !isRecord(value.waiting)) return false;
  const { sent, numbered, acked, received, waiting } = /** @type {any} */ (value);
  const { control, small, bulk, turns, later, sinceBulk } = waiting;
  const isSent = (/** @type {any} */ entry) => isBytes(entry?.bytes) && isCount(entry.cost) && (entry.tag === null || isLabel(entry.tag));
  const isKeyed = (/** @type {any} */ line) => isLine(line) && isCount(line.key) && line.messages.length > 0;
  const areNumbers = [numbered, acked, received, sinceBulk].every(isCount);
  if (!areNumbers || !isList(sent, isSent, 65_536) || !isLine(control) || !isLine(small) || !isList(bulk, isKeyed, 65_536)) return false;
  const keys = new Set(bulk.map((/** @type {any} */ line) => line.key));
  return isList(turns, (key) => keys.has(key), 65_536) && isList(later, (key) => keys.has(key), 65_536);
}

/** @param {any} value */
function isLine(value) {
  const isWaiting = (/** @type {any} */ message) => isMessage(message) && isLabel(message.tag);
  return isRecord(value) && isCount(value.offset) && isList(value.messages, isWaiting, 65_536);
}

/** @param {any} value */
function isMessage(value) {
  if (!isRecord(value)) return false;
  const { kind, room, stream, text, target, payload } = value;
  const isKind = kind === 'data' || kind === 'control' || kind === 'log';
  return isKind && isUint16(room) && isUint16(stream) && typeof text === 'boolean' && isTarget(target) && isBytes(payload);
}

/** @param {any} value */
function isLossy(value) {
  if (!isRecord(value)) return false;
  const { flags, room, stream, target, payload } = value;
  return (flags === 0 || flags === 1) && isUint16(room) && isUint16(stream) && isTarget(target) && isBytes(payload);
}

/** @param {any} value */
function isBulk(value) {
  if (!isRecord(value)) return false;
  const { tab, n, room, self, member, stream, isText, data } = value;
  const areNumbers = [n, self, member].every(isCount) && [tab, room, stream].every(isUint16);
  return areNumbers && typeof isText === 'boolean' && isBytes(data);
}

/** @param {any} value */
function isBulkPlace(value) {
  return isRecord(value) && isUint16(value.room) && isCount(value.member);
}

/** @param {any} value */
function isBulkChunk(value) {
  return isBulkPlace(value) && isUint16(value.slot) && isRecord(value.chunk) && isUint16(value.chunk.flags) && isCount(value.chunk.total) && isBytes(value.chunk.payload);
}

/** @param {any} value */
function isTarget(value) {
  if (value?.tag === 'users') return isList(value.users, isName, TARGET_USERS);
  return value?.tag === 'room' || (value?.tag === 'topic' && isName(value.topic));
}

/** @param {any} value */
function isStatus(value) {
  if (!isRecord(value) || !isRecord(value.health) || !isRecord(value.buffered) || !isRecord(value.counters)) return false;
  const { state, rung, rtt, takesJoins, queued, health } = /** @type {any} */ (value);
  const isRung = rung === null || typeof rung === 'string';
  const isHealthy = [health.waitingMs, health.silentMs, health.bufferAgeMs].every(Number.isFinite) && typeof health.connected === 'boolean';
  return STATES.includes(state) && isRung && (rtt === null || Number.isFinite(rtt)) && typeof takesJoins === 'boolean' && isCount(queued) && isHealthy;
}

/** @param {any} value */
function isReached(value) {
  if (!Array.isArray(value)) return false;
  const [handle, member, state, rtt] = value;
  return isUint16(handle) && isCount(member) && (state === 'direct' || state === 'relay') && (rtt === null || Number.isFinite(rtt));
}

/** @param {any} value */
function isTab(value) {
  const isRoom = (/** @type {any} */ room) => Array.isArray(room) && isName(room[0]) && isUint16(room[1]);
  return isRecord(value) && isName(value.tab) && isCount(value.slot) && isList(value.rooms, isRoom);
}

/** @param {any} value */
function isIdentity(value) {
  return typeof value?.session === 'string' && typeof value.ticket === 'string';
}

/** @param {any} value */
function isFeatures(value) {
  return typeof value?.webrtc === 'boolean' && typeof value.relay === 'boolean';
}

/** @param {any} value */
function isLabel(value) {
  return isName(value?.tab) && isCount(value.id);
}

/** @param {any} value @returns {value is Record<string, any>} */
function isRecord(value) {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** @param {any} value @param {(entry: any) => boolean} is @param {number} [most] */
function isList(value, is, most = MANY) {
  return Array.isArray(value) && value.length <= most && value.every(is);
}

/** @param {any} value */
function isName(value) {
  return typeof value === 'string' && value.length > 0 && value.length <= 256;
}

/** @param {any} value */
function isCount(value) {
  return Number.isSafeInteger(value) && value >= 0;
}

/** @param {any} value */
function isUint16(value) {
  return isCount(value) && value <= 65_535;
}

/** @param {any} value */
function isBytes(value) {
  return value instanceof Uint8Array && value.length <= MOST_BYTES;
}
