//! Products of tiles of bfloat16 against their definition.
#![cfg(target_arch = "x86_64")]

mod common;

use common::Rng;
use rustml_simd::{Avx512Bf16, Isa, PlainTiles, Simd, TileProducts, Tiles};

const FEATURES: &str = "AMX, or AVX-512 with AVX512-BF16";

/// Numbers on a cache line.
#[repr(C, align(64))]
#[derive(Clone)]
struct Line([u8; 64]);

/// `16 * rows` rows of `inputs` values, and as many columns of as many, in tiles that follow
/// each other: bytes of the tiles, and the numbers that they hold.
struct Operand {
    tiles: Vec<Line>,
    numbers: Vec<f64>,
}

/// A bfloat16.
fn number(rng: &mut Rng) -> (u16, f64) {
    let bits = (rng.unit().to_bits() >> 16) as u16;
    (bits, f64::from(f32::from_bits(u32::from(bits) << 16)))
}

impl Operand {
    /// `count` tiles of 16 rows for each of `steps` steps; by pairs of inputs for columns.
    fn new(rng: &mut Rng, count: usize, steps: usize, columns: bool) -> Operand {
        let inputs = 32 * steps;
        let mut tiles = vec![Line([0; 64]); count * steps * 16];
        let mut numbers = vec![0.0; count * 16 * inputs];
        for row in 0..16 * count {
            for i in 0..inputs {
                let (bits, x) = number(rng);
                numbers[row * inputs + i] = x;
                let tile = row / 16 * steps + i / 32;
                let (line, at) = match columns {
                    true => (i % 32 / 2, 4 * (row % 16) + 2 * (i % 2)),
                    false => (row % 16, 2 * (i % 32)),
                };
                tiles[tile * 16 + line].0[at..at + 2].copy_from_slice(&bits.to_le_bytes());
            }
        }
        Operand { tiles, numbers }
    }

    fn start(&self) -> *const u8 {
        self.tiles.as_ptr().cast()
    }
}

/// `R` by `P` tiles of sums.
unsafe fn plain<M: TileProducts, const R: usize, const P: usize>(
    products: &M,
    (rows, columns, steps): (&Operand, &Operand, usize),
    sums: &mut [Line],
    anew: bool,
) {
    let stride = steps * Tiles::BYTES;
    let to = (sums.as_mut_ptr().cast(), P * Tiles::BYTES, Tiles::BYTES);
    let (rows, columns) = ((rows.start(), stride), (columns.start(), stride));
    products.add_products::<R, P>(rows, columns, steps, to, anew);
}

/// The same compiled for the instruction set.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
unsafe fn add<M: TileProducts, const R: usize, const P: usize>(
    products: &M,
    (rows, columns, steps): (&Operand, &Operand, usize),
    sums: &mut [Line],
    anew: bool,
) {
    let stride = steps * Tiles::BYTES;
    let to = (sums.as_mut_ptr().cast(), P * Tiles::BYTES, Tiles::BYTES);
    let (rows, columns) = ((rows.start(), stride), (columns.start(), stride));
    products.add_products::<R, P>(rows, columns, steps, to, anew);
}

/// [`plain`] or [`add`].
type Add<M> = unsafe fn(&M, (&Operand, &Operand, usize), &mut [Line], bool);

unsafe fn check<M: TileProducts, const R: usize, const P: usize>(
    products: &M,
    add: Add<M>,
    what: &str,
) {
    let mut rng = Rng(0x71 + (R * 2 + P) as u64);
    for steps in [1, 2, 3, 20] {
        let rows = Operand::new(&mut rng, R, steps, false);
        let columns = Operand::new(&mut rng, P, steps, true);
        let mut sums = vec![Line([0xff; 64]); R * P * 16];
        let inputs = 32 * steps;
        for times in 1..=2 {
            add(products, (&rows, &columns, steps), &mut sums, times == 1);
            for row in 0..16 * R {
                for column in 0..16 * P {
                    let line = &sums[(row / 16 * P + column / 16) * 16 + row % 16];
                    let at = 4 * (column % 16);
                    let got = f32::from_le_bytes(line.0[at..at + 4].try_into().unwrap());
                    let (mut sum, mut size) = (0.0, 0.0);
                    for i in 0..inputs {
                        let y =
                            rows.numbers[row * inputs + i] * columns.numbers[column * inputs + i];
                        (sum, size) = (sum + y, size + y.abs());
                    }
                    let n = f64::from(times);
                    // A rounding for each product and each sum.
                    let tolerance = n * size * (2.0 * inputs as f64 * n) * f64::from(f32::EPSILON);
                    let off = (f64::from(got) - n * sum).abs();
                    assert!(
                        off <= tolerance,
                        "{what} {R}x{P}, {steps} steps, {row} {column}: {off}"
                    );
                }
            }
        }
    }
}

macro_rules! check_all {
    ($products:expr, $add:ident, $what:literal) => {{
        let products = $products;
        check::<_, 1, 1>(&products, $add::<_, 1, 1>, $what);
        check::<_, 1, 2>(&products, $add::<_, 1, 2>, $what);
        check::<_, 2, 1>(&products, $add::<_, 2, 1>, $what);
        check::<_, 2, 2>(&products, $add::<_, 2, 2>, $what);
    }};
}

/// The twin that tests use where there are no tile registers.
#[test]
fn the_plain_sums_are_those_of_the_definition() {
    // SAFETY: needs no CPU feature.
    unsafe { check_all!(PlainTiles, plain, "plain") };
}

#[test]
fn sums_are_those_of_the_definition() {
    let mut tested = false;
    for isa in [Isa::Avx512, Isa::Amx] {
        if isa.is_available() && isa.dots_bf16() {
            tested = true;
            // SAFETY: the set is available, with the instruction.
            unsafe {
                match isa {
                    Isa::Amx => check_all!(Tiles::new(64), add, "AMX"),
                    _ => check_all!(Avx512Bf16::assume(), add, "AVX-512"),
                }
            }
        }
    }
    if !tested {
        common::skipped(FEATURES);
    } else if !Isa::Amx.is_available() {
        common::skipped("AMX");
    }
}
