//! Results as tables, CSV and JSON.

use super::client::Reply;
use super::load::{Level, Pace, Run};
use crate::text::{self, Align};
use rustml_nlp::cli::harmless;
use serde_json::{json, Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;

/// How often each problem occurred.
pub type Problems = BTreeMap<String, usize>;

/// Percentiles that are shown; the last is the longest of all.
const PERCENTILES: [(&str, f64); 4] = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("max", 1.0)];

/// The results of one level.
pub struct Row {
    pace: Pace,
    pub ok: usize,
    pub problems: Problems,
    seconds: f64,
    prompt_tokens: u64,
    cached_tokens: u64,
    completion_tokens: u64,
    /// Whether all tokens are counted by the server.
    counted: bool,
    /// Seconds until the first token, sorted; and so on.
    first: Vec<f64>,
    per_token: Vec<f64>,
    whole: Vec<f64>,
    /// Requests with another answer than alone, if that was looked at.
    pub mismatches: Option<Vec<u32>>,
}

impl Row {
    pub fn of(level: &Level, run: &Run) -> Row {
        let mut problems = Problems::new();
        for problem in run.replies.iter().filter_map(|(_, r)| r.problem.as_ref()) {
            *problems.entry(problem.name()).or_default() += 1;
        }
        let good = || {
            let replies = run.replies.iter().map(|(_, reply)| reply);
            replies.filter(|r| r.problem.is_none())
        };
        let sum = |of: &dyn Fn(&Reply) -> u64| good().map(of).sum();
        Row {
            pace: level.pace,
            ok: good().count(),
            problems,
            seconds: run.time.as_secs_f64(),
            prompt_tokens: sum(&|r| r.usage.map_or(0, |u| u.prompt)),
            cached_tokens: sum(&|r| r.usage.map_or(0, |u| u.cached)),
            completion_tokens: sum(&Reply::tokens),
            counted: good().all(|r| r.usage.is_some()),
            first: sorted(good().filter_map(|r| r.first.map(|t| t.as_secs_f64()))),
            per_token: sorted(good().filter_map(per_token)),
            whole: sorted(good().map(|r| r.end.as_secs_f64())),
            mismatches: None,
        }
    }

    pub fn failed(&self) -> usize {
        self.problems.values().sum()
    }

    fn rate(&self, n: u64) -> f64 {
        n as f64 / self.seconds.max(1e-9)
    }

    fn to_json(&self) -> Value {
        let ms = |sorted: &[f64]| {
            let all = PERCENTILES.map(|(name, p)| {
                let value = percentile(sorted, p).map(|s| 1e3 * s);
                (name.to_owned(), json!(value))
            });
            Value::from(Map::from_iter(all))
        };
        let (clients, rate) = match self.pace {
            Pace::Clients(n) => (Some(n), None),
            Pace::Rate(r) => (None, Some(r)),
        };
        json!({
            "clients": clients,
            "rate": rate,
            "requests": self.ok + self.failed(),
            "ok": self.ok,
            "failed": self.failed(),
            "problems": self.problems,
            "mismatches": self.mismatches,
            "seconds": self.seconds,
            "requests_per_second": self.rate(self.ok as u64),
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "counted_by": if self.counted { "usage" } else { "pieces" },
            "prompt_tokens_per_second": self.rate(self.prompt_tokens),
            "completion_tokens_per_second": self.rate(self.completion_tokens),
            "first_token_ms": ms(&self.first),
            "per_token_ms": ms(&self.per_token),
            "whole_ms": ms(&self.whole),
        })
    }
}

/// Seconds for each token after the first.
fn per_token(reply: &Reply) -> Option<f64> {
    let more = reply.tokens().checked_sub(1).filter(|&n| n > 0)?;
    let time: Duration = reply.last?.checked_sub(reply.first?)?;
    // A server that sends the whole answer at once shows nothing of it.
    (reply.pieces > 1).then(|| time.as_secs_f64() / more as f64)
}

fn sorted(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values
}

/// The least value that a share `p` of all does not exceed.
fn percentile(sorted: &[f64], p: f64) -> Option<f64> {
    let rank = (p * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.max(1) - 1).copied()
}

/// `status 429 (2), timed out (1)`
pub fn list(problems: &Problems) -> String {
    let each = problems.iter().map(|(what, n)| format!("{what} ({n})"));
    each.collect::<Vec<_>>().join(", ")
}

/// How the answer alone differs.
pub fn difference(reply: &Reply, alone: &Reply) -> String {
    if let Some(problem) = &alone.problem {
        return format!("alone it failed: {}", problem.in_full());
    }
    let same = reply.text.chars().zip(alone.text.chars());
    let same = same.take_while(|(a, b)| a == b).count();
    let rest = |text: &str| text::cut(&text.chars().skip(same).collect::<String>(), 40);
    format!(
        "after {same} characters it goes on with \"{}\", and alone with \"{}\"",
        rest(&reply.text),
        rest(&alone.text)
    )
}

/// A list of objects.
pub fn json(rows: &[Row]) -> String {
    let rows: Vec<_> = rows.iter().map(Row::to_json).collect();
    format!("{:#}\n", Value::from(rows))
}

/// The same, one line each; percentiles are columns, and lists are text.
pub fn csv(rows: &[Row]) -> String {
    text::csv(rows.iter().map(|row| {
        let mut fields = Vec::new();
        for (key, value) in row.to_json().as_object().into_iter().flatten() {
            match value {
                Value::Object(all) if key != "problems" => {
                    fields.extend(all.iter().map(|(k, v)| (format!("{key}_{k}"), v.clone())));
                }
                Value::Object(_) => fields.push((key.clone(), list(&row.problems).into())),
                Value::Array(all) => fields.push((key.clone(), all.len().into())),
                _ => fields.push((key.clone(), value.clone())),
            }
        }
        fields
    }))
}

const HEAD: [&str; 8] = [
    "load",
    "ok",
    "failed",
    "tokens/s in",
    "out",
    "first token, ms",
    "per token, ms",
    "whole, s",
];

fn cells(row: &Row) -> Vec<String> {
    let times = |sorted: &[f64], unit: f64| {
        let each = PERCENTILES.map(|(_, p)| match percentile(sorted, p).map(|s| s * unit) {
            Some(t) if t < 100.0 => format!("{t:.1}"),
            Some(t) => format!("{t:.0}"),
            None => "-".into(),
        });
        each.join(" / ")
    };
    let least = if row.counted { "" } else { ">= " };
    vec![
        row.pace.to_string(),
        row.ok.to_string(),
        row.failed().to_string(),
        format!("{:.1}", row.rate(row.prompt_tokens)),
        format!("{least}{:.1}", row.rate(row.completion_tokens)),
        times(&row.first, 1e3),
        times(&row.per_token, 1e3),
        times(&row.whole, 1.0),
    ]
}

/// What a table's figures do not say.
fn notes(rows: &[Row]) -> Vec<String> {
    let mut notes = vec!["Times are p50 / p90 / p99 / max.".to_owned()];
    if rows.iter().any(|r| !r.counted) {
        notes.push(
            "The server counts no tokens: those marked >= are pieces, of a token or more.".into(),
        );
    }
    for row in rows.iter().filter(|r| r.failed() > 0) {
        notes.push(format!("{}: failed: {}.", row.pace, list(&row.problems)));
    }
    for row in rows {
        match row.mismatches.as_deref() {
            Some([]) => notes.push(format!(
                "{}: all {} answers are those of the same requests alone.",
                row.pace, row.ok
            )),
            Some(wrong) => notes.push(format!(
                "{}: {} of {} answers differ from those alone.",
                row.pace,
                wrong.len(),
                row.ok
            )),
            None => {}
        }
    }
    notes
}

/// For a terminal.
pub fn table(server: &str, model: &str, rows: &[Row]) -> String {
    let mut lines = vec![HEAD.map(str::to_uppercase).to_vec()];
    lines.extend(rows.iter().map(cells));
    let mut align = [Align::Right; HEAD.len()];
    align[0] = Align::Left;
    format!(
        "{} at {}\n\n{}\n{}\n",
        harmless(model),
        harmless(server),
        text::table(&lines, &align),
        notes(rows).join("\n")
    )
}

/// For a document.
pub fn markdown(rows: &[Row]) -> String {
    let line = |cells: &[String]| format!("| {} |\n", cells.join(" | "));
    let mut out = line(&HEAD.map(str::to_owned)) + "|---|" + &"---:|".repeat(HEAD.len() - 1) + "\n";
    for row in rows {
        out += &line(&cells(row));
    }
    out + "\n" + &notes(rows).join("\n") + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        let values: Vec<f64> = (1..=200).map(f64::from).collect();
        let at = |p| percentile(&values, p).unwrap();
        assert_eq!(
            (at(0.5), at(0.9), at(0.99), at(1.0)),
            (100.0, 180.0, 198.0, 200.0)
        );
        assert_eq!(percentile(&[7.0], 0.5), Some(7.0));
        assert_eq!(percentile(&[1.0, 2.0], 0.99), Some(2.0));
        assert_eq!(percentile(&[], 0.5), None);
    }

    #[test]
    fn the_time_per_token_is_that_after_the_first() {
        let ms = Duration::from_millis;
        let mut reply = Reply {
            pieces: 5,
            first: Some(ms(100)),
            last: Some(ms(500)),
            ..Reply::default()
        };
        assert_eq!(per_token(&reply), Some(0.1));
        reply.pieces = 1;
        assert_eq!(per_token(&reply), None);
    }

    #[test]
    fn differences_are_shown() {
        let reply = |text: &str| Reply {
            text: text.into(),
            ..Reply::default()
        };
        let says = difference(&reply("täglich Brot"), &reply("täglich Reis\n"));
        let wanted = "after 8 characters it goes on with \"Brot\", and alone with \"Reis\\n\"";
        assert_eq!(says, wanted);
    }
}
