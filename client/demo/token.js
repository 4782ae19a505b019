/** A token of a server in development mode; for the windows of the demo and its service worker. */

import { SwitchyardError } from '/client/errors.js';

/** @param {string} room @param {string} user @param {string} name @returns {Promise<string>} */
export async function devToken(room, user, name) {
  const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user, name })}`);
  if (!response.ok) throw new SwitchyardError('no_token', 'This server is not in development mode: a token is needed.');
  const { token } = await response.json();
  return String(token);
}
