/**
 * The one error type of the package. `code` is stable and is either a code of docs/protocol.md or one of the client's
 * own: `closed`, `session_lost`, `join_timeout`, `bad_argument`, `no_websocket`.
 */
export class SwitchyardError extends Error {
  /**
   * @param {string} code
   * @param {string} message
   * @param {{ retryAfterMs?: number }} [details]
   */
  constructor(code, message, details = {}) {
    super(message);
    this.name = 'SwitchyardError';
    /** Stable, for programs. */
    this.code = code;
    /** When the server said when to try again. */
    this.retryAfterMs = details.retryAfterMs;
  }
}

/** What becomes of a promise whose session is over. */
export function lost() {
  return new SwitchyardError('session_lost', 'the session ended before the server had confirmed it');
}

/** Why a room could not be joined. @param {unknown} error */
export function codeOf(error) {
  return error instanceof SwitchyardError ? error.code : 'session_lost';
}
