/**
 * What the windows of the demo say to each other: JSON on three streams. Everything from others is checked here, so
 * that the rest of the demo can trust it.
 *
 * @typedef {{ t: 'stroke', id: string, user: string, points: number[] }} Stroke points are x, y, x, y … from 0 to 1;
 *   a further message with the same id goes on with it
 * @typedef {{ t: 'cursor', x: number, y: number } | { t: 'cursor', gone: true }} Cursor
 * @typedef {{ t: 'history', member: number, strokes: Stroke[] }} History for a member that came later
 * @typedef {Stroke | Cursor | { t: 'clear' } | History} Message
 */

/** Streams do not wait for each other. */
export const Streams = Object.freeze({ BOARD: 1, CURSOR: 2, HISTORY: 3 });

const POINTS = 4_000;

/**
 * @param {import('/client/room.js').DataEvent} event
 * @returns {Message | null} null for what is no message of the demo
 */
export function readMessage({ data, sender }) {
  if (typeof data !== 'string') return null;
  let value;
  try {
    value = JSON.parse(data);
  } catch {
    return null;
  }
  if (typeof value !== 'object' || value === null) return null;
  switch (value.t) {
    case 'stroke':
      return readStroke({ ...value, user: sender.user });
    case 'cursor':
      return value.gone === true ? { t: 'cursor', gone: true } : readCursor(value);
    case 'clear':
      return { t: 'clear' };
    case 'history':
      return {
        t: 'history',
        member: Number(value.member),
        strokes: readList(value.strokes, readStroke),
      };
    default:
      return null;
  }
}

/** @param {any} value @returns {Stroke | null} */
function readStroke(value) {
  const { id, user, points } = value ?? {};
  if (typeof id !== 'string' || typeof user !== 'string' || !Array.isArray(points)) return null;
  if (points.length > POINTS || points.length % 2 !== 0 || !points.every(isShare)) return null;
  return { t: 'stroke', id: id.slice(0, 64), user, points };
}

/** @param {any} value @returns {Cursor | null} */
function readCursor({ x, y }) {
  return isShare(x) && isShare(y) ? { t: 'cursor', x, y } : null;
}

/**
 * @template T
 * @param {unknown} list
 * @param {(value: any) => T | null} read
 * @returns {T[]}
 */
function readList(list, read) {
  return Array.isArray(list) ? list.flatMap((value) => read(value) ?? []) : [];
}

/** @param {unknown} value */
function isShare(value) {
  return typeof value === 'number' && value >= 0 && value <= 1;
}

/** Unique enough to tell two strokes apart. */
export function newId() {
  return Math.random().toString(36).slice(2, 12) + Date.now().toString(36);
}
