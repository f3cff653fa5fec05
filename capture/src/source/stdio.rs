//! The buffer through which libpcap reads a file.
//!
//! Owns nothing but its size. libpcap reads through C's standard I/O, with two reads a packet: each
//! takes a lock, and each 4 KiB are a system call. Together these are a third of the time of
//! reading. Must never be used on what cannot seek.

use std::ffi::{c_char, c_int, c_void};
use std::ops::{Deref, DerefMut};

use pcap::{Capture, Offline};

/// Large enough that the kernel copies in long strides, small enough to stay in the cache that
/// cores share: with 64 KiB, reading took a tenth longer; with 4 MiB as long.
const SIZE: usize = 1024 * 1024;

/// A capture with a buffer of its own. The buffer stands second, for it is dropped second: closing
/// still uses it.
pub(super) struct BufferedCapture {
    capture: Capture<Offline>,
    buffer: Vec<c_char>,
}

impl BufferedCapture {
    /// libpcap's own buffering, for what cannot seek.
    pub(super) fn small(capture: Capture<Offline>) -> Self {
        Self { capture, buffer: Vec::new() }
    }

    /// For a regular file. Only with glibc: changing the buffer of a stream that was read from
    /// (libpcap has read the header) is defined there, not by POSIX.
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
        // steps back over what it has buffered before it takes the new buffer; the buffer lives
        // until after the stream is closed (field order) and does not move (it is on the heap, and
        // never resized). Nobody but `capture` knows the stream, and that is used through `&mut`
        // only.
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
