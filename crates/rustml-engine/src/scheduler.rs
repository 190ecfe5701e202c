//! Who runs, and with how many rows.
//!
//! Requests start in the order in which they came, as soon as there is room
//! for the beginning of their prompt, and take blocks of the cache as they
//! grow. When there are none left, the one that came last gives its own back
//! and waits at the front of the queue; what it had computed stays findable as
//! long as nobody needs the room, and its state stays with it, so that it goes
//! on as if nothing had happened. The first of those that run always gets what
//! it needs, so that all come to an end.

use crate::config::EngineConfig;
use crate::draft::Drafter;
use crate::pace::Pace;
use crate::prefix::Prefixes;
use crate::sequence::{Sequence, Work};
use crate::speculate::{Costs, Record};
use crate::stats::Stats;
use rustml_model::{Capacity, KvPool, KV_BLOCK};
use std::collections::VecDeque;
use std::time::Instant;

/// The requests, and the cache they share.
pub(crate) struct Scheduler {
    pub kv: KvPool,
    prefixes: Prefixes,
    pub waiting: VecDeque<Sequence>,
    /// In the order in which they came.
    pub running: Vec<Sequence>,
    sequences: usize,
    /// Whether prompts are computed apart, so that each work is of one kind.
    apart: bool,
    pub pace: Pace,
    /// Of steps that only decode.
    pub costs: Costs,
    /// Of guesses from what texts said.
    pub lookups: Record,
    pub drafter: Option<Drafter>,
    /// Blocks that could be had when the first that waits was last refused.
    refused_at: Option<usize>,
    pub stats: Stats,
}

impl Scheduler {
    pub fn new(kv: KvPool, apart: bool, config: &EngineConfig) -> Scheduler {
        Scheduler {
            kv,
            prefixes: Prefixes::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            sequences: config.sequences.max(1),
            apart,
            pace: Pace::new(config.step_target),
            costs: Costs::new(config.always_guess),
            lookups: Record::default(),
            drafter: None,
            refused_at: None,
            stats: Stats::default(),
        }
    }

    /// What the next step computes of each running sequence. It has the room.
    pub fn plan(&mut self, capacity: Capacity) -> Vec<Work> {
        self.admit(capacity.rows);
        let decodes = |s: &Sequence| s.pending().len() == 1;
        let decoding = self.running.iter().filter(|s| decodes(s)).count();
        let free = capacity.rows - decoding;
        let mut prompt_rows = self.pace.rows(decoding, free);
        // Each may come to its last row.
        let mut extra_logits = capacity.logit_rows - self.running.len();
        let mut works = Vec::new();
        while works.len() < self.running.len() {
            let s = &self.running[works.len()];
            let pending = s.pending().len();
            let of_prompt = s.prompt_len.saturating_sub(s.cache.len());
            let prompt = self.apart && of_prompt > 0;
            let mut rows = match prompt {
                true => of_prompt,
                false => pending,
            };
            if pending > 1 {
                rows = rows.min(prompt_rows);
            }
            if s.reports_prompt() {
                rows = rows.min(extra_logits + 1);
            }
            let Some(rows) = self.make_room(works.len(), rows) else {
                break;
            };
            let s = &self.running[works.len()];
            let complete = rows == pending;
            let logits = match s.reports_prompt() {
                true => rows,
                false => usize::from(complete),
            };
            extra_logits -= logits.saturating_sub(1);
            if pending > 1 {
                prompt_rows -= rows;
            }
            works.push(Work {
                rows,
                logits,
                complete,
                decodes: pending == 1 && !prompt,
                prompt,
                drafts: Vec::new(),
                asked: false,
            });
        }
        if works.iter().all(|w| w.decodes) {
            let most = free.min(extra_logits);
            let left = self.look_up(&mut works, most);
            self.draft(&mut works, left);
        }
        works
    }

    /// Adds guesses from what the texts said to a step that only decodes, `most`
    /// at most; returns how many more there may be.
    fn look_up(&mut self, works: &mut [Work], mut most: usize) -> usize {
        let mut rows = works.len();
        for (i, w) in works.iter_mut().enumerate() {
            let drafts = self.running[i].draft(most, &self.costs, rows);
            if !drafts.is_empty() && self.has_room(i, 1 + drafts.len()) {
                rows += drafts.len();
                most -= drafts.len();
                self.add(w, drafts);
            }
        }
        most
    }

    /// Adds guesses of the draft model.
    fn draft(&mut self, works: &mut [Work], most: usize) {
        let Some(mut drafter) = self.drafter.take() else {
            return;
        };
        let mut wanted = drafter.plan(&mut self.running, works, most, &self.costs);
        for (i, n) in wanted.iter_mut().enumerate() {
            if *n > 0 && !self.has_room(i, 1 + *n) {
                *n = 0;
            }
        }
        let drafts = drafter.run(&mut self.running, &wanted);
        for ((w, drafts), n) in works.iter_mut().zip(drafts).zip(wanted) {
            if n > 0 {
                w.asked = true;
                self.add(w, drafts);
            }
        }
        self.stats.draft_seconds = drafter.seconds;
        self.drafter = Some(drafter);
    }

    fn add(&mut self, w: &mut Work, drafts: Vec<u32>) {
        self.stats.proposed += drafts.len() as u64;
        w.logits += drafts.len();
        w.drafts = drafts;
    }

    /// Makes room for rows of a sequence, if nobody has to go for that.
    fn has_room(&mut self, i: usize, rows: usize) -> bool {
        let cache = &mut self.running[i].cache;
        let blocks = rows.saturating_sub(cache.room()).div_ceil(KV_BLOCK);
        self.prefixes.make_room(&mut self.kv, blocks) && self.kv.reserve(cache, rows)
    }

    /// Lets waiting requests in while there is room for their next rows, and
    /// for one block more for each that runs.
    fn admit(&mut self, rows: usize) {
        while self.running.len() < self.sequences {
            let available = self.prefixes.available(&self.kv);
            let Some(s) = self.waiting.front_mut() else {
                return;
            };
            let spare = self.running.len();
            let hopeless = self.refused_at.is_some_and(|at| available <= at);
            if spare > 0 && (hopeless || available <= spare) {
                return;
            }
            let most = s.reusable();
            let found = self
                .prefixes
                .find(&mut self.kv, &mut s.cache, &s.tokens, most);
            s.sealed = s.cache.len() / KV_BLOCK;
            let next = s.pending().len().min(rows).saturating_sub(s.cache.room());
            let needed = next.div_ceil(KV_BLOCK) + spare;
            if spare > 0 && needed > self.prefixes.available(&self.kv) {
                let cache = std::mem::take(&mut s.cache);
                self.prefixes
                    .release(&mut self.kv, cache, &s.tokens, s.sealed);
                s.sealed = 0;
                self.refused_at = Some(self.prefixes.available(&self.kv));
                return;
            }
            self.refused_at = None;
            if s.clock.started.is_none() {
                s.clock.started = Some(Instant::now());
                s.clock.cached_tokens = found.hit;
                self.stats.prefix_hits += found.hit as u64;
                self.stats.prefix_misses.add(found.misses);
            }
            self.running.extend(self.waiting.pop_front());
        }
    }

    /// Makes room for the next rows of a running sequence. Later ones may have
    /// to go for that; if it is the last one itself, it gets fewer rows, and
    /// without any it goes too. `None` if it went.
    fn make_room(&mut self, i: usize, mut rows: usize) -> Option<usize> {
        loop {
            let s = &mut self.running[i];
            let missing = rows.saturating_sub(s.cache.room()).div_ceil(KV_BLOCK);
            if self.prefixes.make_room(&mut self.kv, missing) {
                let fits = self.kv.reserve(&mut s.cache, rows);
                assert!(fits, "room was made");
                return Some(rows);
            }
            let left = s.cache.room() + self.prefixes.available(&self.kv) * KV_BLOCK;
            if i + 1 == self.running.len() && left > 0 {
                rows = left;
                continue;
            }
            let itself = i + 1 == self.running.len();
            assert!(i > 0 || !itself, "a request alone fits into the cache");
            self.preempt_last();
            if itself {
                return None;
            }
        }
    }

    fn preempt_last(&mut self) {
        let Some(mut s) = self.running.pop() else {
            return;
        };
        self.give_back(&mut s);
        s.clock.preemptions += 1;
        self.stats.preemptions += 1;
        self.refused_at = None;
        self.waiting.push_front(s);
    }

    /// Takes a sequence's cache; what it computed stays findable.
    fn give_back(&mut self, s: &mut Sequence) {
        let cache = std::mem::take(&mut s.cache);
        self.prefixes
            .release(&mut self.kv, cache, &s.tokens, s.sealed);
        s.sealed = 0;
        if let Some(drafter) = &mut self.drafter {
            drafter.release(s);
        }
    }

    /// Makes what the step completed findable.
    pub fn seal(&mut self) {
        for s in &mut self.running {
            s.sealed = self
                .prefixes
                .seal(&mut self.kv, &mut s.cache, &s.tokens, s.sealed);
        }
    }

    /// Takes a request out, with its cache given back.
    pub fn remove(&mut self, id: u64) -> Option<Sequence> {
        let waiting = self.waiting.iter().position(|s| s.id == id);
        let mut s = match waiting {
            Some(i) => {
                self.refused_at = None;
                self.waiting.remove(i)?
            }
            None => {
                let i = self.running.iter().position(|s| s.id == id)?;
                self.running.remove(i)
            }
        };
        self.give_back(&mut s);
        self.stats.guesses_off += u64::from(s.is_unguessed());
        Some(s)
    }

    /// How it stands.
    pub fn stats(&self) -> Stats {
        let idle = self.prefixes.idle();
        Stats {
            running: self.running.len(),
            waiting: self.waiting.len(),
            kv_blocks: self.kv.blocks(),
            kv_used: self.kv.blocks() - self.kv.free_blocks() - idle,
            kv_cached: idle,
            draft_kv_used: self.drafter.as_ref().map_or(0, Drafter::used),
            ..self.stats
        }
    }
}
