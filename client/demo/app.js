/**
 * The demo: a lobby with a form, and a room with people, cursors, chat, a drawing board and a connection panel. Shows
 * what the client can do with nothing but its public API. The chat is in the room's log and is kept; the board is data,
 * which the windows that are there pass on to those that come.
 *
 * `?room=` names the room, `?transport=websocket` keeps WebRTC out of it, `#token=` brings a token (a server in
 * development mode makes its own), `#ice=relay` lets WebRTC go over TURN relays only, `#p2p=off` and
 * `#p2p=relay` decide on connections between browsers. `window.switchyard` has the session and the room, for tests and the curious.
 */

import { SwitchyardError, connect } from '/client/index.js';
import { Board } from './board.js';
import { Chat } from './chat.js';
import { byId } from './dom.js';
import { showConnection } from './panel.js';
import { showPeople } from './people.js';
import { devToken } from './token.js';
import { showWhy } from './why.js';
import { Streams, newId, readMessage } from './wire.js';

const SLOW_MS = 4_000;
const STORED = 'switchyard.demo';
/** A history message stays well below the limit of a message. */
const HISTORY_BYTES = 128 * 1_024;

const query = new URLSearchParams(location.search);
const hash = new URLSearchParams(location.hash.slice(1));
const fields = {
  name: byId('name', HTMLInputElement),
  room: byId('room', HTMLInputElement),
  token: byId('token', HTMLInputElement),
};

/** @typedef {import('/client/room.js').Room} Room */

fillForm();
byId('join-form', HTMLFormElement).addEventListener('submit', (event) => {
  event.preventDefault();
  enter();
});
// Not before: without this script the browser would send the form itself, and put the token in the address.
byId('join', HTMLButtonElement).disabled = false;
if (remembered().joined && remembered().room === fields.room.value) comeBack();

function fillForm() {
  const stored = remembered();
  const token = hash.get('token') ?? '';
  const claims = claimsOf(token);
  fields.token.value = token;
  fields.name.value = claims.name ?? query.get('name') ?? stored.name ?? '';
  fields.room.value = claims.room ?? query.get('room') ?? stored.room ?? 'demo';
  if (token) byId('token-field', HTMLElement).hidden = false;
}

/** A session, and who joins with it. */
function begin() {
  const name = fields.name.value.trim();
  const user = claimsOf(fields.token.value.trim()).user ?? remembered().user ?? `guest-${newId().slice(0, 8)}`;
  const session = connect({
    transport: query.get('transport') === 'websocket' ? 'websocket' : 'auto',
    iceTransportPolicy: hash.get('ice') === 'relay' ? 'relay' : 'all',
    peerToPeer: peerToPeer(),
    backgroundSync: worker(user, name),
    getToken: (room) => tokenFor(room, user, name),
  });
  return { session, name, user, room: fields.room.value.trim() };
}

function peerToPeer() {
  const wanted = hash.get('p2p');
  return wanted === 'off' || wanted === 'relay' ? wanted : undefined;
}

async function enter() {
  const { session, name, user, room: roomName } = begin();
  const button = byId('join', HTMLButtonElement);
  button.disabled = true;
  complain('');
  const slow = setTimeout(() => complain('Still trying to reach the server …'), SLOW_MS);
  try {
    const room = await session.join({ room: roomName, user });
    complain('');
    remember({ name, room: roomName, user, joined: true });
    const url = new URL(location.href);
    url.searchParams.set('room', roomName);
    history.replaceState(null, '', url);
    showRoom(session, room, { user, name });
  } catch (error) {
    session.close();
    forgetJoin();
    complain(error instanceof SwitchyardError ? explain(error) : String(error));
  } finally {
    clearTimeout(slow);
    button.disabled = false;
  }
}

/** After a reload: the room is there at once, with or without the server. */
function comeBack() {
  const { session, name, user, room } = begin();
  showRoom(session, session.open({ room, user }), { user, name });
}

/**
 * @param {import('/client/session.js').Session} session
 * @param {Room} room
 * @param {{ user: string, name: string }} self as far as it is known before the room is joined
 */
function showRoom(session, room, self) {
  const ended = new AbortController();
  const { signal } = ended;
  Object.assign(window, { switchyard: { session, room, rooms: [room] } });
  byId('lobby', HTMLElement).hidden = true;
  byId('place', HTMLElement).hidden = false;
  byId('room-name', HTMLElement).textContent = room.name;
  document.title = `${room.name} – Switchyard`;

  const board = new Board({
    user: self.user,
    sent: (stroke) => tell(room, stroke, Streams.BOARD, chat),
    pointed: (at) => {
      const cursor = at ? { t: 'cursor', ...at } : { t: 'cursor', gone: true };
      if (room.active) room.sendLossy(JSON.stringify(cursor), { stream: Streams.CURSOR });
    },
    signal,
  });
  const arrived = () => {
    if (room.self) self = { user: room.self.user, name: room.self.name || self.name };
    byId('chat-log', HTMLElement).dataset.user = self.user;
    showPeople(room, self.name);
  };
  arrived();
  const chat = new Chat(room, signal);
  showConnection(session, room, signal);
  showWhy(session, signal);
  chat.notice(room.active ? `You joined ${room.name}.` : `Joining ${room.name} …`);
  chat.focus();
  room.on('joined', arrived, { signal });

  listen({ session, room, board, chat, self, signal });
  room.on('left', ({ reason }) => {
    ended.abort();
    session.close();
    leaveRoom(reason);
  });
  byId('leave', HTMLButtonElement).addEventListener('click', () => room.leave(), { signal });
  byId('copy-link', HTMLButtonElement).addEventListener('click', copyLink, { signal });
  byId('clear', HTMLButtonElement).addEventListener(
    'click',
    () => {
      board.clear();
      tell(room, { t: 'clear' }, Streams.BOARD, chat);
    },
    { signal },
  );
}

/**
 * @param {object} place
 * @param {import('/client/session.js').Session} place.session
 * @param {Room} place.room
 * @param {Board} place.board
 * @param {Chat} place.chat
 * @param {{ name: string }} place.self
 * @param {AbortSignal} place.signal
 */
function listen({ session, room, board, chat, self, signal }) {
  room.on('data', (event) => receive(room, board, event), { signal });
  room.on(
    'memberjoined',
    (member) => {
      showPeople(room, self.name);
      chat.notice(`${member.name || member.user} joined.`);
      if (speaksForAll(room, member.member)) tellHistory(room, member, board);
    },
    { signal },
  );
  room.on(
    'memberleft',
    ({ member }) => {
      showPeople(room, self.name);
      board.forget(member.member);
      chat.notice(`${member.name || member.user} left.`);
    },
    { signal },
  );
  room.on('peer', () => showPeople(room, self.name), { signal });
  room.on('quality', () => showPeople(room, self.name), { signal });
  room.on('gap', ({ sender, count }) => chat.notice(`${count} messages${sender ? ` of ${sender.name}` : ''} are missing.`), { signal });
  room.on('refused', ({ message }) => chat.notice(`Refused: ${message}`), { signal });
  room.on('rejected', ({ message }) => chat.notice(`Something you wrote before was refused: ${message}`), { signal });
  room.on(
    'rejoined',
    () => {
      chat.notice('The server had lost the session; joined again.');
    },
    { signal },
  );
  session.on('state', (state) => state === 'reconnecting' && chat.notice('Connection lost, reconnecting …'), { signal });
}

/**
 * @param {Room} room
 * @param {Board} board
 * @param {import('/client/room.js').DataEvent} event
 */
function receive(room, board, event) {
  const message = readMessage(event);
  switch (message?.t) {
    case 'stroke':
      board.draw(message);
      break;
    case 'clear':
      board.clear();
      break;
    case 'cursor':
      board.cursor(event.sender, event.seq ?? 0, 'gone' in message ? null : message);
      break;
    case 'history':
      if (message.member !== room.self?.member) break;
      message.strokes.forEach((stroke) => board.recall(stroke));
      break;
    default:
      break;
  }
}

/**
 * Sends, and says so in the chat if it cannot be.
 * @param {Room} room
 * @param {import('./wire.js').Message} message
 * @param {number} stream
 * @param {Chat} chat
 */
function tell(room, message, stream, chat) {
  try {
    room.send(JSON.stringify(message), { stream });
  } catch (error) {
    chat.notice(`Not sent: ${error instanceof Error ? error.message : error}`);
  }
}

/** The server does not store the board: of those who were there, the one with the lowest number tells the newcomer. @param {Room} room @param {number} newcomer */
function speaksForAll(room, newcomer) {
  const mine = room.self?.member ?? Infinity;
  return [...room.members.keys()].every((other) => other === newcomer || other > mine);
}

/**
 * @param {Room} room
 * @param {import('/client/room.js').Member} newcomer
 * @param {Board} board
 */
function tellHistory(room, newcomer, board) {
  const parts = board.strokes;
  for (let at = 0; at < parts.length; ) {
    /** @type {import('./wire.js').History} */
    const history = { t: 'history', member: newcomer.member, strokes: [] };
    for (let size = 0; at < parts.length && size < HISTORY_BYTES; at += 1) {
      const part = parts[at];
      size += JSON.stringify(part).length;
      history.strokes.push(part);
    }
    try {
      room.send(JSON.stringify(history), { stream: Streams.HISTORY, to: [newcomer.user] });
    } catch {
      return;
    }
  }
}

/** @param {string} reason */
function leaveRoom(reason) {
  forgetJoin();
  byId('place', HTMLElement).hidden = true;
  byId('lobby', HTMLElement).hidden = false;
  document.title = 'Switchyard';
  complain(reason === 'left' || reason === 'closed' ? '' : `You are no longer in the room: ${reason.replaceAll('_', ' ')}.`);
  fields.name.focus();
}

/**
 * The token of the form, or one that a server in development mode makes.
 * @param {string} room
 * @param {string} user
 * @param {string} name
 */
async function tokenFor(room, user, name) {
  const given = fields.token.value.trim();
  if (given) return given;
  try {
    return await devToken(room, user, name);
  } catch (error) {
    if (error instanceof SwitchyardError) byId('token-field', HTMLElement).hidden = false;
    throw error;
  }
}

/** Sends what was written without a network when no window is open: worker.js. @param {string} user @param {string} name */
async function worker(user, name) {
  // A token that was given is this window's.
  if (fields.token.value.trim()) return null;
  try {
    const address = `/demo/worker.js?${new URLSearchParams({ user, name })}`;
    return (await navigator.serviceWorker?.register(address, { type: 'module' })) ?? null;
  } catch {
    // No modules in workers, or a private window.
    return null;
  }
}

/** @param {SwitchyardError} error */
function explain(error) {
  const again = error.retryAfterMs ? ` Try again in ${Math.ceil(error.retryAfterMs / 1_000)} s.` : '';
  return `${error.message}${again}`;
}

/** @param {string} text */
function complain(text) {
  const alert = byId('join-error', HTMLElement);
  alert.textContent = text;
  alert.hidden = text === '';
}

/** @param {Event} event */
async function copyLink(event) {
  const button = /** @type {HTMLButtonElement} */ (event.currentTarget);
  const url = new URL(location.href);
  url.hash = '';
  try {
    await navigator.clipboard.writeText(url.href);
    button.textContent = 'Copied';
  } catch {
    button.textContent = 'Copy it from above';
  }
  setTimeout(() => (button.textContent = 'Copy link'), 2_000);
}

/** What this window was in, so that a reload goes back there. @returns {{ name?: string, room?: string, user?: string, joined?: boolean }} */
function remembered() {
  try {
    return JSON.parse(sessionStorage.getItem(STORED) ?? '{}') ?? {};
  } catch {
    return {};
  }
}

/** @param {object} what */
function remember(what) {
  try {
    sessionStorage.setItem(STORED, JSON.stringify(what));
  } catch {
    // Without storage a reload shows the form again.
  }
}

function forgetJoin() {
  remember({ ...remembered(), joined: false });
}

/**
 * Room and name that a token is for, to fill the form. The server alone judges it.
 * @param {string} token
 * @returns {{ room?: string, name?: string, user?: string }}
 */
function claimsOf(token) {
  try {
    const part = token.split('.')[1].replaceAll('-', '+').replaceAll('_', '/');
    const claims = JSON.parse(new TextDecoder().decode(Uint8Array.from(atob(part), (c) => c.charCodeAt(0))));
    return { room: claims.room?.name ?? claims.video?.room, name: claims.name ?? claims.sub, user: claims.sub };
  } catch {
    return {};
  }
}
