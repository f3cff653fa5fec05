//! A stream that fails if the client reads too slowly.
//!
//! Owns the least pace at which a client must read. An answer is buffered in memory until it is
//! sent, so a client that does not read would hold that memory for ever. Must never cut a client
//! that reads at that pace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take for [`MIN_BYTES`] after a write had to wait for it.
const WITHIN: Duration = Duration::from_secs(10);
/// Bytes that must be written within [`WITHIN`]: 64 KiB a second, so that 100 MB take 26 minutes.
const MIN_BYTES: usize = 640 * 1024;

/// A stream with a least pace of writing.
pub(super) struct Patient<S> {
    stream: S,
    within: Duration,
    min_bytes: usize,
    /// Begins when a write has to wait, and is removed when enough was written.
    until: Option<Pin<Box<Sleep>>>,
    /// Bytes written since `until` began.
    written: usize,
    /// Whether the last write had to wait.
    waits: bool,
}

impl<S> Patient<S> {
    pub fn new(stream: S) -> Self {
        let min_bytes = MIN_BYTES;
        Self { stream, within: WITHIN, min_bytes, until: None, written: 0, waits: false }
    }

    /// Checks the result of a write against the least pace.
    fn pace(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let over = self.until.as_ref().is_some_and(|u| u.deadline() <= Instant::now());
        if over && !self.waits {
            // The deadline is of an earlier wait, after which there was nothing to write.
            self.until = None;
        }
        match wrote {
            Poll::Ready(result) => {
                self.waits = false;
                self.written += *result.as_ref().unwrap_or(&0);
                if self.written >= self.min_bytes {
                    self.until = None;
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                self.waits = true;
                if self.until.is_none() {
                    self.written = 0;
                }
                let within = self.within;
                ready!(self.until.get_or_insert_with(|| Box::pin(sleep(within))).as_mut().poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.pace(cx, wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bytes);
        self.pace(cx, wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    #[test]
    fn a_client_that_does_not_read_is_cut_and_one_that_reads_slowly_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let patient = |stream| Patient {
                within: Duration::from_millis(200),
                min_bytes: 1_000,
                ..Patient::new(stream)
            };
            let (near, _far) = duplex(100);
            let cut = patient(near).write_all(&[0; 10_000]).await.unwrap_err();
            assert_eq!(cut.kind(), io::ErrorKind::TimedOut);

            let read = |bytes: usize, pause: u64| async move {
                let (near, mut far) = duplex(100);
                let reader = tokio::spawn(async move {
                    let mut some = vec![0; bytes];
                    while far.read_exact(&mut some).await.is_ok() {
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                });
                let wrote = patient(near).write_all(&[0; 20_000]).await;
                reader.abort();
                wrote
            };
            assert!(read(100, 1).await.is_ok(), "ten times the least pace");
            // A few bytes now and then are not enough: the answer would be buffered for ever.
            assert!(read(10, 50).await.is_err());
        });
    }
}
