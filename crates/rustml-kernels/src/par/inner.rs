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
    match rows <= FEW_ROWS {
        true => one_after_the_other(team, inner, acts, scratch, &out.writer(), timing),
        false => together(team, inner, acts, scratch, &out.writer(), timing),
    }
}

fn one_after_the_other(
    team: &Team,
    inner: &Inner,
    acts: &Acts,
    scratch: &mut [f32],
    writer: &RowWriter,
    timing: Timing,
) {
    let (rows, linears) = (acts.rows(), inner.linears);
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
    matmul(team, acts, &mut outputs, timing);

    let [gate, up] = parts;
    let (gate, up) = (Shared(gate.as_mut_ptr()), &*up);
    team.pool.run(rows, &|row, _| {
        let start = timing.map(|_| ticks());
        // SAFETY: row by row of `rows * width` values.
        let gate = unsafe { gate.slice(row * width, width) };
        let up = up.get(row * width..(row + 1) * width).unwrap_or_default();
        ops::activate(team.isa, inner.activation, gate, up);
        // SAFETY: row by row.
        unsafe { put_rows(team.isa, writer, row..row + 1, 0..width, gate) };
        if let (Some(times), Some(start)) = (timing, start) {
            times[linears.len()].fetch_add(ticks_since(start), Relaxed);
        }
    });
}

fn together(
    team: &Team,
    inner: &Inner,
    acts: &Acts,
    scratch: &mut [f32],
    writer: &RowWriter,
    timing: Timing,
) {
    let (isa, rows, linears) = (team.isa, acts.rows(), inner.linears);
    let width = linears[0].0.rows();
    let room = scratch.len() / team.pool.threads();
    let bytes: usize = linears.iter().map(|(w, _)| w.bytes()).sum();
    let fit = chunk_bytes(team, bytes) / (bytes / width.max(1)).max(1);
    let step = (fit.min(room / (2 * rows)) / BLOCK * BLOCK).max(BLOCK);
    let scratch = Shared(scratch.as_mut_ptr());
    team.pool.run(width.div_ceil(step), &|c, thread| {
        let outputs = c * step..((c + 1) * step).min(width);
        let values = rows * outputs.len();
        // SAFETY: a thread's own part of the scratch memory.
        let part = unsafe { scratch.slice(thread * room, room) };
        let (gate, up) = part.split_at_mut(values);
        let parts = [gate.as_mut_ptr(), up.as_mut_ptr()];
        let mut start = timing.map(|_| ticks());
        let mut time = |part: usize| {
            if let (Some(times), Some(start)) = (timing, &mut start) {
                times[part].fetch_add(ticks_since(*start), Relaxed);
                *start = ticks();
            }
        };
        for (i, &(weights, bias)) in linears.iter().enumerate() {
            let lanes = weights.lanes();
            let panels = outputs.start / lanes..outputs.end.div_ceil(lanes);
            let next = linears.get(i + 1).map(|(next, _)| next);
            let then = Then {
                until: panels.end,
                next: next.map_or(std::ptr::null(), |next| {
                    next.since_panel(outputs.start / next.lanes()).as_ptr()
                }),
            };
            let product = Product {
                weights,
                bias,
                accumulate: false,
                out: parts[i].wrapping_sub(outputs.start),
                out_stride: outputs.len(),
            };
            // SAFETY: these outputs of all rows are in the thread's part, of which each
            // half holds `values`, and no other chunk computes them.
            unsafe { product.run(acts, panels, then) };
            time(i);
        }
        let up = match linears.len() {
            2 => &up[..values],
            _ => &[],
        };
        ops::activate(isa, inner.activation, gate, up);
        // SAFETY: no other chunk has these outputs.
        unsafe { put_rows(isa, writer, 0..rows, outputs, gate) };
        time(linears.len());
    });
}
