//! The tiny models (`testdata/tiny`) against PyTorch, and against themselves:
//! how a text is cut into steps, with whom it shares them and how many threads
//! there are must not change a bit.

mod common;

use common::{distance, same_bits, team, tiny, Copy, Reference, Runner};
use rustml_io::DType;
use rustml_model::{Batch, KvSequence, KvType, Output, Quantize};
use rustml_simd::Isa;

/// What to open, and whose reference it has.
const ALL: [(&str, &str); 14] = [
    ("gpt2", "gpt2"),
    ("gpt2/model.gguf", "gpt2"),
    ("gpt2-hub", "gpt2"),
    ("llama", "llama"),
    ("llama/model.gguf", "llama"),
    ("llama-sharded", "llama-sharded"),
    ("llama-tied", "llama-tied"),
    ("llama-tied/model.gguf", "llama-tied"),
    ("gemma3", "gemma3"),
    ("gemma3/model.gguf", "gemma3"),
    ("qwen2", "qwen2"),
    ("qwen2/model.gguf", "qwen2"),
    ("qwen3", "qwen3"),
    ("qwen3/model.gguf", "qwen3"),
];

/// One of each architecture.
const EACH: [&str; 5] = ["gpt2", "llama", "gemma3", "qwen2", "qwen3"];

/// How far logits may be off: what another order of summation costs, and what
/// rounding activations does where weights in bfloat16 meet them. That leaves 8
/// bits of 24, so no more than 2^16 as much error comes of it.
fn tolerance(runner: &Runner, reference: &Reference) -> f32 {
    let mut matrices = runner.model.weights().matrices();
    match matrices.any(|m| m.dtype() == DType::BF16) {
        true => 65536.0 * reference.error,
        false => reference.tolerance(),
    }
}

fn open(path: &str, kv_type: KvType, isa: Isa, threads: usize) -> Runner {
    Runner::with_team(&tiny(path), Quantize::None, kv_type, team(isa, threads))
}

/// A text that is long enough for several cache blocks and for operations on
/// rows to be shared among threads.
fn long_text(runner: &Runner, reference: &Reference) -> Vec<u32> {
    let len = runner.model.spec().context.min(230);
    let all = reference.tokens.iter().chain(&reference.greedy);
    all.cycle().copied().take(len).collect()
}

#[track_caller]
fn check(runner: &mut Runner, reference: &Reference, tolerance: f32, what: &str) -> f32 {
    let vocab = runner.model.spec().vocab;
    let logits = runner.logits(&reference.tokens, usize::MAX);
    let mut worst = distance(&logits, &reference.logits);
    assert!(
        worst <= tolerance,
        "{what}: {worst} off, {tolerance} allowed"
    );
    let steps = runner.greedy(&reference.tokens, reference.greedy.len());
    let theirs = reference.greedy_logits.chunks_exact(vocab);
    for (i, ((id, logits), (their_id, theirs))) in steps
        .iter()
        .zip(reference.greedy.iter().zip(theirs))
        .enumerate()
    {
        let off = distance(logits, theirs);
        worst = worst.max(off);
        assert!(
            off <= tolerance,
            "{what}, token {i}: {off} off, {tolerance} allowed"
        );
        if id != their_id {
            // Only where the error could turn the order of the two around; what
            // follows is then another text.
            let ahead = theirs[*their_id as usize] - theirs[*id as usize];
            assert!(
                ahead <= 2.0 * off,
                "{what}, token {i}: {id} in place of {their_id}, {ahead} ahead of it, {off} off"
            );
            break;
        }
    }
    worst
}

#[test]
fn logits_and_greedy_tokens_are_those_of_pytorch() {
    for (path, reference) in ALL {
        let reference = Reference::of(reference);
        let mut runner = open(path, KvType::F32, Isa::best(), 2);
        let tolerance = tolerance(&runner, &reference);
        let off = check(&mut runner, &reference, tolerance, path);
        println!(
            "{path}: {off:.1e} off, the reference {:.1e}",
            reference.error
        );
    }
}

#[test]
fn every_instruction_set_computes_them() {
    for isa in Isa::available() {
        for path in EACH {
            let reference = Reference::of(path);
            let mut runner = open(path, KvType::F32, isa, 2);
            let what = format!("{path} on {}", isa.name());
            check(&mut runner, &reference, reference.tolerance(), &what);
        }
    }
}

#[test]
fn smaller_caches_cost_what_their_rounding_does() {
    // Two of the many operands are rounded to 11 bits in place of 24, or by no
    // more than the 254th part, 2^-8, of the largest value beside them in place
    // of 2^-24; so no more than 2^13 or 2^16 as much error comes of it.
    for (kv_type, times) in [(KvType::F16, 8192.0), (KvType::Q8_0, 65536.0)] {
        // Where weights in bfloat16 round activations, this is not to be seen.
        for (path, reference) in ALL.into_iter().filter(|a| a.0 != "llama-sharded") {
            let reference = Reference::of(reference);
            let mut runner = open(path, kv_type, Isa::best(), 2);
            let tolerance = reference.error * times;
            let what = format!("{path} {kv_type}");
            let off = check(&mut runner, &reference, tolerance, &what);
            println!("{what}: {off:.1e} off, {tolerance:.1e} allowed");
            assert!(off > reference.tolerance(), "{what}: nothing was rounded");
        }
    }
}

#[test]
fn chunks_make_no_difference() {
    let types = [
        Quantize::None,
        Quantize::To(DType::Q8_0),
        Quantize::To(DType::Q4_0),
    ];
    for path in EACH {
        for (quantize, kv_type) in [KvType::F32, KvType::F16, KvType::Q8_0]
            .into_iter()
            .flat_map(|k| types.map(|q| (q, k)))
        {
            let team = team(Isa::best(), 2);
            let mut runner = Runner::with_team(&tiny(path), quantize, kv_type, team);
            let text = long_text(&runner, &Reference::of(path));
            let whole = runner.logits(&text, usize::MAX);
            for chunk in [1, 3, 7, 64, 65] {
                let chunks = runner.logits(&text, chunk);
                let what = format!("{path} {quantize} {kv_type:?} in chunks of {chunk}");
                same_bits(&whole, &chunks, &what);
            }
        }
    }
}

#[test]
fn threads_make_no_difference() {
    for path in EACH {
        let mut one = open(path, KvType::F32, Isa::best(), 1);
        let text = long_text(&one, &Reference::of(path));
        let expected = one.logits(&text, 100);
        for threads in [2, 3] {
            let mut more = open(path, KvType::F32, Isa::best(), threads);
            let logits = more.logits(&text, 100);
            same_bits(
                &expected,
                &logits,
                &format!("{path} with {threads} threads"),
            );
        }
    }
}

#[test]
fn company_makes_no_difference() {
    for (path, quantize) in EACH
        .iter()
        .flat_map(|p| [(p, Quantize::None), (p, Quantize::To(DType::Q8_0))])
    {
        let mut runner =
            Runner::with_team(&tiny(path), quantize, KvType::F32, team(Isa::best(), 2));
        let text = long_text(&runner, &Reference::of(path));
        // Three texts; in each step, which has how many rows: two decode
        // while the third reads its prompt, one waits, one begins late.
        let texts = [&text[..60], &text[5..80], &text[20..96]];
        let alone = texts.map(|t| runner.logits(t, usize::MAX));
        let plan = [
            [20, 1, 0],
            [1, 1, 33],
            [1, 7, 0],
            [0, 1, 1],
            [38, 64, 41],
            [0, 1, 1],
        ];
        let mut caches = [(); 3].map(|()| KvSequence::default());
        let mut together = [(); 3].map(|()| Vec::new());
        for rows in plan {
            for (cache, rows) in caches.iter_mut().zip(rows) {
                assert!(runner.kv.reserve(cache, rows));
            }
            let mut batch = Batch::default();
            for ((cache, text), rows) in caches.iter().zip(texts).zip(rows) {
                let ids = &text[cache.len()..][..rows];
                batch.push(cache, ids, 0, Output::Logits(rows));
            }
            let outputs = runner
                .model
                .forward(&batch, &mut runner.kv, &mut runner.exec);
            let mut logits = outputs.logits();
            for ((cache, out), rows) in caches.iter_mut().zip(&mut together).zip(rows) {
                cache.advance(rows);
                out.extend(logits.by_ref().take(rows).flatten());
            }
        }
        for (i, (alone, together)) in alone.iter().zip(&together).enumerate() {
            same_bits(
                alone,
                together,
                &format!("{path} {quantize}, text {i} of three"),
            );
        }
        caches.into_iter().for_each(|c| runner.kv.release(c));
    }
}

#[test]
fn only_wanted_logits_are_computed() {
    let mut runner = open("llama", KvType::F32, Isa::best(), 2);
    let reference = Reference::of("llama");
    let vocab = runner.model.spec().vocab;
    let all = runner.logits(&reference.tokens, usize::MAX);
    let n = reference.tokens.len();
    for wanted in [0, 1, 3, n] {
        let mut sequence = KvSequence::default();
        assert!(runner.kv.reserve(&mut sequence, n));
        let mut batch = Batch::default();
        batch.push(&sequence, &reference.tokens, 0, Output::Logits(wanted));
        let outputs = runner
            .model
            .forward(&batch, &mut runner.kv, &mut runner.exec);
        assert_eq!(outputs.logits().len(), wanted);
        for (logits, row) in outputs.logits().zip(n - wanted..) {
            same_bits(logits, &all[row * vocab..][..vocab], &format!("row {row}"));
        }
        runner.kv.release(sequence);
    }
}

/// The cache's blocks are used again in any order, with whatever they hold.
#[test]
fn old_contents_of_the_cache_make_no_difference() {
    let mut runner = open("gemma3", KvType::F32, Isa::best(), 2);
    let text = long_text(&runner, &Reference::of("gemma3"));
    let fresh = runner.logits(&text, 50);
    let mut first = KvSequence::default();
    runner.feed(&mut first, &text[..100]);
    let other = runner.logits(&text, 50);
    same_bits(&fresh, &other, "other blocks");
    // Cut back and continued otherwise.
    runner.kv.truncate(&mut first, 30);
    let vocab = runner.model.spec().vocab;
    let again = runner.feed(&mut first, &text[30..]);
    same_bits(&fresh[30 * vocab..], &again, "a cache cut back");
}

#[test]
fn older_configurations_describe_the_same_models() {
    for path in ["gpt2", "llama", "llama-tied", "gemma3", "qwen2", "qwen3"] {
        let mut copy = Copy::of(path);
        let old = std::fs::read(tiny(path).join("config.v4.json")).unwrap();
        copy.config = serde_json::from_slice(&old).unwrap();
        let written = copy.write();
        let mut new = open(path, KvType::F32, Isa::best(), 2);
        let mut old = Runner::open(&written.path(), Quantize::None, KvType::F32, 2);
        assert_eq!(new.model.spec(), old.model.spec());
        let text = long_text(&new, &Reference::of(path));
        let logits = new.logits(&text, 100);
        same_bits(&logits, &old.logits(&text, 100), path);
    }
}

#[test]
fn sizes_in_a_line() {
    let line = |path| {
        open(path, KvType::F32, Isa::best(), 1)
            .model
            .spec()
            .to_string()
    };
    assert_eq!(
        line("gpt2"),
        "2 layers, width 64, feed-forward 256, 4 heads of 16, vocabulary 321, context 96"
    );
    assert_eq!(
        line("gemma3"),
        "7 layers, width 32, feed-forward 96, 4 heads of 24 (1 for keys and values), \
         vocabulary 452, context 512, 6 layers with a window of 8"
    );
}

/// Noise of the weights in a format, relative to their size.
fn noise(copy: &Copy, to: DType) -> f64 {
    let (mut errors, mut squares) = (0f64, 0f64);
    for t in copy.tensors.iter().filter(|t| t.shape.len() == 2) {
        let stored = t.to(to).to_f32();
        for (a, b) in t.values().iter().zip(stored.values()) {
            errors += f64::from(a - b).powi(2);
            squares += f64::from(*a).powi(2);
        }
    }
    (errors / squares).sqrt()
}

#[test]
fn quantising_costs_what_its_noise_does() {
    for path in ["gpt2", "llama", "llama-tied", "gemma3", "qwen2", "qwen3"] {
        let reference = Reference::of(path);
        let copy = Copy::of(path);
        for to in [DType::F16, DType::BF16, DType::Q8_0, DType::Q4_0] {
            let mut runner = Runner::open(&tiny(path), Quantize::To(to), KvType::F32, 2);
            let logits = runner.logits(&reference.tokens, usize::MAX);
            let pairs = logits.iter().zip(&reference.logits);
            let squares: f64 = pairs.map(|(a, b)| f64::from(a - b).powi(2)).sum();
            let rms = (squares / logits.len() as f64).sqrt();
            // Each product adds the noise of its weights and, if they are
            // integers or bfloat16, of its activations; four in a layer follow
            // each other (values, output, up, down), then the head. Independent
            // noises add as squares do.
            let activations = match to {
                DType::F16 => 0.0,
                DType::BF16 => noise(&copy, DType::BF16),
                _ => noise(&copy, DType::Q8_0),
            };
            let product = noise(&copy, to).hypot(activations);
            let products = (4 * runner.model.spec().layers.len() + 1) as f64;
            let expected = product * products.sqrt() * reference.logits_std;
            // What attention and the gates make of it is some twice as much;
            // the lower bound is there to see that the format is in use.
            let ratio = rms / expected;
            println!("{path} {to}: {rms:.1e} rms, {ratio:.2} of {expected:.1e}");
            assert!(
                (0.5..3.0).contains(&ratio),
                "{path} {to}: {rms} is {ratio} of {expected}"
            );
        }
    }
}

#[test]
fn the_report_counts_what_was_quantised() {
    let report = |path: &str, quantize| {
        let runner = Runner::open(&tiny(path), quantize, KvType::F32, 2);
        runner.model.report().clone()
    };
    let f32_to = |to, n| vec![(DType::F32, to, n)];
    for to in [DType::Q8_0, DType::Q4_0, DType::F16, DType::BF16] {
        let count = |path| report(path, Quantize::To(to)).quantised;
        // Query, key, value, output, up, down; and the head.
        assert_eq!(count("gpt2"), f32_to(to, 2 * 6 + 1));
        assert_eq!(count("gpt2/model.gguf"), f32_to(to, 2 * 6 + 1));
        // One more to a layer: the gate.
        assert_eq!(count("llama"), f32_to(to, 2 * 7 + 1));
        assert_eq!(count("llama-tied"), f32_to(to, 2 * 7 + 1));
        assert_eq!(count("gemma3"), f32_to(to, 7 * 7 + 1));
    }
    // By measurement: whatever was chosen, every layer was looked at, and none
    // is slower than as it was.
    let auto = report("llama-sharded", Quantize::Auto);
    let layers = auto.choices.iter().map(|c| c.layers);
    assert_eq!(layers.sum::<usize>(), 2 * 7 + 1);
    for c in &auto.choices {
        let time = |dtype| c.timings.iter().find(|t| t.0 == dtype).unwrap().1;
        assert_eq!(c.stored, DType::BF16);
        assert!(time(c.chosen) <= time(c.stored), "{c:?}");
    }
    let chosen = auto.choices.iter().filter(|c| c.chosen != c.stored);
    let quantised: usize = auto.quantised.iter().map(|q| q.2).sum();
    assert_eq!(chosen.map(|c| c.layers).sum::<usize>(), quantised);
    assert_eq!(report("llama-sharded", Quantize::None).choices, []);
    assert_eq!(report("gpt2", Quantize::None).quantised, []);
    assert_eq!(report("gpt2", Quantize::To(DType::F32)).quantised, []);
    assert_eq!(report("gpt2", Quantize::To(DType::F32)).kept, []);
    // No width is a multiple of 256: all stay as they are.
    let kept = report("llama", Quantize::To(DType::Q4_K));
    assert_eq!(kept.quantised, []);
    // Query, key, value, gate, up of 64; output of 128; down of 96; head of 64.
    let f32_of = |cols, n| (DType::F32, cols, n);
    let mut expected = [f32_of(64, 2 * 5 + 1), f32_of(128, 2), f32_of(96, 2)];
    let mut found = kept.kept;
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn the_report_counts_parameters() {
    for (path, _) in ALL {
        let runner = open(path, KvType::F32, Isa::best(), 1);
        // Every stored number is one, but for the masks of GPT-2's first files.
        let store = rustml_io::Store::open(&tiny(path)).unwrap();
        let weights = store.tensors().iter().filter(|t| {
            !t.name.ends_with(".attn.bias")
                && !t.name.ends_with(".masked_bias")
                && t.name != "rope_freqs.weight"
        });
        let parameters: usize = weights.map(|t| t.len()).sum();
        assert_eq!(runner.model.report().parameters, parameters, "{path}");
        assert_eq!(
            runner.model.spec().parameters(),
            parameters as u64,
            "{path}"
        );
    }
}
