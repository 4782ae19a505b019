//! Lossy messages on their way to one session: the newest win where the pipe is slow.

use std::{collections::VecDeque, sync::Arc};

use bytes::BytesMut;
use switchyard_signaling::{
    frame::{self, LossyHeader},
    lane,
};

/// Messages that wait at most, however small.
const MOST: usize = 1024;

#[derive(Debug)]
struct Waiting {
    handle: u16,
    seq: u32,
    message: Arc<lane::Message>,
}

/// What waits for the pipe.
#[derive(Debug)]
pub(super) struct LossyQueue {
    waiting: VecDeque<Waiting>,
    bytes: usize,
    /// Bytes of payload that may wait.
    most_bytes: usize,
}

impl LossyQueue {
    pub(super) fn new(most_bytes: usize) -> Self {
        Self { waiting: VecDeque::new(), bytes: 0, most_bytes }
    }

    /// Bytes of payload that wait.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes a message of a room. Returns how many older ones are dropped for it, itself included if it is too long.
    pub(super) fn push(&mut self, handle: u16, seq: u32, message: &Arc<lane::Message>) -> u64 {
        self.bytes += message.payload.len();
        self.waiting.push_back(Waiting { handle, seq, message: message.clone() });
        let mut dropped = 0;
        while (self.bytes > self.most_bytes || self.waiting.len() > MOST) && self.pop().is_some() {
            dropped += 1;
        }
        dropped
    }

    /// Appends the oldest as a frame if it is no longer than `room`, and returns the length of its payload.
    pub(super) fn poll(&mut self, room: usize, out: &mut BytesMut) -> Option<usize> {
        let message = &self.waiting.front()?.message;
        if frame::lossy_len(&message.target, message.payload.len()) > room {
            return None;
        }
        let Waiting { handle, seq, message } = self.pop()?;
        let header = LossyHeader {
            text: message.text,
            room: handle,
            sender: message.sender,
            stream: message.stream,
            seq,
            target: message.target.clone(),
        };
        frame::put_lossy(out, &header, &message.payload);
        Some(message.payload.len())
    }

    /// The session has left a room.
    pub(super) fn forget_room(&mut self, handle: u16) {
        self.waiting.retain(|waiting| waiting.handle != handle);
        self.bytes = self.waiting.iter().map(|waiting| waiting.message.payload.len()).sum();
    }

    fn pop(&mut self) -> Option<Waiting> {
        let oldest = self.waiting.pop_front()?;
        self.bytes -= oldest.message.payload.len();
        Some(oldest)
    }
}
