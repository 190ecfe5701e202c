//! The tokens that a tokenizer.json adds to its model's, and those that it lacks.

use hashbrown::{HashMap, HashSet};
use serde::Deserialize;

use crate::hf::{missing, Extra};
use crate::limits::check_added;

/// One of `added_tokens`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct AddedToken {
    pub id: u32,
    pub content: String,
    pub single_word: bool,
    pub lstrip: bool,
    pub rstrip: bool,
    pub normalized: bool,
    pub special: bool,
}

/// Adds those of `extra` that are not `listed`. `None` if their ids are not those
/// that `tokenizers` would give them, or if there are too many. `vocab` has `count`
/// tokens.
pub(crate) fn complete<'a>(
    listed: &mut Vec<AddedToken>,
    extra: &[Extra],
    count: usize,
    vocab: impl Iterator<Item = (&'a str, u32)>,
) -> Option<()> {
    let extra = missing(extra, listed.iter().map(|t| &*t.content));
    let texts: HashSet<&str> = extra.iter().map(|extra| &*extra.token.content).collect();
    let highest = listed.iter().map(|t| t.id.saturating_add(1)).max();
    let mut next = highest.unwrap_or(0).max(count as u32);
    let found: HashMap<&str, u32> = vocab.filter(|(text, _)| texts.contains(text)).collect();
    let mut further = Vec::new();
    for Extra { id, token } in extra {
        let known = found.get(&*token.content).copied();
        let actual = match (known, id) {
            (Some(known), _) => known,
            (None, Some(_)) => {
                let id = next;
                next = next.saturating_add(1);
                id
            }
            (None, None) => continue,
        };
        if id.is_some_and(|id| id != actual) {
            return None;
        }
        let token = token.clone();
        further.push(AddedToken {
            id: actual,
            content: token.content,
            single_word: token.single_word,
            lstrip: token.lstrip,
            rstrip: token.rstrip,
            normalized: token.normalized,
            special: token.special,
        });
    }
    listed.extend(further);
    check_added(listed.iter().map(|t| (&*t.content, t.normalized))).ok()
}
