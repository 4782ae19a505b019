-- Rooms, their logs, and what their logs say. Numbers of 64 bits without sign are stored as their two's complement.

CREATE TABLE rooms (
    id INTEGER PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Raised by whoever takes the room; a batch with a lower one is refused.
    fence INTEGER NOT NULL,
    -- The end of the log.
    epoch INTEGER NOT NULL,
    head INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    -- The first event that is kept; head + 1 if none is.
    first INTEGER NOT NULL,
    UNIQUE (tenant, name)
) STRICT;

CREATE TABLE events (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    -- Milliseconds since 1970, here and wherever something is said to be at a time.
    at INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    cseq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    version INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    target INTEGER NOT NULL,
    author TEXT NOT NULL,
    name TEXT NOT NULL,
    body BLOB NOT NULL,
    hash INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX events_by_origin ON events (room, origin, cseq);

-- One for each event that is a message; author, time and kind are the event's.
CREATE TABLE messages (
    room INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    parent INTEGER NOT NULL,
    version INTEGER NOT NULL,
    flags INTEGER NOT NULL,
    replies INTEGER NOT NULL,
    edited_at INTEGER,
    deleted_at INTEGER,
    -- None: the event's.
    body BLOB,
    PRIMARY KEY (room, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX messages_by_parent ON messages (room, parent, seq) WHERE parent > 0;

CREATE TABLE reactions (
    room INTEGER NOT NULL,
    message INTEGER NOT NULL,
    emoji TEXT NOT NULL,
    author TEXT NOT NULL,
    -- The event that added it.
    seq INTEGER NOT NULL,
    PRIMARY KEY (room, message, emoji, author)
) STRICT, WITHOUT ROWID;

CREATE TABLE fields (
    room INTEGER NOT NULL,
    name TEXT NOT NULL,
    -- JSON as it came.
    value BLOB NOT NULL,
    PRIMARY KEY (room, name)
) STRICT, WITHOUT ROWID;

CREATE TABLE origins (
    room INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    author TEXT NOT NULL,
    last INTEGER NOT NULL,
    base INTEGER NOT NULL,
    used_at INTEGER NOT NULL,
    PRIMARY KEY (room, origin)
) STRICT, WITHOUT ROWID;

CREATE TABLE refusals (
    room INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    cseq INTEGER NOT NULL,
    hash INTEGER NOT NULL,
    code TEXT NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (room, origin, cseq)
) STRICT, WITHOUT ROWID;

-- Submissions that were acknowledged once and are in no log, because it was restored from a backup.
CREATE TABLE abandoned (
    room INTEGER NOT NULL,
    origin INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (room, origin, first)
) STRICT, WITHOUT ROWID;

CREATE TABLE participants (
    room INTEGER NOT NULL,
    member TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    first_at INTEGER NOT NULL,
    last_at INTEGER NOT NULL,
    PRIMARY KEY (room, member)
) STRICT, WITHOUT ROWID;

CREATE TABLE sessions (
    room INTEGER NOT NULL,
    session TEXT NOT NULL,
    joined_at INTEGER NOT NULL,
    member TEXT NOT NULL,
    left_at INTEGER,
    -- A code of the protocol, or "lost" where the server ended first.
    reason TEXT,
    PRIMARY KEY (room, session, joined_at)
) STRICT, WITHOUT ROWID;
