/** Two people who talk at twenty messages a second each, and a bulk stream beside it from one to the other. */

import assert from 'node:assert/strict';

import { longestSilence } from './stalls.js';
import { until } from './wait.js';
import { Window } from './window.js';

export const EVERY_MS = 50;
const BULK_BYTES = 16_000;
/** Of everything that was sent, after the network is whole. */
const ARRIVE_MS = 60_000;
/** A stall of which it is told what was tried meanwhile. */
const LONG_MS = 1_500;

/**
 * @typedef {object} Person
 * @property {string} name
 * @property {import('puppeteer-core').Browser} browser
 */

export class Talk {
  #people;
  #bulk;
  /** One for each of them. @type {Window[]} */
  windows = [];

  /** @param {Person[]} people two @param {{ by: number, messages: number }} bulk which of them sends how much of 16 kB each */
  constructor(people, bulk) {
    this.#people = people;
    this.#bulk = bulk;
  }

  /**
   * Until both are on data channels over UDP and hear each other, and some of the bulk stream has arrived.
   * @param {string} url of the page
   * @param {string} room
   * @param {(user: string) => string | null} [tokenOf] null: the page asks the server for one
   */
  async begin(url, room, tokenOf = () => null) {
    for (const { browser, name } of this.#people) {
      const window = await Window.open(browser, url);
      this.windows.push(window);
      // A user of its own: what a talk before has left at the relay counts for a while against a user's quota.
      const user = `${name}-${room}`;
      await window.evaluate(enter, room, user, tokenOf(user));
    }
    for (const window of this.windows) await window.until('both are on UDP', () => globalThis.talk.isReady());
    for (const window of this.windows) await window.evaluate((every) => globalThis.talk.begin(every), EVERY_MS);
    for (const window of this.windows) await window.until('they hear each other', () => globalThis.talk.heard.length > 20);
    const { by, messages } = this.#bulk;
    await this.windows[by].evaluate((most, size) => globalThis.talk.pour(most, size), messages, BULK_BYTES);
    if (messages > 0) await until('bulk arrives', async () => (await this.#bulkArrived()) > messages / 20);
  }

  /** Each of them, or the given ones, has got further messages of the other. @param {number} more @param {Window[]} [windows] */
  async hearMore(more, windows = this.windows) {
    await Promise.all(windows.map(async (window) => {
      const before = await window.evaluate(() => globalThis.talk.heard.length);
      const isMore = (/** @type {number} */ least) => globalThis.talk.heard.length > least;
      await until('further messages', () => window.evaluate(isMore, before + more), { within: 30_000 });
    }));
  }

  /** Whether it is in the midst of the bulk stream. */
  async isPouring() {
    const arrived = await this.#bulkArrived();
    return arrived > 0 && arrived < this.#bulk.messages;
  }

  #bulkArrived() {
    return this.windows[1 - this.#bulk.by].evaluate(() => globalThis.talk.bulk.length);
  }

  /**
   * Ends it, waits until everything has arrived, and checks that it is complete, once and in order. Gives the longest stall
   * from `from` on, and words about it.
   * @param {number} from
   */
  async settle(from) {
    const said = await Promise.all(this.windows.map((window) => window.evaluate(() => globalThis.talk.end())));
    const poured = this.#people.map((_, index) => (index === this.#bulk.by ? 0 : this.#bulk.messages));
    const isAll = (/** @type {number} */ least, /** @type {number} */ bulk) => globalThis.talk.heard.length >= least && globalThis.talk.bulk.length >= bulk;
    const reports = await Promise.all(
      this.windows.map(async (window, index) => {
        const arrived = () => window.evaluate(isAll, said[1 - index], poured[index]);
        await until('everything has arrived', arrived, { within: ARRIVE_MS, every: 100 });
        return window.evaluate(() => globalThis.talk.report());
      }),
    );
    const words = reports.map(({ heard, bulk, counters, rungs, attempts }, index) => {
      assert.deepEqual(heard.map(([number]) => number), upTo(said[1 - index]));
      assert.deepEqual(bulk, upTo(poured[index]));
      const { sessionsLost, laneGaps, badFrames } = counters;
      assert.deepEqual({ sessionsLost, laneGaps, badFrames }, { sessionsLost: 0, laneGaps: 0, badFrames: 0 });
      const { gap, until: end } = longestSilence(heard.map(([, at]) => at), from);
      const way = rungs.map(([rung, at]) => `${rung} ${Math.round(at - from)}`).join(', ');
      const stall = Math.max(0, Math.round(gap - EVERY_MS));
      const tried = stall > LONG_MS ? `; tried ${attempts.map((attempt) => wordsOf(attempt, from)).join(', ')}` : '';
      return { stall, words: `${this.#people[index].name} ${stall} ms, until ${Math.round(end)} (${way})${tried}` };
    });
    return { stall: Math.max(...words.map(({ stall }) => stall)), words: words.map((each) => each.words).join('; ') };
  }

  async close() {
    await Promise.all(this.windows.map((window) => window.close()));
  }
}

/** An attempt to connect, in milliseconds since `from`. @param {any} attempt of `session.diagnose()` @param {number} from */
function wordsOf({ by, began, connectedMs, endedMs, cause, http }, from) {
  const at = (/** @type {number | null} */ ms) => (ms === null ? 'open' : Math.round(began + ms - from));
  const end = connectedMs !== null ? `connected ${at(connectedMs)}, ${endedMs === null ? 'goes on' : `${cause} ${at(endedMs)}`}` : `${cause ?? ''} ${at(endedMs)}`;
  return `${by} from ${at(0)}: ${end}${http === undefined ? '' : ` (http ${http})`}`;
}

/** @param {number} last */
export function upTo(last) {
  return Array.from({ length: last }, (_, index) => index + 1);
}

/** In the page: a session in a room, and what is said there. @param {string} name @param {string} user @param {string | null} token */
async function enter(name, user, token) {
  const { connect } = await import('/client/index.js');
  const getToken = async (/** @type {string} */ room) => {
    if (token) return token;
    const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user })}`);
    return (await response.json()).token;
  };
  const session = connect({ getToken });
  const room = await session.join({ room: name, log: false });
  /** @type {[number, number][]} */
  const heard = [];
  const bulk = [];
  const rungs = [];
  const [BULK, CONFIRMED] = [7, 8];
  // The server keeps 1 MiB for a receiver that is away.
  const WINDOW = 16;
  // 4 MB a second: the stream is not over before the network has changed and is whole again.
  const [POUR_MS, AT_ONCE] = [20, 5];
  let confirmed = 0;
  let said = 0;
  let saying;
  session.on('rung', (rung) => rungs.push([rung, Date.now()]));
  room.on('data', ({ data, stream }) => {
    if (stream === CONFIRMED) {
      confirmed = Number(data);
    } else if (stream === BULK) {
      bulk.push(Number(data.slice(0, data.indexOf(' '))));
      room.send(String(bulk.length), { stream: CONFIRMED });
    } else heard.push([Number(data), performance.timeOrigin + performance.now()]);
  });
  globalThis.talk = {
    session,
    heard,
    bulk,
    isReady: () => session.rung === 'udp' && room.members.size === 1,
    begin(every) {
      saying = setInterval(() => {
        room.send(String(said + 1));
        said += 1;
      }, every);
    },
    /** Bulk, as long as little of it is on its way. */
    pour(most, size) {
      const pad = 'x'.repeat(size);
      let poured = 0;
      const pouring = setInterval(() => {
        for (let i = 0; i < AT_ONCE && poured < most && poured - confirmed < WINDOW; i += 1) {
          room.send(`${(poured += 1)} ${pad}`, { stream: BULK });
        }
        if (poured >= most) clearInterval(pouring);
      }, POUR_MS);
    },
    end() {
      clearInterval(saying);
      return said;
    },
    report: async () => ({ heard, bulk, rungs, counters: session.stats().counters, attempts: (await session.diagnose()).attempts }),
  };
}
