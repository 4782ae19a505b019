//! A WebSocket connection as the server reads it. The first byte says in pieces of which length it comes.

use switchyard::io::websocket::{Error, Message, Reader};

const LIMIT: usize = 1000;

/// Pieces of any length make the same messages, none is beyond the limit, and nothing is left over but at an error.
pub fn target(data: &[u8]) {
    let Some((piece, bytes)) = data.split_first() else { return };
    let whole = read(bytes, bytes.len().max(1));
    assert_eq!(read(bytes, usize::from(*piece).max(1)), whole);
    let (messages, _) = whole;
    let read: usize = messages.iter().map(length).sum();
    assert!(read <= bytes.len() && messages.iter().all(|message| length(message) <= LIMIT));
}

fn read(bytes: &[u8], piece: usize) -> (Vec<Message>, Option<Error>) {
    let (mut reader, mut messages) = (Reader::new(LIMIT), Vec::new());
    for mut piece in bytes.chunks(piece) {
        loop {
            match reader.read(&mut piece) {
                Ok(Some(message)) => messages.push(message),
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
            }
        }
        assert!(piece.is_empty());
    }
    (messages, None)
}

fn length(message: &Message) -> usize {
    match message {
        Message::Text(text) => text.len(),
        Message::Binary(bytes) | Message::Ping(bytes) => bytes.len(),
        Message::Pong | Message::Close(_) => 0,
    }
}
