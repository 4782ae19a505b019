//! STUN and TURN of the real server, on real sockets (NAT1, NAT2): coturn's own clients lose nothing through it, and those
//! who mean it ill get nowhere and harm nobody.
//!
//! The server runs in this process as [`switchyard::start`] starts it: what is tried here is the shell, sockets and doors and
//! the thread between them. What it decides has tests without sockets, in `turn-config/tests/turn`.

#![cfg(test)]

mod attacks;
mod bystander;
mod client;
mod coturn;
mod floods;
mod ground;
mod relay;

use std::sync::{Mutex, MutexGuard, PoisonError};

/// One test at a time: some measure memory and time, which are those of the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}
