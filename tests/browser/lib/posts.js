/** Two people who write to a room's log at twenty messages a second each, and long ones beside them. */

import assert from 'node:assert/strict';

import { longestSilence } from './stalls.js';
import { EVERY_MS, upTo } from './talk.js';
import { until } from './wait.js';
import { Window } from './window.js';

const LONG_BYTES = 16_000;
const ARRIVE_MS = 90_000;

export class Posts {
  #people;
  #long;
  /** One for each of them. @type {Window[]} */
  windows = [];

  /** @param {import('./talk.js').Person[]} people two @param {number} long how many long ones the first writes */
  constructor(people, long) {
    this.#people = people;
    this.#long = long;
  }

  /** Until each has got some of the other, and some of the long ones have arrived. @param {string} url @param {string} room */
  async begin(url, room) {
    for (const { browser, name } of this.#people) {
      const window = await Window.open(browser, url);
      this.windows.push(window);
      await window.evaluate(enter, room, name);
    }
    for (const [index, window] of this.windows.entries()) {
      const long = index === 0 ? this.#long : 0;
      await window.evaluate((every, most, size) => globalThis.posts.begin(every, most, size), EVERY_MS, long, LONG_BYTES);
    }
    await this.hearMore(20);
    if (this.#long > 0) await until('long ones arrive', async () => (await this.#longArrived()) > this.#long / 20);
  }

  /** Each has got further posts of the other. @param {number} more */
  async hearMore(more) {
    await Promise.all(this.windows.map(async (window) => {
      const before = await window.evaluate(() => globalThis.posts.heard.length);
      const isMore = (/** @type {number} */ least) => globalThis.posts.heard.length > least;
      await until('further posts', () => window.evaluate(isMore, before + more), { within: 30_000 });
    }));
  }

  /** Whether not all of the long ones have arrived. */
  async isPouring() {
    return (await this.#longArrived()) < this.#long;
  }

  #longArrived() {
    return this.windows[1].evaluate(() => globalThis.posts.long.length);
  }

  /**
   * Ends it, waits until everything is in the log, and checks that each has it complete, once and in order. Gives the longest
   * stall from `from` on, and words about it.
   * @param {number} from
   */
  async settle(from) {
    const said = await Promise.all(this.windows.map((window) => window.evaluate(() => globalThis.posts.end())));
    const names = this.#people.map(({ name }) => name);
    const stalls = [];
    for (const [index, window] of this.windows.entries()) {
      const heard = await window.evaluate(() => globalThis.posts.heard);
      const counts = JSON.stringify({ said, long: this.#long });
      const written = await until(`everything is in the log: ${counts}`, async () => {
        const texts = await window.evaluate(() => globalThis.posts.written());
        return texts.length >= said[0] + said[1] + this.#long && texts;
      }, { within: ARRIVE_MS, every: 200 });
      const logged = (/** @type {string} */ name) => written.filter((text) => text.startsWith(`${name} `)).map((text) => Number(text.split(' ')[1]));
      names.forEach((name, at) => assert.deepEqual(logged(name), upTo(said[at]), `what ${names[index]} has of ${name}`));
      assert.deepEqual(logged('long'), upTo(this.#long));
      stalls.push(longestSilence(heard.map(([, at]) => at), from));
    }
    const words = stalls.map(({ gap, until: end }, index) => `${names[index]} ${Math.round(gap - EVERY_MS)} ms, until ${Math.round(end)}`);
    return { stall: Math.round(Math.max(0, ...stalls.map(({ gap }) => gap - EVERY_MS))), words: words.join('; ') };
  }

  async close() {
    await Promise.all(this.windows.map((window) => window.close()));
  }
}

/** In the page: a room with a log. @param {string} name @param {string} user */
async function enter(name, user) {
  const { connect } = await import('/client/index.js');
  const getToken = async (/** @type {string} */ room) => {
    const response = await fetch(`/v1/dev/token?${new URLSearchParams({ room, user })}`);
    return (await response.json()).token;
  };
  const session = connect({ getToken });
  const room = session.open({ room: name, user });
  /** @type {[number, number][]} of the other's */
  const heard = [];
  /** @type {number[]} the long ones of the other */
  const long = [];
  // What a writer may have unanswered is 128 KiB.
  const WAITING = 6;
  let said = 0;
  let saying;
  room.on('message', ({ body: { text } }) => {
    const [who, number] = text.split(' ', 2);
    if (who === user || (who === 'long' && text.endsWith(user))) return;
    if (who === 'long') long.push(Number(number));
    else heard.push([Number(number), performance.timeOrigin + performance.now()]);
  });
  globalThis.posts = {
    heard,
    long,
    begin(every, most, size) {
      saying = setInterval(() => {
        room.post(`${user} ${said + 1}`);
        said += 1;
      }, every);
      const pad = 'x'.repeat(size);
      let poured = 0;
      let waiting = 0;
      const pour = () => {
        while (poured < most && waiting < WAITING) {
          waiting += 1;
          room.post(`long ${(poured += 1)} ${pad} ${user}`).settled.finally(() => {
            waiting -= 1;
            pour();
          });
        }
      };
      pour();
    },
    end() {
      clearInterval(saying);
      return said;
    },
    /** What is in the log, all of it: who was away for long has been given the end of it, and pages back. */
    async written() {
      while (room.more) await room.history({ limit: 200 });
      return room.messages.filter(({ state }) => state !== 'pending').map(({ body }) => body.text.slice(0, 40));
    },
  };
}
