//! Any bytes as the body of a request: an error in a short sentence, or a request of
//! some endpoint, without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|body: &[u8]| {
    for (endpoint, read) in rustml_server::check_body(body) {
        if let Err(says) = read {
            assert!(!says.is_empty() && says.len() < 2000, "{endpoint}: {says}");
        }
    }
});
