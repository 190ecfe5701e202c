//! Why weights are packed into panels: Q8_0 as a matrix keeps it against the rows
//! of a file, with the same instructions, on one thread.
//!
//! ```text
//! cargo bench -p rustml-kernels --bench layouts
//! ```
//!
//! A benchmark is named `layout/instruction set/outputs x inputs/rows`. The rows of
//! a file are computed four at a time, with two rows of activations where there are
//! several, as vectors along the inputs whose lanes are added up at the end: what 16
//! registers hold.

#![allow(missing_docs)] // of what criterion's macros make
#![allow(clippy::needless_range_loop)] // unrolled by their constants

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use half::f16;
use rustml_io::DType;
use rustml_kernels::par::{prepare_rows, Team};
use rustml_kernels::{Acts, Matrix, Pool, Product, Then};
use rustml_simd::{prefetch_near, with_isa, Isa, Kernel, Simd};
use std::time::Duration;

/// Outputs and inputs.
const SHAPES: [(usize, usize); 2] = [(1536, 576), (6912, 1280)];
/// Rows of activations.
const ROWS: [usize; 3] = [1, 16, 256];
/// Weights that products of one row read in turn.
const WORKING_SET: usize = 256 << 20;
const BLOCK: usize = 32;
/// Rows of weights at a time.
const R: usize = 4;

/// Rows of weights as in a file, but codes and scales apart.
struct Rows {
    outputs: usize,
    inputs: usize,
    codes: Vec<u8>,
    scales: Vec<f16>,
}

/// Rows of activations, quantised.
struct Quantised {
    codes: Vec<i8>,
    scales: Vec<f32>,
    /// What takes the instruction's bias from the codes of each group of four.
    starts: Vec<i32>,
}

struct Multiply<'a>(&'a Rows, &'a Quantised, &'a mut [f32]);

impl Kernel for Multiply<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Multiply(w, a, out) = self;
        let rows = a.codes.len() / w.inputs;
        // SAFETY: `main` asks for vectors of one block, and shapes of whole ones.
        unsafe {
            let mut n = 0;
            while n < rows {
                for r in (0..w.outputs).step_by(R) {
                    if rows - n >= 2 {
                        tile::<S, 2>(s, w, a, r, n, out);
                    } else {
                        tile::<S, 1>(s, w, a, r, n, out);
                    }
                }
                n += if rows - n >= 2 { 2 } else { 1 };
            }
        }
    }
}

#[inline(always)]
unsafe fn tile<S: Simd, const N: usize>(
    s: S,
    w: &Rows,
    a: &Quantised,
    r0: usize,
    n0: usize,
    out: &mut [f32],
) {
    let blocks = w.inputs / BLOCK;
    let mut acc = [[s.splat(0.0); N]; R];
    for b8 in (0..blocks).step_by(8) {
        let mut scales = [[0f32; 8]; R];
        for r in 0..R {
            let from = w
                .scales
                .as_ptr()
                .add((r0 + r) * blocks.next_multiple_of(8) + b8);
            s.store(scales[r].as_mut_ptr(), s.load_f16(from.cast()));
        }
        for b in b8..blocks.min(b8 + 8) {
            let mut codes = [s.splat_i32(0); R];
            for r in 0..R {
                let from = w.codes.as_ptr().add((r0 + r) * w.inputs + b * BLOCK);
                if N == 1 {
                    prefetch_near(from.wrapping_add(R * w.inputs));
                }
                codes[r] = s.load_i(from);
            }
            for n in 0..N {
                let at = (n0 + n) * w.inputs + b * BLOCK;
                let x = s.load_i(a.codes.as_ptr().add(at).cast());
                let start = s.load_i(a.starts.as_ptr().add(at / 4).cast());
                let scale = a.scales[(n0 + n) * blocks + b];
                for r in 0..R {
                    let dots = s.to_f32(s.dot_i8(start, codes[r], x));
                    acc[r][n] = s.fma(s.splat(scales[r][b - b8] * scale), dots, acc[r][n]);
                }
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            out[(n0 + n) * w.outputs + r0 + r] = s.reduce_add(acc[r][n]);
        }
    }
}

/// The instruction set's vector of 32-bit lanes, and its bias.
struct Lanes;
impl Kernel for Lanes {
    type Out = (usize, i32);
    fn run<S: Simd>(self, _: S) -> (usize, i32) {
        (S::LANES, S::I8_BIAS)
    }
}

/// A matrix in both layouts, of any bits.
fn weights((outputs, inputs): (usize, usize), isa: Isa, bias: i32) -> (Matrix, Rows) {
    let blocks = inputs / BLOCK;
    let code = |o: usize, i: usize| ((o * 31 + i * 7) % 255) as u8 as i8;
    let scale = |o: usize, b: usize| f16::from_f32(((o + b) % 13 + 1) as f32 * 1e-3);
    let mut file = Vec::new();
    let mut rows = Rows {
        outputs,
        inputs,
        codes: Vec::new(),
        scales: Vec::new(),
    };
    for o in 0..outputs {
        for b in 0..blocks {
            file.extend(scale(o, b).to_le_bytes());
            file.extend((0..BLOCK).map(|i| code(o, b * BLOCK + i) as u8));
        }
        let biased = |i| (i32::from(code(o, i)) + bias) as u8;
        rows.codes.extend((0..inputs).map(biased));
        let padded = blocks.next_multiple_of(8);
        rows.scales.extend((0..padded).map(|b| scale(o, b)));
    }
    let packed = Matrix::pack(DType::Q8_0, outputs, inputs, &file, isa).expect("memory");
    (packed, rows)
}

/// As [`Acts`] quantises.
fn quantise(x: &[f32], bias: i32) -> Quantised {
    let mut q = Quantised {
        codes: Vec::new(),
        scales: Vec::new(),
        starts: Vec::new(),
    };
    for x in x.chunks(BLOCK) {
        let scale = x.iter().fold(0f32, |m, x| m.max(x.abs())) / 127.0;
        q.scales.push(scale);
        q.codes
            .extend(x.iter().map(|x| (x / scale).round_ties_even() as i8));
    }
    let sum = |c: &[i8]| -bias * c.iter().map(|&c| i32::from(c)).sum::<i32>();
    q.starts = q.codes.chunks(4).map(sum).collect();
    q
}

fn layouts(c: &mut Criterion) {
    for isa in Isa::available() {
        let (lanes, bias) = with_isa(isa, Lanes);
        // A vector has to be a block.
        if lanes * 4 != BLOCK {
            continue;
        }
        for shape in SHAPES {
            for rows in ROWS {
                compare(c, isa, bias, shape, rows);
            }
        }
    }
}

fn compare(c: &mut Criterion, isa: Isa, bias: i32, shape: (usize, usize), rows: usize) {
    let (outputs, inputs) = shape;
    let bytes = outputs * inputs / BLOCK * 34;
    let count = if rows == 1 {
        WORKING_SET.div_ceil(bytes)
    } else {
        1
    };
    let (packed, file): (Vec<_>, Vec<_>) = (0..count).map(|_| weights(shape, isa, bias)).unzip();
    let x: Vec<f32> = (0..rows * inputs)
        .map(|i| (i as f32 * 0.37).sin())
        .collect();
    let team = Team {
        isa,
        pool: Pool::new(1).expect("one thread"),
    };
    let mut acts = Acts::new(rows, inputs, packed[0].forms());
    prepare_rows(&team, &x, inputs, &mut acts, packed[0].forms());
    let quantised = quantise(&x, bias);
    let (mut panels, mut plain) = (vec![0f32; rows * outputs], vec![0f32; rows * outputs]);
    let run = |m: &Matrix, out: &mut [f32]| {
        let product = Product {
            weights: m,
            bias: None,
            accumulate: false,
            out: out.as_mut_ptr(),
            out_stride: outputs,
        };
        // SAFETY: `out` holds all rows, and this thread alone writes.
        unsafe { product.run(&acts, 0..m.panels(), Then::end(&(0..m.panels()))) };
    };
    run(&packed[0], &mut panels);
    with_isa(isa, Multiply(&file[0], &quantised, &mut plain));
    for (a, b) in panels.iter().zip(&plain) {
        assert!((a - b).abs() <= 1e-3 * (1.0 + a.abs()), "{a} != {b}");
    }

    let mut group = c.benchmark_group(format!("layout/{}/{outputs}x{inputs}/{rows}", isa.name()));
    group.throughput(match rows {
        1 => Throughput::Bytes(bytes as u64),
        _ => Throughput::Elements(2 * (outputs * inputs * rows) as u64),
    });
    let mut turn = 0;
    group.bench_function("panels", |b| {
        b.iter(|| {
            turn = (turn + 1) % count;
            run(&packed[turn], &mut panels);
        });
    });
    group.bench_function("rows", |b| {
        b.iter(|| {
            turn = (turn + 1) % count;
            with_isa(isa, Multiply(&file[turn], &quantised, &mut plain));
        });
    });
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = layouts
}
criterion_main!(benches);
