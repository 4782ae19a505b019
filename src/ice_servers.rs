//! What a user's clients are told of STUN and TURN: the servers, with a credential that is made for the user.
//!
//! Pure: the settings come with the ports and addresses that were taken, and the time is an argument. Sessions are told by
//! their shards, the application's backend by its door.

use std::time::Duration;

use switchyard_signaling::message::{Ice, IceServer};
use switchyard_turn_config::{
    credentials::{Keyring, user_of_tenant},
    ice_servers::ice_servers,
    settings::{Mode, Secret, Turn},
};

/// Makes the lists.
#[derive(Debug)]
pub struct IceServers {
    turn: Turn,
    keyring: Keyring,
}

impl IceServers {
    /// Makes them of these settings, in which no address and no port is left open any more, at `unix`, the Unix time in
    /// seconds. `None` where there is no server to name.
    #[must_use]
    pub fn new(turn: Turn, unix: u64) -> Option<Self> {
        let credentials = &turn.credentials;
        let secret = match (turn.mode, &credentials.secret) {
            (Mode::Off, _) | (Mode::Embedded, None) => return None,
            (_, Some(secret)) => secret.clone(),
            // Its settings are refused unless it does without: it has a password of its own, or is for STUN alone.
            (Mode::External, None) => Secret::new(""),
        };
        let previous = credentials.previous_secret.as_ref();
        let keyring = Keyring::new(&secret, previous, unix, credentials.overlap);
        let is_empty = ice_servers(&turn, &keyring, "", unix).is_empty();
        (!is_empty).then_some(Self { turn, keyring })
    }

    /// How long a credential is good for.
    #[must_use]
    pub fn ttl(&self) -> Duration {
        self.turn.credentials.ttl
    }

    /// For a user of a tenant, at `unix`, the Unix time in seconds.
    #[must_use]
    pub fn of_user(&self, tenant: &str, user: &str, unix: u64) -> Ice {
        let servers = ice_servers(&self.turn, &self.keyring, &user_of_tenant(tenant, user), unix);
        let servers = servers.into_iter().map(|server| IceServer {
            urls: server.urls,
            username: server.username,
            credential: server.credential,
        });
        Ice { ice_servers: servers.collect(), ice_ttl_ms: self.ttl().as_millis() as u64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn embedded() -> Turn {
        let mut turn = Turn { host: Some("turn.example.com".to_owned()), ..Turn::default() };
        turn.credentials.secret = Some(Secret::new("a secret of twenty characters and more"));
        turn
    }

    #[test]
    fn a_credential_is_made_for_the_user_of_the_tenant() {
        let servers = IceServers::new(embedded(), NOW).unwrap();
        let Ice { ice_servers, ice_ttl_ms } = servers.of_user("a:b", "ada", NOW);
        assert_eq!(ice_ttl_ms, 3_600_000);
        let [stun, turn] = &ice_servers[..] else { panic!("{ice_servers:?}") };
        assert_eq!((stun.urls.len(), &stun.username), (1, &None));
        assert_eq!((turn.urls.len(), turn.username.as_deref()), (3, Some("1800003600:a%3Ab:ada")));
        let (username, password) = (turn.username.as_ref().unwrap(), turn.credential.as_ref().unwrap());
        assert_eq!(servers.keyring.verify(username, password, NOW), Ok(()));
    }

    #[test]
    fn nobody_is_named_where_there_is_nobody() {
        let without = |change: fn(&mut Turn)| {
            let mut turn = embedded();
            change(&mut turn);
            IceServers::new(turn, NOW).is_none()
        };
        assert!(without(|turn| turn.mode = Mode::Off));
        assert!(without(|turn| turn.credentials.secret = None));
        assert!(without(|turn| turn.host = None), "no address");
        assert!(without(|turn| turn.mode = Mode::External), "no address");
        assert!(!without(|_| {}));
    }

    #[test]
    fn an_external_server_with_a_password_of_its_own_needs_no_secret() {
        let mut turn = Turn { mode: Mode::External, ..Turn::default() };
        turn.external.urls = vec!["turn:turn.example.com".to_owned()];
        turn.external.username = Some("ada".to_owned());
        turn.external.password = Some(Secret::new("open sesame"));
        let ice = IceServers::new(turn, NOW).unwrap().of_user("app", "ada", NOW);
        assert_eq!(ice.ice_servers[0].credential.as_deref(), Some("open sesame"));
    }
}
