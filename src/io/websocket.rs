//! WebSocket messages out of bytes, as a server reads them (RFC 6455 §5), and the heads of frames that it writes.
//!
//! [`Reader`] is given what came, in pieces that end anywhere, and gives whole messages: fragments joined, masks
//! removed, texts checked. It holds no more of an unfinished message than has come of it. Nothing here reads a socket
//! or answers: pongs and closing handshakes are the socket's task's.

use bytes::Bytes;

/// Bytes in a control frame at most (§5.5).
const CONTROL_BYTES: usize = 125;
/// The longest head of a client's frame: two bytes, a length of eight, the mask.
const HEAD_BYTES: usize = 14;

/// The kind of a frame (§11.8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opcode {
    /// UTF-8.
    Text = 1,
    /// Bytes.
    Binary = 2,
    /// The last one.
    Close = 8,
    /// To be answered.
    Ping = 9,
    /// The answer.
    Pong = 10,
}

/// What a client said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// A text.
    Text(String),
    /// Bytes.
    Binary(Bytes),
    /// To be answered by a pong with the same payload.
    Ping(Bytes),
    /// Nobody asked.
    Pong,
    /// The last message, with its code.
    Close(Option<u16>),
}

/// Nothing can be read after one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// A message is longer than the limit.
    #[error("a WebSocket message is too long")]
    TooLarge,
    /// Something that no client may send.
    #[error("{0}")]
    Malformed(&'static str),
}

/// See the module.
#[derive(Debug)]
pub struct Reader {
    limit: usize,
    head: [u8; HEAD_BYTES],
    /// Bytes of `head` that are there.
    filled: usize,
    /// The frame whose payload is coming.
    frame: Option<Frame>,
    /// The kind of the data message that is coming.
    kind: Option<Opcode>,
    data: Vec<u8>,
    control: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    /// `None` if it goes on with a message.
    opcode: Option<Opcode>,
    is_last: bool,
    mask: [u8; 4],
    /// Bytes that have not come.
    left: usize,
}

impl Reader {
    /// A reader of messages of at most `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            head: [0; HEAD_BYTES],
            filled: 0,
            frame: None,
            kind: None,
            data: Vec::new(),
            control: Vec::new(),
        }
    }

    /// Takes bytes off the front up to the end of the next message; `None` when all are taken.
    ///
    /// # Errors
    /// What follows cannot be read.
    pub fn read(&mut self, bytes: &mut &[u8]) -> Result<Option<Message>, Error> {
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.read_head(bytes)? {
                    Some(frame) => frame,
                    None => return Ok(None),
                },
            };
            let Some(frame) = self.read_payload(frame, bytes) else { return Ok(None) };
            if let Some(message) = self.finish(frame)? {
                return Ok(Some(message));
            }
        }
    }

    fn read_head(&mut self, bytes: &mut &[u8]) -> Result<Option<Frame>, Error> {
        loop {
            let wanted = match self.filled {
                0 | 1 => 2,
                _ if self.head[1] & 0x80 == 0 => return Err(Error::Malformed("a frame without a mask")),
                _ => match self.head[1] & 0x7f {
                    126 => 8,
                    127 => 14,
                    _ => 6,
                },
            };
            if self.filled == wanted {
                break;
            }
            let count = bytes.len().min(wanted - self.filled);
            if count == 0 {
                return Ok(None);
            }
            self.head[self.filled..self.filled + count].copy_from_slice(&bytes[..count]);
            self.filled += count;
            *bytes = &bytes[count..];
        }
        let [first, second, rest @ ..] = &self.head;
        let length = match second & 0x7f {
            126 => u64::from(u16::from_be_bytes([rest[0], rest[1]])),
            127 => {
                u64::from_be_bytes([rest[0], rest[1], rest[2], rest[3], rest[4], rest[5], rest[6], rest[7]])
            }
            short => u64::from(short),
        };
        let mask = &self.head[self.filled - 4..self.filled];
        let mask = [mask[0], mask[1], mask[2], mask[3]];
        let is_last = first & 0x80 != 0;
        if first & 0x70 != 0 {
            return Err(Error::Malformed("a frame of an extension that was not agreed on"));
        }
        let opcode = match first & 0x0f {
            0 => None,
            1 => Some(Opcode::Text),
            2 => Some(Opcode::Binary),
            8 => Some(Opcode::Close),
            9 => Some(Opcode::Ping),
            10 => Some(Opcode::Pong),
            _ => return Err(Error::Malformed("a frame of unknown kind")),
        };
        let held = match opcode {
            Some(Opcode::Close | Opcode::Ping | Opcode::Pong) => {
                if !is_last || length > CONTROL_BYTES as u64 {
                    return Err(Error::Malformed("a control frame that is long or not whole"));
                }
                0
            }
            _ if opcode.is_none() != self.kind.is_some() => {
                return Err(Error::Malformed("a fragment out of order"));
            }
            _ => {
                self.kind = self.kind.or(opcode);
                self.data.len()
            }
        };
        let left = usize::try_from(length).ok().filter(|length| *length <= self.limit.saturating_sub(held));
        self.filled = 0;
        Ok(Some(Frame { opcode, is_last, mask, left: left.ok_or(Error::TooLarge)? }))
    }

    /// Returns the frame if all of it is there.
    fn read_payload(&mut self, mut frame: Frame, bytes: &mut &[u8]) -> Option<Frame> {
        let (part, rest) = bytes.split_at(frame.left.min(bytes.len()));
        *bytes = rest;
        let into = if frame.is_control() { &mut self.control } else { &mut self.data };
        let start = into.len();
        into.extend_from_slice(part);
        unmask(&mut into[start..], frame.mask);
        frame.mask.rotate_left(part.len() % 4);
        frame.left -= part.len();
        self.frame = (frame.left > 0).then_some(frame);
        (frame.left == 0).then_some(frame)
    }

    fn finish(&mut self, frame: Frame) -> Result<Option<Message>, Error> {
        let message = match frame.opcode {
            Some(Opcode::Pong) => {
                self.control.clear();
                Message::Pong
            }
            Some(Opcode::Ping) => Message::Ping(std::mem::take(&mut self.control).into()),
            Some(Opcode::Close) => match &*std::mem::take(&mut self.control) {
                [] => Message::Close(None),
                [_] => return Err(Error::Malformed("half a code")),
                [high, low, ..] => Message::Close(Some(u16::from_be_bytes([*high, *low]))),
            },
            _ if !frame.is_last => return Ok(None),
            _ => {
                let data = std::mem::take(&mut self.data);
                if self.kind.take() == Some(Opcode::Text) {
                    let text = String::from_utf8(data);
                    Message::Text(text.map_err(|_| Error::Malformed("a text that is not UTF-8"))?)
                } else {
                    Message::Binary(data.into())
                }
            }
        };
        Ok(Some(message))
    }
}

impl Frame {
    fn is_control(&self) -> bool {
        matches!(self.opcode, Some(Opcode::Close | Opcode::Ping | Opcode::Pong))
    }
}

fn unmask(bytes: &mut [u8], mask: [u8; 4]) {
    let (words, rest) = bytes.as_chunks_mut::<4>();
    for word in words {
        *word = (u32::from_ne_bytes(*word) ^ u32::from_ne_bytes(mask)).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(mask) {
        *byte ^= key;
    }
}

/// The head of an unfragmented frame of a server, which has no mask.
pub fn head(opcode: Opcode, length: usize, head: &mut [u8; 10]) -> &[u8] {
    head[0] = 0x80 | opcode as u8;
    if length < 126 {
        head[1] = length as u8;
        &head[..2]
    } else if let Ok(length) = u16::try_from(length) {
        head[1] = 126;
        head[2..4].copy_from_slice(&length.to_be_bytes());
        &head[..4]
    } else {
        head[1] = 127;
        head[2..].copy_from_slice(&(length as u64).to_be_bytes());
        &head[..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MASK: [u8; 4] = [1, 20, 30, 200];

    fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = [0; 10];
        let length = head(Opcode::Binary, payload.len(), &mut frame).len();
        let mut frame = frame[..length].to_vec();
        frame[0] = first;
        frame[1] |= 0x80;
        frame.extend(MASK);
        frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, key)| byte ^ key));
        frame
    }

    /// Reads the bytes in pieces of this length.
    fn read(bytes: &[u8], piece: usize) -> Result<Vec<Message>, Error> {
        let (mut reader, mut messages) = (Reader::new(70_000), Vec::new());
        for mut piece in bytes.chunks(piece) {
            while let Some(message) = reader.read(&mut piece)? {
                messages.push(message);
            }
            assert!(piece.is_empty());
        }
        Ok(messages)
    }

    #[test]
    fn messages_of_every_length_are_read_in_pieces_of_any() {
        let payloads = [0, 1, 125, 126, 65_535, 65_536]
            .map(|length: usize| (0..length).map(|place| (place % 251) as u8).collect::<Vec<_>>());
        let bytes: Vec<_> = payloads.iter().flat_map(|payload| frame(0x82, payload)).collect();
        let expected: Vec<_> =
            payloads.iter().map(|payload| Message::Binary(payload.clone().into())).collect();
        for piece in [1, 2, 3, 5, 7, 64, 1000, bytes.len()] {
            assert_eq!(read(&bytes, piece).as_deref(), Ok(&expected[..]), "in pieces of {piece}");
        }
    }

    #[test]
    fn fragments_become_one_message_and_control_frames_come_between_them() {
        let parts = [
            frame(0x01, "gr\u{fc}".as_bytes().split_at(3).0),
            frame(0x89, b"there?"),
            frame(0x00, "gr\u{fc}\u{df}".as_bytes().split_at(3).1),
            frame(0x8a, b"nobody asked"),
            frame(0x80, b"e"),
            frame(0x88, &[0x03, 0xe9, b'b', b'y', b'e']),
        ];
        let expected = [
            Message::Ping(Bytes::from_static(b"there?")),
            Message::Pong,
            Message::Text("gr\u{fc}\u{df}e".to_owned()),
            Message::Close(Some(1001)),
        ];
        for piece in [1, 4, 1000] {
            assert_eq!(read(&parts.concat(), piece).as_deref(), Ok(&expected[..]));
        }
        assert_eq!(read(&frame(0x88, b""), 9).as_deref(), Ok(&[Message::Close(None)][..]));
    }

    #[test]
    fn what_no_client_may_send_is_an_error() {
        let malformed = [
            ("no mask", vec![0x82, 0]),
            ("an extension", frame(0xc2, b"")),
            ("an unknown kind", frame(0x83, b"")),
            ("an unknown control frame", frame(0x8b, b"")),
            ("a control frame in fragments", frame(0x09, b"")),
            ("a long control frame", frame(0x89, &[0; 126])),
            ("half a code", frame(0x88, &[3])),
            ("a fragment of nothing", frame(0x80, b"")),
            ("a message within a message", [frame(0x01, b""), frame(0x82, b"")].concat()),
            ("a text that is none", frame(0x81, &[0xff])),
        ];
        for (what, bytes) in malformed {
            assert!(matches!(read(&bytes, 1000), Err(Error::Malformed(_))), "{what}");
        }
    }

    #[test]
    fn a_message_beyond_the_limit_is_refused_by_its_head_alone() {
        assert_eq!(read(&frame(0x82, &[0; 70_000]), 100_000).map(|all| all.len()), Ok(1));
        assert_eq!(read(&frame(0x82, &[0; 70_001])[..14], 100), Err(Error::TooLarge));
        let huge = [&[0x82, 0xff][..], &[0xff; 8], &MASK].concat();
        assert_eq!(read(&huge, 100), Err(Error::TooLarge));
        let fragments = [frame(0x02, &[0; 69_999]), frame(0x00, b"a"), frame(0x80, b"b")].concat();
        assert_eq!(read(&fragments, 1000), Err(Error::TooLarge));
    }

    #[test]
    fn an_announced_length_takes_no_memory() {
        let mut reader = Reader::new(1 << 30);
        let head = &frame(0x82, &[0; 66_000])[..14];
        assert_eq!(reader.read(&mut &head[..]), Ok(None));
        assert_eq!(reader.data.capacity(), 0);
    }

    #[test]
    fn a_head_has_the_shortest_form_for_its_length() {
        let head = |length| head(Opcode::Binary, length, &mut [0; 10]).to_vec();
        assert_eq!(head(125), [0x82, 125]);
        assert_eq!(head(126), [0x82, 126, 0, 126]);
        assert_eq!(head(65_535), [0x82, 126, 0xff, 0xff]);
        assert_eq!(head(65_536), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
    }
}
