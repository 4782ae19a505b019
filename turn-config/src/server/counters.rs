//! What is counted: allocations, what is relayed, and what is not, by its cause. Never a user, an address or a room.

use super::Transport;

macro_rules! refusals {
    ($($(#[$doc:meta])* $variant:ident = $name:literal,)*) => {
        /// Why a request was refused, or data dropped.
        #[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
        pub enum Refusal {
            $($(#[$doc])* $variant,)*
        }

        impl Refusal {
            /// All of them.
            pub const ALL: [Self; [$($name),*].len()] = [$(Self::$variant),*];

            /// As a label.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $name,)*
                }
            }
        }
    };
}

refusals! {
    /// Neither STUN nor channel data, or a broken message.
    Malformed = "malformed",
    /// A method that is not served, or a message that is no client's.
    Unexpected = "unexpected",
    /// 400: what a request needs is missing, or does not fit together.
    BadRequest = "bad_request",
    /// 401: a user name that is not one of ours.
    UnknownUser = "unknown_user",
    /// 401: a credential that was good once.
    Expired = "expired",
    /// 401: a wrong signature.
    WrongPassword = "wrong_password",
    /// 401: a credential for somewhere else.
    WrongRealm = "wrong_realm",
    /// 403: a user who has been shut out.
    ShutOut = "shut_out",
    /// 403: a peer that may not be reached.
    Forbidden = "forbidden",
    /// 420: an attribute that would have to be understood.
    UnknownAttribute = "unknown_attribute",
    /// 437: no allocation, or one that is there already.
    Mismatch = "mismatch",
    /// 438: a nonce that is too old, or another client's.
    StaleNonce = "stale_nonce",
    /// 440: an address family that is not served.
    UnsupportedFamily = "unsupported_family",
    /// 441: another user's allocation.
    WrongUser = "wrong_user",
    /// 442: a relayed transport other than UDP.
    UnsupportedTransport = "unsupported_transport",
    /// 443: a peer of another address family than the allocation.
    FamilyMismatch = "family_mismatch",
    /// 486: the user has as many allocations as one may have.
    UserQuota = "user_quota",
    /// 508: the server has as many allocations as it may have, or no port.
    Capacity = "capacity",
    /// 508: as many permissions or channels as an allocation may have.
    AllocationQuota = "allocation_quota",
    /// 508: a relay socket could not be opened.
    Socket = "socket",
    /// No answer: the sender's network has had as many as strangers get.
    AnswerRate = "answer_rate",
    /// Data by a client that has no allocation.
    NoAllocation = "no_allocation",
    /// Data from or to a peer without a permission, or by a channel that is not bound.
    NoPermission = "no_permission",
    /// Data to a port of the server itself where there is nothing for it.
    NothingThere = "nothing_there",
    /// Data above a user's bytes a second.
    Bandwidth = "bandwidth",
}

/// Datagrams and their bytes of payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Traffic {
    /// Datagrams.
    pub packets: u64,
    /// Bytes of payload, without TURN's and lower headers.
    pub bytes: u64,
}

impl Traffic {
    pub(super) fn add(&mut self, bytes: usize) {
        self.packets += 1;
        self.bytes += bytes as u64;
    }
}

/// Since the start, except for `allocations_now`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Counters {
    /// Allocations that were made, by the client's transport; see [`Transport::ALL`].
    pub allocations: [u64; Transport::ALL.len()],
    /// Allocations that are there now, by the client's transport.
    pub allocations_now: [u64; Transport::ALL.len()],
    /// Binding requests that were answered.
    pub bindings: u64,
    /// From clients, to whomever.
    pub from_clients: Traffic,
    /// To clients, from whomever.
    pub to_clients: Traffic,
    /// That part of what clients sent which was handed to the local SFU.
    pub to_sfu: Traffic,
    /// That part of what clients sent which was handed to another allocation.
    pub between_allocations: Traffic,
    refusals: [u64; Refusal::ALL.len()],
}

impl Counters {
    pub(super) fn refuse(&mut self, why: Refusal) {
        self.refusals[why as usize] += 1;
    }

    /// How often it was refused for this reason.
    #[must_use]
    pub fn refused(&self, why: Refusal) -> u64 {
        self.refusals[why as usize]
    }
}
