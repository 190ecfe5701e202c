//! Checkpoints that are quantised in safetensors (`testdata/quantised`), against the same
//! weights in single precision.

mod common;

use common::{distance, repo, team, Runner};
use rustml_io::{DType, Store};
use rustml_model::{KvType, Model, Quantize};
use rustml_simd::Isa;
use serde_json::{json, Value};
use std::path::Path;
use tempfile::TempDir;

/// A tensor of any type.
#[derive(Clone)]
struct Piece {
    name: String,
    dtype: String,
    shape: Vec<usize>,
    data: Vec<u8>,
}

/// The tensors of a safetensors file and its metadata.
fn pieces(path: &Path) -> (Vec<Piece>, Value) {
    let bytes = std::fs::read(path).unwrap();
    let len = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Value = serde_json::from_slice(&bytes[8..8 + len]).unwrap();
    let data = &bytes[8 + len..];
    let all = header.as_object().unwrap().iter();
    let tensors = all.filter(|(name, _)| *name != "__metadata__");
    let number = |v: &Value| v.as_u64().unwrap() as usize;
    let tensors = tensors.map(|(name, t)| Piece {
        name: name.clone(),
        dtype: t["dtype"].as_str().unwrap().into(),
        shape: t["shape"].as_array().unwrap().iter().map(number).collect(),
        data: data[number(&t["data_offsets"][0])..number(&t["data_offsets"][1])].to_vec(),
    });
    (tensors.collect(), header["__metadata__"].clone())
}

/// A model of these tensors.
fn write(pieces: &[Piece], config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let (mut header, mut data) = (serde_json::Map::new(), Vec::<u8>::new());
    for p in pieces {
        let offsets = [data.len(), data.len() + p.data.len()];
        let about = json!({ "dtype": p.dtype, "shape": p.shape, "data_offsets": offsets });
        header.insert(p.name.clone(), about);
        data.extend(&p.data);
    }
    let header = Value::Object(header).to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    std::fs::write(folder.path().join("model.safetensors"), bytes).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// A checkpoint, and the same weights as they are by its definition.
struct Pair {
    quantised: Vec<Piece>,
    plain: Vec<Piece>,
    config: Value,
    key: String,
    settings: Value,
}

impl Pair {
    fn of(method: &str) -> Pair {
        let folder = repo("testdata/quantised");
        let (own, about) = pieces(&folder.join(format!("{method}.safetensors")));
        let json = |text: &Value| serde_json::from_str(text.as_str().unwrap()).unwrap();
        let (base, config) = match about.get("config") {
            Some(config) => (Vec::new(), json(config)),
            None => {
                let config = std::fs::read(folder.join("config.json")).unwrap();
                let config = serde_json::from_slice(&config).unwrap();
                (pieces(&folder.join("base.safetensors")).0, config)
            }
        };
        let expected = |p: &Piece| p.name.strip_prefix("expected.").map(str::to_owned);
        let replaced: Vec<String> = own.iter().filter_map(expected).collect();
        let is_part = |p: &Piece| {
            replaced.iter().any(|r| {
                let rest = p.name.strip_prefix(r.as_str()).unwrap_or("_bias");
                rest != "_bias"
            })
        };
        let mut rest = base;
        rest.retain(|p| !is_part(p));
        let shared = own.iter().filter(|p| expected(p).is_none() && !is_part(p));
        rest.extend(shared.cloned());
        let (mut quantised, mut plain) = (rest.clone(), rest);
        quantised.extend(own.iter().filter(|p| is_part(p)).cloned());
        plain.extend(own.iter().filter_map(|p| {
            let suffix = if p.shape.len() == 3 { "" } else { ".weight" };
            let name = expected(p)? + suffix;
            Some(Piece { name, ..p.clone() })
        }));
        Pair {
            quantised,
            plain,
            config,
            key: about["key"]
                .as_str()
                .unwrap_or("quantization_config")
                .into(),
            settings: json(&about["settings"]),
        }
    }

    fn write(&self) -> TempDir {
        let mut config = self.config.clone();
        config[&self.key] = self.settings.clone();
        write(&self.quantised, &config)
    }

    fn piece(&mut self, name: &str) -> &mut Piece {
        let found = self.quantised.iter_mut().find(|p| p.name.ends_with(name));
        found.unwrap_or_else(|| panic!("no tensor {name}"))
    }

    #[track_caller]
    fn refused(&self, expected: &str) {
        let folder = self.write();
        let store = Store::open(folder.path()).unwrap();
        let team = team(Isa::best(), 2);
        let loaded = Model::load(&store, Quantize::None, team, &mut |_, _| {});
        let message = loaded.err().expect("it was loaded").to_string();
        assert!(message.contains(expected), "{message}");
        assert_eq!(message.lines().count(), 1, "{message}");
    }
}

fn open(folder: &TempDir, quantize: Quantize) -> Runner {
    Runner::with_team(folder.path(), quantize, KvType::F32, team(Isa::best(), 2))
}

/// Formats, and whether they hold the numbers exactly.
type Formats = &'static [(DType, bool)];

/// What is read, the formats it is put into, and whether these hold the same numbers.
const METHODS: &[(&str, &str, Formats)] = &[
    ("fp8", "FP8", &[(DType::Q8_0, false)]),
    ("fp8-tensor", "FP8", &[(DType::Q8_0, false)]),
    ("mxfp4", "MXFP4", &[(DType::MXFP4, true)]),
    ("gptq", "GPTQ", &[(DType::Q4_0, true), (DType::Q5_0, true)]),
    ("gptq-sorted", "GPTQ", &[(DType::Q8_0, false)]),
    ("gptq-3", "GPTQ", &[(DType::Q4_0, true)]),
    ("awq", "AWQ", &[(DType::Q5_0, true)]),
    (
        "packed",
        "packed integers",
        &[(DType::Q4_0, true), (DType::Q5_0, true)],
    ),
    ("int8", "bytes", &[(DType::Q8_0, true)]),
    ("mlx", "MLX", &[(DType::Q4_1, true), (DType::Q8_0, false)]),
    ("nf4", "bitsandbytes", &[(DType::Q8_0, false)]),
];

#[test]
fn weights_are_those_of_the_checkpoint() {
    for &(method, name, formats) in METHODS {
        let pair = Pair::of(method);
        let mut ours = open(&pair.write(), Quantize::None);
        let mut plain = open(&write(&pair.plain, &pair.config), Quantize::None);
        let recoded = &ours.model.report().recoded;
        let found: Vec<_> = recoded.iter().map(|r| (r.to, r.error() == 0.0)).collect();
        assert_eq!(found, formats, "{method}");
        assert!(
            recoded.iter().all(|r| r.from == name && r.error() < 0.006),
            "{recoded:?}"
        );
        let all_exact = formats.iter().all(|f| f.1);
        let pairs = ours
            .model
            .weights()
            .matrices()
            .zip(plain.model.weights().matrices());
        for (i, (a, b)) in pairs.enumerate() {
            assert_eq!((a.rows(), a.cols()), (b.rows(), b.cols()), "{method}");
            let exact = all_exact || !formats.contains(&(a.dtype(), false));
            for row in 0..a.rows() {
                let mut values = [vec![0.0; a.cols()], vec![0.0; a.cols()]];
                a.decode_row(row, &mut values[0]);
                b.decode_row(row, &mut values[1]);
                let peak = values[1].iter().fold(0f32, |p, v| p.max(v.abs()));
                // Half a step, and the scale's own rounding.
                let rounded = peak * (1.0 / 254.0 + 1.0 / 2048.0);
                let allowed = if exact { 0.0 } else { rounded };
                let off = distance(&values[0], &values[1]);
                assert!(off <= allowed, "{method}, matrix {i}, row {row}: {off} off");
            }
        }
        let text: Vec<u32> = (0..24).map(|i| i * 7 % 32).collect();
        let (ours, plain) = (ours.logits(&text, 256), plain.logits(&text, 256));
        let square = |x: &[f32]| x.iter().map(|v| v * v).sum::<f32>();
        let off: Vec<f32> = ours.iter().zip(&plain).map(|(a, b)| a - b).collect();
        let off = (square(&off) / square(&plain)).sqrt();
        println!("{method}: logits {off:.1e} off");
        // Activations are rounded to 8 bits where weights are in blocks.
        assert!(off < 0.02, "{method}: {off}");
    }
}

/// What is rounded anyway is put into the format that was asked for.
#[test]
fn a_format_can_be_asked_for() {
    for (method, to, kept) in [
        ("fp8", DType::BF16, DType::BF16),
        ("nf4", DType::Q4_0, DType::Q4_0),
        ("int8", DType::Q4_0, DType::Q8_0),
    ] {
        let runner = open(&Pair::of(method).write(), Quantize::To(to));
        let recoded = &runner.model.report().recoded;
        assert!(
            recoded.iter().all(|r| r.to == kept),
            "{method}: {recoded:?}"
        );
    }
}

#[test]
fn damaged_parts_are_refused() {
    let k = "layers.0.self_attn.k_proj";
    // A scale that is no number.
    for (method, name, nan) in [
        ("fp8", ".weight_scale_inv", &[0, 0, 0xc0, 0x7f][..]),
        ("gptq", ".scales", &[0, 0x7e]),
        ("awq", ".scales", &[0, 0x7c]),
        ("packed", ".weight_scale", &[0xc0, 0x7f]),
        ("mlx", ".biases", &[0xc0, 0x7f]),
        ("mxfp4", "gate_up_proj_scales", &[255]),
        ("fp8", "k_proj.weight", &[0x7f]),
    ] {
        let mut pair = Pair::of(method);
        let piece = pair.piece(name);
        piece.data[..nan.len()].copy_from_slice(nan);
        let whole = piece.name.clone();
        pair.refused(&whole);
    }
    // Too few, and none.
    for (method, name) in [
        ("fp8", "k_proj.weight_scale_inv"),
        ("gptq", "k_proj.scales"),
        ("gptq", "k_proj.qzeros"),
        ("awq", "k_proj.qweight"),
        ("packed", "k_proj.weight_scale"),
        ("int8", "k_proj.weight_scale"),
        ("mlx", "k_proj.scales"),
        ("mxfp4", "down_proj_scales"),
        ("nf4", "k_proj.weight.absmax"),
    ] {
        let mut pair = Pair::of(method);
        let piece = pair.piece(name);
        let each = piece.data.len() / piece.shape[0];
        piece.shape[0] -= 1;
        piece.data.truncate(piece.data.len() - each);
        let whole = piece.name.clone();
        pair.refused(&whole);
        pair.quantised.retain(|p| p.name != whole);
        // Without codes, the layer is not there at all.
        pair.refused(name.strip_suffix(".qweight").unwrap_or(name));
    }
    let mut pair = Pair::of("gptq-sorted");
    let piece = pair.piece("k_proj.g_idx");
    piece.data[8..12].copy_from_slice(&2i32.to_le_bytes());
    pair.refused(&format!(
        "{k}.g_idx` says that column 2 is of group 2, but there are 2"
    ));
    // A bias that is one, in a model without.
    let mut pair = Pair::of("gptq");
    pair.piece("k_proj.bias").data[1] = 0x3c;
    pair.refused("k_proj.bias");
}
