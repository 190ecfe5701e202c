//! Sums over the events of a step.

use crate::{Event, Op};
use std::fmt;
use std::time::Duration;

/// Where one step's time went.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StepTimes {
    /// Looking up embeddings and positions.
    pub embedding: Duration,
    /// All layers.
    pub layers: Duration,
    /// The norm after the last layer.
    pub norm: Duration,
    /// The product with the head.
    pub projection: Duration,
    /// Choosing tokens.
    pub sampling: Duration,
    /// What no operation accounts for.
    pub other: Duration,
    /// The whole step, with what is not accounted for.
    pub total: Duration,
}

impl StepTimes {
    /// Sums the events of one step that took `total`.
    pub fn of(events: &[Event], total: Duration) -> StepTimes {
        let mut t = StepTimes {
            total,
            ..StepTimes::default()
        };
        for e in events {
            *match e.op {
                _ if e.layer.is_some() => &mut t.layers,
                Op::FinalNorm => &mut t.norm,
                Op::Head => &mut t.projection,
                Op::Sample => &mut t.sampling,
                _ => &mut t.embedding,
            } += e.time;
        }
        let known = t.embedding + t.layers + t.norm + t.projection + t.sampling;
        t.other = total.saturating_sub(known);
        t
    }
}

fn ms(d: Duration) -> f64 {
    d.as_secs_f64() * 1e3
}

impl fmt::Display for StepTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "embedding {:.3} ms, layers {:.3} ms, norm {:.3} ms, projection {:.3} ms, \
             sampling {:.3} ms, other {:.3} ms, total {:.3} ms",
            ms(self.embedding),
            ms(self.layers),
            ms(self.norm),
            ms(self.projection),
            ms(self.sampling),
            ms(self.other),
            ms(self.total)
        )
    }
}

/// Where one layer's time went.
#[derive(Clone, Debug, PartialEq)]
pub struct LayerTimes {
    /// Index of the layer.
    pub layer: u16,
    /// Time of each operation, in order of first appearance.
    pub ops: Vec<(Op, Duration)>,
}

impl LayerTimes {
    /// The layers of one step.
    pub fn of(events: &[Event]) -> Vec<LayerTimes> {
        let mut layers: Vec<LayerTimes> = Vec::new();
        for e in events {
            let Some(layer) = e.layer else { continue };
            if layers.last().is_none_or(|l| l.layer != layer) {
                layers.push(LayerTimes {
                    layer,
                    ops: Vec::new(),
                });
            }
            let ops = &mut layers.last_mut().expect("just pushed").ops;
            match ops.iter_mut().find(|(op, _)| *op == e.op) {
                Some((_, time)) => *time += e.time,
                None => ops.push((e.op, e.time)),
            }
        }
        layers
    }

    /// Time of some operations.
    pub fn sum(&self, ops: &[Op]) -> Duration {
        let mine = self.ops.iter().filter(|(op, _)| ops.contains(op));
        mine.map(|(_, time)| *time).sum()
    }
}

const ATTENTION: [(&str, &[Op]); 9] = [
    ("norm", &[Op::AttnNorm, Op::AttnPostNorm]),
    (
        "QKV",
        &[Op::Qkv, Op::Query, Op::Key, Op::Value, Op::AttnGate],
    ),
    ("qk-norm", &[Op::QkNorm]),
    ("rope", &[Op::Rope]),
    ("kv-store", &[Op::KvStore]),
    ("scores", &[Op::Scores]),
    ("softmax", &[Op::Softmax]),
    ("values", &[Op::Values]),
    ("output", &[Op::AttnOut]),
];
const FEED_FORWARD: [(&str, &[Op]); 7] = [
    ("norm", &[Op::FfnNorm, Op::FfnPostNorm]),
    ("gate", &[Op::Gate]),
    ("up", &[Op::Up]),
    ("activation", &[Op::Activate]),
    ("down", &[Op::Down]),
    ("router", &[Op::Route]),
    ("experts", &[Op::Experts]),
];

impl fmt::Display for LayerTimes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |f: &mut fmt::Formatter<'_>, name: &str, rows: &[(&str, &[Op])]| {
            let total: Duration = rows.iter().map(|(_, ops)| self.sum(ops)).sum();
            write!(f, "{name} {:.3} ms (", ms(total))?;
            let mut first = true;
            for (row, ops) in rows {
                let time = self.sum(ops);
                if time > Duration::ZERO {
                    write!(f, "{}{row} {:.3}", if first { "" } else { ", " }, ms(time))?;
                    first = false;
                }
            }
            f.write_str(")")
        };
        write!(f, "layer {}: ", self.layer)?;
        part(f, "attention", &ATTENTION)?;
        f.write_str(", ")?;
        part(f, "feed-forward", &FEED_FORWARD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Cost;

    fn event(layer: Option<u16>, op: Op, ms: u64) -> Event {
        Event {
            step: 1,
            layer,
            op,
            start: Duration::ZERO,
            time: Duration::from_millis(ms),
            waiting: Duration::ZERO,
            cost: Cost::default(),
        }
    }

    #[test]
    fn events_add_up() {
        let events = [
            event(None, Op::Embed, 1),
            event(Some(0), Op::AttnNorm, 2),
            event(Some(0), Op::Query, 3),
            event(Some(0), Op::Query, 4),
            event(Some(1), Op::Down, 5),
            event(None, Op::FinalNorm, 6),
            event(None, Op::Head, 7),
            event(None, Op::Sample, 1),
        ];
        let t = StepTimes::of(&events, Duration::from_millis(30));
        let all = [t.embedding, t.layers, t.norm, t.projection, t.sampling];
        assert_eq!(all.map(|d| d.as_millis()), [1, 14, 6, 7, 1]);
        assert_eq!([t.other, t.total].map(|d| d.as_millis()), [1, 30]);
        let layers = LayerTimes::of(&events);
        assert_eq!(layers.len(), 2);
        assert_eq!(layers[0].sum(&[Op::Query]).as_millis(), 7);
        assert_eq!(
            layers[0].to_string(),
            "layer 0: attention 9.000 ms (norm 2.000, QKV 7.000), feed-forward 0.000 ms ()"
        );
    }
}
