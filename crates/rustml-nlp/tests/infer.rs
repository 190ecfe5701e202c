//! `rustml-infer` as its users meet it: what it prints, and where.

mod common;

use common::{ids, real, tiny, trace, Done, Line, Reference, GEMMA3, SMOLLM2};
use serde_json::Value;

fn infer(args: &[&str]) -> Line {
    Line::new(env!("CARGO_BIN_EXE_rustml-infer"), args)
}

/// Always the likeliest token, from weights as they are.
fn greedy(model: &str, args: &[&str]) -> Line {
    let all = ["--temperature", "0", "--quantize", "none"];
    infer(&[&[model], &all[..], args].concat())
}

#[test]
fn tiny_models_say_what_pytorch_says() {
    for (model, reference) in [
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
    ] {
        let r = Reference::of(reference);
        let args = ["--prompt", &r.prompt, "--max-tokens", &r.max_tokens()];
        let text = greedy(&tiny(model), &args).run().ok();
        // The line is ended, if the text has not done so.
        let line = r.greedy_text.strip_suffix('\n').unwrap_or(&r.greedy_text);
        assert_eq!(text, format!("{line}\n"), "{model}");
    }
}

#[test]
fn safetensors_may_be_named_by_their_flag() {
    let r = Reference::of("gpt2");
    let model = tiny("gpt2");
    let line = ["--safetensors", &model, "--temperature", "0", "--quantize"];
    let rest = ["none", "--prompt", &r.prompt, "--max-tokens", "24"];
    let done = infer(&[&line[..], &rest[..]].concat()).run();
    assert_eq!(done.ok(), r.greedy_text + "\n");
}

#[test]
fn standard_error_says_what_was_quantised_and_how_fast_it_was() {
    let done = infer(&[&tiny("llama"), "--prompt", "a", "--max-tokens", "3"]).run();
    let lines: Vec<&str> = done.err.lines().collect();
    // Widths of 64 and more are whole blocks of 32 weights.
    assert!(
        lines[0].starts_with("Quantized ") && lines[0].ends_with(" linear layers F32 -> Q8_0"),
        "{lines:?}"
    );
    let last = lines.last().unwrap();
    assert!(
        last.starts_with("Generated in ") && last.contains("(3 tokens, "),
        "{last}"
    );
    assert!(last.ends_with(" tokens/s)"));
    done.ok();
}

#[test]
fn streamed_text_is_the_same() {
    let r = Reference::of("gemma3");
    let args = ["--prompt", &r.prompt, "--max-tokens", "24"];
    let whole = greedy(&tiny("gemma3"), &args).run().ok();
    let streamed = greedy(&tiny("gemma3"), &[&args[..], &["--stream"]].concat()).run();
    assert_eq!(streamed.ok(), whole);
}

#[test]
fn prompts_come_from_standard_input_without_the_last_newline() {
    let r = Reference::of("llama");
    for end in ["", "\n", "\r\n"] {
        let line = greedy(&tiny("llama"), &["--max-tokens", "24"]);
        let text = line.stdin(r.prompt.clone() + end).run().ok();
        assert_eq!(text, r.greedy_text.clone() + "\n", "{end:?}");
    }
}

#[test]
fn json_says_everything() {
    let r = Reference::of("llama");
    let args = ["--prompt", &r.prompt, "--max-tokens", "24"];
    let json = ["--format", "json", "--threads", "2"];
    let line = greedy(&tiny("llama"), &[args, json].concat());
    let lines = line.run().json_lines();
    assert_eq!(lines.len(), 1);
    let j = &lines[0];
    assert_eq!(j["prompt"], r.prompt);
    assert_eq!(j["text"], r.greedy_text);
    assert_eq!(ids(&j["ids"]), r.greedy);
    assert_eq!(j["finish_reason"], "length");
    assert_eq!(j["prompt_tokens"], r.tokens.len());
    assert_eq!(j["generated_tokens"], 24);
    assert_eq!(j["threads"], 2);
    let t = &j["timings"];
    assert_eq!(t["prompt_tokens"], r.tokens.len());
    assert_eq!(t["decode_tokens"], 23);
    for key in [
        "prompt_ms",
        "prompt_tokens_per_second",
        "decode_ms",
        "decode_tokens_per_second",
    ] {
        assert!(t[key].as_f64().unwrap() > 0.0, "{key}");
    }
}

#[test]
fn a_batch_is_answered_in_order_as_each_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts.txt");
    // More than are decoded at a time, and of different lengths.
    let prompts: Vec<String> = (0..40)
        .map(|i| format!("{}the fox {i}", "and ".repeat(i % 7)))
        .collect();
    std::fs::write(&file, prompts.join("\n") + "\n").unwrap();
    let file = file.display().to_string();
    let sampled = ["--temperature", "0.9", "--seed", "5", "--max-tokens", "12"];
    let json = ["--format", "json"];
    let batch = [&sampled[..], &json, &["--batch-file", &file]].concat();
    let results = infer(&[&[tiny("llama").as_str()], &batch[..]].concat())
        .run()
        .json_lines();
    assert_eq!(results.len(), prompts.len());
    let asked = results.iter().map(|r| r["prompt"].as_str().unwrap());
    assert!(asked.eq(prompts.iter().map(String::as_str)));
    for i in [0, 1, 17, 39] {
        let seed = (5 + i).to_string();
        let alone = [
            "--temperature",
            "0.9",
            "--seed",
            &seed,
            "--max-tokens",
            "12",
        ];
        let alone = [&alone[..], &json, &["--prompt", &prompts[i]]].concat();
        let alone = infer(&[&[tiny("llama").as_str()], &alone[..]].concat());
        assert_eq!(alone.run().json_lines()[0]["ids"], results[i]["ids"]);
    }
    // As text, each on lines of its own.
    let lines = greedy(&tiny("gpt2"), &["--batch-file", &file, "--max-tokens", "2"]);
    let text = lines.run().ok();
    assert!(text.lines().count() >= prompts.len());
}

/// A draft model changes nothing but the time, and is reported on.
#[test]
fn a_draft_model_leaves_the_text_as_it_is() {
    let (model, draft) = (tiny("llama"), tiny("llama-sharded"));
    let args = |more: &[&str]| {
        let line = ["--prompt", "Hello", "--max-tokens", "60", "--seed", "7"];
        let all = [&[&model[..]], &line[..], &["--format", "json"], more].concat();
        let json: Value = serde_json::from_str(&infer(&all).run().ok()).unwrap();
        json
    };
    let (plain, drafted) = (args(&[]), args(&["--draft", &draft]));
    assert_eq!(plain["ids"], drafted["ids"]);
    assert!(plain["guesses"].is_null());
    assert!(
        drafted["guesses"]["made"].as_u64().unwrap() > 0,
        "{drafted}"
    );
}

#[test]
fn the_seed_decides() {
    let run = |seed: &str, threads: &str| {
        let model = tiny("llama");
        let args = ["--prompt", "the", "--seed", seed, "--threads", threads];
        infer(&[&[model.as_str()], &args[..]].concat()).run().ok()
    };
    assert_eq!(run("7", "1"), run("7", "2"));
    assert_ne!(run("7", "1"), run("8", "1"));
    let any = || infer(&[&tiny("llama"), "--prompt", "the"]).run().ok();
    assert_ne!(any(), any(), "another every time");
}

#[test]
fn a_conversation_follows_the_template() {
    let cases = std::fs::read(tiny("llama/chat_cases.json")).unwrap();
    let cases: Value = serde_json::from_slice(&cases).unwrap();
    let case = &cases[0];
    assert_eq!(case["messages"].as_array().unwrap().len(), 1);
    let question = case["messages"][0]["content"].as_str().unwrap();
    let args = ["--chat", "--prompt", question, "--format", "json"];
    let chat = greedy(&tiny("llama"), &args).run().json_lines();
    assert_eq!(
        chat[0]["prompt_tokens"],
        case["ids"].as_array().unwrap().len()
    );
    // Control tokens written in a prompt are such, so this is the same; but
    // for what texts begin with, which is added to it.
    let written = case["text"].as_str().unwrap();
    let written = written.strip_prefix("<|begin_of_text|>").unwrap();
    let args = ["--prompt", written, "--format", "json"];
    let plain = greedy(&tiny("llama"), &args).run().json_lines();
    assert_eq!(plain[0]["ids"], chat[0]["ids"]);
    // What the model is told first makes a difference.
    let args = ["--chat", "--prompt", question, "--system", "Be brief."];
    let told = greedy(&tiny("llama"), &args).run().ok();
    assert_ne!(told.trim_end(), chat[0]["text"].as_str().unwrap());
}

#[test]
fn max_tokens_may_be_0() {
    let args = ["--prompt", "a", "--max-tokens", "0", "--format", "json"];
    let j = &greedy(&tiny("llama"), &args).run().json_lines()[0];
    assert_eq!(j["text"], "");
    assert_eq!(j["finish_reason"], "length");
    assert_eq!(j["timings"]["decode_tokens_per_second"], Value::Null);
}

#[test]
fn the_context_is_the_end() {
    let args = [
        "--prompt",
        "a fox",
        "--max-tokens",
        "100",
        "--ctx-size",
        "20",
    ];
    let done = greedy(&tiny("llama"), &[&args[..], &["--format", "json"]].concat()).run();
    assert!(done.err.contains("--ctx-size"), "{}", done.err);
    let j = &done.json_lines()[0];
    assert_eq!(j["finish_reason"], "context");
    let all = j["prompt_tokens"].as_u64().unwrap() + j["generated_tokens"].as_u64().unwrap();
    assert_eq!(all, 20);
}

#[test]
fn threads_are_those_the_process_may_use() {
    let threads = |done: Done| done.json_lines()[0]["threads"].as_u64().unwrap() as usize;
    let line = || greedy(&tiny("llama"), &["--prompt", "a", "--format", "json"]);
    assert_eq!(threads(line().run()), rustml_nlp::available_threads());
    if cfg!(target_os = "linux") {
        assert_eq!(threads(line().shell("exec taskset -c 0 \"$@\"")), 1);
    }
}

#[test]
fn debug_logs_say_where_each_step_s_time_goes() {
    for model in ["gpt2", "llama", "gemma3/model.gguf"] {
        let line = greedy(&tiny(model), &["--prompt", "fox", "--max-tokens", "3"]);
        let done = line.env("RUST_LOG", "rustml=debug").run();
        let steps: Vec<&str> = done.err.lines().filter(|l| l.contains(" step ")).collect();
        assert_eq!(steps.len(), 3, "{}", done.err);
        for part in [
            "embedding",
            "layers",
            "norm",
            "projection",
            "sampling",
            "other",
            "total",
        ] {
            assert!(steps[0].contains(&format!("{part} ")), "{}", steps[0]);
        }
        assert!(!done.err.contains("layer 0"), "not asked for");
        assert!(!done.out.contains("step"), "a result holds no log");
    }
}

#[test]
fn a_profile_is_a_trace_of_every_step() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("profile.json");
    let path = file.display().to_string();
    let args = ["--prompt", "fox", "--max-tokens", "3", "--profile", &path];
    let text = greedy(&tiny("llama"), &args[..4]).run().ok();
    assert_eq!(greedy(&tiny("llama"), &args).run().ok(), text);
    let events = trace(&file);
    // The row of the calling thread; others show operations too.
    let named = |name: &str| {
        let caller = events.iter().filter(|e| e["tid"] == 0);
        caller.filter(|e| e["name"] == name).count()
    };
    assert_eq!(
        (named("step 1"), named("step 3"), named("step 4")),
        (1, 1, 0)
    );
    assert_eq!(
        (named("layer 0"), named("lm_head"), named("sampling")),
        (3, 3, 3)
    );
    // What cannot be written is said before the model is loaded, and a file
    // that is there stays as it is when the command fails.
    let nowhere = dir.path().join("no/such").display().to_string();
    let args = ["--prompt", "a", "--profile", &nowhere];
    let err = greedy("no-such-model.gguf", &args).run().failed(1);
    assert!(err.contains("there is no directory"), "{err}");
    std::fs::write(&file, "older").unwrap();
    let args = ["--prompt", "", "--profile", &path];
    greedy(&tiny("llama"), &args).run().failed(2);
    assert_eq!(std::fs::read(&file).unwrap(), b"older");
}

#[test]
fn trace_logs_say_where_each_layer_s_time_goes() {
    let line = greedy(&tiny("gemma3"), &["--prompt", "fox", "--max-tokens", "2"]);
    let done = line.env("RUST_LOG", "rustml=trace").run();
    let layers: Vec<&str> = done
        .err
        .lines()
        .filter(|l| l.contains("layer 6: "))
        .collect();
    assert_eq!(layers.len(), 2, "{}", done.err);
    for part in [
        "attention",
        "norm",
        "QKV",
        "qk-norm",
        "rope",
        "scores",
        "softmax",
        "values",
        "output",
        "feed-forward",
        "gate",
        "up",
        "down",
    ] {
        assert!(layers[1].contains(part), "{part}: {}", layers[1]);
    }
}

#[test]
fn smollm2_knows_the_capital_of_france() {
    let Some(model) = real(SMOLLM2) else { return };
    let args = ["--prompt", "The capital of France is", "--max-tokens", "8"];
    let text = greedy(&model, &args).run().ok();
    assert!(text.contains("Paris"), "{text}");
    // On one thread, streamed, the text is the same.
    let more = ["--stream", "--threads", "1"];
    let streamed = greedy(&model, &[&args[..], &more].concat()).run().ok();
    assert_eq!(streamed, text);
    // Asked as a question, it answers and stops. (It is not so sure about
    // France then: llama.cpp gets nonsense out of this file, too.)
    let args = ["--chat", "--prompt", "What is the capital of Germany?"];
    let line = greedy(&model, &[&args[..], &["--format", "json"]].concat());
    let j = &line.run().json_lines()[0];
    assert!(j["text"].as_str().unwrap().contains("Berlin"), "{j}");
    assert_eq!(j["finish_reason"], "stop");
}

#[test]
fn gemma_3_goes_on_in_english() {
    let Some(model) = real(GEMMA3) else { return };
    let args = ["--prompt", "The capital of France is", "--max-tokens", "8"];
    // As llama.cpp says (testdata/real).
    let text = greedy(&model, &args).run().ok();
    assert!(text.starts_with(" the capital of the"), "{text}");
}

#[test]
fn weights_that_are_no_numbers_are_named() {
    let copy = tempfile::tempdir().unwrap();
    for file in std::fs::read_dir(tiny("llama")).unwrap() {
        let file = file.unwrap();
        if file.file_type().unwrap().is_file() {
            std::fs::copy(file.path(), copy.path().join(file.file_name())).unwrap();
        }
    }
    let path = copy.path().join("model.safetensors");
    let mut bytes = std::fs::read(&path).unwrap();
    let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    // A weight of every tensor, so that one is read whatever the prompt.
    let json: Value = serde_json::from_slice(&bytes[8..header]).unwrap();
    for (_, tensor) in json.as_object().unwrap() {
        if let Some(at) = tensor["data_offsets"][0].as_u64() {
            bytes[header + at as usize..][..4].copy_from_slice(&f32::NAN.to_le_bytes());
        }
    }
    std::fs::write(&path, bytes).unwrap();
    let model = copy.path().to_str().unwrap();
    let done = infer(&[
        model,
        "--quantize",
        "none",
        "--prompt",
        "a b",
        "--max-tokens",
        "4",
    ])
    .run();
    let says = "embed_tokens.weight` holds a value that is not a finite number";
    assert!(done.err.contains(says), "{}", done.err);
    assert_eq!(done.status, Some(1), "{}", done.err);
}
