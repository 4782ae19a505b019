/**
 * Two places, each behind a gateway of its own, and a server:
 *
 *     a ── gateway ──┐
 *                    core ── server
 *     b ── gateway ──┘
 *
 * each a network namespace. A gateway translates addresses as it is told, and lets through what it is told; what it lets no
 * longer through vanishes, so that nobody sees an error of their own socket. This machine reaches the server through the core,
 * to see whether it is up.
 */

import { join, joinServer, makeNamespaces, nameOfNext, read, removeLeftovers, routes, run } from './namespaces.js';

/** @typedef {'a' | 'b'} Place */

/**
 * @typedef {object} Gateway
 * @property {'none' | 'port-restricted' | 'symmetric'} [nat] `port-restricted`: a port for each of its own, kept for all
 *   whom it sends to, who alone get back; `symmetric`: another port for each of them
 * @property {Outside} [outside] what connections look like on the other side, in place of a `nat`
 * @property {string} [lets] nftables rules of what gets from the place and back; the rest vanishes. By default everything
 *
 * @typedef {{ address: number, ports: string }} Outside which of the gateway's addresses, from 0 to 11, and a range of ports
 */

const PLACES = /** @type {const} */ (['a', 'b']);
const ADDRESSES = 12;

export class Crossing {
  #name;
  #net;
  #remove;
  /** Of the server. */
  serverIp;

  /** @param {string} serverName by which both places find the server */
  constructor(serverName) {
    removeLeftovers();
    const { name, short, net } = nameOfNext();
    this.#name = name;
    this.#net = net;
    this.serverIp = `${net}.18`;
    const [core, server] = [`${name}core`, `${name}s`];
    const all = [core, server, ...PLACES.flatMap((place) => [this.#gateway(place), this.#place(place)])];
    const guests = PLACES.map((place) => this.#place(place));
    this.#remove = makeNamespaces(all, { guests, serverName, serverIp: this.serverIp });
    [core, ...PLACES.map((place) => this.#gateway(place))].forEach(routes);
    joinServer(core, server, { short, net });
    PLACES.forEach((place) => {
      const [outside, inside] = [outsideOf(place), insideOf(place)];
      const [gateway, here] = [this.#gateway(place), this.#place(place)];
      join({ namespace: gateway, name: 'wan', ip: `${net}.${outside + 2}` }, { namespace: core, name: `to-${place}`, ip: `${net}.${outside + 1}` });
      join({ namespace: here, name: 'eth0', ip: `${net}.${inside + 2}` }, { namespace: gateway, name: 'lan', ip: `${net}.${inside + 1}` });
      for (let more = 1; more < ADDRESSES; more += 1) {
        run('ip', ['-n', gateway, 'addr', 'add', `${net}.${outside + 2 + more}/28`, 'dev', 'wan']);
      }
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
  set(place, { nat = 'none', outside, lets = 'accept' }) {
    const masquerade = nat === 'none' ? '' : `oifname "wan" masquerade ${nat === 'symmetric' ? 'fully-random' : ''}`;
    const translated = outside ? this.#source(place, outside) : masquerade;
    // Nobody gets in who was not written to first; what comes too early must not take a port.
    const unsolicited = translated === '' ? '' : 'iifname "wan" ct state new drop';
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

  /**
   * As what a place's gateway shows the UDP of its place to whom: by "address:port > address:port" of both, "address:port".
   * @param {Place} place
   */
  mappings(place) {
    const lines = read('ip', ['netns', 'exec', this.#gateway(place), 'conntrack', '-L', '-p', 'udp']).split('\n');
    const shown = new Map();
    for (const line of lines) {
      // Of both directions: from the inside out, and from the outside to what is shown.
      const [from, to] = [...line.matchAll(/src=(\S+) dst=(\S+) sport=(\d+) dport=(\d+)/g)];
      if (from && to) shown.set(`${from[1]}:${from[3]} > ${from[2]}:${from[4]}`, `${to[2]}:${to[4]}`);
    }
    return shown;
  }

  /** A place's gateway forgets what it has translated, of one protocol or all. @param {Place} place @param {'udp' | 'tcp'} [protocol] */
  forget(place, protocol) {
    const which = protocol ? ['-D', '-p', protocol] : ['-F'];
    run('ip', ['netns', 'exec', this.#gateway(place), 'conntrack', ...which]);
  }

  /** A place's own link goes down, or comes up again. @param {Place} place @param {boolean} isUp */
  link(place, isUp) {
    const here = this.#place(place);
    run('ip', ['-n', here, 'link', 'set', 'eth0', isUp ? 'up' : 'down']);
    // It went with the link.
    if (isUp) run('ip', ['-n', here, 'route', 'replace', 'default', 'via', `${this.#net}.${insideOf(place) + 1}`]);
  }

  /** A place gets another address, and loses the one it had. @param {Place} place @param {number} address from 0 to 11 */
  move(place, address) {
    const here = this.#place(place);
    const inside = insideOf(place);
    run('ip', ['-n', here, 'addr', 'flush', 'dev', 'eth0']);
    run('ip', ['-n', here, 'addr', 'add', `${this.#net}.${inside + 2 + address}/28`, 'dev', 'eth0']);
    run('ip', ['-n', here, 'route', 'replace', 'default', 'via', `${this.#net}.${inside + 1}`]);
  }

  remove() {
    this.#remove.now();
  }

  /** @param {Place} place @param {Outside} outside */
  #source(place, { address, ports }) {
    return `oifname "wan" meta l4proto { tcp, udp } snat to ${this.#net}.${outsideOf(place) + 2 + address}:${ports}`;
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

/** The network between a gateway and the core: of its 16 addresses the first is the core's. @param {Place} place */
function outsideOf(place) {
  return place === 'a' ? 32 : 48;
}

/** The network between a place and its gateway, whose address is the first. @param {Place} place */
function insideOf(place) {
  return place === 'a' ? 64 : 80;
}

/** Rules of a gateway: everything but UDP. */
export const NO_UDP = 'meta l4proto udp drop\n    accept';

/** Rules of a gateway: connections to one TCP port. @param {number} port */
export function onlyTcp(port) {
  return `tcp dport ${port} accept\n    tcp sport ${port} accept`;
}
