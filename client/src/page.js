/** What the page tells a session: that it goes, that it comes back from the browser's cache, and that the network may be there. */

/**
 * @typedef {object} PageOwner
 * @property {() => boolean} isInUse whether there is anything to put away
 * @property {() => void} away the page goes, and may come back
 * @property {() => void} back it was put away, and is here again
 * @property {() => void} hurry what waits for the network need not wait
 */

export class Page {
  #owner;
  /** Ends the listening. */
  #listening = new AbortController();
  #isAsleep = false;

  /** @param {PageOwner} owner */
  constructor(owner) {
    this.#owner = owner;
  }

  /** Whether the page was put away with the session in use. */
  get isAsleep() {
    return this.#isAsleep;
  }

  /** Aborted when the session is over. */
  get signal() {
    return this.#listening.signal;
  }

  /** Says goodbye when the page goes, comes back with it, and uses the network as soon as it is there. */
  follow() {
    if (typeof globalThis.addEventListener !== 'function') return;
    const owner = this.#owner;
    const { signal } = this;
    const away = () => {
      if (!owner.isInUse()) return;
      this.#isAsleep = true;
      owner.away();
    };
    const back = () => {
      if (!this.#isAsleep) return;
      this.#isAsleep = false;
      owner.back();
    };
    const hurry = () => owner.hurry();
    addEventListener('pagehide', away, { signal });
    addEventListener('pageshow', back, { signal });
    addEventListener('online', hurry, { signal });
    const { document, navigator } = globalThis;
    document?.addEventListener('visibilitychange', () => document.visibilityState === 'visible' && hurry(), { signal });
    // Not in all browsers, nor in the types of any.
    const { connection } = /** @type {{ connection?: EventTarget }} */ (navigator ?? {});
    connection?.addEventListener?.('change', hurry, { signal });
  }

  /** The session is over. */
  close() {
    this.#listening.abort();
  }
}
