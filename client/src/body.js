/**
 * Bodies of events and messages (docs/protocol.md, sections 9.5 and 9.7) between what the application gives and gets, and
 * bytes. Pure. Checks what can be checked here, so that it is refused before it is shown.
 */

import { SwitchyardError } from './errors.js';
import { BODY_BYTES } from './limits.js';
import { EventFlag, kindName } from './record.js';

/**
 * @typedef {object} Post
 * @property {string} [text]
 * @property {string[]} [mentions] user ids
 * @property {{ file: string, line?: number, end_line?: number, snippet?: string, language?: string }} [code]
 * @property {{ file?: string, from?: number, to?: number, message?: number }} [annotation]
 * @property {unknown} [meta] any JSON
 * @property {ArrayBuffer | ArrayBufferView} [opaque] instead of all these: bytes that only the clients understand
 *
 * @typedef {object} Placing
 * @property {'chat' | 'comment'} [kind] `chat` by default
 * @property {number} [thread] `seq` of the message that it answers
 * @property {number} [version] the application's own, 0–255
 */

/** Kinds whose body is JSON unless it is opaque. */
const JSON_KINDS = new Set(['chat', 'comment', 'system', 'edit', 'fields']);
const TEXT_KINDS = new Set(['react', 'unreact']);
const MENTIONS = 50;
const EMOJI_BYTES = 32;
const utf8 = new TextEncoder();

/**
 * The body of a message: as it is shown, as it is sent, and the flags that say how.
 * @param {string | Post} given
 * @returns {{ shown: Record<string, any> | Uint8Array, body: Uint8Array, flags: number }}
 */
export function messageBody(given) {
  const { text = '', mentions, code, annotation, meta, opaque } = typeof given === 'string' ? { text: given } : given;
  if (opaque !== undefined) {
    const body = limited(bytesOf(opaque));
    return { shown: body, body, flags: EventFlag.OPAQUE };
  }
  if (typeof text !== 'string') throw new SwitchyardError('bad_argument', 'text is a string');
  if (mentions && mentions.length > MENTIONS) throw new SwitchyardError('bad_argument', `at most ${MENTIONS} mentions`);
  const shown = JSON.parse(JSON.stringify({ text, mentions, code, annotation, meta }));
  return { shown, body: limited(utf8.encode(JSON.stringify(shown))), flags: 0 };
}

/** @param {Record<string, unknown>} changes */
export function fieldsBody(changes) {
  const shown = JSON.parse(JSON.stringify(changes));
  if (typeof shown !== 'object' || shown === null || Array.isArray(shown)) {
    throw new SwitchyardError('bad_argument', 'fields are an object');
  }
  return { shown, body: limited(utf8.encode(JSON.stringify(shown))) };
}

/** @param {string} emoji */
export function emojiBody(emoji) {
  const body = utf8.encode(emoji);
  if (body.length < 1 || body.length > EMOJI_BYTES) {
    throw new SwitchyardError('bad_argument', `a reaction has 1 to ${EMOJI_BYTES} bytes`);
  }
  return body;
}

/** Bytes as they are, anything else as JSON. @param {unknown} data */
export function customBody(data) {
  const isBytes = data instanceof ArrayBuffer || ArrayBuffer.isView(data);
  return limited(isBytes ? bytesOf(data) : utf8.encode(JSON.stringify(data ?? null)));
}

/**
 * A body as the application gets it: JSON of the kinds that have JSON, the emoji of reactions, else bytes of its own.
 * @param {string | undefined} kind
 * @param {number} flags
 * @param {Uint8Array} body
 * @returns {any}
 */
export function readBody(kind, flags, body) {
  if (kind && TEXT_KINDS.has(kind)) return new TextDecoder().decode(body);
  if (!kind || !JSON_KINDS.has(kind) || flags & EventFlag.OPAQUE) return body.slice();
  try {
    return JSON.parse(new TextDecoder().decode(body));
  } catch {
    return {};
  }
}

/**
 * @param {import('./record.js').EventRecord} record
 * @returns {import('./messages.js').LogEvent | null} null for a kind of a newer server
 */
export function readEvent({ seq, at, user, name, kind: number, target, version, flags, body }) {
  const kind = kindName(number);
  if (!kind) return null;
  const opaque = (flags & EventFlag.OPAQUE) !== 0;
  const incomplete = (flags & EventFlag.INCOMPLETE) !== 0;
  return { seq, at, user, name, kind, target, version, opaque, incomplete, body: readBody(kind, flags, body) };
}

/**
 * A message of a snapshot or page.
 * @param {any} sent
 * @returns {import('./messages.js').LogMessage | null}
 */
export function readMessage(sent) {
  if (typeof sent?.seq !== 'number') return null;
  const opaque = sent.opaque === true;
  return {
    id: String(sent.seq),
    seq: sent.seq,
    state: 'confirmed',
    kind: sent.kind === 'comment' || sent.kind === 'system' ? sent.kind : 'chat',
    user: String(sent.user ?? ''),
    name: String(sent.name ?? ''),
    at: Number(sent.at) || 0,
    parent: sent.parent || null,
    body: opaque && typeof sent.body === 'string' ? fromBase64(sent.body) : { ...sent.body },
    version: sent.version ?? 0,
    opaque,
    edited: sent.edited ?? null,
    deleted: sent.deleted === true,
    incomplete: sent.incomplete === true,
    streaming: false,
    reactions: Array.isArray(sent.reactions) ? sent.reactions : [],
    replies: sent.replies ?? 0,
  };
}

/**
 * The JSON of a snapshot or page; waits where it is compressed.
 * @param {number} encoding
 * @param {Uint8Array} bytes
 * @param {(bytes: Uint8Array) => Promise<Uint8Array>} inflate
 * @returns {Promise<any>}
 */
export async function readJson(encoding, bytes, inflate) {
  if (encoding > 1) throw new SwitchyardError('malformed', 'unknown encoding');
  return JSON.parse(new TextDecoder().decode(encoding === 1 ? await inflate(bytes) : bytes));
}

/** @param {Uint8Array} body */
function limited(body) {
  if (body.length > BODY_BYTES) {
    throw new SwitchyardError('too_large', `the body of an event has at most ${BODY_BYTES} bytes, this one ${body.length}`);
  }
  return body;
}

/** A copy. @param {ArrayBuffer | ArrayBufferView} data */
function bytesOf(data) {
  if (data instanceof ArrayBuffer) return new Uint8Array(data.slice(0));
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength).slice();
}

/** @param {string} text */
function fromBase64(text) {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return new Uint8Array(0);
  }
}
