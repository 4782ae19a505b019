/** What a follower asks the leader and waits for: asked again of a new leader, and given up after a while. */

import { SwitchyardError } from '../errors.js';

const ANSWER_MS = 10_000;

/**
 * @typedef {'ice' | 'diagnosis'} What
 * @typedef {{ what: What, timer: unknown, resolve: (value: any) => void, reject: (error: Error) => void }} Question
 */

export class TabQuestions {
  #env;
  /** @type {Map<number, Question>} */
  #open = new Map();
  #last = 0;

  /** @param {import('../environment.js').Environment} env */
  constructor(env) {
    this.#env = env;
  }

  /** @param {What} what @param {(id: number, what: What) => void} say @returns {Promise<any>} */
  ask(what, say) {
    return new Promise((resolve, reject) => {
      const id = (this.#last += 1);
      const timer = this.#env.setTimeout(() => this.answer(id, null, 'timeout'), ANSWER_MS);
      this.#open.set(id, { what, timer, resolve, reject });
      say(id, what);
    });
  }

  /** Those without an answer, to another leader. @param {(id: number, what: What) => void} say */
  again(say) {
    for (const [id, { what }] of this.#open) say(id, what);
  }

  /** @param {number} id @param {unknown} value @param {string} error a code, or empty */
  answer(id, value, error) {
    const question = this.#open.get(id);
    if (!question) return;
    this.#open.delete(id);
    this.#env.clearTimeout(question.timer);
    if (error) question.reject(new SwitchyardError(error, 'the leading tab had no answer'));
    else question.resolve(value);
  }

  close() {
    for (const id of [...this.#open.keys()]) this.answer(id, null, 'closed');
  }
}
