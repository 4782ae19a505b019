import { browserStorage } from './store.js';
import { browserSurroundings } from './tabs/surroundings.js';

/**
 * What the client needs from its surroundings. Tests give their own clock, sockets and peer connections; applications
 * give nothing.
 *
 * @typedef {object} Environment
 * @property {new (url: string, protocols?: string[]) => WebSocket} [WebSocket]
 * @property {new (configuration?: RTCConfiguration) => RTCPeerConnection} [RTCPeerConnection] absent: no WebRTC
 * @property {() => number} now milliseconds, never going back
 * @property {() => number} date milliseconds since 1970
 * @property {(callback: () => void, ms: number) => unknown} setTimeout
 * @property {(timer: any) => void} clearTimeout
 * @property {() => number} random in [0, 1)
 * @property {() => string} id 16 hexadecimal digits that nobody can guess
 * @property {import('./tentative/signing.js').Subtle} [subtle] absent: nothing can be signed
 * @property {() => boolean} online false if the browser says that there is no network
 * @property {(url: string) => Promise<boolean>} reach whether anything answers HTTP there
 * @property {(bytes: Uint8Array) => Promise<Uint8Array>} inflate raw DEFLATE
 * @property {() => Promise<import('./store.js').Storage | null>} storage where messages wait that are not sent; null: in
 *   memory
 * @property {() => import('./tabs/surroundings.js').Surroundings | null} tabs what tabs share a connection by; null: each has
 *   its own
 */

/**
 * @param {Partial<Environment>} [given]
 * @returns {Environment}
 */
export function environment(given = {}) {
  return {
    WebSocket: globalThis.WebSocket,
    RTCPeerConnection: globalThis.RTCPeerConnection,
    now: () => performance.now(),
    date: () => Date.now(),
    setTimeout: (callback, ms) => globalThis.setTimeout(callback, ms),
    clearTimeout: (timer) => globalThis.clearTimeout(timer),
    random: () => Math.random(),
    id: () => Array.from(crypto.getRandomValues(new Uint8Array(8)), (byte) => byte.toString(16).padStart(2, '0')).join(''),
    subtle: globalThis.crypto?.subtle,
    online: () => globalThis.navigator?.onLine !== false,
    reach,
    inflate,
    storage: browserStorage,
    tabs: browserSurroundings,
    ...given,
  };
}

const REACH_MS = 2_500;

/** Any answer will do, and nothing of it is read. @param {string} url */
async function reach(url) {
  try {
    await fetch(url, { mode: 'no-cors', cache: 'no-store', credentials: 'omit', signal: AbortSignal.timeout(REACH_MS) });
    return true;
  } catch {
    return false;
  }
}

/** @param {Uint8Array} bytes */
async function inflate(bytes) {
  const whole = new Blob([bytes.slice()]).stream().pipeThrough(new DecompressionStream('deflate-raw'));
  return new Uint8Array(await new Response(whole).arrayBuffer());
}
