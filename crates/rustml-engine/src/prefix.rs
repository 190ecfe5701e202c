//! What sequences that begin alike share.
//!
//! Blocks of the cache whose sequences went on or are gone stay findable by
//! their tokens, as a tree: a node is a block, its children are the blocks
//! that followed it. Tokens are compared, not hashes of them, so nobody gets
//! another's text. Only full blocks are shared; where texts part within a
//! block, the part they have in common is copied, and so it is with the block
//! in which a text ended. When the cache is full, what was used longest ago
//! goes first, and of a text its end before its beginning.
//!
//! Whether a block's tokens were a prompt or generated makes no difference here,
//! so that a conversation finds its answers. Where prompts are computed apart
//! ([`rustml_model::Model::prompts_apart`]), a block that is found may therefore
//! differ, by rounding, from what its finder would have computed.

use crate::stats::Misses;
use rustml_model::{KvBlock, KvPool, KvSequence, KV_BLOCK};
use std::cmp::Reverse;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};

/// The tree of findable blocks.
#[derive(Default)]
pub(crate) struct Prefixes {
    /// By the number of their block.
    nodes: Vec<Option<Node>>,
    roots: Vec<u32>,
    /// Blocks that no sequence has, in the order in which they may go. A
    /// sequence that has a block has all before it, and they are stamped
    /// together; so the first of these never has children.
    idle: BTreeSet<(u64, Reverse<usize>, u32)>,
    clock: u64,
    evicted: Evicted,
}

struct Node {
    block: KvBlock,
    /// As many as the block holds; all, if there are children.
    tokens: Vec<u32>,
    parent: Option<u32>,
    children: Vec<u32>,
    /// Blocks before it.
    depth: usize,
    /// Of all tokens up to its last.
    hash: u64,
    stamp: u64,
}

/// What was found for a text.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Found {
    /// Positions.
    pub hit: usize,
    /// The rest, under the reason why it was not.
    pub misses: Misses,
}

impl Prefixes {
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
        let siblings = match node.parent {
            Some(parent) => &mut self.node_mut(parent).children,
            None => &mut self.roots,
        };
        siblings.retain(|&s| s != block);
        if node.tokens.len() == KV_BLOCK {
            self.evicted.insert(node.hash, 4 * kv.blocks());
        }
        kv.unshare(node.block);
    }

    /// Gives an empty sequence what is known of the beginning of `tokens`, but
    /// `most` positions at most.
    pub fn find(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        tokens: &[u32],
        most: usize,
    ) -> Found {
        let mut at = None;
        while let Some(rest) = tokens
            .get(sequence.len()..most)
            .filter(|r| r.len() >= KV_BLOCK)
        {
            let Some(next) = self.child(at, &rest[..KV_BLOCK]) else {
                break;
            };
            self.wake(next);
            kv.append(sequence, &self.node(next).block);
            at = Some(next);
        }
        let whole = sequence.len();
        let rest = &tokens[whole..];
        let wanted = &rest[..most.saturating_sub(whole).min(rest.len())];
        let (alike, nearest) = self.nearest(at, wanted);
        let all = nearest.is_some_and(|n| alike == self.node(n).tokens.len());
        if let Some(nearest) = nearest {
            self.copy(kv, sequence, nearest, alike);
        }
        let hit = sequence.len();
        let missed = most.saturating_sub(hit);
        let mut misses = Misses::default();
        let gone = || {
            let next = rest.get(..KV_BLOCK);
            next.is_some_and(|n| self.evicted.contains(self.hash(at, n)))
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
        *reason = missed as u64;
        Found { hit, misses }
    }

    /// Copies the first positions of a block to the end of the sequence, if
    /// there is room for it.
    fn copy(&mut self, kv: &mut KvPool, sequence: &mut KvSequence, from: u32, positions: usize) {
        let idle = self.wake(from);
        if self.make_room(kv, 1) {
            let block = &self.node(from).block;
            let fits = kv.append_copy(sequence, block, positions);
            assert!(fits, "room was made");
        }
        if idle {
            self.clock += 1;
            self.rest(kv, from);
        }
    }

    /// Makes full blocks of a sequence findable, of which the first `sealed`
    /// are; returns how many are then. Blocks that are known already take the
    /// place of its own.
    pub fn seal(
        &mut self,
        kv: &mut KvPool,
        sequence: &mut KvSequence,
        tokens: &[u32],
        sealed: usize,
    ) -> usize {
        let full = sequence.len() / KV_BLOCK;
        for i in sealed..full {
            let parent = i.checked_sub(1).map(|p| sequence.blocks()[p]);
            let tokens = &tokens[i * KV_BLOCK..][..KV_BLOCK];
            match self.child(parent, tokens) {
                Some(known) => {
                    self.wake(known);
                    kv.replace(sequence, i, &self.node(known).block);
                }
                None => self.insert(kv, sequence, i, tokens),
            }
        }
        full
    }

    /// Takes a sequence back. What it computed stays findable.
    pub fn release(
        &mut self,
        kv: &mut KvPool,
        mut sequence: KvSequence,
        tokens: &[u32],
        sealed: usize,
    ) {
        let full = self.seal(kv, &mut sequence, tokens, sealed);
        let tail = &tokens[full * KV_BLOCK..sequence.len()];
        let mut path: Vec<u32> = sequence.blocks()[..full].to_vec();
        match self.nearest(path.last().copied(), tail) {
            (alike, Some(known)) if alike == tail.len() => {
                self.wake(known);
                path.push(known);
            }
            _ if tail.is_empty() => {}
            _ => {
                self.insert(kv, &sequence, full, tail);
                path.push(sequence.blocks()[full]);
            }
        }
        kv.release(sequence);
        self.clock += 1;
        for block in path {
            self.rest(kv, block);
        }
    }

    /// Makes a sequence's block of that index findable.
    fn insert(&mut self, kv: &mut KvPool, sequence: &KvSequence, index: usize, tokens: &[u32]) {
        let parent = index.checked_sub(1).map(|p| sequence.blocks()[p]);
        // What ended within these tokens is of no use any more.
        let within = |&&c: &&u32| {
            let known = &self.node(c).tokens;
            known.len() < KV_BLOCK && tokens.starts_with(known)
        };
        let superseded: Vec<u32> = self
            .children(parent)
            .iter()
            .filter(within)
            .copied()
            .collect();
        for block in superseded {
            self.wake(block);
            self.remove(kv, block);
        }
        let node = Node {
            hash: self.hash(parent, tokens),
            block: kv.share(sequence, index),
            tokens: tokens.to_vec(),
            parent,
            children: Vec::new(),
            depth: index,
            stamp: self.clock,
        };
        let number = node.block.number();
        match parent {
            Some(parent) => self.node_mut(parent).children.push(number),
            None => self.roots.push(number),
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

    fn children(&self, of: Option<u32>) -> &[u32] {
        of.map_or(&self.roots, |of| &self.node(of).children)
    }

    /// The child that holds just these tokens.
    fn child(&self, of: Option<u32>, tokens: &[u32]) -> Option<u32> {
        let mut children = self.children(of).iter().copied();
        children.find(|&c| self.node(c).tokens == tokens)
    }

    /// The child that begins with the most of these tokens, and how many.
    fn nearest(&self, of: Option<u32>, tokens: &[u32]) -> (usize, Option<u32>) {
        let mut best = (0, None);
        for &c in self.children(of) {
            let pairs = self.node(c).tokens.iter().zip(tokens);
            let alike = pairs.take_while(|(a, b)| a == b).count();
            if alike > best.0 {
                best = (alike, Some(c));
            }
        }
        best
    }

    fn hash(&self, parent: Option<u32>, tokens: &[u32]) -> u64 {
        let mut hasher = DefaultHasher::new();
        parent.map(|p| self.node(p).hash).hash(&mut hasher);
        tokens.hash(&mut hasher);
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
