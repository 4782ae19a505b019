/**
 * A way for frames to the server: the WebSocket, or the two data channels of a peer connection. Neither keeps a queue
 * of its own; `room` says how much may be given to the browser so that its queue stays short.
 */

import { CHANNEL_MESSAGE_BYTES, PIPE_QUEUE_BYTES, SOCKET_MESSAGE_BYTES } from './limits.js';
import { Probe } from './probe.js';
import { QueueAge } from './queue-age.js';
import { Suspicion } from './suspicion.js';

/** Lossy frames may lie in the browser's queue up to here; what comes later waits where it can still be replaced. */
const LOSSY_QUEUE_BYTES = 16_384;
/** Half of what is allowed, so that a frame of another stream waits for at most this much. */
const SOCKET_BATCH_BYTES = SOCKET_MESSAGE_BYTES / 2;

/** @typedef {SocketPipe | ChannelPipe} Pipe */

export class SocketPipe {
  kind = /** @type {const} */ ('websocket');
  #socket;
  #age = new QueueAge();

  /** @param {WebSocket} socket @param {number} now */
  constructor(socket, now) {
    this.#socket = socket;
    this.probe = new Probe(now);
  }

  get open() {
    return this.#socket.readyState === 1;
  }

  /** Bytes in the browser's queues. */
  get buffered() {
    return this.#socket.bufferedAmount;
  }

  get lossyBuffered() {
    return 0;
  }

  /** How long the oldest byte has been in the browser's queue, as far as the times of the calls tell. @param {number} now */
  bufferAgeMs(now) {
    return this.#age.look(now, this.#socket.bufferedAmount);
  }

  /** Bytes the next pipe message may have. */
  room() {
    return Math.min(SOCKET_BATCH_BYTES, PIPE_QUEUE_BYTES - this.#socket.bufferedAmount);
  }

  /** Bytes of lossy frames the next pipe message may have. */
  lossyRoom() {
    return this.#socket.bufferedAmount > LOSSY_QUEUE_BYTES ? 0 : SOCKET_BATCH_BYTES;
  }

  /** @param {Uint8Array<ArrayBuffer>} message */
  send(message) {
    this.#socket.send(message);
    this.#age.given(message.length);
  }

  /** @param {Uint8Array<ArrayBuffer>} message */
  sendLossy(message) {
    this.#socket.send(message);
    this.#age.given(message.length);
  }
}

export class ChannelPipe {
  kind = /** @type {const} */ ('datachannel');
  #reliable;
  #lossy;
  #age = new QueueAge();
  #lossyAge = new QueueAge();
  #ended = false;

  /** @param {RTCDataChannel} reliable @param {RTCDataChannel} lossy @param {number} now */
  constructor(reliable, lossy, now) {
    this.#reliable = reliable;
    this.#lossy = lossy;
    this.probe = new Probe(now);
    this.suspicion = new Suspicion(now);
  }

  /** Anything came in. @param {number} now @param {boolean} isOrdered over the ordered channel, which alone carries the lane */
  heard(now, isOrdered) {
    if (isOrdered) this.probe.heard(now);
    this.suspicion.heard(now);
  }

  get open() {
    return this.#reliable.readyState === 'open' && !this.#ended;
  }

  get buffered() {
    return this.#reliable.bufferedAmount;
  }

  /** It is not to be used any more, whatever the channels say. */
  end() {
    this.#ended = true;
  }

  get lossyBuffered() {
    return this.#lossy.bufferedAmount;
  }

  /** Bytes that the browser has sent, as far as it says. */
  get gone() {
    return this.#age.gone(this.#reliable.bufferedAmount) + this.#lossyAge.gone(this.#lossy.bufferedAmount);
  }

  /** @param {number} now */
  bufferAgeMs(now) {
    const ages = [this.#age.look(now, this.#reliable.bufferedAmount), this.#lossyAge.look(now, this.#lossy.bufferedAmount)];
    return Math.max(...ages);
  }

  room() {
    return Math.min(CHANNEL_MESSAGE_BYTES, PIPE_QUEUE_BYTES - this.#reliable.bufferedAmount);
  }

  lossyRoom() {
    if (this.#ended || this.#lossy.readyState !== 'open' || this.#lossy.bufferedAmount > LOSSY_QUEUE_BYTES) return 0;
    return CHANNEL_MESSAGE_BYTES;
  }

  /** @param {Uint8Array<ArrayBuffer>} message */
  send(message) {
    this.#reliable.send(message);
    this.#age.given(message.length);
  }

  /** @param {Uint8Array<ArrayBuffer>} message */
  sendLossy(message) {
    this.#lossy.send(message);
    this.#lossyAge.given(message.length);
  }

  /** Where a lost one holds up nothing. @param {Uint8Array<ArrayBuffer>} message */
  sendProbe(message) {
    if (this.#lossy.readyState === 'open') this.sendLossy(message);
    else this.send(message);
  }
}
