//! Ports and addresses as people write them, and messages that say what is expected where something else stands.
//!
//! A file gives text or numbers, the environment text alone; both are read, whatever the type of the setting.

use std::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    str::FromStr,
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, Visitor},
};

/// Reads a setting that can be written as text, and says what was expected if it is not.
///
/// # Errors
/// `expected`, if `parse` finds nothing.
pub fn parsed<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &str,
    parse: impl FnOnce(&str) -> Option<T>,
) -> Result<T, D::Error> {
    let text = deserializer.deserialize_any(Text).ok();
    text.and_then(|text| parse(&text)).ok_or_else(|| D::Error::custom(expected))
}

/// For serde's `deserialize_with`: a port.
///
/// # Errors
/// On anything else.
pub fn port<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
    parsed(deserializer, "expected a port number 1–65535, or 0 for any free one", |text| text.parse().ok())
}

/// For serde's `deserialize_with`: an address that may be left out.
///
/// # Errors
/// On anything else.
pub fn address<'de, D: Deserializer<'de>, T: Address>(deserializer: D) -> Result<Option<T>, D::Error> {
    Ok(Option::<Written<T>>::deserialize(deserializer)?.map(|address| address.0))
}

/// For serde's `deserialize_with`: a list of addresses.
///
/// # Errors
/// On anything else.
pub fn addresses<'de, D: Deserializer<'de>, T: Address>(deserializer: D) -> Result<Vec<T>, D::Error> {
    Ok(Vec::<Written<T>>::deserialize(deserializer)?.into_iter().map(|address| address.0).collect())
}

/// What an address is written like.
pub trait Address: FromStr {
    /// For messages.
    const EXPECTED: &str;
}

impl Address for IpAddr {
    const EXPECTED: &str = "expected an IP address such as 192.0.2.7 or 2001:db8::7";
}

impl Address for Ipv4Addr {
    const EXPECTED: &str = "expected an IPv4 address such as 192.0.2.7";
}

impl Address for Ipv6Addr {
    const EXPECTED: &str = "expected an IPv6 address such as 2001:db8::7";
}

struct Written<T>(T);

impl<'de, T: Address> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        parsed(deserializer, T::EXPECTED, |text| text.parse().ok()).map(Self)
    }
}

/// Takes text as it is, and whole numbers as they would be written.
struct Text;

impl Visitor<'_> for Text {
    type Value = String;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Deserialize, Debug, PartialEq)]
    struct Some {
        #[serde(deserialize_with = "port")]
        port: u16,
        #[serde(deserialize_with = "address")]
        address: Option<Ipv4Addr>,
        #[serde(deserialize_with = "addresses")]
        addresses: Vec<IpAddr>,
    }

    fn read(port: &str, address: &str, item: &str) -> Result<Some, String> {
        let text = format!(r#"{{"port": {port}, "address": {address}, "addresses": [{item}]}}"#);
        serde_json::from_str(&text).map_err(|error| error.to_string())
    }

    #[test]
    fn values_are_read_from_text_and_from_numbers() {
        let good = Some { port: 80, address: None, addresses: vec![Ipv6Addr::LOCALHOST.into()] };
        assert_eq!(read("80", "null", r#""::1""#).unwrap(), good);
        assert_eq!(read(r#""80""#, "null", r#""::1""#).unwrap(), good);
        assert_eq!(
            read("80", r#""192.0.2.7""#, r#""::1""#).unwrap().address,
            Option::Some(Ipv4Addr::new(192, 0, 2, 7))
        );
    }

    #[test]
    fn what_is_something_else_is_refused_with_what_is_expected() {
        for (port, address, item, expected) in [
            ("65536", "null", r#""::1""#, "expected a port number 1–65535"),
            ("-1", "null", r#""::1""#, "expected a port number 1–65535"),
            ("[]", "null", r#""::1""#, "expected a port number 1–65535"),
            ("1", r#""::1""#, r#""::1""#, "expected an IPv4 address such as"),
            ("1", "null", r#""here""#, "expected an IP address such as"),
            ("1", "null", "1", "expected an IP address such as"),
        ] {
            let problem = read(port, address, item).unwrap_err();
            assert!(problem.starts_with(expected), "{problem}");
        }
    }
}
