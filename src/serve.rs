//! Incoming connections: their number is bounded, and the time that a client may take.
//!
//! Owns the sockets of servers. A slow or silent client has its connection for a limited time, and
//! only while no other client needs it. Must never read a request, nor take descriptors that the
//! rest of the program needs.

mod door;
mod patient;

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::process::{Resource, getrlimit};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tower::ServiceExt;

pub use door::{Door, ServedConnection};
use patient::Patient;

/// Connections at once, if the limit of descriptors allows so many. An agent has one.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections at once for metrics and health.
const MAX_OPERATIONS: usize = 64;
/// Descriptors that are left for the store, the watches of the API server and outgoing requests.
const RESERVED: usize = 256;
/// How long a client may take for its handshake, and for the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// How long open requests may take when the server ends.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Bytes of the head of a request, and of what is read of a body at once. A token has some
/// kilobytes.
const BUFFER: usize = 32 * 1024;
/// How often the loop that accepts connections shows that it runs.
const BEAT: Duration = Duration::from_secs(1);

/// Connections that may be open at once: for requests, and for metrics and health. Together they
/// leave the rest of the program the descriptors that it needs (RLIMIT_NOFILE).
pub fn limits() -> (usize, usize) {
    let descriptors = getrlimit(Resource::Nofile).current;
    share(descriptors.and_then(|n| usize::try_from(n).ok()).unwrap_or(usize::MAX))
}

fn share(descriptors: usize) -> (usize, usize) {
    let operations = MAX_OPERATIONS.min(descriptors / 16);
    let reserved = RESERVED.min(descriptors / 2);
    let requests = descriptors.saturating_sub(reserved + operations).min(MAX_CONNECTIONS);
    (requests.max(1), operations.max(1))
}

/// Gives the TLS acceptor for a connection. Called for each connection, since certificates change.
pub type Acceptor = Arc<dyn Fn() -> TlsAcceptor + Send + Sync>;

/// Serves until `stopped` becomes true. Open requests may then still end within `DRAIN_TIMEOUT`.
pub async fn serve(
    listener: TcpListener,
    app: Router,
    tls: Option<Acceptor>,
    door: Arc<Door>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let mut beat = tokio::time::interval(BEAT);
    loop {
        let (stream, from) = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // No descriptor is left, or the client has closed the connection already.
                    door.failed(&error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = beat.tick() => {
                door.beat();
                continue;
            }
            () = ended(&mut stopped) => break,
        };
        let Some(slot) = door.enter(from.ip()).await else { continue };
        let (app, tls, stopped) = (app.clone(), tls.clone(), stopped.clone());
        connections.spawn(async move {
            let connection = slot.connection();
            tokio::select! {
                () = connection.must_leave() => {}
                () = talk(stream, app, tls, &connection, stopped) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, all).await;
}

/// Waits until the server is to end.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    // An error means that the sender was dropped, which ends the server as well.
    let _ = stopped.wait_for(|s| *s).await;
}

/// Serves a connection, with TLS or without.
async fn talk(
    stream: TcpStream,
    app: Router,
    tls: Option<Acceptor>,
    connection: &Arc<ServedConnection>,
    stopped: watch::Receiver<bool>,
) {
    let stream = Patient::new(stream);
    match tls.map(|acceptor| acceptor()) {
        None => http(stream, app, connection, stopped).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) =
                tokio::time::timeout(HEAD_TIMEOUT, acceptor.accept(stream)).await
            {
                http(stream, app, connection, stopped).await;
            }
        }
    }
}

/// Serves the requests of a connection until the client leaves or the server ends.
async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    connection: &Arc<ServedConnection>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(connection));
        let (app, connection) = (app.clone(), Arc::clone(connection));
        async move {
            let _busy = connection.begin_request();
            let answer = app.oneshot(request.map(Body::new)).await;
            if answer.as_ref().is_ok_and(|a| a.status().is_success()) {
                connection.prove();
            }
            answer
        }
    });
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        // The result is ignored: a client may leave as it likes.
        _ = talk.as_mut() => return,
        () = ended(&mut stopped) => talk.as_mut().graceful_shutdown(),
    }
    let _ = talk.await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_descriptors_for_the_rest() {
        for descriptors in [32, 256, 1_024, 4_096, 65_536, usize::MAX] {
            let (requests, operations) = share(descriptors);
            let left = descriptors - requests - operations;
            assert!(left >= RESERVED.min(descriptors / 2), "{descriptors}: {left}");
            assert!(requests >= 14 && operations >= 2, "{descriptors}: {requests} {operations}");
        }
        assert_eq!(share(usize::MAX), (MAX_CONNECTIONS, MAX_OPERATIONS));
    }
}
