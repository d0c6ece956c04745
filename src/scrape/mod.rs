//! The operators' door: metrics for Prometheus, on a port of their own (docs/metrics.md). It serves `GET /metrics` and
//! nothing else, to anyone who reaches the port.

mod accept;

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::timeout;

use crate::{
    fault::Fault,
    front::Front,
    metrics::{EngineState, Format, Metrics},
    names::ListenAddress,
    shares::Told,
    store::Store,
    tasks::Group,
    transport::{Accepted, BindError, ConnectionLimits, Listener, Protocol, Server, Standing, Tls},
};

/// How long a connection may last: its head, the answer, and the time to take it.
const LIFE: Duration = Duration::from_secs(10);
/// How long its head may take.
const HEAD: Duration = Duration::from_secs(5);
/// The limits on a request's head. Prometheus' own has a dozen headers and less than 1 KiB.
const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 8 << 10;
/// The open connections of one source, and of all: a new connection closes the oldest one of the source that has the most.
const CONNECTIONS_OF_SOURCE: usize = 4;
const CONNECTIONS: usize = 32;
/// How old an answer may be: however often it is asked for, it is made this often.
const FRESH: Duration = Duration::from_secs(1);
/// How long the store may take to count. It may be busy; then the numbers of before stay.
const COUNTING: Duration = Duration::from_secs(2);

/// Serves `metrics` at `address` until `connections` is cancelled; the state of wharfd comes from `front`, `store`
/// and `tls`.
pub async fn serve(
    address: SocketAddr,
    metrics: Metrics,
    front: Arc<Front>,
    store: Store,
    tls: Option<Arc<Tls>>,
    connections: &Group,
) -> Result<(), BindError> {
    let listener = Listener::bind(&ListenAddress::Tcp(address), 0, None, None).await?;
    tracing::info!(address = %listener, "listening for scrapes of metrics");
    let limits = ConnectionLimits {
        connections_of_unproven_user: CONNECTIONS_OF_SOURCE,
        connections_of_unproven: CONNECTIONS,
        ..ConnectionLimits::default()
    };
    let scrape = Scrape(Arc::new(State {
        metrics,
        front,
        store,
        tls,
        tasks: connections.clone(),
        told: Told::default(),
    }));
    let server = Server::new(Arc::new(|_| Standing::Unproven), limits, scrape);
    let group = connections.clone();
    drop(connections.spawn("metrics", async move { server.serve(vec![listener], group).await }));
    Ok(())
}

/// HTTP/1.1 with one request on a connection.
#[derive(Clone)]
struct Scrape(Arc<State>);

struct State {
    metrics: Metrics,
    front: Arc<Front>,
    store: Store,
    tls: Option<Arc<Tls>>,
    tasks: Group,
    /// The last answer.
    told: Told<Texts>,
}

/// The metrics in both forms.
#[derive(Clone)]
struct Texts {
    text: Bytes,
    open: Bytes,
}

impl Protocol for Scrape {
    async fn serve(self, connection: Accepted, group: Group) {
        // The seat is the connection's place.
        let Accepted { stream, seat: _seat, .. } = connection;
        let answering = service_fn(move |request| {
            let state = Arc::clone(&self.0);
            async move { Ok::<_, Infallible>(state.answer(&request).await) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD)
            .keep_alive(false)
            .max_headers(HEADERS_MAX)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), answering);
        // A scraper that is too slow, or has gone, asks again.
        let _ = group.unless_cancelled(timeout(LIFE, serving)).await;
    }
}

impl State {
    async fn answer<B>(self: Arc<Self>, request: &Request<B>) -> Response<Full<Bytes>> {
        if request.uri().path() != "/metrics" {
            return refuse(StatusCode::NOT_FOUND, "only /metrics is served here\n");
        }
        if request.method() != Method::GET {
            let mut refused = refuse(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here\n");
            refused.headers_mut().insert(header::ALLOW, header::HeaderValue::from_static("GET"));
            return refused;
        }
        let Ok(texts) = self.texts().await else {
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n");
        };
        let accept = request.headers().get_all(header::ACCEPT).iter().filter_map(|value| value.to_str().ok());
        let (kind, body) = match accept::format(accept) {
            Format::Text => ("text/plain; version=0.0.4; charset=utf-8", texts.text),
            Format::OpenMetrics => ("application/openmetrics-text; version=1.0.0; charset=utf-8", texts.open),
        };
        let mut answer = Response::new(Full::new(body));
        answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        answer
    }

    /// The metrics as they are now, or were a moment ago.
    async fn texts(self: Arc<Self>) -> Result<Texts, Fault> {
        let (state, tasks) = (Arc::clone(&self), self.tasks.clone());
        let question = async move {
            state.look().await;
            let write = |format| state.metrics.write(format).map(Bytes::from).map_err(Fault::internal);
            Ok(Texts { text: write(Format::Text)?, open: write(Format::OpenMetrics)? })
        };
        self.told.recent(FRESH, &tasks, question).await
    }

    /// Reads the state.
    async fn look(&self) {
        self.metrics.set_expires(self.tls.as_ref().and_then(|tls| tls.expires()));
        for engine in self.front.engines() {
            let builds = self.front.builds(engine.name());
            let (up, disk) = (engine.states().borrow().is_up(), engine.disk().borrow().clone());
            let is_watched = disk.space.total > 0;
            let now = EngineState {
                up,
                takes_builds: up && disk.refusal().is_none(),
                running: builds.running,
                waiting: builds.waiting,
                places: (builds.places > 0).then_some(builds.places),
                oldest: builds.oldest.as_secs_f64(),
                disk: is_watched.then_some((disk.space.free, disk.space.total, disk.marks.0)),
            };
            self.metrics.set_engine(engine.name(), &now);
        }
        // Beside the callers, whose calls wait for one of wharfd's own at most.
        let Ok(Ok(counted)) = timeout(COUNTING, self.store.own().count()).await else { return };
        self.metrics.set_store(counted.bytes);
        for name in self.front.engines().map(|engine| engine.name()) {
            let number = counted.namespaces.get(name.as_str()).copied().unwrap_or_default();
            self.metrics.set_namespaces(name, number);
        }
    }
}

fn refuse(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *answer.status_mut() = status;
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("text/plain; charset=utf-8"));
    answer
}
