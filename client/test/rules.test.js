// The rules of pipes and WebSockets, step by step, against signaling/vectors/rules.json, to which the simulated browser
// (loadtest/src/browser/rules/) is held as well. RECORD=1 writes down what these modules say now.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { test } from 'node:test';

import { Probe } from '../src/probe.js';
import { Reconnect } from '../src/reconnect.js';
import { Suspicion } from '../src/suspicion.js';
import { Hold, Trial } from '../src/trial.js';

const FILE = new URL('../../signaling/vectors/rules.json', import.meta.url);

/** To the microsecond; null for what is never due. */
const ms = (time) => (time === null || time === Infinity ? null : Math.round(time * 1_000) / 1_000);

/** What each step of a case gives, one of these for each subject. */
const players = {
  suspicion() {
    const suspicion = new Suspicion(0);
    const nonces = [];
    const act = {
      look: () => undefined,
      ping: (at) => nonces.push(suspicion.ping(at)),
      pong: (at, index) => suspicion.pong(nonces[index], at),
      heard: (at) => suspicion.heard(at),
      answered: (at, sample) => suspicion.answered(at, sample),
      expect: (at, awaited) => suspicion.expect(at, awaited),
      hint: (at) => suspicion.hint(at),
      acquit: (at) => suspicion.acquit(at),
    };
    return (at, what, argument) => {
      act[what](at, argument);
      const verdict = suspicion.verdict(at);
      const doubts = suspicion.doubts(at);
      return [verdict, ms(suspicion.probeAt), ms(suspicion.nextAt), ms(suspicion.rtt), ms(suspicion.answerMs), ms(suspicion.quietFor(at)), ms(suspicion.doubtAt), doubts];
    };
  },
  trial({ hold }) {
    const trial = new Trial(0, hold);
    const act = {
      look: () => undefined,
      answered: (at, isOrdered) => trial.answered(at, isOrdered),
      probed: (at) => trial.probed(at),
      failed: () => trial.failed(),
    };
    return (at, what, argument) => {
      act[what](at, argument);
      // One that was never probed is due at once.
      return [trial.isProven(at), trial.wantsOrdered, trial.probeAt <= at ? 'due' : ms(trial.probeAt)];
    };
  },
  hold() {
    const hold = new Hold();
    return (at, what) => {
      if (what === 'false_alarm') hold.falseAlarm(at);
      return hold.ms(at);
    };
  },
  reconnect() {
    let random = 0;
    const reconnect = new Reconnect(() => random);
    return (at, what, argument) => {
      if (what === 'patience') return ms(reconnect.patience(at, argument));
      if (what === 'reset') return reconnect.reset() ?? null;
      if (what === 'found') return reconnect.found() ?? null;
      if (what === 'asks_on') return reconnect.asksOn;
      if (what === 'stale') return reconnect.isStale(argument.age, argument.rtt);
      if (what === 'asks') return reconnect.asks(at, argument);
      random = argument.random;
      return ms(reconnect.failed(at, argument.began, argument.silent));
    };
  },
  probe() {
    const probe = new Probe(0);
    const nonces = [];
    const act = {
      ping: (at) => nonces.push(probe.ping(at)) > 0,
      pong: (at, index) => probe.pong(nonces[index], at),
      heard: (at) => probe.heard(at),
      wake: (at) => probe.wake(at),
      silent: (at, span) => probe.silent(at, span),
    };
    return (at, what, argument) => [act[what](at, argument) ?? null, ms(probe.rtt), probe.due(at, 500)];
  },
};

const vectors = JSON.parse(readFileSync(FILE, 'utf8'));

for (const [subject, player] of Object.entries(players)) {
  for (const one of vectors[subject]) {
    const play = player(one);
    const said = one.steps.map(([at, what, argument]) => play(at, what, argument));
    if (process.env.RECORD) one.says = said;
    test(`${subject}: ${one.name}`, () => {
      assert.equal(one.says.length, one.steps.length);
      said.forEach((now, index) => assert.deepEqual(now, one.says[index], `step ${index}, ${JSON.stringify(one.steps[index])}`));
    });
  }
}

if (process.env.RECORD) writeFileSync(FILE, written(vectors));

/** A step to a line. */
function written({ about, ...subjects }) {
  const list = (items) => `[\n${items.map((item) => `        ${JSON.stringify(item)}`).join(',\n')}\n      ]`;
  const caseOf = ({ steps, says, ...rest }) =>
    `    {\n${Object.entries(rest).map(([key, value]) => `      ${JSON.stringify(key)}: ${JSON.stringify(value)},\n`).join('')}      "steps": ${list(steps)},\n      "says": ${list(says)}\n    }`;
  const all = Object.entries(subjects).map(([name, cases]) => `  ${JSON.stringify(name)}: [\n${cases.map(caseOf).join(',\n')}\n  ]`);
  return `{\n  "about": ${JSON.stringify(about)},\n${all.join(',\n')}\n}\n`;
}
