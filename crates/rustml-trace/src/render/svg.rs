//! The charts of a report, drawn by hand: no library, no script, no network.
//!
//! Colours are classes that the page's style defines for light and dark.

use super::content::{class, ms, percent};
use super::html::escape;
use crate::document::Document;
use crate::round::Roofs;
use crate::tables::{full_name, Breakdown, LayerRow, OpRow, Tables};
use crate::Part;
use std::fmt::Write;

const WIDTH: f64 = 560.0;

/// Opens a picture; its title is for those who cannot see it.
fn open(height: f64, title: &str) -> String {
    format!(
        "<svg viewBox=\"0 0 {WIDTH} {height}\" role=\"img\" aria-label=\"{}\">",
        escape(title)
    )
}

fn rect(out: &mut String, class: &str, [x, y, w, h]: [f64; 4], hint: &str) {
    let _ = write!(
        out,
        "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.1}\" height=\"{h:.1}\">\
         <title>{}</title></rect>",
        w.max(0.0),
        escape(hint)
    );
}

fn text(out: &mut String, class: &str, x: f64, y: f64, what: &str) {
    let _ = write!(
        out,
        "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{}</text>",
        escape(what)
    );
}

fn line(out: &mut String, class: &str, [x1, y1, x2, y2]: [f64; 4]) {
    let _ = write!(
        out,
        "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
    );
}

/// The parts of a step and of the prompt, and every step's time.
pub fn steps(document: &Document, tables: &Tables) -> String {
    let mut out = open(112.0, "Parts of a decode step and of the prompt");
    for (i, (name, b)) in [("decode", &tables.decode), ("prompt", &tables.prefill)]
        .into_iter()
        .enumerate()
    {
        stacked(&mut out, name, b, 8.0 + 34.0 * i as f64);
    }
    legend(&mut out, 88.0);
    out += "</svg>";
    out += &over_time(document, tables);
    out
}

const PARTS: [(Part, &str); 6] = [
    (Part::Embedding, "c1"),
    (Part::Attention, "c2"),
    (Part::FeedForward, "c3"),
    (Part::Norm, "c4"),
    (Part::Projection, "c5"),
    (Part::Sampling, "c6"),
];

fn stacked(out: &mut String, name: &str, b: &Breakdown, y: f64) {
    text(out, "label", 0.0, y + 17.0, name);
    let (left, width) = (60.0, WIDTH - 60.0 - 80.0);
    text(out, "value", WIDTH, y + 17.0, &format!("{} ms", ms(b.ms)));
    let mut x = left;
    let other = ("other", "c0", b.unaccounted() * b.ms);
    let parts = PARTS.map(|(p, class)| (p.name(), class, b.part_ms(p)));
    for (name, class, time) in parts.into_iter().chain([other]) {
        let w = if b.ms > 0.0 { width * time / b.ms } else { 0.0 };
        let hint = format!("{name}: {} ms, {}", ms(time), percent(time / b.ms));
        rect(out, class, [x, y, w, 24.0], &hint);
        x += w.max(0.0);
    }
}

fn legend(out: &mut String, y: f64) {
    let mut x = 0.0;
    let parts = PARTS.map(|(part, class)| (part.name(), class));
    for (name, class) in parts.into_iter().chain([("other", "c0")]) {
        rect(out, class, [x, y, 11.0, 11.0], name);
        text(out, "small", x + 15.0, y + 10.0, name);
        x += 24.0 + 6.4 * name.len() as f64;
    }
}

/// A point for each decode step of each repetition, in their order.
fn over_time(document: &Document, tables: &Tables) -> String {
    let runs = document.round.runs.iter();
    let times: Vec<Vec<f64>> = runs
        .map(|r| r.decode.total.iter().map(|&t| t as f64 / 1e6).collect())
        .collect();
    let count: usize = times.iter().map(Vec::len).sum();
    let most = times.iter().flatten().fold(0.0, |a: f64, &b| a.max(b));
    if count == 0 || most <= 0.0 {
        return String::new();
    }
    let (height, bottom, left) = (150.0, 128.0, 44.0);
    let mut out = open(height, "Time of each decode step");
    let top = tick(most);
    let y = |t: f64| bottom - (bottom - 10.0) * t / top;
    for i in 0..=2 {
        let t = top * i as f64 / 2.0;
        line(&mut out, "grid", [left, y(t), WIDTH, y(t)]);
        text(&mut out, "axis-y", left - 4.0, y(t) + 4.0, &short(t));
    }
    let step = (WIDTH - left - 6.0) / count as f64;
    let mut x = left + 3.0;
    for (run, times) in times.iter().enumerate() {
        for (i, &t) in times.iter().enumerate() {
            let class = if i == 0 { "c3" } else { "c2" };
            let _ = write!(
                out,
                "<circle class=\"{class}\" cx=\"{x:.1}\" cy=\"{:.1}\" r=\"1.8\"><title>repetition \
                 {}, step {}: {} ms</title></circle>",
                y(t),
                run + 1,
                i + 1,
                ms(t)
            );
            x += step;
        }
        line(&mut out, "grid", [x, 10.0, x, bottom]);
    }
    let middle = y(tables.timing.decode.median);
    line(&mut out, "mark", [left, middle, WIDTH, middle]);
    let caption = "ms of each decode step, repetition by repetition; the line is the median";
    text(&mut out, "small", left, height - 4.0, caption);
    out + "</svg>"
}

/// A round number that is not below `most`.
fn tick(most: f64) -> f64 {
    let power = 10f64.powf(most.log10().floor());
    let steps = [1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0];
    let enough = steps.iter().find(|s| *s * power >= most);
    enough.map_or(10.0 * power, |s| s * power)
}

fn short(x: f64) -> String {
    let digits = if x >= 10.0 || x == 0.0 {
        0
    } else if x >= 1.0 {
        1
    } else {
        3
    };
    format!("{x:.digits$}")
}

/// A bar for each operation, with its roof and its waiting.
pub fn operations(b: &Breakdown) -> String {
    let mut ops: Vec<&OpRow> = b.ops.iter().filter(|o| o.share >= 0.002).collect();
    ops.sort_by(|a, b| b.ms.total_cmp(&a.ms));
    let most = ops.first().map_or(0.0, |o| o.ms);
    if most <= 0.0 {
        return String::new();
    }
    let height = 20.0 * ops.len() as f64 + 26.0;
    let mut out = open(height, "Time of each operation in a decode step");
    let (left, width) = (206.0, WIDTH - 206.0 - 62.0);
    for (i, o) in ops.iter().enumerate() {
        let y = 20.0 * i as f64;
        text(&mut out, "label", 0.0, y + 13.0, &full_name(o.op));
        let w = width * o.ms / most;
        let hint = format!("{} ms, {}", ms(o.ms), percent(o.share));
        rect(&mut out, class(o.op), [left, y + 2.0, w, 14.0], &hint);
        let waits = width * o.waiting_ms / most;
        let hint = format!("waiting: {} ms", ms(o.waiting_ms));
        rect(
            &mut out,
            "wait",
            [left + w - waits, y + 2.0, waits, 14.0],
            &hint,
        );
        if let Some(roof) = o.roof {
            let x = left + (width * roof.ms / most).min(width + 4.0);
            line(&mut out, "mark", [x, y, x, y + 18.0]);
        }
        text(
            &mut out,
            "value",
            WIDTH,
            y + 13.0,
            &format!("{} ms", ms(o.ms)),
        );
    }
    let caption = "the line is the operation at its roof; pale is waiting for other threads";
    text(&mut out, "small", 0.0, height - 6.0, caption);
    out + "</svg>"
}

/// A column for each layer, with the spread of its time.
pub fn layers(layers: &[LayerRow]) -> String {
    let most = layers.iter().map(|l| l.total.max(l.spread.p95));
    let most = most.fold(0.0, f64::max);
    if most <= 0.0 {
        return String::new();
    }
    let (height, bottom, left) = (190.0, 152.0, 44.0);
    let mut out = open(height, "Time of each layer in a decode step");
    let top = tick(most);
    let y = |t: f64| bottom - (bottom - 10.0) * t / top;
    for i in 0..=2 {
        let t = top * i as f64 / 2.0;
        line(&mut out, "grid", [left, y(t), WIDTH, y(t)]);
        text(&mut out, "axis-y", left - 4.0, y(t) + 4.0, &short(t));
    }
    let step = (WIDTH - left - 4.0) / layers.len() as f64;
    let every = layers.len().div_ceil(16);
    for (i, l) in layers.iter().enumerate() {
        let x = left + 2.0 + step * i as f64;
        let w = (step * 0.72).max(1.0);
        let hint = format!("layer {i}: attention {} ms", ms(l.attention));
        let [a, both] = [y(l.attention), y(l.total)];
        rect(&mut out, "c2", [x, a, w, bottom - a], &hint);
        let hint = format!("layer {i}: feed-forward {} ms", ms(l.feed_forward));
        rect(&mut out, "c3", [x, both, w, a - both], &hint);
        let middle = x + w / 2.0;
        line(
            &mut out,
            "mark",
            [middle, y(l.spread.p95), middle, y(l.spread.p5)],
        );
        if i % every == 0 {
            text(&mut out, "axis-x", middle, bottom + 14.0, &i.to_string());
        }
    }
    let caption = "ms of each layer: attention, feed-forward; the line is from p5 to p95";
    text(&mut out, "small", left, height - 6.0, caption);
    out + "</svg>"
}

/// Operations a byte against operations a second, both logarithmic.
pub fn roofline(roofs: &Roofs, tables: &Tables) -> String {
    let read = roofs.read.last().map_or(0.0, |r| r.1);
    let peaks = [
        ("integers", roofs.int_ops),
        ("floats", roofs.flops),
        ("bf16", roofs.bf16_ops),
    ];
    let points = [("decode", &tables.decode), ("prompt", &tables.prefill)];
    let points: Vec<(&str, &OpRow)> = points
        .into_iter()
        .flat_map(|(name, b)| b.ops.iter().map(move |o| (name, o)))
        .filter(|(_, o)| o.bytes > 0.0 && o.operations > 0.0 && o.ms > 0.0 && o.share >= 0.005)
        .collect();
    let peak = peaks.iter().fold(0.0, |most: f64, p| most.max(p.1));
    if read <= 0.0 || peak <= 0.0 || points.is_empty() {
        return String::new();
    }
    let intensity = |o: &OpRow| o.operations / o.bytes;
    let fold =
        |f: fn(f64, f64) -> f64, start: f64| points.iter().map(|p| intensity(p.1)).fold(start, f);
    let x_range = (
        fold(f64::min, 1.0) / 2.0,
        (fold(f64::max, 1.0) * 2.0).max(4.0 * peak / read),
    );
    let lowest = points.iter().map(|p| p.1.gop_per_second * 1e9);
    let y_range = (lowest.fold(peak / 100.0, f64::min) / 2.0, peak * 2.0);
    let (height, bottom, left) = (362.0, 290.0, 48.0);
    let log = |v: f64, (from, to): (f64, f64)| (v / from).ln() / (to / from).ln();
    let x = |v: f64| left + (WIDTH - left - 4.0) * log(v, x_range).clamp(0.0, 1.0);
    let y = |v: f64| bottom - (bottom - 8.0) * log(v, y_range).clamp(0.0, 1.0);
    let mut out = open(
        height,
        "Roofline: operations a byte and operations a second",
    );
    for v in decades(x_range) {
        line(&mut out, "grid", [x(v), 8.0, x(v), bottom]);
        text(&mut out, "axis-x", x(v), bottom + 14.0, &plain(v));
    }
    for v in decades(y_range) {
        line(&mut out, "grid", [left, y(v), WIDTH, y(v)]);
        text(&mut out, "axis-y", left - 4.0, y(v) + 4.0, &plain(v / 1e9));
    }
    // The slope ends at the higher of the peaks, and begins inside the picture.
    let begin = x_range.0.max(y_range.0 / read);
    line(
        &mut out,
        "roof",
        [x(begin), y(begin * read), x(peak / read), y(peak)],
    );
    for (name, value) in peaks.into_iter().filter(|p| p.1 > 0.0) {
        line(
            &mut out,
            "roof",
            [x(value / read), y(value), WIDTH - 4.0, y(value)],
        );
        let label = format!("{name} {:.0} Gop/s", value / 1e9);
        text(&mut out, "axis-y", WIDTH - 6.0, y(value) - 4.0, &label);
    }
    let label = format!("memory {:.1} GB/s", read / 1e9);
    let at = (begin * peak / read).sqrt();
    text(&mut out, "axis-y", x(at) - 8.0, y(at * read) - 4.0, &label);
    for (phase, o) in &points {
        let (px, py) = (x(intensity(o)), y(o.gop_per_second * 1e9));
        let hint = format!(
            "{phase}, {}: {:.1} Gop/s, {} of its roof",
            full_name(o.op),
            o.gop_per_second,
            o.roof.map_or("-".into(), |r| percent(r.share))
        );
        let size = 4.0 + 10.0 * o.share.sqrt();
        let class = class(o.op);
        if *phase == "decode" {
            let _ = write!(out, "<circle class=\"{class} point\" cx=\"{px:.1}\" cy=\"{py:.1}\" r=\"{:.1}\"><title>{}</title></circle>", size / 2.0, escape(&hint));
        } else {
            rect(
                &mut out,
                &format!("{class} point"),
                [px - size / 2.0, py - size / 2.0, size, size],
                &hint,
            );
        }
    }
    let caption = "operations a byte (across), Gop/s (up); larger is a larger share of the time;";
    text(&mut out, "small", left, height - 38.0, caption);
    let caption = "circles are a decode step, squares the prompt";
    text(&mut out, "small", left, height - 24.0, caption);
    legend(&mut out, height - 13.0);
    out += "</svg>";
    out
}

/// Powers of ten in a range.
fn decades((from, to): (f64, f64)) -> Vec<f64> {
    let (first, last) = (from.log10().ceil() as i32, to.log10().floor() as i32);
    (first..=last).map(|p| 10f64.powi(p)).collect()
}

fn plain(v: f64) -> String {
    match v {
        v if v >= 1.0 => format!("{v:.0}"),
        v => format!("{v}"),
    }
}
