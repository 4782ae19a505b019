/**
 * Whom a token is for, as far as this page needs to know it before the server has judged it: to find what the same user
 * wrote before. Nothing is granted by it.
 */

/**
 * @param {string} token
 * @returns {{ tenant: string, user: string } | null} null where it is no JWT with a subject
 */
export function identityIn(token) {
  try {
    const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
    if (typeof claims.sub !== 'string') return null;
    return { tenant: typeof claims.iss === 'string' ? claims.iss : '', user: claims.sub };
  } catch {
    return null;
  }
}
