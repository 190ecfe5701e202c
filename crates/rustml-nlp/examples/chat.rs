//! A conversation, line by line from standard input.
//!
//!     cargo run --release -p rustml-nlp --example chat -- MODEL

use rustml_nlp::{Error, LoadOptions, Model, Options, Result};
use std::io::Write;

fn main() -> Result<()> {
    let name = std::env::args().nth(1);
    let name = name.unwrap_or(rustml_nlp::DEFAULT_MODEL.into());
    let model = Model::load(&name, &LoadOptions::default())?;

    let mut session = model.session(Some("You are brief."))?;
    for line in std::io::stdin().lines().map_while(|line| line.ok()) {
        let answer = session.say(&line, &Options::default(), &mut |piece| {
            print!("{piece}");
            std::io::stdout().flush().is_ok()
        });
        match answer {
            Ok(answer) => println!("\n[{:?}]", answer.finish),
            // What was said before is too much by now.
            Err(Error::ConversationTooLong { .. }) => session.clear(Some("You are brief.")),
            Err(other) => return Err(other),
        }
    }
    Ok(())
}
