/**
 * What must be undone even when a test fails or the run is interrupted: processes, namespaces, profile folders. The
 * ordinary way is to undo it in the test; this is the net beneath.
 */

/** @type {Set<() => void>} */
const pending = new Set();

/**
 * Calls `undo` when the process ends, unless the function it returns, which does it at once, is called before.
 * @param {() => void} undo must not wait
 * @returns {() => void}
 */
export function atExit(undo) {
  const once = () => {
    if (!pending.delete(once)) return;
    try {
      undo();
    } catch (error) {
      console.error(`clean-up failed: ${error}`);
    }
  };
  pending.add(once);
  return once;
}

process.on('exit', () => [...pending].reverse().forEach((undo) => undo()));
for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM', 'SIGHUP'])) {
  process.on(signal, () => process.exit(1));
}
