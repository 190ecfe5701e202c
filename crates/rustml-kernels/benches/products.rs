//! Matrix products by format, instruction set, shape and number of rows.
//!
//! ```text
//! cargo bench -p rustml-kernels --bench products      all that this CPU has
//! cargo bench -p rustml-kernels --bench products -- q4_0/avx512    a part, by its name
//! RUSTML_THREADS=1 cargo bench -p rustml-kernels --bench products   one thread instead of all
//! ```
//!
//! A benchmark is named `format/instruction set/outputs x inputs/rows`. Products
//! of one row are given in bytes of weights a second, read from a set far larger
//! than any cache, products of many rows in operations a second ("elem"). The roofs
//! they stand beside are measured at the start and printed for every instruction set.

#![allow(missing_docs)] // of what criterion's macros make

use criterion::{criterion_group, criterion_main, Criterion, Throughput};
use rustml_io::DType;
use rustml_kernels::par::{matmul, prepare_rows, Output, Team};
use rustml_kernels::{roof, Acts, Matrix, Pool};
use rustml_simd::Isa;
use std::time::Duration;

/// Outputs and inputs: up and down of SmolLM2-135M (whose width K formats cannot
/// have), up of Gemma 3 1B rounded to whole blocks of 256.
const SHAPES: [(usize, usize); 3] = [(1536, 576), (576, 1536), (6912, 1280)];

/// Rows of a step: decoding one sequence, several, a prompt.
const ROWS: [usize; 3] = [1, 16, 256];

/// Weights that products of few rows read in turn.
const WORKING_SET: usize = 256 << 20;

fn products(c: &mut Criterion) {
    let threads = std::env::var("RUSTML_THREADS")
        .ok()
        .and_then(|n| n.parse().ok());
    let all = std::thread::available_parallelism().map_or(1, usize::from);
    for isa in Isa::available() {
        let pool = Pool::new(threads.unwrap_or(all)).expect("threads");
        let team = Team { isa, pool };
        let budget = Duration::from_millis(300);
        let read = roof::read_bandwidth(&team, WORKING_SET, budget).unwrap_or(f64::NAN);
        eprintln!(
            "{}, {} threads: reads {:.1} GB/s; peaks: dot {:.0} Gop/s, multiply-add {:.0} Gflop/s, \
             bf16 {:.0} Gflop/s",
            isa.name(),
            team.pool.threads(),
            read / 1e9,
            roof::dot_peak(&team, budget) / 1e9,
            roof::fma_peak(&team, budget) / 1e9,
            roof::bf16_peak(&team, budget) / 1e9,
        );
        for dtype in DType::ALL {
            for (outputs, inputs) in SHAPES {
                if inputs.is_multiple_of(dtype.block_len()) {
                    for rows in ROWS {
                        product(c, &team, dtype, (outputs, inputs), rows);
                    }
                }
            }
        }
    }
}

fn product(c: &mut Criterion, team: &Team, dtype: DType, shape: (usize, usize), rows: usize) {
    let (outputs, inputs) = shape;
    let name = format!("{dtype}/{}", team.isa.name()).to_lowercase();
    let mut group = c.benchmark_group(name);
    let id = format!("{outputs}x{inputs}/{rows}");
    let mut weights = Vec::new();
    group.throughput(match rows {
        1 => Throughput::Bytes((dtype.row_bytes(inputs).expect("whole blocks") * outputs) as u64),
        _ => Throughput::Elements(2 * (outputs * inputs * rows) as u64),
    });
    group.bench_function(&id, |b| {
        // Made only if this one is chosen.
        if weights.is_empty() {
            weights = copies(dtype, shape, team.isa, rows);
        }
        let forms = weights[0].forms();
        let x: Vec<f32> = (0..rows * inputs)
            .map(|i| (i as f32 * 0.37).sin())
            .collect();
        let mut acts = Acts::new(rows, inputs, forms);
        prepare_rows(team, &x, inputs, &mut acts, forms);
        let mut out = vec![0f32; rows * outputs];
        let mut turn = 0;
        b.iter(|| {
            turn = (turn + 1) % weights.len();
            let output = Output {
                weights: &weights[turn],
                bias: None,
                accumulate: false,
                out: &mut out,
            };
            matmul(team, &acts, &mut [output], None);
        });
    });
    group.finish();
}

/// One matrix or, for few rows, as many as are larger than the caches.
fn copies(dtype: DType, (outputs, inputs): (usize, usize), isa: Isa, rows: usize) -> Vec<Matrix> {
    let bytes = dtype.row_bytes(inputs).expect("whole blocks") * outputs;
    // Any bits are weights; these repeat after 251 bytes.
    let data: Vec<u8> = (0..bytes).map(|i| (i % 251) as u8).collect();
    let count = if rows <= 16 {
        WORKING_SET.div_ceil(bytes)
    } else {
        1
    };
    (0..count)
        .map(|_| Matrix::pack(dtype, outputs, inputs, &data, isa).expect("memory"))
        .collect()
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .sample_size(15)
        .warm_up_time(Duration::from_millis(200))
        .measurement_time(Duration::from_millis(600));
    targets = products
}
criterion_main!(benches);
