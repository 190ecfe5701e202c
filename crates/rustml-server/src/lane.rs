//! Where requests are read and grammars compiled, which computes.
//!
//! A few threads of their own do that. What may take seconds, a text of
//! megabytes or a grammar, goes one at a time on a lane of its kind, so that it
//! never has all of the threads, and holds up nobody who asks for little.

use crate::limits::SMALL_BODY;
use crate::types::ApiError;
use crate::App;
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Threads for this: one for each lane, and two for whatever is short.
pub(crate) const THREADS: usize = 4;

/// One at a time.
pub(crate) struct Lane {
    turn: Arc<Semaphore>,
    /// For those that wait, and the one that does not.
    places: Arc<Semaphore>,
}

/// A turn, while it is kept.
pub(crate) struct Turn {
    _turn: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl Lane {
    /// So many may wait on it.
    pub fn new(places: usize) -> Lane {
        Lane {
            turn: Arc::new(Semaphore::new(1)),
            places: Arc::new(Semaphore::new(places.clamp(1, 1 << 20))),
        }
    }

    /// Waits for its turn, if there is a place to wait.
    pub async fn turn(&self) -> Result<Turn, ApiError> {
        let busy = |_| ApiError::busy();
        let place = self.places.clone().try_acquire_owned().map_err(busy)?;
        let turn = self.turn.clone().acquire_owned().await;
        let turn = turn.map_err(|_| ApiError::busy())?;
        Ok(Turn {
            _turn: turn,
            _place: place,
        })
    }
}

impl App {
    /// Reads a body of so many bytes. The text of a large one takes more than a
    /// moment to become tokens, about a microsecond a byte where there is no space
    /// in it.
    pub async fn reading<T: Send + 'static>(
        &self,
        bytes: usize,
        read: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = match bytes > SMALL_BODY {
            true => Some(self.reading.turn().await?),
            false => None,
        };
        blocking(turn, read).await
    }
}

/// Runs what takes a while where it holds up nobody; a panic there is the end
/// of that request alone. It goes on when its client is gone, and so does its
/// turn.
pub(crate) async fn blocking<T: Send + 'static>(
    turn: Option<Turn>,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let held = move || {
        let _turn = turn;
        work()
    };
    match tokio::task::spawn_blocking(held).await {
        Ok(result) => result,
        Err(_) => Err(ApiError::internal("this request made the server fail")),
    }
}
