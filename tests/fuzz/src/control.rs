//! A control message: JSON inside the reliable lane.

use switchyard_signaling::{
    limits,
    message::{ClientControl, to_json},
};

/// What parses keeps to its limits and can be written again.
pub fn target(data: &[u8]) {
    match ClientControl::parse(data) {
        Ok(message) => {
            if let ClientControl::Signal { data, .. } = &message {
                assert!(to_json(data).len() <= limits::SIGNAL_BYTES);
            }
            let again = ClientControl::parse(to_json(&message).as_bytes());
            assert!(again.is_ok_and(|again| again.id() == message.id()));
        }
        Err(error) => assert!(!error.to_string().is_empty() && !error.code().as_str().is_empty()),
    }
}
