//! Counters for `/metrics`, in Prometheus' form, by the names of vLLM.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{exponential_buckets, Histogram};
use prometheus_client::registry::Registry;
use rustml_engine::{Stats, Timings};
use rustml_trace::lost::Sample;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The type of what [`Metrics::text`] returns.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Finished {
    finished_reason: &'static str,
}

#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct Answered {
    path: String,
    status: u16,
}

/// All that is counted.
pub(crate) struct Metrics {
    registry: Registry,
    http: Family<Answered, Counter>,
    finished: Family<Finished, Counter>,
    prompt_tokens: Counter,
    generation_tokens: Counter,
    running: Gauge,
    waiting: Gauge,
    to_first: Histogram,
    per_token: Histogram,
    queued: Histogram,
    prefill: Histogram,
    decode: Histogram,
    total: Histogram,
    slots: usize,
    engine: Arc<Mutex<Stats>>,
}

impl Metrics {
    pub fn new(slots: usize, roof: Option<f64>) -> Metrics {
        // 1 ms to 131 s, and 0.25 ms to 8 s.
        let seconds = || Histogram::new(exponential_buckets(0.001, 2.0, 18));
        let per_token = Histogram::new(exponential_buckets(0.00025, 2.0, 16));
        let mut m = Metrics {
            registry: Registry::with_prefix("rustml"),
            http: Family::default(),
            finished: Family::default(),
            prompt_tokens: Counter::default(),
            generation_tokens: Counter::default(),
            running: Gauge::default(),
            waiting: Gauge::default(),
            to_first: seconds(),
            per_token,
            queued: seconds(),
            prefill: seconds(),
            decode: seconds(),
            total: seconds(),
            slots,
            engine: Arc::default(),
        };
        m.register();
        let stats = m.engine.clone();
        m.registry
            .register_collector(Box::new(OfEngine { stats, roof }));
        m
    }

    fn register(&mut self) {
        let r = &mut self.registry;
        r.register(
            "http_requests",
            "HTTP requests answered, by path and status",
            self.http.clone(),
        );
        r.register(
            "request_success",
            "Answers that ended, by reason",
            self.finished.clone(),
        );
        r.register(
            "prompt_tokens",
            "Tokens of prompts",
            self.prompt_tokens.clone(),
        );
        r.register(
            "generation_tokens",
            "Tokens generated",
            self.generation_tokens.clone(),
        );
        r.register(
            "num_requests_running",
            "Answers being generated",
            self.running.clone(),
        );
        r.register(
            "num_requests_waiting",
            "Answers that wait for a slot",
            self.waiting.clone(),
        );
        for (name, help, histogram) in [
            (
                "time_to_first_token_seconds",
                "From a request's arrival to its first token",
                &self.to_first,
            ),
            (
                "time_per_output_token_seconds",
                "Time for each token after the first",
                &self.per_token,
            ),
            (
                "request_queue_time_seconds",
                "Time an answer waited for a slot",
                &self.queued,
            ),
            (
                "request_prefill_time_seconds",
                "From an answer's slot to its first token",
                &self.prefill,
            ),
            (
                "request_decode_time_seconds",
                "From the first token to the last",
                &self.decode,
            ),
            (
                "e2e_request_latency_seconds",
                "From a request's arrival to its end",
                &self.total,
            ),
        ] {
            r.register(name, help, histogram.clone());
        }
    }

    /// An HTTP request was answered.
    pub fn answered(&self, path: &str, status: u16) {
        let path = path.to_owned();
        self.http.get_or_create(&Answered { path, status }).inc();
    }

    /// An answer has a token more.
    pub fn generated(&self) {
        self.generation_tokens.inc();
    }

    /// An answer ended.
    pub fn answer(&self, finished_reason: &'static str, took: &Timings) {
        self.finished
            .get_or_create(&Finished { finished_reason })
            .inc();
        self.queued.observe(took.queued.as_secs_f64());
        if took.tokens > 0 {
            self.prefill.observe(took.prefill.as_secs_f64());
            self.decode.observe(took.decode.as_secs_f64());
        }
        if took.tokens > 1 {
            let mean = took.decode.as_secs_f64() / (took.tokens - 1) as f64;
            self.per_token.observe(mean);
        }
    }

    /// A request is over.
    pub fn request(&self, prompt: usize, total: Duration, to_first: Option<Duration>) {
        self.prompt_tokens.inc_by(prompt as u64);
        self.total.observe(total.as_secs_f64());
        if let Some(to_first) = to_first {
            self.to_first.observe(to_first.as_secs_f64());
        }
    }

    /// Answers in the engine.
    pub fn in_engine(&self, all: usize) {
        let running = all.min(self.slots);
        self.running.set(running as i64);
        self.waiting.set((all - running) as i64);
    }

    /// What the engine counts.
    pub fn engine(&self, stats: Stats) {
        *self.engine.lock().unwrap_or_else(PoisonError::into_inner) = stats;
    }

    /// All of it as text.
    pub fn text(&self) -> Result<String, std::fmt::Error> {
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

/// What the engine counts, in Prometheus' form.
#[derive(Debug)]
struct OfEngine {
    stats: Arc<Mutex<Stats>>,
    roof: Option<f64>,
}

impl Collector for OfEngine {
    fn encode(&self, mut to: DescriptorEncoder) -> std::fmt::Result {
        let s = *self.stats.lock().unwrap_or_else(PoisonError::into_inner);
        let missed = s.prefix_misses;
        let misses =
            missed.new + missed.evicted + missed.diverged + missed.too_short + missed.no_state;
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(to.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let used = s.kv_used as f64 / (s.kv_blocks as f64).max(1.0);
        gauge(
            "kv_cache_usage_perc",
            "Share of the cache that requests have; 1 is all",
            used,
        )?;
        if let Some(roof) = self.roof {
            gauge(
                "memory_read_roof_bytes_per_second",
                "What this machine reads at most, measured at the start",
                roof,
            )?;
        }
        for (name, help, value) in [
            (
                "num_preemptions",
                "How often a request had to make room for others",
                s.preemptions,
            ),
            (
                "prefix_cache_queries",
                "Tokens of prompts that were looked for in the cache",
                s.prefix_hits + misses,
            ),
            (
                "prefix_cache_hits",
                "Those of them that were found",
                s.prefix_hits,
            ),
            (
                "prefix_cache_misses_new",
                "Not found: nothing known begins so",
                missed.new,
            ),
            (
                "prefix_cache_misses_evicted",
                "Not found: it had to make room",
                missed.evicted,
            ),
            (
                "prefix_cache_misses_diverged",
                "Not found: what is known goes on differently",
                missed.diverged,
            ),
            (
                "prefix_cache_misses_too_short",
                "Not found: what is known ends before",
                missed.too_short,
            ),
            (
                "prefix_cache_misses_no_state",
                "Not found: it is known, but not the recurrent state at its end",
                missed.no_state,
            ),
            (
                "spec_decode_num_draft_tokens",
                "Tokens guessed ahead",
                s.proposed,
            ),
            (
                "spec_decode_num_accepted_tokens",
                "Guesses that were right",
                s.accepted,
            ),
            (
                "spec_decode_switched_off",
                "Answers that ended without guesses, since theirs had not paid",
                s.guesses_off,
            ),
            (
                "decode_read_bytes",
                "Bytes that steps read that only decoded",
                s.decode.bytes,
            ),
        ] {
            let counter = ConstCounter::new(value);
            counter.encode(to.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        if let Some(threads) = Sample::now(false) {
            let (ran, waited) = threads.totals();
            for (name, help, seconds) in [
                (
                    "compute_run_seconds",
                    "Time that the threads that compute ran, of all together",
                    ran,
                ),
                (
                    "compute_wait_seconds",
                    "Time that they were ready to run while the machine ran something else",
                    waited,
                ),
            ] {
                let counter = ConstCounter::new(seconds);
                counter.encode(to.encode_descriptor(name, help, None, counter.metric_type())?)?;
            }
        }
        for (name, help, seconds) in [
            (
                "decode_read_seconds",
                "How long those steps took; bytes a second of both is to be held against the roof",
                s.decode.seconds,
            ),
            (
                "spec_decode_draft_seconds",
                "Time that the draft model took",
                s.draft_seconds,
            ),
        ] {
            let counter = ConstCounter::new(seconds);
            counter.encode(to.encode_descriptor(name, help, None, counter.metric_type())?)?;
        }
        Ok(())
    }
}
