//! A [`Spec`] as GGUF metadata: the other direction of the architectures'
//! `from_gguf`. Keys are the same for all of them.

use super::weights::Tensor;
use super::Synth;
use crate::spec::{Attention, Layer, NormKind, Rope, RopeScaling, Spec};
use rustml_io::{Array, GgufWriter, Value};

impl Synth {
    /// The file's head.
    pub(super) fn plan(&self, tensors: &[Tensor]) -> GgufWriter {
        let (arch, spec) = (self.shape.arch.gguf, &self.shape.spec);
        let mut plan = GgufWriter::new();
        plan.set("general.architecture", arch);
        plan.set("general.name", format!("{} (random)", self.shape.name));
        plan.set("general.quantization_version", 2u32);
        for (key, value) in settings(spec) {
            plan.set(format!("{arch}.{key}"), value);
        }
        plan.set_all(&self.vocabulary);
        for t in tensors {
            plan.tensor(&t.name, t.dtype, &t.shape);
        }
        plan
    }
}

fn settings(spec: &Spec) -> Vec<(&'static str, Value)> {
    let mut all: Vec<(&'static str, Value)> = Vec::new();
    let mut set = |key, value: Value| all.push((key, value));
    let int = |n: usize| Value::U32(n as u32);
    set("context_length", int(spec.context));
    set("embedding_length", int(spec.hidden));
    set("block_count", int(spec.layers.len()));
    set("vocab_size", int(spec.vocab));
    if let Some(f) = spec.layers.iter().find_map(Layer::feed_forward) {
        set("feed_forward_length", int(f.inner));
    }
    if let Some(n) = spec.final_norm {
        let epsilon = match n.kind {
            NormKind::Rms | NormKind::L2 => "attention.layer_norm_rms_epsilon",
            _ => "attention.layer_norm_epsilon",
        };
        set(epsilon, Value::F32(n.eps));
    }
    if let Some(a) = spec.layers.iter().find_map(Layer::attention) {
        set("attention.head_count", int(a.heads));
        set("attention.head_count_kv", int(a.kv_heads));
        set("attention.key_length", int(a.head_dim));
        set("attention.value_length", int(a.head_dim));
        if a.scale != 1.0 / (a.head_dim as f32).sqrt() {
            set("attention.scale", Value::F32(a.scale));
        }
        if let Some(cap) = a.soft_cap {
            set("attn_logit_softcapping", Value::F32(cap));
        }
    }
    if let Some(cap) = spec.head.and_then(|h| h.soft_cap) {
        set("final_logit_softcapping", Value::F32(cap));
    }
    let attentions = spec.layers.iter().filter_map(Layer::attention);
    let windows: Vec<_> = attentions.map(|a| a.window).collect();
    if let Some(window) = windows.iter().flatten().max() {
        set("attention.sliding_window", int(*window));
        set("attention.sliding_window_pattern", pattern(&windows));
    }
    if let Some(rope) = rope_of(spec, |a| a.window.is_none()) {
        set("rope.dimension_count", int(rope.dims));
        set("rope.freq_base", Value::F32(rope.base));
        if let RopeScaling::Linear { factor } = rope.scaling {
            set("rope.scaling.type", Value::String("linear".into()));
            set("rope.scaling.factor", Value::F32(factor));
        }
        if let RopeScaling::Yarn {
            factor,
            original,
            fast,
            slow,
            amplitude,
            truncate: _,
        } = rope.scaling
        {
            set("rope.scaling.type", Value::String("yarn".into()));
            set("rope.scaling.factor", Value::F32(factor));
            set(
                "rope.scaling.original_context_length",
                int(original as usize),
            );
            set("rope.scaling.yarn_beta_fast", Value::F32(fast));
            set("rope.scaling.yarn_beta_slow", Value::F32(slow));
            set("rope.scaling.yarn_attn_factor", Value::F32(amplitude));
        }
    }
    if let Some(rope) = rope_of(spec, |a| a.window.is_some()) {
        set("rope.freq_base_swa", Value::F32(rope.base));
    }
    all
}

/// Which layers have a window: the period of those that have none, which is
/// what other engines read, or where there is none each layer for itself.
fn pattern(windows: &[Option<usize>]) -> Value {
    let period = windows
        .iter()
        .position(Option::is_none)
        .map_or(0, |i| i + 1);
    let fits = |(i, w): (usize, &Option<usize>)| {
        w.is_none() == (period > 0 && (i + 1).is_multiple_of(period))
    };
    match windows.iter().enumerate().all(fits) {
        true => Value::U32(period as u32),
        false => {
            let local = windows.iter().map(Option::is_some);
            Value::Array(Array::Bool(local.collect()))
        }
    }
}

/// The rotation of the layers of one kind.
fn rope_of(spec: &Spec, kind: impl Fn(&Attention) -> bool) -> Option<&Rope> {
    let mut attentions = spec.layers.iter().filter_map(Layer::attention);
    spec.ropes.get(attentions.find(|a| kind(a))?.rope?)
}

/// What GGUF stores for the rotations that no key describes: a divisor for
/// each frequency.
pub fn rope_divisors(spec: &Spec) -> Option<Vec<f32>> {
    let rope = rope_of(spec, |a| a.window.is_none())?;
    match &rope.scaling {
        RopeScaling::None | RopeScaling::Linear { .. } | RopeScaling::Yarn { .. } => None,
        // A key for the one there is not, tensors of their own for the other.
        RopeScaling::Dynamic { .. } | RopeScaling::LongRope { .. } => None,
        RopeScaling::Factors(divisors) => Some(divisors.clone()),
        RopeScaling::Llama3 { .. } | RopeScaling::Proportional { .. } => {
            let plain = Rope {
                scaling: RopeScaling::None,
                ..*rope
            };
            let pairs = plain.frequencies().into_iter().zip(rope.frequencies());
            Some(pairs.map(|(plain, scaled)| plain / scaled).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Arch;
    use crate::synth::weights::{self, Values};
    use crate::synth::Shape;
    use rustml_io::{DType, Store};
    use std::path::Path;

    /// Only what the settings are read from: the tensors would take gigabytes.
    fn head(synth: &Synth) -> Store {
        let spec = &synth.shape.spec;
        let mut tensors = weights::plan(&synth.shape, DType::F32);
        tensors.retain(|t| {
            ["token_embd.weight", "output.weight", "rope_freqs.weight"].contains(&&*t.name)
        });
        let mut data = Vec::new();
        for t in &mut tensors {
            let values = match &t.values {
                Values::Exactly(values) => values.clone(),
                Values::Random { .. } => {
                    t.shape = vec![spec.vocab, 1];
                    vec![0.0; spec.vocab]
                }
            };
            data.push(
                values
                    .iter()
                    .flat_map(|v| v.to_le_bytes())
                    .collect::<Vec<u8>>(),
            );
        }
        let data: Vec<&[u8]> = data.iter().map(|d| &d[..]).collect();
        let bytes = synth.plan(&tensors).to_bytes(&data).unwrap();
        Store::from_bytes(Path::new("head.gguf"), bytes).unwrap()
    }

    #[test]
    fn every_shape_is_read_back_as_it_was() {
        for name in Shape::names() {
            let shape = Shape::named(&name).unwrap();
            let store = head(&Synth::new(shape.clone(), DType::Q8_0));
            let arch = Arch::of(&store).unwrap();
            assert_eq!(arch.gguf, shape.arch(), "{name}");
            let (wanted, mut spec) = (&shape.spec, arch.spec(&store).unwrap());
            for (a, b) in spec.ropes.iter().zip(&wanted.ropes) {
                // A frequency divided and multiplied is rounded twice.
                let pairs = a.frequencies().into_iter().zip(b.frequencies());
                for (a, b) in pairs {
                    assert!((a / b - 1.0).abs() < 3.0 * f32::EPSILON, "{name}: {a} {b}");
                }
            }
            spec.ropes.clone_from(&wanted.ropes);
            assert_eq!(spec, *wanted, "{name}");
        }
    }

    /// As published: millions of parameters.
    #[test]
    fn shapes_have_their_models_size() {
        for (name, millions) in [
            ("gpt2", 124),
            ("gpt2-medium", 355),
            ("gpt2-large", 774),
            ("gpt2-xl", 1558),
            ("smollm2-135m", 135),
            ("smollm2-360m", 362),
            ("smollm2-1.7b", 1711),
            ("tinyllama-1.1b", 1100),
            ("llama-3.2-1b", 1236),
            ("llama-3.2-3b", 3213),
            ("llama-3.1-8b", 8030),
            ("gemma-3-270m", 268),
            ("gemma-3-1b-it", 1000),
            ("gemma-3-4b-it", 3880),
            ("qwen2.5-0.5b", 494),
            ("qwen2.5-1.5b", 1544),
            ("qwen3-0.6b", 596),
            ("qwen3-1.7b", 1721),
            ("qwen3-4b", 4022),
        ] {
            let parameters = Shape::named(name).unwrap().spec.parameters();
            assert_eq!((parameters as f64 / 1e6).round() as u64, millions, "{name}");
        }
    }

    #[test]
    fn windows_without_a_period_are_listed() {
        let (some, none) = (Some(8), None);
        assert_eq!(pattern(&[some, none, some, none, some]), Value::U32(2));
        assert_eq!(pattern(&[some, some]), Value::U32(0));
        let bools = Value::Array(Array::Bool(vec![true, false, false]));
        assert_eq!(pattern(&[some, none, none]), bools);
    }
}
