//! Steps of many texts.
//!
//! Rows of a step lie one after the other, each text's as many as it has tokens: there is no
//! padding, and a text gets the bits that it gets alone.

use super::{Embedder, Embedding, Pooling};
use crate::error::{Error, Result};
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Output, KV_BLOCK};
use rustml_tokenizer::Input;
use rustml_trace::{Detail, Recorder};

/// Texts of a step at most, each of which begins a block of keys and values.
const TEXTS: usize = 64;

/// What a step of so many rows writes.
struct Room {
    rows: usize,
    kv: KvPool,
    exec: Exec,
}

impl Room {
    fn new(model: &rustml_model::Model, rows: usize, texts: usize) -> Result<Room> {
        let capacity = Capacity {
            rows,
            logit_rows: rows,
        };
        // Each text begins a block of its own.
        let positions = rows + KV_BLOCK * rows.min(texts);
        Ok(Room {
            rows,
            kv: KvPool::with_states(model.spec(), positions, KvType::F32, texts)?,
            exec: Exec::new(model, capacity, Recorder::new(Detail::Off)),
        })
    }
}

/// Makes vectors step by step, in memory that is kept.
pub struct EmbedSteps {
    embedder: Embedder,
    room: Room,
}

impl Embedder {
    /// What makes vectors step by step.
    ///
    /// # Errors
    /// If memory is lacking.
    pub fn steps(&self) -> Result<EmbedSteps> {
        self.steps_of(self.rows())
    }

    fn steps_of(&self, rows: usize) -> Result<EmbedSteps> {
        Ok(EmbedSteps {
            room: Room::new(&self.model, rows, TEXTS)?,
            embedder: self.clone(),
        })
    }

    /// The vectors of texts, given their tokens. Texts share steps by their lengths.
    ///
    /// # Errors
    /// If a text has no token or too many, one is outside the vocabulary, memory is lacking,
    /// or a value is no finite number.
    pub fn run(&self, texts: &[Input]) -> Result<Vec<Embedding>> {
        for input in texts {
            self.check(input)?;
        }
        let total: usize = texts.iter().map(|t| t.ids.len()).sum();
        let mut steps = self.steps_of(self.rows().min(total).max(1))?;
        let mut out: Vec<Option<Embedding>> = vec![None; texts.len()];
        let mut order: Vec<usize> = (0..texts.len()).collect();
        order.sort_by_key(|&i| texts[i].ids.len());
        let mut rest = &order[..];
        while !rest.is_empty() {
            let mut left = steps.room.rows;
            let fits = |&&i: &&usize| match left.checked_sub(texts[i].ids.len()) {
                Some(less) => {
                    left = less;
                    true
                }
                None => false,
            };
            // A longer one has a step for itself.
            let count = rest.iter().take(TEXTS).take_while(fits).count().max(1);
            let step;
            (step, rest) = rest.split_at(count);
            let inputs: Vec<&Input> = step.iter().map(|&i| &texts[i]).collect();
            for (&i, made) in step.iter().zip(steps.step(&inputs)?) {
                out[i] = Some(made?);
            }
        }
        let made = |e: Option<_>| e.expect("every text was in a step");
        Ok(out.into_iter().map(made).collect())
    }
}

impl EmbedSteps {
    /// Texts of a step at most.
    pub const TEXTS: usize = TEXTS;

    /// The vectors of a step's texts, which together have [`Embedder::rows`] tokens, or of one
    /// that alone has more. A text of no finite numbers is an error of its own.
    ///
    /// # Errors
    /// If a text cannot be read, there are too many, or memory is lacking.
    pub fn step(&mut self, texts: &[&Input]) -> Result<Vec<Result<Embedding>>> {
        for text in texts {
            self.embedder.check(text)?;
        }
        let rows: usize = texts.iter().map(|t| t.ids.len()).sum();
        if texts.len() > TEXTS || (rows > self.room.rows && texts.len() > 1) {
            let says = format!("{} texts of {rows} tokens are no step", texts.len());
            return Err(Error::Embedding(says));
        }
        let Embedder { model, pooling, .. } = &self.embedder;
        let mut own;
        let room = match rows <= self.room.rows {
            true => &mut self.room,
            false => {
                own = Room::new(model, rows, 1)?;
                &mut own
            }
        };
        let reserve = |text: &&Input| {
            let mut cache = KvSequence::default();
            let fits = room.kv.reserve(&mut cache, text.ids.len());
            assert!(fits, "there is room for a step");
            cache
        };
        let caches: Vec<KvSequence> = texts.iter().map(reserve).collect();
        let wanted = |text: &Input| match pooling {
            Pooling::Last => 1,
            Pooling::Mean | Pooling::First => text.ids.len(),
        };
        let mut batch = Batch::default();
        for (cache, text) in caches.iter().zip(texts) {
            let output = Output::Hidden(wanted(text));
            let types = self.embedder.types(text);
            batch.push_typed(cache, (&text.ids, types), output);
        }
        let outputs = model.forward(&batch, &mut room.kv, &mut room.exec);
        let mut rows = outputs.hidden();
        let finish = |text: &&Input| {
            let mine: Vec<&[f32]> = rows.by_ref().take(wanted(text)).collect();
            let values = self.embedder.finish(&mine);
            if values.iter().any(|x| !x.is_finite()) {
                return Err(Error::NotFinite(model.why_not_finite(&text.ids)));
            }
            Ok(Embedding {
                values,
                tokens: text.ids.len(),
                truncated: text.cut > 0,
            })
        };
        let all = texts.iter().map(finish).collect();
        drop(rows);
        caches.into_iter().for_each(|c| room.kv.release(c));
        Ok(all)
    }
}
