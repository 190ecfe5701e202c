//! The inner part of a feed-forward: products, activated and prepared for the next one.
//!
//! Of few rows, all products come first, as one stream of weights. Of more, a thread
//! computes a few outputs of all rows, and goes on with them while they are near: the
//! whole is never in memory.

use super::{chunk_bytes, matmul, put_rows, Output, Shared, Team, Timing};
use crate::acts::{Acts, Forms, RowWriter};
use crate::gemm::{Product, Then};
use crate::ops::{self, Activation};
use crate::panel::codes::BLOCK;
use crate::panel::Matrix;
use crate::ticks::{ticks, ticks_since};
use std::ops::Range;
use std::sync::atomic::Ordering::Relaxed;

/// Weights of `[outputs, inputs]` and bias of a layer.
pub type Linear<'a> = (&'a Matrix, Option<&'a [f32]>);

/// `f(gate) * up`, or `f(up)` where nothing is gated.
pub struct Inner<'a> {
    /// The function.
    pub activation: Activation,
    /// Gate and up, or up alone.
    pub linears: &'a [Linear<'a>],
}

/// Rows up to which reading the weights takes longer than all else.
const FEW_ROWS: usize = 4;

/// Values that a thread may have in hand of more rows: as many as are near.
const ROOM: usize = 32 << 10;

/// Outputs of all rows that it may have in hand at least.
const OUTPUTS: usize = 64;

pub(super) fn scratch_len(team: &Team, rows: usize, width: usize) -> usize {
    let room = (2 * rows * OUTPUTS).max(ROOM);
    (team.pool.threads() * room).max(2 * rows.min(FEW_ROWS) * width)
}

/// Products of all rows of `acts`, activated, in `forms` into `out`. `timing` receives
/// the thread time of each product and then of the activation.
///
/// # Panics
/// If the products' numbers, lengths or forms do not fit together, or there is less scratch
/// memory than [`super::scratch_len`]; if there are fewer times.
pub fn inner_rows(
    team: &Team,
    inner: &Inner,
    acts: &Acts,
    scratch: &mut [f32],
    out: &mut Acts,
    forms: Forms,
    timing: Timing,
) {
    let (rows, linears) = (acts.rows(), inner.linears);
    let [(first, _), ..] = linears else {
        panic!("gate and up, or up");
    };
    let width = first.rows();
    assert!(linears.len() <= 2 && linears.iter().all(|(w, _)| w.rows() == width));
    assert!(timing.is_none_or(|t| t.len() > linears.len()));
    assert!(scratch.len() >= scratch_len(team, rows, width));
    out.begin(rows, width, forms);
    let region = Region {
        team,
        inner,
        acts,
        writer: out.writer(),
        timing,
    };
    match rows <= FEW_ROWS {
        true => region.one_after_the_other(scratch),
        false => region.together(scratch),
    }
}

/// What the threads share.
struct Region<'a> {
    team: &'a Team,
    inner: &'a Inner<'a>,
    acts: &'a Acts,
    writer: RowWriter<'a>,
    timing: Timing<'a>,
}

impl Region<'_> {
    fn one_after_the_other(&self, scratch: &mut [f32]) {
        let (rows, linears) = (self.acts.rows(), self.inner.linears);
        let width = linears[0].0.rows();
        let (gate, rest) = scratch.split_at_mut(rows * width);
        let mut parts = [gate, &mut rest[..(linears.len() - 1) * rows * width]];
        let outputs = linears.iter().zip(&mut parts);
        let mut outputs: Vec<_> = outputs
            .map(|(&(weights, bias), out)| Output {
                weights,
                bias,
                accumulate: false,
                out,
            })
            .collect();
        matmul(self.team, self.acts, &mut outputs, self.timing);

        let [gate, up] = parts;
        let (gate, up) = (Shared(gate.as_mut_ptr()), &*up);
        self.team.pool.run(rows, &|row, _| {
            let mut time = self.clock();
            // SAFETY: row by row of `rows * width` values, which no other thread has.
            unsafe {
                let gate = gate.slice(row * width, width);
                let up = up.get(row * width..(row + 1) * width).unwrap_or_default();
                self.finish(row..row + 1, 0..width, gate, up);
            }
            time(linears.len());
        });
    }

    fn together(&self, scratch: &mut [f32]) {
        let (rows, linears) = (self.acts.rows(), self.inner.linears);
        let width = linears[0].0.rows();
        let room = scratch.len() / self.team.pool.threads();
        let bytes: usize = linears.iter().map(|(w, _)| w.bytes()).sum();
        let fit = chunk_bytes(self.team, bytes) / (bytes / width.max(1)).max(1);
        let step = (fit.min(room / (2 * rows)) / BLOCK * BLOCK).max(BLOCK);
        let scratch = Shared(scratch.as_mut_ptr());
        self.team.pool.run(width.div_ceil(step), &|c, thread| {
            let outputs = c * step..((c + 1) * step).min(width);
            let values = rows * outputs.len();
            // SAFETY: a thread's own part of the scratch memory.
            let part = unsafe { scratch.slice(thread * room, room) };
            let (gate, up) = part.split_at_mut(values);
            let up = &mut up[..(linears.len() - 1) * values];
            let parts = [gate.as_mut_ptr(), up.as_mut_ptr()];
            let mut time = self.clock();
            for (i, out) in parts.into_iter().take(linears.len()).enumerate() {
                // SAFETY: each of the parts holds these outputs of all rows, and no other
                // chunk computes them.
                unsafe { self.product(i, &outputs, out) };
                time(i);
            }
            // SAFETY: no other chunk has these outputs.
            unsafe { self.finish(0..rows, outputs, gate, up) };
            time(linears.len());
        });
    }

    /// Some outputs of one of the linear layers, for all rows, to `out`.
    ///
    /// # Safety
    /// All of them fit there.
    unsafe fn product(&self, i: usize, outputs: &Range<usize>, out: *mut f32) {
        let (weights, bias) = self.inner.linears[i];
        let panels = |w: &Matrix| outputs.start / w.lanes()..outputs.end.div_ceil(w.lanes());
        let panels_here = panels(weights);
        let next = self.inner.linears.get(i + 1).map(|(next, _)| next);
        let then = Then {
            until: panels_here.end,
            next: next.map_or(std::ptr::null(), |next| {
                next.since_panel(panels(next).start).as_ptr()
            }),
        };
        let product = Product {
            weights,
            bias,
            accumulate: false,
            out: out.wrapping_sub(outputs.start),
            out_stride: outputs.len(),
        };
        product.run(self.acts, panels_here, then);
    }

    /// Activates some values of `gate`, and prepares them for the next product.
    ///
    /// # Safety
    /// Nobody else writes these.
    unsafe fn finish(&self, rows: Range<usize>, cols: Range<usize>, gate: &mut [f32], up: &[f32]) {
        ops::activate(self.team.isa, self.inner.activation, gate, up);
        put_rows(self.team.isa, &self.writer, rows, cols, gate);
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
