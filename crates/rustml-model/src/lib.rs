//! Transformer architectures as data, and the one forward pass over them.
//!
//! [`Model::load`] turns an open file ([`rustml_io::Store`]) into packed
//! weights and a [`spec::Spec`]; [`Model::forward`] computes one step: any
//! number of rows of any number of sequences, prompts and single tokens alike.
//! There is no second forward pass for prompts, for batches or without a
//! cache, so there is nothing that they could disagree about.
//!
//! ```
//! use rustml_io::Store;
//! use rustml_model::{team, Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Output, Quantize};
//! use rustml_trace::{Detail, Recorder};
//! use std::path::Path;
//!
//! let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../testdata/tiny/gpt2");
//! let store = Store::open(&path)?;
//! let model = Model::load(&store, Quantize::Auto, team(2)?, &mut |_done, _total| {})?;
//! println!("{}: {}", model.arch(), model.spec());
//!
//! // A cache for all sequences, and buffers for steps of up to 16 rows.
//! let mut kv = KvPool::new(model.spec(), 64, KvType::F16)?;
//! let capacity = Capacity { rows: 16, logit_rows: 1 };
//! let mut exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
//!
//! // Greedy: the prompt, then each token that was chosen.
//! let mut sequence = KvSequence::default();
//! let (mut next, mut text) = (vec![48, 19, 41], Vec::<u32>::new());
//! while text.len() < 5 {
//!     assert!(kv.reserve(&mut sequence, next.len()), "the cache is full");
//!     let mut batch = Batch::default();
//!     batch.push(&sequence, &next, 3, Output::Logits(1));
//!     let outputs = model.forward(&batch, &mut kv, &mut exec);
//!     let logits = outputs.logits().next().unwrap();
//!     let best = (0..logits.len()).max_by(|&a, &b| logits[a].total_cmp(&logits[b]));
//!     sequence.advance(next.len());
//!     next = vec![best.unwrap() as u32];
//!     text.extend(&next);
//! }
//! kv.release(sequence);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # How it is put together
//!
//! - [`spec`]: an architecture is plain data. What differs between models is
//!   an enum with its payload; the forward pass reads nothing else.
//! - [`arch`]: one file for each architecture says how its files describe it:
//!   settings of config.json and of GGUF to a `Spec`, the names of its
//!   tensors, and the repair that each needs. No model's name is anywhere else.
//! - Loading repairs, converts and packs tensor by tensor, so that weights are
//!   in the one convention that the forward pass knows, and memory peaks at
//!   the packed weights.
//! - [`Exec`] holds threads, buffers and the recorder; its operations are the
//!   only ones that read the clock.
//! - [`synth`] makes files with a real model's shape and random weights.
//! - [`KvPool`] holds the keys and values of all sequences in blocks of
//!   [`KV_BLOCK`] positions that each [`KvSequence`] borrows.
//!
//! # What holds
//!
//! - Files are not trusted. Whatever they say, loading gives a model or an
//!   [`Error`] of one sentence that names the file and the setting or tensor;
//!   it does not panic, and it does not ask for memory out of proportion to
//!   the file. What loads, runs: weights that are no numbers give logits that
//!   are none. Nothing is dropped silently: a tensor that the architecture
//!   does not use is an error.
//! - The logits of a row are the same to the bit however its text is cut into
//!   steps, whatever other rows are in the step, and on any number of threads.
//!   Instruction sets differ by the order of summation. On some of them prefill
//!   rows differ from decode rows by rounding ([`Model::phases_differ`]); which
//!   a row is follows from its position and [`Span::prompt_len`].
//! - A batch that breaks the rules of [`Model::forward`] is a bug of the
//!   caller and panics.

#![forbid(unsafe_code)]

mod altup;
pub mod arch;
mod batch;
mod calibrate;
mod classifier;
mod distance;
mod error;
mod exec;
mod finite;
mod forward;
mod kv;
mod load;
mod model;
mod passes;
mod per_layer;
mod quantize;
mod recurrent;
mod rope;
mod source;
pub mod spec;
mod summary;
pub mod synth;
mod weights;

pub use batch::{Batch, Output, Outputs, Span};
pub use calibrate::{Calibration, Timings};
pub use error::{Error, Result};
pub use exec::{Capacity, Exec};
pub use kv::{Checkpoint, KvBlock, KvPool, KvSequence};
pub use load::{Choice, LoadReport, LoadTimes, Progress, Recoded};
pub use model::{team, Model};
pub use quantize::Quantize;
pub use rustml_kernels::attention::{KvType, KV_BLOCK};
pub use rustml_kernels::pages::gather as gather_pages;
pub use rustml_kernels::par::Team;
pub use source::{Config, Gguf};
pub use weights::{
    AttentionWeights, BlockWeights, ExpertsWeights, FeedForwardWeights, LatentWeights,
    LayerWeights, Linear, NormWeights, PartWeights, RecurrentWeights, Weights,
};
