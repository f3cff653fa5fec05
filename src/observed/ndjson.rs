//! Batches as lines of JSON.
//!
//! Owns the form. The first line of a batch names it, the last one closes it: a batch that a crash
//! cut short is known as one. Must never give out a part of a batch.

use std::collections::BTreeMap;
use std::io::{self, BufRead, Read, Write};

use serde::{Deserialize, Serialize};

use super::valid::validate;
use super::{Asked, Edge, Observed, Watching};
use crate::cluster::Pod;
use crate::model::{BatchId, Spans, Time};

/// Version of the form.
const VERSION: u32 = 1;
/// Longest line that is read.
const MAX_LINE: u64 = 4 * 1024 * 1024;
/// Most lines of one batch that are read: an agent closes a batch long before.
const MAX_LINES: u64 = 4_000_000;

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line {
    Observed(Header),
    Pod(Box<Pod>),
    Edge(Box<Edge>),
    Asked(Asked),
    Watching(Watching),
    End(Footer),
}

#[derive(Debug, Serialize, Deserialize)]
struct Header {
    version: u32,
    #[serde(flatten)]
    id: BatchId,
    node: String,
    made: Time,
    spans: Spans,
    counters: BTreeMap<String, u64>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Footer {
    lines: u64,
}

/// Writes a batch.
///
/// # Errors
/// When the output cannot be written.
pub fn write(batch: &Observed, out: &mut impl Write) -> io::Result<()> {
    let mut lines = 0;
    let mut line = |line: &Line| {
        lines += 1;
        serde_json::to_writer(&mut *out, line)?;
        out.write_all(b"\n")
    };
    line(&Line::Observed(Header {
        version: VERSION,
        id: batch.id.clone(),
        node: batch.node.clone(),
        made: batch.made,
        spans: batch.spans.clone(),
        counters: batch.counters.clone(),
    }))?;
    batch.pods.iter().try_for_each(|p| line(&Line::Pod(Box::new(p.clone()))))?;
    batch.edges.iter().try_for_each(|e| line(&Line::Edge(Box::new(e.clone()))))?;
    batch.asked.iter().try_for_each(|a| line(&Line::Asked(a.clone())))?;
    batch.watching.iter().try_for_each(|w| line(&Line::Watching(w.clone())))?;
    serde_json::to_writer(&mut *out, &Line::End(Footer { lines }))?;
    out.write_all(b"\n")
}

/// Why a batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
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

/// Reads batches one after the other.
pub struct Reader<R> {
    input: R,
    line: u64,
    /// The first line of the next batch, where it ended a cut one.
    next: Option<(u64, Header)>,
    over: bool,
}

impl<R: BufRead> Reader<R> {
    /// From the beginning of the first batch.
    pub fn new(input: R) -> Self {
        Self { input, line: 0, next: None, over: false }
    }

    fn line(&mut self) -> Result<Option<Line>, ReadError> {
        let mut text = Vec::new();
        loop {
            self.line += 1;
            text.clear();
            let line = self.line;
            let n = (&mut self.input)
                .take(MAX_LINE)
                .read_until(b'\n', &mut text)
                .map_err(|error| ReadError::Io { line, error })?;
            if n == 0 {
                return Ok(None);
            }
            if n as u64 == MAX_LINE {
                self.over = true;
                return Err(ReadError::Malformed {
                    line,
                    why: format!("it is longer than {MAX_LINE} bytes: this is no file of batches"),
                });
            }
            // An agent that was killed in a line begins the next one on a line of its own.
            if !text.trim_ascii().is_empty() {
                return serde_json::from_slice(&text).map(Some).map_err(|e| ReadError::Malformed {
                    line,
                    why: format!("not a line of a batch: {e}"),
                });
            }
        }
    }

    fn batch(&mut self) -> Result<Option<Observed>, ReadError> {
        let (begin, header) = match self.next.take() {
            Some(next) => next,
            None => match self.line()? {
                None => return Ok(None),
                Some(Line::Observed(header)) => (self.line, header),
                // What is left of a batch that was skipped.
                Some(_) => return self.batch_after_rest(),
            },
        };
        if header.version > VERSION {
            let why = format!(
                "the batch has version {}, this program reads up to {VERSION}: use a newer one",
                header.version
            );
            return Err(ReadError::Malformed { line: begin, why });
        }
        let Header { id, node, made, spans, counters, .. } = header;
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
        for lines in 1..MAX_LINES {
            match self.line()? {
                Some(Line::Pod(pod)) => batch.pods.push(*pod),
                Some(Line::Edge(edge)) => batch.edges.push(*edge),
                Some(Line::Asked(asked)) => batch.asked.push(asked),
                Some(Line::Watching(watching)) => batch.watching.push(watching),
                Some(Line::End(footer)) => {
                    return self.checked(batch, begin, lines, &footer).map(Some);
                }
                Some(Line::Observed(header)) => {
                    self.next = Some((self.line, header));
                    return Err(ReadError::Cut { line: begin });
                }
                None => return Err(ReadError::Cut { line: begin }),
            }
        }
        Err(ReadError::Malformed {
            line: begin,
            why: format!("the batch has more than {MAX_LINES} lines"),
        })
    }

    fn batch_after_rest(&mut self) -> Result<Option<Observed>, ReadError> {
        loop {
            match self.line()? {
                None => return Ok(None),
                Some(Line::Observed(header)) => {
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
        footer: &Footer,
    ) -> Result<Observed, ReadError> {
        if footer.lines != lines {
            let why = format!("the batch was written with {} lines and has {lines}", footer.lines);
            return Err(ReadError::Malformed { line: begin, why });
        }
        let pods = batch.pods.len();
        let mut named = batch
            .edges
            .iter()
            .map(|e| e.pod)
            .chain(batch.asked.iter().map(|a| a.pod))
            .chain(batch.watching.iter().map(|w| w.pod));
        if let Some(pod) = named.find(|p| *p as usize >= pods) {
            return Err(ReadError::Malformed {
                line: begin,
                why: format!("the batch speaks of pod {pod} and holds {pods}"),
            });
        }
        validate(&batch).map_err(|why| ReadError::Malformed { line: begin, why })?;
        Ok(batch)
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Observed, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.over {
            return None;
        }
        let next = self.batch();
        self.over |= matches!(next, Ok(None) | Err(ReadError::Io { .. }));
        next.transpose()
    }
}
