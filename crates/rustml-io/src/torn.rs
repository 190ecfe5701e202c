//! Files that are cut short while they are mapped.
//!
//! Reading beyond the new end raises SIGBUS, which ends a process without a
//! word. Reading with `read` in place of mappings would copy all weights once
//! more and need the memory for it; so the signal is handled, and says which
//! file it was.

use std::ffi::c_int;
use std::path::Path;
use std::sync::atomic::{AtomicPtr, AtomicUsize, Ordering};
use std::sync::OnceLock;

/// Mappings that are watched at a time; of further ones nothing is said.
const MOST: usize = 1024;

/// A mapping: its addresses, and what to say of it. Empty ends at 0.
struct Slot {
    start: AtomicUsize,
    end: AtomicUsize,
    sentence: AtomicPtr<Vec<u8>>,
    taken: AtomicUsize,
}

static SLOTS: [Slot; MOST] = [const {
    Slot {
        start: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        sentence: AtomicPtr::new(std::ptr::null_mut()),
        taken: AtomicUsize::new(0),
    }
}; MOST];

/// Watches a mapping as long as it lives. To be dropped no later than that.
pub(crate) struct Watch(Option<usize>);

impl Watch {
    pub fn new(path: &Path, start: usize, len: usize) -> Watch {
        let is_free = |slot: &Slot| {
            let free = slot
                .taken
                .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Relaxed);
            free.is_ok()
        };
        let Some(at) = SLOTS.iter().position(is_free) else {
            return Watch(None);
        };
        let sentence = format!(
            "error: {}: the file was cut short, or its disk failed, while it was being read; \
             try again when it is complete\n",
            path.display()
        );
        let sentence = Box::into_raw(Box::new(sentence.into_bytes()));
        SLOTS[at].sentence.store(sentence, Ordering::Release);
        SLOTS[at].start.store(start, Ordering::Release);
        SLOTS[at].end.store(start + len, Ordering::Release);
        Watch(Some(at))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let Some(slot) = self.0.map(|at| &SLOTS[at]) else {
            return;
        };
        slot.end.store(0, Ordering::Release);
        let sentence = slot.sentence.swap(std::ptr::null_mut(), Ordering::AcqRel);
        // SAFETY: it came from `Box::into_raw` in `new`, and the swap took it
        // out once. The handler reads it only for a fault inside the mapping,
        // which nobody reads any more when this is dropped.
        drop(unsafe { Box::from_raw(sentence) });
        slot.taken.store(0, Ordering::Release);
    }
}

/// What was done on SIGBUS before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();

/// From now on the process ends with exit status 1 and a sentence on standard
/// error when a model's file is cut short while it is read. For programs; it
/// takes over SIGBUS, and hands on what is not about a mapped model.
pub fn report_torn_files() {
    if BEFORE.get().is_some() {
        return;
    }
    // SAFETY: an all-zero `sigaction` is a valid value of that C struct.
    let (mut new, mut old): (libc::sigaction, libc::sigaction) = unsafe { std::mem::zeroed() };
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) = on_sigbus;
    new.sa_sigaction = handler as usize;
    // On the stack for signals that the standard library gives its threads.
    new.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: both structs live for the call; the handler has the signature
    // that SA_SIGINFO asks for and does nothing that signals may not do.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, std::ptr::null(), &mut old) };
    if asked != 0 || BEFORE.set(old).is_err() {
        return;
    }
    // SAFETY: as above. What was there before is known by now, which the
    // handler relies on. It fails for numbers that are no signals only.
    unsafe { libc::sigaction(libc::SIGBUS, &new, std::ptr::null_mut()) };
}

/// Only what is safe in a handler: atomics, `write`, `_exit`, `sigaction`.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut libc::c_void) {
    // SAFETY: with SA_SIGINFO the system passes a valid `siginfo_t`, which for
    // SIGBUS holds an address.
    let address = unsafe { (*info).si_addr() } as usize;
    for slot in &SLOTS {
        let (start, end) = (
            slot.start.load(Ordering::Acquire),
            slot.end.load(Ordering::Acquire),
        );
        if end == 0 || !(start..end).contains(&address) {
            continue;
        }
        // SAFETY: the mapping lives, since it was just read, and so does the
        // sentence. `write` and `_exit` may be called by handlers.
        unsafe {
            let sentence = &*slot.sentence.load(Ordering::Acquire);
            libc::write(2, sentence.as_ptr().cast(), sentence.len());
            libc::_exit(1);
        }
    }
    let before = BEFORE.get();
    match before.map_or(libc::SIG_DFL, |b| b.sa_sigaction) {
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: an all-zero `sigaction` is the default action; then the
            // instruction is run again, and ends the process.
            unsafe {
                let default: libc::sigaction = std::mem::zeroed();
                libc::sigaction(signal, &default, std::ptr::null_mut());
            }
        }
        other if before.is_some_and(|b| b.sa_flags & libc::SA_SIGINFO != 0) => {
            // SAFETY: a handler that was installed with SA_SIGINFO has this
            // signature; it is called as the system would.
            unsafe {
                let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut libc::c_void) =
                    std::mem::transmute(other);
                handler(signal, info, context);
            }
        }
        other => {
            // SAFETY: the same, without SA_SIGINFO.
            unsafe {
                let handler: extern "C" fn(c_int) = std::mem::transmute(other);
                handler(signal);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mmap::Bytes;
    use std::process::Command;

    const CHILD: &str = "RUSTML_IO_TEST_TORN";

    /// Runs this test once more, in a process that may end.
    #[test]
    fn a_file_that_is_cut_short_is_named() {
        if let Some(path) = std::env::var_os(CHILD) {
            report_torn_files();
            report_torn_files();
            let other = Bytes::map(Path::new("/proc/self/exe")).unwrap();
            let bytes = Bytes::map(Path::new(&path)).unwrap();
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(0).unwrap();
            assert!(!other.is_empty());
            let sum: u64 = bytes.iter().map(|&b| u64::from(b)).sum();
            unreachable!("{sum}");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cut.gguf");
        std::fs::write(&path, vec![1; 100_000]).unwrap();
        let name = "torn::tests::a_file_that_is_cut_short_is_named";
        let mut child = Command::new(std::env::current_exe().unwrap());
        let child = child
            .args([name, "--exact", "--nocapture"])
            .env(CHILD, &path);
        let out = child.output().unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert_eq!(out.status.code(), Some(1), "{:?} {err}", out.status);
        assert!(err.contains("cut.gguf: the file was cut short"), "{err}");
    }

    #[test]
    fn slots_are_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "bytes").unwrap();
        for _ in 0..2 * MOST {
            let Bytes::Mapped(watch, _) = Bytes::map(&path).unwrap() else {
                unreachable!()
            };
            assert!(watch.0.is_some());
        }
    }
}
