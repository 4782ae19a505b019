//! Datagrams on their way out, laid side by side: those of one way that are equally long leave in one system call
//! (GSO), so whoever fills the queue drains one peer after the other.

use std::net::IpAddr;

use bytes::BytesMut;

use super::path::Path;

/// Bytes and datagrams of one call: the kernel's limits for UDP GSO.
const BATCH_BYTES: usize = 65_000;
const BATCH_DATAGRAMS: usize = 64;

/// Where a shard's datagrams go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The far end.
    pub path: Path,
    /// The local address that the client sends to, where it is known.
    pub local_ip: Option<IpAddr>,
}

/// Datagrams that go one way. All are `segment` bytes long but the last, which may be shorter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Transmit<'a, W = Way> {
    /// Where they go.
    pub way: W,
    /// Length of a datagram; 0 for a single empty one.
    pub segment: usize,
    /// The datagrams, one behind the other.
    pub contents: &'a [u8],
}

/// The queue; it keeps its memory.
#[derive(Debug)]
pub struct TransmitQueue<W = Way> {
    contents: BytesMut,
    batches: Vec<Batch<W>>,
}

#[derive(Debug)]
struct Batch<W> {
    way: W,
    segment: usize,
    length: usize,
    is_closed: bool,
}

impl TransmitQueue {
    /// Adds a datagram.
    pub fn push(&mut self, path: Path, local_ip: Option<IpAddr>, datagram: &[u8]) {
        self.push_parts(Way { path, local_ip }, &[datagram]);
    }
}

impl<W: Copy + PartialEq> TransmitQueue<W> {
    /// Adds a datagram that is in parts.
    pub fn push_parts(&mut self, way: W, parts: &[&[u8]]) {
        let mut length = 0;
        for part in parts {
            self.contents.extend_from_slice(part);
            length += part.len();
        }
        if let Some(last) = self.batches.last_mut()
            && last.takes(&way, length)
        {
            last.length += length;
            last.is_closed = length < last.segment;
        } else {
            self.batches.push(Batch { way, segment: length, length, is_closed: false });
        }
    }

    /// What has been queued, in order.
    pub fn iter(&self) -> impl Iterator<Item = Transmit<'_, W>> {
        let mut start = 0;
        self.batches.iter().map(move |batch| {
            let contents = &self.contents[start..start + batch.length];
            start += batch.length;
            Transmit { way: batch.way, segment: batch.segment, contents }
        })
    }

    /// Whether nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        self.contents.clear();
        self.batches.clear();
    }
}

impl<W> Default for TransmitQueue<W> {
    fn default() -> Self {
        Self { contents: BytesMut::new(), batches: Vec::new() }
    }
}

impl<W: Copy + PartialEq> Batch<W> {
    fn takes(&self, way: &W, length: usize) -> bool {
        !self.is_closed
            && self.way == *way
            && length <= self.segment
            && length > 0
            && self.length + length <= BATCH_BYTES
            && self.length < self.segment * BATCH_DATAGRAMS
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_datagrams_of_a_path_lie_together_and_a_shorter_one_ends_the_batch() {
        let path = |port: u16| Path::Udp(([192, 0, 2, 1], port).into());
        let mut queue = TransmitQueue::default();
        for (port, length) in [(1, 10), (1, 10), (1, 4), (1, 4), (2, 4), (1, 9), (1, 10)] {
            queue.push(path(port), None, &vec![0; length]);
        }
        let batches: Vec<_> =
            queue.iter().map(|batch| (batch.way.path, batch.segment, batch.contents.len())).collect();
        assert_eq!(
            batches,
            [(path(1), 10, 24), (path(1), 4, 4), (path(2), 4, 4), (path(1), 9, 9), (path(1), 10, 10)]
        );
    }

    #[test]
    fn a_batch_stays_within_what_the_kernel_takes() {
        let mut queue = TransmitQueue::default();
        for _ in 0..200 {
            queue.push(Path::Udp(([192, 0, 2, 1], 1).into()), None, &[0; 1200]);
        }
        assert!(queue.iter().all(|batch| batch.contents.len() <= BATCH_BYTES));
        assert_eq!(queue.iter().map(|batch| batch.contents.len()).sum::<usize>(), 200 * 1200);
    }
}
