/**
 * What two members say to each other about their direct connection, as the data of a signal (docs/protocol.md, section 4.1):
 * reading and limits. What comes from another browser is believed no further than this. Pure.
 */

/** The name that tells these signals from those of the application. */
const NAME = 'p2p';
const VERSION = 1;
const SDP_BYTES = 12_288;
const CANDIDATE_BYTES = 512;
/** In one signal. */
export const CANDIDATES = 16;
/** Highest number of a connection or a description. */
const MOST = 0x7fff_ffff;

/**
 * @typedef {{ type: 'hello', id: string, handle: number, answer: boolean }} Hello I can, and frames to me in this room carry
 *   this handle. `answer`: say so too.
 * @typedef {{ type: 'offer' | 'answer', id: string, to: string, c: number, d: number, re: number, sdp: string }} Description
 *   number `d` of the sender's descriptions of connection `c`; an answer is to the offer `re`
 * @typedef {{ type: 'candidates', id: string, to: string, c: number, d: number, list: RTCIceCandidateInit[], end: boolean }}
 *   Candidates of description `d`; with `end` there are no more
 * @typedef {{ type: 'bye', id: string, to: string, c: number, gone: boolean }} Bye connection `c` and those before are closed;
 *   `gone`: and no other is wanted
 * @typedef {Description | Candidates | Bye} PairSignal
 * @typedef {Hello | PairSignal} Signal
 */

/** @param {Signal} signal */
export function signalData(signal) {
  return { switchyard: NAME, v: VERSION, ...signal };
}

/** Whether a signal is about direct connections, readable or not: the application does not get those. @param {unknown} data */
export function isOurs(data) {
  return typeof data === 'object' && data !== null && /** @type {any} */ (data).switchyard === NAME;
}

/**
 * @param {any} data
 * @returns {Signal | null} null if it is not readable, or of another version
 */
export function readSignal(data) {
  const { v, type, id, to, handle, answer, c, d, re, sdp, list, end, gone } = data;
  if (v !== VERSION || !isId(id)) return null;
  if (type === 'hello') return isNumber(handle, 0xffff) ? { type, id, handle, answer: answer === true } : null;
  if (!isId(to) || !isNumber(c)) return null;
  if (type === 'bye') return { type, id, to, c, gone: gone === true };
  if (!isNumber(d)) return null;
  if (type === 'candidates') {
    if (!Array.isArray(list) || list.length > CANDIDATES) return null;
    return { type, id, to, c, d, list: list.flatMap(readCandidate), end: end === true };
  }
  if (type !== 'offer' && type !== 'answer') return null;
  if (typeof sdp !== 'string' || sdp.length > SDP_BYTES || (type === 'answer' && !isNumber(re))) return null;
  return { type, id, to, c, d, re: type === 'answer' ? re : 0, sdp };
}

/** @param {any} value @returns {RTCIceCandidateInit[]} none if it cannot be one */
function readCandidate(value) {
  const { candidate, sdpMid, sdpMLineIndex, usernameFragment } = value ?? {};
  if (typeof candidate !== 'string' || candidate.length > CANDIDATE_BYTES) return [];
  /** @type {RTCIceCandidateInit} */
  const init = { candidate, sdpMid: '0', sdpMLineIndex: 0 };
  if (typeof sdpMid === 'string' && sdpMid.length <= 16) init.sdpMid = sdpMid;
  if (isNumber(sdpMLineIndex, 16)) init.sdpMLineIndex = sdpMLineIndex;
  if (typeof usernameFragment === 'string' && usernameFragment.length <= 256) init.usernameFragment = usernameFragment;
  return [init];
}

/** @param {unknown} value @returns {value is string} */
function isId(value) {
  return typeof value === 'string' && /^[0-9a-f]{16}$/.test(value);
}

/** @param {unknown} value @param {number} [most] @returns {value is number} */
function isNumber(value, most = MOST) {
  return typeof value === 'number' && Number.isInteger(value) && value >= 0 && value <= most;
}
