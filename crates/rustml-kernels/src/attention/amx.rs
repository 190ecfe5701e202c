//! Attention of the rows of prompts with AMX: queries, keys, weights and values in
//! bfloat16, sums in single precision.
//!
//! Many queries share a KV head, so each block of its keys and values is put in tiles once
//! for all of them. Softmax is computed online, query by query, in the order of positions;
//! weights are taken relative to a maximum that follows the scores only when they have
//! outgrown it by far, so that sums are seldom multiplied anew (Zadouri et al.,
//! "FlashAttention-4"). What a query gets depends neither on which others are computed with it
//! nor on where a job begins.

use super::product::Stored;
use super::{Job, Phases, KV_BLOCK, KV_GROUP};
use crate::acts::TILE_BYTES;
use crate::buffer::Lines;
use crate::ops::cap_row;
use crate::ticks::{ticks, ticks_since};
use rustml_simd::{exp, Avx512, Simd, Tiles};
use std::arch::x86_64::__m512;
use std::ops::Range;

/// Queries of a tile, and columns of a tile of sums.
const SIXTEEN: usize = Tiles::ROWS;

/// Values of a step: the inputs of a tile.
const STEP: usize = 32;

/// Tiles of columns of a block's scores.
const COLUMNS: usize = KV_BLOCK / SIXTEEN;

/// Steps over a block's positions.
const POSITIONS: usize = KV_BLOCK / STEP;

/// How far scores may be above the maximum that weights are relative to.
const OUTGROWN: f32 = 8.0;

/// What a job has in hand, in tiles.
struct Work<'a> {
    s: Avx512,
    tiles: Tiles,
    job: Job<'a>,
    /// Numbers of the first query and of the one after the last: row by row, the heads of a
    /// group together.
    queries: Range<usize>,
    /// Steps over the values of a head.
    steps: usize,
    /// Tiles of columns of a head's values.
    columns: usize,
    /// `[16 queries][step]`
    q: *mut u8,
    /// `[column of positions][step]`
    keys: *mut u8,
    /// `[column of values][step over positions]`
    values: *mut u8,
    /// Of 32 queries: `[16 queries][column of positions]`
    scores: *mut u8,
    /// Of 32 queries: `[16 queries][step over positions]`
    weights: *mut u8,
    /// `[16 queries][column of values]`
    sums: *mut u8,
    /// Of each query.
    max: *mut f32,
    /// Of each query.
    total: *mut f32,
}

/// The rows `rows` of a job.
///
/// # Safety
/// As for [`Job::attend`]; [`rustml_simd::Isa::Amx`] is available.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
pub unsafe fn attend<T: Stored>(job: Job, rows: Range<usize>, mut phases: Option<&mut Phases>) {
    let (kv, group) = (job.cache.shape, job.group());
    let queries = rows.start * group..rows.end * group;
    let groups = queries.len().div_ceil(SIXTEEN);
    let (steps, columns) = (kv.head_dim.div_ceil(STEP), kv.head_dim.div_ceil(SIXTEEN));
    let lengths = [
        groups * steps,
        COLUMNS * steps,
        columns * POSITIONS,
        2 * COLUMNS,
        2 * POSITIONS,
        groups * columns,
    ];
    let tiles: usize = lengths.iter().sum();
    let states = groups * SIXTEEN;
    let mut lines = Lines::take(tiles * TILE_BYTES + 2 * states * size_of::<f32>());
    let mut at = lines.start();
    let [q, keys, values, scores, weights, sums] = lengths.map(|n| {
        let start = at;
        at = at.wrapping_add(n * TILE_BYTES);
        start
    });
    let max = at.cast::<f32>();
    let work = Work {
        s: Avx512::assume(),
        tiles: Tiles::new(2 * STEP),
        job,
        queries,
        steps,
        columns,
        q,
        keys,
        values,
        scores,
        weights,
        sums,
        max,
        total: max.wrapping_add(states),
    };
    std::slice::from_raw_parts_mut(max, states).fill(f32::NEG_INFINITY);
    std::slice::from_raw_parts_mut(work.total, states).fill(0.0);
    std::slice::from_raw_parts_mut(sums, groups * columns * TILE_BYTES).fill(0);
    work.put_queries();
    for b in job.blocks(rows) {
        work.block::<T>(b, phases.as_deref_mut());
    }
    work.finish();
}

impl Work<'_> {
    /// Row and head of a query.
    fn row_and_head(&self, query: usize) -> (usize, usize) {
        let group = self.job.group();
        (query / group, self.job.kv_head * group + query % group)
    }

    /// Where a query's values, or what it gets, lie in a buffer of rows.
    fn offset(&self, query: usize) -> usize {
        let (row, head) = self.row_and_head(query);
        row * self.job.q.stride + head * self.job.cache.shape.head_dim
    }

    /// Tiles of 16 queries.
    fn groups(&self) -> usize {
        self.queries.len().div_ceil(SIXTEEN)
    }

    /// Scales the queries, and puts them in tiles; zeros follow their values and the last
    /// of them.
    #[inline(always)]
    unsafe fn put_queries(&self) {
        let (s, hd) = (self.s, self.job.cache.shape.head_dim);
        let scale = s.splat(self.job.shape.scale);
        for i in 0..self.groups() * SIXTEEN {
            let query = self.queries.start + i;
            let row = self
                .q
                .add(i / SIXTEEN * self.steps * TILE_BYTES + i % SIXTEEN * 2 * STEP);
            for d in (0..self.steps * STEP).step_by(SIXTEEN) {
                let x = match query < self.queries.end {
                    true => self.some(self.job.q.q.add(self.offset(query)), d, hd),
                    false => s.splat(0.0),
                };
                let to = row.add(d / STEP * TILE_BYTES + d % STEP * 2);
                s.store_bf16(to.cast(), s.mul(x, scale));
            }
        }
    }

    /// Values `d..d + 16` of `len` at `x`, and zeros beyond.
    #[inline(always)]
    unsafe fn some(&self, x: *const f32, d: usize, len: usize) -> __m512 {
        if d + SIXTEEN <= len {
            return self.s.load(x.add(d));
        }
        let mut some = [0f32; SIXTEEN];
        let n = len.saturating_sub(d);
        std::ptr::copy_nonoverlapping(x.wrapping_add(d), some.as_mut_ptr(), n);
        self.s.load(some.as_ptr())
    }

    /// All queries that see some of block `b`.
    #[inline(always)]
    unsafe fn block<T: Stored>(&self, b: usize, mut phases: Option<&mut Phases>) {
        let (job, start) = (&self.job, b * KV_BLOCK);
        let of = |query: usize| job.sees(self.row_and_head(query).0);
        let (first, last) = (of(self.queries.start).start, of(self.queries.end - 1).end);
        let seen = first.max(start) - start..last.min(start + KV_BLOCK) - start;
        let (keys, values) = job.cache.head(job.q.blocks[b] as usize, job.kv_head);
        let mut time = clock(phases.is_some());
        self.put_keys::<T>(keys);
        let mut spent = Phases {
            scores: time(),
            ..Phases::default()
        };
        self.put_values::<T>(values, seen);
        spent.values += time();
        for group in (0..self.groups()).step_by(2) {
            let at = self.queries.start + group * SIXTEEN;
            let end = self.queries.end.min(at + 2 * SIXTEEN);
            if of(end - 1).end <= start || of(at).start >= start + KV_BLOCK {
                continue;
            }
            let both = group + 1 < self.groups();
            match both {
                true => self.score::<2>(group),
                false => self.score::<1>(group),
            }
            spent.scores += time();
            for query in at..at.saturating_add(2 * SIXTEEN) {
                if query < end {
                    let range = of(query);
                    let from = range.start.max(start).saturating_sub(start).min(KV_BLOCK);
                    let to = range.end.min(start + KV_BLOCK).saturating_sub(start);
                    self.weigh(query - at, group, from.min(to)..to);
                } else if both || query < at + SIXTEEN {
                    self.no_weights(query - at);
                }
            }
            spent.softmax += time();
            match both {
                true => self.add_values::<2>(group),
                false => self.add_values::<1>(group),
            }
            spent.values += time();
        }
        if let Some(phases) = &mut phases {
            phases.scores += spent.scores;
            phases.softmax += spent.softmax;
            phases.values += spent.values;
        }
    }

    /// A block's keys in tiles, which hold pairs of values of 16 positions.
    #[inline(always)]
    unsafe fn put_keys<T: Stored>(&self, keys: *const u8) {
        let (s, kv) = (self.s, self.job.cache.shape);
        let scales = keys.add(kv.scales_at()).cast::<u16>();
        let row = |d: usize, position: usize| {
            if d >= kv.head_dim {
                return s.splat(0.0);
            }
            let x = T::load(s, keys.cast::<T::T>().add(d * KV_BLOCK + position));
            s.plain(match T::SCALED {
                true => s.mul(
                    x,
                    s.load_f16(scales.add(d / KV_GROUP * KV_BLOCK + position)),
                ),
                false => x,
            })
        };
        for d in (0..self.steps * STEP).step_by(2) {
            for column in 0..COLUMNS {
                let position = column * SIXTEEN;
                let pairs = s.pair_bf16(row(d, position), row(d + 1, position));
                let tile = column * self.steps + d / STEP;
                s.store_i(self.keys.add(tile * TILE_BYTES + d % STEP * 32), pairs);
            }
        }
    }

    /// A block's values in tiles, which hold pairs of positions of 16 values; zeros where
    /// no position is `seen`.
    #[inline(always)]
    unsafe fn put_values<T: Stored>(&self, values: *const u8, seen: Range<usize>) {
        let (s, kv) = (self.s, self.job.cache.shape);
        let scales = values.add(kv.scales_at()).cast::<u16>();
        let row = |position: usize, d: usize| {
            if !seen.contains(&position) {
                return s.splat(0.0);
            }
            let x = T::load(s, values.cast::<T::T>().add(position * kv.padded_dim() + d));
            s.plain(match T::SCALED {
                true => {
                    let scale = *scales.add(d / KV_GROUP * KV_BLOCK + position);
                    s.mul(x, s.splat(half::f16::from_bits(scale).to_f32()))
                }
                false => x,
            })
        };
        for position in (0..KV_BLOCK).step_by(2) {
            for column in 0..self.columns {
                let d = column * SIXTEEN;
                let pairs = s.pair_bf16(row(position, d), row(position + 1, d));
                let tile = column * POSITIONS + position / STEP;
                let at = tile * TILE_BYTES + position % STEP * 32;
                s.store_i(self.values.add(at), pairs);
            }
        }
    }

    /// Scores of `R` times 16 queries.
    #[inline(always)]
    unsafe fn score<const R: usize>(&self, group: usize) {
        let of_group = self.steps * TILE_BYTES;
        let q = (self.q.add(group * of_group).cast_const(), of_group);
        for column in (0..COLUMNS).step_by(2) {
            let keys = (self.keys.add(column * of_group).cast_const(), of_group);
            let to = self.scores.add(column * TILE_BYTES);
            let to = (to, COLUMNS * TILE_BYTES, TILE_BYTES);
            self.tiles.add_pairs::<R, 2>(q, keys, self.steps, to, true);
        }
    }

    /// Turns the scores of query `n` of the 32 that begin with a group into weights, zero
    /// where it does not see.
    #[inline(always)]
    unsafe fn weigh(&self, n: usize, group: usize, seen: Range<usize>) {
        let s = self.s;
        if seen.is_empty() {
            return self.no_weights(n);
        }
        let row = n / SIXTEEN * COLUMNS * TILE_BYTES + n % SIXTEEN * 64;
        let scores = |column: usize| self.scores.add(row + column * TILE_BYTES).cast::<f32>();
        let all = seen == (0..KV_BLOCK);
        if let Some(cap) = self.job.shape.soft_cap {
            for column in 0..COLUMNS {
                let x = std::slice::from_raw_parts_mut(scores(column), SIXTEEN);
                cap_row(s, x, cap);
            }
        }
        let hide = |with: f32| {
            for position in (0..seen.start).chain(seen.end..KV_BLOCK) {
                *scores(position / SIXTEEN).add(position % SIXTEEN) = with;
            }
        };
        if !all {
            hide(f32::NEG_INFINITY);
        }
        let x: [_; COLUMNS] = std::array::from_fn(|column| s.load(scores(column)));
        let largest = x.into_iter().reduce(|a, b| s.max(a, b)).expect("columns");
        let largest = s.reduce_max(largest);
        let query = group * SIXTEEN + n;
        let (max, total) = (self.max.add(query), self.total.add(query));
        let outgrown = *max + OUTGROWN;
        // What is not a number outgrows every number.
        if largest > outgrown || !(largest <= outgrown) {
            self.outgrow(query, largest);
        }
        let m = s.splat(*max);
        let mut x = x.map(|x| exp(s, s.sub(x, m)));
        if !all {
            // Not quite 0 as they are.
            for (column, x) in x.iter().enumerate() {
                s.store(scores(column), *x);
            }
            hide(0.0);
            x = std::array::from_fn(|column| s.load(scores(column)));
        }
        let sum = x.into_iter().reduce(|a, b| s.add(a, b)).expect("columns");
        *total += s.reduce_add(sum);
        for (column, x) in x.into_iter().enumerate() {
            s.store_bf16(self.weight(n, column).cast(), x);
        }
    }

    /// Where weights of query `n` for 16 positions go.
    #[inline(always)]
    unsafe fn weight(&self, n: usize, column: usize) -> *mut u8 {
        let tile = n / SIXTEEN * POSITIONS + column / 2;
        let at = tile * TILE_BYTES + n % SIXTEEN * 64 + column % 2 * 32;
        self.weights.add(at)
    }

    /// Query `n` weighs nothing.
    #[inline(always)]
    unsafe fn no_weights(&self, n: usize) {
        for column in 0..COLUMNS {
            self.s
                .store_bf16(self.weight(n, column).cast(), self.s.splat(0.0));
        }
    }

    /// Makes `max` what a query's weights are relative to.
    #[inline(always)]
    unsafe fn outgrow(&self, query: usize, max: f32) {
        let s = self.s;
        let (old, total) = (self.max.add(query), self.total.add(query));
        // The first maximum is followed by nothing that was summed up.
        if *old != f32::NEG_INFINITY {
            let mut kept = [*old - max; SIXTEEN];
            s.store(kept.as_mut_ptr(), exp(s, s.load(kept.as_ptr())));
            *total *= kept[0];
            let kept = s.splat(kept[0]);
            for column in 0..self.columns {
                let sums = self.sum(query, column);
                s.store(sums, s.mul(s.load(sums), kept));
            }
        }
        *old = max;
    }

    /// Where a query's sums for 16 values are.
    #[inline(always)]
    unsafe fn sum(&self, query: usize, column: usize) -> *mut f32 {
        let tile = query / SIXTEEN * self.columns + column;
        let at = tile * TILE_BYTES + query % SIXTEEN * 64;
        self.sums.add(at).cast()
    }

    /// Adds the weighted values to the sums of `R` times 16 queries.
    #[inline(always)]
    unsafe fn add_values<const R: usize>(&self, group: usize) {
        let of_column = POSITIONS * TILE_BYTES;
        let weights = (self.weights.cast_const(), of_column);
        for column in (0..self.columns).step_by(2) {
            let values = (self.values.add(column * of_column).cast_const(), of_column);
            let to = self.sums.add((group * self.columns + column) * TILE_BYTES);
            let to = (to, self.columns * TILE_BYTES, TILE_BYTES);
            let tiles = &self.tiles;
            match column + 1 < self.columns {
                true => tiles.add_pairs::<R, 2>(weights, values, POSITIONS, to, false),
                false => tiles.add_pairs::<R, 1>(weights, values, POSITIONS, to, false),
            }
        }
    }

    /// What every query gets: its sums divided by the sum of its weights.
    #[inline(always)]
    unsafe fn finish(&self) {
        let (s, hd) = (self.s, self.job.cache.shape.head_dim);
        for query in 0..self.queries.len() {
            let out = self.job.q.out.add(self.offset(self.queries.start + query));
            let total = s.splat(*self.total.add(query));
            for column in 0..self.columns {
                let (d, x) = (column * SIXTEEN, s.load(self.sum(query, column)));
                let y = s.div(x, total);
                if d + SIXTEEN <= hd {
                    s.store(out.add(d), y);
                    continue;
                }
                let mut some = [0f32; SIXTEEN];
                s.store(some.as_mut_ptr(), y);
                std::ptr::copy_nonoverlapping(some.as_ptr(), out.add(d), hd - d);
            }
        }
    }
}

/// Ticks since this was asked last, or made; none if nobody wants to know.
fn clock(wanted: bool) -> impl FnMut() -> u64 {
    let mut last = wanted.then(ticks);
    move || {
        let Some(last) = &mut last else {
            return 0;
        };
        let spent = ticks_since(*last);
        *last = ticks();
        spent
    }
}
