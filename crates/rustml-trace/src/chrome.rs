//! Steps as a trace for Perfetto and Chrome's viewer.
//!
//! The form is Chrome's "Trace Event Format", the array of complete events
//! (`ph: "X"`) with times in microseconds. The row of the calling thread shows
//! steps, in them layers, in them operations, in them waiting for others; each
//! other thread's row shows its turns.

use crate::{Event, Op, Step};
use serde_json::{json, Value};
use std::collections::BTreeSet;
use std::io::{self, Write};
use std::time::Duration;

/// Writes a trace step by step, so that long runs need no memory.
pub struct Trace<W: Write> {
    out: W,
    empty: bool,
    /// Threads that have a name.
    named: BTreeSet<usize>,
}

fn us(d: Duration) -> f64 {
    d.as_nanos() as f64 / 1e3
}

fn slice(name: &str, thread: usize, start: Duration, time: Duration, args: Value) -> Value {
    json!({
        "name": name, "ph": "X", "pid": 1, "tid": thread,
        "ts": us(start), "dur": us(time), "args": args,
    })
}

impl<W: Write> Trace<W> {
    /// Begins a trace.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn new(mut out: W) -> io::Result<Trace<W>> {
        out.write_all(b"{\"displayTimeUnit\":\"ms\",\"traceEvents\":[")?;
        Ok(Trace {
            out,
            empty: true,
            named: BTreeSet::new(),
        })
    }

    fn put(&mut self, value: Value) -> io::Result<()> {
        self.out
            .write_all(if self.empty { b"\n" } else { b",\n" })?;
        self.empty = false;
        serde_json::to_writer(&mut self.out, &value).map_err(io::Error::from)
    }

    fn name(&mut self, thread: usize) -> io::Result<()> {
        if !self.named.insert(thread) {
            return Ok(());
        }
        let name = match thread {
            0 => "caller".to_owned(),
            n => format!("worker {n}"),
        };
        let about = |what: &str, args: Value| json!({ "name": what, "ph": "M", "pid": 1, "tid": thread, "args": args });
        if thread == 0 {
            self.put(about("process_name", json!({ "name": "rustml" })))?;
        }
        self.put(about("thread_name", json!({ "name": name })))?;
        self.put(about("thread_sort_index", json!({ "sort_index": thread })))
    }

    /// Writes a step.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn step(&mut self, step: &Step) -> io::Result<()> {
        self.name(0)?;
        let name = format!("step {}", step.number);
        let args = json!({ "rows": step.rows, "logit_rows": step.logit_rows });
        self.put(slice(&name, 0, step.start, step.total, args))?;
        for layer in step.events.chunk_by(|a, b| a.layer == b.layer) {
            self.layer(layer)?;
        }
        for e in step.events {
            let args = json!({
                "part": e.op.part().name(),
                "bytes": e.cost.bytes,
                "flops": e.cost.flops,
                "bf16_ops": e.cost.bf16_ops,
                "int_ops": e.cost.int_ops,
            });
            self.put(slice(e.op.name(), 0, e.start, e.time, args))?;
        }
        for t in step.turns {
            self.name(t.thread)?;
            let name = match (t.thread, step.events.get(t.event)) {
                (0, _) => "waiting",
                (_, event) => event.map_or("", |e| Op::name(e.op)),
            };
            self.put(slice(name, t.thread, t.start, t.end - t.start, json!({})))?;
        }
        Ok(())
    }

    /// The events of one layer, or of none.
    fn layer(&mut self, events: &[Event]) -> io::Result<()> {
        let (Some(first), Some(last)) = (events.first(), events.last()) else {
            return Ok(());
        };
        let Some(layer) = first.layer else {
            return Ok(());
        };
        let time = last.start + last.time - first.start;
        let name = format!("layer {layer}");
        self.put(slice(&name, 0, first.start, time, json!({})))
    }

    /// Ends the trace.
    ///
    /// # Errors
    /// If it cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(b"\n]}\n")?;
        self.out.flush()?;
        Ok(self.out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::round::tests::{event, step};
    use crate::Turn;

    #[test]
    fn a_trace_is_json_with_a_row_for_each_thread() {
        let at = Duration::from_micros;
        let mut events = [
            event(None, Op::Embed, 2, 1),
            event(Some(0), Op::Qkv, 10, 8),
            event(Some(0), Op::Down, 20, 8),
        ];
        events[1].start = at(2);
        events[2].start = at(12);
        let turn = |thread, event, from, to| Turn {
            thread,
            event,
            start: at(from),
            end: at(to),
        };
        let turns = [turn(0, 1, 9, 12), turn(1, 1, 3, 12)];
        let mut s = step(&events, 40, 1, 1);
        s.turns = &turns;
        let mut trace = Trace::new(Vec::new()).unwrap();
        trace.step(&s).unwrap();
        trace.step(&s).unwrap();
        let json: Value = serde_json::from_slice(&trace.finish().unwrap()).unwrap();
        let all = json["traceEvents"].as_array().unwrap();
        let named = |name: &str| all.iter().filter(|e| e["name"] == name).collect::<Vec<_>>();
        assert_eq!(named("thread_name").len(), 2);
        assert_eq!(named("layer 0")[0]["dur"], 30.0);
        assert_eq!(named("waiting")[0]["dur"], 3.0);
        let qkv = named("query, key, value");
        assert_eq!(
            (&qkv[0]["tid"], &qkv[0]["args"]["bytes"]),
            (&json!(0), &json!(8))
        );
        assert_eq!((&qkv[1]["tid"], &qkv[1]["ts"]), (&json!(1), &json!(3.0)));
        let empty = Trace::new(Vec::new()).unwrap().finish().unwrap();
        let empty: Value = serde_json::from_slice(&empty).unwrap();
        assert_eq!(empty["traceEvents"], json!([]));
    }
}
