//! pcapng: sections, interfaces with their own link types and clocks, packets.
//!
//! Owns what a position in such a file means: the byte order and the interfaces of its section.
//! Must never store more than a bounded number of interfaces, whatever the file describes.

use std::io::{Chain, Cursor, Read};

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader};

use super::outcome::{ReadLimit, ReadOutcome};
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::{InterfaceId, Nanos};

/// First size of the buffer, in bytes. A block must fit whole, and most are small.
const BUFFER: usize = 128 * 1024;
/// Bytes within which the section header must end. Writers put a few hundred bytes of options
/// there.
const HEAD: u64 = 4096;
/// Largest block, in bytes. The largest snap length is 256 KiB, so that a file with a larger block
/// is damaged or hostile.
const MAX_BLOCK: usize = 1024 * 1024;
/// Interfaces of one section, at most. Interface numbers have 32 bits in packet blocks, but 16 bits
/// in the older packet block (draft-ietf-opsawg-pcapng, appendix A), and no host has so many.
const MAX_INTERFACES: usize = 65_536;
/// Interfaces of all sections of a file, at most. Each section numbers its interfaces anew.
const MAX_ALL_INTERFACES: u32 = 1 << 20;

/// An interface, as its section describes it.
#[derive(Debug)]
struct NgInterface {
    link: LinkType,
    snap_len: u32,
    /// Ticks of its clock per second.
    resolution: u64,
    /// Seconds to add to its times.
    offset: i64,
}

/// A position in a file, with everything before it that reading needs.
#[derive(Debug, Default)]
pub(super) struct NgPosition {
    /// Bytes from the beginning of the file to the next block.
    pub offset: u64,
    big_endian: bool,
    interfaces: Vec<NgInterface>,
    /// Number of interfaces in earlier sections. It is added to an interface's number, so that
    /// numbers are unique within the file.
    earlier: u32,
}

/// Reads pcapng as a stream.
pub(super) struct NgReader<R: Read> {
    reader: PcapNGReader<Chain<Cursor<Vec<u8>>, R>>,
    position: NgPosition,
    size: usize,
}

/// Result of reading one block.
enum NgStep {
    Frame,
    OtherBlock,
    Refill,
    Grow,
    End,
    Damaged(String),
}

impl<R: Read> NgReader<R> {
    /// From the beginning of a file.
    pub(super) fn new(mut file: R) -> Result<Self, String> {
        // The parser needs the whole section header in its first read. A pipe returns whatever has
        // arrived.
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(|e| format!("it cannot be read: {e}"))?;
        Self::after_header(head, file, BUFFER, NgPosition::default())
    }

    /// From the bytes at a position after the beginning.
    fn resume(file: R, size: usize, position: NgPosition) -> Result<Self, String> {
        let head = section_header(position.big_endian);
        let mut this = Self::after_header(head, file, size, position)?;
        // The section header itself was read before.
        let consumed = this.reader.next().map(|(n, _)| n).unwrap_or(0);
        this.reader.consume(consumed);
        Ok(this)
    }

    /// A reader of a section header in `head` and the blocks after it in `file`.
    fn after_header(
        head: Vec<u8>,
        file: R,
        size: usize,
        position: NgPosition,
    ) -> Result<Self, String> {
        let reader = PcapNGReader::new(size, Cursor::new(head).chain(file)).map_err(|e| {
            format!(
                "its pcapng section header cannot be read ({e}); it may be cut within the first \
                 bytes"
            )
        })?;
        Ok(Self { reader, position, size })
    }

    /// Reads up to `count` frames, and passes them to `take`.
    pub(super) fn read(&mut self, count: usize, take: &mut impl FnMut(Frame<'_>)) -> ReadOutcome {
        let mut read = 0;
        while read < count {
            match self.step(take) {
                NgStep::Frame => read += 1,
                NgStep::OtherBlock => {}
                NgStep::Refill => {
                    // At the end of the file, with a part of a block left, refilling adds nothing.
                    let before = self.reader.data().len();
                    if self.reader.refill().is_err() {
                        return ReadOutcome::Damaged("it cannot be read further".to_owned());
                    }
                    if self.reader.data().len() == before {
                        if self.reader.data().is_empty() {
                            return ReadOutcome::End;
                        }
                        if self.reader.reader_exhausted() {
                            return ReadOutcome::Damaged(
                                "it is cut in the middle of a block".to_owned(),
                            );
                        }
                        if let Some(end) = self.grow() {
                            return end;
                        }
                    }
                }
                NgStep::Grow => {
                    if let Some(end) = self.grow() {
                        return end;
                    }
                }
                NgStep::End => return ReadOutcome::End,
                NgStep::Damaged(why) => return ReadOutcome::Damaged(why),
            }
        }
        ReadOutcome::More
    }

    fn grow(&mut self) -> Option<ReadOutcome> {
        self.size *= 2;
        if self.size > MAX_BLOCK || !self.reader.grow(self.size) {
            return Some(ReadOutcome::Damaged(
                "a block of it claims to be larger than any packet".to_owned(),
            ));
        }
        None
    }

    fn step(&mut self, take: &mut impl FnMut(Frame<'_>)) -> NgStep {
        let (consumed, step) = match self.reader.next() {
            Ok((consumed, block)) => {
                let step = self.position.block(&block, take);
                self.position.offset += consumed as u64;
                (consumed, step)
            }
            Err(PcapError::Eof) => return NgStep::End,
            Err(PcapError::Incomplete(_)) => return NgStep::Refill,
            Err(PcapError::BufferTooSmall) => return NgStep::Grow,
            Err(PcapError::UnexpectedEof) => {
                return NgStep::Damaged("it is cut in the middle of a block".to_owned());
            }
            Err(PcapError::ReadError) => {
                return NgStep::Damaged("it cannot be read further".to_owned());
            }
            Err(_) => return NgStep::Damaged("it contains a malformed block".to_owned()),
        };
        self.reader.consume(consumed);
        step
    }
}

impl NgPosition {
    /// Reads frames from the bytes at this position, until a limit is reached.
    pub(super) fn read(
        &mut self,
        from: impl Read,
        limit: ReadLimit,
        take: &mut impl FnMut(Frame<'_>),
    ) -> ReadOutcome {
        let position = std::mem::take(self);
        let size = limit.bytes.clamp(HEAD as usize, BUFFER);
        let reader = if position.offset == 0 {
            NgReader::new(from)
        } else {
            NgReader::resume(from, size, position)
        };
        let mut reader = match reader {
            Ok(reader) => reader,
            Err(why) => return ReadOutcome::Damaged(why),
        };
        let (mut frames, mut bytes) = (0, 0);
        let next = loop {
            if frames >= limit.frames || frames > 0 && bytes >= limit.bytes {
                break ReadOutcome::More;
            }
            let mut length = 0;
            match reader.read(1, &mut |frame| {
                length = frame.data.len();
                take(frame);
            }) {
                ReadOutcome::More => (frames, bytes) = (frames + 1, bytes + length),
                end => break end,
            }
        };
        *self = reader.position;
        next
    }

    fn block(&mut self, block: &PcapBlockOwned<'_>, take: &mut impl FnMut(Frame<'_>)) -> NgStep {
        let PcapBlockOwned::NG(block) = block else { return NgStep::OtherBlock };
        let (interfaces, earlier) = (&mut self.interfaces, &mut self.earlier);
        match block {
            Block::SectionHeader(header) => {
                // No overflow: both are limited below.
                *earlier += interfaces.len() as u32;
                interfaces.clear();
                self.big_endian = header.big_endian();
            }
            Block::InterfaceDescription(i) => {
                if interfaces.len() >= MAX_INTERFACES {
                    return NgStep::Damaged(format!(
                        "a section of it describes more than {MAX_INTERFACES} interfaces"
                    ));
                }
                if *earlier + interfaces.len() as u32 >= MAX_ALL_INTERFACES {
                    return NgStep::Damaged(format!(
                        "its sections describe more than {MAX_ALL_INTERFACES} interfaces"
                    ));
                }
                interfaces.push(NgInterface {
                    link: LinkType(u16::try_from(i.linktype.0).unwrap_or(u16::MAX)),
                    snap_len: i.snaplen,
                    resolution: i.ts_resolution().filter(|r| *r > 0).unwrap_or(1_000_000),
                    offset: i.ts_offset(),
                });
            }
            Block::EnhancedPacket(p) => {
                let Some(i) = interfaces.get(p.if_id as usize) else {
                    return NgStep::Damaged(format!(
                        "a packet names interface {}, which is not described",
                        p.if_id
                    ));
                };
                let ticks = u64::from(p.ts_high) << 32 | u64::from(p.ts_low);
                let data = p.packet_data();
                let interface = InterfaceId { source: 0, index: *earlier + p.if_id };
                take(Frame {
                    time: i.time(ticks),
                    interface,
                    link: i.link,
                    direction: Direction::Unknown,
                    wire_len: p.origlen,
                    data,
                });
                return NgStep::Frame;
            }
            Block::SimplePacket(p) => {
                let Some(i) = interfaces.first() else {
                    return NgStep::Damaged("a packet stands before any interface".to_owned());
                };
                let data = p.raw_packet_data();
                let cut = if i.snap_len == 0 { p.origlen } else { p.origlen.min(i.snap_len) };
                let data = &data[..data.len().min(cut as usize)];
                let interface = InterfaceId { source: 0, index: *earlier };
                // A simple packet has no time. With 0 it comes before all others.
                take(Frame {
                    time: 0,
                    interface,
                    link: i.link,
                    direction: Direction::Unknown,
                    wire_len: p.origlen,
                    data,
                });
                return NgStep::Frame;
            }
            _ => {}
        }
        NgStep::OtherBlock
    }
}

impl NgInterface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.resolution);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(i128::from(self.offset) * 1_000_000_000);
        Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
    }
}

/// The shortest section header (draft-ietf-opsawg-pcapng §4.1), which a reader needs first.
fn section_header(big_endian: bool) -> Vec<u8> {
    let number = |n: u32| if big_endian { n.to_be_bytes() } else { n.to_le_bytes() };
    // Version 1.0. A length of -1 means that it is not specified.
    let version = if big_endian { 0x0001_0000 } else { 0x0000_0001 };
    let fields = [0x0a0d_0d0a, 28, 0x1a2b_3c4d, version, u32::MAX, u32::MAX, 28];
    fields.into_iter().flat_map(number).collect()
}
