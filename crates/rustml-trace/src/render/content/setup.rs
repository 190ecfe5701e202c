//! What ran, where, and how it was asked for.

use super::{bytes, count, facts, megabytes, ms, number, table, Block, Section};
use crate::round::{Choice, Round};
use crate::tables::{full_name, Tables};

pub fn setup(round: &Round, tables: &Tables) -> Section {
    let (s, m, model) = (&round.setup, &round.machine, &round.model);
    let mut blocks = Vec::new();
    if s.synthetic {
        blocks.push(Block::Note(
            "The weights are synthetic: only the shape is that of the model. The text means \
             nothing; the times do."
                .into(),
        ));
    }
    let commit = s
        .commit
        .as_ref()
        .map_or(String::new(), |c| format!(", commit {c}"));
    let cores = m.allowed_cores.map_or(String::new(), |c| {
        let shared = c < m.allowed_cpus;
        format!(
            " on {c} cores{}",
            if shared { ", which siblings share" } else { "" }
        )
    });
    let quota = m
        .quota
        .map_or("no quota known".into(), |q| format!("a quota of {q} CPUs"));
    let why = match s.threads {
        Some(_) => "as asked for",
        None => "as many as the process may use",
    };
    let threads = format!(
        "{}, {why}: {} of {} CPUs allowed{cores}, {quota}",
        m.threads, m.allowed_cpus, m.cpus
    );
    let quantised = model.quantised.iter().map(|q| match q.from == q.to {
        true => format!(
            "{} kept in {}, as their width allows no other",
            q.layers, q.from
        ),
        false => format!("{} from {} to {}", q.layers, q.from, q.to),
    });
    let quantised: Vec<String> = quantised.collect();
    let isa = match m.isa == m.best_isa {
        true => m.isa.clone(),
        false => format!("{}, though the CPU has {}", m.isa, m.best_isa),
    };
    blocks.push(facts(vec![
        ("date", s.date.clone()),
        ("program", format!("rustml {}{commit}", s.version)),
        (
            "measured",
            format!(
                "{} tokens of prompt, {} generated, {} times{}",
                s.prompt_tokens,
                s.max_tokens,
                s.repeat,
                if s.warm_up { "" } else { ", without warm-up" }
            ),
        ),
        ("CPU", format!("{} ({})", m.cpu, m.arch)),
        ("features", m.features.join(", ")),
        ("instruction set", isa),
        ("threads", threads),
        ("memory", bytes(m.memory)),
        ("huge pages", m.huge_pages.clone().unwrap_or_default()),
        ("model", model.name.clone()),
        ("format", format!("{}, {}", model.format, model.arch)),
        ("parameters", count(model.parameters)),
        (
            "shape",
            format!(
                "{} layers, width {}, feed-forward {}, {} heads of {}, {} for keys and values, \
                 vocabulary {}",
                model.layers,
                model.hidden,
                model.feed_forward,
                model.heads,
                model.head_dim,
                model.kv_heads,
                model.vocab
            ),
        ),
        ("weights", bytes(model.weight_bytes)),
        ("keys and values", model.kv_type.clone()),
        (
            "quantised",
            match quantised.is_empty() {
                true => "nothing: the file's types".into(),
                false => quantised.join("; "),
            },
        ),
        ("in one pass", model.fused.join("; ")),
        (
            "peak memory",
            tables.timing.peak_bytes.map_or(String::new(), bytes),
        ),
    ]));
    blocks.push(types(round));
    if !model.choices.is_empty() {
        blocks.push(Block::Note(
            "Formats chosen by measurement on this machine: microseconds of one product at one \
             row, in the type of the file and in those tried."
                .into(),
        ));
        blocks.push(table(
            &[
                "layers of shape",
                "layers",
                "in the file",
                "tried",
                "chosen",
            ],
            model.choices.iter().map(choice).collect(),
        ));
    }
    let load = &tables.timing.load;
    if !load.is_empty() {
        let rows = load
            .iter()
            .map(|(name, time)| vec![name.clone(), ms(*time)]);
        let total: f64 = load.iter().map(|l| l.1).sum();
        let total = vec!["total".to_owned(), ms(total)];
        blocks.push(table(&["loading", "ms"], rows.chain([total]).collect()));
    }
    Section {
        title: "Setup",
        blocks,
    }
}

fn choice(c: &Choice) -> Vec<String> {
    let tried = c.tried_us.iter();
    let tried = tried.map(|(dtype, us)| format!("{dtype} {}", number(*us)));
    vec![
        format!("{} x {}", c.outputs, c.inputs),
        c.layers.to_string(),
        format!("{} {}", c.stored, number(c.stored_us)),
        tried.collect::<Vec<_>>().join(", "),
        c.chosen.clone(),
    ]
}

fn types(round: &Round) -> Block {
    let rows = round.model.types.iter().map(|t| {
        vec![
            full_name(t.op),
            t.dtype.clone(),
            t.matrices.to_string(),
            format!("{:.2}", 8.0 * t.bytes as f64 / t.values.max(1) as f64),
            megabytes(t.bytes as f64),
        ]
    });
    table(
        &["weights of", "type", "matrices", "bits a weight", "MB"],
        rows.collect(),
    )
}
