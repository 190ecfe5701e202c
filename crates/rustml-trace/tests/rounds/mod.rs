//! Rounds made by hand.

#![allow(dead_code)] // each test uses some of it

use rustml_trace::round::*;
use rustml_trace::tables::Tables;
use rustml_trace::{Cost, Event, Op, Step};
use std::time::Duration;

pub fn event(layer: Option<u16>, op: Op, us: u64, cost: Cost) -> Event {
    Event {
        step: 1,
        layer,
        op,
        start: Duration::ZERO,
        time: Duration::from_micros(us),
        waiting: Duration::from_micros(if op.is_product() { us / 10 } else { 0 }),
        cost,
    }
}

/// A step of a model of two layers, `slow` times as slow as it could be.
pub fn step(rows: u64, slow: f64) -> (Vec<Event>, Duration) {
    let us = |us: u64| (us as f64 * slow) as u64;
    let product = |bytes| Cost {
        bytes,
        int_ops: 2 * rows * bytes,
        ..Cost::default()
    };
    let mut all = vec![event(
        None,
        Op::Embed,
        us(10),
        Cost {
            bytes: 100 * rows,
            ..Cost::default()
        },
    )];
    for layer in [Some(0), Some(1)] {
        all.extend([
            event(layer, Op::AttnNorm, us(20), Cost::default()),
            event(layer, Op::Query, us(100), product(1_000_000)),
            event(layer, Op::Key, us(50), product(500_000)),
            event(layer, Op::Value, us(50), product(500_000)),
            event(
                layer,
                Op::Scores,
                us(30),
                Cost {
                    bytes: 10_000,
                    flops: 20_000,
                    ..Cost::default()
                },
            ),
            event(
                layer,
                Op::Values,
                us(30),
                Cost {
                    bytes: 10_000,
                    flops: 20_000,
                    ..Cost::default()
                },
            ),
            event(layer, Op::Down, us(300), product(3_000_000)),
        ]);
    }
    all.push(event(None, Op::Head, us(400), product(4_000_000)));
    all.push(event(None, Op::Sample, us(10), Cost::default()));
    let sum: Duration = all.iter().map(|e| e.time).sum();
    (all, sum + Duration::from_micros(20))
}

/// Tokens of the prompt.
pub const PROMPT: usize = 8;

pub fn push(run: &mut Run, rows: u64, slow: f64) {
    let (events, total) = step(rows, slow);
    let step = Step {
        number: 1,
        start: Duration::ZERO,
        total,
        rows: rows as usize,
        logit_rows: 1,
        events: &events,
        turns: &[],
    };
    run.push(&step, PROMPT);
}

/// A round of `runs` repetitions of a model that is `slow`.
pub fn round(runs: usize, slow: f64) -> Round {
    round_of(runs, 40, slow)
}

/// The same with so many decode steps after the first.
pub fn round_of(runs: usize, steps: usize, slow: f64) -> Round {
    let run = |r: usize| {
        let mut run = Run {
            load: vec![("open".into(), 0.001), ("pack".into(), 0.25)],
            first_token: 0.0125 + 0.0001 * r as f64,
            wall: 0.1,
            peak_bytes: Some(123_456_789),
            huge_bytes: Some(0),
            throttled: Some(3),
            ..Run::default()
        };
        push(&mut run, PROMPT as u64, 4.0 * slow);
        // The first one is cold; every tenth is disturbed.
        push(&mut run, 1, 2.0 * slow);
        for i in 0..steps {
            let noise = 1.0 + 0.002 * ((i * 7 + r * 3) % 5) as f64;
            push(&mut run, 1, if i % 10 == 9 { 3.0 } else { noise } * slow);
        }
        run
    };
    Round {
        setup: Setup {
            date: "2026-01-02T03:04:05Z".into(),
            version: "1.2.3".into(),
            commit: Some("0123456789".into()),
            source: "two | layers.gguf".into(),
            synthetic: false,
            prompt_tokens: PROMPT,
            max_tokens: 42,
            repeat: runs,
            quantize: Some("none".into()),
            kv_type: None,
            threads: None,
            warm_up: true,
        },
        machine: Machine {
            cpu: "A CPU".into(),
            arch: "x86_64".into(),
            features: vec!["scalar".into(), "avx2".into()],
            isa: "scalar".into(),
            best_isa: "avx2".into(),
            cpus: 8,
            allowed_cpus: 4,
            allowed_cores: Some(2),
            quota: Some(3.5),
            threads: 4,
            huge_pages: Some("never".into()),
            memory: 8_000_000_000,
        },
        model: ModelInfo {
            name: "two | layers.gguf".into(),
            arch: "llama".into(),
            format: "GGUF 3".into(),
            parameters: 12_345_678,
            layers: 2,
            hidden: 64,
            feed_forward: 128,
            heads: 4,
            kv_heads: 2,
            head_dim: 16,
            vocab: 1000,
            kv_type: "F16".into(),
            weight_bytes: 14_000_000,
            types: vec![TypeCount {
                op: Op::Down,
                dtype: "Q8_0".into(),
                matrices: 2,
                values: 5_647_058,
                bytes: 6_000_000,
            }],
            quantised: vec![Converted {
                from: "F32".into(),
                to: "Q8_0".into(),
                layers: 9,
            }],
            choices: vec![Choice {
                outputs: 64,
                inputs: 128,
                layers: 2,
                stored: "F32".into(),
                chosen: "Q8_0".into(),
                stored_us: 20.5,
                tried_us: vec![("F16".into(), 11.0), ("Q8_0".into(), 6.25)],
            }],
            fused: vec!["query, key and value".into()],
        },
        roofs: Roofs {
            working_set: 14_000_000,
            read: vec![(1, 10e9), (4, 20e9)],
            int_ops: 100e9,
            flops: 50e9,
            bf16_ops: 0.0,
            seconds: 0.6,
        },
        runs: (0..runs).map(run).collect(),
        text: "Once | upon\n<b>a</b> time\u{1b}[2J".into(),
    }
}

pub fn close(a: f64, b: f64) -> bool {
    (a - b).abs() <= 1e-9 * b.abs().max(1e-3)
}

/// The gain and the text of the finding that begins so.
pub fn advice(round: &Round, what: &str) -> Option<(Option<f64>, String)> {
    let all = Tables::of(round).findings;
    let found = all.into_iter().find(|f| f.what.starts_with(what));
    found.map(|f| (f.gain, f.advice))
}
