//! Where coturn's clients and peers are, seen from the server.
//!
//! As root they get a network namespace at the other end of a veth pair, and addresses that are not the machine's own, of
//! both families. Otherwise they are on loopback, where there is no IPv6 address outside.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, UdpSocket},
    process::{Command, id},
};

/// What the names of namespaces begin with.
const PREFIX: &str = "syt";

/// Addresses by family, IPv4 first.
pub(crate) struct Ground {
    /// Where the server is.
    pub(crate) server: [IpAddr; 2],
    /// Where the others are; `None` where no address is another than the server's.
    pub(crate) outside: [Option<IpAddr>; 2],
    namespace: Option<String>,
}

impl Ground {
    pub(crate) fn new() -> Self {
        if !is_root() {
            eprintln!("not root, so there is no network namespace: IPv6 peers outside are left out");
            return Self {
                server: [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()],
                outside: [Some(Ipv4Addr::new(127, 0, 0, 9).into()), None],
                namespace: None,
            };
        }
        remove_leftovers();
        let namespace = format!("{PREFIX}{}", id());
        // 198.18.0.0/15 is for tests of networks, of which others have taken the lower half.
        let v4 = |last| IpAddr::from([198, 19, (id() % 250) as u8, last]);
        let v6 = |last| IpAddr::from([0xfd73, 0x7974, (id() >> 16) as u16, id() as u16, 0, 0, 0, last]);
        let ground = Self {
            server: [v4(1), v6(1)],
            outside: [Some(v4(2)), Some(v6(2))],
            namespace: Some(namespace.clone()),
        };
        let (here, there) = (format!("{namespace}h"), "eth0");
        ip(&["netns", "add", &namespace]);
        ip(&["-n", &namespace, "link", "set", "lo", "up"]);
        ip(&["link", "add", &here, "type", "veth", "peer", "name", there, "netns", &namespace]);
        for family in 0..2 {
            let bits = ["30", "64"][family];
            let outside = ground.outside[family].expect("both families");
            // Without the second that duplicates are looked for.
            let nodad: &[&str] = if family == 1 { &["nodad"] } else { &[] };
            let with_bits = [ground.server[family], outside].map(|address| format!("{address}/{bits}"));
            ip(&[&["addr", "add", &with_bits[0], "dev", &here], nodad].concat());
            ip(&[&["-n", &namespace, "addr", "add", &with_bits[1], "dev", there], nodad].concat());
        }
        ip(&["link", "set", &here, "up"]);
        ip(&["-n", &namespace, "link", "set", there, "up"]);
        ground
    }

    /// Whether the clients have one of their own, in which every port is free.
    pub(crate) fn has_namespace(&self) -> bool {
        self.namespace.is_some()
    }

    /// To run a program where the clients are.
    pub(crate) fn command(&self, program: &str) -> Command {
        match &self.namespace {
            None => Command::new(program),
            Some(namespace) => {
                let mut command = Command::new("ip");
                command.args(["netns", "exec", namespace, program]);
                command
            }
        }
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        if let Some(namespace) = &self.namespace {
            // The pair goes with it.
            let _ = Command::new("ip").args(["netns", "del", namespace]).status();
        }
    }
}

fn is_root() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.starts_with("Uid:\t0\t")))
}

/// Namespaces of runs that were killed.
fn remove_leftovers() {
    let Ok(entries) = fs::read_dir("/run/netns") else { return };
    for name in entries.flatten().filter_map(|entry| entry.file_name().into_string().ok()) {
        let process = name.strip_prefix(PREFIX).and_then(|number| number.parse::<u32>().ok());
        if process.is_some_and(|process| !fs::exists(format!("/proc/{process}")).unwrap_or(true)) {
            ip(&["netns", "del", &name]);
        }
    }
}

fn ip(arguments: &[&str]) {
    let output = Command::new("ip").args(arguments).output().expect("ip, from Debian's package iproute2");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
}

/// A UDP port that nobody has just now, nor the one above.
pub(crate) fn free_ports(ip: IpAddr) -> u16 {
    let pairs = std::iter::repeat_with(|| {
        let lower = UdpSocket::bind((ip, 0)).ok()?.local_addr().ok()?.port();
        UdpSocket::bind((ip, lower.checked_add(1)?)).ok().map(|_| lower)
    });
    pairs.flatten().next().expect("endless")
}
