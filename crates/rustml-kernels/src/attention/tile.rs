//! The kernel of attention: some queries at once against what they see.

use super::bias::with_sink;
use super::product::{product, weigh, Fetch, Stored, To};
use super::{
    After, AttentionShape, Bias, Job, Phases, KV_BLOCK, KV_GROUP, MAX_HEAD_DIM, PAD, ROW, STRETCH,
};
use crate::ops::cap_row;
use crate::panel::LINE;
use crate::ticks::{ticks, ticks_since};
use rustml_simd::{exp, Simd};
use std::mem::MaybeUninit;
use std::ops::Range;

/// Some blocks of one stretch alone, and where the parts go that they give.
pub type Part = Option<(Range<usize>, *mut f32)>;

/// All queries of `rows`, as many at a time as there are registers for.
///
/// # Safety
/// As for [`Job::attend`] or, with a part, [`Job::attend_split`].
#[inline(always)]
pub unsafe fn tiles<S: Simd, T: Stored>(
    s: S,
    job: Job,
    rows: Range<usize>,
    part: Part,
    mut phases: Option<&mut Phases>,
) {
    // Queries are numbered row by row, the heads of a group together.
    let group = job.group();
    let (first, end) = (rows.start * group, rows.end * group);
    let mut at = first;
    while at < end {
        let phases = phases.as_deref_mut();
        let part = part.clone();
        let part = part.map(|(blocks, to)| (blocks, to.add((at - first) * job.part_len())));
        at += match end - at {
            8.. => tile::<S, T, 8>(s, job, at, part, phases),
            4.. => tile::<S, T, 4>(s, job, at, part, phases),
            3 => tile::<S, T, 3>(s, job, at, part, phases),
            2 => tile::<S, T, 2>(s, job, at, part, phases),
            _ => tile::<S, T, 1>(s, job, at, part, phases),
        };
    }
}

/// Working memory of a tile, one row for each query. None of it is read
/// before it is written.
struct Work<const N: usize> {
    /// Scaled.
    queries: MaybeUninit<[[f32; ROW]; N]>,
    /// Of a block; then the weights.
    scores: MaybeUninit<[[f32; KV_BLOCK]; N]>,
    /// The weights times the scales of each group of values.
    scaled: MaybeUninit<[[[f32; KV_BLOCK]; N]; MAX_HEAD_DIM / KV_GROUP]>,
    /// Weighted sums of values, of a stretch and of those before it.
    sums: [MaybeUninit<[[f32; ROW]; N]>; 2],
}

/// Maximum of the scores and sum of the weights, of each query.
#[derive(Clone, Copy)]
struct State<const N: usize> {
    max: [f32; N],
    total: [f32; N],
}

impl<const N: usize> State<N> {
    const EMPTY: Self = State {
        max: [f32::NEG_INFINITY; N],
        total: [0.0; N],
    };

    /// Adds what other positions gave, and returns the factors of what was summed up
    /// before and of what is added.
    #[inline(always)]
    fn add<S: Simd>(&mut self, s: S, other: &Self) -> [[f32; N]; 2] {
        let mut factors = [[0f32; 16]; 2]; // the widest vector
        for n in 0..N {
            let (old, more) = (self.max[n], other.max[n]);
            self.max[n] = if more > old { more } else { old };
            factors[0][n] = old - self.max[n];
            factors[1][n] = more - self.max[n];
        }
        for i in (0..N).step_by(S::LANES) {
            for factors in &mut factors {
                // SAFETY: a whole vector, of as many as the widest has.
                unsafe {
                    let at = factors.as_mut_ptr().add(i);
                    s.store(at, exp(s, s.load(at)));
                }
            }
        }
        // What saw nothing has no weight; nobody may have seen anything yet.
        let [a, b] = &mut factors;
        for n in 0..N {
            if self.total[n] == 0.0 {
                a[n] = 0.0;
            }
            if other.total[n] == 0.0 {
                b[n] = 0.0;
            }
            self.total[n] = self.total[n] * a[n] + other.total[n] * b[n];
        }
        factors.map(|f| std::array::from_fn(|n| f[n]))
    }
}

/// `N` queries from number `at` on against all they see; returns `N`.
#[inline(always)]
unsafe fn tile<S: Simd, T: Stored, const N: usize>(
    s: S,
    job: Job,
    at: usize,
    part: Part,
    mut phases: Option<&mut Phases>,
) -> usize {
    let kv = job.cache.shape;
    let (hd, padded, group) = (kv.head_dim, kv.padded_dim(), job.group());
    let head_of = |query: usize| job.kv_head * group + query % group;
    let offset = |n: usize| {
        let (row, head) = ((at + n) / group, head_of(at + n));
        row * job.q.stride + head * hd
    };
    let mut work = Work::<N> {
        queries: MaybeUninit::uninit(),
        scores: MaybeUninit::uninit(),
        scaled: MaybeUninit::uninit(),
        sums: [const { MaybeUninit::uninit() }; 2],
    };
    let queries = work.queries.as_mut_ptr().cast::<f32>();
    let scores = work.scores.as_mut_ptr().cast::<f32>();
    let scaled = work.scaled.as_mut_ptr().cast::<f32>();
    let scales = |part: *mut u8| part.add(kv.scales_at()).cast::<u16>().cast_const();
    let [sums, whole] = work.sums.each_mut().map(|w| w.as_mut_ptr().cast::<f32>());
    let mut sees = [(0usize, 0usize); N];
    for n in 0..N {
        let x = job.q.q.add(offset(n));
        for d in 0..hd {
            *queries.add(n * ROW + d) = *x.add(d) * job.shape.scale;
        }
        let range = job.sees((at + n) / group);
        sees[n] = (range.start, range.end);
    }
    // Later rows see neither earlier nor fewer positions.
    let (first, last) = (sees[0].0, sees[N - 1].1);
    let all = first / KV_BLOCK..last.div_ceil(KV_BLOCK);
    let (blocks, to) = match part {
        Some((b, to)) => (b.start.max(all.start)..b.end.min(all.end), Some(to)),
        None => (all, None),
    };
    if blocks.is_empty() {
        // None of these queries sees this part.
        for n in 0..N {
            std::slice::from_raw_parts_mut(whole.add(n * ROW), padded).fill(0.0);
        }
    }
    let (mut state, mut before) = (State::<N>::EMPTY, State::<N>::EMPTY);
    // The first stretch is where later ones are added to.
    let mut stretch = whole;
    for b in blocks.clone() {
        let start = b * KV_BLOCK;
        let begins = b == blocks.start || b % STRETCH == 0;
        if begins && b > blocks.start {
            put_together(s, (&mut before, whole), (&state, stretch), padded);
            (state, stretch) = (State::EMPTY, sums);
        }
        let block = job.q.blocks[b] as usize;
        let (keys, values) = job.cache.head(block, job.kv_head);
        let cols = first.max(start) - start..last.min(start + KV_BLOCK) - start;
        let clock = phases.is_some().then(ticks);
        // The block's values are fetched while its keys are read, and the
        // next block's keys, or what comes after all of them, with its values.
        let row = padded * size_of::<T::T>();
        let seen = values.add(cols.start * row);
        let mut fetch_values = Fetch::all(seen, cols.len() * row);
        let mut fetch_keys = if b + 1 < blocks.end {
            let next = job.q.blocks[b + 1] as usize;
            let (keys, _) = job.cache.head(next, job.kv_head);
            fetch_keys::<T>(keys, hd, last - start - KV_BLOCK)
        } else {
            let after = job.after.unwrap_or(After {
                block,
                kv_head: job.kv_head,
                positions: 0,
            });
            let (keys, _) = job.cache.head(after.block, after.kv_head);
            fetch_keys::<T>(keys, hd, after.positions)
        };
        let wide = cols.start / S::LANES * S::LANES..cols.end.next_multiple_of(S::LANES);
        let (of, into) = ((queries, ROW, 0), (scores, KV_BLOCK));
        if T::SCALED {
            for (g, d) in (0..hd).step_by(KV_GROUP).enumerate() {
                let k = d..hd.min(d + KV_GROUP);
                let to = To::Scaled(scales(keys).add(g * KV_BLOCK), g > 0);
                let read = (keys, KV_BLOCK, &mut fetch_values);
                product::<S, T, N>(s, of, k, read, wide.clone(), into, to);
            }
        } else {
            let read = (keys, KV_BLOCK, &mut fetch_values);
            product::<S, T, N>(s, of, 0..hd, read, wide, into, To::New);
        }
        let scored = clock.map(|_| ticks());
        let seen = sees.map(|(from, to)| {
            let from = from.max(start + cols.start).saturating_sub(start);
            let to = to.min(start + cols.end).saturating_sub(start);
            // A window may begin after the block.
            from.min(to)..to
        });
        let of_query = |n: usize| (head_of(at + n), job.q.first + (at + n) / group);
        let of_block = softmax(s, scores, &seen, job.shape, (start, of_query));
        let [kept, added] = state.add(s, &of_block);
        let weighed = clock.map(|_| ticks());
        let (read, into) = ((values, padded, &mut fetch_keys), (stretch, ROW));
        let weights = if T::SCALED {
            weigh::<S, N>(s, scores, scales(values), kv.groups(), scaled);
            (scaled, KV_BLOCK, N * KV_BLOCK)
        } else {
            (scores, KV_BLOCK, 0)
        };
        let onto = match begins {
            true => To::New,
            false => To::Added(&kept, &added),
        };
        product::<S, T, N>(s, weights, cols, read, 0..padded, into, onto);
        if let (Some(p), Some(c), Some(a), Some(b)) =
            (phases.as_deref_mut(), clock, scored, weighed)
        {
            p.scores += a.saturating_sub(c);
            p.softmax += b.saturating_sub(a);
            p.values += ticks_since(b);
        }
    }
    match to {
        Some(to) => {
            for n in 0..N {
                let to = to.add(n * job.part_len());
                (*to, *to.add(1)) = (state.max[n], state.total[n]);
                std::ptr::copy_nonoverlapping(whole.add(n * ROW), to.add(PAD), padded);
            }
        }
        None => {
            put_together(s, (&mut before, whole), (&state, stretch), padded);
            for n in 0..N {
                let (max, total) = (before.max[n], before.total[n]);
                let (kept, total) = sunk(s, job.shape, head_of(at + n), (max, total));
                let out = job.q.out.add(offset(n));
                finish(out, whole.add(n * ROW), (kept, total), hd);
            }
        }
    }
    N
}

/// Adds to what is `whole` what a stretch gave, `[N][ROW]` sums each; the first stretch
/// lies there already.
///
/// # Safety
/// The sums are readable, and those of the whole writable, for `len` values of a row.
#[inline(always)]
unsafe fn put_together<S: Simd, const N: usize>(
    s: S,
    (state, whole): (&mut State<N>, *mut f32),
    (of_stretch, sums): (&State<N>, *mut f32),
    len: usize,
) {
    let [kept, added] = state.add(s, of_stretch);
    if sums == whole {
        return;
    }
    for n in 0..N {
        let (to, from) = (whole.add(n * ROW), sums.add(n * ROW));
        add_sums(s, to, kept[n], from, added[n], len);
    }
}

/// A head's keys in a block, of so many positions.
fn fetch_keys<T: Stored>(keys: *const u8, hd: usize, positions: usize) -> Fetch {
    let row = KV_BLOCK * size_of::<T::T>();
    match positions * size_of::<T::T>() {
        0 => Fetch::lines(keys, row, 0),
        // A part of each row.
        1..=LINE => Fetch::lines(keys, row, hd),
        _ => Fetch::all(keys, hd * row),
    }
}

/// Turns the scores of a block into weights, 0 where `seen` is not; returns their
/// maxima and the sums of the weights. The block begins at a position; of each query the
/// head and the position are told. A query's weights are always added up over the
/// whole block in one order.
///
/// Each step is taken for all queries, whose chains of dependent operations
/// hide each other's latency.
///
/// # Safety
/// `scores` holds the block's scores of `N` queries; each `seen` is within it.
#[inline(always)]
unsafe fn softmax<S: Simd, const N: usize>(
    s: S,
    scores: *mut f32,
    seen: &[Range<usize>; N],
    shape: &AttentionShape,
    (start, of_query): (usize, impl Fn(usize) -> (usize, usize)),
) -> State<N> {
    let mut state = State::<N>::EMPTY;
    for n in 0..N {
        let (row, seen) = (scores.add(n * KV_BLOCK), seen[n].clone());
        if seen != (0..KV_BLOCK) {
            let row = std::slice::from_raw_parts_mut(row, KV_BLOCK);
            row[..seen.start].fill(f32::NEG_INFINITY);
            row[seen.end..].fill(f32::NEG_INFINITY);
        }
        if let Some(cap) = shape.soft_cap {
            let row = std::slice::from_raw_parts_mut(row, KV_BLOCK);
            cap_row(s, &mut row[seen], cap);
        }
        if !matches!(shape.bias, Bias::No) {
            let (head, query) = of_query(n);
            let row = std::slice::from_raw_parts_mut(row, KV_BLOCK);
            shape.bias.add(s, head, query, start, row);
        }
        let mut max = s.splat(f32::NEG_INFINITY);
        for i in (0..KV_BLOCK).step_by(S::LANES) {
            max = s.max(max, s.load(row.add(i)));
        }
        state.max[n] = s.reduce_max(max);
    }
    let mut sums = [s.splat(0.0); N];
    for n in 0..N {
        let row = scores.add(n * KV_BLOCK);
        if seen[n].is_empty() {
            std::slice::from_raw_parts_mut(row, KV_BLOCK).fill(0.0);
            continue;
        }
        let m = s.splat(state.max[n]);
        for i in (0..KV_BLOCK).step_by(S::LANES) {
            s.store(row.add(i), exp(s, s.sub(s.load(row.add(i)), m)));
        }
        if seen[n] != (0..KV_BLOCK) {
            // Not quite 0 as they are.
            let row = std::slice::from_raw_parts_mut(row, KV_BLOCK);
            row[..seen[n].start].fill(0.0);
            row[seen[n].end..].fill(0.0);
        }
        for i in (0..KV_BLOCK).step_by(S::LANES) {
            sums[n] = s.add(sums[n], s.load(row.add(i)));
        }
    }
    for n in 0..N {
        state.total[n] = s.reduce_add(sums[n]);
    }
    state
}

/// `to = to * kept + from * added`, of `len` values, whole vectors of them.
///
/// # Safety
/// Both are readable, `to` is writable.
#[inline(always)]
unsafe fn add_sums<S: Simd>(
    s: S,
    to: *mut f32,
    kept: f32,
    from: *const f32,
    added: f32,
    len: usize,
) {
    let (kept, added) = (s.splat(kept), s.splat(added));
    for i in (0..len).step_by(S::LANES) {
        let y = s.mul(s.load(to.add(i)), kept);
        s.store(to.add(i), s.fma(s.load(from.add(i)), added, y));
    }
}

/// What a query's sums are multiplied with and divided by at last: its head may have a sink.
#[inline(always)]
fn sunk<S: Simd>(
    s: S,
    shape: &AttentionShape,
    head: usize,
    (max, total): (f32, f32),
) -> (f32, f32) {
    match shape.sinks {
        [] => (1.0, total),
        sinks => with_sink(s, max, total, sinks[head]),
    }
}

/// `out = sums * kept / total`
///
/// # Safety
/// Both hold `hd` values.
#[inline(always)]
unsafe fn finish(out: *mut f32, sums: *const f32, (kept, total): (f32, f32), hd: usize) {
    for d in 0..hd {
        *out.add(d) = *sums.add(d) * kept / total;
    }
}

/// As [`tile`] puts its blocks and stretches together, from parts: those of some
/// `blocks` each, one after the other.
///
/// # Safety
/// As for [`Job::merge`].
#[inline(always)]
pub unsafe fn merge_parts<S: Simd>(
    s: S,
    job: Job,
    rows: Range<usize>,
    parts: *const f32,
    blocks: &[Range<usize>],
) {
    let (group, hd, len) = (job.group(), job.cache.shape.head_dim, job.part_len());
    let queries = rows.len() * group;
    for n in 0..queries {
        let mut sums = [const { MaybeUninit::<[f32; ROW]>::uninit() }; 2];
        let [whole, sums] = sums.each_mut().map(|sums| sums.as_mut_ptr().cast::<f32>());
        let (mut state, mut before) = (State::<1>::EMPTY, State::<1>::EMPTY);
        let mut stretch = whole;
        for (i, range) in blocks.iter().enumerate() {
            let begins = i == 0 || range.start % STRETCH == 0;
            if begins && i > 0 {
                put_together(s, (&mut before, whole), (&state, stretch), len - PAD);
                (state, stretch) = (State::EMPTY, sums);
            }
            let part = parts.add((i * queries + n) * len);
            let of_part = State {
                max: [*part],
                total: [*part.add(1)],
            };
            let [kept, added] = state.add(s, &of_part);
            let values = part.add(PAD);
            match begins {
                true => std::ptr::copy_nonoverlapping(values, stretch, len - PAD),
                false => add_sums(s, stretch, kept[0], values, added[0], len - PAD),
            }
        }
        put_together(s, (&mut before, whole), (&state, stretch), len - PAD);
        let (row, head) = (rows.start + n / group, job.kv_head * group + n % group);
        let out = job.q.out.add(row * job.q.stride + head * hd);
        let last = sunk(s, job.shape, head, (before.max[0], before.total[0]));
        finish(out, whole, last, hd);
    }
}
