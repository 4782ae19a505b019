/**
 * What tabs need of their browser to share a connection: Web Locks, BroadcastChannel, and whether this tab is looked at.
 * Tests give their own.
 *
 * @typedef {object} Surroundings
 * @property {(name: string, options: LockOptions, lost: () => void) => Promise<(() => void) | null>} hold gives what
 *   releases the lock; null if it was asked for only if free, and is not. `lost` is called when another tab has stolen it.
 * @property {(name: string) => Channel} channel
 * @property {() => boolean} visible
 * @property {(call: () => void) => () => void} onVisibility calls when that changes; gives what ends it
 * @property {(call: () => void) => () => void} onFreeze calls before the browser stops this tab; gives what ends it
 *
 * @typedef {object} Channel as a BroadcastChannel: each message reaches all others of the name, those of one sender in order
 * @property {(message: unknown) => void} postMessage
 * @property {((event: any) => void) | null} onmessage
 * @property {() => void} close
 */

/** What this browser has; null where tabs cannot share. @returns {Surroundings | null} */
export function browserSurroundings() {
  const locks = globalThis.navigator?.locks;
  const { BroadcastChannel, document } = globalThis;
  if (!locks || !BroadcastChannel || !document) return null;
  return {
    hold: (name, options, lost) => hold(locks, name, options, lost),
    channel: (name) => new BroadcastChannel(name),
    visible: () => document.visibilityState === 'visible',
    onVisibility: (call) => listen(document, 'visibilitychange', call),
    onFreeze: (call) => listen(document, 'freeze', call),
  };
}

/**
 * @param {LockManager} locks
 * @param {string} name
 * @param {LockOptions} options
 * @param {() => void} lost
 * @returns {Promise<(() => void) | null>}
 */
function hold(locks, name, options, lost) {
  return new Promise((resolve, reject) => {
    let isHeld = false;
    const request = locks.request(name, options, (lock) => {
      if (!lock) return resolve(null);
      isHeld = true;
      return new Promise((release) => resolve(() => release(undefined)));
    });
    request.catch((error) => (isHeld ? lost() : reject(error)));
  });
}

/** @param {Document} document @param {string} name @param {() => void} call */
function listen(document, name, call) {
  document.addEventListener(name, call);
  return () => document.removeEventListener(name, call);
}
