/** Chromium and Firefox in a namespace of their own, a router, and behind it a server that they know by name. */

import { chromiumIn, firefoxIn } from './browsers.js';
import { Network } from './network.js';
import { Server } from './server.js';

/** The server's. TLS is by name alone: Firefox takes no address there. */
export const NAME = 'switchyard.test';

export class Stage {
  network = new Network({ client: true, serverName: NAME });
  /** @type {Server} */
  server;
  /** @type {Record<string, import('puppeteer-core').Browser>} */
  browsers = {};

  static async open() {
    const stage = new Stage();
    try {
      stage.server = await stage.startServer();
      const options = { anyCertificate: true };
      stage.browsers.chromium = await chromiumIn(stage.network.inClient, options);
      stage.browsers.firefox = await firefoxIn(stage.network.inClient, options);
      return stage;
    } catch (error) {
      await stage.close();
      throw error;
    }
  }

  /** Another server at the same place. @param {Record<string, string>} [environment] */
  startServer(environment = {}) {
    const host = { SWITCHYARD__TURN__HOST: NAME };
    const { serverIp: ip, inServer: prefix } = this.network;
    return Server.start({ ip, prefix, environment: { ...host, ...environment } });
  }

  async close() {
    await Promise.all([...Object.values(this.browsers).map((browser) => browser.close()), this.server?.stop()]);
    this.network.remove();
  }
}
