//! A hop between clients and a TURN server that loses, doubles and alters datagrams, and says how many.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};

use switchyard_loadtest::turn::wrapping::is_data;

/// What it does to one in ten datagrams with data, each.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Faults {
    pub(crate) lose: bool,
    pub(crate) double: bool,
    pub(crate) alter: bool,
}

/// What it has done.
#[derive(Debug, Default)]
pub(crate) struct Done {
    pub(crate) lost: AtomicU64,
    pub(crate) doubled: AtomicU64,
    pub(crate) altered: AtomicU64,
    /// Datagrams with data that came in indications and not as channel data.
    pub(crate) indications: AtomicU64,
}

pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) done: Arc<Done>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// A byte of the payload, behind what it is wrapped in; the last ones may be padding.
const WITHIN: usize = 60;
/// Between looks at whether it is to end.
const LOOK: Duration = Duration::from_millis(50);

/// One direction of one client.
struct Hop {
    faults: Faults,
    done: Arc<Done>,
    data: u64,
}

impl Hop {
    fn pass(&mut self, datagram: &mut [u8], mut send: impl FnMut(&[u8])) {
        if is_data(datagram) {
            self.data += 1;
            self.done.indications.fetch_add((datagram[0] == 0).into(), Ordering::Relaxed);
            match self.data % 10 {
                1 if self.faults.lose => {
                    self.done.lost.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                3 if self.faults.double => {
                    self.done.doubled.fetch_add(1, Ordering::Relaxed);
                    send(datagram);
                }
                5 if self.faults.alter => {
                    self.done.altered.fetch_add(1, Ordering::Relaxed);
                    datagram[WITHIN] ^= 1;
                }
                _ => {}
            }
        }
        send(datagram);
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    socket.set_read_timeout(Some(LOOK)).unwrap();
    socket
}

impl Proxy {
    pub(crate) fn start(server: SocketAddr, to_server: Faults, to_client: Faults) -> Self {
        let (done, stop) = (Arc::new(Done::default()), Arc::new(AtomicBool::new(false)));
        let down = Arc::new(socket());
        let address = down.local_addr().unwrap();
        let hop = {
            let done = done.clone();
            move |faults| Hop { faults, done: done.clone(), data: 0 }
        };
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut clients: HashMap<SocketAddr, (Arc<UdpSocket>, Hop)> = HashMap::new();
            let mut threads = Vec::new();
            let mut buffer = [0; 2000];
            while !stopped.load(Ordering::Relaxed) {
                let Ok((length, client)) = down.recv_from(&mut buffer) else { continue };
                let (up, to_server) = clients.entry(client).or_insert_with(|| {
                    let up = Arc::new(socket());
                    up.connect(server).unwrap();
                    let back = (up.clone(), down.clone(), stopped.clone(), hop(to_client));
                    threads.push(std::thread::spawn(move || {
                        carry_back(&back.0, &back.1, client, &back.2, back.3)
                    }));
                    (up, hop(to_server))
                });
                to_server.pass(&mut buffer[..length], |datagram| drop(up.send(datagram)));
            }
            threads.into_iter().for_each(|thread| thread.join().unwrap());
        });
        Self { address, done, stop, thread: Some(thread) }
    }
}

fn carry_back(up: &UdpSocket, down: &UdpSocket, client: SocketAddr, stop: &AtomicBool, mut hop: Hop) {
    let mut buffer = [0; 2000];
    while !stop.load(Ordering::Relaxed) {
        let Ok(length) = up.recv(&mut buffer) else { continue };
        hop.pass(&mut buffer[..length], |datagram| drop(down.send_to(datagram, client)));
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.thread.take().is_none_or(|thread| thread.join().is_ok());
        assert!(ended || std::thread::panicking(), "the proxy has failed");
    }
}
