//! What a hub refuses, and what is refused of a hub.

mod common;

use common::{cache, gguf, holds_nothing, large, says, Reply, Server, COMMIT, FILE};
use rustml_hub::{Error, Hub};

#[test]
fn gated_private_and_refused() {
    let (server, cache) = (gguf(5000).0, cache());
    let page = format!("{}/org/name", server.url);
    let plain = server.hub(cache.path());
    let with_token = server.hub(cache.path()).token(Some("hf_secret")).unwrap();
    for status in [401, 403] {
        // The listing of a gated model is public; its files are not.
        server.hook(
            move |request, reply| match request.path.contains("/resolve/") {
                true => Reply::new(status, b"").with("X-Error-Code", "GatedRepo"),
                false => reply,
            },
        );
        let error = plain.resolve("org/name").unwrap_err();
        assert!(
            matches!(
                error,
                Error::Gated {
                    token_sent: false,
                    ..
                }
            ),
            "{error:?}"
        );
        says(
            &error,
            &["org/name", "accept the licence", &page, "set HF_TOKEN"],
        );
        let error = with_token.resolve("org/name").unwrap_err();
        assert!(
            matches!(
                error,
                Error::Gated {
                    token_sent: true,
                    ..
                }
            ),
            "{error:?}"
        );
        says(
            &error,
            &["accept the licence", "HF_TOKEN belongs to that account"],
        );

        server.hook(move |_, _| {
            Reply::new(status, b"").with("X-Error-Message", "Invalid credentials")
        });
        let error = plain.resolve("org/name").unwrap_err();
        says(
            &error,
            &[
                "does not exist",
                "private",
                "gated",
                &page,
                "HF_TOKEN",
                "credentials",
            ],
        );
        let error = with_token.resolve("org/name").unwrap_err();
        assert!(matches!(error, Error::Unauthorized { .. }), "{error:?}");
        says(&error, &["expired", "HF_TOKEN"]);
        assert!(!error.to_string().contains("secret"));
    }
    assert!(holds_nothing(cache.path()));
}

#[test]
fn missing_models_revisions_and_files() {
    let (server, cache) = (gguf(5000).0, cache());
    let hub = server.hub(cache.path());
    let error = hub.resolve("org/nome").unwrap_err();
    assert!(matches!(error, Error::NotFound { .. }), "{error:?}");
    says(
        &error,
        &["org/nome", "check the spelling", "did you mean a path?"],
    );
    let error = hub.resolve("org/name@v9").unwrap_err();
    assert!(
        matches!(&error, Error::NoRevision { revision, .. } if revision == "v9"),
        "{error:?}"
    );
    says(&error, &["org/name", "v9", "leave out"]);
    for name in ["org/name:Q8_0", "org/name/other.gguf"] {
        let error = hub.resolve(name).unwrap_err();
        assert!(matches!(error, Error::NoFile { .. }), "{error:?}");
        says(&error, &["org/name", FILE]);
    }
    // Not every mirror sends codes.
    server.hook(|_, _| Reply::new(404, b"<html>"));
    assert!(matches!(hub.resolve("org/x"), Err(Error::NotFound { .. })));
}

#[test]
fn the_choice_among_several_files_is_left_to_people() {
    let (server, cache) = (Server::start(), cache());
    server.put(
        "org/name",
        COMMIT,
        &[("m-Q3_K_S.gguf", b"3"), ("m-Q6_K.gguf", b"6")],
    );
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(
        matches!(&error, Error::Ambiguous { candidates, .. } if candidates.len() == 2),
        "{error:?}"
    );
    says(&error, &["m-Q3_K_S.gguf, m-Q6_K.gguf", "org/name:TAG"]);
}

#[test]
fn formats_that_are_not_read() {
    let (server, cache) = (Server::start(), cache());
    server.put(
        "org/name",
        COMMIT,
        &[
            ("config.json", b"{}"),
            ("pytorch_model.bin", b"x"),
            ("m.onnx", b"x"),
        ],
    );
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(matches!(error, Error::Unsupported { .. }), "{error:?}");
    says(&error, &["org/name", "PyTorch, ONNX", "GGUF"]);
    assert_eq!(server.requests().len(), 1, "nothing was downloaded");
}

#[test]
fn too_many_requests() {
    let (server, cache) = (gguf(5000).0, cache());
    let hub = server.hub(cache.path());
    server.hook(|_, _| Reply::new(429, b"").with("Retry-After", 120));
    let error = hub.resolve("org/name").unwrap_err();
    assert!(
        matches!(
            error,
            Error::RateLimited {
                wait: Some(120),
                ..
            }
        ),
        "{error:?}"
    );
    says(&error, &["429", "in 120 s", "HF_TOKEN"]);
    assert_eq!(server.requests().len(), 1, "nobody waits for two minutes");

    let mut refusals = 2;
    server.hook(move |_, reply| match refusals {
        0 => reply,
        _ => {
            refusals -= 1;
            Reply::new(429, b"").with("Retry-After", 0)
        }
    });
    hub.resolve("org/name").unwrap();
}

#[test]
fn evil_names_write_nothing() {
    let evil = [
        "../../../evil-Q4_K_M.gguf",
        "/tmp/evil-Q4_K_M.gguf",
        "a/../../evil-Q4_K_M.gguf",
        "..\\..\\evil-Q4_K_M.gguf",
        "C:/evil-Q4_K_M.gguf",
        "evil\u{0}-Q4_K_M.gguf",
        "evil\u{1b}[2J-Q4_K_M.gguf",
    ];
    for name in evil {
        let (server, cache) = (Server::start(), cache());
        server.put("org/name", COMMIT, &[(name, &large(1, 5000))]);
        let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
        assert!(
            matches!(error, Error::UnsafeFileName { .. }),
            "{name:?}: {error:?}"
        );
        says(&error, &["nothing was written"]);
        assert!(holds_nothing(cache.path()));
        assert_eq!(server.requests().len(), 1, "{name:?} was not asked for");
    }
    for name in ["../../../evil.safetensors", "/tmp/evil.safetensors"] {
        let (server, cache) = (Server::start(), cache());
        let index = format!(r#"{{"weight_map":{{"a":"{name}"}}}}"#);
        let files: &[(&str, &[u8])] = &[
            ("config.json", b"{}"),
            ("tokenizer.json", b"{}"),
            ("model.safetensors.index.json", index.as_bytes()),
            (name, b"evil"),
        ];
        server.put("org/name", COMMIT, files);
        let error = server
            .hub(&cache.path().join("hub"))
            .resolve("org/name")
            .unwrap_err();
        assert!(
            matches!(error, Error::UnsafeFileName { .. }),
            "{name:?}: {error:?}"
        );
        assert!(!cache
            .path()
            .parent()
            .unwrap()
            .join("evil.safetensors")
            .exists());
    }
}

#[test]
fn an_index_that_names_missing_shards() {
    let (server, cache) = (Server::start(), cache());
    let index = br#"{"weight_map":{"a":"model-00001-of-00009.safetensors"}}"#;
    server.put(
        "org/name",
        COMMIT,
        &[
            ("config.json", b"{}"),
            ("model.safetensors.index.json", index),
        ],
    );
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    says(
        &error,
        &["model-00001-of-00009.safetensors", "does not have"],
    );
}

#[test]
fn answers_that_are_no_hubs() {
    type Change = Box<dyn Fn(Reply) -> Reply + Send>;
    let listing = |body: &'static str| -> (bool, Change) {
        (false, Box::new(move |_| Reply::new(200, body.as_bytes())))
    };
    let file = |name: &'static str, value: &'static str| -> (bool, Change) {
        (true, Box::new(move |reply: Reply| reply.with(name, value)))
    };
    let cases = [
        listing("<html>welcome to the hotel</html>"),
        listing("{}"),
        listing(r#"{"sha":"../../x","siblings":[]}"#),
        listing(r#"{"sha":"main","siblings":[]}"#),
        file("X-Linked-ETag", "\"../../../evil\""),
        file("X-Linked-ETag", "\"\""),
        file("X-Repo-Commit", "fedcba9876543210fedcba9876543210fedcba98"),
        file("Location", "ftp://127.0.0.1/x"),
        file("Location", ""),
    ];
    for (index, (of_file, change)) in cases.into_iter().enumerate() {
        let (server, cache) = (gguf(5000).0, cache());
        server.hook(move |request, reply| {
            match request.path.contains("/resolve/") == of_file && !request.storage {
                true => change(reply),
                false => reply,
            }
        });
        let error = server
            .hub(&cache.path().join("hub"))
            .resolve("org/name")
            .unwrap_err();
        assert!(
            matches!(error, Error::BadAnswer { .. }),
            "{index}: {error:?}"
        );
        says(&error, &["HF_ENDPOINT"]);
        assert!(!cache.path().join("evil").exists());
    }
}

#[test]
fn redirects_end() {
    let (server, cache) = (gguf(5000).0, cache());
    server.hook(|request, _| Reply::new(302, b"").with("Location", &request.path));
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
    assert_eq!(server.requests().len(), 10);
}

#[test]
fn bytes_that_were_compressed_on_the_way() {
    let (server, cache) = (gguf(5000).0, cache());
    server.hook(|request, reply| match request.storage {
        true => reply.with("Content-Encoding", "gzip"),
        false => reply,
    });
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    says(&error, &["gzip"]);
}

#[test]
fn offline_and_not_in_the_cache() {
    let (server, cache) = (gguf(5000).0, cache());
    let hub = server.hub(cache.path()).offline(true);
    for call in [Hub::resolve, Hub::pull] {
        let error = call(&hub, "org/name").unwrap_err();
        assert!(matches!(error, Error::Offline { .. }), "{error:?}");
        says(&error, &["org/name", "unset HF_HUB_OFFLINE", "local model"]);
    }
    assert_eq!(server.requests().len(), 0);
}
