//! Results as tables, CSV and JSON.

use super::measure::{Roofs, Test, Work};
use crate::text::{self, Align};
use rustml_model::{KvType, Model};
use rustml_nlp::cli::harmless;
use serde_json::{json, Value};

/// What was measured.
#[derive(Clone)]
pub struct Subject {
    /// As it was named.
    model: String,
    architecture: &'static str,
    /// The types of the weights, that with the most bytes first.
    types: String,
    parameters: usize,
    weight_bytes: usize,
    isa: &'static str,
    load_seconds: f64,
}

impl Subject {
    pub fn of(model: &Model, name: &str, load_seconds: f64) -> Subject {
        let mut types = Vec::new();
        for m in model.weights().matrices() {
            match types.iter_mut().find(|(t, _)| *t == m.dtype()) {
                Some((_, bytes)) => *bytes += m.bytes(),
                None => types.push((m.dtype(), m.bytes())),
            }
        }
        types.sort_by_key(|&(_, bytes)| std::cmp::Reverse(bytes));
        let names: Vec<_> = types.iter().map(|(t, _)| t.name()).collect();
        Subject {
            model: name.to_owned(),
            architecture: model.arch(),
            types: names.join("+"),
            parameters: model.report().parameters,
            weight_bytes: model.report().bytes,
            isa: model.team().isa.name(),
            load_seconds,
        }
    }
}

/// The result of one test.
pub struct Row {
    pub subject: Subject,
    pub test: Test,
    pub depth: usize,
    pub batch: usize,
    pub threads: usize,
    pub kv_type: KvType,
    /// Tokens per second of each run.
    pub samples: Vec<f64>,
    /// Share of the time that the machine gave to others, if that is known.
    pub lost: Option<f64>,
    pub work: Work,
    pub roofs: Roofs,
    pub cache_bytes: usize,
    pub peak_rss: Option<u64>,
}

impl Row {
    fn mean(&self) -> f64 {
        mean(&self.samples)
    }

    /// Runs of the test per second.
    fn rate(&self) -> f64 {
        self.mean() / self.work.tokens.max(1) as f64
    }

    /// 10^9 bytes per second.
    fn gb(&self) -> f64 {
        self.rate() * self.work.cost.bytes as f64 / 1e9
    }

    /// 10^9 operations per second.
    fn gop(&self) -> f64 {
        self.rate() * self.work.cost.operations() as f64 / 1e9
    }

    fn roof_gb(&self) -> Option<f64> {
        self.roofs.bytes.map(|b| b / 1e9)
    }

    fn percent_of_read(&self) -> Option<f64> {
        self.roof_gb().map(|roof| 100.0 * self.gb() / roof)
    }

    fn percent_of_operations(&self) -> f64 {
        100.0 * self.gop() / (self.roofs.operations / 1e9)
    }

    fn to_json(&self) -> Value {
        let s = &self.subject;
        json!({
            "model": s.model,
            "architecture": s.architecture,
            "type": s.types,
            "parameters": s.parameters,
            "test": self.test.to_string(),
            "depth": self.depth,
            "batch": self.batch,
            "threads": self.threads,
            "kv_type": self.kv_type.to_string(),
            "isa": s.isa,
            "tokens_per_second": self.mean(),
            "stddev": deviation(&self.samples),
            "median": median(&self.samples),
            "samples": self.samples,
            "lost_percent": self.lost.map(|l| 100.0 * l),
            "bytes_per_step": self.work.step_bytes(),
            "gb_per_second": self.gb(),
            "roof_gb_per_second": self.roof_gb(),
            "percent_of_roof": self.percent_of_read(),
            "gop_per_second": self.gop(),
            "roof_gop_per_second": self.roofs.operations / 1e9,
            "percent_of_op_roof": self.percent_of_operations(),
            "weight_bytes": s.weight_bytes,
            "cache_bytes": self.cache_bytes,
            "peak_rss_bytes": self.peak_rss,
            "load_seconds": s.load_seconds,
        })
    }
}

fn mean(samples: &[f64]) -> f64 {
    samples.iter().sum::<f64>() / samples.len().max(1) as f64
}

/// The standard deviation of the population that the samples are of.
fn deviation(samples: &[f64]) -> f64 {
    let mean = mean(samples);
    let squares: f64 = samples.iter().map(|x| (x - mean) * (x - mean)).sum();
    (squares / (samples.len().max(2) - 1) as f64).sqrt()
}

fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let half = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[half],
        _ => (sorted[half - 1] + sorted[half]) / 2.0,
    }
}

/// A list of objects.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
    format!("{:#}\n", Value::from(rows))
}

/// The same, one line each, without the samples.
pub fn csv(rows: &[Row]) -> String {
    text::csv(rows.iter().map(|row| {
        let row = row.to_json();
        let fields = row.as_object().cloned().into_iter().flatten();
        fields.filter(|(key, _)| key != "samples").collect()
    }))
}

const HEAD: [&str; 13] = [
    "test", "depth", "batch", "threads", "tokens/s", "+-", "lost", "GB/s", "roof", "Gop/s", "roof",
    "memory", "load",
];

fn cells(row: &Row) -> Vec<String> {
    let share = |value: f64, percent: f64| format!("{value:.1} ({percent:.0} %)");
    vec![
        row.test.to_string(),
        row.depth.to_string(),
        row.batch.to_string(),
        row.threads.to_string(),
        format!("{:.1}", row.mean()),
        format!("{:.1}", deviation(&row.samples)),
        row.lost
            .map_or("-".into(), |l| format!("{:.0} %", 100.0 * l)),
        row.percent_of_read()
            .map_or(format!("{:.1}", row.gb()), |p| share(row.gb(), p)),
        row.roof_gb().map_or("-".into(), |r| format!("{r:.1}")),
        share(row.gop(), row.percent_of_operations()),
        format!("{:.0}", row.roofs.operations / 1e9),
        row.peak_rss.map_or("-".into(), text::bytes),
        format!("{:.2} s", row.subject.load_seconds),
    ]
}

/// For a terminal.
pub fn table(rows: &[Row]) -> String {
    let Some(first) = rows.first() else {
        return String::new();
    };
    let s = &first.subject;
    let mut lines = vec![HEAD.map(str::to_uppercase).to_vec()];
    lines.extend(rows.iter().map(cells));
    let mut align = [Align::Right; HEAD.len()];
    align[0] = Align::Left;
    format!(
        "{}\n{}, {} parameters, {} of weights in {}, on {}\n\n{}",
        harmless(&s.model),
        s.architecture,
        text::count(s.parameters as u64),
        text::bytes(s.weight_bytes as u64),
        s.types,
        s.isa,
        text::table(&lines, &align)
    )
}

/// For a document.
pub fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut head = vec!["model".to_owned(), "type".to_owned()];
    head.extend(HEAD.map(str::to_owned));
    let mut out = line(&head) + "|---|---|---|" + &"---:|".repeat(HEAD.len() - 1) + "\n";
    for row in rows {
        let name = harmless(&row.subject.model).replace('|', "\\|");
        let mut all = vec![name, row.subject.types.clone()];
        all.extend(cells(row));
        out += &line(&all);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_are_summed_up() {
        let samples = [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0];
        assert_eq!((mean(&samples), median(&samples)), (5.0, 4.5));
        assert_eq!(deviation(&samples), (32.0f64 / 7.0).sqrt());
        assert_eq!(
            (mean(&[3.0]), median(&[3.0]), deviation(&[3.0])),
            (3.0, 3.0, 0.0)
        );
        assert_eq!(median(&[9.0, 1.0, 2.0]), 2.0);
    }
}
