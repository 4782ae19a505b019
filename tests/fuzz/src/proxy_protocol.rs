//! The header by which a load balancer names the client.

use switchyard::io::proxy_protocol::{Header, LONGEST, Progress, SIGNATURE, parse};

/// It ends somewhere within its bound, is the same however it comes, and what follows it makes no difference.
pub fn target(data: &[u8]) {
    let (mut length, mut last) = (0, 0);
    let whole = loop {
        match parse(&data[..length]) {
            Ok(Progress::Needs(needed)) => {
                assert!(needed > length && needed <= LONGEST);
                last = length;
                length = needed;
                if needed > data.len() {
                    break Ok(None);
                }
            }
            Ok(Progress::Complete(header)) => break Ok(Some(header)),
            Err(error) => break Err(error.to_string()),
        }
    };
    // A byte short of what it needs, it cannot be complete.
    for length in last..length.min(data.len()) {
        assert!(matches!(parse(&data[..length]), Ok(Progress::Needs(_))), "{length} bytes");
    }
    match whole {
        Ok(Some(Header { length: end, client })) => {
            assert!(end == length && data.starts_with(&SIGNATURE));
            assert!(client.is_none_or(|client| client.ip() == client.ip().to_canonical()));
            let again = Progress::Complete(Header { length: end, client });
            assert_eq!(parse(data).expect("what follows is not looked at"), again);
        }
        Ok(None) => assert!(parse(data).is_ok_and(|progress| matches!(progress, Progress::Needs(_)))),
        Err(error) => assert_eq!(parse(data).unwrap_err().to_string(), error),
    }
}
