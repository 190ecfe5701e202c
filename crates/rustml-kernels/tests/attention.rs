//! Attention on every instruction set against softmax in double precision.

mod common;

use common::{bits, close, stored, team, Rng, EXP, SIGMOID, U};
use half::bf16;
use rustml_kernels::attention::{AttentionShape, Bias, KvShape, KvType, KV_BLOCK};
use rustml_kernels::par::{attend_rows, position_rows, Cache, Positioning, SpanView, Team};
use rustml_kernels::AlignedBytes;
use rustml_kernels::Phase;
use rustml_simd::Isa;
use std::sync::atomic::AtomicU64;

/// A cache in memory that holds NaN wherever nothing was stored.
struct Memory {
    shape: KvShape,
    bytes: AlignedBytes,
}

impl Memory {
    fn new(shape: KvShape, blocks: usize) -> Memory {
        let mut bytes = AlignedBytes::zeroed(blocks * Memory::stride(shape)).unwrap();
        bytes.as_mut_slice().fill(0xff); // NaN in values and scales
        Memory { shape, bytes }
    }
    /// Bytes of a block, of which some belong to other layers.
    fn stride(shape: KvShape) -> usize {
        2 * shape.block_bytes() + 192
    }
    fn cache(&mut self) -> Cache<'_> {
        let stride = Memory::stride(self.shape);
        Cache::new(self.shape, self.bytes.as_mut_slice(), stride, 128)
    }
}

/// A sequence: keys and values `[positions, kv_heads * head_dim]`, queries of
/// the last `rows` positions, and where it lies in the cache.
struct Sequence {
    keys: Vec<f32>,
    values: Vec<f32>,
    queries: Vec<f32>,
    positions: usize,
    rows: usize,
    blocks: Vec<u32>,
}

impl Sequence {
    fn new(rng: &mut Rng, a: &AttentionShape, kv: KvShape, positions: usize, rows: usize) -> Self {
        let width = kv.kv_heads * kv.head_dim;
        Sequence {
            keys: rng.floats(positions * width),
            values: rng.floats(positions * width),
            queries: rng.floats(rows * a.heads * kv.head_dim),
            positions,
            rows,
            blocks: Vec::new(),
        }
    }
    fn first(&self) -> usize {
        self.positions - self.rows
    }
}

/// Gives every sequence its blocks, scattered and interleaved; returns how many.
fn scatter(sequences: &mut [Sequence]) -> usize {
    let needed = |s: &Sequence| s.positions.div_ceil(KV_BLOCK);
    let total: usize = sequences.iter().map(needed).sum();
    // 5 has no factor in common with the number, so this visits all of it.
    let size = (total + 3) / 5 * 5 + 6;
    let mut free = (0..size).map(|i| (i * 5 + 3) % size);
    let mut left = total;
    while left > 0 {
        for s in sequences.iter_mut() {
            if s.blocks.len() < needed(s) {
                s.blocks.push(free.next().unwrap() as u32);
                left -= 1;
            }
        }
    }
    size
}

/// Stores all positions of the sequences.
fn store(team: &Team, cache: &Cache, heads: usize, kv: KvShape, sequences: &[Sequence]) {
    let (mut keys, mut values, mut spans) = (Vec::new(), Vec::new(), Vec::new());
    let mut row = 0;
    for s in sequences {
        keys.extend(&s.keys);
        values.extend(&s.values);
        spans.push(SpanView {
            row,
            rows: s.positions,
            first: 0,
            blocks: &s.blocks,
            phase: Phase::Decode,
        });
        row += s.positions;
    }
    let mut q = vec![0.0; row * heads * kv.head_dim];
    let plain = Positioning {
        qk_norm: None,
        rope: None,
    };
    position_rows(
        team, cache, &spans, &plain, heads, &mut q, &mut keys, &values, None,
    );
}

/// Whether rows are of prompts: the ways there are to compute on `isa`.
fn ways(isa: Isa) -> Vec<bool> {
    match team(isa, 1).prefill_attention_bf16() {
        true => vec![false, true],
        false => vec![false],
    }
}

/// Attention of the sequences' queries in one step.
fn attend(
    team: &Team,
    a: &AttentionShape,
    cache: &Cache,
    sequences: &[Sequence],
    prompt: bool,
) -> Vec<f32> {
    attend_some(team, a, cache, sequences, &vec![prompt; sequences.len()])
}

/// The same where some are prompts.
fn attend_some(
    team: &Team,
    a: &AttentionShape,
    cache: &Cache,
    sequences: &[Sequence],
    prompts: &[bool],
) -> Vec<f32> {
    let (mut queries, mut spans, mut row) = (Vec::new(), Vec::new(), 0);
    for (i, s) in sequences.iter().enumerate() {
        queries.extend(&s.queries);
        spans.push(SpanView {
            row,
            rows: s.rows,
            first: s.first(),
            blocks: &s.blocks,
            phase: match prompts[i] {
                true => Phase::Prefill,
                false => Phase::Decode,
            },
        });
        row += s.rows;
    }
    let mut out = vec![f32::NAN; queries.len()];
    attend_rows(team, a, cache, &spans, &queries, &mut out, None);
    out
}

/// What is added to the score of a position.
fn bias(bias: Bias, head: usize, query: usize, position: usize) -> f64 {
    f64::from(match bias {
        Bias::No => 0.0,
        Bias::Slopes(slopes) => -slopes[head] * query.abs_diff(position) as f32,
        Bias::Relative { table, reach } => {
            let table = &table[head * (2 * reach + 1)..][..2 * reach + 1];
            let ahead = position as isize - query as isize;
            table[(ahead.clamp(-(reach as isize), reach as isize) + reach as isize) as usize]
        }
    })
}

/// The definition, in double precision, of one query and what is stored of keys
/// and values; with the tolerance of each value.
fn naive(
    a: &AttentionShape,
    kv: KvShape,
    s: &Sequence,
    (keys, values): (&[f32], &[f32]),
    (row, head): (usize, usize),
    prompt: bool,
) -> Vec<(f64, f64)> {
    let (hd, width) = (kv.head_dim, kv.kv_heads * kv.head_dim);
    let kv_head = head / (a.heads / kv.kv_heads);
    let query = &s.queries[(row * a.heads + head) * hd..][..hd];
    let position = s.first() + row;
    let sees = |p: usize| {
        (p <= position || !a.causal)
            && a.window.is_none_or(|w| p.abs_diff(position) < w)
            && a.chunk.is_none_or(|c| p / c == position / c)
    };
    let seen: Vec<usize> = (0..s.positions).filter(|&p| sees(p)).collect();
    let (first, last) = (seen[0], seen[seen.len() - 1] + 1);
    assert_eq!(seen.len(), last - first);
    // What is stored is rounded to bfloat16 for rows of prompts, away from zero if two are as
    // near; and so are scaled queries, to even.
    let at = |x: &[f32], p: usize, d: usize| {
        let x = x[p * width + kv_head * hd + d];
        f64::from(match prompt {
            true => f32::from_bits(x.to_bits().wrapping_add(0x8000) & 0xffff_0000),
            false => x,
        })
    };
    let query = |d: usize| match prompt {
        true => bf16::from_f32(query[d] * a.scale).to_f64(),
        false => f64::from(query[d]) * f64::from(a.scale),
    };

    // Scores, and how far off they may be: a product and a sum for each term,
    // and the scaling of the query. Where groups of terms are multiplied by
    // their scale, a term is in no more sums: of its group, and of the groups.
    let mut scores = Vec::new();
    let mut off = 0f64;
    for p in first..last {
        let terms = (0..hd).map(|d| query(d) * at(keys, p, d));
        let (sum, size) = terms.fold((0.0, 0.0), |(sum, size), t| (sum + t, size + t.abs()));
        let mut error = (hd as f64 + 2.0) * U * size;
        let score = match a.soft_cap.map(f64::from) {
            // The slope of tanh is at most 1, and that of its argument's two
            // roundings x / cosh^2 x, at most 0.45.
            Some(cap) => {
                error += cap * (SIGMOID + 2.0 * U);
                cap * (sum / cap).tanh()
            }
            None => sum,
        };
        // Its own rounding, of a product with the distance, and the sum's.
        let bias = bias(a.bias, head, position, p);
        error += U * (2.0 * bias.abs() + (score + bias).abs());
        scores.push(score + bias);
        off = off.max(error);
    }
    // One more that has no value, so the last.
    scores.extend(a.sinks.get(head).map(|&s| f64::from(s)));
    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let widest = scores.iter().map(|s| max - s).fold(0.0, f64::max);
    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
    let total: f64 = weights.iter().sum();
    // Relative error of a weight: of its score and the maximum's, of their
    // difference, of exp; and for every block the factor that rebases it.
    let blocks = ((last - first) / KV_BLOCK + 2 + a.sinks.len().min(1)) as f64;
    let weight = 2.0 * off + (U * widest + EXP) * (1.0 + blocks) + 2.0 * U * blocks;
    // Weights and their sum are off by that, and both sums run over positions;
    // a scale may be multiplied with each weight.
    let relative = 2.0 * weight + (2.0 * (scores.len() as f64 + 2.0) + 1.0) * U;
    // Weights of prompts are rounded to bfloat16, too, but not their sum.
    let relative = relative + if prompt { 1.0 / 256.0 } else { 0.0 };
    (0..hd)
        .map(|d| {
            let terms = weights
                .iter()
                .zip(first..last)
                .map(|(w, p)| w / total * at(values, p, d));
            let (y, size) = terms.fold((0.0, 0.0), |(y, size), t| (y + t, size + t.abs()));
            // No weight is less than e^-87.3.
            (y, relative * size + scores.len() as f64 * 1.3e-38)
        })
        .collect()
}

/// Stores and attends on one instruction set, and compares with the definition.
fn check(isa: Isa, a: AttentionShape, kv: KvShape, lengths: &[(usize, usize)]) {
    let mut rng = Rng(0xabcd_ef01 + kv.head_dim as u64 * 77 + a.heads as u64);
    let sequences = lengths
        .iter()
        .map(|&(n, rows)| Sequence::new(&mut rng, &a, kv, n, rows));
    let mut sequences: Vec<_> = sequences.collect();
    let mut memory = Memory::new(kv, scatter(&mut sequences));
    let team = team(isa, 2);
    let cache = memory.cache();
    store(&team, &cache, a.heads, kv, &sequences);
    for prompt in ways(isa) {
        let out = attend(&team, &a, &cache, &sequences, prompt);
        let mut heads = out.chunks(kv.head_dim);
        for (i, s) in sequences.iter().enumerate() {
            let [keys, values] = [&s.keys, &s.values].map(|x| stored(x, kv.head_dim, kv.kv_type));
            for row in 0..s.rows {
                for head in 0..a.heads {
                    let got = heads.next().unwrap();
                    let expected = naive(&a, kv, s, (&keys, &values), (row, head), prompt);
                    for (d, (y, tolerance)) in expected.into_iter().enumerate() {
                        let what = format_args!("{isa:?} prompt {prompt} {a:?} {kv:?} sequence {i} of {lengths:?}, row {row} head {head} value {d}");
                        close(got[d], y, tolerance, what);
                    }
                }
            }
        }
        assert!(heads.next().is_none());
    }
}

const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Q8_0];

/// Heads and kv heads, so that 1 to 9 heads share one.
const GROUPS: [(usize, usize); 9] = [
    (4, 4),
    (4, 2),
    (9, 3),
    (8, 2),
    (5, 1),
    (6, 1),
    (14, 2),
    (8, 1),
    (9, 1),
];

fn shape(heads: usize, head_dim: usize) -> AttentionShape<'static> {
    AttentionShape::plain(heads, 1.0 / (head_dim as f32).sqrt())
}

#[test]
fn all_head_sizes_and_groups_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            for head_dim in [1, 4, 8, 16, 20, 40, 64, 80, 96, 128, 256, 512] {
                let kv = KvShape {
                    kv_heads: 2,
                    head_dim,
                    kv_type,
                };
                check(isa, shape(4, head_dim), kv, &[(70, 9)]);
            }
            for (heads, kv_heads) in GROUPS {
                let kv = KvShape {
                    kv_heads,
                    head_dim: 20,
                    kv_type,
                };
                check(isa, shape(heads, 20), kv, &[(67, 11)]);
            }
        }
    }
}

#[test]
fn all_context_lengths_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            let kv = KvShape {
                kv_heads: 1,
                head_dim: 20,
                kv_type,
            };
            // Every length with one query, and whole prompts.
            for n in 1..=200 {
                check(isa, shape(3, 20), kv, &[(n, 1)]);
            }
            for n in [1, 2, 63, 64, 65, 127, 128, 130] {
                check(isa, shape(2, 20), kv, &[(n, n)]);
            }
        }
    }
}

#[test]
fn windows_match() {
    for isa in Isa::available() {
        let kv = KvShape {
            kv_heads: 2,
            head_dim: 20,
            kv_type: KvType::F16,
        };
        for window in [1, 2, 17, 63, 64, 65, 100, 1000] {
            let a = AttentionShape {
                window: Some(window),
                ..shape(4, 20)
            };
            check(isa, a, kv, &[(150, 20), (200, 1), (5, 5)]);
        }
    }
}

#[test]
fn chunks_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            let kv = KvShape {
                kv_heads: 2,
                head_dim: 20,
                kv_type,
            };
            for (chunk, window, causal) in [
                (1, None, true),
                (5, None, true),
                (64, Some(10), true),
                (100, None, true),
                (100, Some(70), false),
                (1000, None, true),
            ] {
                let a = AttentionShape {
                    chunk: Some(chunk),
                    window,
                    causal,
                    ..shape(4, 20)
                };
                check(isa, a, kv, &[(150, 20), (200, 1), (5, 5), (210, 120)]);
            }
        }
    }
}

/// Of up to 9 heads: some that count for nothing, and some that outweigh everything.
const SINKS: [f32; 9] = [0.5, -3.0, 8.0, 0.0, 60.0, -90.0, 1.25, 300.0, 2.0];

/// As published for 8 heads, and one more.
const SLOPES: [f32; 9] = [
    0.5, 0.25, 0.125, 0.0625, 0.03125, 0.015625, 0.0078125, 0.00390625, 0.7,
];

#[test]
fn sinks_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            for (heads, kv_heads) in [(4, 2), (9, 3), (8, 1)] {
                let kv = KvShape {
                    kv_heads,
                    head_dim: 20,
                    kv_type,
                };
                for (window, soft_cap) in [(None, None), (Some(17), Some(5.0))] {
                    let a = AttentionShape {
                        window,
                        soft_cap,
                        sinks: &SINKS[..heads],
                        ..shape(heads, 20)
                    };
                    check(isa, a, kv, &[(150, 20), (700, 1), (1, 1), (65, 65)]);
                }
            }
        }
    }
}

fn check_bias(isa: Isa, kv: KvShape, bias: Bias) {
    for causal in [true, false] {
        for soft_cap in [None, Some(0.5)] {
            let a = AttentionShape {
                bias,
                causal,
                soft_cap,
                ..shape(6, 20)
            };
            check(isa, a, kv, &[(150, 20), (330, 1), (70, 70)]);
        }
    }
}

#[test]
fn biases_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            let kv = KvShape {
                kv_heads: 2,
                head_dim: 20,
                kv_type,
            };
            check_bias(isa, kv, Bias::Slopes(&SLOPES[..6]));
            for reach in [0, 3, 40, 400] {
                let table = &Rng(5).floats(6 * (2 * reach + 1));
                check_bias(isa, kv, Bias::Relative { table, reach });
            }
        }
    }
}

#[test]
fn soft_caps_match() {
    for isa in Isa::available() {
        let kv = KvShape {
            kv_heads: 1,
            head_dim: 64,
            kv_type: KvType::F32,
        };
        for cap in [0.5, 50.0] {
            let a = AttentionShape {
                soft_cap: Some(cap),
                scale: 2.0,
                ..shape(4, 64)
            };
            check(isa, a, kv, &[(130, 10)]);
        }
    }
}

#[test]
fn without_causality_every_query_sees_all() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            let kv = KvShape {
                kv_heads: 2,
                head_dim: 20,
                kv_type,
            };
            let a = AttentionShape {
                causal: false,
                ..shape(6, 20)
            };
            for n in [1, 10, 64, 65, 129] {
                check(isa, a, kv, &[(n, n)]);
            }
            for window in [1, 2, 30, 64, 200] {
                let a = AttentionShape {
                    window: Some(window),
                    ..a
                };
                check(isa, a, kv, &[(100, 100), (130, 7)]);
            }
        }
    }
}

#[test]
fn several_sequences_share_a_cache() {
    for isa in Isa::available() {
        let kv = KvShape {
            kv_heads: 2,
            head_dim: 64,
            kv_type: KvType::F16,
        };
        let spans = [(129, 1), (1, 1), (64, 64), (200, 3), (65, 30), (191, 1)];
        check(isa, shape(6, 64), kv, &spans);
    }
}

/// What each gets is the same to the bit whether those beside it are prompts or not.
#[test]
fn prompts_and_others_share_a_step() {
    for isa in Isa::available() {
        let kv = KvShape {
            kv_heads: 2,
            head_dim: 64,
            kv_type: KvType::F16,
        };
        let (a, mut rng) = (shape(6, 64), Rng(77));
        let lengths = [(129, 1), (64, 64), (200, 3), (300, 40), (70, 70), (191, 1)];
        let sequences = lengths.map(|(n, rows)| Sequence::new(&mut rng, &a, kv, n, rows));
        let mut sequences = Vec::from(sequences);
        let mut memory = Memory::new(kv, scatter(&mut sequences));
        let cache = memory.cache();
        store(&team(isa, 1), &cache, 6, kv, &sequences);
        let prompts = [false, true, false, true, true, false];
        for threads in [1, 3] {
            let team = team(isa, threads);
            let [alike, as_prompts] =
                [false, true].map(|p| attend(&team, &a, &cache, &sequences, p));
            let mixed = attend_some(&team, &a, &cache, &sequences, &prompts);
            let mut at = 0;
            for (s, prompt) in sequences.iter().zip(prompts) {
                let here = at..at + s.queries.len();
                let expected = if prompt { &as_prompts } else { &alike };
                assert_eq!(
                    bits(&mixed[here.clone()]),
                    bits(&expected[here.clone()]),
                    "{isa:?}"
                );
                at = here.end;
            }
            let same = bits(&alike) == bits(&as_prompts);
            assert_eq!(same, !team.prefill_attention_bf16(), "{isa:?}");
        }
    }
}

/// Sharp scores: one position takes nearly all, others underflow to nothing.
#[test]
fn sharp_scores_match() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            let kv = KvShape {
                kv_heads: 1,
                head_dim: 64,
                kv_type,
            };
            let a = AttentionShape {
                scale: 30.0,
                ..shape(2, 64)
            };
            check(isa, a, kv, &[(150, 12)]);
        }
    }
}

/// For up to 14 heads.
const ALL_SINKS: [f32; 14] = [
    0.5, 0.25, 0.125, 1.5, 0.75, 0.0, 2.0, 0.1, 0.2, 0.3, 0.4, 0.6, 0.7, 0.8,
];

#[test]
fn a_query_does_not_depend_on_what_is_computed_with_it() {
    let isas = Isa::available().into_iter();
    let ways = isas.flat_map(|isa| ways(isa).into_iter().map(move |prompt| (isa, prompt)));
    for (isa, prompt) in ways {
        for kv_type in KINDS {
            for (heads, kv_heads) in GROUPS {
                let kv = KvShape {
                    kv_heads,
                    head_dim: 20,
                    kv_type,
                };
                let plain = shape(heads, 20);
                for a in [
                    plain,
                    AttentionShape {
                        window: Some(70),
                        ..plain
                    },
                    AttentionShape {
                        chunk: Some(90),
                        sinks: &ALL_SINKS[..heads],
                        bias: Bias::Slopes(&ALL_SINKS[..heads]),
                        ..plain
                    },
                ] {
                    let mut rng = Rng(99);
                    let lengths = [(190, 23), (64, 64), (100, 1)];
                    let new = |&(n, rows): &_| Sequence::new(&mut rng, &a, kv, n, rows);
                    let mut all: Vec<_> = lengths.iter().map(new).collect();
                    let mut memory = Memory::new(kv, scatter(&mut all));
                    let team = team(isa, 3);
                    let cache = memory.cache();
                    store(&team, &cache, heads, kv, &all);
                    let together = attend(&team, &a, &cache, &all, prompt);
                    let mut rows = together.chunks(heads * 20);
                    for s in &all {
                        for row in 0..s.rows {
                            let one = Sequence {
                                keys: Vec::new(),
                                values: Vec::new(),
                                queries: s.queries[row * heads * 20..][..heads * 20].to_vec(),
                                positions: s.first() + row + 1,
                                rows: 1,
                                blocks: s.blocks.clone(),
                            };
                            let alone = attend(&team, &a, &cache, &[one], prompt);
                            let expected = rows.next().unwrap();
                            assert_eq!(bits(&alone), bits(expected), "{isa:?} {a:?} {kv:?}");
                        }
                    }
                }
            }
        }
    }
}

/// One thread computes everything as a whole, several share it: of one head block by
/// block, of two or of a long context in stretches.
#[test]
fn a_long_context_is_the_same_however_it_is_shared() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            for (kv_heads, n, rows) in [(1, 257, 1), (1, 700, 3), (2, 700, 3), (1, 2100, 1)] {
                let kv = KvShape {
                    kv_heads,
                    head_dim: 20,
                    kv_type,
                };
                for (window, odd) in [(None, false), (Some(330), false), (None, true)] {
                    let mut a = AttentionShape {
                        window,
                        ..shape(4, 20)
                    };
                    if odd {
                        a.sinks = &SINKS[..4];
                        a.bias = Bias::Slopes(&SLOPES[..4]);
                        a.chunk = Some(1500);
                    }
                    check(isa, a, kv, &[(n, rows)]);
                    let sequence = Sequence::new(&mut Rng(7), &a, kv, n, rows);
                    let mut all = [sequence];
                    let mut memory = Memory::new(kv, scatter(&mut all));
                    let cache = memory.cache();
                    store(&team(isa, 1), &cache, 4, kv, &all);
                    for prompt in ways(isa) {
                        let alone = attend(&team(isa, 1), &a, &cache, &all, prompt);
                        for threads in [2, 5] {
                            let shared = attend(&team(isa, threads), &a, &cache, &all, prompt);
                            assert_eq!(bits(&shared), bits(&alone), "{isa:?} {a:?} {kv:?} {n}");
                        }
                    }
                }
            }
        }
    }
}

/// NaN in a key makes the queries that see it NaN, and no others: nothing
/// hides it, and nothing leaks beyond it.
#[test]
fn nan_reaches_those_who_see_it_and_no_others() {
    for isa in Isa::available() {
        for kv_type in KINDS {
            for soft_cap in [None, Some(5.0)] {
                let kv = KvShape {
                    kv_heads: 1,
                    head_dim: 20,
                    kv_type,
                };
                let a = AttentionShape {
                    window: Some(20),
                    soft_cap,
                    ..shape(2, 20)
                };
                let mut s = [Sequence::new(&mut Rng(4), &a, kv, 100, 100)];
                s[0].keys[50 * 20 + 7] = f32::NAN;
                let mut memory = Memory::new(kv, scatter(&mut s));
                let team = team(isa, 1);
                let cache = memory.cache();
                store(&team, &cache, 2, kv, &s);
                for prompt in ways(isa) {
                    let out = attend(&team, &a, &cache, &s, prompt);
                    for (row, out) in out.chunks(40).enumerate() {
                        let sees = (50..70).contains(&row);
                        let what = format!("{isa:?} prompt {prompt} {kv_type:?} row {row}");
                        assert!(out.iter().all(|v| v.is_nan() == sees), "{what}: {out:?}");
                    }
                }
            }
        }
    }
}

#[test]
fn timed_and_untimed_results_are_the_same() {
    let isa = Isa::best();
    let kv = KvShape {
        kv_heads: 2,
        head_dim: 64,
        kv_type: KvType::F16,
    };
    let a = shape(8, 64);
    let mut s = [Sequence::new(&mut Rng(8), &a, kv, 200, 100)];
    let mut memory = Memory::new(kv, scatter(&mut s));
    let team = team(isa, 2);
    let cache = memory.cache();
    store(&team, &cache, 8, kv, &s);
    for prompt in ways(isa) {
        let plain = attend(&team, &a, &cache, &s, prompt);
        let (mut out, times) = (vec![f32::NAN; plain.len()], <[AtomicU64; 3]>::default());
        let spans = [SpanView {
            row: 0,
            rows: 100,
            first: 100,
            blocks: &s[0].blocks,
            phase: match prompt {
                true => Phase::Prefill,
                false => Phase::Decode,
            },
        }];
        let queries = &s[0].queries;
        attend_rows(&team, &a, &cache, &spans, queries, &mut out, Some(&times));
        assert_eq!(bits(&out), bits(&plain));
        let times = times.map(AtomicU64::into_inner);
        assert!(times.iter().all(|&t| t > 0), "{times:?}");
    }
}

#[test]
fn what_does_not_fit_is_refused() {
    let kv = KvShape {
        kv_heads: 1,
        head_dim: 8,
        kv_type: KvType::F32,
    };
    let plain = shape(2, 8);
    let mut s = [Sequence::new(&mut Rng(8), &plain, kv, 3, 3)];
    let mut memory = Memory::new(kv, scatter(&mut s));
    let team = team(Isa::Scalar, 1);
    let cache = memory.cache();
    store(&team, &cache, 2, kv, &s);
    let refused = |change: &dyn Fn(&mut AttentionShape)| {
        let mut a = plain;
        change(&mut a);
        let attend = || attend(&team, &a, &cache, &s, false);
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(attend)).is_err()
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|a| a.window = Some(0)));
    assert!(refused(&|a| a.chunk = Some(0)));
    assert!(refused(&|a| a.sinks = &[1.0]));
    assert!(refused(&|a| a.bias = Bias::Slopes(&[1.0; 3])));
    let (table, reach) = (&[1.0; 5][..], 1);
    assert!(refused(&|a| a.bias = Bias::Relative { table, reach }));
    let reach = usize::MAX;
    assert!(refused(&|a| a.bias = Bias::Relative { table, reach }));
}
