/**
 * The bytes of tentative copies (docs/protocol.md, section 4.3): an event as its author sends it to the members that it is
 * connected with, ahead of the log; that it was refused; and that a copy was refused. The first two are signed, from their
 * first byte to the signature, behind a label that no other signature begins with. Pure; the keys are signing.js's matter.
 */

import { FrameError } from '../frame.js';
import { CONTENT, SUBMISSION, decodeFields, encodeFields, joined, kindName } from '../record.js';

/** Of a copy, signature included: what a lossy message may have. */
export const COPY_BYTES = 15_360;
/** Other copies that the author had seen when it wrote. */
export const PARENTS = 8;
export const SIGNATURE_BYTES = 64;

const TYPES = Object.freeze({ event: 1, withdrawn: 2, refused: 3 });
const ID_BYTES = 12;
const LABEL = new TextEncoder().encode('switchyard tentative 1\n');

/** Why a copy is refused. */
export const CODES = Object.freeze([
  'switched_off',
  'rate_limited',
  'too_large',
  'malformed',
  'too_many_parents',
  'wrong_room',
  'wrong_sender',
  'unknown_signer',
  'bad_signature',
  'replayed',
  'too_many_held',
]);

/**
 * @typedef {{ origin: string, cseq: number }} EventId
 *
 * @typedef {object} Heading who says it, and where
 * @property {string} key the first digits of the signing key
 * @property {string} tenant
 * @property {string} room
 * @property {number} member
 *
 * @typedef {Heading & EventId & import('../record.js').Content & { type: 'event', after: number, parents: EventId[] }} EventCopy
 *   `after`: the last event of the log that the author had read
 * @typedef {Heading & EventId & { type: 'withdrawn' }} Withdrawal the server has refused it
 * @typedef {{ type: 'refused', code: string }} RefusalNote
 * @typedef {EventCopy | Withdrawal} Statement what is signed
 */

/** @type {[string, import('../record.js').Form][]} */
const HEADING = [['key', 'id'], ['tenant', 'name'], ['room', 'name'], ['member', 'u32'], ...SUBMISSION];
/** @type {Record<keyof typeof TYPES, [string, import('../record.js').Form][]>} */
const FIELDS = {
  event: [['type', 'u8'], ...HEADING, ['after', 'count'], ['parents', 'short'], ...CONTENT, ['body', 'rest']],
  withdrawn: [['type', 'u8'], ...HEADING],
  refused: [['type', 'u8'], ['code', 'name']],
};
const NAMES = /** @type {(keyof typeof TYPES)[]} */ (Object.keys(TYPES));
/** @type {[string, import('../record.js').Form][]} */
const PARENT = SUBMISSION;

/** Kinds that members write; the others are the server's. */
const WRITTEN = new Set(['chat', 'comment', 'edit', 'delete', 'react', 'unreact', 'fields', 'custom']);

/** What is signed, without its signature. @param {Statement} statement */
export function encodeStatement(statement) {
  const parents = statement.type === 'event' ? joined(statement.parents.map((id) => encodeFields(PARENT, id))) : null;
  return encodeFields(FIELDS[statement.type], { ...statement, type: TYPES[statement.type], parents });
}

/** @param {string} code */
export function encodeRefusal(code) {
  return encodeFields(FIELDS.refused, { type: TYPES.refused, code });
}

/** What the signature is of. @param {Uint8Array} statement */
export function signedBytes(statement) {
  return joined([LABEL, statement]);
}

/**
 * @param {Uint8Array} bytes
 * @returns {{ said: Statement, statement: Uint8Array, signature: Uint8Array } | { said: RefusalNote } | { code: string }} `code`:
 *   why it is not read
 */
export function decodeCopy(bytes) {
  if (bytes.length > COPY_BYTES) return { code: 'too_large' };
  const type = NAMES.find((name) => TYPES[name] === bytes[0]);
  if (!type) return { code: 'malformed' };
  try {
    if (type === 'refused') {
      const { code } = decodeFields(FIELDS.refused, bytes);
      return CODES.includes(code) ? { said: { type, code } } : { code: 'malformed' };
    }
    if (bytes.length < SIGNATURE_BYTES) return { code: 'malformed' };
    const end = bytes.length - SIGNATURE_BYTES;
    const [statement, signature] = [bytes.subarray(0, end), bytes.subarray(end)];
    const said = /** @type {any} */ ({ ...decodeFields(FIELDS[type], statement), type });
    if (type === 'event') {
      if (!isWritten(said) || said.parents.length % ID_BYTES !== 0) return { code: 'malformed' };
      if (said.parents.length > PARENTS * ID_BYTES) return { code: 'too_many_parents' };
      said.parents = idsIn(said.parents);
    }
    return { said, statement, signature };
  } catch (error) {
    if (error instanceof FrameError) return { code: 'malformed' };
    throw error;
  }
}

/** @param {import('../record.js').Content} content */
function isWritten({ kind }) {
  return WRITTEN.has(kindName(kind) ?? '');
}

/** @param {Uint8Array} bytes @returns {EventId[]} */
function idsIn(bytes) {
  const ids = [];
  for (let at = 0; at < bytes.length; at += ID_BYTES) {
    ids.push(/** @type {EventId} */ (decodeFields(PARENT, bytes.subarray(at, at + ID_BYTES))));
  }
  return ids;
}
