//! The run that a report is made of.

use super::machine::{huge_bytes, machine, megahertz, throttled};
use crate::memory;
use rustml_io::DType;
use rustml_kernels::par::Team;
use rustml_kernels::{roof, Matrix, Pool};
use rustml_model::spec::{Attention, Layer};
use rustml_model::{gather_pages, FeedForwardWeights, Linear, PartWeights};
use rustml_nlp::cli::{Failure, Signals};
use rustml_nlp::{LoadOptions, Model, Options, Prompt, Sampling};
use rustml_trace::lost::Sample;
use rustml_trace::round::{Choice, Converted, ModelInfo, Roofs, Run, TypeCount};
use rustml_trace::round::{Machine, Setup};
use rustml_trace::{Detail, Op, Step};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long each roof is measured.
const ROOF_TIME: Duration = Duration::from_millis(150);

/// After so long no more numbers of threads are tried.
const FEWER_TIME: Duration = Duration::from_millis(800);

/// What prompts are cut from: any English will do, as long as it goes on.
const TEXT: &str = include_str!("prompt.txt");

/// What is known of a loaded model before it runs.
pub struct Known {
    pub machine: Machine,
    pub model: ModelInfo,
    pub roofs: Roofs,
}

impl Known {
    /// Measures the roofs, too.
    pub fn of(model: &Model, name: &str, format: &str) -> Result<Known, Failure> {
        let team = model.model().team();
        Ok(Known {
            machine: machine(team.isa, model.threads()),
            model: info(model, name, format),
            roofs: roofs(model)?,
        })
    }
}

/// The matrices that a step reads whole.
fn products(model: &Model) -> Vec<(Op, &Matrix)> {
    let weights = model.model().weights();
    let mut all: Vec<(Op, &Matrix)> = Vec::new();
    for part in weights.layers.iter().flat_map(|l| l.parts()) {
        let linears = match part {
            PartWeights::Attention(_) => {
                let mut all: Vec<_> = part.linears().map(|l| (Op::Qkv, Some(l))).collect();
                if let Some((op, _)) = all.last_mut() {
                    *op = Op::AttnOut;
                }
                all
            }
            PartWeights::FeedForward(f) => vec![
                (Op::Gate, f.gate.as_ref()),
                (Op::Up, Some(&f.up)),
                (Op::Down, Some(&f.down)),
            ],
            PartWeights::Experts(e) => {
                let shared =
                    |f: fn(&FeedForwardWeights) -> Option<&Linear>| e.shared.as_ref().and_then(f);
                vec![
                    (Op::Gate, shared(|s| s.gate.as_ref())),
                    (Op::Up, shared(|s| Some(&s.up))),
                    (Op::Down, shared(|s| Some(&s.down))),
                ]
            }
            PartWeights::Recurrent(r) => {
                let inputs = r.inputs().map(|l| (Op::StateIn, Some(l)));
                inputs.chain([(Op::AttnOut, Some(&r.out))]).collect()
            }
            PartWeights::ReadsPerLayer(r) => {
                vec![(Op::GateUp, Some(&r.gate)), (Op::Up, Some(&r.out))]
            }
            PartWeights::AltUp(_) | PartWeights::Laurel(_) => {
                part.linears().map(|l| (Op::Up, Some(l))).collect()
            }
            PartWeights::Factor(_) | PartWeights::Parallel(_) => Vec::new(),
        };
        let linears = linears.into_iter();
        all.extend(linears.filter_map(|(op, l)| l.map(|l| (op, &l.weights))));
    }
    let experts = weights.experts();
    all.extend(experts.flat_map(|e| {
        let all = e.gate.iter().chain([&e.up, &e.down]);
        all.map(|m| (Op::Experts, m.matrix()))
    }));
    all.extend(weights.head().map(|head| (Op::Head, head)));
    all
}

fn info(model: &Model, name: &str, format: &str) -> ModelInfo {
    let (m, report) = (model.model(), model.model().report());
    let spec = m.spec();
    let mut types: Vec<TypeCount> = Vec::new();
    for (op, matrix) in products(model) {
        let dtype = matrix.dtype().to_string();
        let values = (matrix.rows() * matrix.cols()) as u64;
        let bytes = matrix.bytes() as u64;
        match types.iter_mut().find(|t| t.op == op && t.dtype == dtype) {
            Some(t) => {
                t.matrices += 1;
                t.values += values;
                t.bytes += bytes;
            }
            None => types.push(TypeCount {
                op,
                dtype,
                matrices: 1,
                values,
                bytes,
            }),
        }
    }
    let converted = report.quantised.iter().map(|(from, to, layers)| Converted {
        from: from.to_string(),
        to: to.to_string(),
        layers: *layers,
    });
    let kept = report.kept.iter().map(|(kept, _, layers)| Converted {
        from: kept.to_string(),
        to: kept.to_string(),
        layers: *layers,
    });
    let us = |time: &Duration| time.as_secs_f64() * 1e6;
    let choices = report.choices.iter().map(|c| {
        let tried = c.timings.iter().filter(|t| t.0 != c.stored);
        let stored = c.timings.iter().find(|t| t.0 == c.stored);
        Choice {
            outputs: c.outputs,
            inputs: c.inputs,
            layers: c.layers,
            stored: c.stored.to_string(),
            chosen: c.chosen.to_string(),
            stored_us: stored.map_or(0.0, |t| us(&t.1)),
            tried_us: tried.map(|(to, time)| (to.to_string(), us(time))).collect(),
        }
    });
    let first = spec.layers.iter().find_map(Layer::attention);
    let attention = |f: fn(&Attention) -> usize| first.map_or(0, f);
    let feed_forward = spec.layers.iter().find_map(Layer::feed_forward);
    ModelInfo {
        name: name.to_owned(),
        arch: m.arch().to_owned(),
        format: format.to_owned(),
        parameters: report.parameters as u64,
        layers: spec.layers.len(),
        hidden: spec.hidden,
        feed_forward: feed_forward.map_or(0, |f| f.inner),
        heads: attention(|a| a.heads),
        kv_heads: attention(|a| a.kv_heads),
        head_dim: attention(|a| a.head_dim),
        vocab: spec.vocab,
        kv_type: format!("{:?}", model.kv_type()),
        weight_bytes: report.bytes as u64,
        types,
        quantised: converted.chain(kept).collect(),
        choices: choices.collect(),
        fused: fused(model),
    }
}

/// What is done in one pass over the threads, or over the data.
fn fused(model: &Model) -> Vec<String> {
    let spec = model.model().spec();
    let attentions = || spec.layers.iter().filter_map(Layer::attention);
    let mut feed_forwards = spec.layers.iter().filter_map(Layer::feed_forward);
    let mut all = vec![
        "norm and the preparation of activations",
        "query, key and value",
    ];
    let (norm, rope) = (
        attentions().any(|a| a.qk_norm.is_some()),
        attentions().any(|a| a.rope.is_some()),
    );
    all.extend(match (norm, rope) {
        (true, true) => Some("qk-norm, rope and kv-store"),
        (true, false) => Some("qk-norm and kv-store"),
        (false, true) => Some("rope and kv-store"),
        (false, false) => None,
    });
    all.push("scores, softmax and values");
    if feed_forwards.any(|f| f.gated) {
        all.push("gate and up");
    }
    all.push(
        "activation and the preparation of its result, of prompts with the products before it",
    );
    all.into_iter().map(String::from).collect()
}

/// The most the machine can do where the model's weights are read.
pub fn roofs(model: &Model) -> Result<Roofs, Failure> {
    let start = Instant::now();
    let team = model.model().team();
    let products = products(model);
    let matrices = || products.iter().map(|(_, m)| *m);
    let bytes: usize = matrices().map(Matrix::bytes).sum();
    let bf16 = products.iter().any(|(_, m)| m.dtype() == DType::BF16);
    let bf16 = bf16 || model.model().phases_differ();
    let mut read = Vec::new();
    let fewer = std::iter::successors(Some(1), |n| Some(2 * n));
    for threads in fewer.take_while(|&n| n < model.threads()) {
        // The roof that matters is that of all threads.
        if start.elapsed() > FEWER_TIME {
            break;
        }
        let fewer = Team {
            isa: team.isa,
            pool: Pool::new(threads)?,
        };
        let rate = roof::read_weights(&fewer, matrices(), bytes, ROOF_TIME);
        read.extend(rate.map(|rate| (threads, rate)));
    }
    let rate = roof::read_weights(team, matrices(), bytes, ROOF_TIME);
    read.extend(rate.map(|rate| (model.threads(), rate)));
    Ok(Roofs {
        working_set: bytes.min(roof::LARGEST_SET) as u64,
        read,
        int_ops: roof::dot_peak(team, ROOF_TIME),
        flops: roof::fma_peak(team, ROOF_TIME),
        bf16_ops: match bf16 {
            true => roof::bf16_peak(team, ROOF_TIME),
            false => 0.0,
        },
        seconds: start.elapsed().as_secs_f64(),
    })
}

/// A prompt of that many tokens.
pub fn prompt(model: &Model, setup: &Setup) -> Result<Prompt, Failure> {
    let tokens = setup.prompt_tokens;
    let mut ids = Vec::new();
    if setup.synthetic {
        // Any will do; these are spread over the vocabulary.
        let vocab = model.model().spec().vocab as u64;
        ids.extend((1..=tokens as u64).map(|i| (i * 0x9e37_79b9 % vocab) as u32));
    } else {
        ids = model.encode(TEXT)?.ids;
        let once = ids.clone();
        while ids.len() < tokens && !once.is_empty() {
            ids.extend(&once);
        }
        ids.truncate(tokens);
    }
    Ok(Prompt {
        ids,
        continues: true,
    })
}

/// One repetition on a model that was just loaded; its text.
pub fn run(model: &mut Model, setup: &Setup, signals: &Signals) -> Result<(Run, String), Failure> {
    let run = Arc::new(Mutex::new(Run::default()));
    let (into, prompt_tokens) = (run.clone(), setup.prompt_tokens);
    // When the prompt was through: what the threads had of the CPUs until then.
    let halfway: Arc<Mutex<Option<Sample>>> = Arc::default();
    let between = halfway.clone();
    let observer = move |step: &Step| {
        let mut run = into.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = run.prefill.rows < prompt_tokens as u64;
        run.push(step, prompt_tokens);
        if reading && run.prefill.rows >= prompt_tokens as u64 {
            *between.lock().unwrap_or_else(PoisonError::into_inner) = Sample::now(true);
        }
    };
    model.observe(Detail::Parts, Arc::new(observer));
    let options = Options {
        sampling: Sampling::greedy(),
        max_tokens: setup.max_tokens,
        ignore_end: true,
        cancel: Some(signals.begin()),
        ..Options::default()
    };
    let before = throttled();
    let prompt = prompt(model, setup)?;
    // As it is some seconds after loading.
    gather_pages(Duration::MAX);
    let start = Sample::now(true);
    let mut done = model.generate_all(vec![prompt], &options, &mut |_| true)?;
    let end = Sample::now(true);
    let megahertz = megahertz();
    signals.end()?;
    let done = done.remove(0);
    let mut run = std::mem::take(&mut *run.lock().unwrap_or_else(PoisonError::into_inner));
    let phases = model.load_phases().iter();
    run.load = phases
        .map(|(name, time)| ((*name).to_owned(), time.as_secs_f64()))
        .collect();
    run.first_token = done.timings.prefill.as_secs_f64();
    run.wall = run.first_token + done.timings.decode.as_secs_f64();
    let halfway = halfway.lock().unwrap_or_else(PoisonError::into_inner);
    let lost = |from: &Option<Sample>, to: &Option<Sample>| {
        let (from, to) = from.as_ref().zip(to.as_ref())?;
        Some(to.since(from))
    };
    run.prefill.lost = lost(&start, &halfway);
    run.decode.lost = lost(&halfway, &end);
    run.megahertz = megahertz;
    run.peak_bytes = memory::peak();
    run.huge_bytes = huge_bytes();
    run.throttled = throttled()
        .zip(before)
        .map(|(after, before)| after.saturating_sub(before));
    Ok((run, done.text))
}

/// How the models of all repetitions are loaded.
pub fn load_options(setup: &Setup, force: bool) -> Result<LoadOptions, Failure> {
    let quantize = setup.quantize.as_deref().map(str::parse).transpose();
    let kv_type = setup.kv_type.as_deref().map(str::parse).transpose();
    Ok(LoadOptions {
        threads: setup.threads,
        quantize: quantize.map_err(Failure::Usage)?,
        kv_type: kv_type.map_err(Failure::Usage)?,
        warm_up: setup.warm_up,
        force,
        ..LoadOptions::default()
    })
}
