//! Which experts of a mixture compute a row, and with what weight.
//!
//! Everything here is a function of one row's scores, in scalar single precision: so a
//! row's experts depend on nothing but the row.
//!
//! ```
//! use rustml_kernels::router::{Choice, Renormalise, Router, Scores};
//!
//! let router = Router {
//!     scores: Scores::Softmax,
//!     experts: 4,
//!     chosen: 2,
//!     soft_cap: None,
//!     groups: None,
//!     renormalise: Renormalise::Sum { epsilon: 0.0 },
//!     scale: 1.0,
//! };
//! let mut choices = [Choice::default(); 2];
//! router.route(&[0.0, 2.0, 1.0, 2.0], &[], &mut choices);
//! // Of equal ones the first comes first.
//! assert_eq!(choices, [(1, 0.5), (3, 0.5)].map(Choice::from));
//! ```

use std::cmp::Ordering;

/// An expert, and the weight of what it gives.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Choice {
    /// Number of the expert.
    pub expert: u32,
    /// Factor of its result.
    pub weight: f32,
}

impl From<(u32, f32)> for Choice {
    fn from((expert, weight): (u32, f32)) -> Choice {
        Choice { expert, weight }
    }
}

/// What becomes of the router's products, its logits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scores {
    /// Softmax over all experts.
    Softmax,
    /// The sigmoid of each.
    Sigmoid,
    /// Experts are chosen by logits; softmax over the chosen.
    SoftmaxOfChosen,
    /// Experts are chosen by logits; the sigmoid of each chosen one.
    SigmoidOfChosen,
    /// Experts are chosen by logits, one after the other. A weight is softmax over the
    /// experts that are left and as far below the best as `2 jitter` of it at most (Liu et
    /// al., "GRIN: GRadient-INformed MoE").
    SparseMixer {
        /// The noise of training.
        jitter: f32,
    },
}

/// Experts in groups of neighbours, of which only the best are considered.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Groups {
    /// How many; they are of one size.
    pub count: usize,
    /// How many are considered.
    pub chosen: usize,
    /// What makes a group good.
    pub by: GroupScore,
}

/// The score of a group of experts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupScore {
    /// That of its best expert.
    Best,
    /// The sum of those of its best two.
    BestTwo,
}

/// What the weights of the chosen experts are divided by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Renormalise {
    /// Nothing.
    No,
    /// Their sum.
    Sum {
        /// Added to the sum.
        epsilon: f32,
    },
    /// Their sum, or this if the sum is less.
    AtLeast {
        /// What they are divided by at least.
        least: f32,
    },
}

/// How experts are chosen.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Router {
    /// What experts are chosen by, and weighted with.
    pub scores: Scores,
    /// How many there are.
    pub experts: usize,
    /// How many compute a row.
    pub chosen: usize,
    /// `cap * tanh(logit / cap)`, if any.
    pub soft_cap: Option<f32>,
    /// Groups of experts, if any.
    pub groups: Option<Groups>,
    /// Whether weights are divided by their sum.
    pub renormalise: Renormalise,
    /// Factor of the weights.
    pub scale: f32,
}

impl Router {
    /// Why no row could be routed so, if that is the case.
    pub fn fault(&self) -> Option<String> {
        let (all, chosen) = (self.experts, self.chosen);
        if chosen == 0 || chosen > all {
            return Some(format!("{chosen} of {all} experts are to be chosen"));
        }
        let Groups { count, chosen, .. } = self.groups?;
        if count == 0 || !all.is_multiple_of(count) {
            return Some(format!("{all} experts are in {count} groups"));
        }
        if chosen == 0 || chosen > count {
            return Some(format!("{chosen} of {count} groups are to be chosen"));
        }
        let considered = all / count * chosen;
        (considered < self.chosen).then(|| {
            let wanted = self.chosen;
            format!("{wanted} experts are to be chosen of {considered} in {chosen} groups")
        })
    }

    /// Chooses the experts of one row from its `logits`, the best first; of equal ones the
    /// first. `correction` is added to what they are chosen by, not to their weights; it may
    /// be empty.
    ///
    /// # Panics
    /// If the lengths do not fit, or there is a [fault](Router::fault).
    pub fn route(&self, logits: &[f32], correction: &[f32], choices: &mut [Choice]) {
        assert_eq!(self.fault(), None);
        assert_eq!((logits.len(), choices.len()), (self.experts, self.chosen));
        assert!(correction.is_empty() || correction.len() == logits.len());
        let mut scores = logits.to_vec();
        if let Some(cap) = self.soft_cap {
            scores.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        }
        match self.scores {
            Scores::Softmax => softmax(&mut scores),
            Scores::Sigmoid => scores.iter_mut().for_each(|x| *x = sigmoid(*x)),
            Scores::SoftmaxOfChosen | Scores::SigmoidOfChosen | Scores::SparseMixer { .. } => {}
        }
        let mut by = scores.clone();
        by.iter_mut().zip(correction).for_each(|(by, c)| *by += c);
        let mut left = self.considered(&by);
        for choice in choices.iter_mut() {
            let expert = best(&by, &left).expect("no fewer than are to be chosen");
            let weight = match self.scores {
                Scores::SparseMixer { jitter } => sparse_weight(&scores, &left, expert, jitter),
                _ => scores[expert],
            };
            left[expert] = false;
            *choice = (expert as u32, weight).into();
        }
        self.finish(choices);
    }

    /// Which experts may be chosen.
    fn considered(&self, by: &[f32]) -> Vec<bool> {
        let Some(groups) = self.groups else {
            return vec![true; by.len()];
        };
        let size = by.len() / groups.count;
        let score = |group: &[f32]| {
            let mut left = vec![true; size];
            let first = best(group, &left).expect("an expert");
            left[first] = false;
            match (groups.by, best(group, &left)) {
                (GroupScore::BestTwo, Some(second)) => group[first] + group[second],
                _ => group[first],
            }
        };
        let scores: Vec<f32> = by.chunks(size).map(score).collect();
        let mut left = vec![true; groups.count];
        let mut considered = vec![false; by.len()];
        for _ in 0..groups.chosen {
            let group = best(&scores, &left).expect("no fewer than are to be chosen");
            left[group] = false;
            considered[group * size..][..size].fill(true);
        }
        considered
    }

    /// Makes weights of the scores of the chosen.
    fn finish(&self, choices: &mut [Choice]) {
        let mut weights: Vec<f32> = choices.iter().map(|c| c.weight).collect();
        match self.scores {
            Scores::SoftmaxOfChosen => softmax(&mut weights),
            Scores::SigmoidOfChosen => weights.iter_mut().for_each(|x| *x = sigmoid(*x)),
            _ => {}
        }
        let sum: f32 = weights.iter().sum();
        let divisor = match self.renormalise {
            Renormalise::No => 1.0,
            Renormalise::Sum { epsilon } => sum + epsilon,
            // NaN stays.
            Renormalise::AtLeast { least } if sum < least => least,
            Renormalise::AtLeast { .. } => sum,
        };
        for (choice, weight) in choices.iter_mut().zip(weights) {
            choice.weight = weight / divisor * self.scale;
        }
    }
}

fn sigmoid(x: f32) -> f32 {
    1.0 / (1.0 + (-x).exp())
}

fn softmax(x: &mut [f32]) {
    let max = x.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    x.iter_mut().for_each(|x| *x = (*x - max).exp());
    let total: f32 = x.iter().sum();
    x.iter_mut().for_each(|x| *x /= total);
}

/// The first of the largest of those that are `left`. NaN is larger than every number, so
/// that it shows in what is computed.
fn best(x: &[f32], left: &[bool]) -> Option<usize> {
    let above = |a: f32, b: f32| match (a.is_nan(), b.is_nan()) {
        (false, false) => a.partial_cmp(&b) == Some(Ordering::Greater),
        (a, b) => a && !b,
    };
    let all = (0..x.len()).filter(|&i| left[i]);
    all.reduce(|best, i| if above(x[i], x[best]) { i } else { best })
}

/// The weight of the best of those that are `left`: see [`Scores::SparseMixer`].
fn sparse_weight(scores: &[f32], left: &[bool], best: usize, jitter: f32) -> f32 {
    let max = scores[best];
    let near = |&x: &f32| {
        let far = (max - x) / x.abs().max(max) > 2.0 * jitter;
        !far
    };
    let all = scores.iter().zip(left).filter(|(_, left)| **left);
    let total: f32 = all
        .map(|(x, _)| x)
        .filter(|x| near(x))
        .map(|x| (x - max).exp())
        .sum();
    1.0 / total
}
