//! The PROXY protocol, version 2: who the client is, told by the load balancer through which it comes, in a header before
//! anything else.
//!
//! The header has twelve bytes that nothing else begins with, version and command, address family, a length of two bytes,
//! addresses, and then whatever the balancer adds (TLVs), which is passed over. Whether to believe it is decided elsewhere.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
};

use tokio::io::{AsyncRead, AsyncReadExt as _};

/// What every header of version 2 begins with.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// Bytes of a header: far more than addresses and the TLVs that are known take.
pub const LONGEST: usize = 2048;

/// What a header of version 1, which is a line of text, begins with.
const VERSION_1: &[u8] = b"PROXY ";
/// Signature, version and command, family, length.
const FIXED: usize = 16;
/// Two addresses and two ports.
const IPV4: usize = 12;
const IPV6: usize = 36;

/// How far a header has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Progress {
    /// It has at least so many bytes.
    Needs(usize),
    /// It is complete.
    Complete(Header),
}

/// What a header says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// Its bytes; what comes after them is the client's.
    pub length: usize,
    /// The client; `None` if the connection is the balancer's own, such as one that looks whether the server lives.
    pub client: Option<SocketAddr>,
}

/// What is no header that can be followed.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The connection begins with something else.
    #[error("there is no PROXY header")]
    Missing,
    /// The version before.
    #[error("the PROXY header has version 1; let the load balancer send version 2")]
    Version1,
    /// Another version.
    #[error("the PROXY header has version {0}; let the load balancer send version 2")]
    Version(u8),
    /// Neither LOCAL nor PROXY.
    #[error("the PROXY header has the unknown command {0}")]
    Command(u8),
    /// The client is not on TCP.
    #[error("the PROXY header has the family {0:#04x}; only TCP over IPv4 and IPv6 is known")]
    Family(u8),
    /// Its addresses are cut off.
    #[error("the PROXY header is too short for its addresses")]
    Short,
    /// More than [`LONGEST`].
    #[error("the PROXY header has {0} bytes; at most {LONGEST} are read")]
    Long(usize),
    /// The connection broke.
    #[error("the connection ended within its PROXY header")]
    Broken(#[from] io::Error),
}

/// Reads what has come of a header.
///
/// # Errors
/// If it cannot be one, whatever comes.
pub fn parse(bytes: &[u8]) -> Result<Progress, HeaderError> {
    let Some(signature) = bytes.first_chunk::<12>() else {
        return Ok(Progress::Needs(SIGNATURE.len()));
    };
    if *signature != SIGNATURE {
        return Err(if signature.starts_with(VERSION_1) {
            HeaderError::Version1
        } else {
            HeaderError::Missing
        });
    }
    let Some(&[version_command, family, high, low]) = bytes[SIGNATURE.len()..].first_chunk::<4>() else {
        return Ok(Progress::Needs(FIXED));
    };
    if version_command >> 4 != 2 {
        return Err(HeaderError::Version(version_command >> 4));
    }
    let length = FIXED + usize::from(u16::from_be_bytes([high, low]));
    if length > LONGEST {
        return Err(HeaderError::Long(length));
    }
    let Some(header) = bytes.get(..length) else {
        return Ok(Progress::Needs(length));
    };
    let client = match version_command & 0xf {
        0 => None,
        1 => client(family, &header[FIXED..])?,
        command => return Err(HeaderError::Command(command)),
    };
    Ok(Progress::Complete(Header { length, client }))
}

/// The source of a proxied connection; the destination, between the two ports and addresses, is of no use here.
fn client(family: u8, addresses: &[u8]) -> Result<Option<SocketAddr>, HeaderError> {
    match family {
        // "Unspecified": the balancer does not know.
        0x00 => Ok(None),
        0x11 => {
            let addresses = addresses.first_chunk::<IPV4>().ok_or(HeaderError::Short)?;
            let [a, b, c, d, _, _, _, _, high, low, ..] = *addresses;
            Ok(Some((Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([high, low])).into()))
        }
        0x21 => {
            let addresses = addresses.first_chunk::<IPV6>().ok_or(HeaderError::Short)?;
            let (ip, rest) = addresses.split_first_chunk::<16>().expect("the first of 36 bytes");
            let ip = IpAddr::from(Ipv6Addr::from(*ip)).to_canonical();
            Ok(Some((ip, u16::from_be_bytes([rest[16], rest[17]])).into()))
        }
        family => Err(HeaderError::Family(family)),
    }
}

/// Reads a header from a connection, and not a byte more.
pub(super) async fn read(stream: &mut (impl AsyncRead + Unpin)) -> Result<Header, HeaderError> {
    let mut bytes = Vec::new();
    loop {
        match parse(&bytes)? {
            Progress::Complete(header) => return Ok(header),
            Progress::Needs(length) => {
                let have = bytes.len();
                bytes.resize(length, 0);
                stream.read_exact(&mut bytes[have..]).await?;
            }
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A header.
    pub(in crate::io) fn header(version_command: u8, family: u8, rest: &[u8]) -> Vec<u8> {
        let length = (rest.len() as u16).to_be_bytes();
        [&SIGNATURE[..], &[version_command, family], &length, rest].concat()
    }

    /// Of a client on IPv4.
    pub(in crate::io) fn of_client(client: [u8; 4], port: u16) -> Vec<u8> {
        header(
            0x21,
            0x11,
            &[&client[..], &[192, 0, 2, 1], &port.to_be_bytes(), &443_u16.to_be_bytes()].concat(),
        )
    }

    fn client_of(bytes: &[u8]) -> Result<Option<SocketAddr>, String> {
        match parse(bytes) {
            Ok(Progress::Complete(header)) => {
                assert_eq!(header.length, bytes.len());
                Ok(header.client)
            }
            Ok(progress) => panic!("{progress:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn the_client_is_the_source_address() {
        assert_eq!(
            client_of(&of_client([203, 0, 113, 7], 51_000)),
            Ok(Some("203.0.113.7:51000".parse().unwrap()))
        );
        let v6 = |ip: &str| {
            let ip: Ipv6Addr = ip.parse().unwrap();
            header(0x21, 0x21, &[&ip.octets()[..], &[0xff; 16], &[0x12, 0x34], &[0x56, 0x78]].concat())
        };
        assert_eq!(client_of(&v6("2001:db8::7")), Ok(Some("[2001:db8::7]:4660".parse().unwrap())));
        assert_eq!(client_of(&v6("::ffff:203.0.113.7")), Ok(Some("203.0.113.7:4660".parse().unwrap())));
        // What follows the addresses is passed over.
        let with_tlv = [&of_client([203, 0, 113, 7], 51_000)[16..], &[0x20, 0, 3, 1, 2, 3]].concat();
        assert_eq!(client_of(&header(0x21, 0x11, &with_tlv)), Ok(Some("203.0.113.7:51000".parse().unwrap())));
    }

    #[test]
    fn a_connection_of_the_balancers_own_names_nobody() {
        assert_eq!(client_of(&header(0x20, 0, &[])), Ok(None));
        // Addresses of a LOCAL command are passed over, whatever they are.
        assert_eq!(client_of(&header(0x20, 0x11, &[1; 12])), Ok(None));
        assert_eq!(client_of(&header(0x20, 0x31, &[1; 3])), Ok(None));
        assert_eq!(client_of(&header(0x21, 0x00, &[])), Ok(None));
    }

    #[test]
    fn what_cannot_be_followed_says_why() {
        let message = [0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42, 0, 0, 0, 0];
        for (bytes, sentence) in [
            (message.to_vec(), "there is no PROXY header"),
            (b"PROXY UNKNOWN\r\n".to_vec(), "the PROXY header has version 1; let"),
            (
                b"PROXY TCP4 203.0.113.7 192.0.2.1 51000 443\r\n".to_vec(),
                "the PROXY header has version 1; let",
            ),
            (header(0x31, 0x11, &[0; 12]), "the PROXY header has version 3"),
            (header(0x22, 0x11, &[0; 12]), "the PROXY header has the unknown command 2"),
            (header(0x21, 0x12, &[0; 12]), "the PROXY header has the family 0x12"),
            (header(0x21, 0x31, &[0; 216]), "the PROXY header has the family 0x31"),
            (header(0x21, 0x11, &[0; 11]), "the PROXY header is too short"),
            (header(0x21, 0x21, &[0; 35]), "the PROXY header is too short"),
            (
                header(0x21, 0x11, &[0; LONGEST - FIXED + 1])[..FIXED].to_vec(),
                "the PROXY header has 2049 bytes",
            ),
        ] {
            let refused = client_of(&bytes).unwrap_err();
            assert!(refused.starts_with(sentence), "{refused}");
        }
        assert!(client_of(&header(0x21, 0x11, &[0; LONGEST - FIXED])).is_ok());
    }

    #[tokio::test]
    async fn not_a_byte_after_it_is_read() {
        let header = of_client([203, 0, 113, 7], 51_000);
        let (mut near, mut far) = tokio::io::duplex(7);
        let writing = tokio::spawn(async move {
            let all = [&header[..], b"and what the client says"].concat();
            tokio::io::AsyncWriteExt::write_all(&mut far, &all).await.unwrap();
        });
        assert_eq!(read(&mut near).await.unwrap().client, Some("203.0.113.7:51000".parse().unwrap()));
        let mut rest = String::new();
        near.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "and what the client says");
        writing.await.unwrap();
        let cut = &of_client([203, 0, 113, 7], 51_000)[..20];
        assert!(matches!(read(&mut &cut[..]).await, Err(HeaderError::Broken(_))));
    }
}
