//! Batches as lines of JSON.
//!
//! Owns the form. The first line of a batch has its identity, the last line its number of lines, so
//! that a batch that a crash cut short is recognised. Must never return a part of a batch, nor take
//! more memory than its limits allow, whatever the text is.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

use serde::{Deserialize, Serialize};

use super::valid::validate;
use super::{AskedName, Edge, Observed, WatchedInterface, size};
use crate::{BatchId, Folded, Labels, Ownership, Pod, Spans, Time};

/// Version of the form that is written. Version 1 is read, too: its edges have more fields.
pub const VERSION: u32 = 2;
/// Header in which a recorder says up to which version it reads batches; without it, it reads the
/// first one only.
pub const VERSION_HEADER: &str = "sidecarta-batch-version";
/// Bytes of a batch as text that are read from a compressed one.
pub const MAX_TEXT: u64 = 128 * 1024 * 1024;
/// Bytes of memory of one batch. An agent's largest one, of 100,000 edges with usual names and
/// 100,000 names asked for, takes two thirds of it.
pub const MAX_MEMORY: usize = 128 * 1024 * 1024;
/// Largest window of compression that is read, as a power of two: what the decoder may need.
const MAX_WINDOW: u32 = 23;

/// Longest line that is read. Lines of edges have some hundred bytes; the spans of a pod that was
/// watched for weeks while nothing could be delivered have some hundred kilobytes.
const MAX_LINE: u64 = 1024 * 1024;
/// Edges, and names asked for, of one batch. An agent has fewer (`gather`).
const MAX_EACH: usize = 131_072;
/// Pods of one batch.
const MAX_PODS: usize = 65_536;
/// Counters of one batch: there are some dozen.
const MAX_COUNTERS: usize = 1_024;
/// Bytes of a name: a host of the DNS has 253 (RFC 1035), twice that with all of it escaped; an
/// authority has a port as well. Istio's server names have a prefix.
const MAX_NAME: usize = 1_024;
/// DNS answers of an edge. The capture layer reports at most four.
const MAX_NAMES: usize = 16;
/// Labels of a pod, and labels that select its workload.
const MAX_LABELS: usize = 1_024;
/// Addresses of a pod, and the ranges and ports of its annotations.
const MAX_ADDRESSES: usize = 4_096;

/// The memory that a batch with so many bytes of text may take: a small multiple. Lines of
/// connections take about as much memory as their text, pods with few labels three times that.
pub fn allowance(text: u64) -> usize {
    let text = usize::try_from(text).unwrap_or(usize::MAX);
    text.saturating_mul(6).saturating_add(64 * 1024).min(MAX_MEMORY)
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum BatchLine {
    Observed(BatchHeader),
    Pod(Box<Pod>),
    Edge(Box<Edge>),
    Asked(AskedName),
    Watching(WatchedInterface),
    End(BatchFooter),
}

#[derive(Debug, Serialize, Deserialize)]
struct BatchHeader {
    version: u32,
    #[serde(flatten)]
    id: BatchId,
    node: String,
    made: Time,
    spans: Spans,
    counters: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct BatchFooter {
    lines: u64,
}

/// Writes a batch.
///
/// # Errors
/// When the output cannot be written.
pub fn write(batch: &Observed, out: &mut impl Write) -> io::Result<()> {
    let mut lines = 0;
    let mut line = |line: &BatchLine| {
        lines += 1;
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")
    };
    line(&BatchLine::Observed(BatchHeader {
        version: VERSION,
        id: batch.id.clone(),
        node: batch.node.clone(),
        made: batch.made,
        spans: batch.spans.clone(),
        counters: batch.counters.clone(),
    }))?;
    batch.pods.iter().try_for_each(|p| line(&BatchLine::Pod(Box::new(p.clone()))))?;
    batch.edges.iter().try_for_each(|e| line(&BatchLine::Edge(Box::new(e.clone()))))?;
    batch.asked.iter().try_for_each(|a| line(&BatchLine::Asked(a.clone())))?;
    batch.watching.iter().try_for_each(|w| line(&BatchLine::Watching(w.clone())))?;
    serde_json::to_writer(&mut *out, &BatchLine::End(BatchFooter { lines }))?;
    out.write_all(b"\n")
}

/// Why a batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum BatchReadError {
    /// It has no end: its agent was killed, or the file is cut. What comes after it can be read.
    #[error("line {line}: the batch that begins there is cut: its agent ended while it wrote it")]
    Cut {
        /// Where it begins.
        line: u64,
    },
    /// A line is none of a batch. What comes after its batch can be read.
    #[error("line {line}: {why}; its batch is skipped")]
    Malformed {
        /// Which one.
        line: u64,
        /// What is wrong.
        why: String,
    },
    /// The input fails.
    #[error("line {line}: {error}")]
    Io {
        /// Which line was to be read.
        line: u64,
        /// Why it could not be.
        error: io::Error,
    },
}

/// A compressed batch, read within bounds: never all of its text at once.
#[derive(Clone, Copy, Debug)]
pub struct Packed<'a>(&'a [u8]);

impl<'a> Packed<'a> {
    /// Of what zstd made of the text.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// Bytes of its text, at most one more than [`MAX_TEXT`].
    ///
    /// # Errors
    /// When it is not zstd's, or needs a larger window.
    pub fn text_length(self) -> io::Result<u64> {
        io::copy(&mut self.text()?, &mut io::sink())
    }

    /// Its text.
    ///
    /// # Errors
    /// As [`Packed::text_length`].
    pub fn text(self) -> io::Result<impl BufRead + use<'a>> {
        let mut decoder = zstd::Decoder::new(self.0)?;
        decoder.window_log_max(MAX_WINDOW)?;
        Ok(BufReader::with_capacity(64 * 1024, decoder.take(MAX_TEXT + 1)))
    }
}

/// Reads batches one after the other.
pub struct Reader<R> {
    input: R,
    line: u64,
    /// Bytes of memory that one batch may take.
    memory: usize,
    /// The first line of the next batch, where it ended a cut one.
    next: Option<(u64, BatchHeader)>,
    is_over: bool,
}

impl<R: BufRead> Reader<R> {
    /// From the beginning of the first batch.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, memory: MAX_MEMORY, next: None, is_over: false }
    }

    /// Reads only batches that take at most so many bytes of memory ([`Observed::footprint`]), at
    /// the most [`MAX_MEMORY`].
    #[must_use]
    pub fn within(self, memory: usize) -> Self {
        Self { memory: memory.min(MAX_MEMORY), ..self }
    }

    fn line(&mut self) -> Result<Option<BatchLine>, BatchReadError> {
        let mut text = Vec::new();
        loop {
            self.line += 1;
            text.clear();
            let line = self.line;
            let n = (&mut self.input)
                .take(MAX_LINE)
                .read_until(b'\n', &mut text)
                .map_err(|error| BatchReadError::Io { line, error })?;
            if n == 0 {
                return Ok(None);
            }
            if n as u64 == MAX_LINE {
                self.is_over = true;
                return Err(BatchReadError::Malformed {
                    line,
                    why: format!("it is longer than {MAX_LINE} bytes: this is no file of batches"),
                });
            }
            // An agent that was killed in a line begins the next one on a line of its own.
            if !text.trim_ascii().is_empty() {
                return serde_json::from_slice(&text).map(Some).map_err(|e| {
                    BatchReadError::Malformed { line, why: format!("not a line of a batch: {e}") }
                });
            }
        }
    }

    fn batch(&mut self) -> Result<Option<Observed>, BatchReadError> {
        let (begin, header) = match self.next.take() {
            Some(next) => next,
            None => match self.line()? {
                None => return Ok(None),
                Some(BatchLine::Observed(header)) => (self.line, header),
                // What is left of a batch that was skipped.
                Some(_) => return self.batch_after_rest(),
            },
        };
        if header.version > VERSION {
            let why = format!(
                "the batch has version {}, this program reads up to {VERSION}: use a newer one",
                header.version
            );
            return Err(BatchReadError::Malformed { line: begin, why });
        }
        let BatchHeader { id, node, made, spans, counters, .. } = header;
        let mut batch = Observed {
            id,
            node,
            made,
            spans,
            counters,
            pods: Vec::new(),
            edges: Vec::new(),
            asked: Vec::new(),
            watching: Vec::new(),
        };
        self.bounded(header_fits(&batch))?;
        let mut memory = batch.head_footprint();
        for lines in 1.. {
            let line = match self.line()? {
                Some(BatchLine::End(footer)) => {
                    return self.checked(batch, begin, lines, &footer).map(Some);
                }
                Some(BatchLine::Observed(header)) => {
                    self.next = Some((self.line, header));
                    return Err(BatchReadError::Cut { line: begin });
                }
                None => return Err(BatchReadError::Cut { line: begin }),
                Some(line) => line,
            };
            self.bounded(fits(&line))?;
            memory += match &line {
                BatchLine::Pod(p) => size::pod(p),
                BatchLine::Edge(e) => size::edge(e),
                BatchLine::Asked(a) => size::asked(a),
                BatchLine::Watching(w) => size::watching(w),
                BatchLine::Observed(_) | BatchLine::End(_) => 0,
            };
            self.bounded(within("bytes of memory for the batch", memory, self.memory))?;
            match line {
                BatchLine::Pod(pod) => batch.pods.push(*pod),
                BatchLine::Edge(edge) => batch.edges.push(*edge),
                BatchLine::Asked(asked) => batch.asked.push(asked),
                BatchLine::Watching(watching) => batch.watching.push(watching),
                BatchLine::Observed(_) | BatchLine::End(_) => {}
            }
            let counts = within("pods", batch.pods.len(), MAX_PODS)
                .and(within("edges", batch.edges.len(), MAX_EACH))
                .and(within("names asked for", batch.asked.len(), MAX_EACH))
                .and(within("watched pods", batch.watching.len(), MAX_PODS));
            self.bounded(counts)?;
        }
        Err(BatchReadError::Cut { line: begin })
    }

    /// An error of the line that was read last.
    fn bounded(&self, fits: Result<(), String>) -> Result<(), BatchReadError> {
        fits.map_err(|why| BatchReadError::Malformed { line: self.line, why })
    }

    fn batch_after_rest(&mut self) -> Result<Option<Observed>, BatchReadError> {
        loop {
            match self.line()? {
                None => return Ok(None),
                Some(BatchLine::Observed(header)) => {
                    self.next = Some((self.line, header));
                    return self.batch();
                }
                Some(_) => {}
            }
        }
    }

    fn checked(
        &self,
        batch: Observed,
        begin: u64,
        lines: u64,
        footer: &BatchFooter,
    ) -> Result<Observed, BatchReadError> {
        if footer.lines != lines {
            let why = format!("the batch was written with {} lines and has {lines}", footer.lines);
            return Err(BatchReadError::Malformed { line: begin, why });
        }
        let pods = batch.pods.len();
        let mut named = batch
            .edges
            .iter()
            .map(|e| e.pod)
            .chain(batch.asked.iter().map(|a| a.pod))
            .chain(batch.watching.iter().map(|w| w.pod));
        if let Some(pod) = named.find(|p| *p as usize >= pods) {
            return Err(BatchReadError::Malformed {
                line: begin,
                why: format!("the batch has a line about pod {pod}, and only {pods} pods"),
            });
        }
        validate(&batch).map_err(|why| BatchReadError::Malformed { line: begin, why })?;
        Ok(batch)
    }
}

/// Whether there are no more than the most that are read.
fn within(what: &str, n: usize, most: usize) -> Result<(), String> {
    if n <= most { Ok(()) } else { Err(format!("more {what} than are read: at most {most}")) }
}

fn name(what: &str, text: &str) -> Result<(), String> {
    within(&format!("bytes of {what}"), text.len(), MAX_NAME)
}

fn header_fits(batch: &Observed) -> Result<(), String> {
    name("the source", &batch.id.source)?;
    name("the node", &batch.node)?;
    within("counters", batch.counters.len(), MAX_COUNTERS)?;
    batch.counters.keys().try_for_each(|k| name("a counter", k))
}

/// Whether the counts and lengths of a line are those that an agent can have seen.
fn fits(line: &BatchLine) -> Result<(), String> {
    match line {
        BatchLine::Edge(edge) => {
            within("DNS answers", edge.call.dns.len(), MAX_NAMES)?;
            within("openings", edge.openings.len(), Edge::MAX_OPENINGS)?;
            edge.call.names().try_for_each(|text| name("a name", text))
        }
        BatchLine::Asked(asked) => name("a name", &asked.question),
        BatchLine::Pod(pod) => {
            let w = &pod.workload;
            [&*pod.name, &*pod.uid, &*pod.node, &w.namespace, &w.kind, &w.name]
                .into_iter()
                .try_for_each(|text| name("a pod's name", text))?;
            labels(&pod.labels)?;
            labels(&pod.selector)?;
            within("addresses", pod.addresses.len(), MAX_ADDRESSES)?;
            within("bytes of annotations", pod.capture.footprint(), 64 * MAX_ADDRESSES)
        }
        // The length of a line bounds its spans.
        BatchLine::Watching(watching) => {
            let WatchedInterface { ownership, folded, .. } = watching;
            within("claimed addresses", ownership.claimed.len(), Ownership::MAX_CLAIMED)?;
            within("folded domains", folded.domains.len(), Folded::MAX_DOMAINS)?;
            folded.domains.keys().try_for_each(|text| name("a folded domain", text))
        }
        BatchLine::Observed(_) | BatchLine::End(_) => Ok(()),
    }
}

fn labels(labels: &Labels) -> Result<(), String> {
    within("labels", labels.len(), MAX_LABELS)?;
    labels.iter().flat_map(|(k, v)| [k, v]).try_for_each(|text| name("a label", text))
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Observed, BatchReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.is_over {
            return None;
        }
        let next = self.batch();
        self.is_over |= matches!(next, Ok(None) | Err(BatchReadError::Io { .. }));
        next.transpose()
    }
}
