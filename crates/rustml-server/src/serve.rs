//! Connections, and the way to an end.

use crate::connections::{Connections, Held, Kept, Noted, Place};
use crate::{lane, routes};
use crate::{App, Config, Served};
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use axum::Router;
use futures_util::future::select_all;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use socket2::SockRef;
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tower::ServiceExt;

/// Time between two looks at whether to end.
const GLANCE: Duration = Duration::from_millis(20);

/// Bytes the system may hold for a client that does not read: enough for any
/// answer to flow, and few enough that a stuck client is soon noticed.
const SEND_BUFFER: usize = 256 << 10;

/// Bytes of a request's head; and of a body, and of an answer, that HTTP keeps at a
/// time.
const MAX_HEAD: usize = 64 << 10;

/// Time for connections to close, once nothing is left to answer.
const CLOSING: Duration = Duration::from_secs(2);

/// Serves at these addresses until `stop` is set, and then until running requests
/// are through or [`Config::drain_timeout`] is.
///
/// # Errors
/// If the engine or the runtime cannot be made.
pub fn serve(
    listeners: Vec<std::net::TcpListener>,
    served: Served,
    config: Config,
    stop: &AtomicBool,
) -> io::Result<()> {
    let app = Arc::new(App::new(served, config).map_err(io::Error::other)?);
    // What computes is the engine's threads; these are few, and stand back.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(lane::THREADS)
        .thread_name("http")
        .on_thread_start(stand_back)
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let own = |listener: std::net::TcpListener| {
            listener.set_nonblocking(true)?;
            TcpListener::from_std(listener)
        };
        let listeners = listeners.into_iter().map(own);
        accept(&listeners.collect::<io::Result<Vec<_>>>()?, app, stop).await;
        io::Result::Ok(())
    })?;
    runtime.shutdown_timeout(CLOSING);
    Ok(())
}

/// How far HTTP's threads stand back: a tenth of the weight of those that compute.
/// With 5, a third, clients that keep them busy took a quarter of a step's time;
/// with 15 the last of 16 streams waited longer for its first token.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

/// Lets threads that compute go first. On Linux a thread has a priority of its
/// own; elsewhere this would be the process's.
fn stand_back() {
    #[cfg(target_os = "linux")]
    if let Err(e) = rustix::process::setpriority_process(None, NICENESS) {
        tracing::debug!(target: "rustml_server", "priority of an HTTP thread: {e}");
    }
}

async fn accept(listeners: &[TcpListener], app: Arc<App>, stop: &AtomicBool) {
    let connections = Connections::new(app.config.connections);
    let graceful = GracefulShutdown::new();
    let router = routes::router(app.clone());
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .max_buf_size(MAX_HEAD)
        .header_read_timeout(app.config.idle_timeout);
    let mut end = None;
    let mut glance = tokio::time::interval(GLANCE);
    // Came, but there is no place yet.
    let mut waiting: Option<(TcpStream, SocketAddr)> = None;
    loop {
        tokio::select! {
            accepted = next(listeners), if waiting.is_none() => match accepted {
                Ok(came) => waiting = Some(came),
                Err(e) => {
                    tracing::warn!(target: "rustml_server", "cannot accept a connection: {e}");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            },
            _ = glance.tick() => {
                if stop.load(Ordering::Relaxed) {
                    let end = *end.get_or_insert_with(|| begin_end(&app));
                    if app.open() == 0 || Instant::now() >= end {
                        break;
                    }
                }
            }
        };
        let Some(place) = waiting
            .as_ref()
            .and_then(|(_, from)| connections.enter(from.ip()))
        else {
            continue;
        };
        if let Some((stream, _)) = waiting.take() {
            let service = service(router.clone(), place.clone());
            let io = TokioIo::new(guarded(stream, &app, place.clone()));
            let connection = graceful.watch(http.serve_connection(io, service));
            let head = app.config.read_timeout;
            tokio::spawn(async move {
                tokio::select! {
                    // Its errors are the client's: it left, or was too slow.
                    _ = connection => {}
                    () = place.closed(head) => {}
                }
            });
        }
    }
    app.cancel_all();
    let _ = tokio::time::timeout(CLOSING, graceful.shutdown()).await;
}

/// The next connection that comes to any of the addresses.
async fn next(listeners: &[TcpListener]) -> io::Result<(TcpStream, SocketAddr)> {
    let coming = listeners.iter().map(|l| Box::pin(l.accept()));
    select_all(coming).await.0
}

/// What answers the requests of a connection.
fn service(
    router: Router,
    place: Arc<Place>,
) -> impl hyper::service::Service<Request<Incoming>, Response = Response, Error = Infallible, Future: Send>
{
    service_fn(move |request: Request<Incoming>| {
        let busy = place.begin();
        let mut request = request.map(Body::new);
        if let Some(uri) = routes::meant(request.uri()) {
            *request.uri_mut() = uri;
        }
        request.extensions_mut().insert(place.clone());
        let answer = router.clone().oneshot(request);
        async move {
            let mut response = answer.await?;
            let kept = response.extensions_mut().remove::<Kept>();
            Ok(response.map(|body| Body::new(Held::new(body, busy, kept))))
        }
    })
}

/// New requests are refused from here on; when running ones have to be through.
fn begin_end(app: &App) -> Instant {
    app.draining.store(true, Ordering::SeqCst);
    let limit = app.config.drain_timeout;
    tracing::info!(
        target: "rustml_server",
        "ending: {} requests have {} s to be through", app.open(), limit.as_secs_f64()
    );
    Instant::now() + limit
}

/// A connection whose client has to take what it is sent.
fn guarded(stream: TcpStream, app: &App, place: Arc<Place>) -> Noted<TimeoutStream<TcpStream>> {
    // Pieces are small, and each is waited for.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(app.config.write_timeout));
    Noted {
        stream: Box::pin(stream),
        place,
    }
}
