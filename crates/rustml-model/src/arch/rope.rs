//! What files say about rotations, in all the ways they have said it.

use crate::error::{show, Result};
use crate::rope::yarn_amplitude;
use crate::source::{Config, Gguf};
use crate::spec::{Rope, RopeScaling};

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
    /// The part of a head that is rotated where the file says none, if the
    /// architecture can rotate a part.
    pub partial: Option<f32>,
}

impl Default for HfRope {
    /// Where most have them.
    fn default() -> Self {
        HfRope {
            layer_type: None,
            base: "rope_theta",
            default_base: 10_000.0,
            scaling: Some("rope_scaling"),
            partial: None,
        }
    }
}

/// A rotation in config.json, of heads of `head_dim` values.
pub fn hf_rope(c: &Config, at: HfRope, head_dim: usize) -> Result<Rope> {
    let older = match at.scaling {
        Some(key) => c.object(key)?.filter(|o| !o.is_empty()),
        None => None,
    };
    let settings = match (c.object("rope_parameters")?, at.layer_type) {
        // Of both, transformers takes the older one, and nothing of the other.
        (Some(_), None) if older.is_some() => older,
        (Some(parameters), Some(kind)) => match parameters.object(kind)? {
            Some(settings) => Some(settings),
            None => return Err(c.error(format!("rope_parameters has no {kind}"))),
        },
        (Some(parameters), None) => Some(parameters),
        (None, _) => older,
    };
    let settings = settings.as_ref();
    let inside = |key: &str| settings.map_or(Ok(None), |s| s.f32(key));
    let base = match inside("rope_theta")? {
        Some(base) => base,
        None => c.f32(at.base)?.unwrap_or(at.default_base),
    };
    let partial = match inside("partial_rotary_factor")? {
        Some(factor) => Some(factor),
        None => c.f32_of(&["partial_rotary_factor", "rotary_pct", "rope_pct"])?,
    };
    let kind = match settings {
        None => "default",
        Some(s) => match s.str("rope_type")? {
            Some(kind) => kind,
            None => s.str("type")?.unwrap_or("default"),
        },
    };
    let partial = match (partial, at.partial) {
        (partial, Some(default)) => partial.unwrap_or(default),
        (Some(factor), None) if factor != 1.0 && kind != "proportional" => {
            return Err(c.error(format!(
                "partial_rotary_factor is {factor}, but in this architecture whole heads are rotated"
            )));
        }
        (partial, None) => partial.unwrap_or(1.0),
    };
    if !(partial > 0.0 && partial <= 1.0) {
        return Err(c.error(format!(
            "partial_rotary_factor is {partial}, but must be above 0 and at most 1"
        )));
    }
    let part = (head_dim as f64 * f64::from(partial)) as usize;
    let scaling = match settings {
        None => RopeScaling::None,
        Some(s) => hf_scaling(c, s, kind, part / 2)?,
    };
    let (base, scaling) = match (settings, scaling) {
        // A fixed stretch of the base, by the name of the one that grows.
        (Some(s), RopeScaling::Dynamic { .. }) if s.f32("alpha")?.is_some() => {
            let (alpha, dims) = (s.need_f32("alpha")?, part as f32);
            (base * alpha.powf(dims / (dims - 2.0)), RopeScaling::None)
        }
        (_, scaling) => (base, scaling),
    };
    let dims = match scaling {
        RopeScaling::Proportional { .. } => head_dim,
        _ => part,
    };
    Ok(Rope {
        dims,
        base,
        scaling,
    })
}

fn hf_scaling(c: &Config, s: &Config, kind: &str, pairs: usize) -> Result<RopeScaling> {
    let context = || c.need_usize("max_position_embeddings");
    // Beside the scaling it counts more, as in transformers.
    let original = || match c.usize("original_max_position_embeddings")? {
        Some(original) => Ok(original),
        None => match s.usize("original_max_position_embeddings")? {
            Some(original) => Ok(original),
            None => context(),
        },
    };
    // How much longer than the original the context is, if nothing says a factor.
    let stretch = || -> Result<f32> {
        match s.f32("factor")? {
            Some(factor) => Ok(factor),
            None => Ok(context()? as f32 / original()? as f32),
        }
    };
    Ok(match kind {
        "default" | "mrope" => RopeScaling::None,
        "linear" => RopeScaling::Linear {
            factor: s.need_f32("factor")?,
        },
        "proportional" => RopeScaling::Proportional {
            pairs,
            factor: s.f32("factor")?.unwrap_or(1.0),
        },
        "llama3" => RopeScaling::Llama3 {
            factor: s.need_f32("factor")?,
            low: s.need_f32("low_freq_factor")?,
            high: s.need_f32("high_freq_factor")?,
            original: s.need_f32("original_max_position_embeddings")?,
        },
        "dynamic" => RopeScaling::Dynamic {
            factor: s.f32("factor")?.unwrap_or(1.0),
            original: context()?,
        },
        "yarn" => {
            let factor = stretch()?;
            let set = |key: &str| s.f32(key).map(|v| v.filter(|v| *v != 0.0));
            let amplitude = match (
                s.f32("attention_factor")?,
                set("mscale")?,
                set("mscale_all_dim")?,
            ) {
                (Some(amplitude), ..) => amplitude,
                (None, Some(one), Some(all)) => {
                    yarn_amplitude(factor, one) / yarn_amplitude(factor, all)
                }
                _ => yarn_amplitude(factor, 1.0),
            };
            RopeScaling::Yarn {
                factor,
                original: original()? as f32,
                fast: set("beta_fast")?.unwrap_or(32.0),
                slow: set("beta_slow")?.unwrap_or(1.0),
                truncate: s.bool("truncate")?.unwrap_or(true),
                amplitude,
            }
        }
        "longrope" | "su" => {
            let original = original()?;
            let factor = stretch()?;
            let amplitude = match s.f32("attention_factor")? {
                Some(amplitude) => amplitude,
                None if factor <= 1.0 => 1.0,
                None => (1.0 + factor.ln() / (original as f32).ln()).sqrt(),
            };
            RopeScaling::LongRope {
                short: s.need_floats("short_factor")?,
                long: s.need_floats("long_factor")?,
                original,
                amplitude,
            }
        }
        other => {
            return Err(c.error(format!(
                "rope scaling of type {} is not supported; supported are default, linear, \
                 llama3, dynamic, yarn, longrope, proportional",
                show(other)
            )));
        }
    })
}

/// The scaling in GGUF: a factor for all frequencies, a divisor for each in
/// the tensor `rope_freqs.weight`, or both; YaRN; or LongRoPE, whose divisors are
/// in `rope_factors_short.weight` and `rope_factors_long.weight`.
pub fn gguf_rope_scaling(g: &Gguf) -> Result<RopeScaling> {
    let factor = match g.f32("rope.scaling.factor")? {
        Some(factor) => Some(factor),
        None => g.f32("rope.scale_linear")?,
    };
    let most = rustml_kernels::attention::MAX_HEAD_DIM / 2;
    let divisors = g.floats("rope_freqs.weight", most)?;
    let original = || match g.usize("rope.scaling.original_context_length")? {
        Some(original) => Ok(original),
        None => g.need_usize("context_length"),
    };
    let amplitude = g.f32("rope.scaling.attn_factor")?.unwrap_or(1.0);
    let short = g.floats("rope_factors_short.weight", most)?;
    let long = g.floats("rope_factors_long.weight", most)?;
    let kind = g.str("rope.scaling.type")?;
    if let (Some(short), Some(long)) = (short, long) {
        if !matches!(kind, None | Some("longrope" | "none")) || divisors.is_some() {
            return Err(g.error(
                "there are rope_factors_long.weight and another rope scaling, which is not supported",
            ));
        }
        return Ok(RopeScaling::LongRope {
            short,
            long,
            original: original()?,
            amplitude,
        });
    }
    // As llama.cpp reads it: a factor without a type is linear, and 0 is none.
    let factor = match kind {
        Some("none") => None,
        Some("linear") if factor.is_none() => Some(g.need_f32("rope.scaling.factor")?),
        Some("linear") | None => factor.filter(|f| *f != 0.0),
        Some("yarn") => {
            let factor = g.need_f32("rope.scaling.factor")?;
            if divisors.is_some() || g.f32("rope.scaling.yarn_ext_factor")?.unwrap_or(1.0) != 1.0 {
                return Err(g.error(
                    "rope scaling of type yarn with rope_freqs.weight or a yarn_ext_factor other \
                     than 1 is not supported",
                ));
            }
            let all = g.f32("rope.scaling.yarn_log_multiplier")?.unwrap_or(0.0);
            let own = match g.f32("rope.scaling.yarn_attn_factor")? {
                Some(own) => own,
                None => yarn_amplitude(factor, 1.0) / yarn_amplitude(factor, all),
            };
            return Ok(RopeScaling::Yarn {
                factor,
                original: original()? as f32,
                fast: g.f32("rope.scaling.yarn_beta_fast")?.unwrap_or(32.0),
                slow: g.f32("rope.scaling.yarn_beta_slow")?.unwrap_or(1.0),
                truncate: true,
                amplitude: own * amplitude,
            });
        }
        Some("longrope") => {
            return Err(g.error(
                "rope scaling is of type longrope, but there is no rope_factors_long.weight and \
                 rope_factors_short.weight",
            ));
        }
        Some(other) => {
            return Err(g.error(format!(
                "rope scaling of type {} is not supported; supported are none, linear, yarn, longrope",
                show(other)
            )));
        }
    };
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
