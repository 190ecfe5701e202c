//! Tests: what they run, and what they would have had to do at most.

use rustml_io::DType;
use rustml_kernels::par::Team;
use rustml_kernels::roof;
use rustml_model::{
    Batch, Capacity, Checkpoint, Error, Exec, KvPool, KvSequence, KvType, Model, Output, KV_BLOCK,
};
use rustml_nlp::STEP_ROWS;
use rustml_trace::{Cost, Detail, Recorder};
use std::fmt;
use std::time::{Duration, Instant};

/// How long each roof is measured.
const ROOF_TIME: Duration = Duration::from_millis(150);

/// What a test does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Reads a prompt.
    Prompt,
    /// Generates one by one.
    Generate,
}

/// One test, of so many tokens for each sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Test {
    pub kind: Kind,
    pub tokens: usize,
}

impl fmt::Display for Test {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.kind {
            Kind::Prompt => write!(f, "pp{}", self.tokens),
            Kind::Generate => write!(f, "tg{}", self.tokens),
        }
    }
}

/// What a test has to do.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Work {
    /// Tokens of all sequences.
    pub tokens: usize,
    /// Steps in which they are computed.
    pub steps: usize,
    /// Of all steps.
    pub cost: Cost,
}

impl Work {
    /// Bytes of weights and cache that a step reads on average.
    pub fn step_bytes(&self) -> f64 {
        self.cost.bytes as f64 / self.steps.max(1) as f64
    }
}

/// What the machine could do at most.
#[derive(Clone, Copy, Debug)]
pub struct Roofs {
    /// Bytes per second; `None` if memory for measuring it could not be had.
    pub bytes: Option<f64>,
    /// Multiplications and additions per second, in the kind of numbers that
    /// the weights are in.
    pub operations: f64,
}

/// A model and the buffers for its steps.
pub struct Bench {
    pub model: Model,
    exec: Exec,
    ids: Vec<u32>,
    kv_type: KvType,
    /// Working sets and what was read from them.
    read: Vec<(f64, Option<f64>)>,
    operations: [Option<f64>; 3],
}

/// Sequences of equal length, and the memory for their keys and values.
pub struct Context {
    kv: KvPool,
    depth: usize,
    sequences: Vec<KvSequence>,
    /// Their recurrent states at that depth, where the model has any.
    states: Vec<Checkpoint>,
}

impl Context {
    pub fn cache_bytes(&self) -> usize {
        self.kv.bytes()
    }

    /// Makes room for a run.
    fn reserve(&mut self, tokens: usize) {
        for s in &mut self.sequences {
            assert!(self.kv.reserve(s, tokens), "the cache is made for this");
        }
    }

    /// Forgets a run.
    fn rewind(&mut self) {
        for s in &mut self.sequences {
            self.kv.truncate(s, self.depth);
        }
        for (s, state) in self.sequences.iter_mut().zip(&self.states) {
            assert!(self.kv.restore(s, state), "it has a state");
        }
    }
}

impl Bench {
    pub fn new(model: Model, sequences: usize, kv_type: KvType) -> Bench {
        let capacity = Capacity {
            rows: STEP_ROWS.max(sequences),
            logit_rows: sequences,
        };
        let exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
        // Any will do; these are spread over the vocabulary.
        let vocab = model.spec().vocab as u64;
        let id = |i: u64| (i * 0x9E37_79B9 % vocab) as u32;
        let ids = (1..=capacity.rows as u64).map(id).collect();
        Bench {
            model,
            kv_type,
            exec,
            ids,
            read: Vec::new(),
            operations: [None; 3],
        }
    }

    /// Sequences of `depth` tokens, with room for `tokens` more.
    pub fn context(
        &mut self,
        depth: usize,
        sequences: usize,
        tokens: usize,
    ) -> Result<Context, Error> {
        let positions = (depth + tokens).next_multiple_of(KV_BLOCK);
        let (spec, positions) = (self.model.spec(), positions * sequences);
        let kv = KvPool::with_states(spec, positions, self.kv_type, 2 * sequences)?;
        let mut context = Context {
            kv,
            depth,
            sequences: (0..sequences).map(|_| KvSequence::default()).collect(),
            states: Vec::new(),
        };
        context.reserve(depth);
        self.prompt(&mut context, depth);
        if depth > 0 {
            let all = context.sequences.iter();
            context.states = all.filter_map(|s| context.kv.checkpoint(s)).collect();
        }
        Ok(context)
    }

    /// Runs a test to warm up, and counts what it has to do.
    pub fn count(&mut self, context: &mut Context, test: Test) -> Work {
        self.exec.recorder = Recorder::new(Detail::Operations);
        let work = self.work(context, test).1;
        self.exec.recorder = Recorder::new(Detail::Off);
        work
    }

    /// Tokens per second of one run.
    pub fn run(&mut self, context: &mut Context, test: Test) -> f64 {
        let (time, work) = self.work(context, test);
        work.tokens as f64 / time.as_secs_f64()
    }

    fn work(&mut self, context: &mut Context, test: Test) -> (Duration, Work) {
        context.reserve(test.tokens);
        let start = Instant::now();
        let work = match test.kind {
            Kind::Prompt => self.prompt(context, test.tokens),
            Kind::Generate => self.generate(context, test.tokens),
        };
        let time = start.elapsed();
        context.rewind();
        (time, work)
    }

    /// Reads prompts in chunks, as the engine does.
    fn prompt(&mut self, context: &mut Context, tokens: usize) -> Work {
        let mut left = vec![tokens; context.sequences.len()];
        let mut work = Work::default();
        while left.iter().any(|&n| n > 0) {
            let mut room = self.ids.len();
            let rows = left.iter_mut().map(|left| {
                let rows = room.min(*left);
                (room, *left) = (room - rows, *left - rows);
                // Logits follow the last token.
                (rows, usize::from(*left == 0))
            });
            let rows: Vec<_> = rows.collect();
            self.step(context, &rows, true, &mut work);
        }
        work
    }

    /// A token of each sequence, again and again.
    fn generate(&mut self, context: &mut Context, tokens: usize) -> Work {
        let rows = vec![(1, 1); context.sequences.len()];
        let mut work = Work::default();
        for _ in 0..tokens {
            self.step(context, &rows, false, &mut work);
        }
        work
    }

    /// Computes `rows` of each sequence, a prompt's or not, and logits of so many of them.
    fn step(
        &mut self,
        context: &mut Context,
        rows: &[(usize, usize)],
        prompt: bool,
        work: &mut Work,
    ) {
        let mut batch = Batch::default();
        for (s, &(rows, logits)) in context.sequences.iter().zip(rows) {
            let at = s.len() % (self.ids.len() - rows + 1);
            let prompt_len = if prompt { usize::MAX } else { 0 };
            let output = Output::Logits(logits);
            batch.push(s, &self.ids[at..at + rows], prompt_len, output);
        }
        work.tokens += batch.ids.len();
        work.steps += 1;
        self.model.forward(&batch, &mut context.kv, &mut self.exec);
        for event in self.exec.recorder.events() {
            work.cost += event.cost;
        }
        for (s, &(rows, _)) in context.sequences.iter_mut().zip(rows) {
            s.advance(rows);
        }
    }

    /// What the machine could do at most in steps like these.
    pub fn roofs(&mut self, work: &Work) -> Roofs {
        let team = self.model.team();
        let bytes = work.step_bytes();
        // Sets that differ by little are read alike.
        let alike = |set: f64| (set / bytes - 1.0).abs() < 0.03;
        let known = self.read.iter().find(|(set, _)| alike(*set));
        let read = known.map_or_else(
            || {
                roof::read_weights(
                    team,
                    self.model.weights().matrices(),
                    bytes as usize,
                    ROOF_TIME,
                )
            },
            |k| k.1,
        );
        if known.is_none() {
            self.read.push((bytes, read));
        }
        let all = |of: fn(DType) -> bool| self.model.weights().matrices().all(|m| of(m.dtype()));
        let cost = &work.cost;
        let (kind, peak): (usize, fn(&Team, Duration) -> f64) = match () {
            // Rows of prompts may be computed in bfloat16, whatever the weights are.
            () if cost.bf16_ops > cost.int_ops.max(cost.flops) => (0, roof::bf16_peak),
            () if all(|dtype| dtype == DType::BF16) => (0, roof::bf16_peak),
            () if all(DType::is_float) => (1, roof::fma_peak),
            () => (2, roof::dot_peak),
        };
        let operations = *self.operations[kind].get_or_insert_with(|| peak(team, ROOF_TIME));
        Roofs {
            bytes: read,
            operations,
        }
    }
}
