// What the records of attempts mean: stats as Chromium and Firefox give them, and the verdict on each.

import assert from 'node:assert/strict';
import { test } from 'node:test';

import { diagnosisOf, verdictOf } from '../src/diagnosis.js';
import { evidenceIn, mergeEvidence } from '../src/evidence.js';

const WAYS = { 'relay/tls': ['relay', 'udp', 'tls'], 'relay/tcp': ['relay', 'udp', 'tcp'], 'relay/udp': ['relay', 'udp', 'udp'] };

/** A report with these pairs; each a kind of candidate, the server's, the state, checks sent and answered. */
function report(browser, pairs, { candidates = [] } = {}) {
  const stats = new Map();
  const put = (entry) => stats.set(entry.id, entry);
  const candidate = (id, type, kind) => {
    const [candidateType, protocol, relayProtocol] = WAYS[kind] ?? kind.split('/');
    put({ id, type, candidateType, protocol, relayProtocol, address: browser === 'firefox' ? 'a0.local' : '198.18.0.2' });
  };
  for (const kind of candidates) candidate(`C${stats.size}`, 'local-candidate', kind);
  pairs.forEach(([from, to, state, sent, answered], index) => {
    candidate(`L${index}`, 'local-candidate', from);
    candidate(`R${index}`, 'remote-candidate', to);
    const checks = browser === 'chromium' ? { requestsSent: sent, responsesReceived: answered } : { responsesReceived: answered, selected: state === 'succeeded' };
    put({ id: `P${index}`, type: 'candidate-pair', localCandidateId: `L${index}`, remoteCandidateId: `R${index}`, state, ...checks });
  });
  // Firefox has no such entry.
  if (browser === 'chromium') put({ id: 'T', type: 'transport', selectedCandidatePairId: 'P0', dtlsState: 'connected' });
  return stats;
}

const state = (of, value, ms = 10) => ({ ms, of, state: value });
const ICE_UP = [state('ice', 'checking'), state('ice', 'connected')];
const DTLS_UP = [...ICE_UP, state('dtls', 'connected'), state('connection', 'connected')];
const refused = (url, code = 401, text = 'Unauthorized.') => ({ url, code, text, count: 1 });

/** A peer connection, by default one that was given up after 15 s. */
function peer(browser, pairs, { candidates, ...record } = {}) {
  return {
    id: 1, by: 'webrtc', began: 0, connectedMs: null, endedMs: 15_000, cause: 'timeout', online: true, verdict: '', sentence: '',
    states: [state('ice', 'checking')], relays: false, onlyRelays: false, restarts: 0, answered: true, observedMs: 15_000,
    errors: [], tellsErrors: true, rung: null, relay: null, ...evidenceIn(report(browser, pairs, { candidates })), ...record,
  };
}

/** A WebSocket, by default one that could not be opened. */
function socket(record = {}) {
  return {
    id: 1, by: 'websocket', began: 0, connectedMs: null, endedMs: 20, cause: 'closed', online: true, verdict: '', sentence: '',
    states: [], opened: false, close: { code: 1006, reason: '' }, http: null, ...record,
  };
}

const up = { connectedMs: 1_300, endedMs: null, cause: null, observedMs: 2_500, states: DTLS_UP };
const DEAD_UDP = ['host/udp', 'host/udp', 'in-progress', 7, 0];
const FAILED_UDP = ['host/udp', 'host/udp', 'failed', 7, 0];

for (const browser of ['chromium', 'firefox']) {
  const counted = browser === 'chromium' ? /7 checks to the server over UDP were not answered/ : /no check to the server over UDP was answered \(one pair/i;
  const both = (pattern) => (sentence) => counted.test(sentence) && pattern.test(sentence);
  /** @type {[what: string, attempt: any, verdict: string, sentence: RegExp | ((text: string) => boolean)][]} */
  const table = [
    ['UDP works', peer(browser, [['host/udp', 'host/udp', 'succeeded', 3, 3]], { ...up, rung: 'udp' }), 'connected', /^Connected over UDP after 1\.3 s\.$/],
    ['TCP works', peer(browser, [['host/tcp', 'host/tcp', 'succeeded', 3, 3], DEAD_UDP], { ...up, rung: 'tcp' }), 'udp_blocked', both(/ICE over TCP worked/)],
    ['TCP is in use though UDP works', peer(browser, [['host/tcp', 'host/tcp', 'succeeded', 3, 3], ['host/udp', 'host/udp', 'in-progress', 9, 1]], { ...up, rung: 'tcp' }), 'connected', /ICE over TCP/],
    ['a relay over TLS works', peer(browser, [['relay/tls', 'host/udp', 'succeeded', 3, 3], DEAD_UDP], { ...up, relays: true, rung: 'relay', relay: 'tls' }), 'udp_blocked', both(/TURN over TLS worked/)],
    ['a relay over UDP works', peer(browser, [['relay/udp', 'host/udp', 'succeeded', 3, 3], DEAD_UDP], { ...up, relays: true, rung: 'relay', relay: 'udp' }), 'port_blocked', both(/own UDP port.*TURN over UDP worked/)],
    ['relays only, over TCP', peer(browser, [['relay/tcp', 'host/udp', 'succeeded', 3, 3]], { ...up, relays: true, onlyRelays: true, rung: 'relay', relay: 'tcp' }), 'connected', /TURN over TCP/],
    ['relays only, UDP silent', peer(browser, [['relay/tcp', 'host/udp', 'succeeded', 3, 3]], { ...up, relays: true, onlyRelays: true, rung: 'relay', relay: 'tcp', errors: [refused('turn:t:1?transport=udp', 701, 'timed out')] }), 'udp_blocked', /no relay over it \(701 “timed out” over UDP\); TURN over TCP worked/],
    ['UDP in vain, no relay', peer(browser, [FAILED_UDP]), 'udp_blocked', both(/no relay was at hand/)],
    ['UDP and TCP in vain', peer(browser, [FAILED_UDP, ['host/tcp', 'host/tcp', 'failed', 2, 0]]), 'udp_blocked', both(/nor were those over TCP/)],
    ['UDP in vain, still trying', peer(browser, [DEAD_UDP], { endedMs: null, cause: null, observedMs: 5_000 }), 'udp_blocked', both(/./)],
    ['UDP not for long', peer(browser, [DEAD_UDP], { endedMs: null, cause: null, observedMs: 900 }), 'trying', /since 900 ms/],
    ['TURN refuses', peer(browser, [FAILED_UDP], { relays: true, errors: [refused('turn:t:1?transport=udp'), refused('turns:t:2?transport=tcp'), refused('stun:t:1', 701, '')] }), 'relay_refused', both(/; the TURN server refused: 401 “Unauthorized” over UDP, TLS\./)],
    ['TURN refuses, nothing else is tried', peer(browser, [], { relays: true, onlyRelays: true, endedMs: null, cause: null, observedMs: 200, states: [state('gathering', 'complete')], errors: [refused('turn:t:1')] }), 'relay_refused', /^The TURN server refused: 401/],
    ['TURN is silent', peer(browser, [FAILED_UDP], { relays: true, errors: [refused('turn:t:1?transport=tcp', 701, 'timed out')] }), 'relay_unreachable', both(/gave no relay: 701 “timed out” over TCP/)],
    ['TURN is silent, and so is the browser', peer(browser, [FAILED_UDP], { relays: true, tellsErrors: false }), 'relay_unreachable', both(/does not tell why/)],
    ['a relay that leads nowhere', peer(browser, [FAILED_UDP, ['relay/tls', 'host/udp', 'failed', 4, 0]], { relays: true }), 'no_path', both(/a relay was there/)],
    ['no candidates', peer(browser, []), 'no_candidates', /no address of its own/],
    ['no answer', peer(browser, [], { answered: false, candidates: ['host/udp'] }), 'no_answer', /has not answered the offer/],
    ['DTLS', peer(browser, [['host/udp', 'host/udp', 'succeeded', 3, 3]], { states: [...ICE_UP, state('dtls', 'connecting'), state('dtls', 'failed')] }), 'dtls_failed', /DTLS handshake did not end \(failed\)/],
    ['SCTP', peer(browser, [['host/udp', 'host/udp', 'succeeded', 3, 3]], { states: [...DTLS_UP, state('sctp', 'connecting')] }), 'channel_failed', /did not open \(SCTP: connecting\)/],
    ['a path that died', peer(browser, [['host/udp', 'host/udp', 'failed', 99, 90]], { connectedMs: 300, endedMs: 60_300, cause: 'repair', rung: 'udp', states: DTLS_UP }), 'path_lost', /over UDP lasted 60 s, then packets stayed away, and an ICE restart/],
    ['the page went', peer(browser, [['host/udp', 'host/udp', 'succeeded', 99, 90]], { connectedMs: 300, endedMs: 60_300, cause: 'page', rung: 'udp' }), 'connected', /UDP/],
    ['the page went early', peer(browser, [DEAD_UDP], { cause: 'page', endedMs: 800, observedMs: 700 }), 'abandoned', /after 800 ms/],
    ['offline', peer(browser, [FAILED_UDP], { online: false }), 'offline', /offline/],
    ['the operator wants none', peer(browser, [], { cause: 'off', answered: false }), 'switched_off', /operator has switched data channels off/],
    ['the server wants none', peer(browser, [], { cause: 'refused', answered: false }), 'webrtc_refused', /refused the offer/],
    ['the browser wants none', peer(browser, [], { cause: 'forbidden', observedMs: null }), 'no_webrtc', /browser refused/],
    ['an offer that fails', peer(browser, [], { cause: 'browser', observedMs: null }), 'unknown', /could not make an offer/],
    ['nothing is known', peer(browser, [], { observedMs: null }), 'unknown', /nothing says why/],
  ];
  for (const [what, attempt, verdict, sentence] of table) {
    test(`${browser}: ${what}: ${verdict}`, () => {
      const said = verdictOf(attempt);
      assert.equal(said.verdict, verdict, said.sentence);
      if (typeof sentence === 'function') assert.ok(sentence(said.sentence), said.sentence);
      else assert.match(said.sentence, sentence);
    });
  }
}

for (const [what, attempt, verdict, sentence] of [
  ['open', socket({ connectedMs: 30, endedMs: null, cause: null, close: null, opened: true }), 'connected', /open after 30 ms/],
  ['being opened', socket({ endedMs: null, cause: null, close: null }), 'trying', /being opened/],
  ['never opened', socket(), 'server_unreachable', /failed after 20 ms with code 1006\.$/],
  ['never opened, nor HTTP', socket({ http: false }), 'server_unreachable', /HTTP is not answered either/],
  ['never opened, though HTTP is answered', socket({ http: true }), 'websocket_refused', /the server answers HTTP/],
  ['no answer', socket({ cause: 'silent', close: null, endedMs: 6_000 }), 'server_unreachable', /nothing was answered in 6\.0 s/],
  ['open, and no welcome', socket({ opened: true, cause: 'silent', close: null, endedMs: 6_000 }), 'websocket_refused', /the WebSocket opened: nothing/],
  ['open, and closed', socket({ opened: true, close: { code: 4429, reason: 'overloaded' } }), 'websocket_refused', /closed at once with code 4429 \(overloaded\)/],
  ['lost', socket({ opened: true, connectedMs: 30, endedMs: 40_030 }), 'websocket_lost', /open for 40 s, then it was closed with code 1006/],
  ['silent', socket({ opened: true, connectedMs: 30, endedMs: 40_030, cause: 'silent', close: null }), 'websocket_lost', /nothing came over it/],
  ['offline', socket({ online: false }), 'offline', /offline/],
  ['given up', socket({ cause: 'page', close: null }), 'abandoned', /gave the WebSocket up/],
]) {
  test(`WebSocket: ${what}: ${verdict}`, () => {
    const said = verdictOf(attempt);
    assert.equal(said.verdict, verdict, said.sentence);
    assert.match(said.sentence, sentence);
  });
}

test('a session says what carries the data, and why nothing better does', () => {
  const now = (rung, state = 'connected') => ({ state, rung, relay: null, rtt: null });
  const on = { online: true, webRtc: 'on' };
  const open = socket({ connectedMs: 30, endedMs: null, cause: null, opened: true });
  const blocked = peer('chromium', [FAILED_UDP]);
  const trying = peer('chromium', [], { endedMs: null, cause: null, observedMs: 10, states: [] });
  const table = [
    [now('udp'), [open, peer('chromium', [], { ...up, rung: 'udp' })], on, 'connected', /^Connected over UDP/],
    [now('websocket'), [open], { ...on, webRtc: 'absent' }, 'no_webrtc', /no WebRTC\. The WebSocket carries/],
    [now('websocket'), [open], { ...on, webRtc: 'off' }, 'connected', /does not use WebRTC/],
    [now('websocket'), [open], { ...on, webRtc: 'relay' }, 'no_relay', /the server names none/],
    [now('websocket'), [open], { ...on, webRtc: 'relay', relays: false }, 'switched_off', /switched those off/],
    [now('websocket'), [open, blocked], { ...on, webRtc: 'switched_off' }, 'switched_off', /operator has switched data channels off.*carries/],
    [now('websocket'), [open, trying], on, 'connected', /is being tried/],
    [now('websocket'), [open, blocked], on, 'udp_blocked', /UDP is blocked.*The WebSocket carries/],
    [now('websocket'), [open, blocked, trying], on, 'udp_blocked', /UDP is blocked/],
    [now(null, 'reconnecting'), [open, blocked, socket()], on, 'server_unreachable', /cannot be reached/],
    [now(null, 'reconnecting'), [socket(), socket({ endedMs: null, cause: null })], on, 'server_unreachable', /cannot be reached/],
    [now(null, 'reconnecting'), [socket()], { ...on, online: false }, 'offline', /no network/],
    [now(null, 'connecting'), [trying, socket({ endedMs: null, cause: null })], on, 'trying', /being opened/],
    [now(null, 'idle'), [], on, 'unknown', /Nothing has been tried/],
  ];
  for (const [at, attempts, surroundings, verdict, sentence] of table) {
    const said = diagnosisOf(at, attempts, surroundings);
    assert.equal(said.verdict, verdict, said.sentence);
    assert.match(said.sentence, sentence);
  }
});

test('evidence has kinds and counts, and no address', () => {
  const stats = report('chromium', [['host/udp', 'host/udp', 'failed', 2, 0], ['host/udp', 'host/udp', 'in-progress', 3, 0], ['relay/tls', 'host/udp', 'succeeded', 1, 1]]);
  const evidence = evidenceIn(stats);
  assert.deepEqual(evidence.pairs, [
    { from: 'host/udp', to: 'host/udp', state: 'in-progress', count: 2, sent: 5, answered: 0 },
    { from: 'relay/tls', to: 'host/udp', state: 'succeeded', count: 1, sent: 1, answered: 1 },
  ]);
  assert.deepEqual(evidence.gathered, [
    { kind: 'host/udp', address: 'ipv4', count: 2 },
    { kind: 'relay/tls', address: 'ipv4', count: 1 },
  ]);
  assert.doesNotMatch(JSON.stringify(evidence), /198/);
  assert.equal(evidenceIn(report('firefox', [['host/udp', 'host/udp', 'failed', 2, 0]])).pairs[0].sent, null);
});

test('what was seen before an ICE restart stays, and what comes from the page is bounded', () => {
  const before = evidenceIn(report('chromium', [['host/udp', 'host/udp', 'in-progress', 9, 0]]));
  const after = evidenceIn(report('chromium', [['host/udp', 'host/udp', 'failed', 2, 0], ['relay/tcp', 'host/udp', 'succeeded', 1, 1]]));
  assert.deepEqual(mergeEvidence(before, after).pairs.map(({ from, state: at, sent }) => [from, at, sent]), [['host/udp', 'failed', 9], ['relay/tcp', 'succeeded', 1]]);
  const many = new Map(Array.from({ length: 500 }, (_, i) => [`L${i}`, { type: 'local-candidate', candidateType: `t${i}`, protocol: 'udp' }]));
  assert.equal(evidenceIn(many).gathered.length, 32);
  assert.equal(evidenceIn(new Map([['L', { type: 'local-candidate', candidateType: 'x'.repeat(99), protocol: {} }]])).gathered[0].kind, '?/?');
});
