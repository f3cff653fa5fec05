//! Parked inputs: nothing of them is open between two reads. Where thousands of captures overlap in
//! time, neither descriptors nor memory suffice to have all of them open.
//!
//! Owns where their bytes are. A plain file is opened for each piece that is read, which begins
//! where the last piece ended. A compressed file cannot be entered in the middle, so it is unpacked
//! into a temporary file when its time comes. Several captures share a temporary file. Must give
//! the same frames as [`super::input`].

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use super::classic::{self, ClassicPosition};
use super::ng::NgPosition;
use super::outcome::{ReadLimit, ReadOutcome, SourceError};
use super::sniff::{self, FileKind};
use crate::frame::Frame;
use crate::observation::Nanos;

/// Bytes of one temporary file, approximately. It is deleted when all captures in it were read.
const TEMPORARY_BYTES: u64 = 64 * 1024 * 1024;
/// Bytes of all temporary files at a time, at most. A small file may unpack to any size.
const MAX_TEMPORARY_BYTES: u64 = 8 * 1024 * 1024 * 1024;

/// Where the bytes of a capture are.
enum CaptureBytes {
    /// In a file of its own, which must still be the same one.
    File { path: PathBuf, device: u64, inode: u64 },
    /// Unpacked, from `at` to `end` in a temporary file.
    Unpacked { file: Arc<TemporaryFile>, at: u64, end: u64 },
}

/// Up to where a capture was read.
enum ReadPosition {
    Classic(ClassicPosition),
    Ng(NgPosition),
}

/// An input of which nothing is open.
pub(super) struct ParkedInput {
    place: CaptureBytes,
    at: ReadPosition,
    format: String,
    /// Why its unpacked bytes end early, where they do.
    early_end: Option<String>,
}

/// What the beginning of a capture shows.
pub(super) struct CaptureBeginning {
    /// Packet time of the first frame, where there is one.
    pub first: Option<Nanos>,
    pub compressed: bool,
}

/// Inspects the beginning of a regular file. `None` where it is not supported here, or damaged
/// there. Opening it in full shows why.
pub(super) fn inspect(path: &Path) -> Option<CaptureBeginning> {
    let mut file = File::open(path).ok()?;
    let kind = sniff::kind(&sniff::head(&mut file).ok()?)?;
    file.rewind().ok()?;
    let compressed = matches!(kind, FileKind::Gzip | FileKind::Zstd);
    let mut plain = unwrapped(file, kind).ok()?;
    let mut head = [0; classic::HEADER];
    plain.read_exact(&mut head).ok()?;
    let (mut at, used) = beginning(&head)?;
    let rest = Cursor::new(&head[used..]).chain(plain);
    let mut first = None;
    let one = ReadLimit { frames: 1, bytes: 1 };
    match at.read(rest, one, &mut |frame| first = Some(frame.time)) {
        ReadOutcome::Damaged(_) if first.is_none() => None,
        _ => Some(CaptureBeginning { first, compressed }),
    }
}

/// The plain bytes of a file of this kind.
fn unwrapped(file: File, kind: FileKind) -> io::Result<Box<dyn Read>> {
    Ok(match kind {
        FileKind::Gzip => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(file))),
        FileKind::Zstd => Box::new(zstd::Decoder::new(file)?),
        FileKind::Pcap | FileKind::PcapNg => Box::new(file),
    })
}

/// The first position of a capture that begins with these bytes, and how many of them are before
/// it.
fn beginning(head: &[u8; classic::HEADER]) -> Option<(ReadPosition, usize)> {
    match sniff::kind(head)? {
        FileKind::Pcap => {
            Some((ReadPosition::Classic(ClassicPosition::new(head)?), classic::HEADER))
        }
        FileKind::PcapNg => Some((ReadPosition::Ng(NgPosition::default()), 0)),
        FileKind::Gzip | FileKind::Zstd => None,
    }
}

impl ReadPosition {
    fn offset(&self) -> u64 {
        match self {
            Self::Classic(classic) => classic.offset,
            Self::Ng(position) => position.offset,
        }
    }

    fn read(
        &mut self,
        from: impl Read,
        limit: ReadLimit,
        take: &mut impl FnMut(Frame<'_>),
    ) -> ReadOutcome {
        match self {
            Self::Classic(classic) => classic.read(from, limit, take),
            Self::Ng(position) => position.read(from, limit, take),
        }
    }
}

impl ParkedInput {
    /// Opens a regular file. `None` where it is not supported here.
    ///
    /// # Errors
    /// When it cannot be read or unpacked.
    pub(super) fn open(
        path: &Path,
        unpacked: &mut UnpackedFiles,
    ) -> Result<Option<Self>, SourceError> {
        let name = path.display().to_string();
        let fail = |error| SourceError::Open { path: name.clone(), error };
        let mut file = File::open(path).map_err(fail)?;
        let meta = file.metadata().map_err(fail)?;
        let head = sniff::head(&mut file).map_err(fail)?;
        let Some(kind) = sniff::kind(&head).filter(|_| meta.is_file()) else { return Ok(None) };
        file.rewind().map_err(fail)?;
        let (place, early_end, wrapped) = match kind {
            FileKind::Pcap | FileKind::PcapNg => {
                let (device, inode) = (meta.dev(), meta.ino());
                (CaptureBytes::File { path: path.to_owned(), device, inode }, None, "")
            }
            FileKind::Gzip | FileKind::Zstd => {
                let wrapped = if kind == FileKind::Gzip { ", gzip" } else { ", zstd" };
                let plain = unwrapped(file, kind).map_err(fail)?;
                let (place, early_end) = unpacked.unpack(plain).map_err(fail)?;
                (place, early_end, wrapped)
            }
        };
        let mut head = [0; classic::HEADER];
        let read = place.read_from(0).and_then(|mut bytes| bytes.read_exact(&mut head));
        if read.is_err() {
            return Ok(None);
        }
        let Some((at, _)) = beginning(&head) else { return Ok(None) };
        let format = match at {
            ReadPosition::Classic(_) => format!("pcap{wrapped}"),
            ReadPosition::Ng(_) => format!("pcapng{wrapped}"),
        };
        Ok(Some(Self { place, at, format, early_end }))
    }

    pub(super) fn format(&self) -> String {
        self.format.clone()
    }

    /// Reads frames, and passes them to `take`. `InterfaceId::source` stays 0.
    pub(super) fn read(
        &mut self,
        limit: ReadLimit,
        take: &mut impl FnMut(Frame<'_>),
    ) -> ReadOutcome {
        let next = match self.place.read_from(self.at.offset()) {
            Ok(from) => self.at.read(from, limit, take),
            Err(e) => ReadOutcome::Damaged(format!("it cannot be read further ({e})")),
        };
        match (next, &self.early_end) {
            (ReadOutcome::More, _) => ReadOutcome::More,
            (_, Some(why)) => ReadOutcome::Damaged(why.clone()),
            (other, None) => other,
        }
    }
}

impl CaptureBytes {
    fn read_from(&self, offset: u64) -> io::Result<Box<dyn Read + '_>> {
        match self {
            Self::File { path, device, inode } => {
                let mut file = File::open(path)?;
                let meta = file.metadata()?;
                if (meta.dev(), meta.ino()) != (*device, *inode) {
                    return Err(io::Error::other("another file has taken its name meanwhile"));
                }
                file.seek(SeekFrom::Start(offset))?;
                Ok(Box::new(file))
            }
            Self::Unpacked { file, at, end } => {
                let at = at.saturating_add(offset).min(*end);
                Ok(Box::new(FileSection { file: &file.file, at, end: *end }))
            }
        }
    }
}

/// A part of a file.
struct FileSection<'a> {
    file: &'a File,
    at: u64,
    end: u64,
}

impl Read for FileSection<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.end - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.file.read_at(&mut buffer[..most], self.at)?;
        self.at += read as u64;
        Ok(read)
    }
}

/// A temporary file without a name. The system deletes it when it is closed, however the process
/// ends.
struct TemporaryFile {
    file: File,
    /// Bytes in it.
    bytes: AtomicU64,
    /// Bytes of all.
    total_bytes: Arc<AtomicU64>,
}

impl Drop for TemporaryFile {
    fn drop(&mut self) {
        self.total_bytes.fetch_sub(self.bytes.load(Ordering::Relaxed), Ordering::Relaxed);
    }
}

/// The temporary files with unpacked captures.
#[derive(Default)]
pub(super) struct UnpackedFiles {
    /// The file that is being filled.
    last: Option<Arc<TemporaryFile>>,
    total_bytes: Arc<AtomicU64>,
}

impl UnpackedFiles {
    /// Unpacks a capture. Also returns why it ends early, where it does.
    fn unpack(&mut self, mut plain: impl Read) -> io::Result<(CaptureBytes, Option<String>)> {
        let last = self.last.take().filter(|t| t.bytes.load(Ordering::Relaxed) < TEMPORARY_BYTES);
        let file = match last {
            Some(file) => file,
            None => Arc::new(TemporaryFile {
                file: temporary(&std::env::temp_dir())?,
                bytes: AtomicU64::new(0),
                total_bytes: Arc::clone(&self.total_bytes),
            }),
        };
        self.last = Some(Arc::clone(&file));
        let at = file.bytes.load(Ordering::Relaxed);
        let mut end = at;
        let mut buffer = vec![0; 64 * 1024];
        let early_end = loop {
            let n = match plain.read(&mut buffer) {
                Ok(0) => break None,
                Ok(n) => n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => break Some(format!("it cannot be decompressed further ({e})")),
            };
            if self.total_bytes.load(Ordering::Relaxed) + n as u64 > MAX_TEMPORARY_BYTES {
                break Some(
                    "so many compressed captures overlap in time that unpacked they have more \
                     than 8 GiB; unpack them, and they are read where they are"
                        .to_owned(),
                );
            }
            if let Err(e) = file.file.write_all_at(&buffer[..n], end) {
                break Some(format!(
                    "there is no room to unpack it ({e}); TMPDIR names another \
                                    directory"
                ));
            }
            end += n as u64;
            file.bytes.store(end, Ordering::Relaxed);
            self.total_bytes.fetch_add(n as u64, Ordering::Relaxed);
        };
        Ok((CaptureBytes::Unpacked { file, at, end }, early_end))
    }
}

/// Creates a file without a name in a directory.
fn temporary(directory: &Path) -> io::Result<File> {
    /// Names that are tried. A process with the same number may have left files behind.
    const TRIES: u64 = 1_000;
    static NUMBER: AtomicU64 = AtomicU64::new(0);
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(true).mode(0o600);
    let failed = |e: io::Error| {
        let message = format!(
            "it is compressed, and no temporary file can be made in {} to unpack it ({e}); TMPDIR \
             names another directory",
            directory.display()
        );
        io::Error::new(e.kind(), message)
    };
    for _ in 0..TRIES {
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = directory.join(format!("sidecarta-{}-{number}", std::process::id()));
        match options.open(&path) {
            Ok(file) => {
                fs::remove_file(&path).map_err(failed)?;
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(failed(e)),
        }
    }
    Err(failed(io::ErrorKind::AlreadyExists.into()))
}
