/**
 * One window in a browser, on a page of the server. Keeps what the page complains of: errors in the console, uncaught
 * exceptions, failed requests, violations of the content policy.
 */

import { until } from './wait.js';

/** Chromium gives up what it is loading when an address of this machine comes or goes, as other tests' networks do. */
const NETWORK_CHANGED = 'net::ERR_NETWORK_CHANGED';
const LOADS = 5;

export class Window {
  /** @type {string[]} */
  complaints = [];

  /** @param {import('puppeteer-core').Page} page */
  constructor(page) {
    this.page = page;
    page.on('console', (message) => {
      if (message.type() === 'error') this.complaints.push(`console: ${message.text()}`);
    });
    page.on('pageerror', (error) => this.complaints.push(`exception: ${error}`));
    page.on('requestfailed', (request) => {
      this.complaints.push(`request: ${request.url()} ${request.failure()?.errorText}`);
    });
    page.on('response', (response) => {
      if (response.status() >= 400) this.complaints.push(`response: ${response.url()} ${response.status()}`);
    });
  }

  /**
   * A window of its own, sharing nothing with others.
   * @param {import('puppeteer-core').Browser} browser
   * @param {string} url
   * @param {{ width?: number, height?: number, dark?: boolean, scale?: number }} [options]
   */
  static async open(browser, url, { width = 1_280, height = 800, scale = 1 } = {}) {
    const context = await browser.createBrowserContext();
    const page = await context.newPage();
    await page.setViewport({ width, height, deviceScaleFactor: scale });
    const window = new this(page);
    await page.evaluateOnNewDocument(() => {
      addEventListener('securitypolicyviolation', (event) => {
        console.error(`content policy: ${event.violatedDirective} ${event.blockedURI}`);
      });
    });
    await window.#load(url);
    return window;
  }

  /** @param {string} url */
  async #load(url) {
    const isCut = (/** @type {unknown} */ text) => String(text).includes(NETWORK_CHANGED);
    for (let loads = 1; ; loads += 1) {
      this.complaints.length = 0;
      const error = await this.page.goto(url, { waitUntil: 'load' }).then(() => null, (reason) => reason);
      if (loads < LOADS && (isCut(error) || this.complaints.some(isCut))) continue;
      if (error) throw error;
      return;
    }
  }

  /**
   * @template {unknown[]} A
   * @template R
   * @param {(...args: A) => R} call
   * @param {A} args
   */
  evaluate(call, ...args) {
    return this.page.evaluate(call, ...args);
  }

  /**
   * Asks the page until the answer is true.
   * @template {unknown[]} A
   * @param {string} what
   * @param {(...args: A) => unknown} ask
   * @param {A} args
   */
  async until(what, ask, ...args) {
    try {
      return await until(what, () => this.page.evaluate(ask, ...args));
    } catch (error) {
      throw this.complaints.length === 0 ? error : new Error(`${what}; the page complains: ${this.complaints.join('; ')}`, { cause: error });
    }
  }

  async close() {
    const context = this.page.browserContext();
    if (!this.page.isClosed()) await context.close();
  }
}
