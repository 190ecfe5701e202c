//! Whether standard output was closed when the program was started.
//!
//! The standard library opens `/dev/null` in place of a closed one before
//! `main`, so that results would be lost without a word. What is there must be
//! looked at earlier.

use std::sync::atomic::{AtomicBool, Ordering};

static CLOSED: AtomicBool = AtomicBool::new(false);

/// Called by the system's loader, ahead of the standard library.
#[cfg(target_os = "linux")]
#[used]
#[link_section = ".init_array"]
static LOOK: extern "C" fn() = look;

#[cfg(target_os = "linux")]
extern "C" fn look() {
    // SAFETY: F_GETFD only asks about a descriptor, and fails for one that is
    // none. Nothing of the standard library is used here but an atomic.
    let flags = unsafe { libc::fcntl(libc::STDOUT_FILENO, libc::F_GETFD) };
    CLOSED.store(flags == -1, Ordering::Relaxed);
}

/// Whether there is nowhere to print to. Known on Linux alone.
pub fn stdout_is_closed() -> bool {
    CLOSED.load(Ordering::Relaxed)
}
