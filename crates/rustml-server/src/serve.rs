//! Routes, connections, and the way to an end.

use crate::types::ApiError;
use crate::{auth, chat, completions, lane, models, openapi, page, tokenize};
use crate::{App, Config, Served};
use axum::body::Body;
use axum::extract::{MatchedPath, Request, State};
use axum::http::StatusCode;
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::Router;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use std::any::Any;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tower_http::catch_panic::CatchPanicLayer;

/// Time between two looks at whether to end.
const GLANCE: Duration = Duration::from_millis(20);

/// Bytes the system may hold for a client that does not read: enough for any
/// answer to flow, and few enough that a stuck client is soon noticed.
const SEND_BUFFER: usize = 256 << 10;

/// Time for connections to close, once nothing is left to answer.
const CLOSING: Duration = Duration::from_secs(2);

/// Serves until `stop` is set, and then until running requests are through or
/// [`Config::drain_timeout`] is.
///
/// # Errors
/// If the engine or the runtime cannot be made.
pub fn serve(
    listener: std::net::TcpListener,
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
        listener.set_nonblocking(true)?;
        accept(TcpListener::from_std(listener)?, app, stop).await;
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

async fn accept(listener: TcpListener, app: Arc<App>, stop: &AtomicBool) {
    let places = Arc::new(Semaphore::new(app.config.connections));
    let graceful = GracefulShutdown::new();
    let service = TowerToHyperService::new(router(app.clone()));
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(app.config.read_timeout);
    let mut end = None;
    let mut glance = tokio::time::interval(GLANCE);
    loop {
        let connection = async {
            let place = places.clone().acquire_owned().await;
            (listener.accept().await, place)
        };
        let (accepted, place) = tokio::select! {
            accepted = connection => accepted,
            _ = glance.tick() => {
                if stop.load(Ordering::Relaxed) {
                    let end = *end.get_or_insert_with(|| begin_end(&app));
                    if app.worker.open() == 0 || Instant::now() >= end {
                        break;
                    }
                }
                continue;
            }
        };
        match accepted {
            Ok((stream, _)) => {
                let connection =
                    http.serve_connection(TokioIo::new(guarded(stream, &app)), service.clone());
                let connection = graceful.watch(connection);
                tokio::spawn(async move {
                    // Its errors are the client's: it left, or was too slow.
                    let _ = connection.await;
                    drop(place);
                });
            }
            Err(e) => {
                tracing::warn!(target: "rustml_server", "cannot accept a connection: {e}");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    app.worker.cancel_all();
    let _ = tokio::time::timeout(CLOSING, graceful.shutdown()).await;
}

/// New requests are refused from here on; when running ones have to be through.
fn begin_end(app: &App) -> Instant {
    app.draining.store(true, Ordering::SeqCst);
    let limit = app.config.drain_timeout;
    tracing::info!(
        target: "rustml_server",
        "ending: {} requests have {} s to be through", app.worker.open(), limit.as_secs_f64()
    );
    Instant::now() + limit
}

/// A connection whose client has to take what it is sent.
fn guarded(stream: TcpStream, app: &App) -> std::pin::Pin<Box<TimeoutStream<TcpStream>>> {
    // Pieces are small, and each is waited for.
    let _ = stream.set_nodelay(true);
    let _ = SockRef::from(&stream).set_send_buffer_size(SEND_BUFFER);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(app.config.write_timeout));
    Box::pin(stream)
}

fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat::complete))
        .route("/v1/completions", post(completions::complete))
        .route("/v1/embeddings", post(tokenize::embeddings))
        .route("/tokenize", post(tokenize::tokenize))
        .route("/detokenize", post(tokenize::detokenize))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::one))
        .route("/metrics", get(models::counters))
        .route_layer(middleware::from_fn_with_state(app.clone(), auth::check));
    let open = Router::new()
        .route("/", get(page::index))
        .route("/openapi.json", get(openapi::document))
        .route("/page/{name}", get(page::file))
        .route("/health", get(models::health))
        .route("/ready", get(models::ready));
    guarded
        .merge(open)
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
        .layer(CatchPanicLayer::custom(panicked))
        .layer(auth::cors(&app.config.cors_origins))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

async fn not_found(request: Request<Body>) -> ApiError {
    let path = request.uri().path();
    ApiError::new(
        StatusCode::NOT_FOUND,
        format!("there is no {path} here; /openapi.json lists what there is"),
    )
    .code("not_found")
}

async fn not_allowed(request: Request<Body>) -> ApiError {
    let says = format!(
        "{} does not take {}",
        request.uri().path(),
        request.method()
    );
    ApiError::new(StatusCode::METHOD_NOT_ALLOWED, says).code("method_not_allowed")
}

fn panicked(_: Box<dyn Any + Send>) -> Response {
    ApiError::internal("this request made the server fail").into_response()
}

/// Refuses new work at the end, and counts answers.
async fn observe(State(app): State<Arc<App>>, request: Request<Body>, next: Next) -> Response {
    let path = request.extensions().get::<MatchedPath>().cloned();
    let began = Instant::now();
    let method = request.method().clone();
    let response = match method.as_str() {
        "POST" if app.draining.load(Ordering::SeqCst) => {
            ApiError::unavailable("the server is ending; it takes no new requests").into_response()
        }
        _ => next.run(request).await,
    };
    let path = path.as_ref().map_or("", MatchedPath::as_str);
    let status = response.status().as_u16();
    app.metrics.answered(path, status);
    tracing::debug!(
        target: "rustml_server::http",
        %method, path, status, ms = began.elapsed().as_secs_f64() * 1e3,
    );
    response
}
