//! A text on its way through a grammar, and what its tokens may cost.
//!
//! Masks that take long are computed on threads of their own while the step
//! runs. What they may take is counted: so much at the beginning, and a little
//! with every token. A grammar that goes on to take more ends its request.

use crate::constraint::{Constraint, TokenMask};
use crate::grammar::first_line;
use llguidance::toktrie::SimpleVob;
use llguidance::{CancellationHandle, Matcher};
use std::sync::mpsc::{channel, Receiver, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

/// Time for masks that a text begins with.
const BEGINNING: Duration = Duration::from_secs(2);

/// What each token adds to it.
const EACH: Duration = Duration::from_millis(10);

/// A mask that takes longer is worth another thread's while.
const LONG: Duration = Duration::from_micros(300);

/// What a busy machine may add before a mask is given up.
const PATIENCE: Duration = Duration::from_secs(5);

/// Threads for masks.
const THREADS: usize = 2;

/// A mask, and how long it took.
type Mask = (Result<SimpleVob, String>, Duration);

/// What comes back from another thread.
type Answer = (Box<Matcher>, Mask);

/// What goes there.
type Job = (Box<Matcher>, Sender<Answer>);

/// A text on its way through a grammar.
pub(crate) struct Guided {
    place: Place,
    cancel: Option<CancellationHandle>,
    /// Time for masks that is left.
    left: Duration,
    /// How long the last mask took.
    last: Duration,
}

/// Where the next mask is computed.
enum Place {
    /// Here, when it is asked for; or it is there already.
    Here(Box<Matcher>, Option<Mask>),
    Away(Receiver<Answer>),
    /// It took too long, and was given up.
    Lost,
}

impl Guided {
    pub fn new(matcher: Matcher) -> Guided {
        Guided {
            cancel: matcher.cancellation_handle(),
            place: Place::Here(Box::new(matcher), None),
            left: BEGINNING,
            last: Duration::ZERO,
        }
    }

    /// The matcher, once nobody else has it.
    fn here(&mut self) -> Result<(&mut Matcher, &mut Option<Mask>), String> {
        if let Place::Away(answer) = &self.place {
            let answer = answer.recv_timeout(4 * self.left + PATIENCE);
            self.place = match answer {
                Ok((matcher, mask)) => Place::Here(matcher, Some(mask)),
                Err(RecvTimeoutError::Timeout) => {
                    self.cancel();
                    Place::Lost
                }
                Err(RecvTimeoutError::Disconnected) => Place::Lost,
            };
        }
        match &mut self.place {
            Place::Here(matcher, mask) => Ok((matcher, mask)),
            _ => Err(too_long()),
        }
    }

    fn cancel(&self) {
        if let Some(cancel) = &self.cancel {
            cancel.cancel();
        }
    }

    fn spend(&mut self, time: Duration) -> Result<(), String> {
        self.left = self.left.checked_sub(time).ok_or_else(too_long)?;
        Ok(())
    }

    /// Has the next mask computed elsewhere, if it may take long.
    fn send(&mut self) {
        if self.last < LONG {
            return;
        }
        let Some(threads) = threads() else { return };
        match std::mem::replace(&mut self.place, Place::Lost) {
            Place::Here(matcher, None) if !matcher.is_stopped() => {
                let (answer, is_answered) = channel();
                self.place = match threads.send((matcher, answer)) {
                    Ok(()) => Place::Away(is_answered),
                    Err(e) => Place::Here(e.0 .0, None),
                };
            }
            other => self.place = other,
        }
    }
}

fn too_long() -> String {
    "the grammar takes too long to tell what may come next".to_owned()
}

fn compute(matcher: &mut Matcher) -> Mask {
    let began = busy();
    let mask = matcher.compute_mask_or_eos();
    let mask = mask.map_err(|e| first_line(&e.to_string()));
    (mask, busy().saturating_sub(began))
}

/// How long this thread has been computing. Other processes do not count.
fn busy() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::from_secs(seconds) + Duration::from_nanos(u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// The way to the threads, which are started when they are first needed.
fn threads() -> Option<&'static Sender<Job>> {
    static THREADS_THERE: OnceLock<Option<Sender<Job>>> = OnceLock::new();
    let start = || {
        let (jobs, next) = channel::<Job>();
        let next = Arc::new(Mutex::new(next));
        let mut started = 0;
        for _ in 0..THREADS {
            let next = next.clone();
            let work = move || loop {
                let Ok(job) = next.lock().map(|next| next.recv()) else {
                    return;
                };
                let Ok((mut matcher, answer)) = job else {
                    return;
                };
                let mask = compute(&mut matcher);
                // Its text may be over.
                let _ = answer.send((matcher, mask));
            };
            let thread = std::thread::Builder::new().name("masks".into());
            started += usize::from(thread.spawn(work).is_ok());
        }
        (started > 0).then_some(jobs)
    };
    THREADS_THERE.get_or_init(start).as_ref()
}

impl Constraint for Guided {
    fn mask(&mut self, allowed: &mut TokenMask) -> Result<(), String> {
        let (matcher, mask) = self.here()?;
        let (mask, time) = match mask.take() {
            Some(mask) => mask,
            None => compute(matcher),
        };
        allowed.intersect(mask?.as_slice());
        self.last = time;
        self.spend(time)
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        let began = busy();
        let (matcher, _) = self.here()?;
        let done = matcher.consume_token(token);
        done.map_err(|e| first_line(&e.to_string()))?;
        self.left = (self.left + EACH).min(BEGINNING);
        self.spend(busy().saturating_sub(began))?;
        self.send();
        Ok(())
    }

    fn is_complete(&self) -> bool {
        match &self.place {
            Place::Here(matcher, _) => matcher.is_stopped(),
            _ => false,
        }
    }
}

/// Nobody works for a text that is over.
impl Drop for Guided {
    fn drop(&mut self) {
        self.cancel();
    }
}
