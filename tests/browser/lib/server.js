/** The server under test: the real program on free ports, started and ended by its process id. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import { atExit } from './cleanup.js';

const START_MS = 10_000;
const LOG_LINES = 60;

export class Server {
  #options;
  /** @type {import('node:child_process').ChildProcess | null} */
  #process = null;
  /** @type {string[]} */
  #log = [];
  /** Host and port of HTTP. */
  address = '';
  /** Where it keeps what survives; the same folder after a restart. */
  #folder = mkdtempSync(join(tmpdir(), 'switchyard-'));

  /** @param {{ ip: string, prefix: string[], environment: Record<string, string> }} options */
  constructor(options) {
    this.#options = options;
    atExit(() => rmSync(this.#folder, { recursive: true, force: true }));
  }

  /**
   * @param {object} [options]
   * @param {string} [options.ip] to listen on
   * @param {string[]} [options.prefix] command to run it under, such as one that enters a namespace
   * @param {Record<string, string>} [options.environment] further settings
   */
  static async start({ ip = '127.0.0.1', prefix = [], environment = {} } = {}) {
    const server = new Server({ ip, prefix, environment });
    await server.start();
    return server;
  }

  get url() {
    return `http://${this.address}`;
  }

  get port() {
    return Number(this.address.split(':').at(-1));
  }

  /**
   * Starts it; again, if it was stopped: HTTP is on the same port then.
   * @param {Record<string, string>} [changed] settings that are others from now on
   */
  async start(changed = {}) {
    Object.assign(this.#options.environment, changed);
    const { ip, prefix, environment } = this.#options;
    const binary = process.env.SWITCHYARD_BIN;
    if (!binary) throw new Error('SWITCHYARD_BIN does not name the server; start the tests with tests/browser/run');
    const inherited = Object.entries(process.env).filter(([name]) => !name.startsWith('SWITCHYARD'));
    const settings = {
      SWITCHYARD__MODE: 'development',
      SWITCHYARD__HTTP__BIND: ip,
      SWITCHYARD__HTTP__PORT: this.address ? String(this.port) : '0',
      SWITCHYARD__RTC__UDP_PORT: '0',
      SWITCHYARD__RTC__TCP_PORT: '0',
      SWITCHYARD__RTC__SHARDS: '2',
      SWITCHYARD__TURN__LISTEN__UDP_PORT: '0',
      SWITCHYARD__TURN__LISTEN__TCP_PORT: '0',
      SWITCHYARD__TURN__LISTEN__TLS_PORT: '0',
      SWITCHYARD__LOG__FORMAT: 'json',
      SWITCHYARD__STORE__PATH: join(this.#folder, 'store.db'),
    };
    const [command, ...args] = [...prefix, binary, 'serve'];
    const child = spawn(command, args, {
      env: { ...Object.fromEntries(inherited), ...settings, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    this.#process = child;
    const kill = atExit(() => child.kill('SIGKILL'));
    child.once('exit', kill.cancel);
    for (const stream of [child.stdout, child.stderr]) {
      createInterface({ input: stream }).on('line', (line) => {
        this.#log.push(line);
        if (this.#log.length > LOG_LINES) this.#log.shift();
        this.address ||= addressIn(line);
        if (addressIn(line)) child.emit('listening');
      });
    }
    await Promise.race([
      once(child, 'listening', { signal: AbortSignal.timeout(START_MS) }),
      once(child, 'exit').then(() => Promise.reject(new Error('the server ended'))),
    ]).catch((error) => {
      throw new Error(`no server: ${error.message}\n${this.log}`);
    });
  }

  /** @param {NodeJS.Signals} [signal] SIGKILL is a crash */
  async stop(signal = 'SIGTERM') {
    const child = this.#process;
    this.#process = null;
    if (!child || child.exitCode !== null || child.signalCode !== null) return;
    const exited = once(child, 'exit');
    child.kill(signal);
    await exited;
  }

  /** What it wrote last. */
  get log() {
    return this.#log.join('\n');
  }

  /** What `/metrics` says now. The shards publish their counts once a second. */
  async metrics() {
    return new Metrics(await (await fetch(`${this.url}/metrics`)).text());
  }
}

export class Metrics {
  /** @type {{ name: string, labels: Record<string, string>, value: number }[]} */
  #samples = [];

  /** @param {string} text as Prometheus reads it */
  constructor(text) {
    for (const line of text.split('\n')) {
      const [, name, labels, value] = /^(\w+)(?:\{(.*)\})? (\S+)$/.exec(line) ?? [];
      if (!name) continue;
      const pairs = [...(labels ?? '').matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]);
      this.#samples.push({ name, labels: Object.fromEntries(pairs), value: Number(value) });
    }
  }

  /** The sum of the samples of this name that have these labels. @param {string} name @param {Record<string, string>} [labels] */
  sum(name, labels = {}) {
    const wanted = Object.entries(labels);
    const found = this.#samples.filter(
      (sample) => sample.name === `switchyard_${name}` && wanted.every(([key, value]) => sample.labels[key] === value),
    );
    if (found.length === 0) throw new Error(`no metric switchyard_${name} ${JSON.stringify(labels)}`);
    return found.reduce((sum, { value }) => sum + value, 0);
  }
}

/** @param {string} line of the log */
function addressIn(line) {
  try {
    return String(JSON.parse(line).fields?.address ?? '');
  } catch {
    return '';
  }
}
