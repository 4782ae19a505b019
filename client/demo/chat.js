/** The chat: lines of people, and notices of who came and went. */

import { byId, make } from './dom.js';
import { paint } from './palette.js';
import { newId } from './wire.js';

const LINES = 300;
const SLOW_MS = 400;

/** @typedef {import('./wire.js').Line} Line */

export class Chat {
  #log = byId('chat-log', HTMLOListElement);
  #input = byId('chat-input', HTMLInputElement);
  /** By id. @type {Map<string, Line>} */
  #lines = new Map();
  #time = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit' });

  /**
   * @param {object} options
   * @param {{ user: string, name: string }} options.self
   * @param {(line: Line) => Promise<void>} options.sent
   * @param {AbortSignal} options.signal ends it
   */
  constructor({ self, sent, signal }) {
    this.#log.replaceChildren();
    byId('chat-form', HTMLFormElement).addEventListener(
      'submit',
      (event) => {
        event.preventDefault();
        const text = this.#input.value.trim();
        if (text === '') return;
        const { user, name } = self;
        this.#submit({ t: 'line', id: newId(), user, name, text, at: Date.now() }, sent);
      },
      { signal },
    );
  }

  /** What was said, for somebody who came later. */
  get lines() {
    return [...this.#lines.values()];
  }

  /** @param {Line} line */
  show(line) {
    if (this.#lines.has(line.id)) return null;
    this.#lines.set(line.id, line);
    const item = make('li', '');
    const who = make('span', 'who', line.name || line.user);
    paint(who, line.user);
    const time = make('time', '', this.#time.format(line.at));
    time.dateTime = new Date(line.at).toISOString();
    item.append(who, time, make('span', 'text', line.text));
    this.#append(item);
    if (this.#lines.size > LINES) this.#lines.delete(this.#lines.keys().next().value ?? '');
    return item;
  }

  /** Somebody came or went, or messages are missing. @param {string} text */
  notice(text) {
    this.#append(make('li', 'notice', text));
  }

  focus() {
    this.#input.focus();
  }

  /** @param {Line} line @param {(line: Line) => Promise<void>} sent */
  #submit(line, sent) {
    let sending;
    try {
      sending = sent(line);
    } catch (error) {
      this.notice(`Not sent: ${error instanceof Error ? error.message : error}`);
      return;
    }
    this.#input.value = '';
    const time = this.show(line)?.querySelector('time');
    const fate = make('span', 'fate');
    const slow = setTimeout(() => {
      fate.textContent = 'sending …';
      time?.after(fate);
    }, SLOW_MS);
    sending.then(
      () => {
        clearTimeout(slow);
        fate.remove();
      },
      () => {
        clearTimeout(slow);
        fate.textContent = 'not confirmed';
        time?.after(fate);
      },
    );
  }

  /** @param {HTMLElement} item */
  #append(item) {
    const log = this.#log;
    const atEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 40;
    log.append(item);
    while (log.children.length > LINES) log.firstElementChild?.remove();
    if (atEnd) log.scrollTop = log.scrollHeight;
  }
}
