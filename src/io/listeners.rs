//! TCP listeners: one port, on several addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr},
};

use anyhow::Context as _;
use rustix::io::Errno;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

/// Connections that may wait in the kernel.
const BACKLOG: i32 = 1024;
/// Free ports that are tried where one port has to be free on several addresses.
const TRIES: u32 = 16;

/// A listener, and what it is bound to.
#[derive(Debug)]
pub(super) struct Bound {
    pub(super) listener: TcpListener,
    pub(super) local: SocketAddr,
}

/// Listens on each of these addresses; port 0 takes one that is free on all of them. Where the addresses are nobody's
/// choice but the default, a machine without IPv6 serves IPv4. `purpose` is for the error: what it is for, and by which
/// settings.
pub(super) fn listen(
    ips: &[IpAddr],
    port: u16,
    is_default: bool,
    purpose: &str,
) -> anyhow::Result<Vec<Bound>> {
    let mut tries = TRIES;
    loop {
        tries -= 1;
        match listen_on(ips, port, is_default) {
            Ok(bound) => return Ok(bound),
            Err((_, error)) if port == 0 && tries > 0 && error.kind() == io::ErrorKind::AddrInUse => {}
            Err((address, error)) => {
                return Err(error).with_context(|| format!("cannot listen on TCP {address} for {purpose}"));
            }
        }
    }
}

fn listen_on(ips: &[IpAddr], mut port: u16, is_default: bool) -> Result<Vec<Bound>, (SocketAddr, io::Error)> {
    let mut bound: Vec<Bound> = Vec::new();
    for ip in ips {
        let address = SocketAddr::new(*ip, port);
        match listen_at(address) {
            Ok(listening) => {
                port = listening.local.port();
                bound.push(listening);
            }
            Err(error) if is_default && !bound.is_empty() && is_unknown_family(&error) => {}
            Err(error) => return Err((address, error)),
        }
    }
    Ok(bound)
}

fn listen_at(address: SocketAddr) -> io::Result<Bound> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    let listener = TcpListener::from_std(socket.into())?;
    Ok(Bound { local: listener.local_addr()?, listener })
}

/// Whether the machine has no addresses of this family.
fn is_unknown_family(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::AFNOSUPPORT | Errno::ADDRNOTAVAIL))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[tokio::test]
    async fn a_free_port_is_the_same_on_all_addresses() {
        let ips = [IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2])];
        let bound = listen(&ips, 0, false, "a test").unwrap();
        let locals: Vec<_> = bound.iter().map(|bound| bound.local).collect();
        assert_eq!(locals, ips.map(|ip| SocketAddr::new(ip, locals[0].port())));
    }

    #[tokio::test]
    async fn a_port_that_is_taken_is_named_with_its_purpose() {
        let ips = [IpAddr::from(Ipv4Addr::LOCALHOST)];
        let taken = listen(&ips, 0, false, "a test").unwrap();
        let error = listen(&ips, taken[0].local.port(), true, "TURN (turn.listen.tcp_port)").unwrap_err();
        let expected = format!("cannot listen on TCP {} for TURN (turn.listen.tcp_port)", taken[0].local);
        assert_eq!(error.to_string(), expected);
    }

    #[tokio::test]
    async fn an_address_that_the_machine_has_not_is_an_error_unless_nobody_chose_it() {
        let ips = [Ipv4Addr::LOCALHOST.into(), IpAddr::from(Ipv6Addr::from(0x2001_0db8_u128 << 96))];
        assert!(listen(&ips, 0, false, "a test").is_err());
        let bound = listen(&ips, 0, true, "a test").unwrap();
        assert_eq!(bound.len(), 1);
    }
}
