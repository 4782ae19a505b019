/**
 * What the session has to send, put into messages of pipes: as many frames in each as there is room for (docs/protocol.md,
 * section 3). Which pipe that is link.js decides.
 */

import { DOUBT_NONCE, encodeFrame, joinFrames } from './frame.js';

/** Before each frame in a message. */
const LENGTH_BYTES = 2;

/**
 * @typedef {import('./pipe.js').Pipe} Pipe
 * @typedef {Pick<import('./link.js').LinkOwner, 'next' | 'nextLossy' | 'copy' | 'copies'>} Source
 */

export class Outflow {
  #source;
  #send;

  /**
   * @param {Source} source
   * @param {(pipe: Pipe, frames: Uint8Array[]) => boolean} send false when the pipe is on its way down
   */
  constructor(source, send) {
    this.#source = source;
    this.#send = send;
  }

  /** Sends what there is room for. False when the pipe refused. @param {Pipe} pipe */
  fill(pipe) {
    const isSocket = pipe.kind === 'websocket';
    const next = (/** @type {number} */ room) =>
      this.#source.next(room) ?? (isSocket ? this.#source.nextLossy(Math.min(room, pipe.lossyRoom() - LENGTH_BYTES)) : null);
    for (let batch; (batch = batchOf(pipe.room(), next)).length > 0; ) if (!this.#send(pipe, batch)) return false;
    if (!isSocket) this.#fillLossy(pipe);
    return true;
  }

  /**
   * Sends what waits for acknowledgement once more, over the WebSocket. Every message tells the server that the data channel is
   * doubted, so that it does the same. True if there is more than there was room for.
   * @param {Pipe} aside
   */
  copy(aside) {
    while (this.#source.copies()) {
      const doubt = encodeFrame({ kind: 'ping', nonce: DOUBT_NONCE });
      const room = aside.room() - LENGTH_BYTES - doubt.length;
      const batch = batchOf(room, (left) => this.#source.copy(left));
      if (batch.length === 0) return true;
      if (!this.#send(aside, [doubt, ...batch])) return false;
    }
    return false;
  }

  /** @param {Pipe} pipe */
  #fillLossy(pipe) {
    for (let batch; (batch = batchOf(pipe.lossyRoom(), (left) => this.#source.nextLossy(left))).length > 0; ) {
      try {
        pipe.sendLossy(joinFrames(batch));
      } catch {
        return;
      }
    }
  }
}

/**
 * Frames for one message.
 * @param {number} room bytes
 * @param {(room: number) => Uint8Array | null} next a frame of at most so many bytes
 */
function batchOf(room, next) {
  /** @type {Uint8Array[]} */
  const batch = [];
  for (let frame; (frame = next(room - LENGTH_BYTES)); room -= LENGTH_BYTES + frame.length) batch.push(frame);
  return batch;
}
