//! Both halves of the lane, seen from outside.

use bytes::BytesMut;

use super::*;
use crate::frame::{Frame, Frames, Reliable};

fn message(stream: u16, payload: impl Into<Bytes>) -> Arc<Message> {
    Arc::new(Message {
        kind: Kind::Data,
        text: false,
        sender: 1,
        stream,
        target: Target::Room,
        payload: payload.into(),
        at: Instant::now(),
    })
}

fn control(payload: impl Into<Bytes>) -> Arc<Message> {
    let mut message = Arc::into_inner(message(0, payload)).unwrap();
    message.kind = Kind::Control;
    Arc::new(message)
}

/// Everything the sender has, as (lane_seq, stream, payload length or gap count as negative).
fn drain(sender: &mut Sender) -> Vec<(u32, u16, i64)> {
    let mut out = BytesMut::new();
    while sender.poll(0, usize::MAX, &mut out) == Polled::Frame {}
    Frames::new(out.freeze())
        .map(|frame| match frame.unwrap() {
            Frame::Reliable { lane_seq, body: Reliable::Chunk(header, payload), .. } => {
                (lane_seq, header.stream, payload.len() as i64)
            }
            Frame::Reliable { lane_seq, body: Reliable::Gap { stream, count, .. }, .. } => {
                (lane_seq, stream, -i64::from(count))
            }
            other => panic!("{other:?}"),
        })
        .collect()
}

const CHUNK: i64 = CHUNK_BYTES as i64;

#[test]
fn chunks_of_long_messages_take_turns_and_control_goes_first() {
    let mut sender = Sender::new(1 << 20);
    sender.push(1, message(5, vec![0; 2 * CHUNK_BYTES + 1])).unwrap();
    sender.push(1, message(6, vec![0; CHUNK_BYTES + 2])).unwrap();
    sender.push(1, message(7, vec![0; 10])).unwrap();
    sender.push(1, control(vec![0; 3])).unwrap();
    let sent = drain(&mut sender);
    let expected = [(1, 0, 3), (2, 7, 10), (3, 5, CHUNK), (4, 6, CHUNK), (5, 5, CHUNK), (6, 6, 2), (7, 5, 1)];
    assert_eq!(sent, expected);
}

#[test]
fn only_so_many_messages_are_begun_and_not_finished() {
    let mut sender = Sender::new(1 << 30);
    let streams = 3 * OPEN_MESSAGES as u16;
    for stream in 0..streams {
        sender.push(1, message(stream, vec![0; 2 * CHUNK_BYTES])).unwrap();
    }
    let mut open = std::collections::BTreeSet::new();
    for (_, stream, _) in drain(&mut sender) {
        if !open.remove(&stream) {
            open.insert(stream);
        }
        assert!(open.len() <= OPEN_MESSAGES);
    }
    assert!(open.is_empty());
}

#[test]
fn a_flood_of_short_messages_does_not_starve_a_long_one_nor_wait_for_it() {
    let mut sender = Sender::new(1 << 20);
    sender.push(1, message(5, vec![0; 2 * CHUNK_BYTES])).unwrap();
    for _ in 0..40 {
        sender.push(1, message(7, vec![0; 1000])).unwrap();
    }
    let order: Vec<u16> = drain(&mut sender).iter().map(|(_, stream, _)| *stream).collect();
    let places: Vec<usize> = (0..order.len()).filter(|&i| order[i] == 5).collect();
    assert_eq!(places, [16, 33]);
}

#[test]
fn no_message_overtakes_another_of_its_stream() {
    let mut sender = Sender::new(1 << 20);
    sender.push(1, message(5, vec![0; 1])).unwrap();
    sender.push(1, message(5, vec![0; CHUNK_BYTES + 2])).unwrap();
    sender.push(1, message(5, vec![0; 3])).unwrap();
    let lengths: Vec<i64> = drain(&mut sender).iter().map(|(_, _, length)| *length).collect();
    assert_eq!(lengths, [1, CHUNK, 2, 3]);
}

#[test]
fn what_is_not_acknowledged_is_sent_again_on_the_next_pipe_with_the_same_numbers() {
    let mut sender = Sender::new(1 << 20);
    for length in 1..=4 {
        sender.push(1, message(5, vec![0; length])).unwrap();
    }
    assert_eq!(drain(&mut sender).len(), 4);
    assert!(sender.attach(2));
    sender.push(1, message(5, vec![0; 9])).unwrap();
    assert_eq!(drain(&mut sender), [(3, 5, 3), (4, 5, 4), (5, 5, 9)]);
    assert!(sender.handle_ack(5));
    assert_eq!((sender.held_bytes(), sender.unacknowledged()), (0, 0));
}

#[test]
fn what_is_not_acknowledged_is_copied_once_and_in_order_up_to_a_limit() {
    let mut sender = Sender::new(1 << 30);
    let copied = |sender: &mut Sender| {
        let mut out = BytesMut::new();
        while sender.copy(0, usize::MAX, &mut out) == Polled::Frame {}
        let seq = |frame| match frame {
            Ok(Frame::Reliable { lane_seq, .. }) => lane_seq,
            other => panic!("{other:?}"),
        };
        Frames::new(out.freeze()).map(seq).collect::<Vec<_>>()
    };
    (0..3).for_each(|_| sender.push(1, message(1, "x")).unwrap());
    assert!(copied(&mut sender).is_empty(), "nothing has been sent");
    drain(&mut sender);
    assert!(sender.handle_ack(1));
    assert_eq!(copied(&mut sender), [2, 3]);
    sender.push(1, message(1, "x")).unwrap();
    drain(&mut sender);
    assert!(sender.handle_ack(3));
    assert_eq!(copied(&mut sender), [4]);
    sender.copy_anew();
    assert_eq!(copied(&mut sender), [4]);
    // Those that are still to be sent again on the pipe itself are no copies.
    sender.attach(3);
    assert!(copied(&mut sender).is_empty());
    let many = COPY_BYTES / CHUNK_BYTES + 5;
    (0..many).for_each(|_| sender.push(1, message(1, vec![0; CHUNK_BYTES])).unwrap());
    drain(&mut sender);
    sender.copy_anew();
    assert_eq!(copied(&mut sender).len(), COPY_BYTES / CHUNK_BYTES + 1);
}

#[test]
fn an_old_acknowledgement_changes_nothing_and_one_of_the_future_is_refused() {
    let mut sender = Sender::new(1 << 20);
    for _ in 0..3 {
        sender.push(1, message(5, vec![0; 1])).unwrap();
    }
    drain(&mut sender);
    assert!(sender.handle_ack(2));
    assert!(sender.handle_ack(1));
    assert_eq!(sender.unacknowledged(), 1);
    assert!(!sender.handle_ack(4));
    assert!(!sender.handle_ack(u32::MAX / 2 - 3));
    assert_eq!(sender.unacknowledged(), 1);
}

#[test]
fn beyond_the_limit_waiting_messages_become_a_gap_at_their_place_and_numbers_have_no_hole() {
    let mut sender = Sender::new(1000);
    sender.push(1, message(5, vec![0; 200])).unwrap();
    drain(&mut sender);
    for _ in 0..3 {
        sender.push(1, message(5, vec![0; 200])).unwrap();
    }
    // 4 × 264 bytes are more than 1000: the two that wait are dropped, this one is kept.
    assert_eq!(drain(&mut sender), [(2, 5, -2), (3, 5, 200)]);
    assert_eq!(sender.dropped(), 2);
    sender.push(1, message(5, vec![0; 900])).unwrap();
    assert_eq!(drain(&mut sender), [(4, 5, -1)]);
    sender.handle_ack(4);
    assert_eq!(sender.held_bytes(), 0);
}

#[test]
fn a_long_message_cut_short_by_the_limit_counts_as_missing() {
    let mut sender = Sender::new(3 * CHUNK_BYTES);
    sender.push(1, message(5, vec![0; 2 * CHUNK_BYTES])).unwrap();
    let mut out = BytesMut::new();
    assert_eq!(sender.poll(0, usize::MAX, &mut out), Polled::Frame);
    sender.push(1, message(6, vec![0; CHUNK_BYTES + 1])).unwrap();
    assert_eq!(drain(&mut sender), [(2, 5, -1), (3, 6, CHUNK), (4, 6, 1)]);
    sender.handle_ack(4);
    assert_eq!(sender.held_bytes(), 0);
}

#[test]
fn control_that_finds_no_room_is_an_overflow() {
    let mut sender = Sender::new(300);
    sender.push(1, control(vec![0; 200])).unwrap();
    assert_eq!(sender.push(1, control(vec![0; 200])), Err(Overflow));
}

#[test]
fn gaps_of_countless_streams_are_told_for_the_room() {
    let mut sender = Sender::new(0);
    for stream in 0..1000 {
        sender.push(1, message(stream, Bytes::new())).unwrap();
    }
    let told = drain(&mut sender);
    assert!(told.len() <= GAPS_APART + 1);
    assert_eq!(told.iter().map(|(_, _, count)| count).sum::<i64>(), -1000);
}

#[test]
fn a_room_that_was_left_frees_what_waited_for_it() {
    let mut sender = Sender::new(1 << 20);
    sender.push(1, message(5, vec![0; 40_000])).unwrap();
    sender.push(1, message(6, vec![0; 10])).unwrap();
    sender.push(2, message(5, vec![0; 10])).unwrap();
    let mut out = BytesMut::new();
    while sender.poll(0, 1000, &mut out) == Polled::Frame {}
    sender.forget_room(1);
    drain(&mut sender);
    sender.handle_ack(sender.next_seq.wrapping_sub(1));
    assert_eq!(sender.held_bytes(), 0);
}

#[test]
fn a_receiver_that_acknowledges_nothing_costs_bounded_memory_and_is_told_in_the_end_what_it_missed() {
    let mut sender = Sender::new(10_000);
    let (mut pushed, mut told, mut received) = (0, 0, 0);
    let mut count = |sender: &mut Sender| {
        for (_, _, length) in drain(sender) {
            told += if length < 0 { -length } else { 0 };
            received += i64::from(length >= 0);
        }
        told + received
    };
    for _ in 0..10_000 {
        sender.push(1, message(5, vec![0; 100])).unwrap();
        pushed += 1;
        count(&mut sender);
        assert!(sender.held_bytes() <= 10_000 + GAPS_SENT * OVERHEAD_BYTES);
    }
    assert!(!sender.is_ready());
    sender.handle_ack(sender.next_seq.wrapping_sub(1));
    assert!(sender.is_ready());
    assert_eq!(count(&mut sender), pushed);
}

#[test]
fn a_frame_longer_than_the_room_waits() {
    let mut sender = Sender::new(1 << 20);
    sender.push(1, message(5, vec![0; 500])).unwrap();
    let mut out = BytesMut::new();
    assert_eq!(sender.poll(0, 100, &mut out), Polled::TooLong);
    assert!(out.is_empty());
    assert_eq!(sender.poll(0, 1000, &mut out), Polled::Frame);
    assert_eq!(sender.poll(0, 1000, &mut out), Polled::Empty);
}

#[test]
fn numbers_wrap() {
    let mut sender = Sender::new(1 << 20);
    sender.next_seq = u32::MAX;
    let mut receiver = Receiver { last: u32::MAX - 1, ..Receiver::default() };
    for _ in 0..3 {
        sender.push(1, message(5, vec![0; 1])).unwrap();
    }
    let now = Instant::now();
    for (lane_seq, _, _) in drain(&mut sender) {
        assert_eq!(receiver.handle(lane_seq, 1, now), Arrival::Next);
    }
    assert_eq!(receiver.handle(u32::MAX, 1, now), Arrival::Duplicate);
    assert!(sender.handle_ack(receiver.ack()));
    assert_eq!(sender.unacknowledged(), 0);
}

#[test]
fn an_acknowledgement_is_due_after_a_delay_or_enough_frames_or_a_duplicate() {
    let mut receiver = Receiver::default();
    let start = Instant::now();
    assert_eq!(receiver.handle(1, 10, start), Arrival::Next);
    assert_eq!(receiver.poll_timeout(), Some(start + Duration::from_millis(SERVER_ACKS.delay_ms)));
    assert_eq!(receiver.handle(3, 10, start), Arrival::Ahead);
    assert_eq!(receiver.handle(1, 10, start), Arrival::Duplicate);
    assert_eq!(receiver.poll_timeout(), Some(start));
    receiver.acknowledged();
    assert_eq!(receiver.poll_timeout(), None);
    for lane_seq in 2..=SERVER_ACKS.frames + 1 {
        receiver.handle(lane_seq, 0, start);
    }
    assert_eq!(receiver.poll_timeout(), Some(start));
    receiver.acknowledged();
    receiver.handle(SERVER_ACKS.frames + 2, SERVER_ACKS.bytes, start);
    assert_eq!(receiver.poll_timeout(), Some(start));
}
