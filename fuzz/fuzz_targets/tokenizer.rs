//! Any bytes as a tokenizer.json: an error in a sentence, or a tokenizer that
//! encodes and decodes without a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rustml_tokenizer::{Encode, Tokenizer};

fuzz_target!(|file: &[u8]| {
    let folder = std::env::temp_dir().join(format!("rustml-fuzz-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("tokenizer.json"), file).unwrap();
    let Ok(tokenizer) = Tokenizer::from_dir(&folder) else {
        return;
    };
    for parse_special in [false, true] {
        let options = Encode {
            add_special: true,
            parse_special,
        };
        for text in ["", "The time is 12:34.\n\n  <s>é日😀\u{1d}</s>"] {
            if let Ok(ids) = tokenizer.encode(text, options) {
                tokenizer.decode(&ids);
            }
            let _ = tokenizer.encode_input(text, Some("b"), options, None);
        }
    }
});
