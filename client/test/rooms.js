// Rooms of pages that may be connected with each other, in simulated time.

import { connect } from '../src/index.js';
import { seeded } from './clock.js';
import { World } from './fake-network.js';
import { Path } from './fake-pairs.js';

/** Browsers that are on the WebSocket with the server, and may be connected with each other. */
export class Rooms extends World {
  constructor(options = {}) {
    super(options);
    this.path = new Path(this.clock, this.random);
    this.server.permissions = ['write', 'comment'];
    this.ids = seeded(7);
  }

  /** A page of a user; `transport` leaves peer connections to the mesh. */
  page(user, options = {}) {
    const { RTCPeerConnection: _, ...rest } = this.browser();
    const own = Array.from({ length: 16 }, () => Math.floor(this.ids() * 16).toString(16)).join('');
    const id = () => own;
    const environment = { ...rest, id, RTCPeerConnection: this.path.browser(user) };
    const getToken = () => JSON.stringify({ user });
    const session = connect({ url: 'ws://server', transport: 'websocket', peerToPeer: 'auto', environment, getToken, ...options });
    return { session, user, id: own };
  }

  /** The page enters a room and notes what it hears there. */
  async enter(page, name = 'r') {
    let room;
    page.session.join({ room: name, log: false }).then((it) => (room = it));
    await this.clock.until(() => room);
    const place = { room, session: page.session, data: [], events: [], peers: [], signals: [] };
    room.on('data', (event) => {
      place.events.push(event);
      place.data.push(event.data);
    });
    room.on('peer', ({ member, state }) => place.peers.push(`${member.user} ${state}`));
    room.on('signal', ({ data }) => place.signals.push(data));
    return place;
  }

  /** A tab of a user in a browser (fake-tabs.js), in a room. */
  async tab(browser, user) {
    const tab = browser.open();
    const RTCPeerConnection = class extends this.path.browser(user) {
      constructor(configuration) {
        super(configuration);
        tab.peers.push(this);
      }
    };
    const token = `x.${Buffer.from(JSON.stringify({ sub: user })).toString('base64url')}.x`;
    const environment = { ...tab.environment, RTCPeerConnection };
    return { tab, ...(await this.enter(this.page(user, { environment, getToken: () => token }))) };
  }

  async people(...users) {
    const places = [];
    for (const user of users) places.push(await this.enter(this.page(user)));
    return places;
  }

  /** Lossy messages that the server has been sent. */
  get atServer() {
    return this.server.lossy;
  }
}

export const reach = ({ room }) => [...room.peers.values()].map(({ state }) => state);
export const isDirect = (place, others) => reach(place).join() === Array(others).fill('direct').join();
export const all = (places, others = places.length - 1) => places.every((place) => isDirect(place, others));
