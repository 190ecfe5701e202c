//! Damaged models by the thousand: loading them gives a model or an error,
//! never a panic or an allocation out of proportion; and what loads, runs.

mod common;

use common::{repo, team, tiny, Copy};
use proptest::prelude::*;
use proptest::sample::{select, Index};
use proptest::test_runner::{Config as Runs, TestCaseError, TestRunner};
use rustml_io::{DType, Metadata, Store, Value as Meta};
use rustml_kernels::par::Team;
use rustml_model::{Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Output, Quantize};
use rustml_simd::Isa;
use rustml_trace::{Detail, Recorder};
use serde_json::{json, Value};
use std::alloc::{GlobalAlloc, Layout, System};
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, LazyLock};

/// Notes the largest allocation.
struct Watch;

static LARGEST: AtomicUsize = AtomicUsize::new(0);

// SAFETY: hands everything on to the system's allocator.
unsafe impl GlobalAlloc for Watch {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LARGEST.fetch_max(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(ptr, layout) }
    }
    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LARGEST.fetch_max(size, Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static WATCH: Watch = Watch;

/// The largest model here is a quarter of this.
const MAX_ALLOCATION: usize = 2 << 20;

static TEAM: LazyLock<Arc<Team>> = LazyLock::new(|| team(Isa::best(), 1));

/// Loads the model and, if that goes well, runs two steps. Errors must be a
/// line that says something.
fn try_out(
    store: rustml_io::Result<Store>,
    quantize: Quantize,
) -> Result<Option<Vec<f32>>, TestCaseError> {
    let load = |store: Store| Model::load(&store, quantize, TEAM.clone(), &mut |_, _| {});
    let model = match store.map_err(|e| e.to_string()) {
        Ok(store) => load(store).map_err(|e| e.to_string()),
        Err(e) => Err(e),
    };
    let logits = match model {
        Ok(model) => Some(run(&model)),
        Err(message) => {
            prop_assert!(message.len() > 20 && !message.contains('\n'), "{message}");
            None
        }
    };
    let largest = LARGEST.load(Relaxed);
    prop_assert!(
        largest < MAX_ALLOCATION,
        "{largest} bytes were asked for at once"
    );
    Ok(logits)
}

/// Three tokens, then one more.
fn run(model: &Model) -> Vec<f32> {
    let mut kv = KvPool::new(model.spec(), 64, KvType::F16).unwrap();
    let (rows, logit_rows) = (3, 1);
    let capacity = Capacity { rows, logit_rows };
    let mut exec = Exec::new(model, capacity, Recorder::new(Detail::Off));
    let last = model.spec().vocab as u32 - 1;
    let mut sequence = KvSequence::default();
    let mut out = Vec::new();
    for ids in [&[0, last, last / 2][..], &[last / 3]] {
        assert!(kv.reserve(&mut sequence, ids.len()));
        let mut batch = Batch::default();
        batch.push(&sequence, ids, 0, Output::Logits(1));
        let outputs = model.forward(&batch, &mut kv, &mut exec);
        out.extend(outputs.logits().flatten());
        sequence.advance(ids.len());
    }
    out
}

/// What a number, a name or a list may become.
fn json_value() -> impl Strategy<Value = Value> {
    let numbers = [
        0u64,
        1,
        2,
        3,
        4,
        8,
        32,
        33,
        64,
        512,
        513,
        4096,
        1 << 31,
        1 << 32,
        u64::MAX,
    ];
    prop_oneof![
        4 => select(numbers.to_vec()).prop_map(Value::from),
        2 => any::<f64>().prop_map(Value::from),
        2 => select(vec![0.0, -0.0, 1.0, -1.0, 0.5, 1e-40, 1e38, 1e300]).prop_map(Value::from),
        1 => any::<i64>().prop_map(Value::from),
        1 => any::<bool>().prop_map(Value::from),
        1 => Just(Value::Null),
        2 => select(vec![
            json!("silu"), json!("relu"), json!("gelu_new"), json!("linear"), json!("default"),
            json!("llama3"), json!("x"), json!(["LlamaForCausalLM"]), json!(["GPT2LMHeadModel"]),
            json!(["Gemma3ForCausalLM"]), json!([]), json!({}), json!({"factor": 2.0}),
            json!(vec!["full_attention"; 7]), json!(vec!["sliding_attention"; 7]),
            json!({"rope_type": "linear", "factor": 3.0}),
        ]),
    ]
}

/// A setting: one of the file's (nested ones too), or one it does not have.
fn pick(config: &Value, index: Index) -> Vec<String> {
    let absent = [
        "n_inner",
        "head_dim",
        "rope_scaling",
        "rope_theta",
        "text_config",
        "attention_bias",
        "sliding_window_pattern",
        "rope_local_base_freq",
        "attn_logit_softcapping",
    ];
    let mut paths: Vec<Vec<String>> = absent.iter().map(|k| vec![k.to_string()]).collect();
    fn collect(at: &Value, path: &mut Vec<String>, paths: &mut Vec<Vec<String>>) {
        for (key, value) in at.as_object().into_iter().flatten() {
            path.push(key.clone());
            paths.push(path.clone());
            collect(value, path, paths);
            path.pop();
        }
    }
    collect(config, &mut Vec::new(), &mut paths);
    index.get(&paths).clone()
}

fn set(config: &mut Value, path: &[String], value: Option<Value>) {
    let (last, parents) = path.split_last().unwrap();
    let mut at = config;
    for key in parents {
        match at.get_mut(key) {
            Some(inner) => at = inner,
            None => return,
        }
    }
    let Some(object) = at.as_object_mut() else {
        return;
    };
    match value {
        Some(value) => drop(object.insert(last.clone(), value)),
        None => drop(object.shift_remove(last)),
    }
}

fn quantize() -> impl Strategy<Value = Quantize> {
    let to = [DType::Q8_0, DType::Q4_0, DType::F16, DType::BF16].map(Quantize::To);
    prop_oneof![3 => Just(Quantize::None), 1 => select(to.to_vec())]
}

const CONFIGS: [(&str, &str); 9] = [
    ("gpt2", "config.json"),
    ("llama", "config.json"),
    ("llama", "config.v4.json"),
    ("llama-tied", "config.v4.json"),
    ("gemma3", "config.json"),
    ("gemma3", "config.v4.json"),
    ("gpt2-hub", "config.json"),
    ("qwen2", "config.v4.json"),
    ("qwen3", "config.json"),
];

#[test]
fn settings_in_json() {
    // The weights stay; only config.json is written for every case.
    let directories = CONFIGS.map(|(model, file)| {
        let config: Value =
            serde_json::from_slice(&std::fs::read(tiny(model).join(file)).unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        let name = "model.safetensors";
        std::fs::copy(tiny(model).join(name), directory.path().join(name)).unwrap();
        (config, directory)
    });
    let change = (any::<Index>(), prop::option::weighted(0.8, json_value()));
    let changes = prop::collection::vec(change, 1..4);
    let case = (0..CONFIGS.len(), changes, quantize());
    let tried = TestRunner::new(runs(1200)).run(&case, |(which, changes, quantize)| {
        let (config, directory) = &directories[which];
        let mut config = config.clone();
        for (index, value) in changes {
            let path = pick(&config, index);
            set(&mut config, &path, value);
        }
        let path = directory.path().join("config.json");
        std::fs::write(path, config.to_string()).unwrap();
        try_out(Store::open(directory.path()), quantize).map(drop)
    });
    tried.unwrap_or_else(|e| panic!("{e}"));
}

const GGUFS: [&str; 6] = ["gpt2", "llama", "llama-tied", "gemma3", "qwen2", "qwen3"];

fn runs(cases: u32) -> Runs {
    Runs {
        failure_persistence: None,
        ..Runs::with_cases(cases)
    }
}

proptest! {
    #![proptest_config(runs(2000))]

    #[test]
    fn metadata_in_gguf(
        model in select(&GGUFS[..]),
        changes in prop::collection::vec((any::<Index>(), prop::option::weighted(0.8, meta_value())), 1..4),
        quantize in quantize(),
    ) {
        let mut copy = Copy::of(&format!("{model}/model.gguf"));
        let arch = model.split('-').next().unwrap();
        for (index, value) in changes {
            let mut keys: Vec<String> = copy.metadata.iter().map(|(k, _)| k.to_owned())
                .filter(|k| !k.starts_with("tokenizer.")).collect();
            let absent = ["attention.scale", "attention.sliding_window_pattern", "rope.dimension_count",
                "rope.scaling.type", "rope.scaling.factor", "attn_logit_softcapping", "expert_count"];
            keys.extend(absent.map(|k| format!("{arch}.{k}")));
            let key = index.get(&keys);
            let mut changed = Metadata::new();
            for (k, v) in copy.metadata.iter().filter(|(k, _)| k != key) {
                changed.insert(k, v.clone());
            }
            if let Some(value) = value {
                changed.insert(key, value);
            }
            copy.metadata = changed;
        }
        // An alignment that is none makes no file.
        let alignment = copy.metadata.u32("general.alignment");
        prop_assume!(matches!(alignment, Ok(None)));
        try_out(Store::from_bytes(Path::new("mutated.gguf"), copy.gguf()), quantize)?;
    }

    #[test]
    fn bytes_of_headers(
        path in select(vec!["gpt2/model.gguf", "llama/model.gguf", "gemma3/model.gguf",
            "gpt2/model.safetensors", "llama/model.safetensors", "gemma3/model.safetensors"]),
        flips in prop::collection::vec((any::<Index>(), any::<u8>()), 1..6),
        cut in prop::option::weighted(0.1, any::<Index>()),
    ) {
        let mut bytes = std::fs::read(tiny(path)).unwrap();
        let data = bytes.len() - data_len(path);
        for (at, value) in flips {
            bytes[at.index(data)] = value;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        if path.ends_with("gguf") {
            try_out(Store::from_bytes(Path::new("mutated.gguf"), bytes), Quantize::None)?;
        } else {
            let directory = tempfile::tempdir().unwrap();
            std::fs::write(directory.path().join("model.safetensors"), bytes).unwrap();
            let config = tiny(path).with_file_name("config.json");
            std::fs::copy(config, directory.path().join("config.json")).unwrap();
            try_out(Store::open(directory.path()), Quantize::None)?;
        }
    }
}

/// Bytes of the tensors.
fn data_len(path: &str) -> usize {
    let store = Store::open(&tiny(path)).unwrap();
    store.tensors().iter().map(|t| t.bytes).sum()
}

fn meta_value() -> impl Strategy<Value = Meta> {
    let numbers = [
        0u32,
        1,
        2,
        3,
        4,
        8,
        32,
        33,
        64,
        512,
        513,
        4096,
        1 << 31,
        u32::MAX,
    ];
    prop_oneof![
        4 => select(numbers.to_vec()).prop_map(Meta::from),
        2 => any::<f32>().prop_map(Meta::from),
        2 => select(vec![0.0f32, 1.0, -1.0, 0.5, 1e-40, 1e38, f32::NAN, f32::INFINITY])
            .prop_map(Meta::from),
        1 => any::<i64>().prop_map(Meta::from),
        1 => any::<u64>().prop_map(Meta::from),
        1 => any::<bool>().prop_map(Meta::from),
        1 => select(vec!["llama", "gpt2", "gemma3", "linear", "none", "yarn", ""])
            .prop_map(Meta::from),
        1 => prop::collection::vec(any::<bool>(), 0..9).prop_map(Meta::from),
    ]
}

proptest! {
    #![proptest_config(runs(1000))]

    /// Weights of any value: the logits may be anything, too.
    #[test]
    fn weights(
        model in select(&GGUFS[..]),
        tensor in any::<Index>(),
        places in prop::collection::vec((any::<Index>(), special()), 1..20),
        quantize in quantize(),
    ) {
        let mut copy = Copy::of(&format!("{model}/model.gguf"));
        let i = tensor.index(copy.tensors.len());
        prop_assume!(copy.tensors[i].name != "rope_freqs.weight");
        let data = &mut copy.tensors[i].data;
        for (at, value) in places {
            let at = at.index(data.len() / 4) * 4;
            data[at..at + 4].copy_from_slice(&value.to_le_bytes());
        }
        let store = Store::from_bytes(Path::new("mutated.gguf"), copy.gguf());
        let logits = try_out(store, quantize)?;
        prop_assert!(logits.is_some(), "weights are no reason for a refusal");
    }
}

fn special() -> impl Strategy<Value = f32> {
    prop_oneof![
        select(vec![
            f32::NAN,
            f32::INFINITY,
            f32::NEG_INFINITY,
            0.0,
            -0.0,
            f32::MAX,
            f32::MIN
        ]),
        any::<f32>(),
    ]
}

/// The generators reach models that load, not only ones that are refused.
#[test]
fn untouched_models_run() {
    for (model, _) in CONFIGS {
        let logits = try_out(Store::open(&tiny(model)), Quantize::None).unwrap();
        assert!(logits.unwrap().iter().all(|x| x.is_finite()));
    }
    assert!(repo("testdata").exists());
}
