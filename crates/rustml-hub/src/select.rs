//! Which of a repository's files are needed: a pure function of their names.
//!
//! The same function looks at what the hub lists, at what a cache holds and at
//! a local directory, so that the three cannot disagree.

use std::collections::HashSet;

use crate::name::{has_extension, Want};

/// The weights in one file; preferred, as in transformers.
pub(crate) const SINGLE: &str = "model.safetensors";
/// Tensor name to shard name.
pub(crate) const INDEX: &str = "model.safetensors.index.json";
/// The architecture and its sizes.
pub(crate) const CONFIG: &str = "config.json";
/// The vocabulary, in the one format read here.
pub(crate) const TOKENIZER: &str = "tokenizer.json";

/// Without one of these a model answers otherwise than it should: it does not
/// end, or has no chat template.
pub(crate) const TELLING: [&str; 3] =
    [TOKENIZER, "generation_config.json", "tokenizer_config.json"];
/// The chat template, in newer repositories. In others it is in
/// tokenizer_config.json.
pub(crate) const TEMPLATE: &str = "chat_template.jinja";

/// Fetched if the repository has them. The last two say how an encoder's
/// vectors are pooled (sentence-transformers); without them that is a guess.
pub(crate) const SMALL: [&str; 8] = [
    CONFIG,
    "generation_config.json",
    TOKENIZER,
    "tokenizer_config.json",
    "special_tokens_map.json",
    TEMPLATE,
    "modules.json",
    "1_Pooling/config.json",
];

/// Quantisations taken without asking, best first.
const USUAL: [&str; 2] = ["Q4_K_M", "Q8_0"];

/// The files that make up a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// config.json, tokenizer and so on, then the weights.
    Safetensors {
        /// Small files that exist, in the order of fetching.
        small: Vec<String>,
        /// [`SINGLE`], or [`INDEX`] which names the shards.
        weights: &'static str,
    },
    /// One GGUF file, or all parts of a split one, first part first.
    Gguf(Vec<String>),
}

/// Why no plan could be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum NoPlan {
    /// Several GGUF files and no reason to prefer one.
    Ambiguous(Vec<String>),
    /// The file or tag asked for is not there; these are.
    Missing {
        /// What was asked for.
        wanted: String,
        /// The GGUF files there are.
        available: Vec<String>,
    },
    /// Nothing that is read here; what there is instead.
    Unsupported(String),
}

/// Chooses among `files`.
pub(crate) fn choose(files: &[String], want: &Want) -> Result<Plan, NoPlan> {
    let has = |name: &str| files.iter().any(|file| file == name);
    let weights = [SINGLE, INDEX].into_iter().find(|name| has(name));
    match (want, weights) {
        (Want::Any, Some(_)) if !has(CONFIG) && !files.iter().any(|file| is_model_gguf(file)) => {
            Err(NoPlan::Unsupported("it has no config.json".into()))
        }
        (Want::Any, Some(weights)) if has(CONFIG) => {
            // Better said before some gigabytes are on their way.
            if !has(TOKENIZER) {
                if let Some(other) = files.iter().find(|file| is_other_tokenizer(file)) {
                    return Err(NoPlan::Unsupported(format!(
                        "its vocabulary is in {} and not in tokenizer.json",
                        crate::text::harmless(other)
                    )));
                }
            }
            let small = SMALL.iter().filter(|name| has(name));
            Ok(Plan::Safetensors {
                small: small.map(|name| name.to_string()).collect(),
                weights,
            })
        }
        _ => choose_gguf(files, want).map(Plan::Gguf),
    }
}

fn choose_gguf(files: &[String], want: &Want) -> Result<Vec<String>, NoPlan> {
    let mut models: Vec<&str> = files
        .iter()
        .map(String::as_str)
        .filter(|file| is_model_gguf(file))
        .collect();
    models.sort_unstable();

    if let Want::File(wanted) = want {
        return match files.iter().any(|file| file == wanted) {
            true => all_parts(files, wanted),
            false => Err(missing(wanted, &models)),
        };
    }
    // Of a split file only the first part is a candidate.
    models.retain(|file| part(file).is_none_or(|part| part.number == 1));
    let wanted: &[&str] = match want {
        Want::Tag(tag) => &[tag.as_str()],
        _ => &USUAL,
    };
    for tag in wanted {
        let matching: Vec<&str> = models
            .iter()
            .copied()
            .filter(|file| has_tag(file, tag))
            .collect();
        match matching[..] {
            [] => {}
            [file] => return all_parts(files, file),
            _ => return Err(NoPlan::Ambiguous(owned(&matching))),
        }
    }
    match (want, &models[..]) {
        (Want::Tag(tag), [_, ..]) => Err(missing(tag, &models)),
        (_, [file]) => all_parts(files, file),
        (_, []) => Err(NoPlan::Unsupported(describe(files))),
        _ => Err(NoPlan::Ambiguous(owned(&models))),
    }
}

fn missing(wanted: &str, models: &[&str]) -> NoPlan {
    NoPlan::Missing {
        wanted: wanted.to_owned(),
        available: owned(models),
    }
}

/// Names as shown to people, who may be reading a hostile listing.
fn owned(files: &[&str]) -> Vec<String> {
    files
        .iter()
        .map(|file| crate::text::harmless(file))
        .collect()
}

/// GGUF, and a model: no vision projector, no importance matrix.
fn is_model_gguf(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    has_extension(&name, "gguf") && !name.starts_with("mmproj") && !name.contains("imatrix")
}

/// Whether a file's name carries a quantisation: `x-Q4_K.gguf` has `q4_k`,
/// `x-Q4_K_M.gguf` and `x-IQ4_K.gguf` do not.
fn has_tag(file: &str, tag: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file).to_ascii_lowercase();
    let tag = tag.to_ascii_lowercase();
    name.match_indices(&tag).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        let after = name[at + tag.len()..].chars().next();
        before.is_none_or(|c| !c.is_alphanumeric())
            && after.is_none_or(|c| !c.is_alphanumeric() && c != '_')
    })
}

/// `stem-00001-of-00003.gguf`, as llama.cpp's gguf-split writes it.
struct Part<'a> {
    stem: &'a str,
    number: u32,
    count: u32,
}

fn part(file: &str) -> Option<Part<'_>> {
    let (stem, _) = file.rsplit_once('.')?;
    let (stem, count) = stem.rsplit_once("-of-")?;
    let (stem, number) = stem.rsplit_once('-')?;
    let digits = |text: &str| text.len() == 5 && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(number) || !digits(count) {
        return None;
    }
    let (number, count) = (number.parse().ok()?, count.parse().ok()?);
    // Numbers that cannot be a part's are but a name.
    (1..=count).contains(&number).then_some(Part {
        stem,
        number,
        count,
    })
}

/// The file, or every part of it in order.
fn all_parts(files: &[String], file: &str) -> Result<Vec<String>, NoPlan> {
    let Some(first) = part(file) else {
        return Ok(vec![file.to_owned()]);
    };
    let extension = &file[file.len() - ".gguf".len()..];
    let listed: HashSet<&str> = files.iter().map(String::as_str).collect();
    (1..=first.count)
        .map(|number| {
            let name = format!(
                "{}-{number:05}-of-{:05}{extension}",
                first.stem, first.count
            );
            match listed.contains(name.as_str()) {
                true => Ok(name),
                false => Err(NoPlan::Missing {
                    wanted: crate::text::harmless(&name),
                    available: Vec::new(),
                }),
            }
        })
        .collect()
}

fn is_other_tokenizer(file: &str) -> bool {
    matches!(
        file,
        "tokenizer.model" | "spiece.model" | "vocab.json" | "vocab.txt" | "tekken.json"
    )
}

/// What a repository without readable weights has instead.
fn describe(files: &[String]) -> String {
    const KNOWN: [(&str, &str); 12] = [
        ("bin", "PyTorch"),
        ("pt", "PyTorch"),
        ("pth", "PyTorch"),
        ("ckpt", "PyTorch"),
        ("onnx", "ONNX"),
        ("h5", "TensorFlow"),
        ("tflite", "TensorFlow Lite"),
        ("msgpack", "Flax"),
        ("mlmodel", "Core ML"),
        ("npz", "NumPy"),
        ("llamafile", "llamafile"),
        ("xml", "OpenVINO"),
    ];
    let has = |extension: &str| files.iter().any(|file| has_extension(file, extension));
    if files.iter().any(|file| file == "adapter_config.json") {
        return "it is an adapter (LoRA) and not a whole model".into();
    }
    if files.iter().any(|file| file == "model_index.json") {
        return "it is a diffusion pipeline and not a language model".into();
    }
    if files.iter().any(|file| file == SINGLE || file == INDEX) {
        return "it has no GGUF files, but safetensors: leave out the tag".into();
    }
    if let Some(file) = files.iter().find(|file| has_extension(file, "safetensors")) {
        return format!(
            "its weights are named {} and not model.safetensors",
            crate::text::harmless(file)
        );
    }
    let mut found: Vec<&str> = Vec::new();
    for (extension, format) in KNOWN {
        if has(extension) && !found.contains(&format) {
            found.push(format);
        }
    }
    match found.is_empty() {
        true => "there are no weights".into(),
        false => format!("it has only {} weights", found.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| name.to_string()).collect()
    }

    fn gguf(names: &[&str]) -> Result<Plan, NoPlan> {
        Ok(Plan::Gguf(files(names)))
    }

    fn tag(text: &str) -> Want {
        Want::Tag(text.into())
    }

    #[test]
    fn safetensors_before_everything_else() {
        let listed = files(&[
            "README.md",
            "config.json",
            "model.safetensors",
            "model.safetensors.index.json",
            "onnx/model.onnx",
            "pytorch_model.bin",
            "tokenizer.json",
            "vocab.json",
            "x-Q4_K_M.gguf",
            "1_Pooling/config.json",
        ]);
        let plan = choose(&listed, &Want::Any).unwrap();
        let small = files(&["config.json", "tokenizer.json", "1_Pooling/config.json"]);
        assert_eq!(
            plan,
            Plan::Safetensors {
                small,
                weights: SINGLE
            }
        );
        assert_eq!(choose(&listed, &tag("q4_k_m")), gguf(&["x-Q4_K_M.gguf"]));
    }

    #[test]
    fn shards_through_their_index() {
        let listed = files(&["config.json", INDEX, "model-00001-of-00002.safetensors"]);
        let plan = choose(&listed, &Want::Any).unwrap();
        assert_eq!(
            plan,
            Plan::Safetensors {
                small: files(&["config.json"]),
                weights: INDEX
            }
        );
    }

    #[test]
    fn a_usual_quantisation_by_default() {
        let all = files(&[
            "m-Q3_K_M.gguf",
            "m-Q4_K_M.gguf",
            "m-Q8_0.gguf",
            "mmproj-m-Q8_0.gguf",
            "m.imatrix.gguf",
        ]);
        assert_eq!(choose(&all, &Want::Any), gguf(&["m-Q4_K_M.gguf"]));
        assert_eq!(choose(&all, &tag("Q8_0")), gguf(&["m-Q8_0.gguf"]));
        assert_eq!(
            choose(&all, &tag("Q5_K_M")),
            Err(NoPlan::Missing {
                wanted: "Q5_K_M".into(),
                available: files(&["m-Q3_K_M.gguf", "m-Q4_K_M.gguf", "m-Q8_0.gguf"]),
            })
        );
        let file = |name: &str| Want::File(name.into());
        assert_eq!(
            choose(&all, &file("m-Q3_K_M.gguf")),
            gguf(&["m-Q3_K_M.gguf"])
        );
        assert!(matches!(
            choose(&all, &file("n.gguf")),
            Err(NoPlan::Missing { .. })
        ));

        let two = files(&["m-Q3_K_M.gguf", "m-q8_0.gguf"]);
        assert_eq!(choose(&two, &Want::Any), gguf(&["m-q8_0.gguf"]));
        let one = files(&["m-F16.gguf"]);
        assert_eq!(choose(&one, &Want::Any), gguf(&["m-F16.gguf"]));
        let unusual = files(&["m-Q3_K_M.gguf", "m-Q5_K_M.gguf"]);
        assert_eq!(
            choose(&unusual, &Want::Any),
            Err(NoPlan::Ambiguous(unusual.clone()))
        );
        let twice = files(&["a-Q4_K_M.gguf", "b-Q4_K_M.gguf"]);
        assert_eq!(
            choose(&twice, &Want::Any),
            Err(NoPlan::Ambiguous(twice.clone()))
        );
    }

    #[test]
    fn tags_match_whole_words() {
        for (file, tag, expected) in [
            ("m-Q4_K_M.gguf", "Q4_K_M", true),
            ("m.q4_k_m.gguf", "Q4_K_M", true),
            ("m_Q4_K_M.gguf", "Q4_K_M", true),
            ("Q4_K_M.gguf", "Q4_K_M", true),
            ("m-UD-Q4_K_XL.gguf", "Q4_K_XL", true),
            ("m-Q4_K_M-00001-of-00002.gguf", "Q4_K_M", true),
            ("m-Q4_K_M.gguf", "Q4_K", false),
            ("m-IQ4_NL.gguf", "Q4_NL", false),
            ("m-Q4_0_4_4.gguf", "Q4_0", false),
            ("Q8_0/m-Q4_0.gguf", "Q8_0", false),
        ] {
            assert_eq!(has_tag(file, tag), expected, "{file} {tag}");
        }
    }

    #[test]
    fn split_files_are_one() {
        let all = files(&[
            "q/m-Q4_K_M-00002-of-00002.gguf",
            "q/m-Q4_K_M-00001-of-00002.gguf",
            "m-Q6_K-00001-of-00002.gguf",
        ]);
        let both = [
            "q/m-Q4_K_M-00001-of-00002.gguf",
            "q/m-Q4_K_M-00002-of-00002.gguf",
        ];
        assert_eq!(choose(&all, &Want::Any), gguf(&both));
        assert_eq!(choose(&all, &Want::File(both[1].into())), gguf(&both));
        assert!(matches!(
            choose(&all, &tag("Q6_K")),
            Err(NoPlan::Missing { .. })
        ));
    }

    #[test]
    fn numbers_that_are_no_parts_are_names() {
        for name in [
            "m-00001-of-00000.gguf",
            "m-00000-of-00000.gguf",
            "m-00000-of-00002.gguf",
            "m-00003-of-00002.gguf",
        ] {
            let all = files(&[name]);
            assert_eq!(choose(&all, &Want::Any), gguf(&[name]));
            assert_eq!(choose(&all, &Want::File(name.into())), gguf(&[name]));
        }
    }

    #[test]
    fn as_many_parts_as_there_can_be() {
        let all: Vec<String> = (1..=99_999)
            .map(|n| format!("m-{n:05}-of-99999.gguf"))
            .collect();
        // Comparing each with each would take minutes.
        assert_eq!(choose(&all, &Want::Any), Ok(Plan::Gguf(all.clone())));
    }

    #[test]
    fn what_cannot_be_run_is_described() {
        for (names, expected) in [
            (
                &["config.json", "pytorch_model.bin", "tf_model.h5"][..],
                "only PyTorch, TensorFlow",
            ),
            (
                &["adapter_config.json", "adapter_model.safetensors"],
                "adapter",
            ),
            (&["model_index.json", "unet/model.safetensors"], "diffusion"),
            (
                &["config.json", "weights.safetensors"],
                "weights.safetensors",
            ),
            (&["README.md"], "are no weights"),
            (&["model.safetensors"], "no config.json"),
            (
                &["config.json", "model.safetensors", "tokenizer.model"],
                "tokenizer.model",
            ),
        ] {
            match choose(&files(names), &Want::Any) {
                Err(NoPlan::Unsupported(why)) => assert!(why.contains(expected), "{why}"),
                other => panic!("{names:?}: {other:?}"),
            }
        }
        let plain = files(&["config.json", "model.safetensors", "tokenizer.json"]);
        let error = choose(&plain, &tag("Q8_0"));
        assert!(
            matches!(error, Err(NoPlan::Unsupported(why)) if why.contains("leave out the tag"))
        );
        let no_config = files(&["model.safetensors", "m-F16.gguf"]);
        assert_eq!(choose(&no_config, &Want::Any), gguf(&["m-F16.gguf"]));
        // A tag cannot be missing where there is no GGUF at all.
        assert!(matches!(
            choose(&files(&["pytorch_model.bin"]), &tag("Q8_0")),
            Err(NoPlan::Unsupported(_))
        ));
    }
}
