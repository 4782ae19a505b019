//! Attribute types, [RFC 8489 section 18.3](https://www.rfc-editor.org/rfc/rfc8489#section-18.3),
//! [RFC 8656 section 18](https://www.rfc-editor.org/rfc/rfc8656#section-18) and
//! [RFC 8445 section 20.1](https://www.rfc-editor.org/rfc/rfc8445#section-20.1): TURN's and ICE's.

/// `MAPPED-ADDRESS`
pub const MAPPED_ADDRESS: u16 = 0x0001;
/// `USERNAME`
pub const USERNAME: u16 = 0x0006;
/// `MESSAGE-INTEGRITY`
pub const MESSAGE_INTEGRITY: u16 = 0x0008;
/// `ERROR-CODE`
pub const ERROR_CODE: u16 = 0x0009;
/// `UNKNOWN-ATTRIBUTES`
pub const UNKNOWN_ATTRIBUTES: u16 = 0x000a;
/// `CHANNEL-NUMBER`
pub const CHANNEL_NUMBER: u16 = 0x000c;
/// `LIFETIME`
pub const LIFETIME: u16 = 0x000d;
/// `XOR-PEER-ADDRESS`
pub const XOR_PEER_ADDRESS: u16 = 0x0012;
/// `DATA`
pub const DATA: u16 = 0x0013;
/// `REALM`
pub const REALM: u16 = 0x0014;
/// `NONCE`
pub const NONCE: u16 = 0x0015;
/// `XOR-RELAYED-ADDRESS`
pub const XOR_RELAYED_ADDRESS: u16 = 0x0016;
/// `REQUESTED-ADDRESS-FAMILY`
pub const REQUESTED_ADDRESS_FAMILY: u16 = 0x0017;
/// `EVEN-PORT`
pub const EVEN_PORT: u16 = 0x0018;
/// `REQUESTED-TRANSPORT`
pub const REQUESTED_TRANSPORT: u16 = 0x0019;
/// `DONT-FRAGMENT`
pub const DONT_FRAGMENT: u16 = 0x001a;
/// `MESSAGE-INTEGRITY-SHA256`
pub const MESSAGE_INTEGRITY_SHA256: u16 = 0x001c;
/// `PASSWORD-ALGORITHM`
pub const PASSWORD_ALGORITHM: u16 = 0x001d;
/// `USERHASH`
pub const USERHASH: u16 = 0x001e;
/// `XOR-MAPPED-ADDRESS`
pub const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// `RESERVATION-TOKEN`
pub const RESERVATION_TOKEN: u16 = 0x0022;
/// `PRIORITY`
pub const PRIORITY: u16 = 0x0024;
/// `USE-CANDIDATE`
pub const USE_CANDIDATE: u16 = 0x0025;
/// `ADDITIONAL-ADDRESS-FAMILY`
pub const ADDITIONAL_ADDRESS_FAMILY: u16 = 0x8000;
/// `ADDRESS-ERROR-CODE`
pub const ADDRESS_ERROR_CODE: u16 = 0x8001;
/// `PASSWORD-ALGORITHMS`
pub const PASSWORD_ALGORITHMS: u16 = 0x8002;
/// `SOFTWARE`
pub const SOFTWARE: u16 = 0x8022;
/// `FINGERPRINT`
pub const FINGERPRINT: u16 = 0x8028;
/// `ICE-CONTROLLED`
pub const ICE_CONTROLLED: u16 = 0x8029;
/// `ICE-CONTROLLING`
pub const ICE_CONTROLLING: u16 = 0x802a;
