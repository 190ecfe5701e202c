//! Listing and removing.

mod common;

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use common::{etag, large, sha256, Server, COMMIT, NEWER};
use rustml_hub::{Error, Hub};

const CONFIG: &[u8] = b"{}";

/// Two models; the first in two revisions that share config and tokenizer.
fn filled(cache: &Path) -> (Server, Hub) {
    let server = Server::start();
    let hub = server.hub(cache);
    for (commit, seed) in [(COMMIT, 1), (NEWER, 2)] {
        let files: &[(&str, &[u8])] = &[
            ("config.json", CONFIG),
            ("tokenizer.json", b"{ }"),
            ("model.safetensors", &large(seed, 5000)),
        ];
        server.put("org/name", commit, files);
        hub.pull("org/name").unwrap();
    }
    let files: &[(&str, &[u8])] = &[
        ("m-Q4_K_M.gguf", &large(3, 4000)),
        ("m-Q6_K.gguf", &large(4, 6000)),
    ];
    server.put("org/gguf", COMMIT, files);
    hub.pull("org/gguf:Q4_K_M").unwrap();
    hub.pull("org/gguf:Q6_K").unwrap();
    (server, hub)
}

/// Bytes of plain files below a directory.
fn disk(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else {
        return 0;
    };
    let size = |entry: fs::DirEntry| match entry.metadata().unwrap() {
        meta if meta.is_dir() => disk(&entry.path()),
        meta if meta.is_file() => meta.len(),
        _ => 0,
    };
    entries.flatten().map(size).sum()
}

#[test]
fn what_is_in_the_cache() {
    let cache = tempfile::tempdir().unwrap();
    let (server, hub) = filled(cache.path());
    // Neighbours that are none of ours.
    fs::create_dir_all(cache.path().join("datasets--org--data/blobs")).unwrap();
    fs::create_dir_all(cache.path().join("models--..--x")).unwrap();
    fs::write(cache.path().join("version.txt"), "1").unwrap();

    let models = hub.list().unwrap();
    assert_eq!(
        models.iter().map(|m| m.name.as_str()).collect::<Vec<_>>(),
        ["org/gguf", "org/name"]
    );
    let [gguf, name] = &models[..] else { panic!() };
    assert_eq!(gguf.bytes, 10_000);
    assert_eq!(gguf.problem, None, "each file can be named");
    assert_eq!(name.bytes, 10_000 + 2 + 3, "shared blobs count once");
    assert_eq!(name.path, cache.path().join("models--org--name"));
    assert_eq!(name.problem, None);
    let age = SystemTime::now().duration_since(name.last_used.unwrap());
    assert!(age.is_ok_and(|age| age.as_secs() < 600));
    let [old, new] = &name.revisions[..] else {
        panic!()
    };
    assert_eq!((old.commit.as_str(), old.refs.len()), (COMMIT, 0));
    assert_eq!(
        (new.commit.as_str(), &new.refs[..]),
        (NEWER, &["main".to_string()][..])
    );
    let files: Vec<_> = new
        .files
        .iter()
        .map(|f| (f.name.as_str(), f.bytes))
        .collect();
    assert_eq!(
        files,
        [
            ("config.json", 2),
            ("model.safetensors", 5000),
            ("tokenizer.json", 3)
        ]
    );

    let requests = server.requests().len();
    hub.list().unwrap();
    assert_eq!(server.requests().len(), 0, "{requests} before");
}

#[test]
fn what_cannot_be_run_says_why() {
    let cache = tempfile::tempdir().unwrap();
    let put = |repo: &str, file: &str| {
        let snapshot = cache.path().join(repo).join("snapshots").join(COMMIT);
        fs::create_dir_all(&snapshot).unwrap();
        fs::write(snapshot.join(file), "x").unwrap();
    };
    put("models--a--torch", "pytorch_model.bin");
    put("models--b--half", "config.json");
    fs::create_dir_all(cache.path().join("models--c--empty")).unwrap();
    let server = Server::start();
    let models = server.hub(cache.path()).list().unwrap();
    let problems: Vec<_> = models
        .iter()
        .map(|m| m.problem.as_deref().unwrap())
        .collect();
    assert!(problems[0].contains("PyTorch"), "{problems:?}");
    assert!(problems[1].contains("no weights"), "{problems:?}");
    assert!(problems[2].contains("nothing"), "{problems:?}");
}

#[test]
fn an_empty_or_absent_cache() {
    let cache = tempfile::tempdir().unwrap();
    let server = Server::start();
    assert_eq!(server.hub(cache.path()).list().unwrap(), []);
    assert_eq!(server.hub(&cache.path().join("none")).list().unwrap(), []);
    let file = cache.path().join("file");
    fs::write(&file, "").unwrap();
    assert!(matches!(server.hub(&file).list(), Err(Error::Io { .. })));
}

#[test]
fn a_whole_model_is_removed() {
    let cache = tempfile::tempdir().unwrap();
    let (_server, hub) = filled(cache.path());
    let before = disk(cache.path());
    let removed = hub.remove("org/name").unwrap();
    assert!(!cache.path().join("models--org--name").exists());
    assert!(!cache.path().join(".locks/models--org--name").exists());
    assert_eq!(before - disk(cache.path()), removed.bytes);
    assert!(removed.bytes > 10_000);
    assert_eq!(hub.list().unwrap().len(), 1);
    assert!(matches!(
        hub.remove("org/name"),
        Err(Error::NotCached { .. })
    ));
}

#[test]
fn one_revision_is_removed_without_hurting_the_other() {
    let cache = tempfile::tempdir().unwrap();
    let (_server, hub) = filled(cache.path());
    let repo = cache.path().join("models--org--name");
    let removed = hub.remove(&format!("org/name@{COMMIT}")).unwrap();
    assert_eq!(removed.bytes, 5000, "config and tokenizer are still in use");
    assert!(!repo.join("snapshots").join(COMMIT).exists());
    assert!(!repo.join("blobs").join(sha256(&large(1, 5000))).exists());
    assert!(repo.join("blobs").join(etag(CONFIG)).exists());
    let path = hub.resolve("org/name").unwrap();
    assert_eq!(
        fs::read(path.join("model.safetensors")).unwrap(),
        large(2, 5000)
    );

    let removed = hub.remove("org/name@main").unwrap();
    assert_eq!(removed.bytes, 5005);
    assert!(!repo.join("refs/main").exists());
    assert!(matches!(
        hub.remove("org/name@main"),
        Err(Error::NotCached { .. })
    ));
}

#[test]
fn one_gguf_file_is_removed() {
    let cache = tempfile::tempdir().unwrap();
    let (_server, hub) = filled(cache.path());
    assert_eq!(hub.remove("org/gguf:Q6_K").unwrap().bytes, 6000);
    assert_eq!(hub.remove("org/gguf/m-Q4_K_M.gguf").unwrap().bytes, 4000);
    assert!(matches!(
        hub.remove("org/gguf:Q6_K"),
        Err(Error::NotCached { .. })
    ));
}

#[test]
fn nothing_outside_the_cache_is_removed() {
    let dir = tempfile::tempdir().unwrap();
    let cache = dir.path().join("hub");
    let (_server, hub) = filled(&cache);
    let outside = dir.path().join("models--org--outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    for name in [
        "../models--org--outside",
        "/etc",
        "..",
        ".",
        "org/..",
        "",
        "~",
        "org/none",
    ] {
        let error = hub.remove(name).unwrap_err();
        assert!(
            matches!(error, Error::NotCached { .. } | Error::BadName { .. }),
            "{name}: {error:?}"
        );
    }
    let path = outside.to_str().unwrap();
    assert!(matches!(hub.remove(path), Err(Error::NotCached { .. })));

    #[cfg(unix)]
    {
        use std::os::unix::fs::symlink;
        // A model that is a link, a snapshot file and a blob that lead out.
        symlink(&outside, cache.join("models--org--link")).unwrap();
        assert!(matches!(hub.remove("org/link"), Err(Error::Io { .. })));
        let repo = cache.join("models--org--gguf");
        symlink(
            outside.join("precious"),
            repo.join("snapshots").join(COMMIT).join("x-Q2_K.gguf"),
        )
        .unwrap();
        symlink(outside.join("precious"), repo.join("blobs/shared")).unwrap();
        assert_eq!(hub.remove("org/gguf:Q2_K").unwrap().bytes, 0);
        assert_eq!(hub.remove("org/gguf").unwrap().bytes, 10_000 + 40);
    }
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"x");
}

#[test]
fn a_model_that_is_being_downloaded_stays() {
    let cache = tempfile::tempdir().unwrap();
    let (_server, hub) = filled(cache.path());
    let locks = cache.path().join(".locks/models--org--name");
    let path = fs::read_dir(&locks)
        .unwrap()
        .next()
        .unwrap()
        .unwrap()
        .path();
    let lock = fs::File::open(path).unwrap();
    lock.lock().unwrap();
    assert!(matches!(hub.remove("org/name"), Err(Error::Busy { .. })));
    assert!(hub.resolve("org/name").is_ok());
    drop(lock);
    hub.remove("org/name").unwrap();
}
