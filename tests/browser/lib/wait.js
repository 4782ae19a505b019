/** Waiting for conditions, never for time. */

const EVERY_MS = 15;

/**
 * Asks until the answer is true, and gives it.
 * @template T
 * @param {string} what is waited for, for the message when it does not come
 * @param {() => T | Promise<T>} ask
 * @param {{ within?: number, every?: number }} [options] in milliseconds
 * @returns {Promise<NonNullable<T>>}
 */
export async function until(what, ask, { within = 10_000, every = EVERY_MS } = {}) {
  const deadline = performance.now() + within;
  for (;;) {
    const answer = await ask();
    if (answer) return /** @type {NonNullable<T>} */ (answer);
    if (performance.now() > deadline) {
      throw new Error(`not within ${within} ms: ${what} (last answer: ${JSON.stringify(answer)})`);
    }
    await new Promise((resolve) => setTimeout(resolve, every));
  }
}
