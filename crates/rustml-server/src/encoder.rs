//! The thread that turns texts into vectors.
//!
//! The texts of all requests share its steps: it takes one of each in turn, until a step has
//! as many tokens as it may have. Texts are not padded, and what a text gets does not depend
//! on its neighbours. A request whose client is gone is noticed between two steps.

use crate::limits::Config;
use crate::metrics::Metrics;
use crate::types::ApiError;
use rustml_tokenizer::Input;
use std::collections::VecDeque;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{mpsc as queue, Arc};
use std::thread::JoinHandle;
use std::time::Instant;
use tokio::sync::oneshot;

/// A model that turns texts into vectors.
pub struct Encodes {
    /// Values of a vector; or labels, where it gives their scores.
    pub width: usize,
    /// Tokens that there are.
    pub vocab: usize,
    /// Tokens of a text at most.
    pub most: usize,
    /// Tokens of a step, but for a text that alone has more.
    pub rows: usize,
    /// Texts of a step at most.
    pub texts: usize,
    /// Keeps so many values of a vector.
    pub shorten: fn(&mut Vec<f32>, usize),
    /// What its values are scores of, if they are no vectors.
    pub labels: Option<Labels>,
}

/// What a classifier or a reranker gives scores of.
pub struct Labels {
    /// What they are called; a reranker has one.
    pub names: Vec<String>,
    /// From scores to how likely each is.
    pub probabilities: Probabilities,
}

/// From scores to how likely each is.
pub type Probabilities = Box<dyn Fn(&[f32]) -> Vec<f32> + Send + Sync>;

/// Makes an encoder, in the thread that will own it; again, should it ever have to be replaced.
pub type MakeEncoder = Box<dyn FnMut() -> Result<Encoder, String> + Send>;

/// Runs a step: the vector of each text, or why it has none. An error is all texts'.
pub type Encoder = Box<dyn FnMut(&[&Input]) -> Result<Vec<Result<Vec<f32>, String>>, String>>;

/// The vectors of a request's texts.
type Vectors = Result<Vec<Vec<f32>>, ApiError>;

enum Message {
    Submit(Job),
    CancelAll,
    Stop,
}

struct Job {
    /// For the log.
    kind: &'static str,
    texts: Vec<Input>,
    answer: oneshot::Sender<Vectors>,
    sent: Instant,
}

/// The handle to the thread.
pub(crate) struct EncoderThread {
    to: queue::Sender<Message>,
    /// Requests that are not over.
    open: Arc<AtomicUsize>,
    /// How many there may be.
    most: usize,
    thread: Option<JoinHandle<()>>,
}

/// A place among the requests, while it is kept.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// What the thread is told of the model.
#[derive(Clone, Copy)]
struct Step {
    rows: usize,
    texts: usize,
}

impl EncoderThread {
    /// Starts the thread, and with it the encoder.
    pub fn start(
        encodes: &Encodes,
        mut make: MakeEncoder,
        config: &Config,
        metrics: Arc<Metrics>,
    ) -> Result<EncoderThread, String> {
        let (to, from) = queue::channel();
        let (made, is_made) = queue::sync_channel(1);
        let step = Step {
            rows: encodes.rows,
            texts: encodes.texts,
        };
        let body = move || {
            let encoder = match make() {
                Ok(encoder) => encoder,
                Err(e) => return drop(made.send(Err(e))),
            };
            let _ = made.send(Ok(()));
            Loop {
                encoder,
                make,
                from,
                metrics,
                step,
                jobs: VecDeque::new(),
            }
            .run();
        };
        let thread = std::thread::Builder::new()
            .name("encoder".into())
            .spawn(body)
            .map_err(|e| format!("cannot start the encoder's thread: {e}"))?;
        let dead = |_| "the encoder could not be made".to_owned();
        is_made.recv().map_err(dead)??;
        Ok(EncoderThread {
            to,
            open: Arc::default(),
            most: config.slots.saturating_add(config.queue),
            thread: Some(thread),
        })
    }

    /// The vectors of texts, in their order. Dropped, it is cancelled.
    pub async fn run(&self, kind: &'static str, texts: Vec<Input>) -> Vectors {
        let place = Place(self.open.clone());
        if self.open.fetch_add(1, Ordering::SeqCst) >= self.most {
            return Err(ApiError::busy());
        }
        let (answer, answered) = oneshot::channel();
        let job = Job {
            kind,
            texts,
            answer,
            sent: Instant::now(),
        };
        let gone = || ApiError::unavailable("the server is ending");
        self.to.send(Message::Submit(job)).map_err(|_| gone())?;
        let vectors = answered.await.map_err(|_| gone())?;
        drop(place);
        vectors
    }

    /// Requests that are not over.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Ends all of them.
    pub fn cancel_all(&self) {
        let _ = self.to.send(Message::CancelAll);
    }

    /// Whether the thread is there.
    pub fn is_alive(&self) -> bool {
        self.thread.as_ref().is_some_and(|t| !t.is_finished())
    }
}

impl Drop for EncoderThread {
    fn drop(&mut self) {
        let _ = self.to.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// A request in work. Its texts are taken shortest first.
struct Active {
    job: Job,
    /// Which text is next, the last one first.
    left: Vec<usize>,
    vectors: Vec<Vec<f32>>,
    /// Texts without a vector.
    missing: usize,
    failed: Option<ApiError>,
}

struct Loop {
    encoder: Encoder,
    make: MakeEncoder,
    from: queue::Receiver<Message>,
    metrics: Arc<Metrics>,
    step: Step,
    jobs: VecDeque<Active>,
}

impl Loop {
    fn run(mut self) {
        while self.take_messages() {
            self.jobs.retain(|a| !a.job.answer.is_closed());
            let picked = pick(&mut self.jobs, self.step);
            if picked.is_empty() {
                continue;
            }
            let texts: Vec<&Input> = picked
                .iter()
                .map(|&(j, t)| &self.jobs[j].job.texts[t])
                .collect();
            let encoder = &mut self.encoder;
            let made = catch_unwind(AssertUnwindSafe(|| encoder(&texts)));
            let panicked = made.is_err();
            match made {
                Ok(Ok(all)) => {
                    for (&(j, t), vector) in picked.iter().zip(all) {
                        self.jobs[j].keep(t, vector.map_err(ApiError::internal));
                    }
                }
                Ok(Err(e)) => self.fail(&picked, &e),
                Err(_) => self.fail(&picked, "the texts made the encoder fail"),
            }
            self.deliver();
            if panicked {
                match (self.make)() {
                    Ok(encoder) => self.encoder = encoder,
                    Err(e) => {
                        tracing::error!(target: "rustml_server", "the encoder failed and cannot be replaced: {e}");
                        return;
                    }
                }
            }
        }
    }

    fn fail(&mut self, picked: &[(usize, usize)], why: &str) {
        for &(j, t) in picked {
            self.jobs[j].keep(t, Err(ApiError::internal(why)));
        }
    }

    /// Takes all messages there are, and waits for one if there is nothing to do; whether to
    /// go on.
    fn take_messages(&mut self) -> bool {
        loop {
            let message = match self.jobs.is_empty() {
                true => self.from.recv().ok(),
                false => match self.from.try_recv() {
                    Err(queue::TryRecvError::Empty) => return true,
                    other => other.ok(),
                },
            };
            match message {
                Some(Message::Submit(job)) => self.jobs.push_back(Active::new(job)),
                Some(Message::CancelAll) => self.jobs.clear(),
                Some(Message::Stop) | None => return false,
            }
        }
    }

    /// Answers the requests that are over.
    fn deliver(&mut self) {
        let is_over = |a: &Active| a.missing == 0 || a.failed.is_some();
        for active in std::mem::take(&mut self.jobs) {
            match is_over(&active) {
                true => self.answer(active),
                false => self.jobs.push_back(active),
            }
        }
    }

    fn answer(&self, active: Active) {
        let tokens: usize = active.job.texts.iter().map(|t| t.ids.len()).sum();
        let total = active.job.sent.elapsed();
        self.metrics.request(tokens, total, None);
        tracing::info!(
            target: "rustml_server::request",
            kind = active.job.kind,
            texts = active.job.texts.len(),
            prompt_tokens = tokens,
            total_ms = (total.as_secs_f64() * 1e4).round() / 10.0,
            finish = if active.failed.is_some() { "failed" } else { "stop" },
        );
        let answer = active.failed.map_or(Ok(active.vectors), Err);
        let _ = active.job.answer.send(answer);
    }
}

impl Active {
    fn new(job: Job) -> Active {
        let mut left: Vec<usize> = (0..job.texts.len()).collect();
        left.sort_by_key(|&i| std::cmp::Reverse(job.texts[i].ids.len()));
        Active {
            left,
            vectors: vec![Vec::new(); job.texts.len()],
            missing: job.texts.len(),
            failed: None,
            job,
        }
    }

    fn keep(&mut self, text: usize, vector: Result<Vec<f32>, ApiError>) {
        match vector {
            Ok(vector) => {
                self.vectors[text] = vector;
                self.missing -= 1;
            }
            Err(e) => self.failed = Some(e),
        }
    }
}

/// Takes the texts of a step: one of each request in turn, while there is room. The request
/// whose text did not fit is the first of the next step, so that none waits for ever.
fn pick(jobs: &mut VecDeque<Active>, step: Step) -> Vec<(usize, usize)> {
    let (mut picked, mut rows) = (Vec::new(), 0);
    let mut full = None;
    'step: loop {
        let before = picked.len();
        for (j, active) in jobs.iter_mut().enumerate() {
            let Some(&text) = active.left.last() else {
                continue;
            };
            let more = active.job.texts[text].ids.len();
            let fits = rows + more <= step.rows && picked.len() < step.texts;
            if !fits && !picked.is_empty() {
                full = Some(j);
                break 'step;
            }
            active.left.pop();
            picked.push((j, text));
            rows += more;
        }
        if picked.len() == before {
            break;
        }
    }
    if let Some(first) = full {
        jobs.rotate_left(first);
        let count = jobs.len();
        for (j, _) in &mut picked {
            *j = (*j + count - first) % count;
        }
    }
    picked
}

#[cfg(test)]
mod tests {
    use super::*;

    fn jobs(lengths: &[&[usize]]) -> VecDeque<Active> {
        let text = |&n: &usize| Input {
            ids: vec![0; n],
            ..Input::default()
        };
        let job = |lengths: &&[usize]| {
            Active::new(Job {
                kind: "test",
                texts: lengths.iter().map(text).collect(),
                answer: oneshot::channel().0,
                sent: Instant::now(),
            })
        };
        lengths.iter().map(job).collect()
    }

    /// The lengths in each step, until all texts had one.
    fn steps(lengths: &[&[usize]], step: Step) -> Vec<Vec<usize>> {
        let mut jobs = jobs(lengths);
        let mut all = Vec::new();
        loop {
            let picked = pick(&mut jobs, step);
            if picked.is_empty() {
                return all;
            }
            let length = |&(j, t): &(usize, usize)| jobs[j].job.texts[t].ids.len();
            all.push(picked.iter().map(length).collect());
        }
    }

    #[test]
    fn steps_take_one_text_of_each_request_in_turn() {
        let step = Step { rows: 10, texts: 4 };
        // The shortest first, and the other request between.
        assert_eq!(steps(&[&[5, 1, 3], &[2]], step), [vec![1, 2, 3], vec![5]]);
        // No more texts than there may be.
        assert_eq!(steps(&[&[1; 6]], step), [vec![1; 4], vec![1; 2]]);
        // A text of more tokens than a step has goes alone, but waits for no more than a step.
        assert_eq!(
            steps(&[&[1; 9], &[30]], step),
            [vec![1], vec![30], vec![1; 4], vec![1; 4]]
        );
        assert!(steps(&[], step).is_empty());
    }
}
