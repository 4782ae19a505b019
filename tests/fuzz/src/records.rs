//! The records of a LOG message from a client, and the bodies in them.

use bytes::{Bytes, BytesMut};
use switchyard::room::content;
use switchyard_signaling::{
    limits,
    record::{ClientRecord, read_client},
};

/// What parses can be written again as it was, and a body that is taken keeps to its limit.
pub fn target(data: &[u8]) {
    for record in read_client(Bytes::copy_from_slice(data)) {
        let Ok(record) = record else { return };
        let mut written = BytesMut::new();
        record.put(&mut written);
        let again: Vec<_> = read_client(written.freeze()).collect();
        assert_eq!(again, [Ok(record.clone())]);
        let content = match record {
            ClientRecord::Submit(submission) => submission.content,
            ClientRecord::Begin { content, .. } => content::with_text(&content, "text", true),
            ClientRecord::Part { .. } => continue,
        };
        if content::well_formed(&content).is_ok() {
            assert!(content.body.len() <= limits::EVENT_BYTES);
        }
        let _ = content::change_fields(&content::FieldSizes::new(), &content.body);
    }
}
