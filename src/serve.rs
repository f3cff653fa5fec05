//! Connections in: bounded in number, and in the time that a client may take.
//!
//! Owns sockets of servers. A client that is slow or silent costs a connection for a limited time,
//! and only as long as nobody else needs it. Must never look into a request, nor take descriptors
//! that the rest of the program needs.

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

pub use door::{Connection, Door};
use patient::Patient;

/// Connections at once, where the limit of descriptors does not ask for fewer. An agent has one.
const MAX_CONNECTIONS: usize = 4_096;
/// Connections at once for metrics and health.
const MAX_OPERATIONS: usize = 64;
/// Descriptors that are left for the store, the watches of the API server and what is sent.
const RESERVED: usize = 256;
/// How long a client may take for its handshake, and for the head of a request.
const HEAD: Duration = Duration::from_secs(10);
/// How long open requests may take when the server ends.
const FAREWELL: Duration = Duration::from_secs(10);
/// Bytes of the head of a request, and of what is read of a body at once. A token has some
/// kilobytes.
const BUFFER: usize = 32 * 1024;
/// How often the loop that accepts shows that it is alive.
const BEAT: Duration = Duration::from_secs(1);

/// Connections that may be open at once: for requests, and for metrics and health. Both together
/// stay below the limit of descriptors (RLIMIT_NOFILE) by what the rest of the program needs.
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

/// What makes TLS of a connection; asked for each one, for certificates change.
pub type Acceptor = Arc<dyn Fn() -> TlsAcceptor + Send + Sync>;

/// Serves until `stopped` turns true; then open requests may end.
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
                    // No descriptor left, or a connection that is gone already.
                    door.failed(&error);
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            },
            _ = beat.tick() => {
                door.waits();
                continue;
            }
            () = ended(&mut stopped) => break,
        };
        let Some(place) = door.enter(from.ip()).await else { continue };
        let (app, tls, stopped) = (app.clone(), tls.clone(), stopped.clone());
        connections.spawn(async move {
            let connection = place.connection();
            tokio::select! {
                () = connection.must_leave() => {}
                () = talk(stream, app, tls, &connection, stopped) => {}
            }
        });
        while connections.try_join_next().is_some() {}
    }
    let all = async { while connections.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(FAREWELL, all).await;
}

/// Waits for the word to end.
async fn ended(stopped: &mut watch::Receiver<bool>) {
    // Without anybody who could say it, it is said.
    let _ = stopped.wait_for(|s| *s).await;
}

async fn talk(
    stream: TcpStream,
    app: Router,
    tls: Option<Acceptor>,
    connection: &Arc<Connection>,
    stopped: watch::Receiver<bool>,
) {
    let stream = Patient::new(stream);
    match tls.map(|acceptor| acceptor()) {
        None => http(stream, app, connection, stopped).await,
        Some(acceptor) => {
            if let Ok(Ok(stream)) = tokio::time::timeout(HEAD, acceptor.accept(stream)).await {
                http(stream, app, connection, stopped).await;
            }
        }
    }
}

async fn http(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    app: Router,
    connection: &Arc<Connection>,
    mut stopped: watch::Receiver<bool>,
) {
    let service = service_fn(|mut request: Request<Incoming>| {
        request.extensions_mut().insert(Arc::clone(connection));
        let (app, connection) = (app.clone(), Arc::clone(connection));
        async move {
            let _busy = connection.is_asked();
            let answer = app.oneshot(request.map(Body::new)).await;
            if answer.as_ref().is_ok_and(|a| a.status().is_success()) {
                connection.prove();
            }
            answer
        }
    });
    let talk = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut talk = std::pin::pin!(talk);
    tokio::select! {
        // How a client leaves is its own affair.
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
