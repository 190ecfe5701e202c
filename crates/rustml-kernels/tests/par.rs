//! Operations over all rows of a step: the same as row by row, on any number of
//! threads, and refusing what does not fit.

mod common;

use common::{bits, close, quantised, stored, team, Rng, U};
use half::f16;
use rustml_io::DType;
use rustml_kernels::attention::{AttentionShape, KvShape, KvType, KV_BLOCK};
use rustml_kernels::formats::{decode_row, encode_row};
use rustml_kernels::ops::{self, Activation, NormKind};
use rustml_kernels::par::*;
use rustml_kernels::{Acts, AlignedBytes, Forms, Matrix, Phase};
use rustml_simd::Isa;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Rows few enough to be done inline, and enough to be shared among threads.
const ROWS: [usize; 4] = [0, 1, 7, 333];

/// A matrix of random weights, and what they decode to.
fn weights(dtype: DType, rows: usize, cols: usize, isa: Isa, rng: &mut Rng) -> (Matrix, Vec<f32>) {
    let row_bytes = dtype.row_bytes(cols).unwrap();
    let (mut bytes, mut values) = (vec![0; rows * row_bytes], vec![0.0; rows * cols]);
    for (bytes, values) in bytes.chunks_mut(row_bytes).zip(values.chunks_mut(cols)) {
        encode_row(dtype, &rng.floats(cols), bytes);
        decode_row(dtype, bytes, values);
    }
    (
        Matrix::pack(dtype, rows, cols, &bytes, isa).unwrap(),
        values,
    )
}

/// `acts` of rows in the forms of all of `matrices`.
fn prepared(team: &Team, x: &[f32], cols: usize, matrices: &[&Matrix]) -> Acts {
    let forms = matrices
        .iter()
        .fold(Forms::default(), |f, m| f.union(m.forms()));
    let mut acts = Acts::new(x.len() / cols, cols, forms);
    prepare_rows(team, x, cols, &mut acts, forms);
    acts
}

/// What a product by the identity gives back: the rows as floats.
fn seen(team: &Team, acts: &Acts) -> Vec<f32> {
    let (rows, cols) = (acts.rows(), acts.cols());
    let mut bytes = vec![0; 4 * cols * cols];
    for i in 0..cols {
        bytes[4 * (i * cols + i)..][..4].copy_from_slice(&1f32.to_le_bytes());
    }
    let identity = Matrix::pack(DType::F32, cols, cols, &bytes, team.isa).unwrap();
    let mut out = vec![f32::NAN; rows * cols];
    matmul(team, acts, &mut [output(&identity, &mut out)], None);
    out
}

fn output<'a>(weights: &'a Matrix, out: &'a mut [f32]) -> Output<'a> {
    Output {
        weights,
        bias: None,
        accumulate: false,
        out,
    }
}

#[test]
fn products_of_several_weights_match_on_any_number_of_threads() {
    for isa in Isa::available() {
        for rows in [0, 1, 5, 40] {
            let mut rng = Rng(rows as u64 + 1);
            let cols = 256;
            let (a, wa) = weights(DType::Q4_K, 300, cols, isa, &mut rng);
            let (b, wb) = weights(DType::F16, 33, cols, isa, &mut rng);
            let (c, wc) = weights(DType::Q5_0, 1, cols, isa, &mut rng);
            let (x, bias) = (rng.floats(rows * cols), rng.floats(33));
            let mut first = None;
            for threads in [1, 2, 5] {
                let team = team(isa, threads);
                let acts = prepared(&team, &x, cols, &[&a, &b, &c]);
                let mut outs = [300, 33, 1].map(|n| vec![f32::NAN; rows * n]);
                outs[1].fill(0.75);
                let [oa, ob, oc] = &mut outs;
                let mut outputs = [output(&a, oa), output(&b, ob), output(&c, oc)];
                outputs[1].bias = Some(&bias);
                outputs[1].accumulate = true;
                matmul(&team, &acts, &mut outputs, None);
                let all = first.get_or_insert_with(|| outs.clone());
                for (all, outs) in all.iter().zip(&outs) {
                    assert_eq!(bits(all), bits(outs), "{isa:?} {threads} threads");
                }
            }
            let outs = first.unwrap();
            let codes = quantised(&x);
            compare(&outs[0], &wa, &codes, cols, |_| 0.0);
            compare(&outs[1], &wb, &x, cols, |o| f64::from(bias[o]) + 0.75);
            compare(&outs[2], &wc, &codes, cols, |_| 0.0);
        }
    }
}

/// Compares products with sums in double precision.
fn compare(out: &[f32], weights: &[f32], x: &[f32], cols: usize, more: impl Fn(usize) -> f64) {
    let outputs = weights.len() / cols;
    for (r, x) in x.chunks(cols).enumerate() {
        for (o, w) in weights.chunks(cols).enumerate() {
            let terms = w.iter().zip(x).map(|(&w, &x)| f64::from(w) * f64::from(x));
            let (y, size) = terms.fold((0.0, 0.0), |(y, size), t| (y + t, size + t.abs()));
            // A rounding for each term, of a part of the sum; scales and offsets
            // make a few more, of terms of up to 4 times the size.
            let tolerance = (cols as f64 + 8.0) * 2.0 * U * (4.0 * size + 4.0);
            close(
                out[r * outputs + o],
                y + more(o),
                tolerance,
                format_args!("[{r}, {o}]"),
            );
        }
    }
}

#[test]
fn every_product_of_a_region_is_timed() {
    let (team, mut rng) = (team(Isa::best(), 2), Rng(3));
    let (a, _) = weights(DType::Q8_0, 512, 256, team.isa, &mut rng);
    let (b, _) = weights(DType::Q8_0, 64, 256, team.isa, &mut rng);
    let acts = prepared(&team, &rng.floats(32 * 256), 256, &[&a, &b]);
    let (mut oa, mut ob) = (vec![f32::NAN; 32 * 512], vec![f32::NAN; 32 * 64]);
    let times = <[AtomicU64; 2]>::default();
    let mut outputs = [output(&a, &mut oa), output(&b, &mut ob)];
    matmul(&team, &acts, &mut outputs, Some(&times));
    let times = times.map(AtomicU64::into_inner);
    assert!(times.iter().all(|&t| t > 0), "{times:?}");
    assert!(oa.iter().chain(&ob).all(|v| v.is_finite()));
}

fn norm_of<'a>(weight: &'a [f32], bias: &'a [f32]) -> Norm<'a> {
    Norm {
        kind: NormKind::Rms,
        weight,
        bias,
        eps: 1e-6,
    }
}

#[test]
fn normalised_rows_are_those_of_single_norms() {
    for isa in Isa::available() {
        for (rows, threads) in ROWS.into_iter().zip([1, 2, 3, 3]) {
            let (team, mut rng, cols) = (team(isa, threads), Rng(7), 96);
            let (x, weight, bias) = (rng.floats(rows * cols), rng.floats(cols), rng.floats(cols));
            let mut expected = vec![f32::NAN; rows * cols];
            for (x, y) in x.chunks(cols).zip(expected.chunks_mut(cols)) {
                ops::norm(isa, NormKind::Rms, x, &weight, &bias, 1e-6, y);
            }
            let mut scratch = vec![f32::NAN; scratch_len(&team, rows, cols, 0)];
            let mut acts = Acts::new(rows, cols, Forms::FLOATS);
            let norm = norm_of(&weight, &bias);
            norm_rows(&team, norm, &x, &mut scratch, &mut acts, Forms::FLOATS);
            assert_eq!(seen(&team, &acts), expected, "{isa:?} {rows} rows");

            let mut sum = x.clone();
            scratch.fill(f32::NAN);
            add_rows(
                &team,
                Some(norm),
                1.0,
                &x,
                cols,
                &mut scratch,
                &mut sum,
                true,
            );
            ops::add(isa, &mut expected, &x);
            assert_eq!(bits(&sum), bits(&expected), "{isa:?} {rows} rows");
        }
    }
}

/// The inner part of a feed-forward is its products, activated: bit for bit, whatever
/// the forms, the number of rows and threads, and a width that is no multiple of anything.
#[test]
fn an_inner_part_is_products_and_activations() {
    let types = [
        (DType::Q8_0, DType::Q8_0, 64, 160),
        (DType::Q5_0, DType::Q8_0, 32, 32),
        (DType::Q4_K, DType::Q4_0, 256, 416),
        (DType::BF16, DType::F32, 48, 77),
    ];
    for isa in Isa::available() {
        for (rows, threads) in ROWS.into_iter().zip([1, 2, 3, 3]) {
            for ((gate, up, cols, width), gated) in types.into_iter().zip([true, false, true, true])
            {
                let (team, mut rng) = (team(isa, threads), Rng(8));
                let x = rng.floats(rows * cols);
                let (gate, _) = weights(gate, width, cols, isa, &mut rng);
                let (up, _) = weights(up, width, cols, isa, &mut rng);
                let biases = [rng.floats(width), rng.floats(width)];
                let linears = [(&gate, Some(&biases[0][..])), (&up, None)];
                let linears = if gated { &linears[..] } else { &linears[..1] };
                let acts = prepared(&team, &x, cols, &[&gate, &up]);

                let mut products = [0; 2].map(|_| vec![f32::NAN; rows * width]);
                for ((weights, bias), out) in linears.iter().zip(&mut products) {
                    let mut output = output(weights, out);
                    output.bias = *bias;
                    matmul(&team, &acts, &mut [output], None);
                }
                let [mut expected, up] = products;
                let up = if gated { &up[..] } else { &[] };
                ops::activate(isa, Activation::Silu, &mut expected, up);

                let other = match width.is_multiple_of(32) {
                    true => DType::Q8_0,
                    false => DType::BF16,
                };
                let (next, _) = weights(other, 40, width, isa, &mut rng);
                let forms = next.forms().union(Forms::FLOATS);
                let mut scratch = vec![f32::NAN; scratch_len(&team, rows, 0, width)];
                let mut out = Acts::new(rows, width, forms);
                let inner = Inner {
                    activation: Activation::Silu,
                    linears,
                };
                let times = <[AtomicU64; 3]>::default();
                let timing = Some(&times[..]);
                inner_rows(&team, &inner, &acts, &mut scratch, &mut out, forms, timing);
                let what = format!("{isa:?} {rows} rows of {width}");
                assert_eq!(bits(&seen(&team, &out)), bits(&expected), "{what}");
                for (i, time) in times.into_iter().enumerate() {
                    let counts = rows > 0 && i <= linears.len();
                    assert!(
                        time.into_inner() > 0 || !counts,
                        "{what}: part {i} takes time"
                    );
                }

                // The other form is that of the same values prepared as a whole.
                let mut whole = Acts::new(rows, width, forms);
                prepare_rows(&team, &expected, width, &mut whole, forms);
                let both = [&out, &whole].map(|acts| {
                    let mut y = vec![f32::NAN; rows * 40];
                    matmul(&team, acts, &mut [output(&next, &mut y)], None);
                    bits(&y)
                });
                assert_eq!(both[0], both[1], "{what}");
            }
        }
    }
}

#[test]
fn every_row_is_mapped_once() {
    for (rows, threads) in ROWS.into_iter().zip([1, 2, 3, 5]) {
        let mut x = vec![0.0; rows * 60];
        map_rows(&team(Isa::best(), threads), &mut x, 60, &|row, x| {
            x.iter_mut().for_each(|x| *x += row as f32 + 1.0);
        });
        for (row, x) in x.chunks(60).enumerate() {
            assert!(x.iter().all(|&x| x == row as f32 + 1.0), "row {row}");
        }
    }
}

const KV: KvShape = KvShape {
    kv_heads: 2,
    head_dim: 20,
    kv_type: KvType::F32,
};

fn memory(shape: KvShape, blocks: usize) -> AlignedBytes {
    AlignedBytes::zeroed(blocks * 2 * shape.block_bytes()).unwrap()
}

fn cache(shape: KvShape, memory: &mut AlignedBytes) -> Cache<'_> {
    let stride = 2 * shape.block_bytes();
    Cache::new(shape, memory.as_mut_slice(), stride, 0)
}

/// Bytes of one head's keys, or values, in a block, and where its scales begin.
fn head_bytes(shape: KvShape) -> (usize, usize) {
    let codes = shape.head_dim.next_multiple_of(16) * KV_BLOCK * shape.kv_type.bytes();
    let groups = match shape.kv_type {
        KvType::F32 | KvType::F16 => 0,
        KvType::Q8_0 => shape.head_dim.div_ceil(32),
    };
    (codes + 2 * groups * KV_BLOCK, codes)
}

/// Key and value of a position in the layout that `attention` describes.
fn read(shape: KvShape, memory: &AlignedBytes, block: u32, slot: usize) -> [Vec<f32>; 2] {
    let (head_bytes, scales) = head_bytes(shape);
    let half = |b: &[u8], i: usize| f16::from_le_bytes(b[2 * i..][..2].try_into().unwrap());
    // Value `d` of a row, its code being number `i` of the head's.
    let value = |head: &[u8], i: usize, d: usize| match shape.kv_type {
        KvType::F32 => f32::from_le_bytes(head[4 * i..][..4].try_into().unwrap()),
        KvType::F16 => half(head, i).to_f32(),
        KvType::Q8_0 => {
            let scale = half(&head[scales..], d / 32 * KV_BLOCK + slot);
            f32::from(head[i] as i8) * scale.to_f32()
        }
    };
    let padded = shape.head_dim.next_multiple_of(16);
    let mut both = [Vec::new(), Vec::new()];
    for head in 0..shape.kv_heads {
        let keys = (2 * block as usize * shape.kv_heads + head) * head_bytes;
        let keys = &memory.as_slice()[keys..];
        let values = &keys[shape.kv_heads * head_bytes..];
        for d in 0..shape.head_dim {
            both[0].push(value(keys, d * KV_BLOCK + slot, d));
            both[1].push(value(values, slot * padded + d, d));
        }
    }
    both
}

#[test]
fn positioned_rows_are_normalised_rotated_and_stored() {
    for isa in Isa::available() {
        for kv_type in [KvType::F32, KvType::F16, KvType::Q8_0] {
            for (with_norm, with_rope, timed) in [
                (true, true, true),
                (true, false, false),
                (false, true, false),
            ] {
                let shape = KvShape { kv_type, ..KV };
                let (heads, hd, pairs, kv_cols) = (6, 20, 8, 40);
                let spans = [
                    SpanView {
                        row: 0,
                        rows: 3,
                        first: 62,
                        blocks: &[5, 1],
                        phase: Phase::Decode,
                    },
                    SpanView {
                        row: 3,
                        rows: 0,
                        first: 9,
                        blocks: &[0],
                        phase: Phase::Decode,
                    },
                    SpanView {
                        row: 3,
                        rows: 100,
                        first: 0,
                        blocks: &[0, 6],
                        phase: Phase::Decode,
                    },
                    SpanView {
                        row: 103,
                        rows: 1,
                        first: 191,
                        blocks: &[3, 3, 2],
                        phase: Phase::Decode,
                    },
                ];
                let rows = 104;
                let mut rng = Rng(31);
                let (mut q, mut k) = (rng.floats(rows * heads * hd), rng.floats(rows * kv_cols));
                let v = rng.floats(rows * kv_cols);
                let (qw, kw) = (rng.floats(hd), rng.floats(hd));
                let (cos, sin) = (rng.floats(rows * pairs), rng.floats(rows * pairs));
                let (mut eq, mut ek) = (q.clone(), k.clone());
                for (x, width, weight) in [(&mut eq, heads * hd, &qw), (&mut ek, kv_cols, &kw)] {
                    for (row, x) in x.chunks_mut(width).enumerate() {
                        for x in x.chunks_mut(hd) {
                            if with_norm {
                                let from = x.to_vec();
                                ops::norm(isa, NormKind::Rms, &from, weight, &[], 1e-6, x);
                            }
                            if with_rope {
                                let at = row * pairs..(row + 1) * pairs;
                                ops::rope(isa, x, hd, &cos[at.clone()], &sin[at]);
                            }
                        }
                    }
                }
                let mut memory = memory(shape, 7);
                let cache = cache(shape, &mut memory);
                let how = Positioning {
                    qk_norm: with_norm.then_some(QkNorm {
                        query: norm_of(&qw, &[]),
                        key: norm_of(&kw, &[]),
                        whole: false,
                        after_rope: false,
                    }),
                    rope: with_rope.then_some((&cos[..], &sin[..])),
                };
                let times = <[AtomicU64; 3]>::default();
                let timing = timed.then_some(&times[..]);
                position_rows(
                    &team(isa, 3),
                    &cache,
                    &spans,
                    &how,
                    heads,
                    &mut q,
                    &mut k,
                    &v,
                    timing,
                );
                assert_eq!(bits(&q), bits(&eq), "{isa:?}");
                assert_eq!(bits(&k), bits(&ek), "{isa:?}");
                let times = times.map(AtomicU64::into_inner);
                assert_eq!(timed, times[2] > 0, "{times:?}");
                let kept = |x: &[f32]| stored(x, hd, kv_type);
                for s in spans {
                    for i in 0..s.rows {
                        let at = (s.row + i) * kv_cols..(s.row + i + 1) * kv_cols;
                        let p = s.first + i;
                        let [key, value] =
                            read(shape, &memory, s.blocks[p / KV_BLOCK], p % KV_BLOCK);
                        assert_eq!(key, kept(&ek[at.clone()]), "{isa:?} position {p}");
                        assert_eq!(value, kept(&v[at]), "{isa:?} position {p}");
                    }
                }
                // Nothing else was written.
                let rows: usize = spans.iter().map(|s| s.rows).sum();
                let groups = if kv_type == KvType::Q8_0 { 1 } else { 0 };
                let written = 2 * rows * shape.kv_heads * (hd * kv_type.bytes() + 2 * groups);
                let found = memory.as_slice().iter().filter(|&&b| b != 0).count();
                assert!(found <= written, "{found} of {written}");
            }
        }
    }
}

/// Whether storing and attending with these spans is refused.
fn refused(spans: &[SpanView], rows: usize) -> [bool; 2] {
    let team = team(Isa::Scalar, 2);
    let mut memory = memory(KV, 4);
    let cache = cache(KV, &mut memory);
    let (mut q, mut k, v) = (
        vec![0.0; rows * 40],
        vec![0.0; rows * 40],
        vec![0.0; rows * 40],
    );
    let plain = Positioning {
        qk_norm: None,
        rope: None,
    };
    let store = AssertUnwindSafe(|| {
        position_rows(&team, &cache, spans, &plain, 2, &mut q, &mut k, &v, None);
    });
    let stored = catch_unwind(store).is_err();
    let a = AttentionShape::plain(2, 1.0);
    let (q, mut out) = (vec![0.0; rows * 40], vec![0.0; rows * 40]);
    let attend = AssertUnwindSafe(|| attend_rows(&team, &a, &cache, spans, &q, &mut out, None));
    [stored, catch_unwind(attend).is_err()]
}

#[test]
fn spans_that_do_not_fit_are_refused() {
    fn span(row: usize, rows: usize, first: usize, blocks: &[u32]) -> SpanView<'_> {
        SpanView {
            row,
            rows,
            first,
            blocks,
            phase: Phase::Decode,
        }
    }
    assert_eq!(
        refused(&[span(0, 2, 63, &[0, 1]), span(2, 1, 0, &[3])], 3),
        [false; 2]
    );
    let both: &[(&str, &[SpanView])] = &[
        ("a block beyond the cache", &[span(0, 3, 0, &[4])]),
        ("a missing block", &[span(0, 3, 62, &[0])]),
        ("a gap", &[span(0, 1, 0, &[0]), span(2, 1, 0, &[1])]),
        ("too few rows", &[span(0, 2, 0, &[0])]),
        ("too many rows", &[span(0, 4, 0, &[0])]),
        ("another order", &[span(1, 2, 0, &[0]), span(0, 1, 0, &[1])]),
        (
            "a position that overflows",
            &[span(0, 3, usize::MAX - 1, &[0])],
        ),
        (
            "rows that overflow",
            &[span(0, usize::MAX, 0, &[0]), span(usize::MAX, 4, 0, &[1])],
        ),
    ];
    for (what, spans) in both {
        assert_eq!(refused(spans, 3), [true; 2], "{what}");
    }
    // Sequences may read the same blocks, but not store to them.
    assert_eq!(
        refused(&[span(0, 2, 0, &[0]), span(2, 1, 5, &[0])], 3),
        [true, false]
    );
    assert_eq!(refused(&[span(0, 3, 62, &[1, 1])], 3), [true, false]);
}

#[test]
fn shapes_that_no_cache_has_are_refused() {
    let shapes = [
        KvShape { head_dim: 0, ..KV },
        KvShape {
            head_dim: 513,
            ..KV
        },
        KvShape { kv_heads: 0, ..KV },
        KvShape {
            kv_heads: 1 << 60,
            ..KV
        },
    ];
    for shape in shapes {
        let mut bytes = AlignedBytes::zeroed(1 << 20).unwrap();
        let new = AssertUnwindSafe(|| {
            Cache::new(shape, bytes.as_mut_slice(), 1 << 20, 0);
        });
        assert!(catch_unwind(new).is_err(), "{shape:?}");
    }
    // No blocks at all are a cache.
    cache(KV, &mut memory(KV, 0));
}

#[test]
#[should_panic(expected = "an output for every row")]
fn a_product_refuses_an_output_of_another_size() {
    let (team, mut rng) = (team(Isa::best(), 1), Rng(3));
    let (m, _) = weights(DType::Q8_0, 8, 64, team.isa, &mut rng);
    let acts = prepared(&team, &rng.floats(128), 64, &[&m]);
    matmul(&team, &acts, &mut [output(&m, &mut [0.0; 15])], None);
}

#[test]
#[should_panic(expected = "activations as wide as the weights")]
fn a_product_refuses_activations_of_another_width() {
    let (team, mut rng) = (team(Isa::best(), 1), Rng(3));
    let (m, _) = weights(DType::Q8_0, 8, 64, team.isa, &mut rng);
    let acts = prepared(&team, &rng.floats(192), 96, &[&m]);
    matmul(&team, &acts, &mut [output(&m, &mut [0.0; 16])], None);
}

#[test]
#[should_panic(expected = "activations in all forms")]
fn a_product_refuses_activations_without_its_form() {
    let (team, mut rng) = (team(Isa::best(), 1), Rng(3));
    let (m, _) = weights(DType::Q8_0, 8, 64, team.isa, &mut rng);
    let (f, _) = weights(DType::F32, 8, 64, team.isa, &mut rng);
    let acts = prepared(&team, &rng.floats(128), 64, &[&f]);
    matmul(&team, &acts, &mut [output(&m, &mut [0.0; 16])], None);
}

#[test]
fn packed_rows_are_those_that_were_read() {
    for isa in Isa::available() {
        for dtype in DType::ALL {
            let (rows, cols, mut rng) = (53, dtype.block_len().max(32) * 2, Rng(5));
            let row_bytes = dtype.row_bytes(cols).unwrap();
            let mut bytes = vec![0; rows * row_bytes];
            for row in bytes.chunks_mut(row_bytes) {
                encode_row(dtype, &rng.floats(cols), row);
            }
            let reads = AtomicUsize::new(0);
            let mut m = Matrix::zeroed(dtype, rows, cols, isa).unwrap();
            let done: Result<(), ()> = pack_rows(&team(isa, 3), &mut m, &|row, out| {
                reads.fetch_add(1, Relaxed);
                out.copy_from_slice(&bytes[row * row_bytes..][..row_bytes]);
                Ok(())
            });
            assert_eq!((done, reads.into_inner()), (Ok(()), rows));
            let whole = Matrix::pack(dtype, rows, cols, &bytes, isa).unwrap();
            let (mut a, mut b) = (vec![f32::NAN; cols], vec![f32::NAN; cols]);
            for row in 0..rows {
                m.decode_row(row, &mut a);
                whole.decode_row(row, &mut b);
                assert_eq!(bits(&a), bits(&b), "{dtype} {isa:?} row {row}");
            }
        }
    }
}

#[test]
fn packing_ends_with_the_error_of_a_row() {
    let isa = Isa::best();
    let rows = 200 * isa.lanes();
    let mut m = Matrix::zeroed(DType::Q8_0, rows, 32, isa).unwrap();
    for threads in [1, 3] {
        let (team, reads) = (team(isa, threads), AtomicUsize::new(0));
        let done = pack_rows(&team, &mut m, &|row, _| {
            reads.fetch_add(1, Relaxed);
            // Which rows come first is up to the threads, if there are several.
            if row == 3 || threads > 1 {
                return Err("a row cannot be read");
            }
            Ok(())
        });
        assert_eq!(done, Err("a row cannot be read"));
        assert!(reads.into_inner() < rows, "the rest need not be read");
        // The team works on.
        assert_eq!(pack_rows(&team, &mut m, &|_, _| Ok::<(), ()>(())), Ok(()));
    }
}
