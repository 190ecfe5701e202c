//! The ways a name becomes files when nothing is wrong.

mod common;

use std::fs;
use std::path::{Path, PathBuf};

use common::{etag, large, quiet, sha256, Reply, Server, COMMIT, NEWER};
use rustml_hub::{Error, Hub};

fn cache() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn read(path: impl AsRef<Path>) -> Vec<u8> {
    fs::read(path).unwrap()
}

/// `model--...` directory of `org/name`.
fn repo(cache: &tempfile::TempDir) -> PathBuf {
    cache.path().join("models--org--name")
}

const CONFIG: &[u8] = b"{\"model_type\":\"llama\"}";
const TOKENIZER: &[u8] = b"{\"version\":\"1.0\"}";
const TEMPLATED: &[u8] = b"{\"chat_template\":\"x\"}";

/// A repository as the hub has them: our files and everybody else's.
fn put_safetensors(server: &Server, weights: &[u8]) {
    let files: &[(&str, &[u8])] = &[
        (".gitattributes", b"x"),
        ("README.md", b"# A model"),
        ("chat_template.jinja", b"{{ messages }}"),
        ("config.json", CONFIG),
        ("flax_model.msgpack", b"no"),
        ("generation_config.json", b"{}"),
        ("model.safetensors", weights),
        ("onnx/model.onnx", b"no"),
        ("pytorch_model.bin", b"no"),
        ("special_tokens_map.json", b"{ }"),
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", b"{  }"),
    ];
    server.put("org/name", COMMIT, files);
}

#[test]
fn a_safetensors_model_in_the_shared_layout() {
    let (server, cache) = (Server::start(), cache());
    let weights = large(1, 300_000);
    put_safetensors(&server, &weights);
    let path = server.hub(cache.path()).resolve("org/name").unwrap();

    assert_eq!(path, repo(&cache).join("snapshots").join(COMMIT));
    assert_eq!(read(path.join("config.json")), CONFIG);
    assert_eq!(read(path.join("model.safetensors")), weights);
    let mut names: Vec<_> = fs::read_dir(&path)
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    names.sort();
    let expected = [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "special_tokens_map.json",
        "tokenizer.json",
        "tokenizer_config.json",
    ];
    assert_eq!(names, expected);
    assert_eq!(read(repo(&cache).join("refs/main")), COMMIT.as_bytes());
    assert_eq!(
        read(repo(&cache).join("blobs").join(sha256(&weights))),
        weights
    );
    assert_eq!(read(repo(&cache).join("blobs").join(etag(CONFIG))), CONFIG);
    #[cfg(unix)]
    {
        let link = fs::read_link(path.join("model.safetensors")).unwrap();
        assert_eq!(link, Path::new("../../blobs").join(sha256(&weights)));
    }

    let requests = server.requests();
    assert_eq!(requests[0].path, "/api/models/org/name/revision/main");
    for request in &requests {
        assert!(
            !request.path.contains("pytorch") && !request.path.contains("onnx"),
            "{request:?}"
        );
        assert_eq!(request.header("accept-encoding"), Some("identity"));
        assert_eq!(request.header("authorization"), None);
    }
    // A listing, 7 looks, 7 downloads of which one is sent on to the storage.
    assert_eq!(requests.len(), 1 + 7 + 7 + 1);
    let blobs = fs::read_dir(repo(&cache).join("blobs")).unwrap().count();
    assert_eq!(blobs, 7, "no unfinished files are left");
}

#[test]
fn the_second_time_nobody_is_asked() {
    let (server, cache) = (Server::start(), cache());
    put_safetensors(&server, &large(1, 5000));
    let hub = server.hub(cache.path());
    let path = hub.resolve("org/name").unwrap();
    server.requests();
    assert_eq!(hub.resolve("org/name").unwrap(), path);
    assert_eq!(hub.resolve("org/name@main").unwrap(), path);
    assert_eq!(hub.resolve(&format!("org/name@{COMMIT}")).unwrap(), path);
    let offline = server.hub(cache.path()).offline(true);
    assert_eq!(offline.resolve("org/name").unwrap(), path);
    assert_eq!(server.requests().len(), 0);
    assert!(matches!(
        offline.pull("org/name"),
        Err(Error::Offline { .. })
    ));
}

#[test]
fn a_commit_can_be_asked_for_and_leaves_no_ref() {
    let (server, cache) = (Server::start(), cache());
    put_safetensors(&server, &large(1, 5000));
    let name = format!("org/name@{COMMIT}");
    let path = server.hub(cache.path()).resolve(&name).unwrap();
    assert!(path.ends_with(COMMIT));
    assert!(!repo(&cache).join("refs").exists());
    server.requests();
    assert_eq!(server.hub(cache.path()).resolve(&name).unwrap(), path);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_sharded_model_through_its_index() {
    let (server, cache) = (Server::start(), cache());
    let (one, two) = (large(1, 4000), large(2, 6000));
    let index = br#"{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors",
        "b":"model-00002-of-00002.safetensors","c":"model-00001-of-00002.safetensors"}}"#;
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors.index.json", index),
        ("model-00001-of-00002.safetensors", &one),
        ("model-00002-of-00002.safetensors", &two),
        ("consolidated.safetensors", b"no"),
    ];
    server.put("org/name", COMMIT, files);
    let hub = server.hub(cache.path());
    let path = hub.resolve("org/name").unwrap();
    assert_eq!(read(path.join("model-00001-of-00002.safetensors")), one);
    assert_eq!(read(path.join("model-00002-of-00002.safetensors")), two);
    assert!(!path.join("consolidated.safetensors").exists());
    server.requests();
    assert_eq!(hub.resolve("org/name").unwrap(), path);
    assert_eq!(server.requests().len(), 0);

    // Without a shard the cache does not do, and only that shard is fetched.
    fs::remove_file(repo(&cache).join("blobs").join(sha256(&two))).unwrap();
    assert_eq!(hub.resolve("org/name").unwrap(), path);
    let gets = server.requests().into_iter().filter(|r| r.storage);
    assert_eq!(
        gets.map(|r| r.path).collect::<Vec<_>>(),
        [format!("/storage/{}", sha256(&two))]
    );
}

#[test]
fn gguf_files_by_tag_by_name_and_by_default() {
    let (server, cache) = (Server::start(), cache());
    let (q3, q4, q8) = (large(3, 3000), large(4, 4000), large(8, 8000));
    let files: &[(&str, &[u8])] = &[
        ("README.md", b"x"),
        ("config.json", b"{}"),
        ("m-Q3_K_M.gguf", &q3),
        ("m-Q4_K_M.gguf", &q4),
        ("sub dir/m-Q8_0.gguf", &q8),
    ];
    server.put("org/name", COMMIT, files);
    let hub = server.hub(cache.path());
    let snapshot = repo(&cache).join("snapshots").join(COMMIT);

    let path = hub.resolve("org/name:q8_0").unwrap();
    assert_eq!(path, snapshot.join("sub dir/m-Q8_0.gguf"));
    assert_eq!(read(&path), q8);
    // What a cached file can serve is not downloaded ...
    server.requests();
    assert_eq!(hub.resolve("org/name").unwrap(), path);
    assert_eq!(server.requests().len(), 0);
    // ... but pulling asks for the usual choice.
    let path = hub.pull("org/name").unwrap();
    assert_eq!(path, snapshot.join("m-Q4_K_M.gguf"));
    assert_eq!(read(&path), q4);
    assert!(!snapshot.join("config.json").exists());
    let path = hub.resolve("org/name/m-Q3_K_M.gguf").unwrap();
    assert_eq!(read(&path), q3);
    assert_eq!(
        hub.resolve("org/name").unwrap(),
        snapshot.join("m-Q4_K_M.gguf")
    );
    let page = format!("{}/org/name/blob/main/m-Q3_K_M.gguf", server.url);
    assert_eq!(hub.resolve(&page).unwrap(), path);
}

#[test]
fn a_split_gguf_is_fetched_whole() {
    let (server, cache) = (Server::start(), cache());
    let (one, two) = (large(1, 3000), large(2, 4000));
    let files: &[(&str, &[u8])] = &[
        ("m-Q4_K_M-00001-of-00002.gguf", &one),
        ("m-Q4_K_M-00002-of-00002.gguf", &two),
    ];
    server.put("org/name", COMMIT, files);
    let path = server.hub(cache.path()).resolve("org/name").unwrap();
    assert_eq!(read(&path), one);
    assert_eq!(
        read(path.with_file_name("m-Q4_K_M-00002-of-00002.gguf")),
        two
    );
}

#[test]
fn pulling_fetches_only_what_changed() {
    let (server, cache) = (Server::start(), cache());
    let (old, new) = (large(1, 5000), large(2, 5000));
    put_safetensors(&server, &old);
    let hub = server.hub(cache.path());
    let before = hub.resolve("org/name").unwrap();
    put_safetensors(&server, &new);
    server.state().repos.get_mut("org/name").unwrap().commit = NEWER.into();
    assert_eq!(hub.resolve("org/name").unwrap(), before);
    server.requests();
    let after = hub.pull("org/name").unwrap();
    assert!(after.ends_with(NEWER));
    assert_eq!(read(after.join("model.safetensors")), new);
    assert_eq!(read(before.join("model.safetensors")), old);
    let gets = server
        .requests()
        .into_iter()
        .filter(|r| !r.looks() && r.path.contains("/resolve/"));
    let gets: Vec<_> = gets.map(|r| r.path).collect();
    assert_eq!(
        gets,
        [format!("/org/name/resolve/{NEWER}/model.safetensors")]
    );
    assert_eq!(hub.resolve("org/name").unwrap(), after);
}

#[test]
fn a_failed_pull_leaves_the_old_snapshot_in_use() {
    let (server, cache) = (Server::start(), cache());
    put_safetensors(&server, &large(1, 5000));
    let hub = server.hub(cache.path());
    let before = hub.resolve("org/name").unwrap();
    put_safetensors(&server, &large(2, 5000));
    server.state().repos.get_mut("org/name").unwrap().commit = NEWER.into();
    server.hook(|request, reply| {
        if request.storage {
            Reply::new(403, b"")
        } else {
            reply
        }
    });
    assert!(matches!(
        hub.pull("org/name"),
        Err(Error::Server { status: 403, .. })
    ));
    assert_eq!(hub.resolve("org/name").unwrap(), before);
}

#[test]
fn the_token_goes_to_the_hub_alone() {
    let (server, cache) = (Server::start(), cache());
    put_safetensors(&server, &large(1, 5000));
    let hub = server.hub(cache.path()).token(Some("hf_secret")).unwrap();
    hub.resolve("org/name").unwrap();
    let requests = server.requests();
    assert!(requests.iter().any(|r| r.storage));
    for request in &requests {
        let expected = if request.storage {
            None
        } else {
            Some("Bearer hf_secret")
        };
        assert_eq!(request.header("authorization"), expected, "{request:?}");
    }
    assert!(!format!("{hub:?}").contains("secret"));
}

#[test]
fn a_renamed_model_is_followed() {
    let (server, cache) = (Server::start(), cache());
    put_safetensors(&server, &large(1, 5000));
    server.hook(|request, reply| match request.path.contains("old/name") {
        true => Reply::new(307, b"").with("Location", request.path.replace("old/name", "org/name")),
        false => reply,
    });
    let hub = server.hub(cache.path()).token(Some("hf_secret")).unwrap();
    let path = hub.resolve("old/name").unwrap();
    assert!(path.starts_with(cache.path().join("models--old--name")));
    let to_hub = server.requests().into_iter().filter(|r| !r.storage);
    assert!(to_hub
        .into_iter()
        .all(|r| r.header("authorization").is_some()));
}

/// As `huggingface_hub` lays files out, by links or (on Windows) without.
fn foreign_cache(cache: &Path, links: bool) -> PathBuf {
    let repo = cache.join("models--org--name");
    let snapshot = repo.join("snapshots").join(COMMIT);
    fs::create_dir_all(&snapshot).unwrap();
    fs::create_dir_all(repo.join("blobs")).unwrap();
    fs::create_dir_all(repo.join("refs")).unwrap();
    fs::write(repo.join("refs/main"), COMMIT).unwrap();
    for (file, content) in [
        ("config.json", CONFIG),
        ("generation_config.json", b"{}"),
        ("tokenizer.json", TOKENIZER),
        ("tokenizer_config.json", TEMPLATED),
        ("model.safetensors", b"w"),
    ] {
        if links {
            fs::write(repo.join("blobs").join(etag(content)), content).unwrap();
            #[cfg(unix)]
            std::os::unix::fs::symlink(
                Path::new("../../blobs").join(etag(content)),
                snapshot.join(file),
            )
            .unwrap();
            #[cfg(windows)]
            std::os::windows::fs::symlink_file(
                Path::new("..\\..\\blobs").join(etag(content)),
                snapshot.join(file),
            )
            .unwrap();
        } else {
            fs::write(snapshot.join(file), content).unwrap();
        }
    }
    snapshot
}

#[test]
fn models_of_other_tools_are_found() {
    for links in [true, false] {
        let (server, cache) = (Server::start(), cache());
        let snapshot = foreign_cache(cache.path(), links);
        let hub = server.hub(cache.path());
        assert_eq!(hub.resolve("org/name").unwrap(), snapshot);
        assert_eq!(server.requests().len(), 0);
        assert_eq!(hub.list().unwrap()[0].problem, None);

        // Without a weight file it is not complete.
        fs::remove_file(snapshot.join("model.safetensors")).unwrap();
        let error = server
            .hub(cache.path())
            .offline(true)
            .resolve("org/name")
            .unwrap_err();
        assert!(matches!(error, Error::Offline { .. }), "{error}");
    }
}

#[test]
fn files_without_links_are_not_downloaded_again() {
    let (server, cache) = (Server::start(), cache());
    let snapshot = foreign_cache(cache.path(), false);
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("special_tokens_map.json", b"{}"),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors", b"w"),
    ];
    server.put("org/name", COMMIT, files);
    assert_eq!(server.hub(cache.path()).pull("org/name").unwrap(), snapshot);
    let gets: Vec<_> = server
        .requests()
        .into_iter()
        .filter(|r| !r.looks())
        .collect();
    assert_eq!(gets.len(), 2, "the listing and the one new file: {gets:?}");
}

#[test]
fn a_snapshot_without_tokenizer_is_completed_or_used_as_it_is() {
    let (server, cache) = (Server::start(), cache());
    let snapshot = foreign_cache(cache.path(), true);
    fs::remove_file(snapshot.join("tokenizer.json")).unwrap();
    assert_eq!(
        server
            .hub(cache.path())
            .offline(true)
            .resolve("org/name")
            .unwrap(),
        snapshot
    );
    server.hook(|_, _| Reply::new(503, b""));
    assert_eq!(
        server.hub(cache.path()).resolve("org/name").unwrap(),
        snapshot
    );
    server.unhook();
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors", b"w"),
    ];
    server.put("org/name", COMMIT, files);
    assert_eq!(
        server.hub(cache.path()).resolve("org/name").unwrap(),
        snapshot
    );
    assert_eq!(read(snapshot.join("tokenizer.json")), TOKENIZER);
}

#[test]
fn a_snapshot_without_the_files_that_end_and_chat_is_completed_at_its_commit() {
    let (server, cache) = (Server::start(), cache());
    let snapshot = foreign_cache(cache.path(), true);
    let (generation, tokenizer) = ("generation_config.json", "tokenizer_config.json");
    for file in [generation, tokenizer] {
        fs::remove_file(snapshot.join(file)).unwrap();
    }
    // Out of reach, offline, or no longer there: it is used as it is.
    let hub = server.hub(cache.path());
    assert_eq!(hub.resolve("org/name").unwrap(), snapshot);
    assert!(!server.requests().is_empty(), "the hub was asked");
    let offline = server.hub(cache.path()).offline(true);
    assert_eq!(offline.resolve("org/name").unwrap(), snapshot);
    assert_eq!(server.requests().len(), 0);

    let files: &[(&str, &[u8])] = &[
        ("chat_template.jinja", b"{{ messages }}"),
        ("config.json", CONFIG),
        (generation, b"{ }"),
        ("tokenizer.json", TOKENIZER),
        ("model.safetensors", b"w"),
    ];
    server.put("org/name", COMMIT, files);
    assert_eq!(hub.resolve("org/name").unwrap(), snapshot);
    assert_eq!(read(snapshot.join(generation)), b"{ }");
    let template = read(snapshot.join("chat_template.jinja"));
    assert_eq!(template, b"{{ messages }}");
    assert!(!snapshot.join(tokenizer).exists());
    // The hub has no more, and that is remembered.
    server.requests();
    assert_eq!(hub.resolve("org/name").unwrap(), snapshot);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn a_model_that_has_no_tokenizer_is_asked_about_once() {
    let (server, cache) = (Server::start(), cache());
    let files: &[(&str, &[u8])] = &[("config.json", CONFIG), ("model.safetensors", b"w")];
    server.put("org/name", COMMIT, files);
    let hub = server.hub(cache.path());
    let path = hub.resolve("org/name").unwrap();
    server.requests();
    assert_eq!(hub.resolve("org/name").unwrap(), path);
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn empty_files_and_mirrors_that_know_no_ranges() {
    let (server, cache) = (Server::start(), cache());
    let files: &[(&str, &[u8])] = &[
        ("config.json", CONFIG),
        ("special_tokens_map.json", b""),
        ("model.safetensors", b"w"),
    ];
    server.put("org/name", COMMIT, files);
    server.hook(|request, mut reply| {
        if request.path.ends_with("config.json") {
            reply = Reply {
                headers: reply.headers,
                ..Reply::new(200, CONFIG)
            };
            reply.headers.retain(|(name, _)| name != "Content-Range");
        }
        reply
    });
    let path = server.hub(cache.path()).resolve("org/name").unwrap();
    assert_eq!(read(path.join("config.json")), CONFIG);
    assert_eq!(read(path.join("special_tokens_map.json")), b"");
}

#[test]
fn two_downloads_at_once_share_the_work() {
    let (server, cache) = (Server::start(), cache());
    let weights = large(1, 200_000);
    put_safetensors(&server, &weights);
    let paths: Vec<PathBuf> = std::thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| server.hub(cache.path()).resolve("org/name").unwrap()))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap()).collect()
    });
    for path in paths {
        assert_eq!(read(path.join("model.safetensors")), weights);
    }
    let whole = server.requests().into_iter().filter(|r| r.storage).count();
    assert_eq!(whole, 1, "the others waited for the first");
}

#[test]
fn local_paths_come_first() {
    let (server, cache) = (Server::start(), cache());
    let hub = server.hub(cache.path());
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let show = |name: &str| path(name).to_str().unwrap().to_owned();

    fs::create_dir(path("empty")).unwrap();
    let error = hub.resolve(&show("empty")).unwrap_err();
    assert!(matches!(error, Error::NotAModel { .. }), "{error}");

    fs::create_dir(path("st")).unwrap();
    for file in ["config.json", "model.safetensors"] {
        fs::write(path("st").join(file), "x").unwrap();
    }
    assert_eq!(hub.resolve(&show("st")).unwrap(), path("st"));

    fs::create_dir(path("gguf")).unwrap();
    for file in ["a-Q5_K_M.gguf", "a-Q6_K.gguf"] {
        fs::write(path("gguf").join(file), "x").unwrap();
    }
    let error = hub.resolve(&show("gguf")).unwrap_err().to_string();
    assert!(error.contains("a-Q5_K_M.gguf, a-Q6_K.gguf"), "{error}");
    assert_eq!(
        hub.resolve(&show("gguf:Q6_K")).unwrap(),
        path("gguf/a-Q6_K.gguf")
    );
    assert_eq!(
        hub.resolve(&show("gguf/a-Q5_K_M.gguf")).unwrap(),
        path("gguf/a-Q5_K_M.gguf")
    );
    let error = hub.resolve(&show("gguf/none.gguf")).unwrap_err();
    assert!(matches!(error, Error::NoSuchPath { .. }), "{error}");
    assert_eq!(server.requests().len(), 0);
}

#[test]
fn the_environment_is_read() {
    // Only that it does not fail here: what it reads is tested beside it.
    let hub = quiet(Hub::from_env().unwrap());
    assert!(!hub.cache().as_os_str().is_empty());
}
