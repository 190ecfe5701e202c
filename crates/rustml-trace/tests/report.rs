//! Reports of rounds made by hand: figures that can be checked in the head,
//! and the documents as they should look.
//!
//! `RUSTML_BLESS=1 cargo test -p rustml-trace` writes the golden files again;
//! what changed in them is to be read before it is committed.

mod rounds;

use rounds::*;
use rustml_trace::compare::Comparison;
use rustml_trace::document::Document;
use rustml_trace::render::{html, markdown, markdown_of_comparison};
use rustml_trace::round::*;
use rustml_trace::tables::{Of, Roof, Tables};
use rustml_trace::Op;
use serde_json::Value;
use std::path::Path;

#[test]
fn tables_say_what_can_be_counted_by_hand() {
    let mut r = round(1, 1.0);
    // Steps that are all alike.
    r.runs[0].decode = Phase::default();
    (0..5).for_each(|_| push(&mut r.runs[0], 1, 1.0));
    let t = Tables::of(&r);
    // 10 + 2 (20 + 200 + 60 + 300) + 400 + 10 + 20 microseconds.
    assert!(close(t.decode.ms, 1.6), "{}", t.decode.ms);
    assert!(close(t.timing.decode.median, 1.6) && t.timing.steps == 4);
    let parts = t.decode.parts.iter().map(|p| (p.name.as_str(), p.ms));
    let expected = [
        ("embedding", 0.01),
        ("layers", 1.16),
        ("norm", 0.0),
        ("projection", 0.4),
        ("sampling", 0.01),
        ("other", 0.02),
    ];
    assert!(parts
        .zip(expected)
        .all(|(a, b)| a.0 == b.0 && close(a.1, b.1)));
    let op = |op: Op| t.decode.ops.iter().find(|o| o.op == op).unwrap();
    // Query, key and value share a row: 4 MB in 0.4 ms, at 20 GB/s 0.2 ms.
    let qkv = op(Op::Qkv);
    assert!(close(qkv.ms, 0.4) && close(qkv.bytes, 4e6) && close(qkv.gb_per_second, 10.0));
    assert!(close(qkv.gop_per_second, 20.0) && close(qkv.waiting_ms, 0.04));
    let roof = qkv.roof.unwrap();
    assert_eq!(roof.which, Roof::Memory);
    assert!(close(roof.ms, 0.2) && close(roof.share, 0.5));
    assert_eq!(op(Op::AttnNorm).roof, None);
    assert!(close(t.layers[1].attention, 0.28) && close(t.layers[1].feed_forward, 0.3));
    // 14 MB of weights, and 40 KB of cache, and a row of the embedding.
    assert!(close(t.decode.bytes, 14_040_100.0));
    // A prompt of eight rows: 64 MB of operations bind it, not 4 MB of bytes.
    let t = t.prefill.ops.iter().find(|o| o.op == Op::Qkv).unwrap();
    assert_eq!(t.roof.unwrap().which, Roof::Integers);
    assert!(close(t.roof.unwrap().ms, 0.64));
}

#[test]
fn findings_are_ranked_by_what_they_could_bring() {
    let t = Tables::of(&round(2, 1.0));
    let decode: Vec<_> = t.findings.iter().filter(|f| f.of == Of::Decode).collect();
    let gains: Vec<f64> = decode.iter().map(|f| f.gain.unwrap_or(0.0)).collect();
    assert!(gains.is_sorted_by(|a, b| a >= b), "{gains:?}");
    let whats: Vec<&str> = t.findings.iter().map(|f| f.what.as_str()).collect();
    for what in [
        "lm_head",
        "weights of 8.5 bits",
        "the first step takes",
        "kernels for scalar on a CPU that has avx2",
        "4 threads share 3.5 CPUs of quota",
        "two threads share a core",
        "the cgroup's quota stopped the process 6 times",
        "most weights lie in small pages",
    ] {
        assert!(
            whats.iter().any(|w| w.starts_with(what)),
            "{what}: {whats:?}"
        );
    }
    // Half of the way to the roof, for what takes a quarter of the time.
    let head = decode.iter().find(|f| f.what == "lm_head").unwrap();
    let (share, gain) = (head.share.unwrap(), head.gain.unwrap());
    assert!((0.2..0.3).contains(&share) && (gain / share - 0.5).abs() < 0.05);
}

#[test]
fn advice_names_the_flag_that_applies() {
    // A long context: half of a step is reading keys and values.
    let mut long = round(1, 1.0);
    for run in &mut long.runs {
        let ops = run.decode.ops.iter_mut();
        ops.filter(|o| o.op.row() == Op::Attend)
            .for_each(|o| o.cost.bytes *= 400);
    }
    // 400 times 40 KB at 20 GB/s, of which 7.5 of 16 bits are saved.
    let t = Tables::of(&long);
    let (gain, text) = advice(&long, "keys and values of 16 bits").unwrap();
    assert!(
        close(gain.unwrap(), 0.8 / t.decode.ms * 7.5 / 16.0),
        "{gain:?}"
    );
    assert!(text.contains("--kv-type q8_0"));
    long.model.kv_type = "Q8_0".into();
    assert_eq!(advice(&long, "keys and values"), None);
    let mut shape = round(1, 1.0);
    assert!(!advice(&shape, "weights of 8.5").unwrap().1.contains("--"));
    shape.setup.synthetic = true;
    let (_, text) = advice(&shape, "weights of 8.5").unwrap();
    assert!(text.contains("--quantize q4_0"), "{text}");
    let (_, text) = advice(&shape, "two threads share a core").unwrap();
    assert!(text.starts_with("--threads 2"), "{text}");
    let (_, text) = advice(&shape, "4 threads share 3.5 CPUs").unwrap();
    assert!(text.starts_with("--threads 3"), "{text}");
}

#[test]
fn what_was_not_the_same_is_listed() {
    let (before, mut after) = (round(2, 1.0), round(2, 1.0));
    assert!(Comparison::of(&before, &after).settings.is_empty());
    after.setup.commit = Some("fedcba".into());
    after.machine.threads = 1;
    let c = Comparison::of(&before, &after);
    let whats: Vec<&str> = c.settings.iter().map(|s| s.what.as_str()).collect();
    assert_eq!(whats, ["program", "threads"]);
    let text = markdown_of_comparison(&c);
    assert!(text.contains("| threads      | 4 "), "{text}");
}

#[test]
fn rounds_are_compared() {
    let (before, after) = (round(5, 1.0), round(5, 1.2));
    let c = Comparison::of(&before, &after);
    assert!(c.unlike.is_empty());
    let total = &c.rows[0];
    let change = total.change.unwrap();
    assert!(
        (change.change - 0.2).abs() < 0.02 && change.real,
        "{change:?}"
    );
    assert!(!c.slower(0.05).is_empty() && c.slower(0.25).is_empty());
    let same = Comparison::of(&before, &before);
    assert!(same.rows.iter().all(|r| r.change.is_none_or(|c| !c.real)));
    assert!(same.slower(0.0).is_empty());
    let faster = Comparison::of(&after, &before);
    assert!(faster.slower(0.0).is_empty() && faster.rows[0].change.unwrap().real);
    let mut other = round(5, 1.0);
    (other.machine.cpu, other.model.layers) = ("Another".into(), 3);
    let unlike = Comparison::of(&before, &other).unlike.join("; ");
    assert!(unlike.contains("CPU: A CPU and Another") && unlike.contains("in 3 layers"));
    let text = markdown_of_comparison(&c);
    assert!(text.contains("| decode, total ") && text.contains("slower"));
}

fn golden(name: &str, text: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    if std::env::var_os("RUSTML_BLESS").is_some_and(|v| v == "1") {
        std::fs::write(&path, text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap();
    for (i, (a, b)) in text.lines().zip(expected.lines()).enumerate() {
        assert_eq!(
            a,
            b,
            "{name}, line {}; RUSTML_BLESS=1 writes it again",
            i + 1
        );
    }
    assert_eq!(text.lines().count(), expected.lines().count(), "{name}");
}

/// The document that the golden files show.
fn document() -> Document {
    Document::report(round_of(2, 11, 1.1), Some(&round_of(2, 11, 1.0)))
}

#[test]
fn markdown_as_it_should_look() {
    let text = markdown(&document());
    assert!(!text.contains('\u{1b}'), "a model's text steers nothing");
    golden("report.md", &text);
}

#[test]
fn json_as_it_should_look() {
    let json = document().to_json();
    let value: serde_json::Value = serde_json::from_str(&json).unwrap();
    golden("report.json", &format!("{value:#}\n"));
    // What is written is read; what follows from it, to the last bit but one.
    let read = Document::from_json(json.as_bytes()).unwrap();
    assert!(read.round == document().round && read.tables.is_some());
    let saved = Document::saved(round(2, 1.1));
    let read = Document::from_json(saved.to_json().as_bytes()).unwrap();
    let alone = Document::report(round(2, 1.1), None);
    assert_eq!(markdown(&read), markdown(&alone));
}

#[test]
fn html_is_one_file_that_is_well_formed() {
    let page = html(&document());
    for outside in [
        "<script", "src=", "href=", "url(", "@import", "\u{1b}", "NaN", "inf",
    ] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("prefers-color-scheme: dark") && page.contains("width=device-width"));
    assert!(page.contains("&lt;b&gt;a&lt;/b&gt;") && page.matches("<svg").count() == 5);
    // Every element that is opened is closed, in its order.
    let mut open: Vec<String> = Vec::new();
    for tag in page
        .split('<')
        .skip(1)
        .map(|t| t.split('>').next().unwrap())
    {
        let name = tag
            .trim_start_matches('/')
            .split([' ', '/'])
            .next()
            .unwrap();
        match tag {
            _ if ["!doctype", "meta"].contains(&name) || tag.ends_with('/') => {}
            _ if tag.starts_with('/') => assert_eq!(open.pop().as_deref(), Some(name)),
            _ => open.push(name.to_owned()),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    // Without any steps there is nothing to draw, and nothing to fail on.
    let empty = Document::report(
        Round {
            runs: vec![Run::default()],
            roofs: Roofs::default(),
            ..round(1, 1.0)
        },
        None,
    );
    assert!(!html(&empty).contains("NaN") && !markdown(&empty).contains("NaN"));
}

#[test]
fn bfloat16_has_a_roof_of_its_own() {
    let roofs = Roofs {
        read: vec![(2, 10e9)],
        int_ops: 100e9,
        flops: 50e9,
        bf16_ops: 90e9,
        ..Roofs::default()
    };
    let bound = |bytes, floats, bf16| roofs.bound(bytes, [floats, bf16, 0.0]);
    assert_eq!(bound(1e9, 0.0, 180e9), Some((Roof::Bf16, 2.0)));
    assert_eq!(bound(1e9, 50e9, 180e9), Some((Roof::Bf16, 3.0)));
    assert_eq!(bound(1e9, 150e9, 180e9), Some((Roof::Floats, 5.0)));
    assert_eq!(bound(40e9, 50e9, 180e9), Some((Roof::Memory, 4.0)));
}

#[test]
fn other_files_are_refused_in_a_sentence() {
    let good = document().to_json();
    let refusal = |text: &str| {
        Document::from_json(text.as_bytes())
            .unwrap_err()
            .to_string()
    };
    assert!(refusal("{").starts_with("it is no round"));
    assert!(refusal("{}").contains("no round") && refusal("[1]").contains("no round"));
    let newer = good.replacen("\"version\":1", "\"version\":2", 1);
    assert!(refusal(&newer).contains("version 2, but this rustml reads version 1"));
    let cut = good.replacen("\"cpu\"", "\"gpu\"", 1);
    assert!(refusal(&cut).contains("missing field `cpu`"));
    let mut uneven = document();
    uneven.round.runs[0].decode.total.pop();
    assert!(refusal(&uneven.to_json()).contains("not of one length"));
    let mut none = document();
    none.round.runs.clear();
    assert!(refusal(&none.to_json()).contains("not of one length"));
}

/// What a value breaks of a schema, as far as ours say: types, constants,
/// fields, items and references.
fn breaks(root: &Value, schema: &Value, value: &Value, at: &str) -> Option<String> {
    let no = |what: &str| Some(format!("{at}: {what} in {schema} for {value}"));
    if let Some(name) = schema["$ref"].as_str() {
        let name = name.strip_prefix("#/$defs/").unwrap();
        return breaks(root, &root["$defs"][name], value, at);
    }
    if let Some(any) = schema["anyOf"].as_array() {
        let fits = any.iter().any(|s| breaks(root, s, value, at).is_none());
        return if fits { None } else { no("none fits") };
    }
    if let Some(constant) = schema.get("const") {
        return if constant == value {
            None
        } else {
            no("another")
        };
    }
    if let Some(all) = schema["enum"].as_array() {
        return if all.contains(value) {
            None
        } else {
            no("unknown")
        };
    }
    match schema["type"].as_str() {
        Some("string") if value.is_string() => None,
        Some("number") if value.is_number() => None,
        Some("integer") if value.is_u64() => None,
        Some("boolean") if value.is_boolean() => None,
        Some("null") if value.is_null() => None,
        Some("array") => {
            let items = value.as_array()?.iter().enumerate();
            let first = schema["prefixItems"].as_array();
            items.into_iter().find_map(|(i, item)| {
                let schema = first.map_or(&schema["items"], |all| &all[i]);
                breaks(root, schema, item, &format!("{at}[{i}]"))
            })
        }
        Some("object") => {
            let (Some(fields), Some(known)) = (value.as_object(), schema["properties"].as_object())
            else {
                return no("no object");
            };
            let needed = schema["required"].as_array().unwrap().iter();
            if let Some(missing) = needed
                .into_iter()
                .find(|n| !fields.contains_key(n.as_str().unwrap()))
            {
                return no(&format!("without {missing}"));
            }
            fields
                .iter()
                .find_map(|(name, value)| match known.get(name) {
                    Some(schema) => breaks(root, schema, value, &format!("{at}.{name}")),
                    None => no(&format!("{name} is unknown")),
                })
        }
        _ => no("another type"),
    }
}

#[test]
fn documents_are_as_the_schema_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/report.schema.json");
    let schema: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let mut other = round_of(2, 11, 1.0);
    other.setup.kv_type = Some("q8_0".into());
    other.setup.date = "2025-01-02T03:04:05Z".into();
    let full = Document::report(round_of(2, 11, 1.1), Some(&other));
    let mut value = serde_json::to_value(full).unwrap();
    assert_eq!(breaks(&schema, &schema, &value, "report"), None);
    let saved = serde_json::to_value(Document::saved(round(1, 1.0))).unwrap();
    assert_eq!(breaks(&schema, &schema, &saved, "round"), None);
    // It would notice.
    value["round"]["runs"][1]["decode"]["ops"][0]["op"] = "no such".into();
    let broken = breaks(&schema, &schema, &value, "report").unwrap();
    assert!(
        broken.starts_with("report.round.runs[1].decode.ops[0].op: unknown"),
        "{broken}"
    );
}
