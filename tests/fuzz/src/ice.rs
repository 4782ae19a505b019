//! A client that may sign: authentic checks in any order over any paths, with ICE restarts between them.
//!
//! The input is a list of steps of four bytes: flags, path, milliseconds to wait (by ten), priority.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::{Duration, Instant},
};

use switchyard::engine::{
    ice::{Credentials, IceLite, MAX_PATHS, Verdict},
    path::Path,
    stun::{Class, Key, attribute, binding},
};

use super::stun::{local, remote};

const NOMINATE: u8 = 1;
const RESTART: u8 = 2;
const USE_PENDING: u8 = 4;
const FORGET: u8 = 8;
const CONTROLLED: u8 = 16;
const REPEAT: u8 = 32;

/// The current path is always a validated one, and the paths are bounded.
pub fn target(data: &[u8]) {
    let mut ice = IceLite::new(&local(), &remote());
    let mut now = Instant::now();
    let (mut in_use, mut pending) = (local(), None::<Credentials>);
    let mut transaction = 0_u32;
    for step in data.chunks_exact(4) {
        let [flags, path, wait, priority] = [step[0], step[1], step[2], step[3]];
        now += Duration::from_millis(10 * u64::from(wait));
        let address = SocketAddr::from((Ipv4Addr::new(192, 0, 2, path), 9));
        let path = Path::Udp(address);
        if flags & FORGET != 0 {
            ice.forget(&path);
        }
        if flags & RESTART != 0 {
            let fresh = Credentials {
                ufrag: format!("AAB{transaction:06}"),
                pwd: "another password of the server".to_owned(),
            };
            ice.restart(&fresh, &remote());
            pending = Some(fresh);
        }
        let key = pending.as_ref().filter(|_| flags & USE_PENDING != 0).unwrap_or(&in_use).clone();
        if flags & REPEAT == 0 {
            transaction += 1;
        }
        let mut id = [0; 12];
        id[..4].copy_from_slice(&transaction.to_be_bytes());
        let role =
            if flags & CONTROLLED == 0 { attribute::ICE_CONTROLLING } else { attribute::ICE_CONTROLLED };
        let mut request = binding(Class::Request, &id)
            .attribute(attribute::USERNAME, format!("{}:{}", key.ufrag, remote().ufrag).as_bytes())
            .attribute(attribute::PRIORITY, &[priority, 0, 0, 255])
            .attribute(role, &[0; 8]);
        if flags & NOMINATE != 0 {
            request = request.attribute(attribute::USE_CANDIDATE, &[]);
        }
        match ice.handle(now, path, address, &Key::short_term(&key.pwd).seal(request)) {
            Verdict::Accepted(accepted) => {
                assert!(ice.is_validated(&path) && ice.last_seen() == Some(now));
                assert!(!accepted.switched || ice.current() == Some(path));
                if accepted.restarted {
                    in_use = pending.take().expect("a restart that was begun");
                }
            }
            Verdict::Refused { .. } => assert!(flags & CONTROLLED != 0),
            Verdict::Ignored(_) => {}
        }
        assert!(ice.current().is_none_or(|current| ice.is_validated(&current)));
        let validated = (0..=u8::MAX)
            .filter(|last| ice.is_validated(&Path::Udp((Ipv4Addr::new(192, 0, 2, *last), 9).into())))
            .count();
        assert!(validated <= MAX_PATHS);
    }
}
