//! Connections that are open, and which of them have to go when there are too many.
//!
//! A connection costs little, but there are only so many. When all are taken and
//! somebody new comes, one that has no request gives way; of those that are slow to
//! send theirs, only if their address has more connections than the newcomer's. Of
//! several it is one of the address that has the most, so that no address can keep
//! the others out.

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};
use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{Notify, OwnedSemaphorePermit};

/// What a connection does.
#[derive(Clone, Copy, Debug, PartialEq)]
enum State {
    /// Nothing.
    Idle,
    /// The head of a request arrives.
    Head,
    /// The body of a request arrives.
    Body,
    /// A request is answered.
    Busy,
}

struct Entry {
    from: IpAddr,
    state: State,
    since: Instant,
    close: Arc<Notify>,
}

/// All connections that are open.
pub(crate) struct Connections {
    most: usize,
    open: Mutex<(u64, HashMap<u64, Entry>)>,
}

/// A connection's place among them, which it leaves when this is dropped.
pub(crate) struct Place {
    id: u64,
    all: Arc<Connections>,
    close: Arc<Notify>,
}

impl Connections {
    pub fn new(most: usize) -> Arc<Connections> {
        Arc::new(Connections {
            most: most.max(1),
            open: Mutex::default(),
        })
    }

    fn open(&self) -> MutexGuard<'_, (u64, HashMap<u64, Entry>)> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a connection in, if need be in the place of another one.
    pub fn enter(self: &Arc<Self>, from: IpAddr) -> Option<Arc<Place>> {
        let from = network(from);
        let mut open = self.open();
        let (next, entries) = &mut *open;
        if entries.len() >= self.most {
            let gone = entries.remove(&least(entries, from)?)?;
            gone.close.notify_one();
        }
        *next += 1;
        let close = Arc::new(Notify::new());
        let entry = Entry {
            from,
            state: State::Idle,
            since: Instant::now(),
            close: close.clone(),
        };
        entries.insert(*next, entry);
        Some(Arc::new(Place {
            id: *next,
            all: self.clone(),
            close,
        }))
    }
}

/// Addresses that one customer of a network has.
fn network(from: IpAddr) -> IpAddr {
    match from.to_canonical() {
        IpAddr::V6(ip) => IpAddr::V6((u128::from(ip) & !u128::from(u64::MAX)).into()),
        ip => ip,
    }
}

/// The connection that gives way to one from there.
fn least(entries: &HashMap<u64, Entry>, from: IpAddr) -> Option<u64> {
    let mut counts: HashMap<IpAddr, usize> = HashMap::new();
    for entry in entries.values() {
        *counts.entry(entry.from).or_default() += 1;
    }
    let count = |from| counts.get(&from).copied().unwrap_or(0);
    let may_go = |entry: &Entry| match entry.state {
        State::Idle => true,
        State::Head | State::Body => count(entry.from) > count(from) + 1,
        State::Busy => false,
    };
    let going = entries.iter().filter(|(_, entry)| may_go(entry));
    let least = going.max_by_key(|(_, entry)| {
        let idle = entry.state == State::Idle;
        (count(entry.from), idle, entry.since.elapsed())
    });
    least.map(|(&id, _)| id)
}

impl Place {
    fn set(&self, state: State) {
        if let Some(entry) = self.all.open().1.get_mut(&self.id) {
            (entry.state, entry.since) = (state, Instant::now());
        }
    }

    /// Bytes arrived.
    fn received(&self) {
        if let Some(entry) = self.all.open().1.get_mut(&self.id) {
            if entry.state == State::Idle {
                (entry.state, entry.since) = (State::Head, Instant::now());
            }
        }
    }

    /// A request is here. It is answered when what is returned is dropped.
    pub fn begin(self: &Arc<Self>) -> Busy {
        self.set(State::Busy);
        Busy(self.clone())
    }

    /// A body arrives, until what is returned is dropped.
    pub fn reading(self: &Arc<Self>) -> Reading {
        self.set(State::Body);
        Reading(self.clone())
    }

    /// Waits until the connection has to go: for another one, or since the head of
    /// a request takes longer than this.
    pub async fn closed(&self, head: Duration) {
        let look = (head / 4).clamp(Duration::from_millis(10), Duration::from_secs(1));
        loop {
            tokio::select! {
                () = self.close.notified() => return,
                () = tokio::time::sleep(look) => {}
            }
            let open = self.all.open();
            let late = |e: &Entry| e.state == State::Head && e.since.elapsed() >= head;
            if open.1.get(&self.id).is_none_or(late) {
                return;
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.all.open().1.remove(&self.id);
    }
}

/// A request that is answered.
pub(crate) struct Busy(Arc<Place>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.set(State::Idle);
    }
}

/// A body that arrives.
pub(crate) struct Reading(Arc<Place>);

impl Drop for Reading {
    fn drop(&mut self) {
        self.0.set(State::Busy);
    }
}

/// Bytes of an answer that are handed on at a time.
const PIECE: usize = 64 << 10;

/// What an answer holds until it is sent.
pub(crate) type Kept = Arc<OwnedSemaphorePermit>;

/// The body of an answer. Its connection is busy until it is sent, so what is large
/// is handed on in pieces.
pub(crate) struct Held {
    body: Body,
    rest: Bytes,
    busy: Option<Busy>,
    _kept: Option<Kept>,
}

impl Held {
    pub fn new(body: Body, busy: Busy, kept: Option<Kept>) -> Held {
        Held {
            body,
            rest: Bytes::new(),
            busy: Some(busy),
            _kept: kept,
        }
    }
}

impl HttpBody for Held {
    type Data = <Body as HttpBody>::Data;
    type Error = <Body as HttpBody>::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Self::Data>, Self::Error>>> {
        if self.rest.is_empty() {
            match Pin::new(&mut self.body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                    Ok(data) => self.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(None) => {
                    self.busy = None;
                    return Poll::Ready(None);
                }
                other => return other,
            }
        }
        let length = self.rest.len().min(PIECE);
        let piece = self.rest.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let (mut hint, rest) = (self.body.size_hint(), self.rest.len() as u64);
        match hint.exact() {
            Some(exact) => hint.set_exact(exact + rest),
            None => hint.set_lower(hint.lower() + rest),
        }
        hint
    }
}

/// A connection's bytes, whose arrival is noted.
pub(crate) struct Noted<S> {
    pub stream: Pin<Box<S>>,
    pub place: Arc<Place>,
}

impl<S: AsyncRead> AsyncRead for Noted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = to.filled().len();
        let read = self.stream.as_mut().poll_read(cx, to);
        if to.filled().len() > before {
            self.place.received();
        }
        read
    }
}

impl<S: AsyncWrite> AsyncWrite for Noted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.stream.as_mut().poll_write_vectored(cx, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream.as_mut().poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    #[test]
    fn idle_connections_of_the_largest_crowd_give_way() {
        let all = Connections::new(4);
        let crowd: Vec<_> = (0..3).map(|_| all.enter(ip(1)).unwrap()).collect();
        let honest = all.enter(ip(2)).unwrap();
        let busy = [&crowd[0], &crowd[1]].map(Place::begin_of);
        let _third = all.enter(ip(3)).unwrap();
        let left = |place: &Arc<Place>| all.open().1.contains_key(&place.id);
        assert!(!left(&crowd[2]) && left(&honest));
        let _honest = honest.begin();
        // The third's connection is idle, and its own next one takes its place.
        let third = all.enter(ip(3)).unwrap();
        let _busy = third.begin();
        assert!(all.enter(ip(4)).is_none(), "all are busy");
        // Of two that send bodies one gives way to somebody who has none.
        let _reading = [&crowd[0], &crowd[1]].map(|place| place.reading());
        assert!(
            all.enter(ip(1)).is_none(),
            "a crowd does not displace itself"
        );
        assert!(all.enter(ip(4)).is_some());
        drop(busy);
    }

    impl Place {
        fn begin_of(place: &Arc<Place>) -> Busy {
            place.begin()
        }
    }

    #[test]
    fn a_customers_addresses_count_as_one() {
        let of = |text: &str| network(text.parse().unwrap());
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff:2"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:10.0.0.1"), of("10.0.0.1"));
        assert_eq!(of("::1"), of("::1"));
    }
}
