//! `rustml inspect`: what is in a model file.

use crate::summary::{About, Vocabulary};
use crate::text::{bytes, count, cut, table, Align};
use rustml_io::{Array, FileFormat, Store, TensorInfo, Value};
use rustml_model::arch::{Arch, ALL};
use rustml_nlp::cli::{examples, harmless, locate, print, Failure, SourceArgs};
use serde_json::{json, Map, Value as Json};
use std::path::Path;

/// Elements of a metadata array that JSON holds; longer ones are counted.
const LISTED: usize = 64;
/// Characters of a metadata value in a line of text.
const LONGEST: usize = 90;

/// Show what is in a model: metadata, shape, tensors, types
///
/// Reads the headers alone, and works also for models that cannot be run here,
/// saying why. In text, long metadata are cut. In JSON, metadata arrays of up
/// to 64 elements are complete, and longer ones are an object with their type
/// and length.
#[derive(clap::Args)]
#[command(
    mut_arg("model", |a| {
        let help = "A GGUF or safetensors file, a directory with a model, or a name on the hub";
        a.value_name("MODEL").help(help)
    }),
    after_help = examples(&[
        ("What is it, and does it run here?", "rustml inspect model.gguf"),
        ("All tensors, as a table", "rustml inspect model.gguf --tensors"),
        ("Which models run here?", "rustml inspect --architectures"),
        ("How many layers?", "rustml inspect model.gguf --json | jq .shape.layers"),
    ]),
)]
pub struct InspectArgs {
    #[command(flatten)]
    source: SourceArgs,

    /// List the architectures that run here, and the names files call them by
    #[arg(long, conflicts_with_all = ["model", "safetensors", "tensors"])]
    architectures: bool,

    /// Print one object
    #[arg(long)]
    json: bool,

    /// List every tensor, with its type, shape and bytes
    #[arg(long)]
    tensors: bool,
}

/// Runs the command.
pub fn run(args: &InspectArgs) -> Result<(), Failure> {
    if args.architectures {
        return print(&architectures(args.json));
    }
    let name = args.source.name();
    // A directory may hold something that no hub would take for a model.
    let store = match Path::new(name).is_dir() {
        true => Store::open(Path::new(name)).or_else(|e| match locate(name) {
            Ok(path) => Ok(Store::open(&path)?),
            Err(_) => Err(Failure::from(e)),
        })?,
        false => Store::open(&locate(name)?)?,
    };
    let about = About::of(&store);
    let text = match args.json {
        true => format!("{:#}\n", to_json(&store, &about, args.tensors)),
        false => to_text(&store, &about, args.tensors),
    };
    print(&text)
}

/// All architectures: what people know them by, and their names in files.
fn architectures(json: bool) -> String {
    if json {
        let one = |a: &&Arch| json!({"models": a.about, "gguf": a.gguf, "safetensors": a.hf});
        let all: Vec<Json> = ALL.iter().map(one).collect();
        return format!("{:#}\n", Json::from(all));
    }
    let head = ["MODELS", "IN GGUF", "IN CONFIG.JSON"];
    let mut rows = vec![head.map(String::from).to_vec()];
    let row = |a: &&Arch| vec![a.about.to_owned(), a.gguf.to_owned(), a.hf.join(", ")];
    rows.extend(ALL.iter().map(row));
    table(&rows, &[Align::Left; 3])
}

fn bits(bytes: u64, parameters: u64) -> f64 {
    match parameters {
        0 => 0.0,
        n => (bytes as f64 * 800.0 / n as f64).round() / 100.0,
    }
}

fn file_bytes(path: &Path) -> u64 {
    std::fs::metadata(path).map_or(0, |about| about.len())
}

fn to_text(store: &Store, about: &About, tensors: bool) -> String {
    let summary = store.summary();
    let files: Vec<_> = store.files().collect();
    let on_disk = files.iter().map(|f| file_bytes(f)).sum();
    let format = match store.format() {
        FileFormat::Gguf { version } => format!("GGUF version {version}"),
        FileFormat::Safetensors => "safetensors".to_owned(),
    };
    let format = match files.len() {
        1 => format!("{format}, {}", bytes(on_disk)),
        n => format!("{format}, {n} files, {}", bytes(on_disk)),
    };
    let architecture = about.architecture.as_deref();
    let runs = about
        .problem()
        .map_or("yes, as far as headers tell".into(), |why| {
            format!("no: {why}")
        });
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let mut rows = vec![
        row("format", format),
        row(
            "architecture",
            architecture.map_or("not said".into(), |name| cut(name, LONGEST)),
        ),
        row("runs here", harmless(&runs)),
        row(
            "parameters",
            format!(
                "{}, {} bits each",
                count(summary.parameters),
                bits(summary.bytes, summary.parameters)
            ),
        ),
    ];
    rows.extend(about.shape_rows());
    rows.push(row("tokenizer", tokenizer(&about.tokenizer)));
    let two = [Align::Left, Align::Left];
    let mut out = format!("{}\n", harmless(&store.path().to_string_lossy()));
    out += &table(&rows, &two);

    out += "\nTypes\n";
    let head = ["TYPE", "TENSORS", "PARAMETERS", "BYTES", "SHARE", ""];
    let mut rows = vec![head.map(String::from).to_vec()];
    for t in &summary.types {
        let share = 100.0 * t.bytes as f64 / summary.bytes.max(1) as f64;
        rows.push(vec![
            cut(&t.type_name, 24),
            count(t.tensors as u64),
            count(t.parameters),
            bytes(t.bytes),
            format!("{share:.1} %"),
            if t.supported { "" } else { "not supported" }.into(),
        ]);
    }
    let right = Align::Right;
    out += &table(
        &rows,
        &[Align::Left, right, right, right, right, Align::Left],
    );

    let rows: Vec<_> = metadata_text(store);
    if !rows.is_empty() {
        out += match store.format() {
            FileFormat::Gguf { .. } => "\nMetadata\n",
            FileFormat::Safetensors => "\nMetadata and configuration\n",
        };
        out += &table(&rows, &two);
    }
    if tensors {
        out += "\nTensors\n";
        let head = ["NAME", "TYPE", "SHAPE", "BYTES"];
        let mut rows = vec![head.map(String::from).to_vec()];
        rows.extend(store.tensors().iter().map(|t| {
            vec![
                cut(&t.name, LONGEST),
                cut(&t.type_name, 24),
                shape(t),
                count(t.bytes as u64),
            ]
        }));
        out += &table(&rows, &[Align::Left, Align::Left, right, right]);
    }
    out
}

fn shape(t: &TensorInfo) -> String {
    let sizes: Vec<_> = t.shape.iter().map(usize::to_string).collect();
    match sizes.is_empty() {
        true => "a number".into(),
        false => sizes.join(" x "),
    }
}

fn tokenizer(about: &Result<Vocabulary, String>) -> String {
    match about {
        Ok(v) => {
            let template = match v.chat_template {
                true => "with a chat template",
                false => "no chat template",
            };
            format!("{} tokens, {template}", v.tokens)
        }
        Err(e) => format!("none: {}", harmless(e)),
    }
}

fn metadata_text(store: &Store) -> Vec<Vec<String>> {
    let pairs = store.metadata().iter();
    let mut rows: Vec<_> = pairs
        .map(|(key, value)| vec![cut(key, LONGEST), cut(&value.to_string(), LONGEST)])
        .collect();
    if let Some(Json::Object(config)) = store.config() {
        let pairs = config.iter();
        rows.extend(
            pairs.map(|(key, value)| vec![cut(key, LONGEST), cut(&value.to_string(), LONGEST)]),
        );
    }
    rows
}

fn to_json(store: &Store, about: &About, tensors: bool) -> Json {
    let summary = store.summary();
    let (format, version) = match store.format() {
        FileFormat::Gguf { version } => ("gguf", Some(version)),
        FileFormat::Safetensors => ("safetensors", None),
    };
    let file = |path: &Path| json!({ "path": path.to_string_lossy(), "bytes": file_bytes(path) });
    let types = summary.types.iter().map(|t| {
        json!({
            "type": t.type_name,
            "supported": t.supported,
            "tensors": t.tensors,
            "parameters": t.parameters,
            "bytes": t.bytes,
        })
    });
    let tokenizer = match &about.tokenizer {
        Ok(v) => json!({
            "vocabulary": v.tokens,
            "bos": v.beginning,
            "ends": v.ends,
            "chat_template": v.chat_template,
        }),
        Err(e) => json!({ "problem": e }),
    };
    let metadata = store.metadata().iter();
    let metadata: Map<_, _> = metadata
        .map(|(key, value)| (key.to_owned(), value_json(value)))
        .collect();
    let problem = about.problem();
    let mut out = json!({
        "path": store.path().to_string_lossy(),
        "format": format,
        "version": version,
        "files": store.files().map(file).collect::<Vec<_>>(),
        "architecture": about.architecture,
        "runs_here": problem.is_none(),
        "problem": problem,
        "parameters": summary.parameters,
        "bytes": summary.bytes,
        "bits_per_parameter": bits(summary.bytes, summary.parameters),
        "types": types.collect::<Vec<_>>(),
        "shape": about.shape_json(),
        "tokenizer": tokenizer,
        "metadata": metadata,
        "config": store.config(),
        "tensor_count": summary.tensors,
    });
    if tensors {
        let tensor = |t: &TensorInfo| json!({ "name": t.name, "type": t.type_name, "shape": t.shape, "bytes": t.bytes });
        out["tensors"] = store.tensors().iter().map(tensor).collect();
    }
    out
}

fn value_json(value: &Value) -> Json {
    match value {
        Value::U8(v) => json!(v),
        Value::I8(v) => json!(v),
        Value::U16(v) => json!(v),
        Value::I16(v) => json!(v),
        Value::U32(v) => json!(v),
        Value::I32(v) => json!(v),
        Value::U64(v) => json!(v),
        Value::I64(v) => json!(v),
        Value::F32(v) => json!(v),
        Value::F64(v) => json!(v),
        Value::Bool(v) => json!(v),
        Value::String(v) => json!(v),
        Value::Array(v) => array_json(v),
    }
}

fn array_json(array: &Array) -> Json {
    if array.len() > LISTED {
        return json!({ "type": array.type_name(), "length": array.len() });
    }
    match array {
        Array::U8(v) => json!(v),
        Array::I8(v) => json!(v),
        Array::U16(v) => json!(v),
        Array::I16(v) => json!(v),
        Array::U32(v) => json!(v),
        Array::I32(v) => json!(v),
        Array::U64(v) => json!(v),
        Array::I64(v) => json!(v),
        Array::F32(v) => json!(v),
        Array::F64(v) => json!(v),
        Array::Bool(v) => json!(v),
        Array::String(v) => v.iter().collect(),
        Array::Nested(v) => v.iter().map(array_json).collect(),
    }
}
