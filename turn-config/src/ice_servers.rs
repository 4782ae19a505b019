//! What a browser is told: the `iceServers` of the W3C's
//! [RTCConfiguration](https://www.w3.org/TR/webrtc/#rtciceserver-dictionary), with a credential for one user.

use std::net::IpAddr;

use serde::Serialize;

use crate::{
    credentials::{Credential, Keyring},
    settings::{Mode, Turn},
};

/// One entry of `iceServers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct IceServer {
    /// Where it is, several ways to one server.
    pub urls: Vec<String>,
    /// `username`, for TURN.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// `credential`, for TURN: the password.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
}

/// The list for `user`, as [`crate::credentials::user_of_tenant`] names them, at `unix`, the Unix time in seconds. Empty
/// when TURN is off, or when the server has neither a name nor an address to tell.
///
/// STUN comes first and TURN by UDP, TCP and TLS in one entry: a browser that has got one of them tries the next only
/// where it must, and a longer list costs it time.
#[must_use]
pub fn ice_servers(turn: &Turn, keyring: &Keyring, user: &str, unix: u64) -> Vec<IceServer> {
    let (stun, relays) = match turn.mode {
        Mode::Off => return Vec::new(),
        Mode::External => {
            turn.external.urls.iter().cloned().partition(|url: &String| url.starts_with("stun"))
        }
        Mode::Embedded => match host(turn) {
            Some(host) => urls(turn, &host),
            None => return Vec::new(),
        },
    };
    let mut servers = Vec::new();
    if !stun.is_empty() {
        servers.push(IceServer { urls: stun, username: None, credential: None });
    }
    if !relays.is_empty() {
        let Credential { username, password } = credential(turn, keyring, user, unix);
        servers.push(IceServer { urls: relays, username: Some(username), credential: Some(password) });
    }
    servers
}

fn credential(turn: &Turn, keyring: &Keyring, user: &str, unix: u64) -> Credential {
    match (&turn.mode, &turn.external.username, &turn.external.password) {
        (Mode::External, Some(username), Some(password)) => {
            Credential { username: username.clone(), password: password.as_str().to_owned() }
        }
        _ => keyring.issue(user, unix, turn.credentials.ttl),
    }
}

fn urls(turn: &Turn, host: &str) -> (Vec<String>, Vec<String>) {
    let listen = &turn.listen;
    let (mut stun, mut relays) = (Vec::new(), Vec::new());
    if listen.udp_enabled {
        stun.push(format!("stun:{host}:{}", listen.udp_port));
        relays.push(format!("turn:{host}:{}?transport=udp", listen.udp_port));
    }
    if listen.tcp_enabled {
        relays.push(format!("turn:{host}:{}?transport=tcp", listen.tcp_port));
    }
    if listen.tls_enabled {
        relays.push(format!("turns:{host}:{}?transport=tcp", listen.tls_port));
    }
    (stun, relays)
}

fn host(turn: &Turn) -> Option<String> {
    let (v4, v6) = turn.relay.advertised();
    let address = v4.map(IpAddr::from).or(v6.map(IpAddr::from));
    let host = turn.host.clone().or_else(|| address.map(|address| address.to_string()))?;
    let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
    Some(if is_v6 { format!("[{host}]") } else { host })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::settings::Secret;

    const NOW: u64 = 1_700_000_000;

    fn list(turn: &Turn) -> String {
        let keyring = Keyring::new(&Secret::new("secret"), None, NOW, Duration::ZERO);
        serde_json::to_string(&ice_servers(turn, &keyring, "alice", NOW - 3600)).unwrap()
    }

    #[test]
    fn a_browser_is_told_every_way_that_is_open() {
        let mut turn = Turn { host: Some("turn.example.com".to_owned()), ..Turn::default() };
        assert_eq!(
            list(&turn),
            concat!(
                r#"[{"urls":["stun:turn.example.com:3478"]},"#,
                r#"{"urls":["turn:turn.example.com:3478?transport=udp","turn:turn.example.com:3478?transport=tcp","#,
                r#""turns:turn.example.com:5349?transport=tcp"],"#,
                r#""username":"1700000000:alice","credential":"d8soP47RbdIKLDUOpnJPVQyq5Ts="}]"#
            )
        );
        (turn.listen.udp_enabled, turn.listen.tcp_enabled, turn.listen.tls_port) = (false, false, 443);
        assert!(
            list(&turn).starts_with(r#"[{"urls":["turns:turn.example.com:443?transport=tcp"],"username""#)
        );
    }

    #[test]
    fn without_a_name_it_is_the_advertised_address() {
        let mut turn = Turn::default();
        assert_eq!(list(&turn), "[]", "nothing to tell");
        turn.relay.bind_v6 = Some("2001:db8::1".parse().unwrap());
        assert!(list(&turn).contains(r#""stun:[2001:db8::1]:3478""#));
        turn.relay.bind_v4 = Some("10.0.0.1".parse().unwrap());
        turn.relay.advertise_v4 = Some("192.0.2.1".parse().unwrap());
        assert!(list(&turn).contains(r#""stun:192.0.2.1:3478""#));
    }

    #[test]
    fn an_external_server_is_named_with_its_credential() {
        let mut turn = Turn { mode: Mode::External, ..Turn::default() };
        turn.external.urls = vec!["turn:turn.example.com".to_owned(), "stun:stun.example.com".to_owned()];
        let made = list(&turn);
        assert!(
            made.starts_with(r#"[{"urls":["stun:stun.example.com"]},{"urls":["turn:turn.example.com"],"#)
        );
        assert!(made.contains(r#""username":"1700000000:alice""#));
        turn.external.username = Some("fixed".to_owned());
        turn.external.password = Some(Secret::new("password"));
        assert!(list(&turn).contains(r#""username":"fixed","credential":"password""#));
        turn.mode = Mode::Off;
        assert_eq!(list(&turn), "[]");
    }
}
