//! Processes as Linux shows them in `/proc`: CPU time, memory, and who listens on a port. Elsewhere there is nothing
//! to see, and everything here answers with nothing.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::Path,
};

/// CPU time and memory of a process at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Seconds of CPU used since it began.
    pub cpu_s: f64,
    /// Resident memory.
    pub rss_bytes: u64,
}

/// What a process has used; nothing once it is gone.
pub fn usage(pid: u32) -> Option<Usage> {
    let folder = format!("/proc/{pid}");
    let stat = fs::read_to_string(format!("{folder}/stat")).ok()?;
    let statm = fs::read_to_string(format!("{folder}/statm")).ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    Some(Usage { cpu_s: cpu_seconds(&stat)?, rss_bytes: pages * rustix::param::page_size() as u64 })
}

/// CPU seconds of each thread of this process, by its id.
pub fn own_threads() -> BTreeMap<u32, f64> {
    let Ok(threads) = fs::read_dir("/proc/self/task") else { return BTreeMap::new() };
    let seconds = |thread: io::Result<fs::DirEntry>| {
        let thread = thread.ok()?;
        let id = thread.file_name().to_str()?.parse().ok()?;
        Some((id, cpu_seconds(&fs::read_to_string(thread.path().join("stat")).ok()?)?))
    };
    threads.filter_map(seconds).collect()
}

/// The process of this machine that listens on this TCP address, if it may be looked at.
pub fn listener(address: SocketAddr) -> Option<u32> {
    let tables = ["/proc/net/tcp", "/proc/net/tcp6"];
    let sockets = tables.iter().filter_map(|table| fs::read_to_string(table).ok());
    let inode = sockets.filter_map(|table| listening_inode(&table, address)).next()?;
    let wanted = format!("socket:[{inode}]");
    let pids = fs::read_dir("/proc").ok()?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    pids.into_iter().find(|pid: &u32| holds(Path::new(&format!("/proc/{pid}/fd")), &wanted))
}

/// Whether the address is one of this machine, so that its listener can be looked for.
pub fn is_own(address: IpAddr) -> bool {
    // Binding asks the kernel; nothing is sent.
    address.is_loopback() || std::net::UdpSocket::bind((address, 0)).is_ok()
}

fn holds(descriptors: &Path, wanted: &str) -> bool {
    let Ok(entries) = fs::read_dir(descriptors) else { return false };
    let target = |entry: io::Result<fs::DirEntry>| fs::read_link(entry.ok()?.path()).ok();
    entries.filter_map(target).any(|target| target.as_os_str() == wanted)
}

/// `utime` and `stime`, fields 14 and 15; the name, field 2, may have spaces and parentheses.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_whitespace().skip(11);
    let ticks: u64 = fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?;
    Some(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// From a table such as `/proc/net/tcp`: the inode of the socket that listens on the address or on all addresses.
fn listening_inode(table: &str, wanted: SocketAddr) -> Option<u64> {
    const LISTEN: &str = "0A";
    table.lines().skip(1).find_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (&local, &state, &inode) = (fields.get(1)?, fields.get(3)?, fields.get(9)?);
        let address = read_address(local)?;
        let fits =
            address.port() == wanted.port() && (address.ip() == wanted.ip() || address.ip().is_unspecified());
        (state == LISTEN && fits).then(|| inode.parse().ok())?
    })
}

/// `0100007F:1EC8`: words of 32 bits in the machine's order.
fn read_address(text: &str) -> Option<SocketAddr> {
    let (ip, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |at: usize| u32::from_str_radix(ip.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    let ip = match ip.len() {
        8 => IpAddr::V4(Ipv4Addr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            IpAddr::V6(Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(ip, port))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn the_listener_of_a_port_is_found_on_its_address_and_on_all() {
        for bind in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0"] {
            let listener = TcpListener::bind(bind).unwrap();
            let mut address = listener.local_addr().unwrap();
            if address.ip().is_unspecified() {
                address.set_ip(Ipv4Addr::LOCALHOST.into());
            }
            assert_eq!(super::listener(address), Some(std::process::id()), "{bind}");
            drop(listener);
            assert_eq!(super::listener(address), None, "{bind}");
        }
    }

    #[test]
    fn a_process_has_used_time_and_memory_and_one_that_is_not_there_has_not() {
        let usage = usage(std::process::id()).unwrap();
        assert!(usage.rss_bytes > 100_000 && usage.cpu_s >= 0.0, "{usage:?}");
        assert_eq!(super::usage(u32::MAX), None);
        assert!(own_threads().len() >= 2, "a test has a thread beside the main one");
    }

    #[test]
    fn a_processs_name_may_look_like_fields() {
        let stat = "7 (a) b 1 2) S 1 1 1 0 -1 4194560 5 0 0 0 150 50 0 0 20 0 1 0 100 0 0";
        let hertz = rustix::param::clock_ticks_per_second() as f64;
        assert_eq!(cpu_seconds(stat), Some(200.0 / hertz));
        assert_eq!(cpu_seconds("nonsense"), None);
    }

    #[test]
    fn loopback_is_our_own_and_an_address_for_documents_is_not() {
        assert!(is_own(Ipv4Addr::LOCALHOST.into()));
        assert!(!is_own(Ipv4Addr::new(203, 0, 113, 7).into()));
    }
}
