//! A stream that does not wait for ever for a client that does not read.
//!
//! Owns the least pace of answers. An answer is held in memory until it is sent. Must never cut a
//! client that reads at that pace.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep};

/// How long a client may take for [`LEAST`] bytes once it no longer takes what it is sent.
const WITHIN: Duration = Duration::from_secs(10);
/// 64 KiB a second: 100 MB take 26 minutes.
const LEAST: usize = 640 * 1024;

/// A stream with a least pace of writing.
pub(super) struct Patient<S> {
    stream: S,
    within: Duration,
    least: usize,
    /// Runs since a write had to wait, until enough was written.
    until: Option<Pin<Box<Sleep>>>,
    written: usize,
    waits: bool,
}

impl<S> Patient<S> {
    pub fn new(stream: S) -> Self {
        Self { stream, within: WITHIN, least: LEAST, until: None, written: 0, waits: false }
    }

    /// Holds what a write gave against the pace.
    fn pace(
        &mut self,
        cx: &mut Context<'_>,
        wrote: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        let over = self.until.as_ref().is_some_and(|u| u.deadline() <= Instant::now());
        if over && !self.waits {
            // It waited a while ago, and then there was nothing to write.
            self.until = None;
        }
        match wrote {
            Poll::Ready(result) => {
                self.waits = false;
                self.written += *result.as_ref().unwrap_or(&0);
                if self.written >= self.least {
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
    fn who_does_not_read_is_cut_and_who_reads_slowly_is_not() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let patient = |stream| Patient {
                within: Duration::from_millis(200),
                least: 1_000,
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
            // A little now and then is not enough: it would hold the answer for ever.
            assert!(read(10, 50).await.is_err());
        });
    }
}
