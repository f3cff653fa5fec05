//! One open input: decompressed, and read frame by frame.
//!
//! Owns its descriptors and the thread that decompresses it. Must never seek in a stream.

use std::fs::File;
use std::io::{self, Cursor, IsTerminal, Read, Seek, Write};
use std::os::fd::{IntoRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use pcap::{Capture, Offline, Precision};

use super::ng::NgReader;
use super::outcome::{ReadOutcome, SourceError};
use super::sniff::{self, FileKind};
use super::stdio::BufferedCapture;
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::InterfaceId;

enum PacketReader {
    // The field order matters: the capture closes its end of the pipe before the thread is joined.
    Classic { capture: BufferedCapture, link: LinkType },
    Ng(Box<NgReader<File>>),
}

/// An opened input.
pub(super) struct OpenInput {
    packets: Option<PacketReader>,
    pump: Option<Unpacker>,
    format: String,
}

/// A thread that decompresses an input into a pipe.
struct Unpacker {
    thread: Option<JoinHandle<()>>,
    failure: Arc<Mutex<Option<String>>>,
}

impl OpenInput {
    pub(super) fn open(path: &Path) -> Result<Self, SourceError> {
        let name = path.display().to_string();
        let fail = |error| SourceError::Open { path: name.clone(), error };
        if path.as_os_str() == "-" {
            let stdin = io::stdin();
            if stdin.is_terminal() {
                return Err(SourceError::NotACapture {
                    path: "standard input".to_owned(),
                    found: "it is a terminal, nothing is piped in".to_owned(),
                });
            }
            return Self::piped(Box::new(io::stdin()), "standard input");
        }
        let mut file = File::open(path).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Self::piped(Box::new(file), &name);
        }
        let head = sniff::head(&mut file).map_err(fail)?;
        match sniff::kind(&head) {
            Some(FileKind::Pcap | FileKind::PcapNg) => {
                file.rewind().map_err(fail)?;
                let kind = sniff::kind(&head);
                Self::packets(file.into(), kind, None, &name, String::new())
            }
            Some(_) => {
                file.rewind().map_err(fail)?;
                Self::piped(Box::new(file), &name)
            }
            None if head.is_empty() => Err(SourceError::Empty { path: name }),
            None => Err(SourceError::NotACapture { path: name, found: sniff::describe(&head) }),
        }
    }

    /// Opens a stream that cannot be rewound. The bytes that were sniffed are put in front again.
    fn piped(mut raw: Box<dyn Read + Send>, name: &str) -> Result<Self, SourceError> {
        let fail = |error| SourceError::Open { path: name.to_owned(), error };
        let head = sniff::head(&mut raw).map_err(fail)?;
        if head.is_empty() {
            return Err(SourceError::Empty { path: name.to_owned() });
        }
        let kind = sniff::kind(&head);
        let whole = Cursor::new(head.clone()).chain(raw);
        let (mut plain, wrapped): (Box<dyn Read + Send>, &str) = match kind {
            Some(FileKind::Gzip) => (Box::new(flate2::read::MultiGzDecoder::new(whole)), ", gzip"),
            Some(FileKind::Zstd) => (Box::new(zstd::Decoder::new(whole).map_err(fail)?), ", zstd"),
            Some(_) => (Box::new(whole), ""),
            None => {
                return Err(SourceError::NotACapture {
                    path: name.to_owned(),
                    found: sniff::describe(&head),
                });
            }
        };
        let inner = sniff::head(&mut plain).map_err(|e| SourceError::Refused {
            path: name.to_owned(),
            reason: format!("it cannot be decompressed: {e}"),
        })?;
        let kind = sniff::kind(&inner).filter(|k| matches!(k, FileKind::Pcap | FileKind::PcapNg));
        if kind.is_none() {
            let found = if inner.is_empty() {
                "there is nothing in it".to_owned()
            } else {
                sniff::describe(&inner)
            };
            return Err(SourceError::NotACapture {
                path: name.to_owned(),
                found: format!("unpacked, {found}"),
            });
        }
        let (reader, mut writer) = io::pipe().map_err(fail)?;
        let failure = Arc::new(Mutex::new(None));
        let thread_failure = Arc::clone(&failure);
        let thread = std::thread::Builder::new()
            .name("unpack".to_owned())
            .spawn(move || {
                let mut whole = Cursor::new(inner).chain(plain);
                if let Err(why) = copy(&mut whole, &mut writer) {
                    *thread_failure.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
                }
            })
            .map_err(fail)?;
        let pump = Unpacker { thread: Some(thread), failure };
        Self::packets(reader.into(), kind, Some(pump), name, wrapped.to_owned())
    }

    fn packets(
        fd: OwnedFd,
        kind: Option<FileKind>,
        pump: Option<Unpacker>,
        name: &str,
        wrapped: String,
    ) -> Result<Self, SourceError> {
        let refused = |reason: String| SourceError::Refused { path: name.to_owned(), reason };
        if kind == Some(FileKind::PcapNg) {
            let reader = NgReader::new(File::from(fd)).map_err(refused)?;
            let packets = Some(PacketReader::Ng(Box::new(reader)));
            return Ok(Self { packets, pump, format: format!("pcapng{wrapped}") });
        }
        // SAFETY: the descriptor is open and has no other owner. libpcap owns it from here on.
        let capture =
            unsafe { Capture::from_raw_fd_with_precision(fd.into_raw_fd(), Precision::Nano) };
        let capture = capture.map_err(|e| refused(e.to_string()))?;
        // Without a decompressing thread, it is a regular file.
        let capture = if pump.is_none() {
            BufferedCapture::large(capture)
        } else {
            BufferedCapture::small(capture)
        };
        let link = LinkType(u16::try_from(capture.get_datalink().0).unwrap_or(u16::MAX));
        Ok(Self {
            packets: Some(PacketReader::Classic { capture, link }),
            pump,
            format: format!("pcap{wrapped}"),
        })
    }

    pub(super) fn format(&self) -> String {
        self.format.clone()
    }

    pub(super) fn is_piped(&self) -> bool {
        self.pump.is_some()
    }

    /// Reads up to `count` frames, and passes them to `take`. `InterfaceId::source` stays 0.
    pub(super) fn read(&mut self, count: usize, take: &mut impl FnMut(Frame<'_>)) -> ReadOutcome {
        let next = match &mut self.packets {
            None => return ReadOutcome::End,
            Some(PacketReader::Ng(reader)) => reader.read(count, take),
            Some(PacketReader::Classic { capture, link }) => classic(capture, *link, count, take),
        };
        match (next, self.pump.as_mut().and_then(Unpacker::failed)) {
            (ReadOutcome::More, _) => ReadOutcome::More,
            // The reader only sees the end of its pipe. The thread has the reason.
            (_, Some(why)) => {
                ReadOutcome::Damaged(format!("it cannot be decompressed further ({why})"))
            }
            (other, None) => other,
        }
    }
}

/// Reads with `pcap_dispatch`, one call of libpcap for many packets.
fn classic(
    capture: &mut Capture<Offline>,
    link: LinkType,
    count: usize,
    take: &mut impl FnMut(Frame<'_>),
) -> ReadOutcome {
    let mut read = 0;
    let result = capture.dispatch(Some(count), |packet| {
        read += 1;
        let ts = packet.header.ts;
        take(Frame {
            time: ts.tv_sec.saturating_mul(1_000_000_000).saturating_add(ts.tv_usec),
            interface: InterfaceId { source: 0, index: 0 },
            link,
            direction: Direction::Unknown,
            wire_len: packet.header.len,
            data: packet.data,
        });
    });
    match result {
        // At the end of the file libpcap returns 0, whatever it delivered before.
        Ok(_) if read > 0 => ReadOutcome::More,
        Ok(_) => ReadOutcome::End,
        Err(e) => ReadOutcome::Damaged(format!("it is cut or damaged ({e})")),
    }
}

impl Unpacker {
    /// Why decompression ended early. Only called when the pipe has ended, so that the thread is at
    /// its end too.
    fn failed(&mut self) -> Option<String> {
        if let Some(thread) = self.thread.take_if(|t| t.is_finished()) {
            let _ = thread.join();
        }
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for OpenInput {
    fn drop(&mut self) {
        // Closing the reading end first makes a thread that still writes fail at once, instead of
        // blocking for ever.
        self.packets = None;
        if let Some(thread) = self.pump.as_mut().and_then(|p| p.thread.take()) {
            // A thread that waits for an idle pipe cannot be woken. It ends with that pipe.
            if thread.is_finished() {
                let _ = thread.join();
            }
        }
    }
}

/// Copies until the end. A reader that has closed its end is no failure.
fn copy(from: &mut impl Read, to: &mut impl Write) -> Result<(), String> {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(n) => match to.write_all(&buffer[..n]) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(e) => return Err(e.to_string()),
            },
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e.to_string()),
        }
    }
}
