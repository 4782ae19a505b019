/** Where the server's WebSocket is. */

import { SwitchyardError } from './errors.js';

/** @param {string | URL | undefined} url of the server; by default the page's host */
export function endpoint(url) {
  const base = url ?? globalThis.location?.href;
  if (!base) throw new SwitchyardError('bad_argument', 'no url');
  const full = new URL(base, globalThis.location?.href);
  full.protocol = full.protocol === 'https:' || full.protocol === 'wss:' ? 'wss:' : 'ws:';
  full.search = '';
  full.hash = '';
  if (!full.pathname.endsWith('/v1/connect')) full.pathname = url ? joinPath(full.pathname) : '/v1/connect';
  return full.href;
}

/** @param {string} path */
function joinPath(path) {
  return `${path.replace(/\/$/, '')}/v1/connect`;
}
