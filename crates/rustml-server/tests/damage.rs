//! Bodies that are damaged in every place: no panic, and errors in short sentences.

use rustml_server::check_body;
use std::fs;
use std::path::Path;

#[test]
fn damaged_bodies_are_refused_in_short_sentences() {
    let seeds = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/seeds/requests");
    let mut taken = [0; 8];
    let mut refused = 0;
    for seed in fs::read_dir(seeds).unwrap() {
        let whole = fs::read(seed.unwrap().path()).unwrap();
        let mut check = |body: &[u8]| {
            for (i, (endpoint, read)) in check_body(body).into_iter().enumerate() {
                let Err(says) = read else {
                    taken[i] += 1;
                    continue;
                };
                refused += 1;
                let shown = String::from_utf8_lossy(body);
                assert!(
                    (1..1000).contains(&says.len()),
                    "{endpoint} {shown}: {says}"
                );
                for rust in ["struct ", "enum ", "variant", "usize", "RawValue", "Option"] {
                    assert!(!says.contains(rust), "{endpoint} {shown}: {says}");
                }
            }
        };
        check(&whole);
        for at in 0..whole.len() {
            check(&whole[..at]);
            let mut other = whole.clone();
            for byte in *b"\"{}[],:0-\\\0\xff" {
                other[at] = byte;
                check(&other);
            }
            // A value in place of what begins here.
            for value in ["null", "[[]]", "1e999", "-1", "{\"a\":{}}", "\"\\ud800\""] {
                check(&[&whole[..at], value.as_bytes(), &whole[at..]].concat());
                check(&[&whole[..at], value.as_bytes(), &whole[at + 1..]].concat());
            }
        }
    }
    // There are seeds for these.
    let of = [0, 1, 5].map(|i| taken[i]);
    assert!(of.iter().all(|&n| n > 0), "{taken:?}");
    assert!(refused > 10_000);
}
