/**
 * A room's log in this page: joins what comes (inbox.js), the reading half (reader.js), the writing half (outbox.js, writer.js),
 * the list that is shown (messages.js) and the streamed messages (streams.js), and asks for history. room.js is what the
 * application sees of it, session.js brings and takes its messages.
 */

import { Authoring } from './authoring.js';
import { customBody, emojiBody, fieldsBody, messageBody, readBody, readEvent, readMessage } from './body.js';
import { SwitchyardError } from './errors.js';
import { Inbox } from './inbox.js';
import { EventFlag, KINDS, encodeRecords, kindName } from './record.js';
import { Messages } from './messages.js';
import { Outbox } from './outbox.js';
import { ASK_MS, Questions } from './questions.js';
import { PULL_MS, Reader } from './reader.js';
import { Incoming } from './streams.js';

/**
 * @typedef {import('./messages.js').LogMessage} LogMessage
 * @typedef {import('./messages.js').LogEvent} LogEvent
 * @typedef {import('./record.js').LogRecord} LogRecord
 *
 * @typedef {object} LogStatus
 * @property {'ok' | 'unavailable'} storage whether the server can write
 * @property {string} code why not
 * @property {number} queued how much of this page has no answer
 * @property {boolean} durable whether all of that is stored and outlives the page
 *
 * @typedef {object} Sync
 * @property {string} reason `new`, or why the events in between are not delivered one by one (`sync_required`)
 * @property {number} seq the position that the snapshot stands for
 * @property {LogMessage[]} messages the newest ones
 * @property {Record<string, any>} fields
 * @property {boolean} more whether there are older messages
 *
 * @typedef {{ id: string, body: unknown, code: string, message: string }} Rejected what was written, as far as it is shown, and why
 *   the server does not take it
 *
 * @typedef {object} LogEvents
 * @property {LogMessage} message
 * @property {LogEvent} event
 * @property {readonly LogMessage[]} change
 * @property {{ fields: Record<string, any>, changed: Record<string, any> }} fields
 * @property {Sync} sync
 * @property {LogStatus} status
 * @property {Rejected} rejected what an earlier page of this user has written is refused: no promise is left to say so
 *
 * @typedef {{ id: string, settled: Promise<number> }} Written what was written: `settled` gives its `seq`, or rejects with
 *   the code of the refusal
 *
 * @typedef {object} LogCore what a log asks of its room and session
 * @property {<K extends keyof LogEvents>(name: K, event: LogEvents[K]) => void} emit
 * @property {() => { user: string, name: string }} self
 * @property {() => boolean} fits whether there is room for another message
 * @property {(payload: Uint8Array) => void} send
 * @property {(message: Record<string, unknown>) => number | null} request sends a control message; gives its id
 * @property {import('./tentative/tentative.js').Tentative | null} tentative
 *
 * @typedef {{ resolve: (seq: number) => void, reject: (error: Error) => void }} Fate
 */

export class Log {
  #env;
  #core;
  #outbox;
  #messages = new Messages();
  #reader = new Reader();
  #incoming = new Incoming();
  #authoring;
  #questions = new Questions();
  /** @type {Map<string, Fate>} */
  #fates = new Map();
  /** The request for an origin that waits. @type {number | null} */
  #originRequest = null;
  #inbox;
  #entered = false;
  #connected = false;
  #blocked = false;
  #storageCode = '';
  #told = '';
  /** @type {unknown} */
  #timer = null;
  #timerAt = Infinity;
  #synced = false;
  /** Whether other tabs hear the same. */
  #shared = false;
  #closed = false;

  /**
   * @param {object} options
   * @param {string} options.scope server and room
   * @param {import('./environment.js').Environment} options.env
   * @param {LogCore} options.core
   */
  constructor({ scope, env, core }) {
    this.#env = env;
    this.#core = core;
    this.#outbox = new Outbox({
      scope,
      storage: env.storage,
      now: env.now,
      date: env.date,
      random: env.random,
      owner: {
        adopted: (items) => this.#adopted(items),
        numbered: (item, origin) => void core.tentative?.wrote(item, origin),
        answered: (item, answer) => this.#answered(item, answer),
        lost: (items) => this.#lost(items),
        changed: () => {
          this.#tell();
          this.#flush();
        },
        request: (line) => {
          this.#originRequest = this.#core.request({ type: 'writer', ...line });
          if (this.#originRequest === null) this.#outbox.denied('buffer_full', ASK_MS);
        },
      },
    });
    this.#inbox = new Inbox({
      inflate: env.inflate,
      records: (records, values) => this.#handle(records, values),
      gap: () => this.#reader.gap(),
      idle: () => this.#flush(),
    });
    this.#authoring = new Authoring({ outbox: this.#outbox, env, wake: () => this.#flush() });
  }

  // --- for the application, by way of room.js --------------------------------------------------------------------------

  get messages() {
    return this.#messages.list;
  }

  get fields() {
    return this.#messages.fields;
  }

  get more() {
    return this.#messages.more;
  }

  /** The last event that was read. */
  get seq() {
    return this.#reader.seq;
  }

  /** @returns {LogStatus} */
  get status() {
    return {
      storage: this.#storageCode ? 'unavailable' : 'ok',
      code: this.#storageCode,
      queued: this.#outbox.queued,
      durable: this.#outbox.durable,
    };
  }

  /** Whether the page leaves something in storage if it goes now, that another page or the worker can send. */
  get leaves() {
    return this.#outbox.leaves;
  }

  /** Whether it leaves something there, or on its way there. */
  get mayLeave() {
    return this.#outbox.queued > 0 && this.#outbox.keeps;
  }

  /** @param {string | (import('./body.js').Post & import('./body.js').Placing)} given @returns {Written} */
  post(given) {
    const { kind = 'chat', thread = 0, version = 0 } = typeof given === 'string' ? {} : given;
    if (kind !== 'chat' && kind !== 'comment') throw new SwitchyardError('bad_argument', 'a chat or a comment');
    return this.#write({ kind, target: checkSeq(thread, 0), version, ...messageBody(given) });
  }

  /** @param {string | number} which @param {string | import('./body.js').Post} given @returns {Written} */
  edit(which, given) {
    return this.#write({ kind: 'edit', target: this.#seqOf(which), ...messageBody(given) });
  }

  /** @param {string | number} which @returns {Written} */
  remove(which) {
    return this.#write({ kind: 'delete', target: this.#seqOf(which), shown: {}, body: new Uint8Array(0) });
  }

  /** @param {'react' | 'unreact'} kind @param {string | number} which @param {string} emoji @returns {Written} */
  react(kind, which, emoji) {
    return this.#write({ kind, target: this.#seqOf(which), shown: emoji, body: emojiBody(emoji) });
  }

  /** @param {Record<string, unknown>} changes @returns {Written} */
  setFields(changes) {
    return this.#write({ kind: 'fields', target: 0, ...fieldsBody(changes) });
  }

  /** @param {unknown} data @param {{ target?: number, version?: number }} options @returns {Written} */
  emitEvent(data, { target = 0, version = 0 }) {
    const body = customBody(data);
    return this.#write({ kind: 'custom', target: checkSeq(target, 0), version, shown: body, body });
  }

  /** @param {import('./body.js').Post & import('./body.js').Placing} given */
  stream({ text = '', kind = 'chat', thread = 0, version = 0, ...rest }) {
    this.#mustBeOpen();
    const { shown, body, flags } = messageBody({ ...rest, text: '' });
    if (flags & EventFlag.OPAQUE) throw new SwitchyardError('bad_argument', 'a streamed message is not opaque');
    const id = this.#outbox.newId();
    const target = checkSeq(thread, 0);
    const change = { ...this.#change(id, kind, target, shown), version };
    const content = { kind: KINDS[kind], version, flags, target, body };
    const stream = this.#authoring.begin(id, content, this.#fate(id), {
      show: (whole, streaming) => {
        this.#messages.pend({ ...change, streaming, body: { .../** @type {Record<string, any>} */ (shown), text: whole } });
        this.#changed();
      },
      aborted: () => this.#refuse(id, new SwitchyardError('aborted', 'the message was given up')),
    });
    if (text) stream.write(text);
    return stream;
  }

  /**
   * @param {{ before?: number, limit?: number, thread?: number }} options
   * @returns {Promise<{ messages: LogMessage[], more: boolean }>}
   */
  async history({ before, limit, thread }) {
    const oldest = this.#messages.oldest;
    const from = before ?? (thread === undefined ? (oldest ?? undefined) : undefined);
    const page = await this.#ask({ type: 'history', before: from, limit, parent: thread });
    const messages = listOf(page.messages).flatMap((message) => readMessage(message) ?? []);
    const more = page.more === true;
    // Only what goes on where the list begins leaves no hole in it.
    if (thread === undefined && (from ?? null) === this.#messages.oldest) {
      this.#messages.prepend(messages, more);
      this.#changed();
    }
    return { messages, more };
  }

  /** @param {number} from @param {number} [to] @returns {AsyncGenerator<LogEvent>} */
  async *replay(from, to) {
    for (let next = from; ; ) {
      /** @type {{ events: import('./record.js').EventRecord[], last: boolean }} */
      const { events, last } = await this.#ask({ type: 'replay', from: next, to });
      for (const record of events) {
        const event = readEvent(record);
        if (event) yield event;
        next = record.seq + 1;
      }
      if (last || events.length === 0) return;
    }
  }

  // --- for session.js --------------------------------------------------------------------------------------------------

  /** What the join says of the log. */
  get follow() {
    return this.#reader.position ?? {};
  }

  /** Whose messages are to be kept; throws `other_user`. @param {{ tenant: string, user: string }} identity */
  identify(identity) {
    this.#outbox.identify(identity);
  }

  /**
   * A new session is in the room.
   * @param {string | null} origin none when the server keeps no log for it
   * @param {{ isSecond: boolean }} [shared] the session is that of several tabs, and others of them were in the room before
   */
  entered(origin, shared) {
    if (origin === null) return;
    const now = this.#env.now();
    this.#shared = shared !== undefined;
    this.#entered = true;
    this.#blocked = false;
    this.#originRequest = null;
    this.#storageCode = '';
    // Where other tabs have been answered nothing comes by itself.
    this.#reader.attach(shared?.isSecond ? now - PULL_MS : now);
    this.#outbox.attach(shared ? null : origin);
    this.#incoming.clear().forEach((id) => this.#messages.endStream(id));
    this.#authoring.restart();
    this.#questions.restart();
    this.#changed();
    this.#flush();
  }

  /** The session is gone. */
  detached() {
    this.#entered = false;
    this.#reader.detach();
    this.#outbox.detach();
  }

  /** Whether there is a connection. @param {boolean} connected */
  linked(connected) {
    if (this.#connected === connected) return;
    this.#connected = connected;
    if (!connected) return;
    const now = this.#env.now();
    this.#reader.resumed(now);
    this.#outbox.resumed();
    this.#questions.resumed(now);
    this.#flush();
  }

  /** There may be room to send again. */
  wake() {
    if (!this.#blocked) return;
    this.#blocked = false;
    this.#flush();
  }

  /** A LOG message. @param {Uint8Array} payload */
  receive(payload) {
    this.#inbox.push(payload);
  }

  /** LOG messages may be missing here. */
  gap() {
    this.#inbox.push('gap');
  }

  /**
   * A control message that may be an answer to this log. Whether it was.
   * @param {Record<string, unknown>} message
   */
  control(message) {
    if (message.id === undefined) return false;
    const refused = message.type === 'refused';
    const code = String(message.code ?? '');
    if (message.id === this.#originRequest) {
      this.#originRequest = null;
      if (refused) this.#outbox.denied(code, Number(message.retry_after_ms) || ASK_MS);
      else if (typeof message.origin === 'string') this.#outbox.granted(message.origin);
      return true;
    }
    return refused && this.#questions.refuse(message.id, code, String(message.message ?? code));
  }

  /** The room is left. What waits is kept, if it can be, for the next join. @param {string} reason */
  close(reason) {
    if (this.#closed) return;
    this.#closed = true;
    this.detached();
    this.#inbox.close();
    this.#outbox.close();
    this.#env.clearTimeout(this.#timer);
    this.#timerAt = Infinity;
    const error = new SwitchyardError(reason === 'left' ? 'closed' : reason, 'the room was left before the answer came');
    this.#authoring.close();
    this.#questions.close(error);
    for (const { reject } of this.#fates.values()) reject(error);
    this.#fates.clear();
  }

  // --- reading -----------------------------------------------------------------------------------------------------------

  /**
   * The records of one message.
   * @param {LogRecord[]} records
   * @param {Map<LogRecord, any>} values the JSON in them
   */
  #handle(records, values) {
    const answer = records.find((record) => record.tag === 'answer');
    if (answer) {
      const events = records.filter((record) => record.tag === 'event');
      this.#questions.answer(answer.id, { events, last: answer.last !== 0 });
      return;
    }
    /** @type {import('./reader.js').Readable[]} */
    const readable = [];
    for (const record of records) {
      switch (record.tag) {
        case 'event':
          this.#outbox.handle(record);
          this.#recognise(record);
          readable.push(record);
          break;
        case 'head':
          readable.push(record);
          break;
        case 'snapshot': {
          const snapshot = values.get(record);
          if (!isSnapshot(snapshot)) break;
          // It may be the answer to another tab: then it says no more than how far the log is.
          if (this.#shared && !this.#reader.wants(snapshot)) readable.push(headOf(snapshot));
          else readable.push({ tag: 'snapshot', snapshot });
          break;
        }
        default:
          break;
      }
    }
    const shown = this.#messages.list;
    for (const read of this.#reader.handle(readable)) {
      if (read.tag === 'snapshot') this.#snapshot(read.snapshot);
      else this.#event(read.event);
    }
    for (const record of records) this.#other(record, values);
    if (this.#messages.list !== shown) this.#changed();
  }

  /** What is neither an event nor a position. @param {LogRecord} record @param {Map<LogRecord, any>} values */
  #other(record, values) {
    switch (record.tag) {
      case 'accepted':
      case 'refused':
      case 'conflict':
        this.#outbox.handle(record);
        break;
      case 'expected':
        if (record.code === 'stream_behind') this.#authoring.behind(record);
        this.#outbox.handle(record);
        break;
      case 'page':
        if (values.has(record)) this.#questions.answer(record.id, values.get(record));
        break;
      case 'status':
        this.#storageCode = record.state === 0 ? '' : record.code || 'storage_unavailable';
        this.#tell();
        break;
      case 'have':
        this.#authoring.have(record);
        break;
      case 'stream': {
        if (this.#authoring.isOwn(record)) break;
        const message = this.#incoming.begin(record, this.#env.date());
        if (message) this.#messages.stream(message);
        break;
      }
      case 'text': {
        const message = this.#incoming.grow(record);
        if (message && message !== 'hole') this.#messages.stream(message);
        break;
      }
      case 'ended': {
        const id = this.#incoming.end(record, this.#reader.seq);
        if (id) this.#messages.endStream(id);
        break;
      }
      default:
        break;
    }
  }

  /**
   * The event of a message that this page has streamed is not its answer, which comes apart; in the list it is the same.
   * @param {import('./record.js').EventRecord} record
   */
  #recognise(record) {
    const item = this.#outbox.item(record);
    if (!item?.stream || record.seq <= this.#reader.seq) return;
    const text = new TextDecoder().decode(item.stream.text);
    const said = readBody(kindName(record.kind), record.flags, record.body);
    if (said?.text === text) this.#messages.confirm(item.id, record.seq, this.#reader.seq);
  }

  /** @param {import('./reader.js').Snapshot} sent */
  #snapshot(sent) {
    const messages = listOf(sent.messages).flatMap((message) => readMessage(message) ?? []);
    const fields = { .../** @type {object} */ (sent.fields) };
    const { seq } = sent;
    const more = sent.more === true;
    this.#incoming.clear();
    this.#core.tentative?.synced(seq);
    this.#messages.reset({ seq, messages, fields, more });
    // The first one replaces nothing, whatever the server knows.
    const reason = this.#synced ? String(sent.reason ?? 'behind') : 'new';
    this.#synced = true;
    this.#core.emit('sync', { reason, seq, messages, fields, more });
  }

  /** @param {import('./record.js').EventRecord} record */
  #event(record) {
    this.#core.tentative?.committed(record);
    const event = readEvent(record);
    if (event) this.#apply(event);
    this.#core.tentative?.released();
  }

  /** @param {LogEvent} event */
  #apply(event) {
    const ended = this.#incoming.became(event.seq);
    if (ended) this.#messages.endStream(ended);
    const message = this.#messages.apply(event);
    this.#core.emit('event', event);
    if (message) this.#core.emit('message', message);
    if (event.kind === 'fields') this.#core.emit('fields', { fields: this.fields, changed: event.body });
  }

  // --- writing -----------------------------------------------------------------------------------------------------------

  /**
   * Shows it, keeps it, sends it when its turn comes.
   * @param {object} what
   * @param {import('./record.js').KindName} what.kind
   * @param {number} what.target
   * @param {any} what.shown
   * @param {Uint8Array} what.body
   * @param {number} [what.flags]
   * @param {number} [what.version]
   * @returns {Written}
   */
  #write({ kind, target, shown, body, flags = 0, version = 0 }) {
    this.#mustBeOpen();
    const id = this.#outbox.newId();
    const nonce = this.#outbox.newNumber();
    this.#outbox.add({ id, kind: KINDS[kind], version, flags, target, body, nonce, at: this.#env.date() });
    this.#tell();
    const opaque = (flags & EventFlag.OPAQUE) !== 0;
    this.#messages.pend({ ...this.#change(id, kind, target, shown), version, opaque });
    const settled = this.#fate(id);
    this.#changed();
    return { id, settled };
  }

  /**
   * @param {string} id
   * @param {import('./record.js').KindName} kind
   * @param {number} target
   * @param {any} body
   * @returns {import('./messages.js').Change}
   */
  #change(id, kind, target, body) {
    return { id, kind, target, body, at: this.#env.date(), version: 0, opaque: false, seq: null, ...this.#core.self() };
  }

  /** @param {string} id @returns {Promise<number>} */
  #fate(id) {
    /** @type {Promise<number>} */
    const settled = new Promise((resolve, reject) => this.#fates.set(id, { resolve, reject }));
    settled.catch(() => {});
    return settled;
  }

  /** @param {import('./store.js').Item[]} items */
  #adopted(items) {
    for (const item of items) {
      const { id, at, flags, version } = item;
      this.#authoring.adopt(item);
      const { kind: number, target, body } = item.stream ?? item;
      const kind = kindName(number);
      if (!kind) continue;
      const shown = readBody(kind, flags, body);
      const text = item.stream ? { text: new TextDecoder().decode(item.stream.text) } : null;
      const opaque = (flags & EventFlag.OPAQUE) !== 0;
      const change = this.#change(id, kind, target, text ? { ...shown, ...text } : shown);
      this.#messages.pend({ ...change, at, version, opaque });
    }
    this.#changed();
  }

  /** @param {import('./store.js').Item} item @param {import('./writer.js').Answer} answer */
  #answered(item, answer) {
    const isLast = !this.#authoring.answered(item, answer);
    if (isLast && 'code' in answer) {
      const { id } = item;
      const { code } = answer;
      const message = answer.message || code;
      this.#core.tentative?.refused(id);
      const rejected = this.#fates.has(id) ? null : { id, body: this.#messages.get(id)?.body ?? null, code, message };
      this.#refuse(id, new SwitchyardError(code, message));
      if (rejected) this.#core.emit('rejected', rejected);
    } else if ('seq' in answer) {
      this.#messages.confirm(item.id, answer.seq, this.#reader.seq);
      this.#fates.get(item.id)?.resolve(answer.seq);
      this.#fates.delete(item.id);
      this.#changed();
    }
    this.#tell();
  }

  /** @param {import('./store.js').Item[]} items */
  #lost(items) {
    for (const { id } of items) this.#refuse(id, new SwitchyardError('taken_over', 'another page sends it'));
  }

  /** @param {string} id @param {SwitchyardError} error */
  #refuse(id, error) {
    this.#messages.refuse(id);
    this.#fates.get(id)?.reject(error);
    this.#fates.delete(id);
    this.#changed();
  }

  // --- sending -----------------------------------------------------------------------------------------------------------

  /** Sends what is due, and sees to it that the rest has its turn. */
  #flush() {
    if (this.#closed || !this.#entered || !this.#connected || this.#inbox.isReading) return;
    const now = this.#env.now();
    this.#questions.send(now, this.#core.request);
    const after = this.#reader.poll(now);
    if (after !== null) this.#core.request({ type: 'pull', after });
    for (;;) {
      this.#blocked = !this.#core.fits();
      const records = this.#blocked ? [] : this.#nextRecords(now);
      if (records.length === 0) break;
      this.#core.send(encodeRecords(records));
    }
    this.#schedule();
  }

  /** What goes into one message: the end of a streamed one behind its text. @param {number} now @returns {LogRecord[]} */
  #nextRecords(now) {
    const parts = this.#authoring.poll(now);
    return parts.length > 0 ? parts : this.#outbox.poll(now);
  }

  #schedule() {
    const dues = [this.#outbox.dueAt, this.#reader.dueAt, this.#authoring.dueAt, this.#questions.dueAt];
    const at = Math.min(Infinity, ...dues.filter((due) => due !== null));
    if (at === this.#timerAt) return;
    this.#env.clearTimeout(this.#timer);
    this.#timerAt = at;
    if (at === Infinity) return;
    this.#timer = this.#env.setTimeout(
      () => {
        this.#timerAt = Infinity;
        this.#flush();
      },
      Math.max(1, at - this.#env.now()),
    );
  }

  /** @param {Record<string, unknown>} message @returns {Promise<any>} */
  #ask(message) {
    if (this.#closed) return Promise.reject(new SwitchyardError('not_in_room', 'the room was left'));
    const answer = this.#questions.ask(message, this.#env.now());
    this.#flush();
    return answer;
  }

  #mustBeOpen() {
    if (this.#closed) throw new SwitchyardError('not_in_room', 'the room was left');
  }

  #changed() {
    this.#core.emit('change', this.#messages.list);
  }

  /** Says what has changed of the status. */
  #tell() {
    const { status } = this;
    const told = JSON.stringify(status);
    if (told === this.#told) return;
    this.#told = told;
    this.#core.emit('status', status);
  }

  /** @param {string | number} which id or seq of a message @returns {number} */
  #seqOf(which) {
    if (typeof which === 'number') return checkSeq(which, 1);
    const seq = this.#messages.get(which)?.seq;
    if (!seq) throw new SwitchyardError('not_confirmed', 'the message is not in the log yet');
    return seq;
  }
}

/** @param {import('./reader.js').Snapshot} snapshot @returns {import('./record.js').HeadRecord} */
function headOf({ epoch, seq, digest, proof }) {
  return { tag: 'head', epoch, seq, digest, proof };
}

/** @param {any} value @returns {value is import('./reader.js').Snapshot} */
function isSnapshot(value) {
  const { epoch, seq, digest, proof } = value ?? {};
  return Number.isSafeInteger(epoch) && Number.isSafeInteger(seq) && typeof digest === 'string' && typeof proof === 'string';
}

/** @param {unknown} value @returns {any[]} */
function listOf(value) {
  return Array.isArray(value) ? value : [];
}

/** @param {number} seq @param {number} least */
function checkSeq(seq, least) {
  if (!Number.isSafeInteger(seq) || seq < least) throw new SwitchyardError('bad_argument', 'a place in the log is a whole number');
  return seq;
}
