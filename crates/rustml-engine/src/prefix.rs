//! The prefix cache: what sequences that begin alike share.
//!
//! A radix tree of KV blocks: a node is a block, its children are the blocks
//! that followed it. Keys are compared, not hashes of them, so nobody gets
//! another's text. Only full blocks are shared. Where texts part within a block,
//! the part they have in common is copied, and so it is with the block in which
//! a text ended. When the cache is full, the least recently used block is
//! evicted first, and of a text its end before its beginning.
//!
//! Of a model with recurrent state, a text can go on only where that was kept: at some
//! full blocks, and where texts ended ([`PrefixCache::keep_state`]). The least recently
//! used states are evicted for new ones.
//!
//! A position's key is its token and its phase ([`Item`]), below a salt. So a
//! block is found only by a sequence that would have computed the same bits:
//! on CPUs where prefill and decode rows differ by rounding
//! ([`rustml_model::Model::phases_differ`]), generated tokens are not reused by a
//! prompt that contains them. On all others they are.

use crate::stats::Misses;
use rustml_model::{Checkpoint, KvBlock, KvPool, KvSequence, KV_BLOCK};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// What decides the bits that are cached of a position, beside all items before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Item(u64);

/// The keys of a sequence's positions.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keys<'a> {
    /// Sequences with different salts share nothing.
    pub salt: u64,
    /// Prompt and what was generated.
    pub tokens: &'a [u32],
    /// Positions from here on are decode rows, where that makes a difference.
    pub decoded_from: usize,
}

impl Keys<'_> {
    /// The items of some positions.
    pub fn items(&self, range: std::ops::Range<usize>) -> Vec<Item> {
        let decoded = |i| u64::from(i >= self.decoded_from) << 32;
        let item = |i: usize| Item(u64::from(self.tokens[i]) | decoded(i));
        range.map(item).collect()
    }

    /// How many positions from `from` on, `most` at most, have the same keys as
    /// the other's; all before are the same.
    fn alike(&self, other: &Keys, from: usize, most: usize) -> usize {
        let end = (from + most).min(self.tokens.len()).min(other.tokens.len());
        let same = |&i: &usize| {
            self.tokens[i] == other.tokens[i]
                && (i >= self.decoded_from) == (i >= other.decoded_from)
        };
        (from..end).take_while(same).count()
    }

    /// How many positions the two have in common from the beginning, `most` at most.
    pub fn common(&self, other: &Keys, most: usize) -> usize {
        match self.salt == other.salt {
            true => self.alike(other, 0, most),
            false => 0,
        }
    }
}

/// The tree of cached blocks.
#[derive(Default)]
pub(crate) struct PrefixCache {
    /// By the number of their block.
    nodes: Vec<Option<Node>>,
    /// The first blocks of texts, by salt.
    roots: HashMap<u64, Vec<u32>>,
    /// Blocks that no sequence has, in the order in which they may go. A
    /// sequence that has a block has all before it, and they are stamped
    /// together; so the first of these never has children.
    idle: BTreeSet<(u64, Reverse<usize>, u32)>,
    /// Blocks at whose end a recurrent state was kept, in the order of their use.
    states: BTreeSet<(u64, u32)>,
    clock: u64,
    evicted: Evicted,
}

struct Node {
    block: KvBlock,
    /// As many as the block holds; all, if there are children.
    items: Vec<Item>,
    salt: u64,
    parent: Option<u32>,
    children: Vec<u32>,
    /// Blocks before it.
    depth: usize,
    /// Of all items up to its last.
    hash: u64,
    stamp: u64,
    /// The recurrent state after its last item, and when it was used.
    state: Option<(Checkpoint, u64)>,
}

impl PrefixCache {
    /// Blocks that no sequence has.
    pub fn idle(&self) -> usize {
        self.idle.len()
    }

    /// Blocks that can be had.
    pub fn available(&self, kv: &KvPool) -> usize {
        kv.free_blocks() + self.idle.len()
    }

    /// Makes so many blocks free; returns whether it could.
    pub fn make_room(&mut self, kv: &mut KvPool, blocks: usize) -> bool {
        if blocks > self.available(kv) {
            return false;
        }
        while kv.free_blocks() < blocks {
            let Some((_, _, block)) = self.idle.pop_first() else {
                return false;
            };
            self.remove(kv, block);
        }
        true
    }

    /// Forgets a block that no sequence has and nothing follows.
    fn remove(&mut self, kv: &mut KvPool, block: u32) {
        let node = self.nodes[block as usize].take().expect("it is idle");
        assert!(
            node.children.is_empty(),
            "the end goes before the beginning"
        );
        match node.parent {
            Some(parent) => self.node_mut(parent).children.retain(|&s| s != block),
            None => {
                let roots = self.roots.entry(node.salt).or_default();
                roots.retain(|&s| s != block);
                if roots.is_empty() {
                    self.roots.remove(&node.salt);
                }
            }
        }
        if node.items.len() == KV_BLOCK {
            self.evicted.insert(node.hash, 4 * kv.blocks());
        }
        if let Some((state, stamp)) = node.state {
            self.states.remove(&(stamp, block));
            kv.forget(state);
        }
        kv.unshare(node.block);
    }

    /// Makes one of the states free that no sequence has; returns whether one is.
    pub fn make_state_room(&mut self, kv: &mut KvPool) -> bool {
        if !kv.has_states() || kv.free_states() > 0 {
            return true;
        }
        let Some((_, block)) = self.states.pop_first() else {
            return false;
        };
        let (state, _) = self.node_mut(block).state.take().expect("it is listed");
        kv.forget(state);
        true
    }

    /// Keeps the recurrent state of a sequence, whose last block is in the prefix cache.
    fn keep_state(&mut self, kv: &mut KvPool, sequence: &KvSequence, block: u32) {
        let node = self.node(block);
        let ends_here = node.depth * KV_BLOCK + node.items.len() == sequence.len();
        if node.state.is_some() || !ends_here || !self.make_state_room(kv) {
            return;
        }
        if let Some(state) = kv.checkpoint(sequence) {
            self.clock += 1;
            self.states.insert((self.clock, block));
            self.node_mut(block).state = Some((state, self.clock));
        }
    }

    /// Gives a sequence, which ends with this block, the state that was kept there.
    fn restore_state(&mut self, kv: &mut KvPool, sequence: &mut KvSequence, block: u32) -> bool {
        self.clock += 1;
        let now = self.clock;
        let Some((state, stamp)) = &mut self.node_mut(block).state else {
            return false;
        };
        let restored = kv.restore(sequence, state);
        let before = std::mem::replace(stamp, now);
        self.states.remove(&(before, block));
        self.states.insert((now, block));
        restored
    }

    /// Gives a sequence that ends with a full block, or is empty, the full blocks
    /// that are known to follow, up to `most` positions in all.
    pub fn find_blocks(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        keys: &Keys,
        most: usize,
    ) {
        for block in self.path(sequence, keys, most) {
            self.wake(block);
            kv.append(sequence, &self.node(block).block);
        }
    }

    /// The full blocks that are known to follow.
    fn path(&self, sequence: &KvSequence, keys: &Keys, most: usize) -> Vec<u32> {
        let (mut at, mut len, mut path) = (last_block(sequence), sequence.len(), Vec::new());
        while len + KV_BLOCK <= most {
            let items = keys.items(len..len + KV_BLOCK);
            let Some(next) = self.child(keys.salt, at, &items) else {
                break;
            };
            path.push(next);
            len += KV_BLOCK;
            at = Some(next);
        }
        path
    }

    /// What [`PrefixCache::find_blocks`] and [`PrefixCache::find_rest`] do, for a model
    /// with recurrent state: gives a sequence as much of its text as is known up to a
    /// place where the state was kept.
    pub fn find_state(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        keys: &Keys,
        most: usize,
    ) -> Misses {
        let before = sequence.len();
        let mut path = self.path(sequence, keys, most);
        let whole = before + path.len() * KV_BLOCK;
        let at = path.last().copied().or(last_block(sequence));
        let wanted = keys.items(whole..most.max(whole).min(whole + KV_BLOCK));
        // A text that ended within this block.
        let tail = match self.nearest(keys.salt, at, &wanted) {
            (alike, Some(node)) if alike == self.node(node).items.len() => Some(node),
            _ => None,
        };
        let has_state = |node: &u32| self.node(*node).state.is_some();
        let mut tail = tail.filter(has_state);
        if tail.is_none() {
            let last = path.iter().rposition(has_state);
            path.truncate(last.map_or(0, |last| last + 1));
        }
        // To make room, just this state may have to go.
        let room = !sequence.is_empty() || self.make_state_room(kv);
        let last = tail.or(path.last().copied());
        let is_kept = last.is_some_and(|node| self.node(node).state.is_some());
        if let Some(last) = last.filter(|_| room && is_kept) {
            for block in &path {
                self.wake(*block);
                kv.append(sequence, &self.node(*block).block);
            }
            if let Some(node) = tail {
                let positions = self.node(node).items.len();
                tail = self.copy(kv, sequence, node, positions).then_some(node);
            }
            let at = tail.or(path.last().copied()).filter(|at| *at == last);
            match at {
                Some(at) => assert!(self.restore_state(kv, sequence, at), "room was made"),
                // There was no block for the tail: nothing can be gone on with.
                None => kv.truncate(sequence, before),
            }
        }
        let mut misses = Misses::default();
        let (found, missed) = (sequence.len(), most.saturating_sub(sequence.len()) as u64);
        *match whole > found {
            true => &mut misses.no_state,
            false if whole == 0 => &mut misses.new,
            false => &mut misses.diverged,
        } = missed;
        misses
    }

    /// Gives a sequence for which [`PrefixCache::find_blocks`] found nothing more
    /// the beginning of a block: of a known one, or of another sequence that has
    /// more of it (`other`: its cache, and how many positions they have in
    /// common). Says why the rest was not found.
    pub fn find_rest(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        keys: &Keys,
        most: usize,
        other: Option<(&KvSequence, usize)>,
    ) -> Misses {
        let (at, whole) = (last_block(sequence), sequence.len());
        let wanted = keys.items(whole..most.max(whole).min(whole + KV_BLOCK));
        let (alike, nearest) = self.nearest(keys.salt, at, &wanted);
        let all = nearest.is_some_and(|n| alike == self.node(n).items.len());
        let common = other.map_or(0, |(_, common)| common.min(most) - whole);
        match (nearest, other) {
            (_, Some((other, _))) if common > alike => {
                if self.make_room(kv, 1) {
                    let block = kv.share(other, whole / KV_BLOCK);
                    let fits = kv.append_copy(sequence, &block, common.min(KV_BLOCK));
                    assert!(fits, "room was made");
                    kv.unshare(block);
                }
            }
            (Some(nearest), _) => {
                self.copy(kv, sequence, nearest, alike);
            }
            (None, _) => {}
        }
        let mut misses = Misses::default();
        let gone = || {
            let is_whole = wanted.len() == KV_BLOCK;
            is_whole && self.evicted.contains(self.hash(keys.salt, at, &wanted))
        };
        let reason = if gone() {
            &mut misses.evicted
        } else if alike > 0 && !all {
            &mut misses.diverged
        } else if alike > 0 {
            &mut misses.too_short
        } else {
            match at.map(|at| self.node(at).children.is_empty()) {
                None => &mut misses.new,
                Some(true) => &mut misses.too_short,
                Some(false) => &mut misses.diverged,
            }
        };
        *reason = most.saturating_sub(sequence.len()) as u64;
        misses
    }

    /// Copies the first positions of a block to the end of the sequence, if
    /// there is room for it.
    fn copy(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        from: u32,
        positions: usize,
    ) -> bool {
        let idle = self.wake(from);
        let room = self.make_room(kv, 1);
        if room {
            let block = &self.node(from).block;
            let fits = kv.append_copy(sequence, block, positions);
            assert!(fits, "room was made");
        }
        if idle {
            self.clock += 1;
            self.rest(kv, from);
        }
        room
    }

    /// Puts full blocks of a sequence into the prefix cache, of which the first `sealed`
    /// are; returns how many are then. Blocks that are known already take the
    /// place of its own.
    pub fn seal(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        keys: &Keys,
        sealed: usize,
    ) -> usize {
        let full = sequence.len() / KV_BLOCK;
        for i in sealed..full {
            let parent = i.checked_sub(1).map(|p| sequence.blocks()[p]);
            let items = keys.items(i * KV_BLOCK..(i + 1) * KV_BLOCK);
            match self.child(keys.salt, parent, &items) {
                Some(known) => {
                    self.wake(known);
                    kv.replace(sequence, i, &self.node(known).block);
                }
                None => self.insert(kv, sequence, i, keys.salt, items),
            }
        }
        full
    }

    /// Keeps the recurrent state of a sequence whose full blocks are in the prefix cache,
    /// if it ends with one.
    pub fn seal_state(&mut self, kv: &mut KvPool, sequence: &KvSequence) {
        if !sequence.is_empty() && sequence.len().is_multiple_of(KV_BLOCK) {
            if let Some(block) = last_block(sequence) {
                self.keep_state(kv, sequence, block);
            }
        }
    }

    /// Takes a sequence back. What it computed stays cached.
    pub fn release(
        &mut self,
        kv: &mut KvPool,
        mut sequence: KvSequence,
        keys: &Keys,
        sealed: usize,
    ) {
        let full = self.seal(kv, &mut sequence, keys, sealed);
        let tail = keys.items(full * KV_BLOCK..sequence.len());
        let mut path: Vec<u32> = sequence.blocks()[..full].to_vec();
        match self.nearest(keys.salt, path.last().copied(), &tail) {
            (alike, Some(known)) if alike == tail.len() => {
                self.wake(known);
                path.push(known);
            }
            _ if tail.is_empty() => {}
            _ => {
                self.insert(kv, &sequence, full, keys.salt, tail);
                path.push(sequence.blocks()[full]);
            }
        }
        if let (Some(last), true) = (path.last(), kv.has_states()) {
            self.keep_state(kv, &sequence, *last);
        }
        kv.release(sequence);
        self.clock += 1;
        for block in path {
            self.rest(kv, block);
        }
    }

    /// Puts a sequence's block of that index into the prefix cache.
    fn insert(
        &mut self,
        kv: &mut KvPool,
        sequence: &KvSequence,
        index: usize,
        salt: u64,
        items: Vec<Item>,
    ) {
        let parent = index.checked_sub(1).map(|p| sequence.blocks()[p]);
        // What ended within these items is of no use any more.
        let within = |&&c: &&u32| {
            let known = &self.node(c).items;
            known.len() < KV_BLOCK && items.starts_with(known)
        };
        let superseded: Vec<u32> = self
            .children(salt, parent)
            .iter()
            .filter(within)
            .copied()
            .collect();
        for block in superseded {
            self.wake(block);
            self.remove(kv, block);
        }
        let node = Node {
            hash: self.hash(salt, parent, &items),
            block: kv.share(sequence, index),
            items,
            salt,
            parent,
            children: Vec::new(),
            depth: index,
            stamp: self.clock,
            state: None,
        };
        let number = node.block.number();
        match parent {
            Some(parent) => self.node_mut(parent).children.push(number),
            None => self.roots.entry(salt).or_default().push(number),
        }
        let nodes = self.nodes.len().max(number as usize + 1);
        self.nodes.resize_with(nodes, || None);
        assert!(self.nodes[number as usize].is_none(), "a block is one node");
        self.nodes[number as usize] = Some(node);
    }

    fn node(&self, block: u32) -> &Node {
        self.nodes[block as usize].as_ref().expect("a node's block")
    }

    fn node_mut(&mut self, block: u32) -> &mut Node {
        self.nodes[block as usize].as_mut().expect("a node's block")
    }

    fn children(&self, salt: u64, of: Option<u32>) -> &[u32] {
        match of {
            Some(of) => &self.node(of).children,
            None => self.roots.get(&salt).map_or(&[], |r| r),
        }
    }

    /// The child that holds just these items.
    fn child(&self, salt: u64, of: Option<u32>, items: &[Item]) -> Option<u32> {
        let mut children = self.children(salt, of).iter().copied();
        children.find(|&c| self.node(c).items == items)
    }

    /// The child that begins with the most of these items, and how many.
    fn nearest(&self, salt: u64, of: Option<u32>, items: &[Item]) -> (usize, Option<u32>) {
        let mut best = (0, None);
        for &c in self.children(salt, of) {
            let pairs = self.node(c).items.iter().zip(items);
            let alike = pairs.take_while(|(a, b)| a == b).count();
            if alike > best.0 {
                best = (alike, Some(c));
            }
        }
        best
    }

    fn hash(&self, salt: u64, parent: Option<u32>, items: &[Item]) -> u64 {
        let mut hasher = DefaultHasher::new();
        parent.map(|p| self.node(p).hash).hash(&mut hasher);
        (salt, items).hash(&mut hasher);
        hasher.finish()
    }

    /// Takes a block from those that may go; returns whether it was one.
    fn wake(&mut self, block: u32) -> bool {
        let node = self.node(block);
        let key = (node.stamp, Reverse(node.depth), block);
        self.idle.remove(&key)
    }

    /// Lets a block go when its turn comes, unless a sequence has it.
    fn rest(&mut self, kv: &KvPool, block: u32) {
        let stamp = self.clock;
        let node = self.node_mut(block);
        if kv.is_shared(&node.block) {
            return;
        }
        node.stamp = stamp;
        let key = (stamp, Reverse(node.depth), block);
        self.idle.insert(key);
    }
}

/// The last block of a sequence that ends with a full one.
fn last_block(sequence: &KvSequence) -> Option<u32> {
    debug_assert!(sequence.len().is_multiple_of(KV_BLOCK));
    let full = sequence.len() / KV_BLOCK;
    full.checked_sub(1).map(|last| sequence.blocks()[last])
}

/// Hashes of texts whose blocks went, the last so many.
#[derive(Default)]
struct Evicted {
    known: HashSet<u64>,
    order: VecDeque<u64>,
}

impl Evicted {
    fn insert(&mut self, hash: u64, most: usize) {
        if self.known.insert(hash) {
            self.order.push_back(hash);
        }
        while self.order.len() > most {
            let oldest = self.order.pop_front();
            oldest.map(|hash| self.known.remove(&hash));
        }
    }

    fn contains(&self, hash: u64) -> bool {
        self.known.contains(&hash)
    }
}
