/** What the server's control messages hold (docs/protocol.md, section 4), read without counting on it. */

const SCORES = ['excellent', 'good', 'poor', 'lost'];
/** Of one member: those of its tabs. */
const SIGNING_KEYS = 8;
const RUNGS = ['udp', 'tcp', 'relay', 'websocket'];

/** @param {unknown} value @returns {string} */
export function text(value) {
  return typeof value === 'string' ? value : '';
}

/** @param {unknown} value @returns {unknown[]} */
export function list(value) {
  return Array.isArray(value) ? value : [];
}

/** @param {unknown} value @returns {import('./room.js').Member | null} */
export function readMember(value) {
  if (typeof value !== 'object' || value === null) return null;
  const { member, user, name, role, write, quality, signing_keys: keys } = /** @type {Record<string, unknown>} */ (value);
  if (typeof member !== 'number') return null;
  const known = { member, user: text(user), name: text(name), role: text(role), quality: readQuality(quality) };
  const signingKeys = list(keys).filter(isSigningKey).slice(0, SIGNING_KEYS);
  return { ...known, ...(write === false && { write }), ...(signingKeys.length > 0 && { signingKeys }) };
}

/** 65 bytes, base64url. @param {unknown} value @returns {value is string} */
function isSigningKey(value) {
  return typeof value === 'string' && /^[\w-]{87}$/.test(value);
}

/** @param {unknown} value @returns {import('./room.js').MemberQuality | null} */
export function readQuality(value) {
  const { score, rung } = /** @type {Record<string, any>} */ (value ?? {});
  return SCORES.includes(score) ? { score, rung: RUNGS.includes(rung) ? rung : null } : null;
}
