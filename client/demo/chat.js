/**
 * The chat: the room's messages, which are kept and in the same order everywhere, and notices of who came and went. What
 * one writes is there at once; whether it has arrived is said beside it. list.js draws the messages.
 */

import { byId } from './dom.js';
import { MessageList } from './list.js';

/** @typedef {import('/client/messages.js').LogMessage} LogMessage */

const PAGE = 50;
/** What is on its way for a moment is no news. */
const NEWS_MS = 600;
const WORD_MS = 90;
const ANSWER =
  'A streamed message grows while it is being written. Everybody sees every word as it comes, whoever opens the room ' +
  'now gets what is there so far, and in the end it is one message like any other: in its place, once, on disk.';

export class Chat {
  #room;
  #list;
  #input = byId('chat-input', HTMLInputElement);
  #mode = byId('chat-mode', HTMLElement);
  #waiting = byId('chat-waiting', HTMLElement);
  /** What the form does besides saying something new. @type {{ kind: 'edit' | 'reply', message: LogMessage } | null} */
  #about = null;
  #paging = false;
  /** @type {ReturnType<typeof setTimeout> | null} */
  #telling = null;

  /**
   * @param {import('/client/room.js').Room} room
   * @param {AbortSignal} signal ends it
   */
  constructor(room, signal) {
    this.#room = room;
    const actions = {
      isOwn: (/** @type {LogMessage} */ message) => message.user === room.self?.user,
      edit: (/** @type {LogMessage} */ message) => this.#begin('edit', message),
      reply: (/** @type {LogMessage} */ message) => this.#begin('reply', message),
      remove: (/** @type {LogMessage} */ message) => this.#try(() => room.remove(message.id)),
      react: (/** @type {LogMessage} */ message, /** @type {string} */ emoji, /** @type {boolean} */ on) =>
        this.#try(() => (on ? room.react(message.id, emoji) : room.unreact(message.id, emoji))),
      top: () => this.#older(),
    };
    this.#list = new MessageList(actions, signal);
    this.#list.show(room.messages);
    room.on('change', (messages) => this.#list.show(messages), { signal });
    room.on('status', () => this.#status(), { signal });
    room.on('sync', ({ reason }) => {
      if (reason !== 'new') this.notice('You were away for long: these are the newest messages.');
    }, { signal });
    this.#status();
    byId('chat-form', HTMLFormElement).addEventListener('submit', (event) => this.#submit(event), { signal });
    byId('chat-cancel', HTMLButtonElement).addEventListener('click', () => this.#finish(), { signal });
    byId('chat-stream', HTMLButtonElement).addEventListener('click', () => this.#answer(signal), { signal });
    this.#input.addEventListener('keydown', (event) => event.key === 'Escape' && this.#finish(), { signal });
  }

  /** Somebody came or went, or something failed. @param {string} text */
  notice(text) {
    this.#list.notice(text);
  }

  focus() {
    this.#input.focus();
  }

  /** @param {SubmitEvent} event */
  #submit(event) {
    event.preventDefault();
    const text = this.#input.value.trim();
    if (text === '') return;
    const about = this.#about;
    const done = this.#try(() => {
      if (about?.kind === 'edit') return this.#room.edit(about.message.id, { ...about.message.body, text });
      const thread = about ? (about.message.parent ?? about.message.seq ?? 0) : 0;
      return this.#room.post({ text, thread });
    });
    if (!done) return;
    this.#input.value = '';
    this.#finish();
    this.#list.toEnd();
  }

  /** Does it, and says so if it cannot be done or is refused later. @param {() => import('/client/log.js').Written} act */
  #try(act) {
    try {
      act().settled.catch((error) => error.code !== 'closed' && this.notice(`Refused: ${error.message}.`));
      return true;
    } catch (error) {
      this.notice(`Not sent: ${error instanceof Error ? error.message : error}.`);
      return false;
    }
  }

  /** @param {'edit' | 'reply'} kind @param {LogMessage} message */
  #begin(kind, message) {
    this.#about = { kind, message };
    this.#mode.hidden = false;
    const who = message.name || message.user;
    byId('chat-mode-text', HTMLElement).textContent = kind === 'edit' ? 'Changing your message' : `Answering ${who}`;
    if (kind === 'edit' && !(message.body instanceof Uint8Array)) this.#input.value = message.body.text ?? '';
    this.#input.focus();
  }

  #finish() {
    if (this.#about?.kind === 'edit') this.#input.value = '';
    this.#about = null;
    this.#mode.hidden = true;
  }

  /** An answer word by word, as a language model gives it. @param {AbortSignal} signal */
  #answer(signal) {
    const button = byId('chat-stream', HTMLButtonElement);
    const stream = this.#room.stream();
    const words = ANSWER.split(/(?<= )/u);
    button.disabled = true;
    const timer = setInterval(() => {
      const word = words.shift();
      if (word !== undefined) {
        stream.write(word);
        return;
      }
      clearInterval(timer);
      button.disabled = false;
      stream.end().catch((error) => error.code !== 'closed' && this.notice(`Refused: ${error.message}.`));
    }, WORD_MS);
    signal.addEventListener('abort', () => {
      clearInterval(timer);
      button.disabled = false;
    });
  }

  /** The messages before those that are shown. */
  async #older() {
    if (this.#paging || !this.#room.more) return;
    this.#paging = true;
    try {
      await this.#list.keepPlace(() => this.#room.history({ limit: PAGE }));
    } catch {
      // Scrolling up again asks again.
    } finally {
      this.#paging = false;
    }
  }

  /** Says what waits, once it has waited. */
  #status() {
    this.#telling ??= setTimeout(() => {
      this.#telling = null;
      const { storage, queued, durable } = this.#room.status;
      const notes = storage === 'unavailable' ? ['The server cannot store messages now.'] : [];
      if (queued > 0) notes.push(`${queued} waiting to be sent${durable ? ', kept over a reload' : ''}.`);
      const text = notes.join(' ');
      if (this.#waiting.textContent !== text) this.#waiting.textContent = text;
    }, NEWS_MS);
  }
}
