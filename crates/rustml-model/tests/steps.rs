//! Steps: what they cost, that their times add up, and batches that break the
//! rules.

mod common;

use common::{same_bits, team, tiny, Reference, Runner};
use rustml_io::{DType, Store};
use rustml_model::{
    Batch, Capacity, Exec, KvPool, KvSequence, KvType, Model, Output, Quantize, Span,
};
use rustml_simd::Isa;
use rustml_trace::{Detail, Event, Op, Recorder, StepTimes};

fn open(path: &str, detail: Detail) -> Runner {
    let team = team(Isa::best(), 2);
    let mut runner = Runner::with_team(&tiny(path), Quantize::None, KvType::F32, team);
    let capacity = runner.exec.capacity();
    runner.exec = Exec::new(&runner.model, capacity, Recorder::new(detail));
    runner
}

fn bytes(events: &[Event], ops: &[Op]) -> u64 {
    let mine = events.iter().filter(|e| ops.contains(&e.op));
    mine.map(|e| e.cost.bytes).sum()
}

/// Counted by hand for the tiny GPT-2: width 64, 2 layers of 4 heads of 16,
/// 256 between, 321 tokens; all in single precision.
#[test]
fn bytes_of_a_step_are_those_of_weights_and_cache() {
    for detail in [Detail::Operations, Detail::Parts] {
        let mut runner = open("gpt2", detail);
        let mut sequence = KvSequence::default();
        let tokens = Reference::of("gpt2").tokens;
        // Outputs are padded to whole panels, and the padding is read.
        let panel = Isa::best().lanes();
        let matrix = |rows: usize, cols: usize| 4 * rows.next_multiple_of(panel) * cols;
        let norm = 4 * (64 + 64);
        for (rows, logit_rows, past) in [(7, 1, 0), (1, 1, 7), (5, 5, 8), (3, 0, 13)] {
            let ids = &tokens[past..past + rows];
            assert!(runner.kv.reserve(&mut sequence, rows));
            let mut batch = Batch::default();
            batch.push(&sequence, ids, 0, Output::Logits(logit_rows));
            runner
                .model
                .forward(&batch, &mut runner.kv, &mut runner.exec);
            sequence.advance(rows);
            let events = runner.exec.recorder.events();

            // The last layer ends with its keys and values where no row's
            // logits are wanted; else it goes on with these rows alone.
            let ended = 1 + usize::from(logit_rows > 0);
            // A row of the embedding and one of the positions for each token.
            assert_eq!(bytes(events, &[Op::Embed]), (rows * 2 * 64 * 4) as u64);
            let qkv = 3 * (matrix(64, 64) + 4 * 64);
            let ops = [Op::Qkv, Op::Query, Op::Key, Op::Value];
            assert_eq!(bytes(events, &ops), 2 * qkv as u64);
            let out = matrix(64, 64) + 4 * 64;
            assert_eq!(bytes(events, &[Op::AttnOut]), (ended * out) as u64);
            let up = matrix(256, 64) + 4 * 256;
            assert_eq!(bytes(events, &[Op::Up]), (ended * up) as u64);
            let down = matrix(64, 256) + 4 * 64;
            assert_eq!(bytes(events, &[Op::Down]), (ended * down) as u64);
            let norms = bytes(events, &[Op::AttnNorm, Op::FfnNorm]);
            assert_eq!(norms, ((2 + ended) * norm) as u64);
            let head = match logit_rows {
                0 => 0,
                _ => matrix(321, 64) + norm,
            };
            assert_eq!(bytes(events, &[Op::FinalNorm, Op::Head]), head as u64);
            // A position's keys and values: 4 heads of 16, each.
            let position = 2 * 4 * 16 * 4;
            let stored = bytes(events, &[Op::Position, Op::KvStore]);
            assert_eq!(stored, (2 * rows * position) as u64);
            let ops = [Op::Attend, Op::Scores, Op::Values];
            let read = ended * (past + rows) * position;
            assert_eq!(bytes(events, &ops), read as u64);

            let all: u64 = events.iter().map(|e| e.cost.bytes).sum();
            let of_weights = 2 * (qkv + norm) + ended * (out + up + down + norm) + head;
            let of_rows = rows * 2 * 64 * 4 + 2 * rows * position + read;
            assert_eq!(all, (of_weights + of_rows) as u64);
            // Two for each number of a matrix and row; for scores and for
            // sums of values, two for each number of a pair of positions.
            let flops: u64 = events.iter().map(|e| e.cost.flops).sum();
            assert!(events.iter().all(|e| e.cost.int_ops == 0));
            let after = 64 * 64 + 2 * 64 * 256;
            let products = 2 * (2 * 3 * 64 * 64 * rows + after * (rows + logit_rows))
                + 2 * 321 * 64 * logit_rows;
            let last = past + rows;
            let pairs: usize =
                (past + 1..=last).sum::<usize>() + (last - logit_rows + 1..=last).sum::<usize>();
            let looked_up = 2 * 64 * rows;
            assert_eq!(flops, (products + 2 * 2 * pairs * 64 + looked_up) as u64);
        }
    }
}

#[test]
fn the_largest_part_is_what_the_report_says_is_loaded() {
    for quantize in [Quantize::None, Quantize::To(DType::Q4_0)] {
        let team = team(Isa::best(), 2);
        let mut runner = Runner::with_team(&tiny("llama-tied"), quantize, KvType::F32, team);
        let capacity = runner.exec.capacity();
        runner.exec = Exec::new(&runner.model, capacity, Recorder::new(Detail::Operations));
        runner.logits(&[1, 2, 3], 3);
        let events = runner.exec.recorder.events();
        let ops = [Op::Qkv, Op::AttnOut, Op::GateUp, Op::Down, Op::Head];
        // The embedding is read as the head: every matrix, once.
        assert_eq!(bytes(events, &ops), runner.model.report().bytes as u64);
    }
}

#[test]
fn times_add_up() {
    for path in ["gpt2", "llama", "gemma3", "qwen3"] {
        for detail in [Detail::Operations, Detail::Parts] {
            let mut runner = open(path, detail);
            let tokens = Reference::of(path).tokens;
            let mut sequence = KvSequence::default();
            runner.feed(&mut sequence, &tokens[..30]);
            runner.feed(&mut sequence, &tokens[30..31]);
            let recorder = &mut runner.exec.recorder;
            let total = recorder.end_step(None);
            let events = recorder.events();
            let layers = runner.model.spec().layers.len();
            assert!(events.len() <= 18 * layers + 4, "more than was reserved");
            // Parts are proportions, rounded to nanoseconds.
            let rounding = std::time::Duration::from_nanos(4);
            for pair in events.windows(2) {
                let end = pair[0].start + pair[0].time;
                assert!(pair[1].start + rounding >= end, "{pair:?} overlap");
            }
            let of_layer = |i| events.iter().filter(move |e| e.layer == Some(i as u16));
            assert!((0..layers).all(|i| of_layer(i).count() == of_layer(0).count()));
            let outside: Vec<Op> = events
                .iter()
                .filter(|e| e.layer.is_none())
                .map(|e| e.op)
                .collect();
            assert_eq!(outside, [Op::Embed, Op::RopeTable, Op::FinalNorm, Op::Head]);
            let t = StepTimes::of(events, total);
            let sum = t.embedding + t.layers + t.norm + t.projection;
            assert!(sum <= t.total + rounding * events.len() as u32, "{t:?}");
            assert!(events.iter().all(|e| e.step == 2 && e.waiting <= e.time));
            // Each turn lies within its operation, or in one of its parts.
            for turn in recorder.step(total, 1, 1).turns {
                assert!(turn.thread < 2 && turn.start <= turn.end);
                assert!(events[turn.event].start <= turn.start, "{turn:?}");
            }
        }
    }
}

/// The next rows of some sequences in one step; the logits of all rows, or of each
/// sequence's last.
fn step(
    runner: &mut Runner,
    parts: &mut [(&mut KvSequence, &[u32])],
    all: bool,
    prompt: bool,
) -> Vec<f32> {
    for (cache, ids) in &mut *parts {
        assert!(runner.kv.reserve(cache, ids.len()));
    }
    let mut batch = Batch::default();
    for (cache, ids) in &*parts {
        let logits = if all { ids.len() } else { 1 };
        let prompt_len = if prompt { usize::MAX } else { 0 };
        batch.push(cache, ids, prompt_len, Output::Logits(logits));
    }
    let outputs = runner
        .model
        .forward(&batch, &mut runner.kv, &mut runner.exec);
    let logits = outputs.logits().flatten().copied().collect();
    for (cache, ids) in parts {
        cache.advance(ids.len());
    }
    logits
}

/// Prompts in steps of their own, and tokens that follow them: the same bits however the
/// prompts are cut up, whoever is beside them, and whichever logits are wanted.
#[test]
fn prompts_in_steps_of_their_own_may_be_cut_up() {
    for (path, quantize, kv_type) in [
        ("llama", Quantize::None, KvType::F32),
        ("llama", Quantize::To(DType::Q8_0), KvType::F16),
        ("gemma3", Quantize::To(DType::Q4_0), KvType::F16),
        ("qwen3", Quantize::To(DType::BF16), KvType::Q8_0),
    ] {
        for isa in Isa::available().into_iter().rev().take(2) {
            let mut runner = Runner::with_team(&tiny(path), quantize, kv_type, team(isa, 2));
            let vocab = runner.model.spec().vocab;
            let text: Vec<u32> = (0..140).map(|i| (i * 37 + 11) % vocab as u32).collect();
            let (one, two) = (&text[..130], &text[3..83]);
            let next = &text[130..];

            let mut cache = KvSequence::default();
            let whole = step(&mut runner, &mut [(&mut cache, one)], true, true);
            let mut after = Vec::new();
            for id in next.chunks(1) {
                after.extend(step(&mut runner, &mut [(&mut cache, id)], true, false));
            }
            runner.kv.release(cache);

            for chunk in [1, 7, 33, 64, 129] {
                let what = format!("{path} {quantize} {isa:?} in chunks of {chunk}");
                let [mut cache, mut other] = [(); 2].map(|()| KvSequence::default());
                let mut others = two.chunks(chunk / 2 + 1);
                for (i, ids) in one.chunks(chunk).enumerate() {
                    let mut parts = vec![(&mut cache, ids)];
                    parts.extend(others.next().map(|ids| (&mut other, ids)));
                    let all = i % 2 == 0;
                    let logits = step(&mut runner, &mut parts, all, true);
                    let (from, to) = match all {
                        true => (i * chunk, i * chunk + ids.len()),
                        false => (i * chunk + ids.len() - 1, i * chunk + ids.len()),
                    };
                    let expected = &whole[from * vocab..to * vocab];
                    same_bits(expected, &logits[..expected.len()], &what);
                }
                let mut parts = [(&mut cache, next), (&mut other, &text[83..84])];
                let logits = step(&mut runner, &mut parts, true, false);
                same_bits(&after, &logits[..after.len()], &what);
                runner.kv.release(cache);
                runner.kv.release(other);
            }
        }
    }
}

/// Where the phases do not differ, a prefill row is as any row.
#[test]
fn phases_are_alike_where_they_should_be() {
    for isa in Isa::available() {
        let to = Quantize::To(DType::Q8_0);
        let mut runner = Runner::with_team(&tiny("llama"), to, KvType::F32, team(isa, 1));
        if runner.model.phases_differ() {
            continue;
        }
        let text: Vec<u32> = (0..50).collect();
        let logits = [true, false].map(|prompt| {
            let mut cache = KvSequence::default();
            let logits = step(&mut runner, &mut [(&mut cache, &text)], true, prompt);
            runner.kv.release(cache);
            logits
        });
        same_bits(&logits[0], &logits[1], &format!("{isa:?}"));
    }
}

#[test]
fn nothing_is_recorded_unless_asked_for() {
    let mut runner = open("llama", Detail::Off);
    runner.logits(&[1, 2, 3], 2);
    assert_eq!(runner.exec.recorder.events(), []);
}

#[test]
fn progress_ends_where_it_should() {
    for (path, quantize) in [
        ("gpt2", Quantize::None),
        ("gpt2-hub", Quantize::Auto),
        ("llama/model.gguf", Quantize::To(DType::Q4_0)),
        ("gemma3", Quantize::None),
    ] {
        let store = Store::open(&tiny(path)).unwrap();
        let mut seen = Vec::new();
        let mut progress = |done, total| seen.push((done, total));
        Model::load(&store, quantize, team(Isa::best(), 1), &mut progress).unwrap();
        let total = store.tensors().iter().map(|t| t.bytes).sum::<usize>();
        assert!(seen.iter().all(|(done, of)| done <= of && *of == total));
        assert!(seen.is_sorted());
        assert_eq!(seen.last(), Some(&(total, total)));
        // All but norms, biases and masks is counted as it is read.
        let (before_last, _) = seen[seen.len() - 2];
        assert!(before_last > total * 4 / 5, "{path}: {seen:?}");
    }
}

#[test]
fn caches_that_are_full() {
    let mut runner = open("llama", Detail::Off);
    let spec = runner.model.spec();
    for positions in [0, 1, 64, 65] {
        let mut kv = KvPool::new(spec, positions, KvType::F16).unwrap();
        let whole = positions.next_multiple_of(64);
        assert_eq!(kv.positions(), whole);
        assert_eq!(kv.free_positions(), whole);
        // Keys and values of 2 layers, 2 heads of 32, 2 bytes each.
        assert_eq!(kv.bytes(), whole * 2 * 2 * 2 * 32 * 2);
        let mut sequence = KvSequence::default();
        assert!(kv.reserve(&mut sequence, whole));
        assert!(!kv.reserve(&mut sequence, whole + 1));
        assert_eq!(sequence.room(), whole);
        kv.release(sequence);
        assert_eq!(kv.free_positions(), whole);
    }
    for positions in [usize::MAX, usize::MAX / 2, 1 << 50, 1 << 40] {
        let error = KvPool::new(spec, positions, KvType::F32).err().unwrap();
        let message = error.to_string();
        assert!(
            message.contains(&format!("of {positions} tokens")),
            "{message}"
        );
    }
    // Beyond what the model was made for, rotations go on.
    let text: Vec<u32> = (0..300).collect();
    let logits = runner.logits(&text, 100);
    assert!(logits.iter().all(|x| x.is_finite()));
}

#[test]
fn an_empty_step_is_no_step() {
    let mut runner = open("gpt2", Detail::Operations);
    let empty = KvSequence::default();
    let mut batch = Batch::default();
    batch.push(&empty, &[], 0, Output::Logits(1));
    let outputs = runner
        .model
        .forward(&batch, &mut runner.kv, &mut runner.exec);
    assert_eq!(outputs.logits().len(), 0);
}

/// Runs one step of the tiny GPT-2 with room for 64 positions in the cache and
/// 8 rows, after `spoil` has done its work.
fn spoiled(spoil: impl FnOnce(&mut Batch)) {
    let runner = open("gpt2", Detail::Off);
    let Runner { model, mut kv, .. } = runner;
    let capacity = Capacity {
        rows: 8,
        logit_rows: 4,
    };
    let mut exec = Exec::new(&model, capacity, Recorder::new(Detail::Off));
    let mut sequence = KvSequence::default();
    assert!(kv.reserve(&mut sequence, 64));
    let mut batch = Batch::default();
    batch.push(&sequence, &[1, 2, 3], 0, Output::Logits(2));
    spoil(&mut batch);
    model.forward(&batch, &mut kv, &mut exec);
}

#[test]
fn a_good_batch() {
    spoiled(|_| ());
}

#[test]
#[should_panic(expected = "a token outside the vocabulary of 321")]
fn unknown_tokens() {
    spoiled(|b| b.ids[1] = 321);
}

#[test]
#[should_panic(expected = "a step of 9 rows")]
fn too_many_rows() {
    spoiled(|b| {
        b.ids = vec![1; 9];
        b.spans[0].rows = 9;
    });
}

#[test]
#[should_panic(expected = "with 5 outputs is more than")]
fn too_many_outputs() {
    spoiled(|b| {
        b.ids = vec![1; 5];
        b.spans[0].rows = 5;
        b.spans[0].output = Output::Hidden(7);
    });
}

#[test]
#[should_panic(expected = "the spans must cover the rows")]
fn rows_of_nobody() {
    spoiled(|b| b.ids.push(1));
}

#[test]
#[should_panic(expected = "a cache twice in one step")]
fn a_cache_twice() {
    spoiled(|b| {
        let span = Span {
            rows: 0,
            ..b.spans[0]
        };
        b.spans.push(span);
    });
}

#[test]
#[should_panic(expected = "3 rows in a cache that has room for 0")]
fn no_room() {
    static EMPTY: std::sync::OnceLock<KvSequence> = std::sync::OnceLock::new();
    spoiled(|b| b.spans[0].cache = EMPTY.get_or_init(KvSequence::default));
}

#[test]
#[should_panic(expected = "of another pool")]
fn a_cache_of_another_pool() {
    let model = open("gpt2", Detail::Off).model;
    let mut other = KvPool::new(model.spec(), 64, KvType::F32).unwrap();
    let mut sequence = KvSequence::default();
    assert!(other.reserve(&mut sequence, 3));
    let mut runner = open("gpt2", Detail::Off);
    let mut batch = Batch::default();
    batch.push(&sequence, &[1, 2, 3], 0, Output::Logits(1));
    runner
        .model
        .forward(&batch, &mut runner.kv, &mut runner.exec);
}

#[test]
#[should_panic(expected = "a position beyond the 96 that the model has vectors for")]
fn positions_without_vectors() {
    let mut runner = open("gpt2", Detail::Off);
    let mut sequence = KvSequence::default();
    runner.feed(&mut sequence, &[1; 96]);
    runner.feed(&mut sequence, &[1]);
}
