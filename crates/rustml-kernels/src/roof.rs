//! What this machine can do at most, measured: the roofs that operations are
//! held against (Williams et al., "Roofline: An Insightful Visual Performance
//! Model").
//!
//! Each function repeats one short measurement with all threads of a team until
//! its time is over, and returns the best: disturbances only ever slow a pass
//! down. Peaks of computing are taken from registers alone, and reading does
//! nothing else than read, so no kernel is above its roof but by chance.
//!
//! ```
//! use rustml_kernels::{par::Team, roof, Pool};
//! use rustml_simd::Isa;
//! use std::time::Duration;
//!
//! let team = Team { isa: Isa::best(), pool: Pool::new(2)? };
//! let budget = Duration::from_millis(5);
//! let read = roof::read_bandwidth(&team, 8 << 20, budget).expect("8 MiB");
//! println!("{:.1} GB/s", read / 1e9);
//! println!("{:.0} Gop/s", roof::dot_peak(&team, budget) / 1e9);
//! # Ok::<(), std::io::Error>(())
//! ```

use crate::buffer::AlignedBytes;
use crate::pages;
use crate::panel::Matrix;
use crate::par::Team;
use rustml_simd::{with_bf16, with_isa, Isa, Kernel, Simd};
use std::hint::black_box;
use std::time::{Duration, Instant};

/// The largest working set that is measured; larger ones are taken for as fast.
/// It is far beyond what caches hold.
pub const LARGEST_SET: usize = 512 << 20;

/// Bytes a pass reads at least: enough that waking the threads does not count.
const PASS_BYTES: usize = 32 << 20;

/// Bytes of a chunk of a pass, as kernels have them.
const CHUNK_BYTES: usize = 128 << 10;

/// Independent chains of operations. More than latency times throughput of the
/// units there are (4 cycles, 2 a cycle), few enough for 16 registers.
const CHAINS: usize = 12;

/// Links of each chain in a chunk: some tens of microseconds.
const LINKS: usize = 20_000;

/// Bytes per second that all threads together read from a working set of
/// `bytes`, over and over, as decoding reads its weights. The set is filled
/// before the time `budget` begins. `None` if its memory cannot be had.
pub fn read_bandwidth(team: &Team, bytes: usize, budget: Duration) -> Option<f64> {
    let bytes = bytes.clamp(CHUNK_BYTES, LARGEST_SET) / CHUNK_BYTES * CHUNK_BYTES;
    let mut set = AlignedBytes::zeroed(bytes)?;
    set.begin(0..bytes);
    // Pages that nobody has written are all one and the same.
    set.as_mut_slice().fill(1);
    pages::gather(Duration::MAX);
    let (set, chunks) = (set.as_slice(), bytes / CHUNK_BYTES);
    let passes = PASS_BYTES.div_ceil(bytes);
    let pass = best(budget, || {
        team.pool.run(chunks * passes, &|chunk, _| {
            let at = chunk % chunks * CHUNK_BYTES;
            with_isa(team.isa, Read(&set[at..at + CHUNK_BYTES]));
        });
    });
    Some((bytes * passes) as f64 / pass.as_secs_f64())
}

/// The same of weights that are there: of these matrices, one after the other, up to
/// `bytes` of them, and no more than [`LARGEST_SET`]. It takes no memory of its own to speak
/// of. `None` if there is nothing to read.
pub fn read_weights<'a>(
    team: &Team,
    weights: impl Iterator<Item = &'a Matrix>,
    bytes: usize,
    budget: Duration,
) -> Option<f64> {
    let mut left = bytes.clamp(CHUNK_BYTES, LARGEST_SET);
    let mut chunks: Vec<&[u8]> = Vec::new();
    for matrix in weights {
        for chunk in matrix.data().chunks(CHUNK_BYTES) {
            let chunk = &chunk[..chunk.len().min(left)];
            left -= chunk.len();
            chunks.extend((!chunk.is_empty()).then_some(chunk));
        }
    }
    let bytes: usize = chunks.iter().map(|c| c.len()).sum();
    if bytes == 0 {
        return None;
    }
    let passes = PASS_BYTES.div_ceil(bytes);
    let pass = best(budget, || {
        team.pool.run(chunks.len() * passes, &|chunk, _| {
            with_isa(team.isa, Read(chunks[chunk % chunks.len()]));
        });
    });
    Some((bytes * passes) as f64 / pass.as_secs_f64())
}

/// Reads a set once with all threads, so that it is what caches hold.
pub fn read(team: &Team, set: &[u8]) {
    team.pool.run(set.len().div_ceil(CHUNK_BYTES), &|chunk, _| {
        let at = chunk * CHUNK_BYTES;
        with_isa(team.isa, Read(&set[at..(at + CHUNK_BYTES).min(set.len())]));
    });
}

/// Operations per second of all threads together in the byte dot product that
/// the kernels of the team's instruction set use ([`Simd::dot_u7`], or for codes of
/// four bits [`Simd::add_pairs`] where that is better): a multiplication and an
/// addition for each pair of bytes.
pub fn dot_peak(team: &Team, budget: Duration) -> f64 {
    peak(team, budget, 4, &|isa| with_isa(isa, Dots))
}

/// The same of tiles of bfloat16, over 32 inputs, as prompts use them.
#[cfg(target_arch = "x86_64")]
fn tile_peak(team: &Team, budget: Duration) -> f64 {
    use rustml_simd::Tiles;
    assert!(team.isa.is_available());
    let chunks = 4 * team.pool.threads();
    let pass = best(budget, || {
        team.pool.run(chunks, &|_, _| {
            // SAFETY: the set is available, and nobody else uses tiles here.
            unsafe { Tiles::new(64) }.only_multiply(LINKS / 4);
        });
    });
    let operations = 2 * Tiles::ROWS * team.isa.lanes() * 32 * LINKS * chunks;
    operations as f64 / pass.as_secs_f64()
}

/// The same of the single-precision [`Simd::fma`].
pub fn fma_peak(team: &Team, budget: Duration) -> f64 {
    peak(team, budget, 1, &|isa| with_isa(isa, Fmas))
}

/// The same of [`Simd::dot_bf16`], as the kernels of weights in bfloat16 use it:
/// with the CPU's instruction for it, if the set has one; or of tiles of bfloat16.
pub fn bf16_peak(team: &Team, budget: Duration) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if team.isa == Isa::Amx {
        return tile_peak(team, budget);
    }
    peak(team, budget, 2, &|isa| with_bf16(isa, Pairs))
}

/// Operations per second of `chains`, whose every link computes `products` in
/// each lane.
fn peak(team: &Team, budget: Duration, products: usize, chains: &(dyn Fn(Isa) + Sync)) -> f64 {
    let chunks = 4 * team.pool.threads();
    let pass = best(budget, || team.pool.run(chunks, &|_, _| chains(team.isa)));
    let operations = 2 * products * team.isa.lanes() * CHAINS * LINKS * chunks;
    operations as f64 / pass.as_secs_f64()
}

/// The shortest of as many runs as the budget allows; three at least.
fn best(budget: Duration, mut run: impl FnMut()) -> Duration {
    let (start, mut runs, mut best) = (Instant::now(), 0, Duration::MAX);
    while runs < 3 || start.elapsed() < budget {
        let began = Instant::now();
        run();
        best = best.min(began.elapsed());
        runs += 1;
    }
    best.max(Duration::from_nanos(1))
}

/// Reads whole chunks.
struct Read<'a>(&'a [u8]);

impl Kernel for Read<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let step = 4 * S::LANES;
        let mut sums = [s.splat_i32(0); 8];
        for group in self.0.chunks_exact(step * sums.len()) {
            for (i, sum) in sums.iter_mut().enumerate() {
                // SAFETY: the group holds a vector for each sum.
                *sum = s.or(*sum, unsafe { s.load_i(group.as_ptr().add(i * step)) });
            }
        }
        // What nobody sees would not be computed.
        let mut seen = [0u8; 64];
        for sum in sums {
            // SAFETY: no vector is longer.
            unsafe { s.store_i(seen.as_mut_ptr(), sum) };
            black_box(&seen);
        }
    }
}

/// Chains of dot products.
struct Dots;

impl Kernel for Dots {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let codes = s.splat_i32(black_box(0x0102_0301));
        let mut chains = [s.splat_i32(0); CHAINS];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = s.splat_i32(black_box(i as i32));
        }
        // Each link reads the former one too, so that where a dot is several
        // instructions none can be taken out of the loop. They leave the range that
        // sums are right in; nobody wants those.
        if S::BY_PAIRS {
            // The groups of a block, as a tile of rows has them: one after the other.
            let mut groups = [codes; 8];
            for (i, group) in groups.iter_mut().enumerate() {
                *group = s.splat_i32(black_box(i as i32));
            }
            for _ in 0..LINKS / groups.len() {
                for chain in &mut chains {
                    let codes = s.and(*chain, s.splat_i32(0x0f0f_0f0f));
                    let mut sums = s.no_pairs();
                    for a in groups {
                        sums = s.add_pairs(sums, codes, a);
                    }
                    *chain = s.sum_pairs(*chain, sums);
                }
            }
        } else {
            for _ in 0..LINKS {
                for chain in &mut chains {
                    *chain = s.dot_u7(*chain, codes, *chain);
                }
            }
        }
        let mut seen = [0u8; 64];
        for chain in chains {
            // SAFETY: no vector is longer.
            unsafe { s.store_i(seen.as_mut_ptr(), chain) };
            black_box(&seen);
        }
    }
}

/// Chains of fused multiply-adds.
struct Fmas;

impl Kernel for Fmas {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // They approach 1, so numbers stay usual ones.
        let (factor, summand) = (s.splat(black_box(0.5)), s.splat(black_box(0.5)));
        let mut chains = [s.splat(0.0); CHAINS];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = s.splat(black_box(i as f32));
        }
        for _ in 0..LINKS {
            for chain in &mut chains {
                *chain = s.fma(*chain, factor, summand);
            }
        }
        see(s, chains);
    }
}

/// Chains of dot products of pairs of bfloat16.
struct Pairs;

impl Kernel for Pairs {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Twice 0.5.
        let (w, x) = (0x3f00_3f00, 0x3f00_3f00);
        let (w, x) = (s.splat_i32(black_box(w)), s.splat_i32(black_box(x)));
        let mut chains = [s.splat(0.0); CHAINS];
        for (i, chain) in chains.iter_mut().enumerate() {
            *chain = s.splat(black_box(i as f32));
        }
        for _ in 0..LINKS {
            for chain in &mut chains {
                *chain = s.dot_bf16(*chain, w, x);
            }
        }
        see(s, chains);
    }
}

/// What nobody sees would not be computed.
#[inline(always)]
fn see<S: Simd>(s: S, chains: [S::F; CHAINS]) {
    let mut seen = [0f32; 16];
    for chain in chains {
        // SAFETY: no vector is longer.
        unsafe { s.store(seen.as_mut_ptr(), chain) };
        black_box(&seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Pool;
    use std::cell::Cell;

    /// Loops that the compiler dropped would be faster than any machine.
    #[test]
    fn every_set_has_believable_roofs() {
        let budget = Duration::from_millis(2);
        for isa in Isa::available() {
            let pool = Pool::new(2).unwrap();
            let team = Team { isa, pool };
            let read = read_bandwidth(&team, 3 << 20, budget).unwrap();
            // Two threads with some vectors a cycle, at 10 GHz.
            assert!(
                (1e8..2.0 * 4.0 * 64.0 * 1e10).contains(&read),
                "{isa:?} {read}"
            );
            let most = 2.0 * 4.0 * 1e10 * 2.0 * isa.lanes() as f64;
            let (dot, fma) = (dot_peak(&team, budget), fma_peak(&team, budget));
            // A tile does sixteen rows in as many cycles, but eight groups at a time.
            let groups = if isa == Isa::Amx { 8.0 } else { 1.0 };
            assert!((1e7..groups * 4.0 * most).contains(&dot), "{isa:?} {dot}");
            assert!((1e7..most).contains(&fma), "{isa:?} {fma}");
            let bf16 = bf16_peak(&team, budget);
            assert!((1e7..groups * 2.0 * most).contains(&bf16), "{isa:?} {bf16}");
        }
    }

    #[test]
    fn sets_of_any_size_are_read() {
        let pool = Pool::new(1).unwrap();
        let isa = Isa::best();
        let team = Team { isa, pool };
        for bytes in [0, 1, CHUNK_BYTES + 1] {
            assert!(read_bandwidth(&team, bytes, Duration::ZERO).unwrap() > 1e6);
        }
    }

    #[test]
    fn the_best_of_three_at_least() {
        let runs = Cell::new(0);
        let shortest = best(Duration::ZERO, || {
            runs.set(runs.get() + 1);
            if runs.get() != 2 {
                std::thread::sleep(Duration::from_millis(40));
            }
        });
        assert_eq!(runs.get(), 3);
        assert!(shortest < Duration::from_millis(40));
    }
}
