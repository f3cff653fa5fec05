//! The buffer through which libpcap reads a file.
//!
//! Owns its size. libpcap reads through C's standard I/O, with two reads for each packet. Each read
//! takes a lock, and each 4 KiB are a system call. Together they are a third of the time of
//! reading. Must never be used on a file that cannot seek.

use std::ffi::{c_char, c_int, c_void};
use std::ops::{Deref, DerefMut};

use pcap::{Capture, Offline};

/// Size of the buffer, in bytes. Large enough for long copies in the kernel, small enough to stay
/// in the cache that cores share. With 64 KiB reading took a tenth longer, with 4 MiB as long.
const SIZE: usize = 1024 * 1024;

/// A capture with a buffer of its own. The buffer is the second field, so that it is dropped
/// second: closing the capture still uses it.
pub(super) struct BufferedCapture {
    capture: Capture<Offline>,
    buffer: Vec<c_char>,
}

impl BufferedCapture {
    /// Uses libpcap's own buffering, for a file that cannot seek.
    pub(super) fn small(capture: Capture<Offline>) -> Self {
        Self { capture, buffer: Vec::new() }
    }

    /// Uses a large buffer, for a regular file. Only with glibc: libpcap has already read the
    /// header, and POSIX does not define changing the buffer of a stream after a read. glibc does.
    pub(super) fn large(capture: Capture<Offline>) -> Self {
        let mut this = Self::small(capture);
        this.enlarge();
        this
    }

    #[cfg(not(target_env = "gnu"))]
    fn enlarge(&mut self) {}

    #[cfg(target_env = "gnu")]
    fn enlarge(&mut self) {
        /// `_IOFBF`: fully buffered.
        const FULL: c_int = 0;
        /// `FSETLOCKING_BYCALLER`: the stream takes no lock.
        const BY_CALLER: c_int = 2;
        unsafe extern "C" {
            fn pcap_file(capture: *mut c_void) -> *mut c_void;
            fn setvbuf(file: *mut c_void, buffer: *mut c_char, mode: c_int, size: usize) -> c_int;
            fn __fsetlocking(file: *mut c_void, locking: c_int) -> c_int;
        }
        let mut buffer = vec![0; SIZE];
        // SAFETY: the handle is open, and its stream is that of a file that can seek, so that glibc
        // steps back over the bytes in the old buffer before it uses the new one. The new buffer
        // lives until the stream is closed (field order), and does not move, since it is on the
        // heap and never resized. Only `capture` uses the stream, through `&mut`.
        unsafe {
            let file = pcap_file(self.capture.as_ptr().cast());
            if !file.is_null() && setvbuf(file, buffer.as_mut_ptr(), FULL, SIZE) == 0 {
                self.buffer = buffer;
                __fsetlocking(file, BY_CALLER);
            }
        }
    }
}

impl Deref for BufferedCapture {
    type Target = Capture<Offline>;

    fn deref(&self) -> &Self::Target {
        &self.capture
    }
}

impl DerefMut for BufferedCapture {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.capture
    }
}
