//! Weights of parts that carry a state.

use super::view::Rows;
use super::Loader;
use crate::arch::{Repair, Role};
use crate::error::{show, Result};
use crate::spec::{Mixer, Recurrent};
use crate::weights::{Linear, NormWeights, RecurrentWeights};
use rustml_kernels::formats::decode_row;

impl Loader<'_> {
    pub(super) fn recurrent(&mut self, i: usize, r: &Recurrent) -> Result<RecurrentWeights> {
        let at = Some(i);
        let optional = |l: &mut Self, role: Option<Role>| -> Result<Option<Linear>> {
            let linear = role.map(|role| l.linear(role, at, r.in_bias));
            linear.transpose()
        };
        let (factor, step) = match r.mixer {
            Mixer::Gated { .. } => (Some(Role::StateFactor), None),
            Mixer::Delta(_) => (Some(Role::StateRate), Some(Role::StateStep)),
            Mixer::Mamba2(_) => (None, Some(Role::StateStep)),
        };
        let heads = r.heads();
        let vector = |l: &mut Self, role, there: bool| match there {
            true => l.vector(role, i, heads),
            false => Ok(Vec::new()),
        };
        let mut decay = vector(self, Role::Decay, heads > 0)?;
        if heads > 0 && self.tensor_repair(Role::Decay, at)? == Repair::NegatedLog {
            decay.iter_mut().for_each(|d| *d = -d.exp());
        }
        self.states += 1;
        Ok(RecurrentWeights {
            state: self.states - 1,
            input: self.linear(Role::StateIn, at, r.in_bias)?,
            factor: optional(self, factor)?,
            gate: self.linear(Role::StateGate, at, r.in_bias)?,
            step: optional(self, step)?,
            convolution: self.convolution(i, r)?,
            convolution_bias: match r.conv_bias {
                true => {
                    let (tensor, _) = self.tensor(Role::Convolution, at, ".bias")?;
                    self.report.parameters += r.channels();
                    self.floats(&tensor, r.channels())?
                }
                false => Vec::new(),
            },
            decay,
            step_bias: vector(self, Role::StepBias, heads > 0)?,
            skip: vector(self, Role::Skip, matches!(r.mixer, Mixer::Mamba2(_)))?,
            norm: match r.norm_weights() {
                0 => None,
                len => Some(self.state_norm(i, len)?),
            },
            out: self.linear(Role::StateOut, at, r.out_bias)?,
        })
    }

    fn tensor_repair(&self, role: Role, layer: Option<usize>) -> Result<Repair> {
        Ok(self.base_name(role, layer)?.1)
    }

    /// A convolution's weights, stored `[channels, taps]`, perhaps with a one between.
    fn convolution(&mut self, i: usize, r: &Recurrent) -> Result<Vec<f32>> {
        let (tensor, _) = self.tensor(Role::Convolution, Some(i), ".weight")?;
        let (channels, taps) = (r.channels(), r.taps);
        let shape: Vec<usize> = match tensor.info.shape[..] {
            [channels, 1, taps] => vec![channels, taps],
            ref shape => shape.to_vec(),
        };
        if shape != [channels, taps] {
            return Err(self.error(format!(
                "the tensor {} has the shape {:?}, but by the configuration it is {:?}",
                show(&tensor.info.name),
                tensor.info.shape,
                [channels, taps]
            )));
        }
        let mut stored = vec![0.0; channels * taps];
        decode_row(tensor.dtype, tensor.data, &mut stored);
        self.report.parameters += stored.len();
        // A factor of the inputs is one of the weights.
        let factor = |c: usize| match r.mixer {
            Mixer::Mamba2(m) => {
                let (values, keys) = (m.heads * m.head_dim, m.groups * m.state);
                m.factors.inputs[usize::from(c >= values) + usize::from(c >= values + keys)]
            }
            _ => 1.0,
        };
        let of = |tap: usize| (0..channels).map(move |c| (c, c * taps + tap));
        let all = (0..taps).flat_map(of);
        Ok(all.map(|(c, at)| factor(c) * stored[at]).collect())
    }

    /// The norm of a part's result, whose weights may be stored group by group.
    fn state_norm(&mut self, i: usize, len: usize) -> Result<NormWeights> {
        let (tensor, _) = self.tensor(Role::StateNorm, Some(i), ".weight")?;
        if tensor.info.len() != len {
            return Err(self.error(format!(
                "the tensor {} has the shape {:?}, but by the configuration it has {len} values",
                show(&tensor.info.name),
                tensor.info.shape
            )));
        }
        let mut weight = vec![0.0; len];
        decode_row(tensor.dtype, tensor.data, &mut weight);
        self.report.parameters += len;
        let bias = Vec::new();
        Ok(NormWeights { weight, bias })
    }
}

/// Which of the stored rows are this role's, and all there are, where several roles share
/// a tensor.
pub(super) fn order(r: &Recurrent, role: Role, repair: Repair) -> Option<(Rows, usize)> {
    let (channels, inner) = (r.channels(), r.inner());
    let after = |first| Rows {
        first,
        ..Rows::default()
    };
    let order = match (repair, r.mixer, role) {
        (Repair::Fused, Mixer::Gated { .. }, _) => {
            let first = match role {
                Role::StateFactor => 0,
                Role::StateGate => channels,
                Role::StateIn => 2 * channels,
                _ => return None,
            };
            (after(first), 3 * channels)
        }
        (Repair::Fused, Mixer::Mamba2(m), _) => {
            let first = match role {
                Role::StateGate => 0,
                Role::StateIn => inner,
                Role::StateStep => inner + channels,
                _ => return None,
            };
            (after(first), inner + channels + m.heads)
        }
        (Repair::FusedByKeyHead, Mixer::Delta(d), _) => {
            let each = d.heads / d.key_heads;
            let groups = |first, width, stride| Rows {
                first,
                groups: Some((width, stride)),
                ..Rows::default()
            };
            let (values, stride) = (each * d.value_dim, 2 * d.key_dim + 2 * each * d.value_dim);
            match role {
                Role::StateRate => (groups(0, each, 2 * each), 2 * d.heads),
                Role::StateStep => (groups(each, each, 2 * each), 2 * d.heads),
                Role::StateGate => (
                    groups(2 * d.key_dim + values, values, stride),
                    d.key_heads * stride,
                ),
                Role::StateIn => {
                    let parts = [
                        (0, d.key_dim),
                        (d.key_dim, d.key_dim),
                        (2 * d.key_dim, values),
                    ];
                    let rows = parts.into_iter().flat_map(|(first, width)| {
                        let heads = (0..d.key_heads).map(move |h| h * stride + first);
                        heads.flat_map(move |at| at..at + width)
                    });
                    let order = Rows {
                        table: Some(rows.map(|row| row as u32).collect()),
                        ..Rows::default()
                    };
                    (order, d.key_heads * stride)
                }
                _ => return None,
            }
        }
        _ => return None,
    };
    Some(order)
}
