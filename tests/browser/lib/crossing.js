/**
 * Two places, each behind a gateway of its own, and a server:
 *
 *     a ── gateway ──┐
 *                    core ── server
 *     b ── gateway ──┘
 *
 * each a network namespace. A gateway translates addresses as it is told, and lets through what it is told. This machine
 * reaches the server through the core, to see whether it is up.
 */

import { join, joinServer, makeNamespaces, nameOfNext, removeLeftovers, routes, run } from './namespaces.js';

/** @typedef {'a' | 'b'} Place */

/**
 * @typedef {object} Gateway
 * @property {'none' | 'port-restricted' | 'symmetric'} [nat] `port-restricted`: a port for each of its own, kept for all
 *   whom it sends to, who alone get back; `symmetric`: another port for each of them
 * @property {string} [lets] nftables rules of what gets from the place and back; the rest vanishes. By default everything
 */

const PLACES = /** @type {const} */ (['a', 'b']);

export class Crossing {
  #name;
  #remove;
  /** Of the server. */
  serverIp;

  /** @param {string} serverName by which both places find the server */
  constructor(serverName) {
    removeLeftovers();
    const { name, short, net } = nameOfNext();
    this.#name = name;
    this.serverIp = `${net}.18`;
    const [core, server] = [`${name}core`, `${name}s`];
    const all = [core, server, ...PLACES.flatMap((place) => [this.#gateway(place), this.#place(place)])];
    const guests = PLACES.map((place) => this.#place(place));
    this.#remove = makeNamespaces(all, { guests, serverName, serverIp: this.serverIp });
    [core, ...PLACES.map((place) => this.#gateway(place))].forEach(routes);
    joinServer(core, server, { short, net });
    PLACES.forEach((place, index) => {
      const [outside, inside] = [32 + 16 * index, 64 + 16 * index];
      const [gateway, here] = [this.#gateway(place), this.#place(place)];
      join({ namespace: gateway, name: 'wan', ip: `${net}.${outside + 2}` }, { namespace: core, name: `to-${place}`, ip: `${net}.${outside + 1}` });
      join({ namespace: here, name: 'eth0', ip: `${net}.${inside + 2}` }, { namespace: gateway, name: 'lan', ip: `${net}.${inside + 1}` });
      run('ip', ['-n', gateway, 'route', 'add', 'default', 'via', `${net}.${outside + 1}`]);
      run('ip', ['-n', here, 'route', 'add', 'default', 'via', `${net}.${inside + 1}`]);
      run('ip', ['-n', core, 'route', 'add', `${net}.${inside}/28`, 'via', `${net}.${outside + 2}`]);
      this.set(place, {});
    });
  }

  /** To run something where the server is. */
  get inServer() {
    return ['ip', 'netns', 'exec', `${this.#name}s`];
  }

  /** To run something at a place. @param {Place} place */
  at(place) {
    return ['ip', 'netns', 'exec', this.#place(place)];
  }

  /** What a place's gateway does from now on with new connections. @param {Place} place @param {Gateway} gateway */
  set(place, { nat = 'none', lets = 'accept' }) {
    const translated = nat === 'none' ? '' : `oifname "wan" masquerade ${nat === 'symmetric' ? 'fully-random' : ''}`;
    // Nobody gets in who was not written to first; what comes too early must not take a port.
    const unsolicited = nat === 'none' ? '' : 'iifname "wan" ct state new drop';
    const ruleset = `table ip test
delete table ip test
table ip test {
  chain input {
    type filter hook input priority 0; policy accept;
    ${unsolicited}
  }
  chain forward {
    type filter hook forward priority 0; policy drop;
    ${unsolicited}
    ${lets}
  }
  chain postrouting {
    type nat hook postrouting priority 100; policy accept;
    ${translated}
  }
}
`;
    run('ip', ['netns', 'exec', this.#gateway(place), 'nft', '-f', '-'], ruleset);
  }

  remove() {
    this.#remove.now();
  }

  /** @param {Place} place */
  #place(place) {
    return `${this.#name}${place}`;
  }

  /** @param {Place} place */
  #gateway(place) {
    return `${this.#name}g${place}`;
  }
}

/** Rules of a gateway: everything but UDP. */
export const NO_UDP = 'meta l4proto udp drop\n    accept';

/** Rules of a gateway: connections to one TCP port. @param {number} port */
export function onlyTcp(port) {
  return `tcp dport ${port} accept\n    tcp sport ${port} accept`;
}
