//! Events of a run, the folds over them, and the reports made of those.
//!
//! The operations of a forward pass are the only ones that read the clock;
//! what they saw is an [`Event`], a plain record. Logs, profiles and reports
//! are folds over events, so that a figure is never taken in two places. This
//! crate is a leaf: operations and reports share it and nothing else.
//!
//! - [`Recorder`] collects the events of a [`Step`].
//! - [`StepTimes`] and [`LayerTimes`] are what logs print of them.
//! - [`lost`] is what the machine gave to others meanwhile.
//! - [`chrome`] writes them as a trace for the usual viewers.
//! - [`round`] holds what was measured of a model on a machine, as plain data;
//!   [`tables`] what follows from it, [`compare`] how two differ, [`render`]
//!   shows all that as Markdown and HTML.
//!
//! Invariants: events of one step do not overlap and are in order of time, so
//! they add up; [`Recorder`] allocates when it is made and between steps only
//! (but for turns, which are few and whose memory is kept); whatever a report
//! says follows from its round and from nothing else.
//!
//! ```
//! use rustml_trace::{Cost, Detail, Op, Recorder, StepTimes};
//! let mut r = Recorder::new(Detail::Operations);
//! r.begin_step(1);
//! let start = r.start();
//! // ... the operation ...
//! r.record(Op::Embed, start, Cost::default());
//! let total = r.end_step(None);
//! let times = StepTimes::of(r.events(), total);
//! assert!(times.embedding <= times.total);
//! ```

#![forbid(unsafe_code)]

pub mod chrome;
pub mod compare;
pub mod document;
mod fold;
pub mod lost;
mod op;
mod recorder;
pub mod render;
pub mod round;
pub mod stats;
pub mod tables;

pub use fold::{LayerTimes, StepTimes};
pub use op::{Cost, Event, Op, Part, Step, Turn};
pub use recorder::{Detail, Recorder, Threads};
