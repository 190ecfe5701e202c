//! Convolutions and scans against plain definitions in double precision, on every
//! instruction set, at awkward sizes, and the same bits however rows are cut.

use rustml_kernels::par::*;
use rustml_kernels::recurrent::{Rule, STATE_COLUMNS};
use rustml_kernels::{Aligned, AlignedBytes, Pool};
use rustml_simd::Isa;

/// Numbers from -1 to 1 that look random, always the same.
fn numbers(seed: u64, n: usize) -> Aligned<f32> {
    let mut x = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut out = Aligned::zeroed(n);
    for v in out.iter_mut() {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        *v = (x >> 40) as f32 / (1 << 23) as f32 - 1.0;
    }
    out
}

fn everywhere(test: impl Fn(&Team)) {
    for isa in Isa::available() {
        for threads in [1, 3] {
            let pool = Pool::new(threads).unwrap();
            test(&Team { isa, pool });
        }
    }
}

/// Bytes of a slot with some before and after the layer's part.
fn slot_bytes(len: usize) -> usize {
    (len * 4 + 128).next_multiple_of(64)
}

/// Runs `op` over rows that are cut so, in a slot of its own, the third of four.
fn in_steps(
    cuts: &[usize],
    len: usize,
    mut op: impl FnMut(&States, std::ops::Range<usize>),
) -> Vec<u8> {
    let stride = slot_bytes(len);
    let mut memory = AlignedBytes::zeroed(4 * stride).unwrap();
    memory.as_mut_slice().fill(0);
    let mut first = 0;
    for &rows in cuts {
        op(
            &States::new(memory.as_mut_slice(), stride, 64, len),
            first..first + rows,
        );
        first += rows;
    }
    let untouched = |bytes: &[u8]| bytes.iter().all(|b| *b == 0);
    assert!(
        untouched(&memory.as_slice()[..2 * stride + 64])
            && untouched(&memory.as_slice()[3 * stride..])
    );
    memory.as_slice()[2 * stride..3 * stride].to_vec()
}

fn span(rows: usize) -> [StateSpan; 1] {
    [StateSpan {
        row: 0,
        rows,
        slot: 2,
    }]
}

#[test]
fn convolutions_see_the_last_inputs() {
    everywhere(|team| {
        for (channels, taps) in [(1, 1), (3, 2), (16, 4), (37, 3), (300, 4), (515, 7)] {
            let (rows, silu) = (9, channels % 2 == 0);
            let (x, w) = (numbers(1, rows * channels), numbers(2, taps * channels));
            let bias = numbers(3, channels);
            let conv = Convolution {
                weights: &w,
                bias: if silu { &[] } else { &bias },
                taps,
                silu,
            };
            let run = |cuts: &[usize]| {
                let mut out = vec![0f32; rows * channels];
                let state = in_steps(cuts, convolution_state(taps, channels), |states, r| {
                    let at = r.start * channels..r.end * channels;
                    convolve_rows(
                        team,
                        states,
                        &span(r.len()),
                        &conv,
                        &x[at.clone()],
                        &mut out[at],
                    );
                });
                (out, state)
            };
            let (out, state) = run(&[9]);
            for row in 0..rows {
                for c in 0..channels {
                    let mut sum = if silu { 0.0 } else { f64::from(bias[c]) };
                    let mut size = sum.abs();
                    for tap in 0..taps {
                        if let Some(from) = (row + tap).checked_sub(taps - 1) {
                            let term = f64::from(w[tap * channels + c])
                                * f64::from(x[from * channels + c]);
                            sum += term;
                            size += term.abs();
                        }
                    }
                    let expected = if silu {
                        sum / (1.0 + (-sum).exp())
                    } else {
                        sum
                    };
                    let off = (f64::from(out[row * channels + c]) - expected).abs();
                    // A rounding for each term, and those of a sigmoid.
                    let most = (taps + 4) as f64 * f64::from(f32::EPSILON) * (size + 1e-3);
                    assert!(
                        off <= most,
                        "{:?} {channels} {taps}: off by {off:e}",
                        team.isa
                    );
                }
            }
            for cuts in [&[1; 9][..], &[2, 0, 6, 1], &[8, 1]] {
                assert_eq!(run(cuts), (out.clone(), state.clone()), "{:?}", team.isa);
            }
        }
    });
}

#[test]
fn scans_follow_their_rule() {
    everywhere(|team| {
        let shapes = [
            (1, 1, 1, 1),
            (4, 2, 3, 5),
            (6, 2, 16, 16),
            (3, 3, 33, 40),
            (2, 1, 128, 17),
        ];
        for (i, (heads, key_heads, key_dim, value_dim)) in shapes.into_iter().enumerate() {
            for rule in [Rule::Add, Rule::Delta] {
                let tiled = i % 2 == 0;
                let shape = ScanShape {
                    heads,
                    key_heads,
                    key_dim,
                    value_dim,
                    tiled,
                };
                let rows = 7;
                let (keys, queries) = (1, 1 + key_heads * key_dim);
                let values = queries + key_heads * key_dim;
                let width = values + heads * value_dim + 2;
                let mut x = numbers(5 + i as u64, rows * width);
                // Keys of length one or less, as layers give them.
                let scale = 1.0 / (key_dim as f32).sqrt();
                x.iter_mut().for_each(|x| *x *= scale);
                let decay: Vec<f32> = numbers(9, rows * heads)
                    .iter()
                    .map(|d| 0.5 + d.abs() / 2.0)
                    .collect();
                let rate: Vec<f32> = numbers(11, rows * heads).iter().map(|d| d.abs()).collect();
                let skip = numbers(13, heads);
                let skip: &[f32] = if rule == Rule::Add { &skip } else { &[] };
                let run = |cuts: &[usize]| {
                    let mut out = vec![0f32; rows * heads * value_dim];
                    let state = in_steps(cuts, STATE_COLUMNS + shape.state(), |states, r| {
                        let part = |n: usize| r.start * n..r.end * n;
                        let input = ScanInput {
                            x: &x[part(width)],
                            width,
                            keys,
                            queries,
                            values,
                            decay: &decay[part(heads)],
                            rate: &rate[part(heads)],
                            skip,
                            rule,
                        };
                        let out = &mut out[part(heads * value_dim)];
                        scan_rows(
                            team,
                            (states, STATE_COLUMNS),
                            &span(r.len()),
                            &shape,
                            &input,
                            out,
                        );
                    });
                    (out, state)
                };
                let (out, state) = run(&[7]);
                for head in 0..heads {
                    let kh = if tiled {
                        head % key_heads
                    } else {
                        head / (heads / key_heads)
                    };
                    let mut s = vec![vec![0f64; value_dim]; key_dim];
                    for row in 0..rows {
                        let of = |at: usize, i: usize| f64::from(x[row * width + at + i]);
                        let (g, b) = (
                            f64::from(decay[row * heads + head]),
                            f64::from(rate[row * heads + head]),
                        );
                        for c in 0..value_dim {
                            let v = of(values, head * value_dim + c);
                            s.iter_mut().for_each(|s| s[c] *= g);
                            let has: f64 = (0..key_dim)
                                .map(|i| s[i][c] * of(keys, kh * key_dim + i))
                                .sum();
                            let u = match rule {
                                Rule::Add => b * v,
                                Rule::Delta => b * (v - has),
                            };
                            (0..key_dim).for_each(|i| s[i][c] += of(keys, kh * key_dim + i) * u);
                            let y: f64 = (0..key_dim)
                                .map(|i| s[i][c] * of(queries, kh * key_dim + i))
                                .sum();
                            let y = y + v * skip.get(head).map_or(0.0, |s| f64::from(*s));
                            let got = f64::from(out[(row * heads + head) * value_dim + c]);
                            // Products of a row, and what earlier rows were off by.
                            let most =
                                f64::from(f32::EPSILON) * (8.0 + key_dim as f64) * (row + 1) as f64;
                            assert!(
                                (got - y).abs() <= most,
                                "{:?} {shape:?} {rule:?}: {got} {y}",
                                team.isa
                            );
                        }
                    }
                }
                for cuts in [&[1; 7][..], &[3, 0, 4], &[6, 1]] {
                    assert_eq!(run(cuts), (out.clone(), state.clone()), "{:?}", team.isa);
                }
            }
        }
    });
}

#[test]
fn several_sequences_get_what_each_gets_alone() {
    everywhere(|team| {
        let shape = ScanShape {
            heads: 2,
            key_heads: 1,
            key_dim: 8,
            value_dim: 20,
            tiled: false,
        };
        let width = 2 * 8 + 40;
        let x = numbers(21, 5 * width);
        let (decay, rate) = (numbers(22, 10), numbers(23, 10));
        let scan =
            |spans: &[StateSpan], memory: &mut AlignedBytes, rows: std::ops::Range<usize>| {
                let input = ScanInput {
                    x: &x[rows.start * width..rows.end * width],
                    width,
                    keys: 0,
                    queries: 8,
                    values: 16,
                    decay: &decay[rows.start * 2..rows.end * 2],
                    rate: &rate[rows.start * 2..rows.end * 2],
                    skip: &[],
                    rule: Rule::Delta,
                };
                let mut out = vec![0f32; rows.len() * 40];
                let stride = slot_bytes(shape.state());
                let states = States::new(memory.as_mut_slice(), stride, 0, shape.state());
                scan_rows(team, (&states, 0), spans, &shape, &input, &mut out);
                out
            };
        let memory = || AlignedBytes::zeroed(3 * slot_bytes(shape.state())).unwrap();
        let (a, b) = (
            StateSpan {
                row: 0,
                rows: 2,
                slot: 2,
            },
            StateSpan {
                row: 2,
                rows: 3,
                slot: 0,
            },
        );
        let both = scan(&[a, b], &mut memory(), 0..5);
        let alone = scan(&[a], &mut memory(), 0..2);
        let other = scan(&[StateSpan { row: 0, ..b }], &mut memory(), 2..5);
        assert_eq!(both, [alone, other].concat());
    });
}

#[test]
#[should_panic(expected = "one span")]
fn a_slot_is_written_by_one_span() {
    let team = Team {
        isa: Isa::Scalar,
        pool: Pool::new(1).unwrap(),
    };
    let mut memory = AlignedBytes::zeroed(64).unwrap();
    let states = States::new(memory.as_mut_slice(), 64, 0, 16);
    let conv = Convolution {
        weights: &[1.0; 2],
        bias: &[],
        taps: 2,
        silu: false,
    };
    let spans = [0, 1].map(|row| StateSpan {
        row,
        rows: 1,
        slot: 0,
    });
    convolve_rows(&team, &states, &spans, &conv, &[1.0; 2], &mut [0.0; 2]);
}
