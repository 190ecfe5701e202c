//! How `rustml-infer` takes what is wrong: one sentence on standard error, an
//! exit status that says whose fault it is, never a panic.

mod common;

use common::{real, repo, tiny, Line, SMOLLM2};
use std::fs;

fn infer(args: &[&str]) -> Line {
    Line::new(env!("CARGO_BIN_EXE_rustml-infer"), args)
}

/// Standard error of a run of the tiny model that has to fail.
#[track_caller]
fn refused(args: &[&str], status: i32) -> String {
    infer(&[&[tiny("llama").as_str()], args].concat())
        .run()
        .failed(status)
}

#[test]
fn settings_out_of_range_are_usage() {
    for (flag, bad) in [
        ("--temperature", &["-1", "NaN", "inf", "warm"][..]),
        ("--top-p", &["0", "2", "-0.5", "nan"]),
        ("--top-k", &["-1", "x"]),
        ("--min-p", &["-0.1", "1.5", "NaN"]),
        ("--repetition-penalty", &["0", "-1", "NaN"]),
        ("--threads", &["0", "-1", "2000", "many"]),
        ("--timeout", &["0", "-1", "NaN", "1e400", "soon"]),
        ("--ctx-size", &["0", "-5"]),
        ("--max-tokens", &["-1", "1.5"]),
        ("--seed", &["-1", "1.5"]),
        ("--quantize", &["q9_9", ""]),
        ("--format", &["xml"]),
    ] {
        for value in bad {
            let err = refused(&["--prompt", "a", &format!("{flag}={value}")], 2);
            let word = flag.trim_start_matches("--").replace('-', " ");
            let named = err.contains(flag) || err.replace('-', " ").contains(&word);
            assert!(named, "{flag}={value}: {err}");
        }
    }
    let err = refused(&["--prompt", "a", "--quantize", "q9_9"], 2);
    assert!(err.contains("auto, none, q8_0, q4_0, f16, bf16"), "{err}");
}

#[test]
fn flags_that_do_not_go_together_are_usage() {
    let model = tiny("gpt2");
    for args in [
        &["--prompt", "a", "--batch-file", "x"][..],
        &["--batch-file", "x", "--stream"],
        &["--prompt", "a", "--system", "b"],
        &["--prompt", "a", "--safetensors", &model],
        &["--prompt", "a", "--no-such-flag"],
        &["--prompt", "a", "one", "more"],
    ] {
        refused(args, 2);
    }
}

#[test]
fn empty_prompts_are_refused() {
    assert!(refused(&["--prompt", ""], 2).contains("--prompt is empty"));
    for nothing in ["", "\n"] {
        let done = infer(&[&tiny("llama")]).stdin(nothing).run();
        assert!(done.failed(2).contains("standard input"));
    }
}

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let err = refused(&["--prompt", "the quick brown fox", "--ctx-size", "5"], 1);
    assert!(err.contains("the context holds 5"), "{err}");
    // As JSON, too, errors are for standard error.
    let json = ["--prompt", "the quick brown fox", "--ctx-size", "5"];
    refused(&[&json[..], &["--format", "json"]].concat(), 1);
    let long = "fox ".repeat(200);
    assert!(refused(&["--prompt", &long], 1).contains("the context holds 256"));
}

#[test]
fn contexts_the_model_cannot_have_are_refused() {
    let gpt2 = infer(&[&tiny("gpt2"), "--prompt", "a", "--ctx-size", "97"]);
    let err = gpt2.run().failed(1);
    assert!(err.contains("96 at most"), "{err}");
    // More than any memory, however much of it is asked for.
    let most = u64::MAX.to_string();
    for ctx in ["268435457", &most] {
        let args = ["--prompt", "a", "--ctx-size", ctx, "--max-tokens", &most];
        let err = refused(&args, 1);
        assert!(err.contains("268435456 at most"), "{err}");
    }
    // Beyond what it was made for is possible, but said.
    let line = infer(&[&tiny("llama"), "--prompt", "a", "--ctx-size", "300"]);
    let done = line.run();
    assert!(done.err.contains("was made for 256"), "{}", done.err);
    done.ok();
}

#[test]
fn what_is_no_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name).display().to_string();
    let gguf = fs::read(tiny("llama/model.gguf")).unwrap();
    fs::write(path("cut.gguf"), &gguf[..gguf.len() - 1000]).unwrap();
    fs::write(path("header.gguf"), &gguf[..100]).unwrap();
    fs::write(path("empty.gguf"), "").unwrap();
    fs::write(path("text.gguf"), "I am no model, but a long enough text.").unwrap();
    fs::create_dir(path("nothing")).unwrap();
    fs::create_dir(path("weights")).unwrap();
    let weights = tiny("llama/model.safetensors");
    fs::copy(&weights, path("weights/model.safetensors")).unwrap();

    // Another architecture of the same length.
    let mut other = gguf.clone();
    let key = b"general.architecture";
    let at = other.windows(key.len()).position(|w| w == key).unwrap() + key.len() + 12;
    assert_eq!(&other[at..at + 5], b"llama");
    other[at..at + 5].copy_from_slice(b"lamal");
    fs::write(path("other.gguf"), other).unwrap();
    fs::create_dir(path("other")).unwrap();
    for file in ["config.json", "tokenizer.json", "model.safetensors"] {
        fs::copy(
            tiny(&format!("llama/{file}")),
            path(&format!("other/{file}")),
        )
        .unwrap();
    }
    let config = fs::read_to_string(path("other/config.json")).unwrap();
    let config = config.replace("LlamaForCausalLM", "MambaForCausalLM");
    fs::write(path("other/config.json"), config).unwrap();

    for (name, says) in [
        ("missing.gguf", "there is no file"),
        ("cut.gguf", "truncated"),
        ("header.gguf", "header.gguf"),
        ("empty.gguf", "empty"),
        ("text.gguf", "text.gguf"),
        ("nothing", "config.json"),
        ("weights", "config.json"),
        ("other.gguf", "architecture `lamal` is not supported"),
        ("other", "architecture `MambaForCausalLM` is not supported"),
    ] {
        let err = infer(&[&path(name), "--prompt", "a"]).run().failed(1);
        assert!(err.contains(says), "{name}: {err}");
    }
    let err = infer(&["", "--prompt", "a"]).run().failed(2);
    assert!(err.contains("model is empty"), "{err}");
}

#[test]
fn a_model_without_a_template_holds_no_conversation() {
    let line = infer(&[&tiny("gpt2"), "--chat", "--prompt", "Hello"]);
    assert!(line.run().failed(1).contains("no chat template"));
}

#[test]
fn an_instruction_set_that_is_none_is_refused() {
    let line = infer(&[&tiny("gpt2"), "--prompt", "a"]).env("RUSTML_ISA", "z80");
    let err = line.run().failed(1);
    assert!(err.contains("RUSTML_ISA") && err.contains("z80"), "{err}");
}

#[test]
fn threads_can_be_pinned_or_not_and_nothing_else() {
    let line = |pin, threads| {
        let args = ["--prompt", "a", "--max-tokens", "1", "--threads", threads];
        infer(&[&[&tiny("gpt2")[..]], &args[..]].concat()).env("RUSTML_PIN", pin)
    };
    let err = line("maybe", "1").run().failed(1);
    assert!(err.contains("RUSTML_PIN is `maybe`"), "{err}");
    let err = line("1", "1000").run().failed(1);
    if cfg!(target_os = "linux") {
        assert!(err.contains("1000 threads cannot each have a CPU"), "{err}");
        line("1", "1").run().ok();
    } else {
        assert!(err.contains("on Linux only"), "{err}");
    }
}

#[test]
fn a_log_filter_that_is_none_is_ignored_aloud() {
    let line = infer(&[&tiny("gpt2"), "--prompt", "a"]).env("RUST_LOG", "rustml=loud=x");
    let done = line.run();
    assert!(done.err.contains("RUST_LOG is ignored"), "{}", done.err);
    done.ok();
}

#[test]
fn input_that_is_no_text_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts");
    let batch = file.display().to_string();
    let bad = b"good\nbad \xff\n";
    fs::write(&file, bad).unwrap();
    for done in [
        infer(&[&tiny("llama")]).stdin(bad).run(),
        infer(&[&tiny("llama"), "--batch-file", &batch]).run(),
    ] {
        let err = done.failed(1);
        assert!(err.contains("UTF-8") && err.contains("line 2"), "{err}");
    }
}

#[test]
fn batch_files_that_make_no_sense_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("prompts");
    let batch = file.display().to_string();
    for (text, says) in [
        ("", "holds no prompts"),
        ("one\n\nthree\n", "line 2: the prompt is empty"),
    ] {
        fs::write(&file, text).unwrap();
        let err = refused(&["--batch-file", &batch], 1);
        assert!(err.contains(says), "{err}");
    }
    let long = format!("a\n{}\n", "fox ".repeat(300));
    fs::write(&file, long).unwrap();
    let err = refused(&["--batch-file", &batch], 1);
    assert!(err.contains("prompt 2: "), "{err}");
    let missing = dir.path().join("missing").display().to_string();
    let err = refused(&["--batch-file", &missing], 1);
    assert!(err.contains("missing"), "{err}");
    let directory = dir.path().display().to_string();
    refused(&["--batch-file", &directory], 1);
}

#[test]
fn the_timeout_ends_with_what_there_is() {
    let args = [
        "--prompt",
        "a fox",
        "--temperature",
        "0",
        "--quantize",
        "none",
    ];
    let long = ["--ctx-size", "200000", "--max-tokens", "200000"];
    let end = ["--timeout", "0.3", "--format", "json"];
    let start = std::time::Instant::now();
    let done = infer(&[&[tiny("llama").as_str()], &args[..], &long, &end].concat()).run();
    assert!(start.elapsed().as_secs() < 30);
    assert!(done.err.contains("--timeout after 0.3 s"), "{}", done.err);
    let j = &done.json_lines()[0];
    assert_eq!(j["finish_reason"], "timeout");
    assert!(j["generated_tokens"].as_u64().unwrap() > 1);
}

#[test]
fn models_come_from_the_cache_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let commit = "0123456789abcdef0123456789abcdef01234567";
    let repository = dir.path().join("models--org--name");
    let snapshot = repository.join("snapshots").join(commit);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repository.join("refs")).unwrap();
    fs::write(repository.join("refs/main"), commit).unwrap();
    for entry in fs::read_dir(tiny("llama")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name != "model.gguf" {
            fs::copy(entry.path(), snapshot.join(name)).unwrap();
        }
    }
    let cache = dir.path().display().to_string();
    let named = |name: &str, flag: &[&str]| {
        let args = [flag, &[name, "--prompt", "a", "--seed", "1"]].concat();
        infer(&args).env("HF_HUB_CACHE", &cache).run()
    };
    let by_path = infer(&[&tiny("llama"), "--prompt", "a", "--seed", "1"]);
    let text = by_path.run().ok();
    assert_eq!(named("org/name", &[]).ok(), text);
    assert_eq!(named("org/name", &["--safetensors"]).ok(), text);

    let err = named("org/absent", &[]).failed(1);
    assert!(
        err.contains("org/absent") && err.contains("HF_HUB_OFFLINE"),
        "{err}"
    );
    // The default model is one of the hub's.
    let err = infer(&["--prompt", "a"]).run().failed(1);
    assert!(err.contains(rustml_nlp::DEFAULT_MODEL), "{err}");
}

#[test]
fn help_and_version_are_results() {
    let help = infer(&["--help"]).run().ok();
    for part in ["Examples:", "RUST_LOG", "--safetensors", "GGUF_PATH"] {
        assert!(help.contains(part), "{part}");
    }
    assert!(!help.contains('\x1b'), "no colours in a pipe");
    let version = infer(&["--version"]).run().ok();
    assert_eq!(
        version,
        format!("rustml-infer {}\n", env!("CARGO_PKG_VERSION"))
    );
}

#[test]
fn texts_may_begin_with_a_dash() {
    for prompt in ["- milk", "-1 + 2 =", "--chat"] {
        let args = ["--prompt", prompt, "--format", "json", "--max-tokens", "1"];
        let short = ["-p", prompt, "--format", "json", "--max-tokens", "1"];
        for args in [args, short] {
            let done = infer(&[&[tiny("llama").as_str()][..], &args].concat()).run();
            assert_eq!(done.json_lines()[0]["prompt"], prompt);
        }
    }
    let chat = ["--chat", "--system", "- brief", "--prompt", "a"];
    infer(&[&[tiny("llama").as_str()][..], &chat].concat())
        .run()
        .ok();
}

#[test]
fn byte_order_marks_are_no_part_of_prompts() {
    let line = || infer(&[&tiny("llama"), "--format", "json", "--max-tokens", "1"]);
    let done = line().stdin("\u{feff}a fox\u{feff}\n").run();
    assert_eq!(done.json_lines()[0]["prompt"], "a fox\u{feff}");
    let err = line().stdin("\u{feff}\n").run().failed(2);
    assert!(err.contains("holds no prompt"), "{err}");
}

#[cfg(unix)]
mod unix {
    use super::*;

    #[test]
    fn paths_need_not_be_text() {
        use std::os::unix::ffi::OsStrExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(std::ffi::OsStr::from_bytes(b"m\xff.gguf"));
        fs::copy(tiny("llama/model.gguf"), &path).unwrap();
        let run = |path: &std::path::Path| {
            assert_cmd::Command::new(env!("CARGO_BIN_EXE_rustml-infer"))
                .arg(path)
                .args(["--prompt", "a", "--max-tokens", "1"])
                .output()
                .unwrap()
        };
        let done = run(&path);
        assert!(done.status.success(), "{done:?}");
        let err = run(&path.with_extension("no")).stderr;
        let err = String::from_utf8_lossy(&err);
        assert!(err.contains("there is no file or directory"), "{err}");
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn results_that_nobody_can_get_are_an_error() {
        let line = infer(&[&tiny("llama"), "--prompt", "a", "--max-tokens", "1"]);
        let err = line.shell("exec \"$@\" >&-").failed(1);
        assert!(err.contains("standard output: it was closed"), "{err}");
    }

    /// A run that does not end by itself, of the tiny model.
    fn endless(args: &[&str]) -> Line {
        let model = tiny("llama");
        let line = [&model, "--prompt", "a fox", "--ctx-size", "200000"];
        let more = ["--max-tokens", "200000", "--temperature", "0"];
        infer(&[&line[..], &more, args].concat())
    }

    #[test]
    fn ctrl_c_ends_with_what_there_is() {
        for (signal, status) in [("INT", 130), ("TERM", 143)] {
            let mut running = endless(&["--quantize", "none", "--stream"]).start();
            let first = running.first_output();
            assert!(!first.is_empty());
            running.signal(signal);
            let done = running.end();
            assert_eq!(done.status, Some(status), "{}", done.err);
            assert!(done.out.ends_with('\n'));
            assert!(done.err.contains("Interrupted"), "{}", done.err);
            assert!(done.err.contains("Generated in "), "{}", done.err);
        }
    }

    #[test]
    fn ctrl_c_leaves_complete_json() {
        let line = endless(&["--quantize", "none", "--format", "json"]);
        let mut running = line.env("RUST_LOG", "rustml=debug").start();
        running.wait_for(" step 5: ");
        running.signal("INT");
        let done = running.end();
        assert_eq!(done.status, Some(130), "{}", done.err);
        let j: serde_json::Value = serde_json::from_str(&done.out).unwrap();
        assert_eq!(j["finish_reason"], "cancelled");
        assert!(j["generated_tokens"].as_u64().unwrap() > 0);
    }

    #[test]
    fn ctrl_c_while_waiting_for_the_prompt_ends_at_once() {
        let mut running = infer(&[&tiny("llama")]).start();
        std::thread::sleep(std::time::Duration::from_millis(500));
        // Waiting would close it, and end the command for another reason.
        let _stdin = running.0.stdin.take();
        running.signal("INT");
        let status = running.0.wait().unwrap();
        assert_eq!(status.code(), Some(130));
    }

    #[test]
    fn a_reader_that_goes_away_ends_it_quietly() {
        let mut running = endless(&["--stream"]).start();
        running.first_output();
        drop(running.0.stdout.take());
        let done = running.end();
        assert_eq!(done.status, Some(0), "{}", done.err);
        assert!(!done.err.contains("error"), "{}", done.err);
        // One that was never there, too.
        let line = infer(&[&tiny("llama"), "--prompt", "a", "--format", "json"]);
        let done = line.shell("\"$@\" | head -c 0");
        assert!(!done.err.contains("error"), "{}", done.err);
    }

    #[test]
    fn a_standard_output_that_cannot_be_written_is_an_error() {
        for script in [
            "exec \"$@\" > /dev/full",
            "exec \"$@\" --stream > /dev/full",
        ] {
            let line = infer(&[&tiny("llama"), "--prompt", "a"]);
            let err = line.shell(script).failed(1);
            assert!(err.contains("cannot write to standard output"), "{err}");
        }
    }

    #[test]
    fn a_standard_error_that_cannot_be_written_changes_nothing() {
        let args = ["--prompt", "a", "--seed", "3"];
        let line = || infer(&[&[tiny("llama").as_str()], &args[..]].concat());
        let text = line().run().ok();
        for script in [
            "exec \"$@\" 2> /dev/full",
            "exec \"$@\" 2>&-",
            "RUST_LOG=rustml=trace exec \"$@\" 2> /dev/full",
        ] {
            assert_eq!(line().shell(script).ok(), text, "{script}");
        }
        let line = infer(&["missing.gguf", "--prompt", "a"]);
        assert_eq!(line.shell("exec \"$@\" 2> /dev/full").status, Some(1));
    }

    #[test]
    fn a_real_model_can_be_stopped_too() {
        let Some(model) = real(SMOLLM2) else { return };
        let args = ["--prompt", "Once upon a time", "--stream", "--max-tokens"];
        let mut running = infer(&[&[model.as_str()], &args[..], &["8000"]].concat()).start();
        running.first_output();
        running.signal("INT");
        let done = running.end();
        assert_eq!(done.status, Some(130), "{}", done.err);
        assert!(repo("models").is_dir());
    }
}

/// A draft model with other tokens is refused by a sentence that names it.
#[test]
fn a_draft_model_has_the_same_vocabulary() {
    let err = refused(&["--prompt", "a", "--draft", &tiny("llama-tied")], 1);
    assert!(err.contains("llama-tied") && err.contains("320"), "{err}");
    refused(&["--prompt", "a", "--draft", "/nowhere/at/all"], 1);
}
