//! Which addresses the relay may reach (NAT2): the way into the operator's network is closed by default.
//!
//! An address is judged in its canonical form: an IPv4 address in IPv6 clothes is the IPv4 address. Then, in this order:
//! an address of the server itself is [`Reach::Own`], whatever the lists say; what the operator allows may be reached; an
//! IPv6 address that a translator or a tunnel turns into an IPv4 address is judged as that; what is denied may not be
//! reached; and everything else may.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Networks that no relay has to reach, and the cloud's metadata services among them.
pub const DENIED: [&str; 29] = [
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    // Metadata services of clouds are at 169.254.169.254.
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    // Unspecified, loopback, IPv4-mapped, -compatible and -translated addresses, local translators.
    "::/8",
    "100::/64",
    // Teredo.
    "2001::/32",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "2001:db8::/32",
    "3fff::/20",
    "5f00::/16",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    // A metadata service at an address that looks public.
    "168.63.129.16/32",
];

/// A network: an address and how many bits of it count.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cidr {
    network: IpAddr,
    bits: u8,
}

/// Text that is no network.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error(
    "expected a network such as 10.0.0.0/8, 2001:db8::/32 or one address, with no bits set after the prefix"
)]
pub struct BadCidr;

impl Cidr {
    /// Whether an address lies in it. An IPv4 network holds no IPv6 address, and the other way round.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.network, address) {
            (IpAddr::V4(network), IpAddr::V4(address)) => {
                u32::from(network) == u32::from(address) & mask32(self.bits)
            }
            (IpAddr::V6(network), IpAddr::V6(address)) => {
                u128::from(network) == u128::from(address) & mask128(self.bits)
            }
            _ => false,
        }
    }

    /// Its first and its last address.
    #[must_use]
    pub fn range(&self) -> (IpAddr, IpAddr) {
        let last = match self.network {
            IpAddr::V4(network) => IpAddr::from(Ipv4Addr::from(u32::from(network) | !mask32(self.bits))),
            IpAddr::V6(network) => IpAddr::from(Ipv6Addr::from(u128::from(network) | !mask128(self.bits))),
        };
        (self.network, last)
    }
}

fn mask32(bits: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0)
}

fn mask128(bits: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0)
}

impl FromStr for Cidr {
    type Err = BadCidr;

    fn from_str(text: &str) -> Result<Self, BadCidr> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let network: IpAddr = address.parse().map_err(|_| BadCidr)?;
        let most = if network.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            // Digits alone: `u8` would read `+8` too.
            Some(bits) if bits.bytes().all(|digit| digit.is_ascii_digit()) => {
                bits.parse().map_err(|_| BadCidr)?
            }
            Some(_) => return Err(BadCidr),
            None => most,
        };
        let cidr = Self { network, bits };
        if bits > most || !cidr.contains(network) {
            return Err(BadCidr);
        }
        Ok(cidr)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.bits)
    }
}

impl Serialize for Cidr {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cidr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|error: BadCidr| de::Error::custom(error))
    }
}

/// How an address can be reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reach {
    /// Through a relay socket.
    Outside,
    /// It is the server's own: only its SFU and its live allocations are there, and both in memory.
    Own,
    /// Not at all.
    Forbidden,
}

/// The judge.
#[derive(Clone, Debug)]
pub struct Policy {
    own: Vec<IpAddr>,
    allow: Vec<Cidr>,
    deny: Vec<Cidr>,
}

impl Policy {
    /// Judges by these lists; what is [`DENIED`] by default is denied too.
    #[must_use]
    pub fn new(own: impl IntoIterator<Item = IpAddr>, allow: &[Cidr], deny: &[Cidr]) -> Self {
        let own = own.into_iter().map(|address| address.to_canonical()).collect();
        let deny = denied_by_default().chain(deny.iter().copied()).collect();
        Self { own, allow: allow.to_vec(), deny }
    }

    /// How an address can be reached.
    #[must_use]
    pub fn judge(&self, address: IpAddr) -> Reach {
        let address = address.to_canonical();
        if self.own.contains(&address) {
            return Reach::Own;
        }
        let is_in = |list: &[Cidr]| list.iter().any(|network| network.contains(address));
        if is_in(&self.allow) {
            return Reach::Outside;
        }
        if let Some(inner) = embedded(address) {
            // A translator would lead back to this host by another way than the two that are open.
            return match self.judge(inner.into()) {
                Reach::Outside => Reach::Outside,
                Reach::Own | Reach::Forbidden => Reach::Forbidden,
            };
        }
        if is_in(&self.deny) { Reach::Forbidden } else { Reach::Outside }
    }
}

/// The networks of [`DENIED`].
pub fn denied_by_default() -> impl Iterator<Item = Cidr> {
    DENIED.iter().map(|text| text.parse().expect("a network, as a test holds"))
}

/// The IPv4 address that a NAT64 ([RFC 6052](https://www.rfc-editor.org/rfc/rfc6052#section-2.1)) or 6to4 makes of an
/// IPv6 address.
fn embedded(address: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(address) = address else { return None };
    let [a, b, c, ..] = address.segments();
    let bits = u128::from(address);
    match (a, b) {
        (0x64, 0xff9b) if (bits >> 32) & 0xffff_ffff_ffff_ffff == 0 => Some(Ipv4Addr::from(bits as u32)),
        (0x2002, _) => Some(Ipv4Addr::from(u32::from(b) << 16 | u32::from(c))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(allow: &[&str], deny: &[&str]) -> Policy {
        let list = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Cidr>>();
        Policy::new(["198.51.100.1".parse().unwrap()], &list(allow), &list(deny))
    }

    fn judge(policy: &Policy, address: &str) -> Reach {
        policy.judge(address.parse().unwrap())
    }

    #[test]
    fn every_network_of_the_default_list_is_one_and_is_closed_at_both_ends() {
        let policy = policy(&[], &[]);
        for network in denied_by_default() {
            let (first, last) = network.range();
            assert_eq!(policy.judge(first), Reach::Forbidden, "{network}");
            assert_eq!(policy.judge(last), Reach::Forbidden, "{network}");
        }
    }

    #[test]
    fn the_operators_network_is_closed_in_every_disguise() {
        let policy = policy(&[], &[]);
        for address in [
            "0.0.0.0",
            "127.0.0.1",
            "10.1.2.3",
            "100.64.0.1",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::127.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::169.254.169.254",
            "64:ff9b:1::10.0.0.1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2001:0:a00:1::",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "febf::1",
            "fec0::1",
            "ff02::1",
            "2001:db8::1",
        ] {
            assert_eq!(judge(&policy, address), Reach::Forbidden, "{address}");
        }
    }

    #[test]
    fn the_rest_of_the_world_is_open() {
        let policy = policy(&[], &["9.9.9.0/24"]);
        for address in [
            "8.8.8.8",
            "172.32.0.1",
            "100.128.0.1",
            "2a00::1",
            "::ffff:8.8.8.8",
            "64:ff9b::8.8.8.8",
            "2002:808:808::1",
        ] {
            assert_eq!(judge(&policy, address), Reach::Outside, "{address}");
        }
        assert_eq!(judge(&policy, "9.9.9.9"), Reach::Forbidden, "denied by the operator");
        assert_eq!(judge(&policy, "64:ff9b::9.9.9.9"), Reach::Forbidden, "denied by the operator");
    }

    #[test]
    fn the_servers_own_addresses_come_before_all_lists() {
        let policy = policy(&["198.51.100.0/24", "10.0.0.0/8"], &[]);
        assert_eq!(judge(&policy, "198.51.100.1"), Reach::Own);
        assert_eq!(judge(&policy, "::ffff:198.51.100.1"), Reach::Own);
        assert_eq!(judge(&policy, "64:ff9b::198.51.100.1"), Reach::Forbidden, "not by way of a translator");
        assert_eq!(judge(&policy, "198.51.100.2"), Reach::Outside, "allowed by the operator");
        assert_eq!(judge(&policy, "10.0.0.1"), Reach::Outside, "allowed by the operator");
        assert_eq!(judge(&policy, "64:ff9b::10.0.0.1"), Reach::Outside, "allowed by the operator");
        assert_eq!(judge(&policy, "192.168.0.1"), Reach::Forbidden);
    }

    #[test]
    fn networks_are_read_and_written() {
        for text in ["10.0.0.0/8", "0.0.0.0/0", "::/0", "2001:db8::/32", "192.0.2.1/32"] {
            assert_eq!(text.parse::<Cidr>().unwrap().to_string(), text);
        }
        assert_eq!("192.0.2.1".parse::<Cidr>().unwrap().to_string(), "192.0.2.1/32");
        for text in ["", "10.0.0.0/33", "10.0.0.1/8", "::/129", "10/8", "10.0.0.0/", "10.0.0.0/+8", "a/8"] {
            assert_eq!(text.parse::<Cidr>(), Err(BadCidr), "{text}");
        }
        assert!("0.0.0.0/0".parse::<Cidr>().unwrap().contains("255.0.0.1".parse().unwrap()));
        assert!(!"0.0.0.0/0".parse::<Cidr>().unwrap().contains("::1".parse().unwrap()));
    }
}
