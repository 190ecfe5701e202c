//! Weights of the vectors that each token has for every layer.

use super::Loader;
use crate::arch::Role;
use crate::error::Result;
use crate::spec::{Attention, Layer, PerLayer};
use crate::weights::{PerLayerWeights, ReadsPerLayerWeights};

impl Loader<'_> {
    pub(super) fn per_layer(&mut self, p: &PerLayer) -> Result<PerLayerWeights> {
        Ok(PerLayerWeights {
            table: self.matrix(Role::PerLayerEmbedding, None, false)?,
            projection: self.linear(Role::PerLayerProjection, None, false)?,
            norm: self.norm_of(Role::PerLayerNorm, None, p.width, p.norm.bias)?,
        })
    }

    pub(super) fn reads_per_layer(&mut self, layer: usize) -> Result<ReadsPerLayerWeights> {
        Ok(ReadsPerLayerWeights {
            gate: self.linear(Role::PerLayerGate, Some(layer), false)?,
            out: self.linear(Role::PerLayerOut, Some(layer), false)?,
        })
    }

    /// Which of the cache's layers attention reads, and stores to if it has keys of its own.
    /// Keys that a file holds all the same are not used.
    pub(super) fn cache_of(&mut self, layer: usize, a: &Attention) -> usize {
        let Some(shared) = a.shares else {
            self.caches += 1;
            return self.caches - 1;
        };
        for role in [Role::Key, Role::Value, Role::KeyNorm] {
            if let Ok((base, _)) = self.base_name(role, Some(layer)) {
                self.used.extend(self.find(role, &base, ".weight"));
            }
        }
        let before = self.spec.layers[..shared].iter();
        let own = |l: &&Layer| l.attention().is_some_and(|a| a.shares.is_none());
        before.filter(own).count()
    }
}
