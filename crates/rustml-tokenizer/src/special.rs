//! Which tokens end a generation.
//!
//! Files name one end token, models use several: a chat model ends its turn
//! with one and a document with another. So the well-known names count as well,
//! as they do for llama.cpp.

use crate::vocab::{Kind, Vocab};

/// Names that mean nothing but an end, whatever type the file gives them:
/// converters and fine-tunes often get the type wrong.
const ALWAYS: &[&str] = &[
    "<|eot_id|>",
    "<|im_end|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|calls|>",
    "<|flush|>",
    "<end_of_turn>",
    "<|endoftext|>",
    "<|eom_id|>",
    "<|end_of_text|>",
    "<end_of_utterance>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "<|fim_pad|>",
    "<|fim_repo|>",
    "<|repo_name|>",
    "<|file_sep|>",
];

/// Names that mean an end if they are control tokens, and something else if
/// not: Gemma's `</s>` is HTML.
const IF_CONTROL: &[&str] = &[
    "</s>",
    "<eos>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "[e~[",
    "<fim-pad>",
    "<fim_pad>",
    "<fim-repo>",
    "<REPO>",
    "<reponame>",
];

/// All end tokens, `explicit` ones included, in ascending order. Those found by
/// their names become control tokens.
pub(crate) fn end_tokens(vocab: &mut Vocab, explicit: impl IntoIterator<Item = u32>) -> Vec<u32> {
    let explicit: Vec<u32> = explicit.into_iter().collect();
    let mut end = explicit.clone();
    for name in ALWAYS {
        if let Some(id) = vocab.id(name) {
            vocab.set_control(id);
            end.push(id);
        }
    }
    for name in IF_CONTROL {
        end.extend(
            vocab
                .id(name)
                .filter(|&id| vocab.kind(id) == Some(Kind::Control)),
        );
    }
    // Where messages end with one token and turns with another, only the
    // latter are an end.
    let has = |name| vocab.id(name).is_some();
    if (has("<|return|>") && has("<|call|>")) || (has("<|flush|>") && has("<|calls|>")) {
        let message_end = vocab.id("<|end|>");
        end.retain(|&id| Some(id) != message_end || explicit.contains(&id));
    }
    if has("<|tool_response>") {
        let html = vocab.id("</s>");
        end.retain(|&id| Some(id) != html || explicit.contains(&id));
    }
    end.sort_unstable();
    end.dedup();
    end
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocab::Alphabet;

    fn end(tokens: &[(&'static str, Kind)], explicit: &[u32]) -> (Vocab, Vec<u32>) {
        let tokens = tokens.iter().map(|&(text, kind)| (text.into(), kind));
        let mut vocab = Vocab::new(Alphabet::Plain, tokens).unwrap();
        let end = end_tokens(&mut vocab, explicit.iter().copied());
        (vocab, end)
    }

    #[test]
    fn well_known_names_end() {
        use Kind::*;
        let (vocab, ids) = end(
            &[
                ("a", Normal),
                ("<|im_end|>", Added),
                ("</s>", Added),
                ("<eos>", Control),
                ("<|endoftext|>", Control),
            ],
            &[0],
        );
        assert_eq!(ids, [0, 1, 3, 4]);
        assert_eq!(vocab.kind(1), Some(Control));
        assert_eq!((vocab.kind(0), vocab.kind(2)), (Some(Normal), Some(Added)));
    }

    #[test]
    fn the_end_of_a_message_is_not_the_end_of_the_turn() {
        use Kind::Control;
        let harmony = [
            ("<|end|>", Control),
            ("<|return|>", Control),
            ("<|call|>", Control),
        ];
        assert_eq!(end(&harmony, &[]).1, [1, 2]);
        assert_eq!(end(&harmony, &[0]).1, [0, 1, 2]);
        assert_eq!(end(&harmony[..2], &[]).1, [0, 1]);
    }
}
