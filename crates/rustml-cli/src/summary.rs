//! What `rustml inspect` knows about a model, apart from how it is shown.

use rustml_io::{FileFormat, Store};
use rustml_model::arch::Arch;
use rustml_model::spec::{Activation, Layer, NormKind, Spec, Wiring};
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
        let windows = spec.layers.iter().filter_map(|l| l.attention.window);
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
            let a = &l.attention;
            let norm = if a.qk_norm.is_some() { ", qk-norm" } else { "" };
            format!(
                "{} heads of {}, {} for keys and values{norm}",
                a.heads, a.head_dim, a.kv_heads
            )
        });
        let feed_forward = all(&|l| {
            let f = &l.feed_forward;
            let gated = if f.gated { ", gated" } else { "" };
            format!("{}, {}{gated}", f.inner, activation(f.activation))
        });
        let head = match spec.head.tied {
            true => "shared with the embedding",
            false => "weights of its own",
        };
        let norm = all(&|l| {
            let wiring = match l.wiring {
                Wiring::Pre => "before each part",
                Wiring::Sandwich => "before and after each part",
            };
            format!("{}, {wiring}", norm(l.norm.kind))
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
            json!({
                "heads": l.attention.heads,
                "kv_heads": l.attention.kv_heads,
                "head_size": l.attention.head_dim,
                "window": l.attention.window,
                "qk_norm": l.attention.qk_norm.is_some(),
                "feed_forward": l.feed_forward.inner,
                "gated": l.feed_forward.gated,
                "activation": activation(l.feed_forward.activation),
                "norm": norm(l.norm.kind),
            })
        };
        json!({
            "layers": spec.layers.len(),
            "hidden": spec.hidden,
            "context": spec.context,
            "vocabulary": spec.vocab,
            "tied_head": spec.head.tied,
            "learned_positions": spec.embedding.learned_positions,
            "rope_bases": spec.ropes.iter().map(|r| r.base).collect::<Vec<_>>(),
            "kv_bytes_per_token": kv_bytes(spec),
            "each_layer": spec.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }
}

/// Bytes of keys and values of one token in all layers, in half precision.
fn kv_bytes(spec: &Spec) -> usize {
    let of = |l: &Layer| 4 * l.attention.kv_heads * l.attention.head_dim;
    spec.layers.iter().map(of).sum()
}

fn activation(a: Activation) -> &'static str {
    match a {
        Activation::Silu => "SiLU",
        Activation::GeluTanh => "GELU (tanh)",
        Activation::Relu => "ReLU",
    }
}

fn norm(n: NormKind) -> &'static str {
    match n {
        NormKind::Rms => "RMS norm",
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
