//! A text message on the signalling socket.

use switchyard_signaling::message::{ClientText, to_json};

/// What parses is written as something that parses to the same.
pub fn target(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match ClientText::parse(text) {
        Ok(message) => assert_eq!(ClientText::parse(&to_json(&message)).ok(), Some(message)),
        Err(error) => assert!(!error.to_string().is_empty() && !error.code().as_str().is_empty()),
    }
}
