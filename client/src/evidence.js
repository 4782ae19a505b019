/**
 * What a peer connection's stats say about why it works or does not: kinds of candidates and of pairs, with counts. No
 * address is kept, so that a record can be sent to whoever is to help. Pure.
 */

/** More kinds of candidates or pairs than browsers have. */
const KINDS_MOST = 32;

/**
 * @typedef {object} CandidateKind
 * @property {string} kind type and protocol, `host/udp`; of a relay the transport to it, `relay/tls`
 * @property {'ipv4' | 'ipv6' | 'mdns' | 'hidden'} address what kind of address it has
 * @property {number} count
 *
 * @typedef {object} PairKind
 * @property {string} from kind of this page's candidates
 * @property {string} to kind of the server's candidates
 * @property {string} state the best that one of them has got to
 * @property {number} count
 * @property {number | null} sent checks sent; null where the browser does not say
 * @property {number | null} answered checks answered
 *
 * @typedef {object} Evidence
 * @property {CandidateKind[]} gathered
 * @property {PairKind[]} pairs
 */

/** From worst to best. */
const STATES = ['frozen', 'waiting', 'cancelled', 'failed', 'in-progress', 'succeeded'];

/**
 * @param {RTCStatsReport | Map<string, any>} report
 * @returns {Evidence}
 */
export function evidenceIn(report) {
  const stats = /** @type {Map<string, any>} */ (report);
  /** @type {Map<string, CandidateKind>} */
  const gathered = new Map();
  /** @type {Map<string, PairKind>} */
  const pairs = new Map();
  for (const entry of stats.values()) {
    if (entry.type === 'local-candidate') {
      const kind = kindOf(entry);
      const address = addressKind(entry.address);
      const known = gathered.get(`${kind} ${address}`);
      if (known) known.count += 1;
      else if (gathered.size < KINDS_MOST) gathered.set(`${kind} ${address}`, { kind, address, count: 1 });
    } else if (entry.type === 'candidate-pair') {
      const [local, remote] = [stats.get(entry.localCandidateId), stats.get(entry.remoteCandidateId)];
      if (!local) continue;
      const pair = readPair(kindOf(local), remote ? kindOf(remote) : '?', entry);
      const key = `${pair.from} ${pair.to}`;
      const known = pairs.get(key);
      if (known) pairs.set(key, { ...add(known, pair), state: better(known.state, pair.state) });
      else if (pairs.size < KINDS_MOST) pairs.set(key, pair);
    }
  }
  return { gathered: [...gathered.values()], pairs: [...pairs.values()] };
}

/**
 * What was seen first and what was seen later, in one: counts fall when an ICE restart begins anew, and what was seen
 * stays true.
 * @param {Evidence} first
 * @param {Evidence} later
 * @returns {Evidence}
 */
export function mergeEvidence(first, later) {
  const gathered = new Map(first.gathered.map((each) => [`${each.kind} ${each.address}`, each]));
  for (const each of later.gathered) {
    const key = `${each.kind} ${each.address}`;
    gathered.set(key, { ...each, count: Math.max(each.count, gathered.get(key)?.count ?? 0) });
  }
  const pairs = new Map(first.pairs.map((each) => [`${each.from} ${each.to}`, each]));
  for (const each of later.pairs) {
    const key = `${each.from} ${each.to}`;
    const known = pairs.get(key);
    const { count, sent, answered } = known ? larger(known, each) : each;
    pairs.set(key, { ...each, count, sent, answered });
  }
  return { gathered: [...gathered.values()].slice(0, KINDS_MOST), pairs: [...pairs.values()].slice(0, KINDS_MOST) };
}

/** Type and protocol of a candidate. @param {any} candidate */
function kindOf({ candidateType, protocol, relayProtocol }) {
  const type = word(candidateType);
  return `${type}/${word(type === 'relay' ? relayProtocol : protocol).toLowerCase()}`;
}

/** @param {unknown} value */
function word(value) {
  return typeof value === 'string' && /^[\w-]{1,16}$/.test(value) ? value : '?';
}

/** @param {unknown} address @returns {CandidateKind['address']} */
function addressKind(address) {
  if (typeof address !== 'string' || address === '') return 'hidden';
  if (address.endsWith('.local')) return 'mdns';
  return address.includes(':') ? 'ipv6' : 'ipv4';
}

/** @param {string} from @param {string} to @param {any} entry @returns {PairKind} */
function readPair(from, to, { state, requestsSent, responsesReceived }) {
  return { from, to, state: word(state), count: 1, sent: number(requestsSent), answered: number(responsesReceived) };
}

/** @param {unknown} value */
function number(value) {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}

/** @param {PairKind} a @param {PairKind} b */
function add(a, b) {
  const plus = (/** @type {number | null} */ x, /** @type {number | null} */ y) => (x === null || y === null ? (x ?? y) : x + y);
  return { ...a, count: a.count + b.count, sent: plus(a.sent, b.sent), answered: plus(a.answered, b.answered) };
}

/** @param {PairKind} a @param {PairKind} b */
function larger(a, b) {
  const most = (/** @type {number | null} */ x, /** @type {number | null} */ y) => (x === null || y === null ? (x ?? y) : Math.max(x, y));
  return { count: Math.max(a.count, b.count), sent: most(a.sent, b.sent), answered: most(a.answered, b.answered) };
}

/** @param {string} a @param {string} b */
function better(a, b) {
  return STATES.indexOf(a) > STATES.indexOf(b) ? a : b;
}
