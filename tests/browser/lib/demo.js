/** A window of the demo, used as a person would: fields, keys, pointer. What it shows is read from its page. */

import { until } from './wait.js';
import { Window } from './window.js';

export class Demo extends Window {
  /**
   * Opens the demo in a window of its own and joins.
   * @param {import('puppeteer-core').Browser} browser
   * @param {{ url: string }} server
   * @param {{ name: string, room: string, transport?: string, hash?: string, width?: number, height?: number, scale?: number }} options
   */
  static async join(browser, server, { name, room, transport, hash = '', ...view }) {
    const query = transport ? `?transport=${transport}` : '';
    const demo = /** @type {Demo} */ (await Demo.open(browser, `${server.url}/${query}${hash}`, view));
    await demo.enter({ name, room });
    return demo;
  }

  /** Fills in the form and joins. @param {{ name: string, room: string }} who */
  async enter({ name, room }) {
    for (const [id, text] of Object.entries({ name, room })) {
      await this.page.$eval(`#${id}`, (field) => (/** @type {HTMLInputElement} */ (field).value = ''));
      await this.page.type(`#${id}`, text);
    }
    await this.until('the script is there', () => document.querySelector('#join:enabled') !== null);
    await this.page.click('#join');
    await this.joined();
  }

  async joined() {
    await this.until('the room is shown', () => document.getElementById('place')?.hidden === false);
  }

  /** @param {string} rung */
  async onRung(rung) {
    await until(`the window is on ${rung}`, async () => (await this.rung()) === rung, { within: 20_000 });
  }

  rung() {
    return this.evaluate(() => window.switchyard.session.rung);
  }

  /** What the panel says. @param {string} id */
  shown(id) {
    return this.page.$eval(`#${id}`, (element) => element.textContent);
  }

  /** @param {string} text */
  async say(text) {
    await this.page.type('#chat-input', text);
    await this.page.keyboard.press('Enter');
  }

  /** Waits until a chat line is there. @param {string} name of who said it @param {string} text */
  async hears(name, text) {
    await this.until(
      `${name} says ${text}`,
      (who, what) =>
        [...document.querySelectorAll('#chat-log li')].some(
          (line) => line.querySelector('.who')?.textContent === who && line.querySelector('.text')?.textContent === what,
        ),
      name,
      text,
    );
  }

  /** Waits until these people are listed, oneself first. @param {string[]} names */
  async sees(...names) {
    await this.until(
      `people: ${names}`,
      (wanted) => {
        const shown = [...document.querySelectorAll('#people .name')].map((name) => name.textContent);
        return shown.join() === wanted.join();
      },
      [`${names[0]} (you)`, ...names.slice(1)],
    );
  }

  /** Where a share of the board is on the page. @param {number} x @param {number} y */
  async at(x, y) {
    const box = await this.page.$eval('#board', (board) => {
      board.scrollIntoView({ block: 'nearest' });
      const { left, top, width, height } = board.getBoundingClientRect();
      return { left, top, width, height };
    });
    return { x: box.left + x * box.width, y: box.top + y * box.height };
  }

  /** Moves the pointer over the board, as far as shares of it go. @param {number} x @param {number} y */
  async point(x, y) {
    const at = await this.at(x, y);
    await this.page.mouse.move(at.x, at.y, { steps: 5 });
  }

  /** Draws a line through shares of the board. @param {[number, number][]} points */
  async draw(...points) {
    const [first, ...rest] = points;
    await this.point(...first);
    await this.page.mouse.down();
    for (const point of rest) {
      const at = await this.at(...point);
      await this.page.mouse.move(at.x, at.y, { steps: 4 });
    }
    await this.page.mouse.up();
  }

  /** Waits until somebody's cursor is there. @param {string} name @param {number} x @param {number} y */
  async seesCursor(name, x, y) {
    await this.until(
      `the cursor of ${name} at ${x}, ${y}`,
      (who, shareX, shareY) => {
        const board = document.getElementById('board')?.getBoundingClientRect();
        const cursor = [...document.querySelectorAll('#cursors .cursor')].find((each) => each.textContent?.includes(who));
        if (!board || !cursor || /** @type {HTMLElement} */ (cursor).hidden) return false;
        const { left, top } = cursor.getBoundingClientRect();
        const off = Math.hypot(left - board.left - shareX * board.width, top - board.top - shareY * board.height);
        return off < 3;
      },
      name,
      x,
      y,
    );
  }

  /** Waits until there is ink at a share of the board. @param {number} x @param {number} y */
  async seesInk(x, y) {
    // Browsers paint what is in front.
    await this.page.bringToFront();
    await this.until(
      `ink at ${x}, ${y}`,
      (shareX, shareY) => {
        const canvas = /** @type {HTMLCanvasElement} */ (document.getElementById('board'));
        const near = 4 * devicePixelRatio;
        const left = shareX * canvas.width - near;
        const top = shareY * canvas.height - near;
        const { data } = canvas.getContext('2d').getImageData(left, top, 2 * near, 2 * near);
        return data.some((value, index) => index % 4 === 3 && value > 128);
      },
      x,
      y,
    );
  }

  /**
   * Sends numbered messages to the room, and notes those of others with the time of their arrival.
   * @param {{ every?: number, stream?: number }} [options] in milliseconds
   */
  async startCounting({ every = 20, stream = 40 } = {}) {
    await this.evaluate(
      (interval, onStream) => {
        const { room, session } = window.switchyard;
        const counting = { sent: 0, seen: {}, rungs: [], states: [], stalls: [] };
        window.counting = counting;
        session.on('rung', (rung) => counting.rungs.push(rung));
        session.on('state', (state) => counting.states.push(state));
        room.on('gap', ({ count }) => (counting.gap = count));
        room.on('data', ({ sender, data, stream: from }) => {
          if (from !== onStream) return;
          const seen = (counting.seen[sender.name] ??= { numbers: [], last: performance.now(), stall: 0 });
          const now = performance.now();
          seen.stall = Math.max(seen.stall, now - seen.last);
          seen.last = now;
          seen.numbers.push(Number(data));
        });
        counting.timer = setInterval(() => {
          counting.sent += 1;
          room.send(String(counting.sent), { stream: onStream }).catch((error) => (counting.error = String(error)));
        }, interval);
      },
      every,
      stream,
    );
  }

  /** Ends the sending. @returns {Promise<number>} how many were sent */
  stopCounting() {
    return this.evaluate(() => {
      clearInterval(window.counting.timer);
      return window.counting.sent;
    });
  }

  /** How many have arrived from `name`. @param {string} name */
  counted(name) {
    return this.evaluate((who) => window.counting.seen[who]?.numbers.length ?? 0, name);
  }

  /** What was noted. */
  async counts() {
    return this.evaluate(() => JSON.parse(JSON.stringify({ ...window.counting, timer: null })));
  }
}
