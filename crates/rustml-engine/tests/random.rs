//! Whatever is submitted, cancelled and stepped in whatever order: everybody
//! gets what he gets alone, and all blocks come back.

mod common;

use common::{alone, collect, config, load, mixed, Outcome};
use proptest::prelude::*;
use rustml_engine::{Engine, EngineConfig, Finish, Update};
use rustml_model::{Model, KV_BLOCK};
use rustml_tokenizer::Tokenizer;
use std::sync::{Arc, OnceLock};

#[derive(Clone, Debug)]
enum Act {
    Submit(usize),
    Steps(usize),
    Cancel(usize),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let act = prop_oneof![
        3 => (0..16usize).prop_map(Act::Submit),
        3 => (1..30usize).prop_map(Act::Steps),
        1 => (0..8usize).prop_map(Act::Cancel),
    ];
    prop::collection::vec(act, 1..40)
}

fn shared() -> &'static (Arc<Model>, Arc<Tokenizer>) {
    static MODEL: OnceLock<(Arc<Model>, Arc<Tokenizer>)> = OnceLock::new();
    MODEL.get_or_init(|| load(1))
}

fn expected(i: usize) -> &'static Outcome {
    static ALONE: OnceLock<Vec<Outcome>> = OnceLock::new();
    &ALONE.get_or_init(|| (0..16).map(|i| alone(mixed(i))).collect())[i]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn any_order_of_events_is_harmless(
        acts in acts(),
        blocks in 4..9usize,
        sequences in 1..7usize,
        rows in 8..64usize,
        speculate: bool,
        drafted: bool,
        always_guess in prop::option::of(1..5usize),
    ) {
        let (model, tokenizer) = shared().clone();
        let config = EngineConfig {
            cache_positions: blocks * KV_BLOCK,
            sequences,
            rows,
            speculate,
            always_guess,
            ..config()
        };
        let mut e = Engine::new(model.clone(), tokenizer, config).unwrap();
        if drafted {
            e.set_draft(model).unwrap();
        }
        let mut updates: Vec<Update> = Vec::new();
        let mut submitted = Vec::new();
        for act in acts {
            match act {
                Act::Submit(i) => submitted.push((e.submit(mixed(i)).unwrap(), i)),
                Act::Steps(n) => (0..n).for_each(|_| updates.extend(e.step())),
                Act::Cancel(back) => {
                    let at = submitted.len().checked_sub(back + 1);
                    let id = at.map_or(0, |at| submitted[at].0);
                    updates.extend(e.cancel(id, Finish::Cancelled));
                }
            }
            let s = e.stats();
            prop_assert!(s.kv_used + s.kv_cached <= blocks && s.running <= sequences);
            let used = s.kv_used + s.draft_kv_used;
            prop_assert!(s.running > 0 || used == 0, "a block is lost");
        }
        updates.extend(common::run(&mut e));
        let s = e.stats();
        prop_assert_eq!((s.kv_used, s.draft_kv_used), (0, 0));
        for (id, i) in submitted {
            let got = collect(&updates, id);
            match got.finish {
                Finish::Cancelled => prop_assert!(expected(i).ids.starts_with(&got.ids)),
                _ => prop_assert_eq!(&got, expected(i), "request {}", i),
            }
        }
    }
}
