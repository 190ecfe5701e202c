//! The thread that owns the engine.
//!
//! It takes messages, steps, and sends each request what the step brought for
//! it; when nothing is left to compute, it sleeps until a message comes. A
//! client that has gone away is a message like any other.

use crate::limits::Config;
use crate::metrics::Metrics;
use crate::types::ApiError;
use rustml_engine::{Engine, Finish, Refusal, Request, RequestId, Timings, Update};
use std::collections::HashMap;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{mpsc as queue, Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{mpsc, oneshot};

/// Makes the engine, in the thread that will own it; again, should it ever
/// have to be replaced.
pub type MakeEngine = Box<dyn FnMut() -> Result<Engine, String> + Send>;

/// Counts parts of steps, so that a step that goes on can be told from one that is
/// stuck.
type Progress = Arc<AtomicU64>;

/// What steps brought for a job's answers, or why that job is over.
pub(crate) enum Event {
    /// Each for the answer of that index.
    Updates(Vec<(usize, Update)>),
    /// The engine is broken, and with it all that it was at.
    Failed,
}

enum Message {
    Submit(Job),
    Cancel(u64),
    CancelAll,
    Stop,
}

struct Job {
    key: u64,
    /// For the log: `chat` or `completions`.
    kind: &'static str,
    streams: bool,
    requests: Vec<Request>,
    accepted: oneshot::Sender<Result<(), ApiError>>,
    events: mpsc::Sender<Event>,
    sent: Instant,
}

/// The handle to the thread.
pub(crate) struct Worker {
    to: queue::Sender<Message>,
    shared: Arc<Shared>,
    backlog: usize,
    /// Time without a sign of life after which the engine is taken for stuck.
    stuck: Duration,
    thread: Option<JoinHandle<()>>,
    /// Whether there is an engine at all.
    generates: bool,
}

#[derive(Default)]
struct Shared {
    next: AtomicU64,
    /// Jobs that are not over, including those whose answers are still being
    /// sent.
    open: AtomicUsize,
    idle: AtomicBool,
    /// Rounds of the thread.
    rounds: AtomicU64,
    /// Of the engine that is there now.
    progress: Mutex<Option<Progress>>,
    /// The latest sign of life that somebody saw, and when.
    seen: Mutex<Option<((u64, u64), Instant)>>,
}

impl Shared {
    /// Whether there was a sign of life within `patience`, or since somebody looked
    /// last.
    fn is_alive(&self, patience: Duration) -> bool {
        let progress = self.progress.lock().unwrap_or_else(PoisonError::into_inner);
        let parts = progress
            .as_ref()
            .map_or(0, |parts| parts.load(Ordering::Relaxed));
        let now = (self.rounds.load(Ordering::Relaxed), parts);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match *seen {
            Some((then, at)) if then == now => at.elapsed() < patience,
            _ => {
                *seen = Some((now, Instant::now()));
                true
            }
        }
    }

    fn watch(&self, engine: &Engine) {
        let progress = Some(engine.progress());
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = progress;
    }
}

impl Worker {
    /// For a model that does not generate.
    pub fn none() -> Worker {
        Worker {
            to: queue::channel().0,
            shared: Arc::default(),
            backlog: 1,
            stuck: Duration::MAX,
            thread: None,
            generates: false,
        }
    }

    /// Starts the thread, and with it the engine.
    pub fn start(
        mut make: MakeEngine,
        config: &Config,
        metrics: Arc<Metrics>,
    ) -> Result<Worker, String> {
        let (to, from) = queue::channel();
        let (made, is_made) = queue::sync_channel(1);
        let shared = Arc::new(Shared::default());
        let most = config.slots.saturating_add(config.queue);
        let mine = shared.clone();
        let body = move || {
            let engine = match make() {
                Ok(engine) => engine,
                Err(e) => return drop(made.send(Err(e))),
            };
            let _ = made.send(Ok(()));
            mine.watch(&engine);
            Loop {
                engine: Some(engine),
                make,
                from,
                shared: mine,
                metrics,
                most,
                jobs: HashMap::new(),
                owners: HashMap::new(),
            }
            .run();
        };
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(body)
            .map_err(|e| format!("cannot start the engine's thread: {e}"))?;
        let dead = |_| "the engine could not be made".to_owned();
        is_made.recv().map_err(dead)??;
        Ok(Worker {
            to,
            shared,
            backlog: config.backlog,
            stuck: config.stuck_after,
            thread: Some(thread),
            generates: true,
        })
    }

    /// Submits requests that belong together: all of them run, or none. Unless
    /// somebody `streams`, updates come when an answer is over: to wake a thread
    /// for each would take time from the steps.
    pub async fn submit(
        &self,
        kind: &'static str,
        requests: Vec<Request>,
        streams: bool,
    ) -> Result<Running, ApiError> {
        self.generates()?;
        let key = self.shared.next.fetch_add(1, Ordering::Relaxed);
        // A step sends a job one event.
        let (events, receiver) = mpsc::channel(self.backlog.max(1));
        let (accepted, is_accepted) = oneshot::channel();
        let job = Job {
            key,
            kind,
            streams,
            requests,
            accepted,
            events,
            sent: Instant::now(),
        };
        self.shared.open.fetch_add(1, Ordering::SeqCst);
        // From here on, dropping it cancels.
        let running = Running {
            key,
            to: self.to.clone(),
            shared: self.shared.clone(),
            events: receiver,
        };
        let gone = || ApiError::unavailable("the server is ending");
        self.to.send(Message::Submit(job)).map_err(|_| gone())?;
        is_accepted.await.map_err(|_| gone())??;
        Ok(running)
    }

    /// Refuses to generate where the model cannot.
    pub fn generates(&self) -> Result<(), ApiError> {
        let says =
            "this model turns texts into numbers and does not generate; ask it at /v1/embeddings, /v1/rerank or /classify";
        match self.generates {
            true => Ok(()),
            false => Err(ApiError::field("model", says).code("model_does_not_generate")),
        }
    }

    /// Jobs that are not over.
    pub fn open(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }

    /// Ends all jobs.
    pub fn cancel_all(&self) {
        let _ = self.to.send(Message::CancelAll);
    }

    /// Whether the thread is stepping, or ready to.
    pub fn is_alive(&self) -> bool {
        if !self.generates {
            return true;
        }
        let thread = self.thread.as_ref().is_some_and(|t| !t.is_finished());
        let alive = self.shared.is_alive(self.stuck);
        thread && (self.shared.idle.load(Ordering::Relaxed) || alive)
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.to.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A job that was accepted. Dropped, it is cancelled.
pub(crate) struct Running {
    key: u64,
    to: queue::Sender<Message>,
    shared: Arc<Shared>,
    events: mpsc::Receiver<Event>,
}

impl Running {
    /// What comes next; `None` if the client was too slow and its job is
    /// cancelled, or nothing more will come.
    pub async fn next(&mut self) -> Option<Event> {
        self.events.recv().await
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.to.send(Message::Cancel(self.key));
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A job in the engine.
struct Active {
    kind: &'static str,
    streams: bool,
    /// Updates that were not sent.
    held: Vec<(usize, Update)>,
    events: mpsc::Sender<Event>,
    /// What the engine calls its requests; `None` once they are over.
    ids: Vec<Option<RequestId>>,
    sent: Instant,
    first: Option<Instant>,
    log: Log,
}

/// What the log and the metrics are told of a job.
#[derive(Default)]
struct Log {
    prompt: usize,
    generated: usize,
    cached: usize,
    queued: Duration,
    prefill: Duration,
    decode: Duration,
    guessed: usize,
    right: usize,
    guesses_off: usize,
    reasons: Vec<&'static str>,
}

struct Loop {
    /// There but while another one is made.
    engine: Option<Engine>,
    make: MakeEngine,
    from: queue::Receiver<Message>,
    shared: Arc<Shared>,
    metrics: Arc<Metrics>,
    /// Answers that may run and wait together.
    most: usize,
    jobs: HashMap<u64, Active>,
    /// Of the engine's requests: job, and index of the answer.
    owners: HashMap<RequestId, (u64, usize)>,
}

impl Loop {
    fn engine(&mut self) -> &mut Engine {
        self.engine
            .as_mut()
            .expect("it is replaced, or the thread ends")
    }

    fn run(mut self) {
        while self.take_messages() {
            let stepped = catch_unwind(AssertUnwindSafe(|| self.engine().step()));
            match stepped {
                Ok(updates) => {
                    let stats = self.engine().stats();
                    self.metrics.engine(stats);
                    self.deliver(updates);
                }
                Err(_) => {
                    if !self.replace() {
                        return;
                    }
                }
            }
        }
    }

    /// The next message, which may take long; `None` if none will come.
    fn wait(&mut self) -> Option<Message> {
        loop {
            match self.from.try_recv() {
                Err(queue::TryRecvError::Empty) if self.engine().tidy() => {}
                Err(queue::TryRecvError::Empty) => return self.from.recv().ok(),
                other => return other.ok(),
            }
        }
    }

    /// Takes all messages there are, and waits for one if there is nothing
    /// else to do; whether to go on.
    fn take_messages(&mut self) -> bool {
        loop {
            self.shared.rounds.fetch_add(1, Ordering::Relaxed);
            let message = if self.engine().is_idle() {
                self.shared.idle.store(true, Ordering::Relaxed);
                let message = self.wait();
                self.shared.rounds.fetch_add(1, Ordering::Relaxed);
                self.shared.idle.store(false, Ordering::Relaxed);
                message
            } else {
                match self.from.try_recv() {
                    Err(queue::TryRecvError::Empty) => return true,
                    other => other.ok(),
                }
            };
            match message {
                Some(Message::Submit(job)) => self.submit(job),
                Some(Message::Cancel(key)) => self.cancel(key),
                Some(Message::CancelAll) => {
                    let updates = self.engine().cancel_all(Finish::Cancelled);
                    self.deliver(updates);
                }
                Some(Message::Stop) | None => {
                    self.engine().cancel_all(Finish::Cancelled);
                    return false;
                }
            }
        }
    }

    fn submit(&mut self, job: Job) {
        if job.accepted.is_closed() {
            return; // Its client left before it began.
        }
        let prompt = job.requests.iter().map(|r| r.prompt.len()).sum();
        match self.admit(job.requests) {
            Ok(ids) => {
                for (i, &id) in ids.iter().enumerate() {
                    self.owners.insert(id, (job.key, i));
                }
                let active = Active {
                    kind: job.kind,
                    streams: job.streams,
                    held: Vec::new(),
                    events: job.events,
                    log: Log {
                        prompt,
                        ..Log::default()
                    },
                    ids: ids.into_iter().map(Some).collect(),
                    sent: job.sent,
                    first: None,
                };
                self.jobs.insert(job.key, active);
                let _ = job.accepted.send(Ok(()));
            }
            Err(e) => drop(job.accepted.send(Err(e))),
        }
        self.count();
    }

    fn admit(&mut self, requests: Vec<Request>) -> Result<Vec<RequestId>, ApiError> {
        if self.owners.len() + requests.len() > self.most {
            return Err(ApiError::busy());
        }
        let mut ids = Vec::new();
        for request in requests {
            let engine = self.engine();
            let submit = AssertUnwindSafe(|| engine.submit(request));
            let done = match catch_unwind(submit) {
                Ok(done) => done.map_err(refused),
                Err(_) => Err(ApiError::internal("the request made the engine fail")),
            };
            match done {
                Ok(id) => ids.push(id),
                Err(e) => {
                    for id in ids {
                        self.engine().cancel(id, Finish::Cancelled);
                    }
                    return Err(e);
                }
            }
        }
        Ok(ids)
    }

    /// Ends a job whose client is gone, or finds nothing left of it.
    fn cancel(&mut self, key: u64) {
        let Some(mut active) = self.jobs.remove(&key) else {
            return;
        };
        for id in active.ids.iter_mut().filter_map(Option::take) {
            self.owners.remove(&id);
            let update = self.engine().cancel(id, Finish::Cancelled);
            if let Some((why, timings)) = update.and_then(|u| u.finish) {
                self.metrics.answer(why.name(), &timings);
                active.log.add(&why, &timings);
            }
        }
        self.close(&active);
    }

    /// Gives each job what is for it.
    fn deliver(&mut self, updates: Vec<Update>) {
        let mut jobs: Vec<u64> = updates.into_iter().filter_map(|u| self.hold(u)).collect();
        jobs.sort_unstable();
        jobs.dedup();
        for key in jobs {
            self.send(key);
        }
    }

    /// Puts an update to what its job is to get; which job, if it is to be sent.
    fn hold(&mut self, update: Update) -> Option<u64> {
        let &(key, i) = self.owners.get(&update.id)?;
        let active = self.jobs.get_mut(&key)?;
        if update.token.is_some() {
            active.first.get_or_insert_with(Instant::now);
            active.log.generated += 1;
            self.metrics.generated();
        }
        let ends = update.finish.is_some();
        if let Some((why, timings)) = &update.finish {
            self.metrics.answer(why.name(), timings);
            active.log.add(why, timings);
            active.ids[i] = None;
            self.owners.remove(&update.id);
        }
        active.held.push((i, update));
        (active.streams || ends).then_some(key)
    }

    /// Sends a job what is held for it.
    fn send(&mut self, key: u64) {
        let Some(active) = self.jobs.get_mut(&key) else {
            return;
        };
        let held = std::mem::take(&mut active.held);
        let sent = active.events.try_send(Event::Updates(held));
        let over = active.ids.iter().all(Option::is_none);
        if over {
            if let Some(active) = self.jobs.remove(&key) {
                self.close(&active);
            }
        } else if sent.is_err() {
            // It does not read; what it was to get is lost with its channel.
            self.cancel(key);
        }
    }

    /// After a panic nobody knows what state the engine is in: everybody is
    /// told so, and another one takes its place.
    fn replace(&mut self) -> bool {
        self.owners.clear();
        for (_, mut active) in std::mem::take(&mut self.jobs) {
            active.log.reasons.push("failed");
            self.metrics.answer("failed", &Timings::default());
            let _ = active.events.try_send(Event::Failed);
            self.close(&active);
        }
        // There is memory for one cache, not for two.
        let gone = self.engine.take();
        let _ = catch_unwind(AssertUnwindSafe(move || drop(gone)));
        match (self.make)() {
            Ok(engine) => {
                tracing::error!(target: "rustml_server", "the engine failed and was replaced");
                self.shared.watch(&engine);
                self.engine = Some(engine);
                true
            }
            Err(e) => {
                tracing::error!(target: "rustml_server", "the engine failed and cannot be replaced: {e}");
                false
            }
        }
    }

    fn close(&self, active: &Active) {
        self.count();
        let log = &active.log;
        let total = active.sent.elapsed();
        let to_first = active.first.map(|at| at - active.sent);
        self.metrics.request(log.prompt, total, to_first);
        tracing::info!(
            target: "rustml_server::request",
            kind = active.kind,
            answers = active.ids.len(),
            prompt_tokens = log.prompt,
            cached_tokens = log.cached,
            tokens = log.generated,
            queue_ms = ms(log.queued),
            prefill_ms = ms(log.prefill),
            decode_ms = ms(log.decode),
            total_ms = ms(total),
            guessed = log.guessed,
            guessed_right = log.right,
            guesses_off = log.guesses_off,
            finish = log.reasons.join(","),
        );
    }

    fn count(&self) {
        // After a cancellation there may be no step that would tell.
        if let Some(engine) = &self.engine {
            self.metrics.engine(engine.stats());
        }
        self.metrics.in_engine(self.owners.len());
    }
}

impl Log {
    fn add(&mut self, why: &Finish, timings: &Timings) {
        self.queued = self.queued.max(timings.queued);
        self.prefill = self.prefill.max(timings.prefill);
        self.cached += timings.cached_tokens;
        self.decode = self.decode.max(timings.decode);
        self.guessed += timings.guessed;
        self.right += timings.right;
        self.guesses_off += usize::from(timings.guesses_off);
        self.reasons.push(why.name());
    }
}

fn ms(d: Duration) -> f64 {
    (d.as_secs_f64() * 1e4).round() / 10.0
}

/// A refusal as HTTP says it.
pub(crate) fn refused(refusal: Refusal) -> ApiError {
    let e = ApiError::bad(refusal.to_string());
    match refusal {
        Refusal::PromptTooLong { .. } | Refusal::CacheTooSmall { .. } => {
            e.code("context_length_exceeded")
        }
        _ => e,
    }
}
