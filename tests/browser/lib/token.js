/** Users' tokens, as an application's backend signs them. */

import { createHmac } from 'node:crypto';

/**
 * A token for an hour, for an editor of `room`.
 * @param {{ key: string, secret: string }} apiKey
 * @param {{ user: string, name?: string, room: string }} who
 */
export function tokenFor({ key, secret }, { user, name = user, room }) {
  const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
  const exp = Math.floor(Date.now() / 1_000) + 3_600;
  const claims = { iss: key, sub: user, name, exp, room: { name: room, role: 'editor' } };
  const signed = `${encode({ alg: 'HS256', typ: 'JWT' })}.${encode(claims)}`;
  return `${signed}.${createHmac('sha256', secret).update(signed).digest('base64url')}`;
}
