//! The disk that logs are written to: how long it takes to make something durable, and the same disk slowed down to a
//! given time, by a library that is loaded before the C library into an arm (`slow.c`), built here.

use std::{
    fs::File,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

/// Appends that are timed.
const APPENDS: usize = 200;
const APPEND_BYTES: usize = 4096;
/// What the slowed disk takes at least.
pub(crate) const SLOWED: Duration = Duration::from_millis(4);

/// Times of `fdatasync` after appends of 4 KiB to a file in this folder, in order.
pub(crate) fn syncs(folder: &Path) -> anyhow::Result<Vec<Duration>> {
    let path = folder.join("syncs");
    let mut file = File::create(&path)?;
    let mut times = Vec::with_capacity(APPENDS);
    for _ in 0..APPENDS {
        file.write_all(&[0x5a; APPEND_BYTES])?;
        let start = Instant::now();
        file.sync_data()?;
        times.push(start.elapsed());
    }
    std::fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times)
}

/// The library that makes a disk take [`SLOWED`] at least.
pub(crate) fn slowed(folder: &Path) -> anyhow::Result<PathBuf> {
    let (source, library) = (folder.join("slow.c"), folder.join("slow.so"));
    std::fs::write(&source, include_str!("slow.c"))?;
    let built = Command::new("cc")
        .args(["-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"])
        .arg(format!("-DSLOW_DISK_US={}", SLOWED.as_micros()))
        .arg("-o")
        .args([&library, &source])
        .arg("-ldl")
        .status()
        .context("there is no C compiler")?;
    ensure!(built.success(), "slow.c does not compile");
    Ok(library)
}
