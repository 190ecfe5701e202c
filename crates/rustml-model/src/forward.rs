//! The forward pass: a step of any number of sequences.

use crate::batch::{Batch, Output, Outputs};
use crate::exec::{Exec, Target};
use crate::kv::KvPool;
use crate::model::Model;
use crate::passes::{plan, Extent, Pass};
use crate::spec::{Block, Norm, NormPlacement, Part};
use crate::weights::{BlockWeights, NormWeights, PartWeights};
use rustml_kernels::par::{SpanView, StateSpan};
use rustml_kernels::Phase;
use rustml_trace::Op;

/// Rows on their way through the layers.
pub(crate) struct Rows<'a> {
    /// Whose they are.
    pub spans: Vec<SpanView<'a>>,
    /// Tokens of the text that each is of.
    lengths: Vec<usize>,
    /// Where their states are; nothing where the model has none.
    pub states: Vec<StateSpan>,
    /// How many.
    pub count: usize,
    /// The arithmetic of products.
    pub phase: Phase,
    /// Those for which something is given, ascending.
    wanted: Vec<usize>,
    /// Of which of these logits are given.
    logits: Vec<bool>,
}

/// Where in the model a block is.
#[derive(Clone, Copy)]
struct At {
    layer: usize,
    block: usize,
    /// Whether rows that nothing is given for end here.
    selects: bool,
}

impl Model {
    /// Runs one step; returns what its spans ask for.
    ///
    /// Keys and values of all rows are stored in the cache; the caller counts
    /// them with [`crate::KvSequence::advance`]. What a row gives does not
    /// depend, to the bit, on the other rows of the step, on how its text was
    /// cut into steps, or on the number of threads.
    ///
    /// # Panics
    /// If the batch exceeds the capacity of `exec`, names a token outside the
    /// vocabulary or a position that the model has no vector for, cuts a text of an encoder, has no room
    /// reserved in its caches, would store to a block that is shared, or names a
    /// cache twice or one of another pool;
    /// or if `kv` or `exec` was made for another model.
    pub fn forward<'e>(&self, batch: &Batch, kv: &mut KvPool, exec: &'e mut Exec) -> Outputs<'e> {
        self.check(batch, kv, exec);
        let extents: Vec<Extent> = batch.spans.iter().map(Extent::from).collect();
        let passes = plan(&extents, self.numerics());
        exec.recorder
            .begin_step(passes.len() * (self.spec().layers.len() * 18 + 4));
        // Which row of the batch each row of logits and hidden states is.
        let (mut logits, mut hidden) = (Vec::new(), Vec::new());
        for pass in &passes {
            self.pass(batch, pass, kv, exec, &mut logits, &mut hidden);
        }
        let order = |rows: &[usize]| {
            let mut order: Vec<usize> = (0..rows.len()).collect();
            order.sort_by_key(|&i| rows[i]);
            order
        };
        let (vocab, width) = (self.spec().vocab, self.spec().hidden);
        Outputs {
            logits: &exec.buffers.logits[..logits.len() * vocab],
            vocab,
            logit_order: order(&logits),
            hidden: &exec.buffers.hidden[..hidden.len() * width],
            width,
            hidden_order: order(&hidden),
        }
    }

    /// Runs one pass. Adds which rows of the batch its logits and hidden states
    /// are of.
    fn pass(
        &self,
        batch: &Batch,
        pass: &Pass,
        kv: &mut KvPool,
        exec: &mut Exec,
        logits: &mut Vec<usize>,
        hidden: &mut Vec<usize>,
    ) {
        let starts: Vec<usize> = batch
            .spans
            .iter()
            .scan(0, |at, s| Some(std::mem::replace(at, *at + s.rows)))
            .collect();
        let mut rows = Rows {
            spans: Vec::with_capacity(pass.pieces.len()),
            lengths: Vec::with_capacity(pass.pieces.len()),
            states: Vec::new(),
            count: 0,
            phase: pass.phase,
            wanted: Vec::new(),
            logits: Vec::new(),
        };
        let (mut ids, mut types, mut given) = (Vec::new(), Vec::new(), Vec::new());
        for piece in &pass.pieces {
            let (s, start) = (&batch.spans[piece.span], starts[piece.span] + piece.first);
            rows.spans.push(SpanView {
                row: rows.count,
                rows: piece.rows,
                first: s.cache.len() + piece.first,
                blocks: s.cache.blocks(),
                phase: piece.phase,
            });
            rows.lengths
                .push(s.cache.text_len().max(s.cache.len() + s.rows));
            if let Some(slot) = s.cache.slot() {
                rows.add_state(slot, piece.rows);
            }
            ids.extend_from_slice(&batch.ids[start..start + piece.rows]);
            types.extend((start..start + piece.rows).map(|row| batch.type_of(row)));
            let unwanted = s.rows - s.output.wanted(s.rows);
            for row in unwanted.max(piece.first)..piece.first + piece.rows {
                rows.wanted.push(rows.count + row - piece.first);
                rows.logits.push(matches!(s.output, Output::Logits(_)));
                given.push(starts[piece.span] + row);
            }
            rows.count += piece.rows;
        }
        let of = |kind: bool, rows: &Rows| {
            let given = given.iter().zip(&rows.logits);
            let given = given.filter(move |(_, logits)| **logits == kind);
            given.map(|(row, _)| *row).collect::<Vec<_>>()
        };
        let (first_logits, first_hidden) = (logits.len(), hidden.len());
        logits.extend(of(true, &rows));
        hidden.extend(of(false, &rows));

        exec.embed(self, (&ids, &types), &rows.spans);
        exec.per_layer(self, &ids, rows.phase);
        exec.split_streams(self, rows.count, rows.phase);
        exec.rope_tables(self, &rows.spans, &rows.lengths);
        for (i, layer) in self.spec().layers.iter().enumerate() {
            exec.recorder.set_layer(Some(i));
            for (j, block) in layer.blocks.iter().enumerate() {
                let at = At {
                    layer: i,
                    block: j,
                    selects: Some((i, j)) == self.last_mixer(),
                };
                let weights = &self.weights().layers[i].blocks[j];
                exec.begin_block();
                self.block(at, block, weights, &mut rows, kv, exec);
                exec.look_at(i, &block.part, rows.count);
                if rows.count == 0 {
                    exec.recorder.set_layer(None);
                    return;
                }
            }
        }
        exec.recorder.set_layer(None);
        if self.last_mixer().is_none() {
            exec.keep(&rows.wanted);
        }
        exec.join_streams(self, rows.logits.len(), rows.phase);
        if !rows.logits.is_empty() {
            exec.head(self, &rows.logits, first_logits, first_hidden);
        }
    }

    /// One block of all rows, added to the stream. Where it `selects`, what
    /// comes after its keys and values are stored is computed only for the rows
    /// that something is given for, and as decode rows; these then are the first
    /// of the stream.
    fn block(
        &self,
        at: At,
        block: &Block,
        w: &BlockWeights,
        rows: &mut Rows,
        kv: &mut KvPool,
        exec: &mut Exec,
    ) {
        match (&block.part, &w.part) {
            (Part::Parallel(blocks), PartWeights::Parallel(weights)) => {
                // What they share is normalised for each of them: the stream
                // does not change before all have read it.
                let shared = (block.norm.before(), w.before.as_ref());
                for (i, (b, bw)) in blocks.iter().zip(weights).enumerate() {
                    let own = (b.norm.before(), bw.before.as_ref());
                    let before = if own.0.is_some() { own } else { shared };
                    let follows = b.norm.after().is_some() || b.scale != 1.0;
                    let sum = Target::Sum { accumulate: i > 0 };
                    let part = Target::Part { accumulate: false };
                    let target = if follows { part } else { sum };
                    self.part(at, &b.part, &bw.part, before, target, rows, kv, exec);
                    if rows.count == 0 {
                        return;
                    }
                    if follows {
                        let after = (b.norm.after(), bw.after.as_ref());
                        exec.add(post_op(&b.part), after, b.scale, sum, rows.count);
                    }
                }
                let after = (block.norm.after(), w.after.as_ref());
                exec.add_sum(after, block.scale, rows.count);
            }
            (Part::Predict(a), PartWeights::AltUp(w)) => exec.predict(a, w, rows.count),
            (Part::Correct(a), PartWeights::AltUp(w)) => exec.correct(a, w, at.layer, rows),
            (Part::Times(factor), _) => exec.scale_stream(*factor, rows.count),
            (Part::Factor, PartWeights::Factor(factor)) => exec.scale_stream(*factor, rows.count),
            (part, weights) => {
                let before = (block.norm.before(), w.before.as_ref());
                let follows = matches!(
                    block.norm,
                    NormPlacement::Post(_) | NormPlacement::Sandwich(_)
                );
                let follows = follows || block.scale != 1.0;
                let target = match follows {
                    true => Target::Part { accumulate: false },
                    false => Target::Stream,
                };
                self.part(at, part, weights, before, target, rows, kv, exec);
                if rows.count == 0 {
                    return;
                }
                let after = match block.norm {
                    NormPlacement::Sum(_) => None,
                    _ => block.norm.after(),
                };
                if follows {
                    let after = (after, w.after.as_ref());
                    exec.add(
                        post_op(part),
                        after,
                        block.scale,
                        Target::Stream,
                        rows.count,
                    );
                }
            }
        }
        if let (NormPlacement::Sum(n), Some(after)) = (block.norm, &w.after) {
            exec.norm_stream(post_op(&block.part), &n, after, rows.count);
        }
    }

    #[allow(clippy::too_many_arguments)]
    fn part(
        &self,
        at: At,
        part: &Part,
        w: &PartWeights,
        before: (Option<Norm>, Option<&NormWeights>),
        target: Target,
        rows: &mut Rows,
        kv: &mut KvPool,
        exec: &mut Exec,
    ) {
        match (part, w) {
            (Part::Attention(a), PartWeights::Attention(w)) => {
                exec.prepare(Op::AttnNorm, before, rows, &w.inputs());
                match (&a.latent, &w.latent) {
                    (Some(l), Some(of)) => exec.latent_qkv(a, l, w, of, rows),
                    _ => exec.qkv(w, rows.count),
                }
                let cache = kv.layer(w.cache);
                match a.shares {
                    Some(_) => exec.position_queries(a, w, rows.count),
                    None => {
                        exec.finish_values(a, w, rows.count);
                        exec.position(a, w, &cache, &rows.spans, rows.count);
                    }
                }
                if at.selects {
                    rows.select();
                    exec.select(a, self.spec().hidden, &rows.wanted);
                    if rows.count == 0 {
                        return;
                    }
                }
                exec.attend(a, w, &cache, &rows.spans, rows.count);
                let next = self.weights().inputs_of(at.layer, at.block + 1);
                exec.attn_out(w, rows, target, &next);
            }
            (Part::Recurrent(r), PartWeights::Recurrent(w)) => {
                let inputs: Vec<_> = w.inputs().map(|l| &l.weights).collect();
                exec.prepare(Op::AttnNorm, before, rows, &inputs);
                exec.mix(r, w, &kv.state(w.state), rows);
                if at.selects {
                    rows.select();
                    exec.select_mixed(r, self.spec().hidden, &rows.wanted);
                    if rows.count == 0 {
                        return;
                    }
                }
                let next = self.weights().inputs_of(at.layer, at.block + 1);
                exec.state_out(r, w, rows, target, &next);
            }
            (Part::ReadsPerLayer(r), PartWeights::ReadsPerLayer(w)) => {
                exec.prepare(Op::FfnNorm, before, rows, &[&w.gate.weights]);
                exec.read_per_layer(r, w, at.layer, rows, target);
            }
            (Part::Laurel(l), PartWeights::Laurel(w)) => exec.laurel(l, w, before, rows, target),
            (Part::FeedForward(f), PartWeights::FeedForward(w)) => {
                exec.prepare(Op::FfnNorm, before, rows, &w.inputs());
                if let Some(deviations) = f.sparsity {
                    return exec.sparse_feed_forward(f, w, deviations, rows, target);
                }
                let next = self.weights().inputs_of(at.layer, at.block + 1);
                exec.feed_forward(f.activation, w, rows, target, &next);
            }
            (Part::Experts(e), PartWeights::Experts(w)) => {
                exec.experts(e, w, before, rows, target);
            }
            _ => unreachable!("weights are loaded by the specification"),
        }
    }

    /// Asserts what [`Model::forward`] demands.
    fn check(&self, batch: &Batch, kv: &KvPool, exec: &Exec) {
        let (rows, capacity) = (batch.ids.len(), exec.capacity());
        let outputs = batch.outputs();
        assert!(
            rows <= capacity.rows && outputs <= capacity.logit_rows,
            "a step of {rows} rows with {outputs} outputs is more than {capacity:?}"
        );
        let vocab = self.spec().vocab;
        let unknown = batch.ids.iter().find(|&&id| id as usize >= vocab);
        assert_eq!(unknown, None, "a token outside the vocabulary of {vocab}");
        let types = self.token_types().max(1);
        let unknown = batch.types.iter().find(|&&t| t as usize >= types);
        assert_eq!(
            unknown, None,
            "a type of tokens outside the {types} there are"
        );
        let covered: usize = batch.spans.iter().map(|s| s.rows).sum();
        assert_eq!(covered, rows, "the spans must cover the rows");
        let unused = self.spec().embedding.first_position;
        let positions = self.weights().positions.as_ref();
        let positions = positions.map(|p| p.rows() - unused);
        for (i, s) in batch.spans.iter().enumerate() {
            kv.check_owner(s.cache);
            let (first, room) = (s.cache.len(), s.cache.room());
            assert!(
                s.rows <= room,
                "{} rows in a cache that has room for {room}",
                s.rows
            );
            kv.check_writable(s.cache, s.rows);
            kv.check_state(s.cache);
            assert!(
                first == 0 || !self.spec().is_encoder(),
                "a text whose positions all see each other was cut"
            );
            assert!(
                s.rows == 0 || positions.is_none_or(|n| first + s.rows <= n),
                "a position beyond the {} that the model has vectors for",
                self.spec().context
            );
            let mut others = batch.spans[..i].iter();
            assert!(
                !others.any(|o| std::ptr::eq(o.cache, s.cache)),
                "a cache twice in one step"
            );
        }
    }
}

impl Rows<'_> {
    /// Says where the state of the rows is that were just counted. Those of one sequence
    /// may come in two pieces, one after the other.
    fn add_state(&mut self, slot: usize, rows: usize) {
        match self.states.last_mut() {
            Some(last) if last.slot == slot => last.rows += rows,
            _ => self.states.push(StateSpan {
                row: self.count,
                rows,
                slot,
            }),
        }
    }

    /// Leaves the wanted rows alone, each a span of its own, as decode rows.
    fn select(&mut self) {
        self.phase = Phase::Decode;
        if self.wanted.len() == self.count {
            self.spans.iter_mut().for_each(|s| s.phase = Phase::Decode);
            return;
        }
        let one = |(to, &row): (usize, &usize)| {
            let span = self.spans.iter().rfind(|s| s.row <= row && s.rows > 0);
            let span = span.expect("rows of the step are in a span");
            SpanView {
                row: to,
                rows: 1,
                first: span.first + row - span.row,
                blocks: span.blocks,
                phase: Phase::Decode,
            }
        };
        self.spans = self.wanted.iter().enumerate().map(one).collect();
        self.count = self.wanted.len();
    }
}

/// The operation of a part's second norm.
fn post_op(part: &Part) -> Op {
    match part {
        Part::Attention(_) | Part::Recurrent(_) => Op::AttnPostNorm,
        _ => Op::FfnPostNorm,
    }
}
