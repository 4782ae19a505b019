/**
 * The shared drawing board: strokes by pointer and by keyboard, and the cursors of the others above it. Knows nothing
 * of rooms: what is drawn here is given to `sent`, what others draw is given to `draw`.
 */

import { byId, make } from './dom.js';
import { colourOf, inkOf, paint } from './palette.js';
import { newId } from './wire.js';

const STROKES = 4_000;
const STROKE_POINTS = 20_000;
const SEND_MS = 40;
const CURSOR_MS = 50;
const CURSOR_HIDDEN_MS = 30_000;
const STEP = 0.01;
const LINE_WIDTH = 0.0032;

/** @typedef {import('./wire.js').Stroke} Stroke */

export class Board {
  #canvas = byId('board', HTMLCanvasElement);
  #frame = byId('board-frame', HTMLElement);
  #layer = byId('cursors', HTMLElement);
  #pen = byId('pen', HTMLElement);
  #context = /** @type {CanvasRenderingContext2D} */ (this.#canvas.getContext('2d'));
  #dark = matchMedia('(prefers-color-scheme: dark)');
  /** By id. @type {Map<string, { user: string, points: number[] }>} */
  #strokes = new Map();
  /** What is being drawn here, and how much of it is sent. @type {{ id: string, points: number[], sent: number } | null} */
  #current = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #sending;
  /** @type {Map<number, { element: HTMLElement, seq: number, x: number, y: number, timer: ReturnType<typeof setTimeout> }>} */
  #cursors = new Map();
  #cursorAt = 0;
  /** Where the pointer is and others have not been told yet. @type {{ x: number, y: number } | null} */
  #cursorNext = null;
  /** @type {ReturnType<typeof setTimeout> | undefined} */
  #pointing;
  /** Where the keyboard's pen is; null while the pointer is used. @type {{ x: number, y: number } | null} */
  #keyPen = null;
  #redrawing = false;
  #user;
  #sent;
  #pointed;

  /**
   * @param {object} options
   * @param {string} options.user who draws here
   * @param {(stroke: Stroke) => void} options.sent
   * @param {(at: { x: number, y: number } | null) => void} options.pointed the pointer moved, or went
   * @param {AbortSignal} options.signal ends it
   */
  constructor({ user, sent, pointed, signal }) {
    this.#user = user;
    this.#sent = sent;
    this.#pointed = pointed;
    this.#listen(signal);
    this.#say('Draw with pointer or keyboard.');
    const observer = new ResizeObserver(() => this.#fit());
    observer.observe(this.#frame);
    signal.addEventListener('abort', () => {
      observer.disconnect();
      clearTimeout(this.#sending);
      clearTimeout(this.#pointing);
      this.clear();
      for (const member of [...this.#cursors.keys()]) this.forget(member);
    });
    this.#fit();
  }

  /** Everything drawn, for somebody who came later. @returns {Stroke[]} */
  get strokes() {
    return [...this.#strokes].map(([id, { user, points }]) => ({ t: 'stroke', id, user, points }));
  }

  /** Draws, or goes on with, a stroke of somebody else. @param {Stroke} stroke */
  draw({ id, user, points }) {
    const known = this.#strokes.get(id);
    if (known) {
      const room = STROKE_POINTS - known.points.length;
      for (const value of points.slice(0, Math.max(0, room))) known.points.push(value);
    } else {
      this.#strokes.set(id, { user, points: [...points] });
      if (this.#strokes.size > STROKES) this.#strokes.delete(this.#strokes.keys().next().value ?? '');
    }
    this.#redraw();
  }

  /** A stroke of the past, if it is not here yet. @param {Stroke} stroke */
  recall(stroke) {
    if (!this.#strokes.has(stroke.id)) this.draw(stroke);
  }

  clear() {
    this.#strokes.clear();
    this.#current = null;
    this.#redraw();
  }

  /**
   * Somebody's cursor. Older than the last one: it is not shown.
   * @param {import('/client/room.js').Member} member
   * @param {number} seq
   * @param {{ x: number, y: number } | null} at
   */
  cursor(member, seq, at) {
    const known = this.#cursors.get(member.member);
    if (known && ((seq - known.seq) >>> 0 === 0 || (seq - known.seq) >>> 0 > 0x7fff_ffff)) return;
    clearTimeout(known?.timer);
    const element = known?.element ?? this.#makeCursor(member);
    element.hidden = at === null;
    const timer = setTimeout(() => (element.hidden = true), CURSOR_HIDDEN_MS);
    const { x, y } = at ?? { x: 0, y: 0 };
    this.#cursors.set(member.member, { element, seq, x, y, timer });
    this.#place(element, x, y);
  }

  /** @param {number} member */
  forget(member) {
    const known = this.#cursors.get(member);
    clearTimeout(known?.timer);
    known?.element.remove();
    this.#cursors.delete(member);
  }

  /** @param {AbortSignal} signal */
  #listen(signal) {
    const canvas = this.#canvas;
    canvas.addEventListener('pointerdown', (event) => this.#pointerDown(event), { signal });
    canvas.addEventListener('pointermove', (event) => this.#pointerMove(event), { signal });
    for (const name of /** @type {const} */ (['pointerup', 'pointercancel'])) {
      canvas.addEventListener(name, () => this.#keyPen ?? this.#lift(), { signal });
    }
    canvas.addEventListener('pointerleave', () => this.#pointGone(), { signal });
    canvas.addEventListener('keydown', (event) => this.#key(event), { signal });
    canvas.addEventListener('blur', () => this.#putKeyPenAway(), { signal });
    this.#dark.addEventListener('change', () => this.#redraw(), { signal });
  }

  /** @param {PointerEvent} event */
  #pointerDown(event) {
    if (event.button !== 0) return;
    this.#putKeyPenAway();
    this.#canvas.setPointerCapture(event.pointerId);
    const at = this.#share(event);
    this.#begin(at);
  }

  /** @param {PointerEvent} event */
  #pointerMove(event) {
    const at = this.#share(event);
    this.#point(at);
    if (!this.#current || this.#keyPen) return;
    const steps = event.getCoalescedEvents?.() ?? [];
    for (const step of steps.length > 0 ? steps : [event]) this.#extend(this.#share(step));
  }

  /** @param {KeyboardEvent} event */
  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const by = event.shiftKey ? 5 * STEP : STEP;
    /** @type {Record<string, [number, number]>} */
    const moves = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    const move = moves[event.key];
    if (!move && event.key !== ' ' && event.key !== 'Escape') return;
    if (event.key === 'Escape' && !this.#keyPen) return;
    event.preventDefault();
    this.#keyPen ??= { x: 0.5, y: 0.5 };
    if (move) {
      const pen = { x: clamp(this.#keyPen.x + move[0]), y: clamp(this.#keyPen.y + move[1] * this.#aspect()) };
      this.#keyPen = pen;
      if (this.#current) this.#extend(pen);
      this.#point(pen);
    } else if (event.key === ' ' && !this.#current) {
      this.#begin(this.#keyPen);
      this.#say('Pen down.');
    } else {
      this.#lift();
      this.#say('Pen up.');
    }
    this.#redraw();
  }

  #putKeyPenAway() {
    if (!this.#keyPen) return;
    this.#lift();
    this.#keyPen = null;
    this.#redraw();
  }

  /** @param {{ x: number, y: number }} at */
  #begin({ x, y }) {
    const id = newId();
    const points = [round(x), round(y)];
    this.#current = { id, points, sent: 0 };
    this.#strokes.set(id, { user: this.#user, points });
    this.#sendLater();
    this.#redraw();
  }

  /** @param {{ x: number, y: number }} at */
  #extend({ x, y }) {
    if (!this.#current || this.#current.points.length >= STROKE_POINTS) return;
    this.#current.points.push(round(x), round(y));
    this.#sendLater();
    this.#redraw();
  }

  #lift() {
    if (!this.#current) return;
    this.#send();
    this.#current = null;
  }

  #sendLater() {
    this.#sending ??= setTimeout(() => this.#send(), SEND_MS);
  }

  #send() {
    clearTimeout(this.#sending);
    this.#sending = undefined;
    const current = this.#current;
    if (!current || current.sent === current.points.length) return;
    this.#sent({ t: 'stroke', id: current.id, user: this.#user, points: current.points.slice(current.sent) });
    current.sent = current.points.length;
  }

  /** @param {{ x: number, y: number }} at */
  #point({ x, y }) {
    this.#cursorNext = { x: round(x), y: round(y) };
    // Not each of them, but always the last.
    this.#pointing ??= setTimeout(() => this.#tellPoint(), this.#cursorAt + CURSOR_MS - performance.now());
  }

  #tellPoint() {
    this.#pointing = undefined;
    this.#cursorAt = performance.now();
    if (this.#cursorNext) this.#pointed(this.#cursorNext);
  }

  #pointGone() {
    this.#cursorNext = null;
    this.#pointed(null);
  }

  /** @param {import('/client/room.js').Member} member */
  #makeCursor(member) {
    const element = make('div', 'cursor');
    paint(element, member.user);
    element.append(make('span', '', member.name || member.user));
    this.#layer.append(element);
    return element;
  }

  /** @param {HTMLElement} element @param {number} x @param {number} y */
  #place(element, x, y) {
    element.style.translate = `${x * this.#frame.clientWidth}px ${y * this.#frame.clientHeight}px`;
  }

  #fit() {
    const { clientWidth: width, clientHeight: height } = this.#frame;
    const scale = window.devicePixelRatio || 1;
    this.#canvas.width = Math.round(width * scale);
    this.#canvas.height = Math.round(height * scale);
    for (const { element, x, y } of this.#cursors.values()) this.#place(element, x, y);
    this.#redraw();
  }

  #redraw() {
    if (this.#redrawing) return;
    this.#redrawing = true;
    requestAnimationFrame(() => {
      this.#redrawing = false;
      this.#paint();
    });
  }

  #paint() {
    const context = this.#context;
    const { width, height } = this.#canvas;
    context.clearRect(0, 0, width, height);
    context.lineCap = 'round';
    context.lineJoin = 'round';
    context.lineWidth = Math.max(2, width * LINE_WIDTH);
    for (const { user, points } of this.#strokes.values()) {
      context.strokeStyle = inkOf(colourOf(user), this.#dark.matches);
      context.beginPath();
      context.moveTo(points[0] * width, points[1] * height);
      // A dot is a line to itself.
      context.lineTo(points[0] * width, points[1] * height);
      for (let i = 2; i < points.length; i += 2) context.lineTo(points[i] * width, points[i + 1] * height);
      context.stroke();
    }
    if (this.#keyPen) this.#paintPen(this.#keyPen.x * width, this.#keyPen.y * height);
  }

  /** @param {number} x @param {number} y */
  #paintPen(x, y) {
    const context = this.#context;
    const radius = 7 * (window.devicePixelRatio || 1);
    const ink = inkOf(colourOf(this.#user), this.#dark.matches);
    context.lineWidth = radius / 3;
    context.strokeStyle = ink;
    context.fillStyle = ink;
    context.beginPath();
    context.arc(x, y, radius, 0, 2 * Math.PI);
    if (this.#current) context.fill();
    context.stroke();
  }

  /** @param {MouseEvent} event */
  #share(event) {
    const box = this.#canvas.getBoundingClientRect();
    return { x: clamp((event.clientX - box.left) / box.width), y: clamp((event.clientY - box.top) / box.height) };
  }

  /** So that a step is as long upwards as sideways. */
  #aspect() {
    return this.#frame.clientWidth / Math.max(1, this.#frame.clientHeight);
  }

  /** @param {string} text */
  #say(text) {
    this.#pen.textContent = text;
  }
}

/** @param {number} value */
function clamp(value) {
  return Math.min(1, Math.max(0, value));
}

/** @param {number} value */
function round(value) {
  return Math.round(value * 10_000) / 10_000;
}
