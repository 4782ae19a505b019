/** The connection panel and the badge in the bar: figures of `session.stats()` and `session.quality`, twice a second. */

import { byId } from './dom.js';

const EVERY_MS = 500;
const SAMPLES = 120;

/** @type {Record<string, string>} */
const RUNGS = {
  udp: 'Data channel, UDP',
  tcp: 'Data channel, TCP',
  relay: 'Data channel, TURN relay',
  websocket: 'WebSocket',
};
/** What the relay is reached over. @type {Record<string, string>} */
const RELAYS = { udp: 'UDP', tcp: 'TCP', tls: 'TLS' };
/** @type {Record<string, string>} */
const SHORT = { udp: 'UDP', tcp: 'TCP', relay: 'TURN relay', websocket: 'WebSocket' };
/** @type {Record<string, string>} */
const STATES = {
  idle: 'Idle',
  connecting: 'Connecting …',
  connected: 'Connected',
  reconnecting: 'Reconnecting …',
  closed: 'Closed',
};

/** @type {Record<string, string>} */
const SCORES = { excellent: 'Excellent', good: 'Good', poor: 'Poor', lost: 'Lost' };
/** What the link bears. @type {Record<string, string>} */
const LEVELS = {
  all: '',
  'no-video': 'enough for text and speech, not for video',
  essential: 'enough for what you write, and little more',
  offline: 'what you write is kept and sent later',
};

/**
 * @param {import('/client/session.js').Session} session
 * @param {import('/client/room.js').Room} room
 * @param {AbortSignal} signal
 */
export function showConnection(session, room, signal) {
  /** @type {number[]} */
  const samples = [];
  const badge = byId('badge', HTMLElement);
  const update = () => {
    const stats = session.stats();
    const rtt = stats.rtt === null ? '–' : `${stats.rtt < 10 ? stats.rtt.toFixed(1) : Math.round(stats.rtt)} ms`;
    // The badge is a live region: it changes with the path and a poor score only, the figures move below it.
    badge.dataset.state = stats.state;
    const isPoor = session.quality.score === 'poor';
    badge.dataset.score = session.quality.score;
    const connected = isPoor ? 'Poor connection' : 'Connected';
    set('badge-text', stats.state === 'connected' && stats.rung ? `${connected}, ${SHORT[stats.rung]}` : STATES[stats.state]);
    showQuality(session.quality, stats.state);
    set('stat-state', STATES[stats.state]);
    const over = stats.relay ? ` over ${RELAYS[stats.relay]}` : '';
    set('stat-rung', stats.rung ? RUNGS[stats.rung] + over : '–');
    byId('stat-rung', HTMLElement).dataset.rung = stats.rung ?? '';
    set('stat-rtt', rtt);
    set('stat-waiting', size(stats.waitingBytes));
    set('stat-unacknowledged', `${count(stats.unacknowledgedFrames, 'frame')}, ${size(stats.unacknowledgedBytes)}`);
    const { websocket, reliable, lossy } = stats.buffered;
    set('stat-buffered', size(websocket + reliable + lossy));
    set('stat-lossy', `${stats.counters.lossyDropped}, ${room.counters.lossyMissing}`);
    set('stat-coalesced', String(stats.counters.lossyCoalesced));
    set('stat-gaps', String(room.counters.gaps));
    set('stat-changes', `${stats.counters.pipeChanges}, ${stats.counters.reconnects}`);
    if (stats.rtt !== null) samples.push(stats.rtt);
    if (samples.length > SAMPLES) samples.shift();
    byId('spark-line', SVGPolylineElement).setAttribute('points', spark(samples));
  };
  update();
  const timer = setInterval(update, EVERY_MS);
  session.on('state', update, { signal });
  session.on('rung', update, { signal });
  session.on('quality', update, { signal });
  signal.addEventListener('abort', () => clearInterval(timer));
}

/** @param {import('/client/quality.js').QualityReport} quality @param {string} state */
function showQuality({ score, level, rtt, jitter, loss }, state) {
  const isMeasuring = score === 'lost' && rtt === null && state !== 'closed';
  byId('quality', HTMLElement).dataset.score = isMeasuring ? '' : score;
  set('quality-score', isMeasuring ? 'Measuring …' : SCORES[score]);
  set('quality-level', isMeasuring || !LEVELS[level] ? '' : `– ${LEVELS[level]}`);
  set('stat-jitter', jitter === null || loss === null ? '–' : `${jitter.toFixed(1)} ms, ${(100 * loss).toFixed(loss < 0.1 ? 1 : 0)} %`);
}

/** @param {string} id @param {string} text */
function set(id, text) {
  const element = byId(id, HTMLElement);
  if (element.textContent !== text) element.textContent = text;
}

/** @param {number} things @param {string} name */
function count(things, name) {
  return `${things} ${name}${things === 1 ? '' : 's'}`;
}

/** @param {number} bytes */
function size(bytes) {
  return bytes < 1_000 ? `${bytes} B` : `${(bytes / 1_024).toFixed(bytes < 10_240 ? 1 : 0)} KiB`;
}

/** Points of the line, newest at the right end. @param {number[]} samples */
function spark(samples) {
  const top = Math.max(20, ...samples) * 1.1;
  return samples.map((rtt, i) => `${SAMPLES - samples.length + i},${(31 - (rtt / top) * 30).toFixed(1)}`).join(' ');
}
