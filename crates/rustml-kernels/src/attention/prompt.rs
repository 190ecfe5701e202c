//! Attention of the rows of prompts where the processor multiplies bfloat16: queries, keys,
//! weights and values are such, sums in single precision.
//!
//! Many queries share a KV head, so each block of its keys and values is put in tiles once
//! for all of them. Softmax is computed online, query by query, in the order of positions;
//! weights are taken relative to a maximum that follows the scores only when they have
//! outgrown it by far, so that sums are seldom multiplied anew (Zadouri et al.,
//! "FlashAttention-4"). What a query gets depends neither on which others are computed with it
//! nor on where a job begins.

use super::bias::with_sink;
use super::product::Stored;
use super::{Bias, Job, Phases, KV_BLOCK, KV_GROUP};
use crate::acts::TILE_BYTES;
use crate::buffer::Lines;
use crate::ops::cap_row;
use crate::ticks::{ticks, ticks_since};
use rustml_simd::{exp, Avx512Bf16, Isa, Simd, TileProducts, Tiles};
use std::arch::x86_64::__m512;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Queries of a tile, and columns of a tile of sums.
const SIXTEEN: usize = Tiles::ROWS;

/// Values of a step: the inputs of a tile.
const STEP: usize = 32;

/// Blocks that are taken together, from an even one on: so that sums, which pass through
/// memory, do so half as often.
const BLOCKS: usize = 2;

/// Their positions.
const POSITIONS: usize = BLOCKS * KV_BLOCK;

/// Tiles of columns of their scores.
const COLUMNS: usize = POSITIONS / SIXTEEN;

/// Steps over their positions.
const STEPS: usize = POSITIONS / STEP;

/// Bytes of a row of a tile.
const ROW: usize = 64;

/// How far scores may be above the maximum that weights are relative to.
const OUTGROWN: f32 = 8.0;

/// What a job has in hand, in tiles.
struct Work<'a, M> {
    s: Avx512Bf16,
    products: M,
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
    /// Of each query, as the next two.
    max: *mut f32,
    total: *mut f32,
    /// The positions it sees.
    sees: Vec<Range<usize>>,
}

/// The rows `rows` of a job: in tile registers with AMX, else with the vectors' dot product.
///
/// # Safety
/// As for [`Job::attend`]; [`Isa::dots_bf16`] of this `isa`, which is available.
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx512bf16")]
pub unsafe fn attend<T: Stored>(
    isa: Isa,
    job: Job,
    rows: Range<usize>,
    phases: Option<&mut Phases>,
) {
    let s = Avx512Bf16::assume();
    match isa {
        Isa::Amx => attend_with::<_, T>((s, Tiles::new(2 * STEP)), job, rows, phases),
        _ => attend_with::<_, T>((s, s), job, rows, phases),
    }
}

/// The same with what multiplies tiles.
#[inline(always)]
unsafe fn attend_with<M: TileProducts, T: Stored>(
    (s, products): (Avx512Bf16, M),
    job: Job,
    rows: Range<usize>,
    mut phases: Option<&mut Phases>,
) {
    let (kv, group) = (job.cache.shape, job.group());
    let queries = rows.start * group..rows.end * group;
    let groups = queries.len().div_ceil(SIXTEEN);
    let (steps, columns) = (kv.head_dim.div_ceil(STEP), kv.head_dim.div_ceil(SIXTEEN));
    let lengths = [
        groups * steps,
        COLUMNS * steps,
        columns * STEPS,
        2 * COLUMNS,
        2 * STEPS,
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
        s,
        products,
        job,
        sees: queries.clone().map(|q| job.sees(q / group)).collect(),
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
    let blocks = job.blocks(rows);
    for b in (blocks.start / BLOCKS * BLOCKS..blocks.end).step_by(BLOCKS) {
        work.blocks::<T>(b, phases.as_deref_mut());
    }
    work.finish();
}

impl<M: TileProducts> Work<'_, M> {
    /// Where a query's values, or what it gets, lie in a buffer of rows.
    fn offset(&self, query: usize) -> usize {
        let (row, head) = self.row_and_head(query);
        row * self.job.q.stride + head * self.job.cache.shape.head_dim
    }

    fn row_and_head(&self, query: usize) -> (usize, usize) {
        let group = self.job.group();
        (query / group, self.job.kv_head * group + query % group)
    }

    /// Head and position of a query in hand.
    fn of(&self, query: usize) -> (usize, usize) {
        let (row, head) = self.row_and_head(self.queries.start + query);
        (head, self.job.q.first + row)
    }

    /// Tiles of 16 queries.
    fn groups(&self) -> usize {
        self.queries.len().div_ceil(SIXTEEN)
    }

    /// Scales the queries, and puts them in tiles; zeros follow their values, and the last
    /// of them. What has no query weighs nothing.
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

    /// All queries that see some of the blocks from `b` on.
    #[inline(always)]
    unsafe fn blocks<T: Stored>(&self, b: usize, mut phases: Option<&mut Phases>) {
        let start = b * KV_BLOCK;
        let here = start..start + POSITIONS;
        // Later queries see neither earlier nor fewer positions.
        let of = |queries: Range<usize>| {
            let (first, last) = (&self.sees[queries.start], &self.sees[queries.end - 1]);
            first.start.max(here.start)..last.end.min(here.end)
        };
        let seen = of(0..self.sees.len());
        let mut time = clock(phases.is_some());
        let mut spent = Phases::default();
        for i in 0..BLOCKS {
            self.put_keys::<T>(b + i, i, &seen);
            spent.scores += time();
            self.put_values::<T>(b + i, i, &seen);
            spent.values += time();
        }
        for group in (0..self.groups()).step_by(2) {
            let queries = group * SIXTEEN..self.sees.len().min((group + 2) * SIXTEEN);
            let seen = of(queries.clone());
            if seen.is_empty() {
                continue;
            }
            let steps = (seen.end - start).div_ceil(STEP);
            let both = group + 1 < self.groups();
            match both {
                true => self.score::<2>(group, steps),
                false => self.score::<1>(group, steps),
            }
            spent.scores += time();
            for first in queries.clone().step_by(SIXTEEN) {
                let some = first..queries.end.min(first + SIXTEEN);
                self.weigh(some, first - queries.start, start, steps);
            }
            spent.softmax += time();
            match both {
                true => self.add_values::<2>(group, steps),
                false => self.add_values::<1>(group, steps),
            }
            spent.values += time();
        }
        if let Some(phases) = &mut phases {
            phases.scores += spent.scores;
            phases.softmax += spent.softmax;
            phases.values += spent.values;
        }
    }

    /// Keys of block `b`, number `i` of those taken together, in tiles, which hold pairs of
    /// values of 16 positions; as far as some position is `seen`.
    #[inline(always)]
    unsafe fn put_keys<T: Stored>(&self, b: usize, i: usize, seen: &Range<usize>) {
        let (s, kv, start) = (self.s, self.job.cache.shape, b * KV_BLOCK);
        let columns = seen.end.saturating_sub(start).min(KV_BLOCK);
        let columns = columns.next_multiple_of(STEP) / SIXTEEN;
        if columns == 0 {
            return;
        }
        let (keys, _) = self
            .job
            .cache
            .head(self.job.q.blocks[b] as usize, self.job.kv_head);
        let scales = keys.add(kv.scales_at()).cast::<u16>();
        for d in (0..self.steps * STEP).step_by(2) {
            for column in 0..columns {
                let position = column * SIXTEEN;
                let mut pair = [s.splat(0.0); 2];
                for (d, x) in (d..kv.head_dim).zip(&mut pair) {
                    *x = T::load(s, keys.cast::<T::T>().add(d * KV_BLOCK + position));
                    if T::SCALED {
                        let scale = scales.add(d / KV_GROUP * KV_BLOCK + position);
                        *x = s.mul(*x, s.load_f16(scale));
                    }
                    *x = s.plain(*x);
                }
                let column = i * KV_BLOCK / SIXTEEN + column;
                let tile = column * self.steps + d / STEP;
                let to = tile * TILE_BYTES + d % STEP / 2 * ROW;
                s.store_i(self.keys.add(to), s.pair_bf16(pair[0], pair[1]));
            }
        }
    }

    /// Values of block `b`, likewise, in tiles, which hold pairs of positions of 16 values;
    /// zeros where no position is seen.
    #[inline(always)]
    unsafe fn put_values<T: Stored>(&self, b: usize, i: usize, seen: &Range<usize>) {
        let (s, kv, start) = (self.s, self.job.cache.shape, b * KV_BLOCK);
        let positions = seen.end.saturating_sub(start).min(KV_BLOCK);
        if positions == 0 {
            return;
        }
        let block = self.job.q.blocks[b] as usize;
        let (_, values) = self.job.cache.head(block, self.job.kv_head);
        let scales = values.add(kv.scales_at()).cast::<u16>();
        for position in (0..positions.next_multiple_of(STEP)).step_by(2) {
            for column in 0..self.columns {
                let d = column * SIXTEEN;
                let mut pair = [s.splat(0.0); 2];
                for (position, x) in (position..).zip(&mut pair) {
                    if !seen.contains(&(start + position)) {
                        continue;
                    }
                    let at = values.cast::<T::T>().add(position * kv.padded_dim() + d);
                    *x = T::load(s, at);
                    if T::SCALED {
                        let scale = *scales.add(d / KV_GROUP * KV_BLOCK + position);
                        let scale = half::f16::from_bits(scale).to_f32();
                        *x = s.mul(*x, s.splat(scale));
                    }
                    *x = s.plain(*x);
                }
                let position = i * KV_BLOCK + position;
                let tile = column * STEPS + position / STEP;
                let to = tile * TILE_BYTES + position % STEP / 2 * ROW;
                s.store_i(self.values.add(to), s.pair_bf16(pair[0], pair[1]));
            }
        }
    }

    /// Scores of `R` times 16 queries for so many steps of positions.
    #[inline(always)]
    unsafe fn score<const R: usize>(&self, group: usize, steps: usize) {
        let of_group = self.steps * TILE_BYTES;
        let q = (self.q.add(group * of_group).cast_const(), of_group);
        for column in (0..2 * steps).step_by(2) {
            let keys = (self.keys.add(column * of_group).cast_const(), of_group);
            let to = self.scores.add(column * TILE_BYTES);
            let to = (to, COLUMNS * TILE_BYTES, TILE_BYTES);
            self.products
                .add_products::<R, 2>(q, keys, self.steps, to, true);
        }
    }

    /// Turns the scores of up to 16 queries, number `at` and on of those whose scores there
    /// are, into weights: for so many steps of positions from `start` on, zero where a query
    /// does not see.
    ///
    /// Loops, not closures, in which vectors would be slow: those are not compiled for the
    /// instruction set.
    #[inline(always)]
    unsafe fn weigh(&self, queries: Range<usize>, at: usize, start: usize, steps: usize) {
        let (s, columns, shape) = (self.s, 2 * steps, self.job.shape);
        let scores = self.scores.add(at / SIXTEEN * COLUMNS * TILE_BYTES);
        let weights = self.weights.add(at / SIXTEEN * STEPS * TILE_BYTES);
        let mut largest = [f32::NEG_INFINITY; SIXTEEN];
        let mut seen = [[0u16; COLUMNS]; SIXTEEN];
        for (n, query) in queries.clone().enumerate() {
            seen[n] = positions(&self.sees[query], start);
            let row = scores.add(n * ROW);
            let mut max = s.splat(f32::NEG_INFINITY);
            for column in 0..columns {
                let scores = row.add(column * TILE_BYTES).cast::<f32>();
                if let Some(cap) = shape.soft_cap {
                    cap_row(s, std::slice::from_raw_parts_mut(scores, SIXTEEN), cap);
                }
                if !matches!(shape.bias, Bias::No) {
                    let (head, position) = self.of(query);
                    let first = start + column * SIXTEEN;
                    let scores = std::slice::from_raw_parts_mut(scores, SIXTEEN);
                    shape.bias.add(s, head, position, first, scores);
                }
                let score = s.keep(seen[n][column], s.load(scores), f32::NEG_INFINITY);
                max = s.max(max, score);
            }
            largest[n] = s.reduce_max(max);
        }
        for (n, query) in queries.enumerate() {
            let max = *self.max.add(query);
            // What is not a number outgrows every number.
            let fits = largest[n] <= max + OUTGROWN;
            if !fits && seen[n] != [0; COLUMNS] {
                self.outgrow(query, largest[n]);
            }
            let start = s.splat(-LOG2_E * *self.max.add(query));
            let mut sum = s.splat(0.0);
            for column in 0..columns {
                let score = s.load(scores.add(n * ROW + column * TILE_BYTES).cast());
                let weight = s.exp2(s.fma(score, s.splat(LOG2_E), start));
                let weight = s.keep(seen[n][column], weight, 0.0);
                sum = s.add(sum, weight);
                let to = column / 2 * TILE_BYTES + n * ROW + column % 2 * ROW / 2;
                s.store_bf16(weights.add(to).cast(), weight);
            }
            *self.total.add(query) += s.reduce_add(sum);
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

    /// Adds the weighted values of so many steps of positions to the sums of `R` times 16
    /// queries.
    #[inline(always)]
    unsafe fn add_values<const R: usize>(&self, group: usize, steps: usize) {
        let of_column = STEPS * TILE_BYTES;
        let weights = (self.weights.cast_const(), of_column);
        for column in (0..self.columns).step_by(2) {
            let values = (self.values.add(column * of_column).cast_const(), of_column);
            let to = self.sums.add((group * self.columns + column) * TILE_BYTES);
            let to = (to, self.columns * TILE_BYTES, TILE_BYTES);
            let products = &self.products;
            match column + 1 < self.columns {
                true => products.add_products::<R, 2>(weights, values, steps, to, false),
                false => products.add_products::<R, 1>(weights, values, steps, to, false),
            }
        }
    }

    /// What every query gets: its sums divided by the sum of its weights.
    #[inline(always)]
    unsafe fn finish(&self) {
        let (s, hd) = (self.s, self.job.cache.shape.head_dim);
        for query in 0..self.queries.len() {
            let out = self.job.q.out.add(self.offset(self.queries.start + query));
            let (mut kept, mut total) = (1.0, *self.total.add(query));
            if !self.job.shape.sinks.is_empty() {
                let sink = self.job.shape.sinks[self.of(query).0];
                (kept, total) = with_sink(s, *self.max.add(query), total, sink);
            }
            let (kept, total) = (s.splat(kept), s.splat(total));
            for column in 0..self.columns {
                let (d, x) = (column * SIXTEEN, s.load(self.sum(query, column)));
                let y = s.div(s.mul(x, kept), total);
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

/// Which of the [`POSITIONS`] from `start` on are in a range, bit by bit.
fn positions(range: &Range<usize>, start: usize) -> [u16; COLUMNS] {
    let below = |end: usize| match end.saturating_sub(start) {
        POSITIONS.. => u128::MAX,
        n => (1 << n) - 1,
    };
    let here: u128 = below(range.end) & !below(range.start);
    std::array::from_fn(|column| (here >> (column * SIXTEEN)) as u16)
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
