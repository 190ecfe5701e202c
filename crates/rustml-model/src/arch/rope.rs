//! What files say about rotations, in all the ways they have said it.

use crate::error::{show, Result};
use crate::source::{Config, Gguf};
use crate::spec::RopeScaling;

/// Where config.json has the settings of a rotation.
pub struct HfRope {
    /// Key among `rope_parameters` (transformers 5), where these are by layer
    /// type.
    pub layer_type: Option<&'static str>,
    /// Key of the base beside or without these (transformers 4).
    pub base: &'static str,
    /// The base where the file says none: that of the model's class.
    pub default_base: f32,
    /// Key of the scaling in the older form.
    pub scaling: Option<&'static str>,
}

/// Base and scaling of a rotation in config.json.
pub fn hf_rope(c: &Config, at: HfRope) -> Result<(f32, RopeScaling)> {
    let settings = match (c.object("rope_parameters")?, at.layer_type) {
        (Some(parameters), Some(kind)) => match parameters.object(kind)? {
            Some(settings) => Some(settings),
            None => return Err(c.error(format!("rope_parameters has no {kind}"))),
        },
        (Some(parameters), None) => Some(parameters),
        (None, _) => match at.scaling {
            Some(key) => c.object(key)?,
            None => None,
        },
    };
    let settings = settings.as_ref();
    let inside = |key: &str| settings.map_or(Ok(None), |s| s.f32(key));
    let base = match inside("rope_theta")? {
        Some(base) => base,
        None => c.f32(at.base)?.unwrap_or(at.default_base),
    };
    let partial = match inside("partial_rotary_factor")? {
        Some(factor) => Some(factor),
        None => c.f32("partial_rotary_factor")?,
    };
    if let Some(factor) = partial.filter(|f| *f != 1.0) {
        return Err(c.error(format!(
            "partial_rotary_factor is {factor}, but in this architecture whole heads are rotated"
        )));
    }
    let Some(s) = settings else {
        return Ok((base, RopeScaling::None));
    };
    let kind = match s.str("rope_type")? {
        Some(kind) => kind,
        None => s.str("type")?.unwrap_or("default"),
    };
    let scaling = match kind {
        "default" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: s.need_f32("factor")?,
        },
        "llama3" => RopeScaling::Llama3 {
            factor: s.need_f32("factor")?,
            low: s.need_f32("low_freq_factor")?,
            high: s.need_f32("high_freq_factor")?,
            original: s.need_f32("original_max_position_embeddings")?,
        },
        other => {
            return Err(c.error(format!(
                "rope scaling of type {} is not supported; supported are default, linear, llama3",
                show(other)
            )));
        }
    };
    Ok((base, scaling))
}

/// The scaling in GGUF: a factor for all frequencies, a divisor for each in
/// the tensor `rope_freqs.weight`, or both.
pub fn gguf_rope_scaling(g: &Gguf) -> Result<RopeScaling> {
    let factor = match g.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => g.f32("rope.scale_linear")?,
    };
    // As llama.cpp reads it: a factor without a type is linear, and 0 is none.
    let factor = match g.str("rope.scaling.type")? {
        Some("none") => None,
        Some("linear") if factor.is_none() => Some(g.need_f32("rope.scaling.factor")?),
        Some("linear") | None => factor.filter(|f| *f != 0.0),
        Some(other) => {
            return Err(g.error(format!(
                "rope scaling of type {} is not supported; supported are none, linear",
                show(other)
            )));
        }
    };
    let most = rustml_kernels::attention::MAX_HEAD_DIM / 2;
    let divisors = g.floats("rope_freqs.weight", most)?;
    Ok(match (factor, divisors) {
        (None, None) => RopeScaling::None,
        (Some(factor), None) => RopeScaling::Linear { factor },
        (factor, Some(mut divisors)) => {
            let factor = factor.unwrap_or(1.0);
            divisors.iter_mut().for_each(|d| *d *= factor);
            RopeScaling::Factors(divisors)
        }
    })
}
