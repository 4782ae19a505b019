/**
 * The page's half of Background Sync (LAD5): asks the browser to wake the application's service worker when there is a network,
 * since this page may be gone by then. What the worker does is in background.js. Where the browser cannot do that, or
 * the user does not want it, what waits is sent when a page comes back.
 */

export const SYNC_TAG = 'switchyard';

/**
 * @typedef {ServiceWorkerRegistration | null | undefined} Registration
 *
 * @typedef {{ register: (tag: string) => Promise<void> }} SyncManager not in the types: only some browsers have it
 */

export class BackgroundSync {
  #registration;
  /** Whether the browser has been asked since nothing waited, or there was a connection. */
  #isAsked = false;

  /** @param {Registration | Promise<Registration>} registration of the worker */
  constructor(registration) {
    this.#registration = registration;
  }

  /**
   * How it stands. `waits`: something is stored and not answered. Not before it is stored: a browser that thinks it has a
   * network wakes the worker at once, which would find nothing and be done.
   * @param {{ waits: boolean, connected: boolean }} now
   */
  look({ waits, connected }) {
    if (!waits || connected) this.#isAsked = false;
    else if (!this.#isAsked) this.#ask();
  }

  /** The page goes. @param {{ waits: boolean }} now `waits`: as above, or something is on its way to storage */
  away({ waits }) {
    // Once more: the worker may have been woken while the page had what waits.
    if (waits) this.#ask();
  }

  async #ask() {
    this.#isAsked = true;
    try {
      const registration = /** @type {{ sync?: SyncManager } | null | undefined} */ (await this.#registration);
      await registration?.sync?.register(SYNC_TAG);
    } catch {
      // No worker, or not allowed.
    }
  }
}
