/**
 * The messages of a room as the application shows them: what the log says, with what this page has written and the log
 * does not say yet laid over it (DOC4). Pure. A message that is changed is a new object, so that a changed one can be told
 * by comparing.
 */

/**
 * @typedef {'pending' | 'confirmed' | 'refused'} MessageState
 * @typedef {'chat' | 'comment' | 'system'} MessageKind
 *
 * @typedef {object} Reaction
 * @property {string} emoji
 * @property {number} count
 * @property {readonly string[]} users the first 50
 *
 * @typedef {object} LogMessage
 * @property {string} id stays the same while this page shows the message; temporary until `seq` is there
 * @property {number | null} seq its place in the log
 * @property {MessageState} state
 * @property {MessageKind} kind
 * @property {string} user
 * @property {string} name
 * @property {number} at milliseconds since 1970; of this device's clock while pending
 * @property {number | null} parent `seq` of the thread's first message
 * @property {Record<string, any> | Uint8Array} body bytes if it is opaque
 * @property {number} version
 * @property {boolean} opaque
 * @property {number | null} edited when
 * @property {boolean} deleted
 * @property {boolean} incomplete its author went before its end
 * @property {boolean} streaming it is still being written
 * @property {readonly Reaction[]} reactions
 * @property {number} replies
 *
 * @typedef {object} LogEvent an entry of the log
 * @property {number} seq
 * @property {number} at
 * @property {string} user
 * @property {string} name
 * @property {import('./record.js').KindName} kind
 * @property {number} target
 * @property {number} version
 * @property {boolean} opaque
 * @property {boolean} incomplete
 * @property {any} body JSON of the kinds that have JSON, the emoji of reactions, else bytes
 *
 * @typedef {object} Change what this page wants in the log
 * @property {string} id
 * @property {import('./record.js').KindName} kind
 * @property {number} target
 * @property {any} body as in LogEvent
 * @property {number} at
 * @property {number} version
 * @property {boolean} opaque
 * @property {string} user
 * @property {string} name
 * @property {number | null} seq once it is accepted; its event may still be on its way
 * @property {boolean} [streaming] it is still being written
 */

/** Messages kept; beyond it the oldest are dropped, and come again as history. */
const MOST = 10_000;
const REACTION_USERS = 50;

export class Messages {
  /** In order of `seq`. @type {LogMessage[]} */
  #confirmed = [];
  /** @type {Map<string, Change>} */
  #changes = new Map();
  /** Being written by somebody, by an id of their own. @type {Map<string, LogMessage>} */
  #streams = new Map();
  /** @type {Record<string, any>} */
  #fields = {};
  /** @type {readonly LogMessage[] | null} */
  #list = null;
  /** Whether there are older ones. */
  more = false;

  /** Oldest first: those of the log, those being written, and those of this page that wait. */
  get list() {
    this.#list ??= Object.freeze(this.#build());
    return this.#list;
  }

  /** The room's fields, with what this page has changed and waits. */
  get fields() {
    const fields = { ...this.#fields };
    for (const change of this.#changes.values()) if (change.kind === 'fields') assign(fields, change.body);
    return fields;
  }

  /** The oldest message of the log that is here. @returns {number | null} */
  get oldest() {
    return this.#confirmed[0]?.seq ?? null;
  }

  /** @param {number} seq */
  has(seq) {
    return this.#find(seq) !== undefined;
  }

  /** The message with this id, or with this place. @param {string | number} which */
  get(which) {
    return this.list.find((message) => message.id === which || message.seq === which);
  }

  /**
   * Everything anew.
   * @param {{ seq: number, messages: LogMessage[], fields: Record<string, any>, more: boolean }} snapshot
   */
  reset({ seq, messages, fields, more }) {
    /** @type {Map<number, string>} */
    const ids = new Map();
    for (const message of this.#confirmed) if (message.seq !== null) ids.set(message.seq, message.id);
    for (const change of [...this.#changes.values()]) {
      if (change.seq === null || change.seq > seq) continue;
      ids.set(change.seq, change.id);
      this.#changes.delete(change.id);
    }
    this.#confirmed = messages.map((message) => ({ ...message, id: ids.get(message.seq ?? 0) ?? message.id }));
    this.#streams.clear();
    this.#fields = { ...fields };
    this.more = more;
    this.#list = null;
  }

  /** Older ones, which end where the list begins. @param {LogMessage[]} messages @param {boolean} more */
  prepend(messages, more) {
    const oldest = this.oldest ?? Infinity;
    this.#confirmed.unshift(...messages.filter((message) => (message.seq ?? Infinity) < oldest));
    this.more = more;
    this.#list = null;
  }

  /**
   * The next event of the log. Gives the message that it makes.
   * @param {LogEvent} event
   * @returns {LogMessage | null}
   */
  apply(event) {
    this.#list = null;
    const own = this.#take(event.seq);
    switch (event.kind) {
      case 'chat':
      case 'comment':
      case 'system':
        return this.#append(messageOf(event, own?.id ?? String(event.seq)));
      case 'fields':
        assign(this.#fields, event.body);
        return null;
      default:
        this.#update(event.target, (message) => changed(message, event));
        return null;
    }
  }

  /** Shows what is not in the log yet. @param {Change} change */
  pend(change) {
    this.#changes.set(change.id, change);
    this.#list = null;
  }

  /** It is in the log at this place; its event comes, or came with a snapshot. @param {string} id @param {number} seq @param {number} read */
  confirm(id, seq, read) {
    const change = this.#changes.get(id);
    if (!change) return;
    this.#list = null;
    change.seq = seq;
    if (seq > read) return;
    this.#changes.delete(id);
    this.#update(seq, (message) => ({ ...message, id }));
  }

  /** It will not be in the log. @param {string} id */
  refuse(id) {
    this.#changes.delete(id);
    this.#list = null;
  }

  /** Somebody's message that is being written, as it is now. @param {LogMessage} message */
  stream(message) {
    this.#streams.set(message.id, message);
    this.#list = null;
  }

  /** @param {string} id */
  endStream(id) {
    if (this.#streams.delete(id)) this.#list = null;
  }

  #build() {
    /** @type {Map<number, Change[]>} */
    const over = new Map();
    /** @type {LogMessage[]} */
    const waiting = [];
    for (const change of this.#changes.values()) {
      if (isMessage(change.kind)) {
        const message = messageOf({ incomplete: false, ...change, seq: change.seq ?? 0 }, change.id);
        const state = change.seq === null ? 'pending' : 'confirmed';
        waiting.push({ ...message, seq: change.seq, state, streaming: change.streaming ?? false });
      } else if (change.target > 0) {
        const changes = over.get(change.target);
        if (changes) changes.push(change);
        else over.set(change.target, [change]);
      }
    }
    const confirmed =
      over.size === 0
        ? this.#confirmed
        : this.#confirmed.map((message) => (over.get(message.seq ?? 0) ?? []).reduce(laidOver, message));
    // What another page had written before comes in later.
    waiting.sort((a, b) => a.at - b.at);
    return [...confirmed, ...this.#streams.values(), ...waiting];
  }

  /** @param {LogMessage} message */
  #append(message) {
    this.#confirmed.push(message);
    if (message.parent !== null) this.#update(message.parent, (parent) => ({ ...parent, replies: parent.replies + 1 }));
    if (this.#confirmed.length > MOST) {
      this.#confirmed.splice(0, this.#confirmed.length - MOST / 2);
      this.more = true;
    }
    return message;
  }

  /** The change of this page that has become this event. @param {number} seq */
  #take(seq) {
    for (const change of this.#changes.values()) {
      if (change.seq !== seq) continue;
      this.#changes.delete(change.id);
      return change;
    }
    return null;
  }

  /** @param {number} seq */
  #find(seq) {
    const at = this.#place(seq);
    return this.#confirmed[at]?.seq === seq ? this.#confirmed[at] : undefined;
  }

  /** Where a message with this seq is, or would be. @param {number} seq */
  #place(seq) {
    let low = 0;
    let high = this.#confirmed.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if ((this.#confirmed[middle].seq ?? 0) < seq) low = middle + 1;
      else high = middle;
    }
    return low;
  }

  /** @param {number} seq @param {(message: LogMessage) => LogMessage} change */
  #update(seq, change) {
    const at = this.#place(seq);
    if (this.#confirmed[at]?.seq === seq) this.#confirmed[at] = change(this.#confirmed[at]);
  }
}

/** @param {string} kind @returns {kind is MessageKind} */
export function isMessage(kind) {
  return kind === 'chat' || kind === 'comment' || kind === 'system';
}

/**
 * @param {Omit<LogEvent, never>} event
 * @param {string} id
 * @returns {LogMessage}
 */
function messageOf({ seq, kind, user, name, at, target, body, version, opaque, incomplete }, id) {
  return {
    id,
    seq,
    state: 'confirmed',
    kind: /** @type {MessageKind} */ (kind),
    user,
    name,
    at,
    parent: target || null,
    body,
    version,
    opaque,
    edited: null,
    deleted: false,
    incomplete,
    streaming: false,
    reactions: [],
    replies: 0,
  };
}

/** @param {LogMessage} message @param {Change} change */
function laidOver(message, change) {
  const state = change.seq === null ? /** @type {const} */ ('pending') : message.state;
  return { ...changed(message, change), state };
}

/**
 * @param {LogMessage} message
 * @param {{ kind: string, body: any, user: string, at: number, opaque: boolean }} event
 * @returns {LogMessage}
 */
function changed(message, { kind, body, user, at, opaque }) {
  switch (kind) {
    case 'edit':
      return { ...message, body, opaque, edited: at };
    case 'delete':
      return { ...message, body: {}, opaque: false, deleted: true };
    case 'react':
      return { ...message, reactions: reacted(message.reactions, body, user) };
    case 'unreact':
      return { ...message, reactions: unreacted(message.reactions, body, user) };
    default:
      return message;
  }
}

/** @param {readonly Reaction[]} reactions @param {string} emoji @param {string} user */
function reacted(reactions, emoji, user) {
  const known = reactions.find((reaction) => reaction.emoji === emoji);
  if (!known) return [...reactions, { emoji, count: 1, users: [user] }];
  if (known.users.includes(user)) return reactions;
  const users = known.users.length < REACTION_USERS ? [...known.users, user] : known.users;
  return reactions.map((reaction) => (reaction === known ? { emoji, count: known.count + 1, users } : reaction));
}

/** @param {readonly Reaction[]} reactions @param {string} emoji @param {string} user */
function unreacted(reactions, emoji, user) {
  const known = reactions.find((reaction) => reaction.emoji === emoji);
  if (!known || (known.users.length === known.count && !known.users.includes(user))) return reactions;
  if (known.count <= 1) return reactions.filter((reaction) => reaction !== known);
  const users = known.users.filter((each) => each !== user);
  return reactions.map((reaction) => (reaction === known ? { emoji, count: known.count - 1, users } : reaction));
}

/** @param {Record<string, any>} fields @param {unknown} changes `null` removes one */
function assign(fields, changes) {
  if (typeof changes !== 'object' || changes === null) return;
  for (const [name, value] of Object.entries(changes)) {
    if (name === '__proto__') continue;
    if (value === null) delete fields[name];
    else fields[name] = value;
  }
}
