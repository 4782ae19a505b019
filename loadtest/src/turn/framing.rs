//! Messages in a TCP or TLS stream: STUN tells its own length (RFC 8489 §5), channel data too, and is padded to four bytes
//! there (RFC 8656 §12.5).

use bytes::{Bytes, BytesMut};

/// A STUN header: type, length, cookie, transaction.
const STUN_HEADER: usize = 20;
/// A channel data header: number, length.
const CHANNEL_HEADER: usize = 4;

/// What a stream carried that is neither.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the server's stream has a byte {0:#04x} where a STUN message or channel data begins")]
pub struct NotTurn(u8);

/// Takes the next whole message off the front, without its padding; `None` until there is one.
pub fn next_message(stream: &mut BytesMut) -> Result<Option<Bytes>, NotTurn> {
    let Some(&[first, _, high, low]) = stream.first_chunk() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    let (length, padding) = match first >> 6 {
        0 => (STUN_HEADER + length, 0),
        1 => (CHANNEL_HEADER + length, padding(length)),
        _ => return Err(NotTurn(first)),
    };
    if stream.len() < length + padding {
        return Ok(None);
    }
    let message = stream.split_to(length).freeze();
    drop(stream.split_to(padding));
    Ok(Some(message))
}

/// Appends a message as a stream carries it.
pub fn put_message(stream: &mut BytesMut, message: &[u8]) {
    stream.extend_from_slice(message);
    // A STUN message's length is a multiple of four by itself.
    stream.resize(stream.len() + padding(message.len()), 0);
}

fn padding(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stun(body: usize) -> Vec<u8> {
        let mut message = vec![0; STUN_HEADER + body];
        message[2..4].copy_from_slice(&(body as u16).to_be_bytes());
        message
    }

    fn channel(body: usize) -> Vec<u8> {
        let mut message = vec![7; CHANNEL_HEADER + body];
        message[..4].copy_from_slice(&[0x40, 1, 0, body as u8]);
        message
    }

    #[test]
    fn messages_come_out_of_a_stream_as_they_went_in_however_it_is_cut() {
        let messages = [stun(0), channel(5), channel(8), stun(12), channel(0), channel(3)];
        let mut whole = BytesMut::new();
        messages.iter().for_each(|message| put_message(&mut whole, message));
        for piece in 1..=whole.len() {
            let (mut stream, mut found) = (BytesMut::new(), Vec::new());
            for bytes in whole.chunks(piece) {
                stream.extend_from_slice(bytes);
                while let Some(message) = next_message(&mut stream).unwrap() {
                    found.push(message.to_vec());
                }
            }
            assert_eq!(found, messages, "in pieces of {piece}");
            assert!(stream.is_empty());
        }
    }

    #[test]
    fn what_is_neither_is_told() {
        assert_eq!(next_message(&mut BytesMut::from(&[0x80, 0, 0, 0][..])), Err(NotTurn(0x80)));
    }
}
