//! Who runs, and with how many rows.
//!
//! Requests are admitted in the order in which they came, as soon as there is
//! room for the beginning of their prompt, and take KV blocks as they grow. When
//! there are none left, the request that came last is preempted: its blocks are
//! released, and it goes back to the head of the queue. What it computed stays
//! in the prefix cache until the room is needed, and its sampler stays with it,
//! so it goes on as if nothing had happened. The first of those that run always
//! gets what it needs, so all come to an end.
//!
//! The prefix cache is asked when rows are about to be computed, not only when a
//! request is admitted. A request whose next rows another one is computing in
//! this step waits for them: `n` answers to one prompt read it once.

use crate::config::EngineConfig;
use crate::draft::Drafter;
use crate::pace::PrefillBudget;
use crate::prefix::PrefixCache;
use crate::sequence::{Sequence, StepSlice};
use crate::speculate::{AcceptanceStats, StepTimeModel};
use crate::stats::{Misses, Stats};
use rustml_model::spec::{rotated_since, Rope};
use rustml_model::{Capacity, KvPool, KV_BLOCK};
use std::collections::VecDeque;
use std::time::Instant;

/// Positions that another sequence computes in this step for which it pays to wait.
const WORTH_WAITING: usize = 16;

/// Positions from one place where a prompt's recurrent state is kept to the next.
const STATE_EVERY: usize = 8 * KV_BLOCK;

/// The requests, and the cache they share.
pub(crate) struct Scheduler {
    pub kv: KvPool,
    prefixes: PrefixCache,
    pub waiting: VecDeque<Sequence>,
    /// In the order in which they came.
    pub running: Vec<Sequence>,
    sequences: usize,
    /// The model's rotations.
    ropes: Vec<Rope>,
    /// Whether the model's prefill rows differ from decode rows.
    phases_differ: bool,
    pub pace: PrefillBudget,
    /// Of steps that only decode.
    pub costs: StepTimeModel,
    /// Of guesses from what texts said.
    pub lookups: AcceptanceStats,
    pub drafter: Option<Drafter>,
    /// Blocks that could be had when the first that waits was last refused.
    refused_at: Option<usize>,
    pub stats: Stats,
}

impl Scheduler {
    pub fn new(
        kv: KvPool,
        ropes: Vec<Rope>,
        phases_differ: bool,
        config: &EngineConfig,
    ) -> Scheduler {
        Scheduler {
            kv,
            prefixes: PrefixCache::default(),
            waiting: VecDeque::new(),
            running: Vec::new(),
            sequences: config.sequences.max(1),
            ropes,
            phases_differ,
            pace: PrefillBudget::new(config.step_target),
            costs: StepTimeModel::new(config.always_guess),
            lookups: AcceptanceStats::default(),
            drafter: None,
            refused_at: None,
            stats: Stats::default(),
        }
    }

    /// What the next step computes of each running sequence. It has the room.
    pub fn plan(&mut self, capacity: Capacity) -> Vec<StepSlice> {
        self.admit(capacity.rows);
        self.follow_rotations();
        let decodes = |s: &Sequence| s.pending().len() == 1;
        let decoding = self.running.iter().filter(|s| decodes(s)).count();
        let free = capacity.rows - decoding;
        let mut prompt_rows = self.pace.rows(decoding, free);
        // Each may come to its last row.
        let mut extra_logits = capacity.logit_rows - self.running.len();
        let mut works: Vec<StepSlice> = Vec::new();
        while works.len() < self.running.len() {
            // Those that decode have their row already.
            let prefills = !decodes(&self.running[works.len()]);
            let waits = prefills && self.reuse(&works);
            let s = &self.running[works.len()];
            let pending = s.pending().len();
            let mut rows = if waits { 0 } else { pending };
            if prefills {
                rows = rows.min(prompt_rows);
            }
            if s.reports_prompt() {
                rows = rows.min(extra_logits + 1);
            }
            if self.kv.has_states() {
                // A state can be kept only where a step ends.
                let len = s.cache.len();
                rows = rows.min(next_kept(s, len).map_or(rows, |at| at - len));
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
            if prefills {
                prompt_rows -= rows;
            }
            works.push(StepSlice {
                rows,
                logits,
                complete,
                decodes: pending == 1,
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

    /// Takes the caches of texts that have grown so long that all their positions
    /// are rotated otherwise: these are computed anew.
    fn follow_rotations(&mut self) {
        for i in 0..self.running.len() {
            let tokens = self.running[i].tokens.len();
            let since = rotated_since(&self.ropes, tokens);
            if since != self.running[i].rotated_since {
                let mut s = self.running.remove(i);
                self.give_back(&mut s);
                s.rotated_since = since;
                self.running.insert(i, s);
            }
            self.running[i].cache.set_text_len(tokens);
        }
    }

    /// How many of `most` guesses can follow a text without its being rotated
    /// otherwise.
    fn guesses(&self, i: usize, most: usize) -> usize {
        let s = &self.running[i];
        let same = |n: &usize| rotated_since(&self.ropes, s.tokens.len() + n) == s.rotated_since;
        (1..=most).take_while(same).count()
    }

    /// Takes from the prefix cache what the sequence after those planned so far
    /// is about to compute. Whether it should wait, since one of them computes
    /// that in this step.
    fn reuse(&mut self, planned: &[StepSlice]) -> bool {
        let i = planned.len();
        let s = &mut self.running[i];
        let most = s.reusable();
        if !s.cache.len().is_multiple_of(KV_BLOCK) {
            // It goes on where a text ended, whose state was kept.
            let misses = Misses {
                too_short: most.saturating_sub(s.cache.len()) as u64,
                ..Misses::default()
            };
            self.count_reuse(i, Some(misses));
            return false;
        }
        let before = s.cache.len();
        let mut cache = std::mem::take(&mut s.cache);
        let s = &self.running[i];
        let keys = s.keys(self.phases_differ);
        let stateful = self.kv.has_states();
        let mut misses = None;
        if stateful {
            let all = &mut self.prefixes;
            misses = Some(all.find_state(&mut self.kv, &mut cache, &keys, most));
        } else {
            self.prefixes
                .find_blocks(&mut self.kv, &mut cache, &keys, most);
        }
        let has = cache.len();
        // Who has, or will have after this step, the most that is the same.
        let (mut soon, mut other) = (has, None);
        for (j, o) in self.running.iter().enumerate().filter(|(j, _)| *j != i) {
            let rows = planned.get(j).map_or(0, |slice| slice.rows);
            let computed = o.cache.len();
            if computed + rows <= has {
                continue;
            }
            let common = o.keys(self.phases_differ).common(&keys, most);
            if stateful {
                // Only where the other's state is about to be kept.
                let kept = next_kept(o, computed);
                let kept = kept.filter(|at| *at <= common.min(computed + rows));
                soon = soon.max(kept.unwrap_or(0));
                continue;
            }
            soon = soon.max(common.min(computed + rows));
            let common = common.min(computed);
            if common > other.map_or(has, |(_, c)| c) {
                other = Some((j, common));
            }
        }
        let now = other.map_or(has, |(_, common)| common);
        let waits = soon >= now + WORTH_WAITING;
        let misses = (!waits).then(|| {
            if let Some(misses) = misses {
                return misses;
            }
            let other = other.map(|(j, common)| (&self.running[j].cache, common));
            self.prefixes
                .find_rest(&mut self.kv, &mut cache, &keys, most, other)
        });
        let found = cache.len();
        let s = &mut self.running[i];
        s.cache = cache;
        s.sealed = s.sealed.max(found / KV_BLOCK);
        if s.counted {
            self.stats.prefix_hits += (found - before) as u64;
            s.clock.cached_tokens += found - before;
        }
        self.count_reuse(i, misses);
        waits
    }

    /// Counts what the prefix cache had for a sequence that is about to compute
    /// its first rows, if `misses` says what it had not.
    fn count_reuse(&mut self, i: usize, misses: Option<Misses>) {
        let s = &mut self.running[i];
        let Some(misses) = misses.filter(|_| !s.counted) else {
            return;
        };
        s.counted = true;
        s.clock.cached_tokens = s.cache.len();
        self.stats.prefix_hits += s.cache.len() as u64;
        self.stats.prefix_misses.add(misses);
    }

    /// Adds guesses from what the texts said to a step that only decodes, `most`
    /// at most; returns how many more there may be.
    fn look_up(&mut self, works: &mut [StepSlice], mut most: usize) -> usize {
        let mut rows = works.len();
        for (i, w) in works.iter_mut().enumerate() {
            let most_here = self.guesses(i, most);
            let drafts = self.running[i].draft(most_here, &self.costs, rows);
            if !drafts.is_empty() && self.has_room(i, 1 + drafts.len()) {
                rows += drafts.len();
                most -= drafts.len();
                self.add(w, drafts);
            }
        }
        most
    }

    /// Adds guesses of the draft model.
    fn draft(&mut self, works: &mut [StepSlice], most: usize) {
        let Some(mut drafter) = self.drafter.take() else {
            return;
        };
        let mut wanted = drafter.plan(&mut self.running, works, most, &self.costs);
        for (i, n) in wanted.iter_mut().enumerate() {
            *n = self.guesses(i, *n);
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

    fn add(&mut self, w: &mut StepSlice, drafts: Vec<u32>) {
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
            s.rotated_since = rotated_since(&self.ropes, s.tokens.len());
            let most = s.reusable();
            let mut cache = std::mem::take(&mut s.cache);
            let keys = s.keys(self.phases_differ);
            match self.kv.has_states() {
                true => {
                    let all = &mut self.prefixes;
                    all.find_state(&mut self.kv, &mut cache, &keys, most);
                }
                false => self
                    .prefixes
                    .find_blocks(&mut self.kv, &mut cache, &keys, most),
            }
            s.cache = cache;
            s.sealed = s.cache.len() / KV_BLOCK;
            let next = s.pending().len().min(rows).saturating_sub(s.cache.room());
            let needed = next.div_ceil(KV_BLOCK) + spare;
            if spare > 0 && needed > self.prefixes.available(&self.kv) {
                let cache = std::mem::take(&mut s.cache);
                let keys = s.keys(self.phases_differ);
                self.prefixes.release(&mut self.kv, cache, &keys, s.sealed);
                s.sealed = 0;
                self.refused_at = Some(self.prefixes.available(&self.kv));
                return;
            }
            self.refused_at = None;
            if s.clock.started.is_none() {
                s.clock.started = Some(Instant::now());
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
            let has_state = self.prefixes.make_state_room(&mut self.kv);
            assert!(has_state, "there are more states than sequences");
            let s = &mut self.running[i];
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

    /// Takes a sequence's cache; what it computed stays cached.
    fn give_back(&mut self, s: &mut Sequence) {
        let cache = std::mem::take(&mut s.cache);
        let keys = s.keys(self.phases_differ);
        self.prefixes.release(&mut self.kv, cache, &keys, s.sealed);
        s.sealed = 0;
        if let Some(drafter) = &mut self.drafter {
            drafter.release(s);
        }
    }

    /// Puts what the step completed into the prefix cache.
    pub fn seal(&mut self) {
        for s in &mut self.running {
            let mut cache = std::mem::take(&mut s.cache);
            let keys = s.keys(self.phases_differ);
            s.sealed = self
                .prefixes
                .seal(&mut self.kv, &mut cache, &keys, s.sealed);
            if self.kv.has_states() && keeps_state(s, cache.len()) {
                self.prefixes.seal_state(&mut self.kv, &cache);
            }
            s.cache = cache;
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

/// Whether the recurrent state of a sequence is kept at this position of its prompt: at
/// fixed ones, and at the last full block.
fn keeps_state(s: &Sequence, position: usize) -> bool {
    let last = (s.prompt_len - 1) / KV_BLOCK * KV_BLOCK;
    position > 0 && position <= last && (position == last || position.is_multiple_of(STATE_EVERY))
}

/// The next position after `from` at which it is.
fn next_kept(s: &Sequence, from: usize) -> Option<usize> {
    let last = (s.prompt_len - 1) / KV_BLOCK * KV_BLOCK;
    let next = (from / STATE_EVERY + 1) * STATE_EVERY;
    (from < last).then_some(next.min(last))
}
