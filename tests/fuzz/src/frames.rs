//! A pipe message: its frames, the lane's order, and messages put together of chunks.

use std::time::Instant;

use bytes::{Bytes, BytesMut};
use switchyard_signaling::{
    assembly::Assembly,
    frame::{
        self, Frame, Frames, Reliable, put_ack, put_attach, put_attached, put_chunk, put_gap, put_lossy,
        put_ping, put_pong,
    },
    lane,
};

const MAX_MESSAGE: usize = 4096;
const MAX_HELD: usize = 8192;

/// What can be read can be written and is read again as the same; what is held is bounded.
pub fn target(data: &[u8]) {
    let mut receiver = lane::Receiver::default();
    let mut sender = lane::Sender::new(MAX_HELD);
    let mut assembly = Assembly::new(MAX_MESSAGE, MAX_HELD);
    let now = Instant::now();
    for read in Frames::new(Bytes::copy_from_slice(data)) {
        let Ok(read) = read else { break };
        assert_same_when_written(&read);
        match read {
            Frame::Reliable { lane_seq, ack, body } => {
                let _ = sender.handle_ack(ack);
                let _ = receiver.handle(lane_seq, 64, now);
                match body {
                    Reliable::Chunk(header, payload) => {
                        if let Ok(Some(whole)) = assembly.handle(header, payload) {
                            assert!(whole.payload.len() <= data.len());
                            assert!(!whole.text || std::str::from_utf8(&whole.payload).is_ok());
                        }
                    }
                    Reliable::Gap { room, sender, stream, .. } => assembly.handle_gap((room, sender, stream)),
                }
                assert!(assembly.held_bytes() <= MAX_HELD.min(data.len()));
            }
            Frame::Ack(ack) => {
                let _ = sender.handle_ack(ack);
            }
            Frame::Attach { ack, .. } | Frame::Attached { ack, .. } => {
                let _ = sender.attach(ack);
            }
            Frame::Lossy(..) | Frame::Ping(_) | Frame::Pong(_) => {}
        }
    }
}

fn assert_same_when_written(read: &Frame) {
    let mut out = BytesMut::new();
    match read {
        Frame::Reliable { lane_seq, ack, body: Reliable::Chunk(header, payload) } => put_chunk(
            &mut out,
            header.kind,
            header.text,
            (*lane_seq, *ack),
            header.room,
            header.sender,
            header.stream,
            header.first.as_ref().map(|(target, total)| (target, *total)),
            header.last,
            payload,
        ),
        Frame::Reliable { lane_seq, ack, body: Reliable::Gap { room, sender, stream, count } } => {
            put_gap(&mut out, (*lane_seq, *ack), *room, *sender, *stream, *count);
        }
        Frame::Lossy(header, payload) => put_lossy(&mut out, header, payload),
        Frame::Ack(ack) => put_ack(&mut out, *ack),
        Frame::Ping(nonce) => put_ping(&mut out, *nonce),
        Frame::Pong(nonce) => put_pong(&mut out, *nonce),
        Frame::Attach { generation, ack } => put_attach(&mut out, *generation, *ack),
        Frame::Attached { generation, ack } => put_attached(&mut out, *generation, *ack),
    }
    let _ = out.split_to(frame::LENGTH_BYTES);
    let again = frame::decode(out.freeze());
    assert_eq!(again.as_ref().ok().and_then(Option::as_ref), Some(read));
}
