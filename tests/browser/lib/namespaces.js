/** Network namespaces for tests: names and addresses that collide with nobody's, veth pairs, and what dead runs left. */

import { execFileSync } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';

const PREFIX = 'syb';
let count = 0;

/** For the next network: what its namespaces' names begin with, a short one for interfaces, and a /24 of its own. */
export function nameOfNext() {
  count += 1;
  // 198.18.0.0/15 is for tests of networks.
  return { name: `${PREFIX}${process.pid}-${count}`, short: `${process.pid}${count}`, net: `198.18.${(process.pid + count) % 250}` };
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

/** @param {string} command @param {string[]} args */
export function tolerate(command, args) {
  try {
    run(command, args);
  } catch {
    // Gone already.
  }
}
