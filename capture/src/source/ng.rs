//! pcapng: sections, interfaces with their own link types and clocks, packets.

use std::fs::File;
use std::io::{Chain, Cursor, Read};

use pcap_parser::traits::{PcapNGPacketBlock, PcapReaderIterator};
use pcap_parser::{Block, PcapBlockOwned, PcapError, PcapNGReader};

use super::input::Next;
use crate::frame::{Direction, Frame, LinkType};
use crate::observation::{InterfaceId, Nanos};

/// First size of the buffer: a block must fit whole, and most are small.
const BUFFER: usize = 128 * 1024;
/// Bytes within which the section header must end: writers put a few hundred bytes of options
/// there.
const HEAD: u64 = 4096;
/// A larger block than this is no packet (the largest snap length is 256 KiB): the file is damaged
/// or hostile.
const MAX_BLOCK: usize = 1024 * 1024;

struct Interface {
    link: LinkType,
    snap_len: u32,
    /// Ticks of its clock per second.
    resolution: u64,
    /// Seconds to add.
    offset: i64,
}

/// Reads pcapng as a stream.
pub(super) struct NgReader {
    reader: PcapNGReader<Chain<Cursor<Vec<u8>>, File>>,
    interfaces: Vec<Interface>,
    /// Interfaces of earlier sections, which number anew: numbers stay unique within the file.
    earlier: u32,
    size: usize,
}

enum Step {
    Told,
    More,
    Refill,
    Grow,
    End,
    Damaged(String),
}

impl NgReader {
    pub fn new(mut file: File) -> Result<Self, String> {
        // The parser wants the whole section header in its first read; a pipe gives whatever has
        // arrived.
        let mut head = Vec::new();
        file.by_ref()
            .take(HEAD)
            .read_to_end(&mut head)
            .map_err(|e| format!("it cannot be read: {e}"))?;
        let file = Cursor::new(head).chain(file);
        let reader = PcapNGReader::new(BUFFER, file)
            .map_err(|e| format!("its pcapng section header cannot be read ({e}); it may be cut within the first bytes"))?;
        Ok(Self { reader, interfaces: Vec::new(), earlier: 0, size: BUFFER })
    }

    /// Reads up to `count` frames and hands them on.
    pub fn read(&mut self, count: usize, take: &mut impl FnMut(Frame<'_>)) -> Next {
        let mut read = 0;
        while read < count {
            match self.step(take) {
                Step::Told => read += 1,
                Step::More => {}
                Step::Refill => {
                    // At the end of the file with half a block left, refilling gives nothing new.
                    let before = self.reader.data().len();
                    if self.reader.refill().is_err() {
                        return Next::Damaged("it cannot be read further".to_owned());
                    }
                    if self.reader.data().len() == before {
                        if self.reader.data().is_empty() {
                            return Next::End;
                        }
                        if self.reader.reader_exhausted() {
                            return Next::Damaged("it is cut in the middle of a block".to_owned());
                        }
                        if let Some(end) = self.grow() {
                            return end;
                        }
                    }
                }
                Step::Grow => {
                    if let Some(end) = self.grow() {
                        return end;
                    }
                }
                Step::End => return Next::End,
                Step::Damaged(why) => return Next::Damaged(why),
            }
        }
        Next::More
    }

    fn grow(&mut self) -> Option<Next> {
        self.size *= 2;
        if self.size > MAX_BLOCK || !self.reader.grow(self.size) {
            return Some(Next::Damaged(
                "a block of it claims to be larger than any packet".to_owned(),
            ));
        }
        None
    }

    fn step(&mut self, take: &mut impl FnMut(Frame<'_>)) -> Step {
        let (consumed, step) = match self.reader.next() {
            Ok((consumed, block)) => {
                (consumed, Self::block(&mut self.interfaces, &mut self.earlier, &block, take))
            }
            Err(PcapError::Eof) => return Step::End,
            Err(PcapError::Incomplete(_)) => return Step::Refill,
            Err(PcapError::BufferTooSmall) => return Step::Grow,
            Err(PcapError::UnexpectedEof) => {
                return Step::Damaged("it is cut in the middle of a block".to_owned());
            }
            Err(PcapError::ReadError) => {
                return Step::Damaged("it cannot be read further".to_owned());
            }
            Err(_) => return Step::Damaged("it holds a malformed block".to_owned()),
        };
        self.reader.consume(consumed);
        step
    }

    fn block(
        interfaces: &mut Vec<Interface>,
        earlier: &mut u32,
        block: &PcapBlockOwned<'_>,
        take: &mut impl FnMut(Frame<'_>),
    ) -> Step {
        let PcapBlockOwned::NG(block) = block else { return Step::More };
        match block {
            Block::SectionHeader(_) => {
                *earlier += interfaces.len() as u32;
                interfaces.clear();
            }
            Block::InterfaceDescription(i) => interfaces.push(Interface {
                link: LinkType(u16::try_from(i.linktype.0).unwrap_or(u16::MAX)),
                snap_len: i.snaplen,
                resolution: i.ts_resolution().filter(|r| *r > 0).unwrap_or(1_000_000),
                offset: i.ts_offset(),
            }),
            Block::EnhancedPacket(p) => {
                let Some(i) = interfaces.get(p.if_id as usize) else {
                    return Step::Damaged(format!(
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
                return Step::Told;
            }
            Block::SimplePacket(p) => {
                let Some(i) = interfaces.first() else {
                    return Step::Damaged("a packet stands before any interface".to_owned());
                };
                let data = p.raw_packet_data();
                let cut = if i.snap_len == 0 { p.origlen } else { p.origlen.min(i.snap_len) };
                let data = &data[..data.len().min(cut as usize)];
                let interface = InterfaceId { source: 0, index: *earlier };
                // A simple packet has no time; 0 keeps it before all that is known.
                take(Frame {
                    time: 0,
                    interface,
                    link: i.link,
                    direction: Direction::Unknown,
                    wire_len: p.origlen,
                    data,
                });
                return Step::Told;
            }
            _ => {}
        }
        Step::More
    }
}

impl Interface {
    fn time(&self, ticks: u64) -> Nanos {
        let nanos = u128::from(ticks) * 1_000_000_000 / u128::from(self.resolution);
        let nanos = i128::try_from(nanos).unwrap_or(i128::MAX);
        let nanos = nanos.saturating_add(i128::from(self.offset) * 1_000_000_000);
        Nanos::try_from(nanos).unwrap_or(Nanos::MAX)
    }
}
