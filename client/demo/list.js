/**
 * The list of messages: each one an item that stays while the message does, and changes with it. Arrow keys go from
 * message to message; Tab reaches the buttons of the one they are on.
 */

import { byId, make } from './dom.js';
import { paint } from './palette.js';

/** @typedef {import('/client/messages.js').LogMessage} LogMessage */

/**
 * @typedef {object} Actions
 * @property {(message: LogMessage) => boolean} isOwn
 * @property {(message: LogMessage) => void} edit
 * @property {(message: LogMessage) => void} reply
 * @property {(message: LogMessage) => void} remove
 * @property {(message: LogMessage, emoji: string, on: boolean) => void} react
 * @property {() => void} top the first message has come into view
 */

const EMOJI = ['♥', '✓', '★'];
const NOTICES = 100;
const NEAR = 40;

export class MessageList {
  #log = byId('chat-log', HTMLOListElement);
  #actions;
  /** By id of the message. @type {Map<string, { message: LogMessage, quoted: string, item: HTMLLIElement }>} */
  #items = new Map();
  #time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

  /** @param {Actions} actions @param {AbortSignal} signal ends it */
  constructor(actions, signal) {
    this.#actions = actions;
    const log = this.#log;
    log.replaceChildren();
    log.addEventListener('scroll', () => log.scrollTop < NEAR && actions.top(), { signal, passive: true });
    log.addEventListener('keydown', (event) => this.#move(event), { signal });
    log.addEventListener('focusin', (event) => this.#current(event.target), { signal });
  }

  /** @param {readonly LogMessage[]} messages */
  show(messages) {
    const atEnd = this.#isAtEnd;
    const bySeq = new Map(messages.map((message) => [message.seq, message]));
    const gone = new Set(this.#items.keys());
    /** @type {HTMLLIElement | null} */
    let next = null;
    for (let at = messages.length - 1; at >= 0; at -= 1) {
      const message = messages[at];
      gone.delete(message.id);
      const parent = message.parent === null ? null : bySeq.get(message.parent);
      const item = this.#itemOf(message, parent ? `${parent.name || parent.user}: ${textOf(parent)}` : '');
      // Notices stay where they are between the messages.
      const isBefore = item.isConnected && (!next || item.compareDocumentPosition(next) & Node.DOCUMENT_POSITION_FOLLOWING);
      if (!isBefore) this.#log.insertBefore(item, next);
      next = item;
    }
    for (const id of gone) {
      this.#items.get(id)?.item.remove();
      this.#items.delete(id);
    }
    if (atEnd) this.toEnd();
  }

  /** @param {string} text */
  notice(text) {
    const atEnd = this.#isAtEnd;
    this.#log.append(make('li', 'notice', text));
    const notices = this.#log.querySelectorAll('.notice');
    if (notices.length > NOTICES) notices[0].remove();
    if (atEnd) this.toEnd();
  }

  toEnd() {
    this.#log.scrollTop = this.#log.scrollHeight;
  }

  /** What is in view stays there while something is put above it. @param {() => Promise<unknown>} act */
  async keepPlace(act) {
    const below = this.#log.scrollHeight - this.#log.scrollTop;
    await act();
    this.#log.scrollTop = this.#log.scrollHeight - below;
  }

  get #isAtEnd() {
    const log = this.#log;
    return log.scrollHeight - log.scrollTop - log.clientHeight < NEAR;
  }

  /** @param {LogMessage} message @param {string} quoted what it answers */
  #itemOf(message, quoted) {
    const known = this.#items.get(message.id);
    if (known?.message === message && known.quoted === quoted) return known.item;
    const item = known?.item ?? make('li', 'message');
    this.#draw(item, message, quoted);
    this.#items.set(message.id, { message, quoted, item });
    return item;
  }

  /** @param {HTMLLIElement} item @param {LogMessage} message @param {string} quoted */
  #draw(item, message, quoted) {
    const focused = item.contains(document.activeElement) ? document.activeElement?.textContent : null;
    item.dataset.state = message.state;
    item.classList.toggle('streaming', message.streaming);
    item.tabIndex = item.tabIndex === 0 ? 0 : -1;
    const who = make('span', 'who', message.name || message.user);
    paint(who, message.user);
    const time = make('time', '', this.#time.format(message.at));
    time.dateTime = new Date(message.at).toISOString();
    const parts = [who, time];
    if (fateOf(message)) parts.push(make('span', 'fate', fateOf(message)));
    if (quoted) parts.push(make('span', 'quote', quoted));
    parts.push(make('span', message.deleted ? 'text gone' : 'text', textOf(message)));
    if (message.seq !== null && !message.deleted) parts.push(this.#foot(item, message));
    item.replaceChildren(...parts);
    if (focused !== null) [...item.querySelectorAll('button')].find((button) => button.textContent === focused)?.focus();
  }

  /** Reactions, and what one can do. @param {HTMLLIElement} item @param {LogMessage} message */
  #foot(item, message) {
    const foot = make('span', 'foot');
    const { edit, reply, remove, react, isOwn } = this.#actions;
    const own = this.#self;
    for (const { emoji, count, users } of message.reactions) {
      const on = users.includes(own);
      const button = this.#button(item, `${emoji} ${count}`, () => react(message, emoji, !on));
      button.className = 'reaction';
      button.setAttribute('aria-pressed', String(on));
      foot.append(button);
    }
    const tools = make('span', 'tools');
    for (const emoji of EMOJI) {
      if (message.reactions.every((reaction) => reaction.emoji !== emoji)) tools.append(this.#button(item, emoji, () => react(message, emoji, true)));
    }
    tools.append(this.#button(item, 'Reply', () => reply(message)));
    if (isOwn(message)) tools.append(this.#button(item, 'Edit', () => edit(message)), this.#button(item, 'Delete', () => remove(message)));
    foot.append(tools);
    return foot;
  }

  /** @param {HTMLLIElement} item @param {string} label @param {() => void} act */
  #button(item, label, act) {
    const button = make('button', '', label);
    button.type = 'button';
    button.tabIndex = item.tabIndex;
    button.addEventListener('click', act);
    return button;
  }

  /** Whose reactions are one's own. */
  get #self() {
    return this.#log.dataset.user ?? '';
  }

  /** @param {KeyboardEvent} event */
  #move(event) {
    if (event.key !== 'ArrowUp' && event.key !== 'ArrowDown') return;
    const items = /** @type {HTMLLIElement[]} */ ([...this.#log.querySelectorAll('.message')]);
    const at = items.findIndex((item) => item.contains(document.activeElement));
    const next = event.key === 'ArrowUp' ? (at < 0 ? items.length : at) - 1 : at < 0 ? items.length : at + 1;
    if (!items[next]) return;
    event.preventDefault();
    items[next].focus();
  }

  /** Tab reaches the buttons of this message and of no other. @param {EventTarget | null} target */
  #current(target) {
    const current = target instanceof Element ? target.closest('.message') : null;
    if (!current) return;
    for (const { item } of this.#items.values()) {
      const index = item === current ? 0 : -1;
      if (item.tabIndex === index) continue;
      item.tabIndex = index;
      for (const button of item.querySelectorAll('button')) button.tabIndex = index;
    }
  }
}

/** @param {LogMessage} message */
function textOf({ body, opaque, deleted }) {
  if (deleted) return 'deleted';
  return opaque || body instanceof Uint8Array ? 'a message that only its readers can open' : String(body.text ?? '');
}

/** @param {LogMessage} message */
function fateOf({ state, streaming, incomplete, edited }) {
  if (streaming) return 'writing …';
  if (state === 'pending') return 'waiting …';
  if (incomplete) return 'not finished';
  return edited === null ? '' : 'edited';
}
