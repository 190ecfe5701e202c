//! What can go wrong on the way, and that it is said well.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::time::Duration;

use common::{cache, etag, gguf, holds_nothing, quiet, says, sha256, Reply, Server, COMMIT, FILE};
use rustml_hub::{Error, Hub, Unreachable};

fn incomplete(cache: &Path, content: &[u8]) -> PathBuf {
    let blobs = cache.join("models--org--name/blobs");
    blobs.join(format!("{}.incomplete", sha256(content)))
}

#[test]
fn a_server_in_trouble_is_asked_again() {
    let (server, content) = gguf(5000);
    for status in [500, 502, 503] {
        let cache = cache();
        // Everything fails once.
        let mut seen = BTreeSet::new();
        server.hook(move |request, reply| {
            let new = seen.insert((request.looks(), request.path.clone()));
            if new {
                Reply::new(status, b"oops")
            } else {
                reply
            }
        });
        let path = server.hub(cache.path()).resolve("org/name").unwrap();
        assert_eq!(fs::read(path).unwrap(), content);
    }
    let cache = cache();
    server.requests();
    server.hook(|_, _| Reply::new(500, b""));
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(
        matches!(error, Error::Server { status: 500, .. }),
        "{error:?}"
    );
    says(&error, &["HTTP 500", "org/name", "try again"]);
    assert_eq!(server.requests().len(), 3, "one attempt and two more");
}

#[test]
fn a_cut_off_transfer_goes_on_where_it_stopped() {
    let ((server, content), cache) = (gguf(100_000), cache());
    let mut cuts = 2;
    server.hook(move |request, mut reply| {
        if request.storage && cuts > 0 {
            cuts -= 1;
            reply.cut = Some(30_000);
        }
        reply
    });
    let path = server.hub(cache.path()).resolve("org/name").unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let ranges: Vec<_> = server
        .requests()
        .iter()
        .filter(|r| r.storage)
        .map(|r| r.range())
        .collect();
    assert_eq!(ranges, [None, Some(30_000), Some(60_000)]);
}

#[test]
fn a_later_run_takes_up_what_an_earlier_one_left() {
    let ((server, content), cache) = (gguf(100_000), cache());
    server.hook(|request, mut reply| {
        reply.cut = request.storage.then_some(30_000);
        reply
    });
    let hub = server.hub(cache.path()).retries(0, Duration::ZERO);
    let error = hub.resolve("org/name").unwrap_err();
    assert!(
        matches!(
            error,
            Error::CutOff {
                got: 30_000,
                size: 100_000,
                kept: true,
                ..
            }
        ),
        "{error:?}"
    );
    says(
        &error,
        &[
            FILE,
            "30.0 kB of 100.0 kB",
            "run the command again to continue",
        ],
    );
    assert_eq!(
        fs::read(incomplete(cache.path(), &content)).unwrap(),
        content[..30_000]
    );
    let listed = &hub.list().unwrap()[0];
    assert_eq!((listed.bytes, listed.unfinished), (30_000, 30_000));
    assert!(listed.problem.is_some());

    server.unhook();
    server.requests();
    let path = server.hub(cache.path()).resolve("org/name").unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    let requests = server.requests();
    // The range goes to the hub and, sent on, to the storage.
    let ranged: Vec<_> = requests
        .iter()
        .filter(|r| r.range() == Some(30_000))
        .map(|r| r.storage)
        .collect();
    assert_eq!(ranged, [false, true]);
    assert!(!incomplete(cache.path(), &content).exists());
}

#[test]
fn servers_without_ranges_send_everything_again() {
    // Ignored, refused, and answered with another range.
    for kind in 0..3 {
        let ((server, content), cache) = (gguf(50_000), cache());
        let file = incomplete(cache.path(), &content);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &content[..20_000]).unwrap();
        let whole = content.clone();
        server.hook(
            move |request, reply| match (request.storage, request.range(), kind) {
                (true, Some(_), 0) => Reply::new(200, &whole),
                (true, Some(_), 1) => Reply::new(416, b""),
                (true, Some(_), 2) => Reply::new(206, &whole[10_000..])
                    .with("Content-Range", "bytes 10000-49999/50000"),
                _ => reply,
            },
        );
        let path = server.hub(cache.path()).resolve("org/name").unwrap();
        assert_eq!(fs::read(path).unwrap(), content, "{kind}");
    }
}

#[test]
fn leftovers_that_are_damaged_are_thrown_away() {
    for left in [
        vec![0u8; 20_000],
        vec![0; 50_000],
        vec![0; 60_000],
        Vec::new(),
    ] {
        let ((server, content), cache) = (gguf(50_000), cache());
        let file = incomplete(cache.path(), &content);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, &left).unwrap();
        let path = server.hub(cache.path()).resolve("org/name").unwrap();
        assert_eq!(fs::read(path).unwrap(), content, "{}", left.len());
    }
}

#[test]
fn damaged_bytes_never_get_a_name() {
    let ((server, content), cache) = (gguf(50_000), cache());
    server.hook(|request, mut reply| {
        if request.storage {
            reply.body[1234] ^= 1;
        }
        reply
    });
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    says(
        &error,
        &[FILE, &sha256(&content), "deleted", "run the command again"],
    );
    assert!(holds_nothing(cache.path()));
}

#[test]
fn small_files_that_are_damaged_never_get_a_name() {
    let (server, cache) = (Server::start(), cache());
    let files: &[(&str, &[u8])] = &[
        ("config.json", b"{\"model_type\":\"llama\"}"),
        ("model.safetensors", b"w"),
    ];
    server.put("org/name", COMMIT, files);
    server.hook(|request, mut reply| {
        if request.path.ends_with("config.json") && !request.looks() {
            reply.body[5] ^= 1;
        }
        reply
    });
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(matches!(error, Error::Corrupt { .. }), "{error:?}");
    says(&error, &["config.json", "git id", &etag(files[0].1)]);
    let offline = server.hub(cache.path()).offline(true).resolve("org/name");
    assert!(matches!(offline, Err(Error::Offline { .. })), "{offline:?}");
}

#[test]
fn leftovers_of_killed_runs_that_cannot_go_on_are_removed() {
    let ((server, content), cache) = (gguf(50_000), cache());
    let whole = incomplete(cache.path(), &content);
    let blobs = whole.parent().unwrap();
    fs::create_dir_all(blobs).unwrap();
    let sha = sha256(&content);
    let (killed, others) = (format!("{sha}.123.incomplete"), "ab.123.incomplete");
    for name in [&killed, others] {
        fs::write(blobs.join(name), "some bytes").unwrap();
    }
    server.hub(cache.path()).resolve("org/name").unwrap();
    assert!(!blobs.join(killed).exists());
    assert!(blobs.join(others).exists(), "of another file");
}

#[test]
fn sizes_must_be_as_announced() {
    let (server, content) = gguf(50_000);
    // Longer and shorter, with and without saying so.
    for (len, said) in [
        (50_001, true),
        (50_001, false),
        (49_999, true),
        (49_999, false),
    ] {
        let cache = cache();
        let mut body = content.clone();
        body.resize(len, 0);
        server.hook(move |request, mut reply| {
            if request.storage {
                reply.body = body[request.range().unwrap_or(0)..].to_vec();
                reply.unsized_body = !said;
            }
            reply
        });
        let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
        let expected = matches!(
            (&error, len, said),
            (Error::BadAnswer { .. }, _, true)
                | (Error::Corrupt { .. }, 50_001, false)
                | (Error::CutOff { got: 49_999, .. }, 49_999, false)
        );
        assert!(expected, "{len} {said}: {error:?}");
        assert!(!cache.path().join("models--org--name/snapshots").exists());
    }
}

fn unreachable(endpoint: &str) -> Unreachable {
    let cache = cache();
    let hub = quiet(Hub::from_env().unwrap())
        .cache_dir(cache.path())
        .endpoint(endpoint)
        .unwrap();
    let error = hub
        .timeout(Duration::from_millis(300))
        .resolve("org/name")
        .unwrap_err();
    let host = endpoint.split("://").nth(1).unwrap();
    says(&error, &[host, "HF_HUB_OFFLINE=1", "local model"]);
    match error {
        Error::Unreachable { why, .. } => why,
        other => panic!("{other:?}"),
    }
}

#[test]
fn nobody_there() {
    // A port that was just free.
    let address = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    assert_eq!(
        unreachable(&format!("http://{address}")),
        Unreachable::Refused
    );
    assert_eq!(
        unreachable("http://no-such-host.invalid"),
        Unreachable::Name
    );
    // Takes connections and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    assert!(matches!(unreachable(&url), Unreachable::Broken(why) if why.contains("stopped")));
    // Speaks, but no TLS.
    let server = Server::start();
    let url = server.url.replace("http:", "https:");
    assert!(matches!(
        unreachable(&url),
        Unreachable::Tls(_) | Unreachable::Broken(_)
    ));
}

#[test]
fn a_server_that_falls_silent_in_the_middle() {
    let ((server, content), cache) = (gguf(50_000), cache());
    let mut first = true;
    server.hook(move |request, mut reply| {
        if request.storage && std::mem::take(&mut first) {
            // Announces everything, sends half and then nothing for a while.
            reply = reply.with("Content-Length", 50_000);
            reply.body.truncate(25_000);
        }
        reply
    });
    let hub = server.hub(cache.path()).timeout(Duration::from_secs(1));
    let path = hub.resolve("org/name").unwrap();
    assert_eq!(fs::read(path).unwrap(), content);
    assert_eq!(
        server.requests().iter().filter_map(|r| r.range()).max(),
        Some(25_000)
    );
}

#[test]
fn a_disk_too_small_is_noticed_before_the_first_byte() {
    let (server, cache) = (gguf(5000).0, cache());
    server.hook(|request, reply| match request.path.contains("/resolve/") {
        true => reply.with("X-Linked-Size", 1u64 << 60),
        false => reply,
    });
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(
        matches!(error, Error::NoSpace { needed, free: Some(_), .. } if needed == 1 << 60),
        "{error:?}"
    );
    says(
        &error,
        &[
            "1152921.5 TB more needed",
            "free",
            "HF_HOME",
            cache.path().to_str().unwrap(),
        ],
    );
    assert!(server.requests().iter().all(|r| !r.storage));
}

/// `/dev/full` answers every write with ENOSPC, so this is the real error of
/// the real call, in the middle of a download.
#[cfg(target_os = "linux")]
#[test]
fn a_disk_that_fills_up_on_the_way() {
    let ((server, content), cache) = (gguf(5000), cache());
    let file = incomplete(cache.path(), &content);
    fs::create_dir_all(file.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink("/dev/full", &file).unwrap();
    let error = server.hub(cache.path()).resolve("org/name").unwrap_err();
    assert!(
        matches!(error, Error::NoSpace { needed: 5000, .. }),
        "{error:?}"
    );
    says(&error, &["5.0 kB more needed", "HF_HOME"]);
    assert!(!cache.path().join("models--org--name/snapshots").exists());
}
