/** Chromium and Firefox, headless, with fresh profiles, here or in a network namespace. */

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';

import puppeteer from 'puppeteer-core';

import { atExit } from './cleanup.js';

const CHROMIUM = process.env.CHROMIUM_BIN ?? '/usr/bin/chromium';
const FIREFOX = process.env.FIREFOX_BIN ?? '/usr/bin/firefox-esr';
const START_MS = 60_000;

/** @typedef {import('puppeteer-core').Browser} Browser */

/**
 * @param {{ program?: string, anyCertificate?: boolean }} [options] `anyCertificate`: those that nobody has signed too
 * @returns {Promise<Browser>}
 */
export async function chromium({ program = CHROMIUM, anyCertificate = false } = {}) {
  return guarded({
    executablePath: program,
    headless: true,
    pipe: true,
    timeout: START_MS,
    args: [
      '--no-sandbox',
      '--disable-gpu',
      '--disable-quic',
      '--no-first-run',
      '--disable-background-networking',
      '--disable-component-update',
      '--disable-sync',
      ...(anyCertificate ? ['--ignore-certificate-errors'] : []),
    ],
  });
}

/**
 * Firefox gathers no loopback candidate; with `loopback` it is told to.
 * @param {{ loopback?: boolean }} [options]
 * @returns {Promise<Browser>}
 */
export async function firefox({ loopback = true } = {}) {
  return guarded({
    browser: 'firefox',
    executablePath: FIREFOX,
    headless: true,
    timeout: START_MS,
    extraPrefsFirefox: loopback ? { 'media.peerconnection.ice.loopback': true } : {},
  });
}

/** Launches, and kills if the tests end before the browser was closed. @param {import('puppeteer-core').LaunchOptions} options */
async function guarded(options) {
  const browser = await puppeteer.launch({ ...options, handleSIGINT: false, handleSIGTERM: false, handleSIGHUP: false });
  const pid = browser.process()?.pid;
  const kill = atExit(() => {
    // It is the leader of a process group of its own.
    if (pid) process.kill(-pid, 'SIGKILL');
  });
  browser.process()?.once('exit', () => kill.cancel());
  return browser;
}

/** Either of them by its name. @param {string} name */
export function launch(name) {
  return name === 'firefox' ? firefox() : chromium();
}

/**
 * Chromium in a namespace: the pipe by which it is driven crosses into it.
 * @param {string[]} inNamespace command that enters it
 * @param {{ anyCertificate?: boolean }} [options]
 * @returns {Promise<Browser>}
 */
export async function chromiumIn(inNamespace, options = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'switchyard-chromium-'));
  const program = join(folder, 'chromium');
  writeFileSync(program, `#!/bin/sh\nexec ${inNamespace.join(' ')} ${CHROMIUM} "$@"\n`, { mode: 0o755 });
  try {
    return await chromium({ program, ...options });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/**
 * Firefox with its ordinary preferences in a namespace. It answers on the namespace's own loopback and only to its own
 * address and port, so its port is relayed under the same number here.
 * @param {string[]} inNamespace command that enters it
 * @param {{ anyCertificate?: boolean }} [options]
 * @returns {Promise<Browser>} ends with `close`
 */
export async function firefoxIn(inNamespace, { anyCertificate = false } = {}) {
  const profile = mkdtempSync(join(tmpdir(), 'switchyard-firefox-'));
  const relay = await listen();
  const { port } = /** @type {import('node:net').AddressInfo} */ (relay.address());
  // Nothing that is not needed may call out of a network that leads nowhere.
  writeFileSync(join(profile, 'user.js'), QUIET_PREFERENCES);
  const [command, ...prefix] = inNamespace;
  const child = spawn(
    command,
    [...prefix, FIREFOX, '--headless', '--no-remote', '--profile', profile, `--remote-debugging-port=${port}`],
    { stdio: ['ignore', 'ignore', 'pipe'], env: { ...process.env, MOZ_CRASHREPORTER_DISABLE: '1' } },
  );
  const undo = atExit(() => {
    child.kill('SIGKILL');
    relay.close();
    rmSync(profile, { recursive: true, force: true, maxRetries: 5 });
  });
  relay.on('connection', (socket) => {
    const dialler = spawn(command, [...prefix, process.execPath, '-e', DIALLER, String(port)], {
      stdio: ['pipe', 'pipe', 'ignore'],
    });
    socket.pipe(dialler.stdin);
    dialler.stdout.pipe(socket);
    for (const end of [socket, dialler.stdin, dialler.stdout]) {
      end.on('error', () => socket.destroy());
    }
    socket.on('close', () => dialler.kill('SIGKILL'));
  });
  const lines = createInterface({ input: child.stderr });
  await Promise.race([
    new Promise((resolve) => lines.on('line', (line) => line.includes('WebDriver BiDi listening') && resolve(undefined))),
    once(child, 'exit').then(() => Promise.reject(new Error('Firefox ended'))),
    new Promise((_, reject) => setTimeout(reject, START_MS, new Error('Firefox did not start')).unref()),
  ]);
  const browser = await puppeteer.connect({
    browser: 'firefox',
    protocol: 'webDriverBiDi',
    browserWSEndpoint: `ws://127.0.0.1:${port}/session`,
    acceptInsecureCerts: anyCertificate,
  });
  const close = browser.close.bind(browser);
  browser.close = async () => {
    await close().catch(() => {});
    if (child.exitCode === null && child.signalCode === null) {
      const exited = once(child, 'exit');
      child.kill('SIGTERM');
      await exited;
    }
    undo.now();
  };
  return browser;
}

const DIALLER = `
  const socket = require('node:net').connect(Number(process.argv[1]), '127.0.0.1');
  process.stdin.pipe(socket).pipe(process.stdout);
  socket.on('error', () => process.exit(1)).on('close', () => process.exit(0));
`;

const QUIET_PREFERENCES = `
  user_pref('app.normandy.enabled', false);
  user_pref('app.update.disabledForTesting', true);
  user_pref('browser.shell.checkDefaultBrowser', false);
  user_pref('browser.startup.homepage', 'about:blank');
  user_pref('browser.startup.page', 0);
  user_pref('datareporting.policy.dataSubmissionEnabled', false);
  user_pref('network.captive-portal-service.enabled', false);
  user_pref('network.connectivity-service.enabled', false);
  user_pref('remote.active-protocols', 1);
  user_pref('services.settings.server', 'data:,');
  user_pref('startup.homepage_welcome_url', 'about:blank');
  user_pref('toolkit.startup.max_resumed_crashes', -1);
`;

async function listen() {
  const server = createServer();
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return server;
}
