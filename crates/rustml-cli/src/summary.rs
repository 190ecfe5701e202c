//! What `rustml inspect` knows about a model, apart from how it is shown.

use rustml_io::{FileFormat, Store};
use rustml_model::arch::Arch;
use rustml_model::spec::{Activation, Attention, Block, Layer, NormKind, NormPlacement, Spec};
use rustml_model::KvPool;
use rustml_nlp::Model;
use serde_json::{json, Value};

/// What is known about a model without loading its weights.
pub struct About {
    /// As the file names it.
    pub architecture: Option<String>,
    /// The settings, or why they cannot be had.
    pub spec: Result<Spec, String>,
    /// Types of tensors that cannot be computed with.
    pub strange_types: Vec<String>,
    /// The tokenizer, or why there is none.
    pub tokenizer: Result<Vocabulary, String>,
}

/// What is known about a tokenizer.
pub struct Vocabulary {
    pub tokens: usize,
    pub beginning: Option<u32>,
    pub ends: Vec<u32>,
    pub chat_template: bool,
}

impl About {
    pub fn of(store: &Store) -> About {
        let spec = Arch::of(store).and_then(|arch| arch.spec(store));
        let types = store.summary().types;
        let strange = types.into_iter().filter(|t| !t.supported);
        let tokenizer = Model::tokenizer_of(store);
        About {
            architecture: architecture(store),
            spec: spec.map_err(|e| e.to_string()),
            strange_types: strange.map(|t| t.type_name).collect(),
            tokenizer: tokenizer.map_err(|e| e.to_string()).map(|t| Vocabulary {
                tokens: t.vocab_size(),
                beginning: t.bos(),
                ends: t.end_tokens().to_vec(),
                chat_template: t.chat_template().is_some(),
            }),
        }
    }

    /// Why the model cannot be run here, as far as can be told without
    /// loading it.
    pub fn problem(&self) -> Option<String> {
        if let Err(e) = &self.spec {
            return Some(e.clone());
        }
        if let Err(e) = &self.tokenizer {
            return Some(e.clone());
        }
        match self.strange_types.as_slice() {
            [] => None,
            types => Some(format!(
                "it has tensors in types that cannot be computed with: {}",
                types.join(", ")
            )),
        }
    }

    /// The settings, as rows of name and value.
    pub fn shape_rows(&self) -> Vec<Vec<String>> {
        let Ok(spec) = &self.spec else {
            return Vec::new();
        };
        let all = |f: &dyn Fn(&Layer) -> String| {
            let mut seen: Vec<String> = Vec::new();
            for value in spec.layers.iter().map(f) {
                if !seen.contains(&value) {
                    seen.push(value);
                }
            }
            seen.join("; or ")
        };
        let windows = spec.layers.iter().filter_map(|l| l.attention()?.window);
        let windows: Vec<usize> = windows.collect();
        let layers = match windows.first() {
            Some(window) => format!(
                "{}, {} of them with a window of {window}",
                spec.layers.len(),
                windows.len()
            ),
            None => spec.layers.len().to_string(),
        };
        let attention = all(&|l| {
            let Some(a) = l.attention() else {
                return "none".into();
            };
            let norm = if a.qk_norm.is_some() { ", qk-norm" } else { "" };
            format!(
                "{} heads of {}, {} for keys and values{norm}",
                a.heads, a.head_dim, a.kv_heads
            )
        });
        let states = spec.layers.iter().filter(|l| l.recurrent().is_some());
        let states = match states.count() {
            0 => "none".to_owned(),
            n => format!(
                "{} a text, in {n} layers",
                crate::text::bytes(KvPool::state_bytes(spec) as u64)
            ),
        };
        let feed_forward = all(&|l| {
            let Some(f) = l.feed_forward() else {
                return "none".into();
            };
            let gated = if f.gated { ", gated" } else { "" };
            format!("{}, {}{gated}", f.inner, activation(f.activation))
        });
        let head = match spec.head.map(|h| h.tied) {
            Some(true) => "shared with the embedding",
            Some(false) => "weights of its own",
            None => "none: it encodes texts",
        };
        let norm = all(&|l| {
            let of = |b: &Block| {
                let place = match b.norm {
                    NormPlacement::None => return "none".to_owned(),
                    NormPlacement::Pre(_) => "before",
                    NormPlacement::Post(_) => "after",
                    NormPlacement::Sandwich(_) => "before and after",
                    NormPlacement::Sum(_) => "of the sum after",
                };
                let kind = b.norm.norm().map_or("", |n| norm(n.kind));
                format!("{kind}, {place} each part")
            };
            let mut all: Vec<String> = l.blocks.iter().map(of).collect();
            all.dedup();
            all.join(", then ")
        });
        let positions = match (spec.embedding.learned_positions, spec.ropes.is_empty()) {
            (true, _) => "learned".to_owned(),
            (false, true) => "none".to_owned(),
            (false, false) => {
                let bases = spec.ropes.iter().map(|r| r.base.to_string());
                format!("rotary, base {}", bases.collect::<Vec<_>>().join(" and "))
            }
        };
        let row = |name: &str, value: String| vec![name.to_owned(), value];
        vec![
            row("layers", layers),
            row("hidden size", spec.hidden.to_string()),
            row("attention", attention),
            row("recurrent state", states),
            row("feed-forward", feed_forward),
            row("norms", norm),
            row("positions", positions),
            row("context", format!("{} tokens", spec.context)),
            row("vocabulary", format!("{}, head: {head}", spec.vocab)),
            row(
                "keys and values",
                format!(
                    "{} a token, in F16",
                    crate::text::bytes(kv_bytes(spec) as u64)
                ),
            ),
        ]
    }

    /// The settings as JSON; null if they cannot be had.
    pub fn shape_json(&self) -> Value {
        let Ok(spec) = &self.spec else {
            return Value::Null;
        };
        let layer = |l: &Layer| {
            let (a, f) = (l.attention(), l.feed_forward());
            let first = l.blocks.first().and_then(|b| b.norm.norm());
            json!({
                "heads": a.map(|a| a.heads),
                "kv_heads": a.map(|a| a.kv_heads),
                "head_size": a.map(|a| a.head_dim),
                "window": a.and_then(|a| a.window),
                "qk_norm": a.map(|a| a.qk_norm.is_some()),
                "feed_forward": f.map(|f| f.inner),
                "gated": f.map(|f| f.gated),
                "activation": f.map(|f| activation(f.activation)),
                "norm": first.map(|n| norm(n.kind)),
            })
        };
        json!({
            "layers": spec.layers.len(),
            "hidden": spec.hidden,
            "context": spec.context,
            "vocabulary": spec.vocab,
            "tied_head": spec.head.map(|h| h.tied),
            "learned_positions": spec.embedding.learned_positions,
            "rope_bases": spec.ropes.iter().map(|r| r.base).collect::<Vec<_>>(),
            "kv_bytes_per_token": kv_bytes(spec),
            "state_bytes": KvPool::state_bytes(spec),
            "each_layer": spec.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

/// Bytes of keys and values of one token in all layers, in half precision.
fn kv_bytes(spec: &Spec) -> usize {
    let of = |a: &Attention| 4 * a.kv_heads * a.head_dim;
    spec.layers
        .iter()
        .filter_map(Layer::attention)
        .map(of)
        .sum()
}

fn activation(a: Activation) -> &'static str {
    match a {
        Activation::Silu | Activation::ScaledSilu { .. } => "SiLU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::GeluErf => "GELU",
        Activation::QuickGelu => "quick GELU",
        Activation::Relu => "ReLU",
        Activation::SquaredRelu => "squared ReLU",
        Activation::Sigmoid => "sigmoid",
        Activation::Tanh => "tanh",
        Activation::Identity => "identity",
        Activation::ClampedSwiglu { .. } => "clamped SwiGLU",
        Activation::Xielu { .. } => "xIELU",
    }
}

fn norm(n: NormKind) -> &'static str {
    match n {
        NormKind::Rms => "RMS norm",
        NormKind::L2 => "L2 norm",
        NormKind::Layer => "layer norm",
    }
}

/// What the file says it is.
fn architecture(store: &Store) -> Option<String> {
    match store.format() {
        FileFormat::Gguf { .. } => {
            let name = store.metadata().str("general.architecture").ok()?;
            name.map(str::to_owned)
        }
        FileFormat::Safetensors => {
            let names = store.config()?.get("architectures")?.as_array()?;
            let names: Vec<_> = names.iter().filter_map(Value::as_str).collect();
            (!names.is_empty()).then(|| names.join(", "))
        }
    }
}
