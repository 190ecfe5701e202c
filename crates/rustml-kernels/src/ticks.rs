//! The cheapest clock.

/// Ticks of a clock: on x86 the processor's own, which takes 10 ns to read
/// where the system's takes 25 (Zen 5 as a guest of KVM), else nanoseconds.
/// It does not wait for what was begun before, either, as the system's does. Only
/// proportions of differences mean something; whoever wants seconds reads the
/// system's clock now and then, too.
#[inline]
pub fn ticks() -> u64 {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: every x86-64 has the instruction.
    unsafe {
        std::arch::x86_64::_rdtsc()
    }
    #[cfg(not(target_arch = "x86_64"))]
    {
        use std::sync::OnceLock;
        use std::time::Instant;
        static START: OnceLock<Instant> = OnceLock::new();
        START.get_or_init(Instant::now).elapsed().as_nanos() as u64
    }
}

/// Ticks since `start`, on the same thread.
#[inline]
pub fn ticks_since(start: u64) -> u64 {
    ticks().saturating_sub(start)
}
