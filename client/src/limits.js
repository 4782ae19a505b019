/**
 * Limits of the protocol. The ones in `Limits` are sent by the server in `welcome`; the constants are fixed by the
 * protocol's version. The server's half is `signaling/src/limits.rs`.
 */

/** Bytes of payload in a chunk; a longer message is cut. */
export const CHUNK_BYTES = 16_384;
/** Largest pipe message on a data channel. */
export const CHANNEL_MESSAGE_BYTES = 20_480;
/** Largest pipe message on the WebSocket. */
export const SOCKET_MESSAGE_BYTES = 65_536;
/** What may lie in the browser's own queue of a pipe; above it our scheduler decides what goes first. */
export const PIPE_QUEUE_BYTES = 65_536;
/** Bytes of frames that go over another pipe, too, for one doubt: on a path that is slow and not broken they are wasted. */
export const COPY_BYTES = 262_144;
/** What a held message or frame counts beyond its payload, so that empty ones are bounded too. */
export const OVERHEAD_BYTES = 64;
/** Bytes in unfinished messages that a receiver keeps. */
export const UNFINISHED_BYTES = 16_777_216;
/** Longest message of records. */
export const LOG_MESSAGE_BYTES = 262_144;
/** Submissions of a writer without an answer, and the bytes of their bodies. */
export const WRITER_WINDOW = 64;
export const WRITER_WINDOW_BYTES = 131_072;
/** Bytes of the body of a message, and of the text of a streamed one. */
export const BODY_BYTES = 65_536;
export const STREAM_TEXT_BYTES = 196_608;
/** Bytes of the data of a signal, as JSON. */
export const SIGNAL_BYTES = 16_384;
/**
 * When a lone acknowledgement goes out: after so many frames, bytes or milliseconds.
 * @typedef {{ frames: number, bytes: number, delay: number }} Acks
 */
/** @type {Acks} */
export const SERVER_ACKS = { frames: 32, bytes: 65_536, delay: 100 };
/** A client lets the server wait longer: nobody watches for it, and each costs the server a message. @type {Acks} */
export const CLIENT_ACKS = { frames: 256, bytes: 262_144, delay: 400 };
/** Messages of several chunks that a sender has begun and not finished. */
export const OPEN_MESSAGES = 16;
/** Users that one message can name, and the longest name of a user and of a topic in bytes. */
export const TARGET_USERS = 16;
export const USER_BYTES = 128;
export const TOPIC_BYTES = 64;

/**
 * @typedef {object} Limits
 * @property {number} max_message_bytes a reliable message
 * @property {number} max_lossy_bytes a lossy message
 * @property {number} replay_limit_bytes held until acknowledged
 * @property {number} rooms_per_session
 * @property {number} topics_per_member
 * @property {number} resume_grace_ms how long a session without a pipe lives
 */

/** @type {Readonly<Limits>} */
export const DEFAULT_LIMITS = Object.freeze({
  max_message_bytes: 262_144,
  max_lossy_bytes: 15_360,
  replay_limit_bytes: 1_048_576,
  rooms_per_session: 32,
  topics_per_member: 32,
  resume_grace_ms: 10_000,
});

/**
 * The limits in a `welcome`, where a missing or senseless field keeps its default.
 * @param {unknown} sent
 * @returns {Limits}
 */
export function readLimits(sent) {
  const limits = { ...DEFAULT_LIMITS };
  if (typeof sent !== 'object' || sent === null) return limits;
  for (const key of /** @type {(keyof Limits)[]} */ (Object.keys(limits))) {
    const value = /** @type {Record<string, unknown>} */ (sent)[key];
    if (typeof value === 'number' && Number.isSafeInteger(value) && value > 0) limits[key] = value;
  }
  return limits;
}
