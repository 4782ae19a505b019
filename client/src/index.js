/**
 * Switchyard's browser client: rooms whose members exchange messages through the server, over WebRTC data channels
 * where the network lets them through and over a WebSocket where not, and whose log keeps what is written to it.
 *
 *     import { connect } from 'switchyard-client';
 *     const session = connect({ url: 'wss://example.org', getToken });
 *     const room = await session.join({ room: 'planning' });
 *     room.on('data', ({ sender, data }) => console.log(sender.name, data));
 *     room.send('hello');
 *     room.on('change', (messages) => render(messages));
 *     room.post('hello, and remember it');
 *
 * session.js is the whole. Of it, rooms.js knows the rooms, joins.js those that are being entered, rejoining.js those that are
 * entered anew, tokens.js with what; sending.js has what goes out, receiving.js what comes in, notices.js what the server says
 * of the rooms, direct.js what does not pass it, page.js what the page tells. link.js has the connection, watch.js and
 * suspicion.js whether it still gets through, sockets.js the WebSockets, outflow.js what goes into their messages; lane.js the
 * delivery, ephemera.js and lossy.js what may be lost, frame.js the bytes; quality.js how good the connection is, and share.js
 * tells it; attempts.js records the attempts to connect, diagnosis.js says what they mean, report.js tells the server. Of the
 * log, log.js is the whole, reader.js and writer.js the delivery, outbox.js and store.js what survives the page, record.js the
 * bytes; background.js sends without a page, and sync.js asks for that. mesh/ has the direct connections to other browsers:
 * mesh.js is the whole, pair.js one of them; tentative/ the copies of events that go over them ahead of the log. tabs/ lets the
 * tabs of one user share a connection: shared-link.js is the whole, lane.js what makes it safe, leader.js the tab that has it.
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
