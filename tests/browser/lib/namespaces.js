/** Network namespaces for tests: names and addresses that collide with nobody's, veth pairs, and what dead runs left. */

import { execFileSync } from 'node:child_process';
import { mkdirSync, readdirSync, rmSync, writeFileSync } from 'node:fs';

import { atExit } from './cleanup.js';

const PREFIX = 'syb';
let count = 0;

/** For the next network: what its namespaces' names begin with, a short one for interfaces, and a /24 of its own. */
export function nameOfNext() {
  count += 1;
  // 198.18.0.0/15 is for tests of networks.
  return { name: `${PREFIX}${process.pid}-${count}`, short: `${process.pid}${count}`, net: `198.18.${(process.pid + count) % 250}` };
}

/**
 * Makes them, with loopback up. Those of `guests` find the server by its name.
 * @param {string[]} all
 * @param {{ guests?: string[], serverName?: string, serverIp: string }} options
 * @returns what removes them, at the latest at the end of the process
 */
export function makeNamespaces(all, { guests = [], serverName, serverIp }) {
  // `ip netns exec` puts them in the place of those in /etc. Nobody answers there, which is told at once: what hosts does
  // not say, such as an IPv6 address, is not waited for.
  const folders = serverName ? guests.map((guest) => `/etc/netns/${guest}`) : [];
  const removal = atExit(() => {
    all.forEach((each) => tolerate('ip', ['netns', 'del', each]));
    folders.forEach((folder) => rmSync(folder, { recursive: true, force: true }));
  });
  for (const folder of folders) {
    mkdirSync(folder, { recursive: true });
    writeFileSync(`${folder}/resolv.conf`, 'nameserver 127.0.0.1\n');
    writeFileSync(`${folder}/hosts`, `127.0.0.1 localhost\n${serverIp} ${serverName} ${serverName}.\n`);
  }
  for (const each of all) {
    run('ip', ['netns', 'add', each]);
    run('ip', ['-n', each, 'link', 'set', 'lo', 'up']);
  }
  return removal;
}

/** A namespace passes on what is for others. @param {string} namespace */
export function routes(namespace) {
  run('ip', ['netns', 'exec', namespace, 'sysctl', '-qw', 'net.ipv4.ip_forward=1']);
}

/**
 * Joins a router with this machine and with the server's namespace. Networks have 16 addresses: this machine is `.1`, the
 * server `.18`.
 * @param {string} router @param {string} server @param {{ short: string, net: string }} names
 */
export function joinServer(router, server, { short, net }) {
  join({ name: `h${short}`, ip: `${net}.1` }, { namespace: router, name: 'host', ip: `${net}.2` });
  join({ namespace: server, name: 'eth0', ip: `${net}.18` }, { namespace: router, name: 'server', ip: `${net}.17` });
  run('ip', ['route', 'add', `${net}.16/28`, 'via', `${net}.2`]);
  run('ip', ['-n', server, 'route', 'add', 'default', 'via', `${net}.17`]);
}

/** @typedef {{ namespace?: string, name: string, ip: string }} End */

/** A veth pair; an end without a namespace stays on this machine. @param {End} a @param {End} b in a namespace */
export function join(a, b) {
  const into = a.namespace ? ['netns', a.namespace] : [];
  run('ip', ['link', 'add', a.name, ...into, 'type', 'veth', 'peer', 'name', b.name, 'netns', b.namespace ?? '']);
  for (const { namespace, name, ip } of [a, b]) {
    const at = namespace ? ['-n', namespace] : [];
    run('ip', [...at, 'addr', 'add', `${ip}/28`, 'dev', name]);
    run('ip', [...at, 'link', 'set', name, 'up']);
  }
}

/** Namespaces of runs that were killed: their names carry a process id that is gone. */
export function removeLeftovers() {
  let names;
  try {
    names = readdirSync('/run/netns');
  } catch {
    return;
  }
  for (const name of names) {
    const [, pid] = new RegExp(`^${PREFIX}(\\d+)-\\d+[a-z]+$`).exec(name) ?? [];
    if (!pid || isAlive(Number(pid))) continue;
    tolerate('ip', ['netns', 'del', name]);
    rmSync(`/etc/netns/${name}`, { recursive: true, force: true });
  }
}

/** @param {number} pid */
function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return /** @type {NodeJS.ErrnoException} */ (error).code === 'EPERM';
  }
}

/** @param {string} command @param {string[]} args @param {string} [input] */
export function run(command, args, input) {
  execFileSync(command, args, { input: input ?? '', stdio: ['pipe', 'ignore', 'pipe'] });
}

/** What it prints. @param {string} command @param {string[]} args */
export function read(command, args) {
  return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
}

/** @param {string} command @param {string[]} args */
export function tolerate(command, args) {
  try {
    run(command, args);
  } catch {
    // Gone already.
  }
}
