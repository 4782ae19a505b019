/**
 * Switchyard's browser client: rooms whose members exchange messages through the server, over WebRTC data channels
 * where the network lets them through and over a WebSocket where not.
 *
 *     import { connect } from 'switchyard-client';
 *     const session = connect({ url: 'wss://example.org', getToken });
 *     const room = await session.join({ room: 'planning' });
 *     room.on('data', ({ sender, data }) => console.log(sender.name, data));
 *     room.send('hello');
 *
 * session.js has the rooms and messages, link.js the connection, lane.js the delivery, frame.js the bytes;
 * docs/protocol.md is the contract with the server.
 */

import { Session } from './session.js';

export { SwitchyardError } from './errors.js';
export { Room } from './room.js';
export { Session };

/**
 * A session that connects with its first join.
 * @param {import('./session.js').SessionOptions} [options]
 */
export function connect(options) {
  return new Session(options);
}
