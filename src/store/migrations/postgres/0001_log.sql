-- Rooms, their logs, and what their logs say. Numbers of 64 bits without sign are stored as their two's complement.
-- What comes from outside and may have any character is BYTEA: TEXT cannot hold U+0000.

CREATE TABLE rooms (
    id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    -- Raised by whoever takes the room; a batch with a lower one is refused.
    fence BIGINT NOT NULL,
    -- The end of the log.
    epoch BIGINT NOT NULL,
    head BIGINT NOT NULL,
    digest BIGINT NOT NULL,
    -- The first event that is kept; head + 1 if none is.
    first BIGINT NOT NULL,
    UNIQUE (tenant, name)
) WITH (fillfactor = 50);

CREATE TABLE events (
    room BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    -- Milliseconds since 1970, here and wherever something is said to be at a time.
    at BIGINT NOT NULL,
    origin BIGINT NOT NULL,
    cseq BIGINT NOT NULL,
    kind SMALLINT NOT NULL,
    version SMALLINT NOT NULL,
    flags SMALLINT NOT NULL,
    target BIGINT NOT NULL,
    author TEXT NOT NULL,
    name TEXT NOT NULL,
    body BYTEA NOT NULL,
    hash BIGINT NOT NULL,
    digest BIGINT NOT NULL,
    PRIMARY KEY (room, seq)
);
CREATE UNIQUE INDEX events_by_origin ON events (room, origin, cseq);

-- One for each event that is a message; author, time and kind are the event's.
CREATE TABLE messages (
    room BIGINT NOT NULL,
    seq BIGINT NOT NULL,
    parent BIGINT NOT NULL,
    version SMALLINT NOT NULL,
    flags SMALLINT NOT NULL,
    replies BIGINT NOT NULL,
    edited_at BIGINT,
    deleted_at BIGINT,
    -- None: the event's.
    body BYTEA,
    PRIMARY KEY (room, seq)
);
CREATE INDEX messages_by_parent ON messages (room, parent, seq) WHERE parent > 0;

CREATE TABLE reactions (
    room BIGINT NOT NULL,
    message BIGINT NOT NULL,
    emoji BYTEA NOT NULL,
    author TEXT NOT NULL,
    -- The event that added it.
    seq BIGINT NOT NULL,
    PRIMARY KEY (room, message, emoji, author)
);

CREATE TABLE fields (
    room BIGINT NOT NULL,
    name BYTEA NOT NULL,
    -- JSON as it came.
    value BYTEA NOT NULL,
    PRIMARY KEY (room, name)
);

CREATE TABLE origins (
    room BIGINT NOT NULL,
    origin BIGINT NOT NULL,
    author TEXT NOT NULL,
    last BIGINT NOT NULL,
    base BIGINT NOT NULL,
    used_at BIGINT NOT NULL,
    PRIMARY KEY (room, origin)
) WITH (fillfactor = 50);

CREATE TABLE refusals (
    room BIGINT NOT NULL,
    origin BIGINT NOT NULL,
    cseq BIGINT NOT NULL,
    hash BIGINT NOT NULL,
    code TEXT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (room, origin, cseq)
);

-- Submissions that were acknowledged once and are in no log, because it was restored from a backup.
CREATE TABLE abandoned (
    room BIGINT NOT NULL,
    origin BIGINT NOT NULL,
    first BIGINT NOT NULL,
    last BIGINT NOT NULL,
    at BIGINT NOT NULL,
    PRIMARY KEY (room, origin, first)
);

CREATE TABLE participants (
    room BIGINT NOT NULL,
    member TEXT NOT NULL,
    name TEXT NOT NULL,
    role TEXT NOT NULL,
    first_at BIGINT NOT NULL,
    last_at BIGINT NOT NULL,
    PRIMARY KEY (room, member)
);

CREATE TABLE sessions (
    room BIGINT NOT NULL,
    session TEXT NOT NULL,
    joined_at BIGINT NOT NULL,
    member TEXT NOT NULL,
    left_at BIGINT,
    -- A code of the protocol, or "lost" where the server ended first.
    reason TEXT,
    PRIMARY KEY (room, session, joined_at)
);
