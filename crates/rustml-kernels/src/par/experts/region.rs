//! The regions of a step's experts.

use super::buffers::{ExpertBuffers, FEW_ROWS};
use super::{part, ExpertMatrix, ExpertRows, Experts};
use crate::acts::{Acts, Forms, RowWriter};
use crate::gemm::{Product, Then};
use crate::ops;
use crate::panel::codes::BLOCK;
use crate::par::{put_rows, Shared, Team, Timing, INLINE_VALUES};
use crate::router::Choice;
use crate::ticks::{ticks, ticks_since};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// The pairs of rows and experts of a step, sorted by experts.
pub(super) struct Sorted {
    /// Numbers of pairs, row by row `chosen` of them; those of an expert together, in order.
    pairs: Vec<u32>,
    /// In the order of their numbers.
    pub touched: Vec<Touch>,
}

/// An expert that some row is computed by.
pub(super) struct Touch {
    expert: usize,
    /// Its pairs among all.
    pairs: Range<usize>,
    /// Its place among those with the most rows.
    slot: usize,
}

impl Sorted {
    /// # Panics
    /// If there is no such expert, or one is named twice for a row.
    pub fn new(choices: &[Choice], chosen: usize, experts: usize) -> Sorted {
        let mut ends = vec![0; experts];
        for choice in choices {
            ends[choice.expert as usize] += 1;
        }
        let mut touched = Vec::new();
        let mut at = 0;
        for (expert, end) in ends.iter_mut().enumerate() {
            let pairs = at..at + *end;
            *end = at;
            at = pairs.end;
            if !pairs.is_empty() {
                touched.push(Touch {
                    expert,
                    pairs,
                    slot: 0,
                });
            }
        }
        let mut pairs = vec![0; choices.len()];
        for (pair, choice) in choices.iter().enumerate() {
            let at = &mut ends[choice.expert as usize];
            pairs[*at] = pair as u32;
            *at += 1;
        }
        for touch in &touched {
            let rows = pairs[touch.pairs.clone()].windows(2);
            let twice = rows
                .into_iter()
                .any(|p| p[0] as usize / chosen == p[1] as usize / chosen);
            assert!(!twice, "the experts of a row differ");
        }
        let mut by_rows: Vec<_> = touched.iter_mut().collect();
        by_rows.sort_by_key(|touch| std::cmp::Reverse(touch.pairs.len()));
        for (slot, touch) in by_rows.into_iter().enumerate() {
            touch.slot = slot;
        }
        Sorted { pairs, touched }
    }

    fn of(&self, touch: &Touch) -> &[u32] {
        &self.pairs[touch.pairs.clone()]
    }
}

/// What the threads share.
pub(super) struct Region<'a> {
    team: &'a Team,
    experts: &'a Experts<'a>,
    rows: &'a ExpertRows<'a>,
    sorted: &'a Sorted,
    /// Whether rows are prepared once for all experts that compute nothing else.
    few: bool,
    scratch: Shared<f32>,
    room: usize,
    timing: Timing<'a>,
}

/// Chunks for each thread.
const CHUNKS: usize = 6;

/// Rows whose products take about as long as reading the weights.
const WEIGHTS: usize = 4;

/// Outputs of an expert's gate and up.
struct Chunk {
    /// Index among those that are touched.
    touch: usize,
    outputs: Range<usize>,
}

impl Region<'_> {
    /// Computes a step; everything was checked.
    pub fn run(
        team: &Team,
        experts: &Experts,
        rows: &ExpertRows,
        sorted: Sorted,
        buffers: &mut ExpertBuffers,
        out: &mut [f32],
        timing: Timing,
    ) {
        let hidden = experts.up.cols();
        let count = rows.x.len() / hidden;
        let region = Region {
            team,
            experts,
            rows,
            sorted: &sorted,
            few: count <= FEW_ROWS && !experts.weight_on_input,
            scratch: Shared(buffers.scratch.as_mut_ptr()),
            room: buffers.room,
            timing,
        };
        let [input, inner] = experts.forms(rows.phase);
        region.prepare(&mut buffers.singles, &mut buffers.inputs, input);
        let (singles, inputs) = (&buffers.singles[..], &buffers.inputs[..]);
        let chunks = region.cut_inner();
        let panels = region.cut_down();
        let slots = &mut buffers.inner;
        for touch in &sorted.touched {
            slots[touch.slot].begin(touch.pairs.len(), experts.up.rows(), inner);
        }
        let mut writers: Vec<_> = slots.iter_mut().map(Acts::writer).collect();
        writers.truncate(sorted.touched.len());
        team.pool.run(chunks.len(), &|c, thread| {
            let touch = &sorted.touched[chunks[c].touch];
            let acts = match region.single(touch) {
                Some(row) => &singles[row],
                None => &inputs[touch.slot],
            };
            let next = region.after_inner(&chunks, &panels, c, thread);
            // SAFETY: a chunk's outputs are its own.
            unsafe { region.inner(&chunks[c], acts, &writers[touch.slot], thread, next) };
        });
        let (inner, out) = (&buffers.inner[..], Shared(out.as_mut_ptr()));
        team.pool.run(panels.len(), &|c, thread| {
            let next = region.after_down(&panels, c, thread);
            // SAFETY: a chunk's columns are its own.
            unsafe { region.down(panels[c].clone(), inner, out, thread, next) };
        });
    }

    /// The row that an expert computes, if that is one and prepared by itself.
    fn single(&self, touch: &Touch) -> Option<usize> {
        let alone = self.few && touch.pairs.len() == 1;
        alone.then(|| self.row(self.sorted.pairs[touch.pairs.start]))
    }

    /// The row of a pair.
    fn row(&self, pair: u32) -> usize {
        pair as usize / self.rows.chosen
    }

    /// Prepares every expert's rows.
    fn prepare(&self, singles: &mut [Acts], inputs: &mut [Acts], forms: Forms) {
        let hidden = self.experts.up.cols();
        let mut used = [false; FEW_ROWS];
        // The pairs that are prepared together, in which place, and from which row on.
        let mut jobs: Vec<(usize, usize, &[u32])> = Vec::new();
        let own = singles.len();
        for touch in &self.sorted.touched {
            let pairs = self.sorted.of(touch);
            match self.single(touch) {
                Some(row) if used[row] => {}
                Some(row) => {
                    used[row] = true;
                    singles[row].begin(1, hidden, forms);
                    jobs.push((row, 0, pairs));
                }
                None => {
                    inputs[touch.slot].begin(pairs.len(), hidden, forms);
                    let tiles = forms.together(pairs.len()).into_iter();
                    jobs.extend(tiles.map(|(at, n)| (own + touch.slot, at, &pairs[at..at + n])));
                }
            }
        }
        let all = singles.iter_mut().chain(inputs);
        let writers: Vec<_> = all.map(Acts::writer).collect();
        let job = |c: usize, thread: usize| {
            let (place, at, pairs) = jobs[c];
            let mut time = self.clock();
            // SAFETY: a thread's own part of the scratch memory, and room for a tile.
            let part = unsafe { self.scratch.slice(thread * self.room, self.room) };
            let part = &mut part[..pairs.len() * hidden];
            for (&pair, part) in pairs.iter().zip(part.chunks_exact_mut(hidden)) {
                part.copy_from_slice(&self.rows.x[self.row(pair) * hidden..][..hidden]);
                if self.experts.weight_on_input {
                    let weight = self.rows.choices[pair as usize].weight;
                    ops::scale(self.team.isa, part, weight);
                }
            }
            let rows = at..at + pairs.len();
            // SAFETY: a job's rows are its own.
            unsafe { put_rows(self.team.isa, &writers[place], rows, 0..hidden, part) };
            time(part::PREPARE);
        };
        let values: usize = jobs.iter().map(|(_, _, pairs)| pairs.len() * hidden).sum();
        match values <= INLINE_VALUES {
            true => (0..jobs.len()).for_each(|c| job(c, 0)),
            false => self.team.pool.run(jobs.len(), &job),
        }
    }

    /// Gate and up, or up.
    fn linears(&self) -> impl Iterator<Item = (usize, &ExpertMatrix)> {
        let gate = self.experts.gate.map(|gate| (part::GATE, gate));
        gate.into_iter().chain([(part::UP, self.experts.up)])
    }

    /// Outputs of gate and up in chunks that take about as long.
    fn cut_inner(&self) -> Vec<Chunk> {
        let width = self.experts.up.rows();
        let blocks = width.div_ceil(BLOCK);
        let cost = |touch: &Touch| blocks * (touch.pairs.len() + WEIGHTS);
        let touched = &self.sorted.touched;
        let total: usize = touched.iter().map(cost).sum();
        let wanted = CHUNKS * self.team.pool.threads();
        let mut chunks = Vec::new();
        for (i, touch) in touched.iter().enumerate() {
            let n = (cost(touch) * wanted + total / 2) / total;
            let n = n.clamp(1, blocks);
            let at = |c: usize| (c * blocks / n * BLOCK).min(width);
            chunks.extend((0..n).map(|c| Chunk {
                touch: i,
                outputs: at(c)..at(c + 1),
            }));
        }
        chunks
    }

    /// Panels of down in chunks, as many for each thread.
    fn cut_down(&self) -> Vec<Range<usize>> {
        let panels = self.experts.down.panels();
        let n = (CHUNKS * self.team.pool.threads()).min(panels);
        (0..n)
            .map(|c| c * panels / n..(c + 1) * panels / n)
            .collect()
    }

    /// What a thread reads after the chunk `c` of gate and up: the next one of its share, or
    /// what comes first of down.
    fn after_inner(
        &self,
        chunks: &[Chunk],
        panels: &[Range<usize>],
        c: usize,
        thread: usize,
    ) -> *const u8 {
        let share = |thread| self.team.pool.first_of(chunks.len(), thread);
        if !(share(thread)..share(thread + 1)).contains(&c) {
            return std::ptr::null();
        }
        if c + 1 < share(thread + 1) {
            let (_, first) = self.linears().next().expect("up at least");
            return self.at(first, &chunks[c + 1], chunks[c + 1].outputs.start);
        }
        let first = panels.get(self.team.pool.first_of(panels.len(), thread));
        match (first, self.sorted.touched.first()) {
            (Some(panels), Some(touch)) => self.experts.down.start(touch.expert, panels.start),
            _ => std::ptr::null(),
        }
    }

    /// What a thread reads after the chunk `c` of down: the next one of its share, or what
    /// it was told to expect.
    fn after_down(&self, panels: &[Range<usize>], c: usize, thread: usize) -> *const u8 {
        let share = |thread| self.team.pool.first_of(panels.len(), thread);
        if !(share(thread)..share(thread + 1)).contains(&c) {
            return std::ptr::null();
        }
        if c + 1 == share(thread + 1) {
            return self.team.pool.expected(thread);
        }
        let first = self.sorted.touched.first();
        first.map_or(std::ptr::null(), |touch| {
            self.experts.down.start(touch.expert, panels[c + 1].start)
        })
    }

    /// Where the weights of an output of a chunk's expert lie.
    fn at(&self, weights: &ExpertMatrix, chunk: &Chunk, output: usize) -> *const u8 {
        let expert = self.sorted.touched[chunk.touch].expert;
        weights.start(expert, output / weights.matrix().lanes())
    }

    /// Some outputs of an expert's gate and up, activated and prepared for down.
    ///
    /// # Safety
    /// Nobody else writes these, and `thread` is the one that runs.
    unsafe fn inner(
        &self,
        chunk: &Chunk,
        acts: &Acts,
        writer: &RowWriter,
        thread: usize,
        next: *const u8,
    ) {
        let rows = acts.rows();
        let lanes = self.experts.up.matrix().lanes();
        let expert = self.sorted.touched[chunk.touch].expert;
        let part = self.scratch.slice(thread * self.room, self.room);
        let (first, second) = part.split_at_mut(self.room / 2);
        let step = (first.len() / rows / BLOCK * BLOCK).max(BLOCK);
        let mut time = self.clock();
        let mut outputs = chunk.outputs.start..0;
        while outputs.start < chunk.outputs.end {
            outputs.end = (outputs.start + step).min(chunk.outputs.end);
            let panels = outputs.start / lanes..outputs.end.div_ceil(lanes);
            // The last of them may be padding.
            let width = panels.len() * lanes;
            let mut parts = [first.as_mut_ptr(), second.as_mut_ptr()].into_iter();
            let mut linears = self.linears().peekable();
            while let Some((name, weights)) = linears.next() {
                let then = match linears.peek() {
                    Some((_, weights)) => self.at(weights, chunk, outputs.start),
                    None if outputs.end == chunk.outputs.end => next,
                    None => {
                        let (_, first) = self.linears().next().expect("up at least");
                        self.at(first, chunk, outputs.end)
                    }
                };
                let out = parts.next().expect("two at most");
                product((weights, expert), acts, panels.clone(), out, then);
                time(name);
            }
            let (gate, up) = (&mut first[..rows * width], &second[..rows * width]);
            let up = if self.experts.gate.is_some() { up } else { &[] };
            ops::activate(self.team.isa, self.experts.activation, gate, up);
            if width > outputs.len() {
                for row in 1..rows {
                    let from = row * width;
                    gate.copy_within(from..from + outputs.len(), row * outputs.len());
                }
            }
            let gate = &gate[..rows * outputs.len()];
            put_rows(self.team.isa, writer, 0..rows, outputs.clone(), gate);
            time(part::ACTIVATE);
            outputs.start = outputs.end;
        }
    }

    /// Some outputs of down, of all experts one after the other, added up.
    ///
    /// # Safety
    /// Nobody else writes these columns of `out`, and `thread` is the one that runs.
    unsafe fn down(
        &self,
        panels: Range<usize>,
        inner: &[Acts],
        out: Shared<f32>,
        thread: usize,
        next: *const u8,
    ) {
        let (isa, down) = (self.team.isa, self.experts.down);
        let (hidden, lanes) = (down.rows(), down.matrix().lanes());
        let cols = |panels: &Range<usize>| panels.start * lanes..hidden.min(panels.end * lanes);
        let part = self.scratch.slice(thread * self.room, self.room);
        let mut time = self.clock();
        if !self.rows.accumulate {
            let cols = cols(&panels);
            for row in 0..self.rows.x.len() / hidden {
                out.slice(row * hidden + cols.start, cols.len()).fill(0.0);
            }
        }
        for (i, touch) in self.sorted.touched.iter().enumerate() {
            let pairs = self.sorted.of(touch);
            let step = (self.room / pairs.len() / lanes).max(1);
            for from in panels.clone().step_by(step) {
                let some = from..panels.end.min(from + step);
                let next = match self.sorted.touched.get(i + 1) {
                    _ if some.end < panels.end => down.start(touch.expert, some.end),
                    Some(after) => down.start(after.expert, panels.start),
                    None => next,
                };
                let acts = &inner[touch.slot];
                product(
                    (down, touch.expert),
                    acts,
                    some.clone(),
                    part.as_mut_ptr(),
                    next,
                );
                time(part::DOWN);
                let cols = cols(&some);
                for (&pair, y) in pairs.iter().zip(part.chunks_exact(some.len() * lanes)) {
                    let weight = match self.experts.weight_on_input {
                        true => self.rows.factor,
                        false => self.rows.factor * self.rows.choices[pair as usize].weight,
                    };
                    let at = self.row(pair) * hidden + cols.start;
                    let to = out.slice(at, cols.len());
                    ops::scale_add(isa, to, weight, &y[..cols.len()]);
                }
                time(part::COMBINE);
            }
        }
    }

    /// Gives the time since it was called last, or made, to the part that is named.
    fn clock(&self) -> impl FnMut(usize) + '_ {
        let mut last = self.timing.map(|times| (times, ticks()));
        move |part| {
            if let Some((times, last)) = &mut last {
                times[part].fetch_add(ticks_since(*last), Relaxed);
                *last = ticks();
            }
        }
    }
}

/// The outputs of some panels of an expert, for all rows of `acts`, to `out`.
///
/// # Safety
/// There is room for whole panels of all rows.
unsafe fn product(
    (weights, expert): (&ExpertMatrix, usize),
    acts: &Acts,
    panels: Range<usize>,
    out: *mut f32,
    next: *const u8,
) {
    let (first, lanes) = (expert * weights.panels(), weights.matrix().lanes());
    let panels = first + panels.start..first + panels.end;
    let product = Product {
        weights: weights.matrix(),
        bias: weights.bias(),
        accumulate: false,
        out: out.wrapping_sub(panels.start * lanes),
        out_stride: panels.len() * lanes,
    };
    let then = Then {
        until: panels.end,
        next,
    };
    product.run(acts, panels, then);
}
