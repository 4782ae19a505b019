/** The longest silences of many runs: what is shown of them, and what they may be. */

/** The value that this share of them does not exceed. @param {number[]} values @param {number} share */
export function percentile(values, share) {
  const sorted = values.toSorted((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** A row of a table in Markdown, as in docs/benchmarks.md. @param {string} what @param {number[]} stalls in milliseconds */
export function rowOf(what, stalls) {
  const [p50, p95] = [0.5, 0.95].map((share) => percentile(stalls, share));
  return `| ${what} | ${stalls.length} | ${p50} / ${p95} / ${Math.max(...stalls)} |`;
}

/** The longest time without an arrival, from `from` on. @param {number[]} times of arrival @param {number} from */
export function longestSilence(times, from) {
  let [last, gap, until] = [from, 0, from];
  for (const at of times) {
    if (at < from) continue;
    if (at - last > gap) [gap, until] = [at - last, at];
    last = at;
  }
  return { gap, until: until - from };
}
