/**
 * What must be undone even when a test fails or the run is interrupted: processes, namespaces, profile folders. The
 * ordinary way is to undo it in the test; this is the net beneath.
 */

/** @type {Set<() => void>} */
const pending = new Set();

/**
 * Calls `undo` when the process ends.
 * @param {() => void} undo must not wait
 * @returns {{ now: () => void, cancel: () => void }} to do it at once, or not at all
 */
export function atExit(undo) {
  const now = () => {
    if (!pending.delete(now)) return;
    try {
      undo();
    } catch (error) {
      console.error(`clean-up failed: ${error}`);
    }
  };
  pending.add(now);
  return { now, cancel: () => pending.delete(now) };
}

process.on('exit', () => [...pending].reverse().forEach((undo) => undo()));
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => process.exit(1));
}
