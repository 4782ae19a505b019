/**
 * A network of its own for a test, which can be broken without touching the machine's:
 *
 *     this machine ── router ── server        (and, if asked for, client ── router)
 *
 * each of the right-hand ones a network namespace, joined by veth pairs; the router drops or rejects by nftables. The
 * router drops in `forward`, so that both ends see silence, as behind a real firewall, and no error of their own socket.
 */

import { join, joinServer, makeNamespaces, nameOfNext, removeLeftovers, routes, run } from './namespaces.js';

/** Why there can be no namespaces here; false if there can. */
export const NO_NAMESPACES =
  process.getuid?.() === 0 ? false : 'needs root, to make network namespaces: run tests/browser/run as root';

export class Network {
  #name;
  #remove;
  /** Of the server. */
  serverIp;
  #clientIp;

  /**
   * @param {{ client?: boolean, serverName?: string }} [options] `client`: with a namespace for a browser, which finds the
   *   server by `serverName` too
   */
  constructor({ client = false, serverName } = {}) {
    removeLeftovers();
    const { name, short, net } = nameOfNext();
    this.#name = name;
    this.serverIp = `${net}.18`;
    this.#clientIp = `${net}.34`;
    const router = `${name}r`;
    const server = `${name}s`;
    const guests = client ? [`${name}c`] : [];
    this.#remove = makeNamespaces([router, server, ...guests], { guests, serverName, serverIp: this.serverIp });
    routes(router);
    joinServer(router, server, { short, net });
    if (client) {
      join({ namespace: `${name}c`, name: 'eth0', ip: `${net}.34` }, { namespace: router, name: 'client', ip: `${net}.33` });
      run('ip', ['-n', `${name}c`, 'route', 'add', 'default', 'via', `${net}.33`]);
    }
    this.allowAll();
  }

  /** To run something where the server is. */
  get inServer() {
    return ['ip', 'netns', 'exec', `${this.#name}s`];
  }

  /** To run something where the client is. */
  get inClient() {
    return ['ip', 'netns', 'exec', `${this.#name}c`];
  }

  /** UDP vanishes, both ways. */
  blockUdp() {
    this.#rules('meta l4proto udp drop');
  }

  /** Nothing gets from the client and back but connections to this TCP port. @param {number} port */
  allowTcpOnly(port) {
    const client = this.#clientIp;
    this.#rules(`ip saddr ${client} tcp dport ${port} accept\n    ip daddr ${client} tcp sport ${port} accept\n    ip saddr ${client} drop\n    ip daddr ${client} drop`);
  }

  /** Connections to this TCP port are reset, those that are open too. @param {number} port */
  resetTcp(port) {
    this.#rules(`tcp dport ${port} reject with tcp reset\n    tcp sport ${port} drop`);
  }

  /** Everything of the client is cut: its connections are reset, the rest vanishes. */
  cutClient() {
    this.#rules(`ip saddr ${this.#clientIp} meta l4proto tcp reject with tcp reset\n    ip saddr ${this.#clientIp} drop\n    ip daddr ${this.#clientIp} drop`);
  }

  allowAll() {
    this.#rules('');
  }

  /** UDP between browsers in the client's namespace vanishes; or no longer. @param {boolean} isCut */
  cutWithinClient(isCut) {
    apply(`${this.#name}c`, 'input', isCut ? 'iifname "lo" meta l4proto udp drop' : '');
  }

  remove() {
    this.#remove.now();
  }

  /** @param {string} rules of the forward chain, in place of those before */
  #rules(rules) {
    apply(`${this.#name}r`, 'forward', rules);
  }
}

/** @param {string} namespace @param {string} hook @param {string} rules of the chain there, in place of those before */
function apply(namespace, hook, rules) {
  const ruleset = `table inet test
delete table inet test
table inet test {
  chain ${hook} {
    type filter hook ${hook} priority 0; policy accept;
    ${rules}
  }
}
`;
  run('ip', ['netns', 'exec', namespace, 'nft', '-f', '-'], ruleset);
}
