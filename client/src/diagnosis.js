/**
 * What the record of an attempt to connect means: a code that stays the same, and a sentence with the evidence. And what
 * all of them together say about a session. Pure.
 */

/**
 * @typedef {import('./attempts.js').Attempt} Attempt
 * @typedef {import('./evidence.js').PairKind} PairKind
 *
 * @typedef {'connected' | 'trying' | 'udp_blocked' | 'port_blocked' | 'relay_unreachable' | 'relay_refused' | 'no_relay'
 *   | 'no_path' | 'no_candidates' | 'no_answer' | 'dtls_failed' | 'channel_failed' | 'path_lost' | 'webrtc_refused'
 *   | 'switched_off' | 'no_webrtc' | 'websocket_refused' | 'websocket_lost' | 'server_unreachable' | 'offline' | 'abandoned'
 *   | 'unknown'} Verdict
 *
 * @typedef {{ verdict: Verdict, sentence: string }} Diagnosis
 *
 * @typedef {object} Now
 * @property {import('./link.js').LinkState} state
 * @property {import('./link.js').Rung | null} rung
 * @property {import('./peer.js').Way['relay']} relay
 * @property {number | null} rtt milliseconds
 *
 * @typedef {object} Surroundings
 * @property {boolean} online
 * @property {'on' | 'off' | 'absent' | 'relay' | 'switched_off'} webRtc `off` by the application, `absent` in the browser,
 *   `relay`: over relays only, `switched_off` by the operator
 * @property {boolean} [relays] whether the operator leaves relays on
 */

/** So many checks in vain are no accident. */
const CHECKS = 3;
/** Checks that the browser does not count have been sent and repeated by then. */
const CHECKED_MS = 1_000;
/** What has not been answered by then is said to be missing, though it is tried still. */
const LONG_MS = 4_000;

const SWITCHED_OFF = 'The operator has switched data channels off, for the server, a room or its token.';
const RELAYS = { udp: 'UDP', tcp: 'TCP', tls: 'TLS' };

/** @param {Attempt} attempt @returns {Diagnosis} */
export function verdictOf(attempt) {
  return attempt.by === 'websocket' ? socketVerdict(attempt) : peerVerdict(attempt);
}

/**
 * @param {Now} now
 * @param {Attempt[]} attempts oldest first
 * @param {Surroundings} surroundings
 * @returns {Diagnosis}
 */
export function diagnosisOf(now, attempts, { online, webRtc, relays = true }) {
  const sockets = attempts.filter(({ by }) => by === 'websocket').map(verdictOf);
  const peers = attempts.filter(({ by }) => by === 'webrtc').map(verdictOf);
  const telling = (/** @type {Diagnosis[]} */ list) => list.findLast(({ verdict }) => !['trying', 'abandoned'].includes(verdict));
  if (now.state === 'connected') {
    if (now.rung !== 'websocket') return telling(peers) ?? say('connected', 'Connected over a data channel.');
    const carries = 'The WebSocket carries the data.';
    if (webRtc === 'absent') return say('no_webrtc', `This browser has no WebRTC. ${carries}`);
    if (webRtc === 'off') return say('connected', `Connected over the WebSocket; this application does not use WebRTC.`);
    if (webRtc === 'switched_off') return say('switched_off', `${SWITCHED_OFF} ${carries}`);
    if (webRtc === 'relay' && !relays) {
      return say('switched_off', `WebRTC is to use nothing but relays, and the operator has switched those off. ${carries}`);
    }
    const peer = telling(peers);
    if (peer) return say(peer.verdict, `${peer.sentence} ${carries}`);
    if (peers.length === 0 && webRtc === 'relay') {
      return say('no_relay', `WebRTC is to use nothing but relays, and the server names none. ${carries}`);
    }
    return say('connected', 'Connected over the WebSocket; a data channel is being tried.');
  }
  if (!online) return say('offline', 'This device has no network: the browser says that it is offline.');
  return telling(sockets) ?? sockets.at(-1) ?? say('unknown', 'Nothing has been tried yet.');
}

// --- a WebSocket -------------------------------------------------------------------------------------------------

/** @param {Attempt} attempt @returns {Diagnosis} */
function socketVerdict({ connectedMs, endedMs, cause, close, opened, http, online }) {
  const code = close ? ` with code ${close.code}${close.reason ? ` (${close.reason})` : ''}` : '';
  if (connectedMs !== null) {
    if (endedMs === null) return say('connected', `The WebSocket was open after ${span(connectedMs)}.`);
    const lasted = span(endedMs - connectedMs);
    if (cause === 'page') return say('connected', `The WebSocket was open for ${lasted}, until this page closed it.`);
    if (cause === 'silent') return say('websocket_lost', `The WebSocket was open for ${lasted}, then nothing came over it any more.`);
    if (!online) return say('offline', `The WebSocket was open for ${lasted}, then the browser said that it is offline.`);
    return say('websocket_lost', `The WebSocket was open for ${lasted}, then it was closed${code}.`);
  }
  if (endedMs === null) return say('trying', opened ? 'The WebSocket is open; the server has not answered yet.' : 'The WebSocket is being opened.');
  if (cause === 'page') return say('abandoned', `This page gave the WebSocket up after ${span(endedMs)}.`);
  if (!online) return say('offline', 'The WebSocket could not be opened: the browser says that it is offline.');
  if (opened && cause === 'closed') return say('websocket_refused', `The WebSocket opened, and was closed at once${code}.`);
  const how = cause === 'silent' ? `nothing was answered in ${span(endedMs)}` : `it failed after ${span(endedMs)}${code}`;
  if (opened || http) {
    const though = opened ? 'the WebSocket opened' : 'the server answers HTTP';
    return say('websocket_refused', `The WebSocket was refused, though ${though}: ${how}. A proxy in between may not pass WebSockets.`);
  }
  return say('server_unreachable', `The server cannot be reached: ${how}${http === false ? ', and HTTP is not answered either' : ''}.`);
}

// --- a peer connection -------------------------------------------------------------------------------------------

/** @param {Attempt} attempt @returns {Diagnosis} */
function peerVerdict(attempt) {
  const { connectedMs, endedMs, cause } = attempt;
  if (connectedMs !== null && endedMs !== null && cause !== 'page') return say('path_lost', pathLost(attempt));
  if (connectedMs !== null) return reached(attempt, connectedMs);
  if (cause === 'forbidden') return say('no_webrtc', 'The browser refused to make a peer connection.');
  if (cause === 'off') return say('switched_off', SWITCHED_OFF);
  if (cause === 'refused') return say('webrtc_refused', 'The server refused the offer of a data channel.');
  const failure = failed(attempt);
  if (endedMs === null) return isLate(attempt) && failure ? failure : say('trying', `A data channel is being tried${since(attempt)}.`);
  if (!attempt.online) return say('offline', 'No data channel: the browser says that it is offline.');
  if (failure && (cause !== 'page' || isLate(attempt))) return failure;
  if (cause === 'page' || cause === 'replaced') return say('abandoned', `The data channel was given up after ${span(endedMs)}.`);
  if (cause === 'browser') return say('unknown', 'The browser could not make an offer, or not take the answer.');
  return say('unknown', `No data channel after ${span(endedMs)}, and nothing says why.`);
}

/** @param {Attempt} attempt @param {number} ms @returns {Diagnosis} */
function reached(attempt, ms) {
  const { rung } = attempt;
  const way = wayWords(attempt);
  const udp = direct(attempt, 'udp');
  if (rung !== 'udp' && rung !== null && isVain(udp, attempt)) {
    const port = rung === 'relay' && attempt.relay === 'udp';
    const blocked = port ? 'The server’s own UDP port is blocked' : 'UDP is blocked';
    return say(port ? 'port_blocked' : 'udp_blocked', `${blocked}: ${vainWords(udp, 'UDP')}; ${way} worked.`);
  }
  const silent = rung === 'relay' && attempt.relay !== 'udp' ? silentOverUdp(attempt) : [];
  if (silent.length > 0) return say('udp_blocked', `UDP is blocked: the TURN server gave no relay over it (${errorWords(silent)}); ${way} worked.`);
  return say('connected', `Connected over ${way} after ${span(ms)}.`);
}

/** Why there is no data channel, as far as the record says it. @param {Attempt} attempt @returns {Diagnosis | null} */
function failed(attempt) {
  const { states, pairs = [], gathered = [], observedMs, answered, endedMs } = attempt;
  const got = (/** @type {import('./attempts.js').StateChange['of']} */ of, /** @type {string[]} */ ...wanted) =>
    states.some((change) => change.of === of && wanted.includes(change.state));
  if (got('connection', 'connected') || got('dtls', 'connected')) {
    const sctp = states.findLast(({ of }) => of === 'sctp')?.state;
    return say('channel_failed', `Packets get through and DTLS succeeded, but the data channel did not open${sctp ? ` (SCTP: ${sctp})` : ''}.`);
  }
  if (got('ice', 'connected', 'completed') || pairs.some(isAnswered)) {
    const dtls = states.findLast(({ of }) => of === 'dtls')?.state;
    return say('dtls_failed', `Checks were answered, but the DTLS handshake did not end${dtls ? ` (${dtls})` : ''}.`);
  }
  if (!answered) return endedMs === null ? null : say('no_answer', 'The server has not answered the offer.');
  if (observedMs === null || observedMs === undefined) return null;
  if (gathered.length === 0 && pairs.length === 0 && !attempt.relays) return say('no_candidates', 'The browser found no address of its own to connect from.');
  return withoutPath(attempt);
}

/** No check was answered. @param {Attempt} attempt @returns {Diagnosis | null} */
function withoutPath(attempt) {
  const { gathered = [], pairs = [], errors = [], relays, onlyRelays, tellsErrors } = attempt;
  const [udp, tcp] = [direct(attempt, 'udp'), direct(attempt, 'tcp')];
  const overTcp = tcp.length > 0 ? ', nor were those over TCP' : '';
  const blocked = isVain(udp, attempt) ? `${vainWords(udp, 'UDP')}${overTcp}` : '';
  const relayed = gathered.some(({ kind }) => kind.startsWith('relay/')) || pairs.some(({ from }) => from.startsWith('relay/'));
  if (relays && !relayed) {
    const start = blocked ? `${capital(blocked)}; the` : 'The';
    const answers = errors.filter(({ url }) => isTurn(url));
    const refusals = answers.filter(({ code }) => code >= 300 && code < 700);
    if (refusals.length > 0) return say('relay_refused', `${start} TURN server refused: ${errorWords(refusals)}.`);
    const why = answers.length > 0 ? `: ${errorWords(answers)}` : tellsErrors ? '' : '; this browser does not tell why';
    return say('relay_unreachable', `${start} TURN server gave no relay${why}.`);
  }
  if (relays) {
    const start = blocked ? `${capital(blocked)}; a` : 'A';
    return say('no_path', `${start} relay was there, but the server did not answer through it.`);
  }
  if (onlyRelays) return say('no_relay', 'WebRTC is to use nothing but relays, and there was none.');
  if (blocked) return say('udp_blocked', `UDP is blocked: ${blocked}; no relay was at hand.`);
  return null;
}

/** @param {Attempt} attempt */
function pathLost(attempt) {
  const lasted = span(Number(attempt.endedMs) - Number(attempt.connectedMs));
  /** @type {Partial<Record<import('./attempts.js').Cause, string>>} */
  const ends = {
    repair: 'packets stayed away, and an ICE restart did not bring them back',
    failed: 'packets stayed away',
    ice: 'packets stayed away',
    timeout: 'packets stayed away',
    channel_closed: 'the server or the browser closed it',
    replaced: 'a new one took its place',
    broken: 'what came over it could not be read',
  };
  const online = attempt.online ? '' : '; the browser says that it is offline';
  return `The data channel over ${wayWords(attempt)} lasted ${lasted}, then ${ends[attempt.cause ?? 'failed'] ?? 'it ended'}${online}.`;
}

// --- pairs -------------------------------------------------------------------------------------------------------

/** Pairs without a relay on this side. @param {Attempt} attempt @param {'udp' | 'tcp'} protocol */
function direct({ pairs = [] }, protocol) {
  return pairs.filter(({ from }) => from.endsWith(`/${protocol}`) && !from.startsWith('relay/'));
}

/** @param {PairKind} pair */
function isAnswered({ state, answered }) {
  return state === 'succeeded' || (answered ?? 0) > 0;
}

/** Whether these were checked long enough, and no check was answered. @param {PairKind[]} pairs @param {Attempt} attempt */
function isVain(pairs, { observedMs }) {
  if (pairs.length === 0 || pairs.some(isAnswered)) return false;
  const tells = pairs.some(({ sent }) => sent !== null);
  return tells ? checks(pairs) >= CHECKS : (observedMs ?? 0) >= CHECKED_MS || pairs.some(({ state }) => state === 'failed');
}

/** @param {PairKind[]} pairs */
function checks(pairs) {
  return pairs.reduce((sum, { sent }) => sum + (sent ?? 0), 0);
}

/** @param {PairKind[]} pairs @param {string} protocol */
function vainWords(pairs, protocol) {
  const sent = checks(pairs);
  if (sent > 0) return `${sent} checks to the server over ${protocol} were not answered`;
  const count = pairs.reduce((sum, pair) => sum + pair.count, 0);
  const some = count === 1 ? 'one pair of candidates' : `${count} pairs of candidates`;
  return `no check to the server over ${protocol} was answered (${some} tried)`;
}

// --- words -------------------------------------------------------------------------------------------------------

/** @param {Verdict} verdict @param {string} sentence @returns {Diagnosis} */
function say(verdict, sentence) {
  return { verdict, sentence };
}

/** @param {Attempt} attempt */
function wayWords({ rung, relay }) {
  if (rung === 'relay') return relay ? `TURN over ${RELAYS[relay]}` : 'TURN';
  if (rung === 'tcp') return 'ICE over TCP';
  return rung === 'udp' ? 'UDP' : 'a data channel';
}

/** @param {string} url */
function isTurn(url) {
  return url.startsWith('turn');
}

/** What a TURN server is reached over. @param {string} url @returns {keyof typeof RELAYS} */
function overOf(url) {
  if (url.startsWith('turns:')) return 'tls';
  return url.endsWith('transport=tcp') ? 'tcp' : 'udp';
}

/** Over UDP no relay came, and the browser says that nothing was answered. @param {Attempt} attempt */
function silentOverUdp({ errors = [], gathered = [] }) {
  if (gathered.some(({ kind }) => kind === 'relay/udp')) return [];
  return errors.filter(({ url, code }) => isTurn(url) && overOf(url) === 'udp' && code >= 700);
}

/** Each answer once, with what it came over. @param {import('./attempts.js').IceError[]} errors */
function errorWords(errors) {
  /** @type {Map<string, Set<string>>} */
  const ways = new Map();
  for (const { url, code, text } of errors) {
    const answer = `${code}${text ? ` “${text.replace(/\.$/, '')}”` : ''}`;
    ways.set(answer, (ways.get(answer) ?? new Set()).add(RELAYS[overOf(url)]));
  }
  return [...ways].map(([answer, over]) => `${answer} over ${[...over].join(', ')}`).join('; ');
}

/** Whether it is said what is missing, though it may come yet. @param {Attempt} attempt */
function isLate({ observedMs, onlyRelays, gathered = [], states }) {
  const found = states.findLast(({ of }) => of === 'gathering')?.state === 'complete';
  return (observedMs ?? 0) >= LONG_MS || (onlyRelays === true && found && gathered.length === 0);
}

/** @param {Attempt} attempt */
function since({ observedMs }) {
  return observedMs ? `, since ${span(observedMs)}` : '';
}

/** @param {number} ms */
function span(ms) {
  if (ms < 1_000) return `${ms} ms`;
  if (ms < 10_000) return `${(ms / 1_000).toFixed(1)} s`;
  if (ms < 120_000) return `${Math.round(ms / 1_000)} s`;
  return `${Math.round(ms / 60_000)} min`;
}

/** @param {string} text */
function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}
