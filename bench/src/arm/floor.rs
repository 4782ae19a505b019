//! The floor: what the kernel and the cipher take for the same bytes, with no protocol at all.

use std::{
    collections::HashMap,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, Mutex, mpsc},
    time::Duration,
};

use anyhow::Context as _;
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use switchyard::engine::{path::Path, transmit::TransmitQueue};

use super::{Register, Up, hear, say};
use crate::udp::{ReceiveBuffer, Udp};

/// Bytes that a sealed datagram has more than what it carries: the tag. Headers are part of what clients send.
const TAG: usize = 16;
const RECEIVES: usize = 4;

/// Seals every datagram anew for everyone else in the sender's group, and sends them in batches.
pub(super) fn datagrams() -> anyhow::Result<()> {
    let (registrations, registered) = mpsc::channel::<Option<Register>>();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::spawn(move || {
        loop {
            let register = hear::<Register>().ok().flatten();
            let is_last = register.is_none();
            if registrations.send(register).is_err() || is_last || say(&()).is_err() {
                return;
            }
        }
    });
    runtime.block_on(async {
        let udp = Udp::bind()?;
        let mut receive = ReceiveBuffer::new();
        let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).ok().context("AES-GCM")?;
        let key = LessSafeKey::new(key);
        let mut group_of = HashMap::new();
        let mut groups: HashMap<usize, Vec<SocketAddr>> = HashMap::new();
        let mut transmits = TransmitQueue::default();
        let mut sealed = Vec::new();
        say(&Up { port: udp.local.port() })?;
        loop {
            let readable = std::future::poll_fn(|cx| udp.poll_readable(cx));
            let _ = tokio::time::timeout(Duration::from_millis(500), readable).await;
            while let Ok(register) = registered.try_recv() {
                let Some(Register { group, port }) = register else {
                    return Ok(());
                };
                let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
                group_of.insert(address, group);
                groups.entry(group).or_default().push(address);
            }
            let mut batch: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
            for _ in 0..RECEIVES {
                let count = udp.receive(&mut receive, |from, datagram| {
                    batch.push((from, datagram.to_vec()));
                });
                if count == 0 {
                    break;
                }
            }
            // Opening costs what sealing does, and needs no key that both ends share.
            for (_, datagram) in &mut batch {
                seal(&key, datagram);
            }
            let Some(group) = batch.first().and_then(|(from, _)| group_of.get(from)) else {
                continue;
            };
            for &to in &groups[group] {
                for (from, datagram) in &batch {
                    if *from != to {
                        sealed.clear();
                        sealed.extend_from_slice(datagram);
                        seal(&key, &mut sealed);
                        transmits.push(Path::Udp(to), None, &sealed);
                    }
                }
            }
            for transmit in transmits.iter() {
                if let Path::Udp(to) = transmit.way.path {
                    let _ = udp.send(to, transmit.segment, transmit.contents);
                }
            }
            transmits.clear();
        }
    })
}

/// Seals a datagram in place; its last bytes become the tag.
fn seal(key: &LessSafeKey, datagram: &mut [u8]) {
    let (contents, last) = datagram.split_at_mut(datagram.len().saturating_sub(TAG));
    let nonce = Nonce::assume_unique_for_key([0; 12]);
    if let Ok(tag) = key.seal_in_place_separate_tag(nonce, Aad::empty(), contents) {
        last.copy_from_slice(&tag.as_ref()[..last.len()]);
    }
}

/// Writes every message once to each other connection of its group. A message is a length of four bytes and as many
/// bytes more; a connection begins with the number of its group.
pub(super) fn writes() -> anyhow::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    say(&Up { port: listener.local_addr()?.port() })?;
    let groups: Arc<Mutex<HashMap<u8, Vec<TcpStream>>>> = Arc::default();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            if let Err(error) = accept(stream, &groups) {
                eprintln!("the floor: {error}");
            }
        }
    });
    while hear::<()>()?.is_some() {}
    Ok(())
}

/// The first connection of a group is the sender's; it is served by a thread of its own.
fn accept(mut stream: TcpStream, groups: &Arc<Mutex<HashMap<u8, Vec<TcpStream>>>>) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut group = [0];
    stream.read_exact(&mut group)?;
    let mut all = groups.lock().ok().context("a thread has panicked")?;
    let Some(receivers) = all.get_mut(&group[0]) else {
        all.insert(group[0], Vec::new());
        let groups = groups.clone();
        std::thread::spawn(move || forward(stream, group[0], &groups));
        return Ok(());
    };
    receivers.push(stream);
    Ok(())
}

fn forward(mut sender: TcpStream, group: u8, groups: &Mutex<HashMap<u8, Vec<TcpStream>>>) -> Option<()> {
    let mut buffer = vec![0; 1 << 20];
    let mut filled = 0;
    loop {
        let count = sender.read(&mut buffer[filled..]).ok().filter(|count| *count > 0)?;
        filled += count;
        let mut start = 0;
        let mut all = groups.lock().ok()?;
        let receivers = all.get_mut(&group)?;
        while let Some(length) = buffer[start..filled].first_chunk::<4>() {
            let end = start + 4 + u32::from_be_bytes(*length) as usize;
            if end > filled {
                break;
            }
            for receiver in receivers.iter_mut() {
                receiver.write_all(&buffer[start..end]).ok()?;
            }
            start = end;
        }
        buffer.copy_within(start..filled, 0);
        filled -= start;
    }
}
