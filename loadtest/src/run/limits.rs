//! File descriptors: each user needs one for its WebSocket and one for each mapping of its NAT, a pair two sockets.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Beside users: the runtimes, the log, the server's process.
const OURS: u64 = 128;
/// A WebSocket, one that is being replaced, and mappings to the server's addresses.
const EACH: u64 = 4;

/// Makes room for so many users or pairs at once, `whom`, or says what would.
pub(crate) fn raise(whom: &str, count: u64) -> Result<(), String> {
    let wanted = OURS + EACH * count;
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= wanted) {
        return Ok(());
    }
    // Beyond the hard limit only root may go, and only as far as the kernel's fs.nr_open.
    let hard = maximum.map(|maximum| maximum.max(wanted));
    let attempts =
        [Rlimit { current: Some(wanted), maximum }, Rlimit { current: Some(wanted), maximum: hard }];
    if attempts.into_iter().any(|limit| setrlimit(Resource::Nofile, limit).is_ok()) {
        return Ok(());
    }
    let have = current.unwrap_or_default();
    Err(format!(
        "{count} {whom} need about {wanted} file descriptors, {have} are allowed; run `ulimit -n {wanted}` first"
    ))
}
