//! The labels whose values are known: an enum each.

/// An enum whose variants are the values of one label.
macro_rules! label {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// Every value, in order.
            pub const ALL: &[Self; Self::COUNT] = &[$(Self::$variant),+];

            /// How many there are.
            pub const COUNT: usize = [$($text),+].len();

            /// The label's text.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }
    };
}

label! {
    /// The way through the network that a session uses (LAD1).
    Rung {
        /// A data channel over UDP.
        Udp = "udp",
        /// A data channel over ICE-TCP.
        Tcp = "tcp",
        /// A data channel over a TURN relay.
        Relay = "relay",
        /// The WebSocket.
        WebSocket = "websocket",
        /// No pipe for the moment: the session waits to be resumed.
        None = "none",
    }
}

label! {
    /// How a message is carried.
    Lane {
        /// In order, buffered, replayed.
        Reliable = "reliable",
        /// Newest wins; dropped when late.
        Lossy = "lossy",
    }
}

label! {
    /// Seen from the server.
    Direction {
        /// From a client.
        In = "in",
        /// To a client.
        Out = "out",
    }
}

label! {
    /// Why a message reached somebody not.
    DropCause {
        /// The receiver was too slow, and its queue full; of reliable messages it was told by a gap.
        ReceiverSlow = "receiver_slow",
        /// The queue to another shard was full.
        ShardBusy = "shard_busy",
        /// The sender sent faster than its limit.
        RateLimited = "rate_limited",
    }
}

label! {
    /// Queues of a shard.
    Queue {
        /// Work from other shards.
        Shards = "shards",
        /// Work from HTTP.
        Http = "http",
    }
}

label! {
    /// What became of a WebRTC connection attempt, or of a connection (SIG5).
    Connect {
        /// The data channel opened.
        Opened = "opened",
        /// No authenticated ICE check came in time, or until the client gave it up.
        IceTimeout = "ice_timeout",
        /// ICE checks came, the DTLS and SCTP handshakes were not finished in time.
        HandshakeTimeout = "handshake_timeout",
        /// The DTLS or SCTP handshake failed.
        HandshakeFailed = "handshake_failed",
        /// The offer could not be used.
        BadOffer = "bad_offer",
        /// The offer was refused because WebRTC is switched off.
        Disabled = "disabled",
        /// An open connection fell silent.
        ConsentLost = "consent_lost",
        /// The client ended an open connection.
        Closed = "closed",
    }
}

label! {
    /// Why a datagram was thrown away unread.
    DatagramDrop {
        /// From an address that belongs to no peer, and no valid ICE check.
        Unknown = "unknown",
        /// Not STUN, DTLS, RTP or RTCP.
        Malformed = "malformed",
        /// Above a limit that protects a peer's handshake.
        Flood = "flood",
        /// The socket did not take it.
        SendFailed = "send_failed",
    }
}

label! {
    /// Doors of the HTTP side.
    Door {
        /// The signalling socket.
        Connect = "connect",
        /// The application's backend.
        Api = "api",
        /// Messages that it streams: each takes as long as it is being written.
        Streams = "streams",
        /// The client's files and the demo.
        Files = "files",
        /// `/metrics`.
        Metrics = "metrics",
        /// `/healthz` and `/readyz`.
        Health = "health",
        /// Everything else.
        Other = "other",
    }
}

label! {
    /// Queues of the store.
    StoreQueue {
        /// Commits and loads.
        Writes = "writes",
        /// Questions.
        Reads = "reads",
    }
}

label! {
    /// Why the store did not do what it was asked.
    StoreFailure {
        /// Disk full, file locked, database away.
        Unavailable = "unavailable",
        /// Another server has loaded the room.
        Fenced = "fenced",
        /// The log did not end where the batch expected, or an earlier batch had failed.
        HeadMoved = "head_moved",
        /// What is stored, or was to be, cannot be understood.
        Damaged = "damaged",
        /// Too much waited already.
        Full = "full",
        /// Who came and went was not noted, because too much waited.
        NoteLost = "note_lost",
    }
}

label! {
    /// Questions to the store.
    StoreRead {
        /// Events of the log.
        Events = "events",
        /// The digest of an event.
        Digest = "digest",
        /// What is known of an origin.
        Origin = "origin",
        /// What is known of a message.
        Message = "message",
        /// A page of messages.
        Page = "page",
    }
}

label! {
    /// Why the relay lost a datagram.
    TurnDrop {
        /// The kernel did not take it, or there was no socket for it any more.
        SendFailed = "send_failed",
        /// A client on TCP or TLS reads too slowly.
        SlowClient = "slow_client",
        /// A shard does not keep up with what it is handed.
        ShardBusy = "shard_busy",
        /// The relay does not keep up with what a shard sends.
        RelayBusy = "relay_busy",
    }
}

label! {
    /// What became of a connection to a door of TURN.
    Arrival {
        /// It speaks TURN, and the TURN thread has it.
        Turn = "turn",
        /// It speaks HTTP on the shared TLS port.
        Http = "http",
        /// Its network has too many connections on their way in already.
        Crowded = "crowded",
        /// A load balancer's, without a good PROXY header; or anybody else's, with one.
        Proxy = "proxy",
        /// TLS was not agreed on.
        Handshake = "handshake",
        /// The client took longer than it may.
        Slow = "slow",
        /// The client went away before it said anything.
        Gone = "gone",
        /// It speaks something else.
        Unknown = "unknown",
        /// Whoever was to take it over could not.
        Overloaded = "overloaded",
    }
}

label! {
    /// The transports that have doors.
    Stream {
        /// TCP alone.
        Tcp = "tcp",
        /// TLS over TCP.
        Tls = "tls",
    }
}

label! {
    /// How it went to take over a certificate that has changed.
    Reload {
        /// It is used from now on.
        Done = "done",
        /// The one before is used on.
        Failed = "failed",
    }
}
