/**
 * Requests about the log that have an answer of their own (`history`, `replay`): asked again in a new session, and when
 * no answer has come. Pure: `now` is an argument, and asking is the owner's.
 */

import { SwitchyardError } from './errors.js';

/**
 * @typedef {object} Question
 * @property {Record<string, unknown>} message
 * @property {number | null} id of the request; null if it has to be made
 * @property {number} askedAt
 * @property {(answer: any) => void} resolve
 * @property {(error: Error) => void} reject
 */

/** A question without an answer is asked again. */
export const ASK_MS = 5_000;
/** Refusals that are none. */
const LATER = new Set(['loading', 'rate_limited', 'overloaded', 'storage_unavailable']);

export class Questions {
  /** @type {Set<Question>} */
  #open = new Set();

  /** @param {Record<string, unknown>} message @param {number} now @returns {Promise<any>} */
  ask(message, now) {
    return new Promise((resolve, reject) => this.#open.add({ message, id: null, askedAt: now, resolve, reject }));
  }

  /**
   * Asks what is to be asked now.
   * @param {number} now
   * @param {(message: Record<string, unknown>) => number | null} request gives the id
   */
  send(now, request) {
    for (const question of this.#open) {
      if (question.id !== null && now < question.askedAt + ASK_MS) continue;
      question.id = request(question.message);
      question.askedAt = now;
    }
  }

  /** When to send next. @returns {number | null} */
  get dueAt() {
    return this.#open.size === 0 ? null : Math.min(...[...this.#open].map(({ askedAt }) => askedAt + ASK_MS));
  }

  /** A new session knows none of them. */
  restart() {
    for (const question of this.#open) question.id = null;
  }

  /** Nothing could be answered until now. @param {number} now */
  resumed(now) {
    for (const question of this.#open) question.askedAt = now;
  }

  /** @param {number} id @param {any} answer */
  answer(id, answer) {
    this.#take(id)?.resolve(answer);
  }

  /**
   * Whether the request was one of these.
   * @param {unknown} id
   * @param {string} code
   * @param {string} message
   */
  refuse(id, code, message) {
    if (LATER.has(code)) return [...this.#open].some((question) => question.id === id);
    const question = this.#take(id);
    question?.reject(new SwitchyardError(code, message));
    return question !== undefined;
  }

  /** @param {Error} error */
  close(error) {
    for (const { reject } of this.#open) reject(error);
    this.#open.clear();
  }

  /** @param {unknown} id */
  #take(id) {
    for (const question of this.#open) {
      if (question.id !== id) continue;
      this.#open.delete(question);
      return question;
    }
    return undefined;
  }
}
