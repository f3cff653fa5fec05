//! Tables and messages for people, JSON and YAML for programs.
//!
//! The only module that prints, so that no foreign string reaches a terminal unescaped.

#![allow(clippy::print_stderr)] // printing is this module's whole purpose

use std::fmt::Display;
use std::io::{self, Write};

use clap::ValueEnum;
use comfy_table::{ContentArrangement, presets};
use serde::Serialize;

use crate::model::Time;
use crate::{text, yaml};

/// Output format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
    /// For programs and people.
    Yaml,
}

/// Prints data as JSON or YAML.
pub(super) fn data<T: Serialize>(format: Format, value: &T) -> anyhow::Result<()> {
    match format {
        Format::Yaml => write(&yaml::to_string(value)?),
        Format::Json | Format::Table => {
            write(&text::json(&(serde_json::to_string_pretty(value)? + "\n")))
        }
    }
}

/// Prints lines of text. Control characters that a terminal would obey are escaped. A closed pipe
/// is an error that [`is_broken_pipe`] recognises. Lines with foreign strings are made by [`line`].
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    write(&text::lines(text))
}

fn write(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

/// Adds one line. Line breaks in the text are escaped.
pub(super) fn line(out: &mut String, text: impl Display) {
    out.push_str(&text::line(&text.to_string()));
    out.push('\n');
}

/// Prints a line for people to standard error.
pub(super) fn say(text: impl Display) {
    eprintln!("{}", text::line(&text.to_string()));
}

/// Prints a warning: something is wrong, and the command continues.
pub(super) fn warn(text: impl Display) {
    say(format_args!("warning: {text}"));
}

/// Prints a note: nothing is wrong, and people should know it.
pub(super) fn note(text: impl Display) {
    say(format_args!("note: {text}"));
}

/// Prints why a command failed. The reason may have several lines.
pub(super) fn error(text: impl Display) {
    eprintln!("error: {}", text::message(&text.to_string()));
}

/// Whether an error came from a reader of standard output that stopped early, such as `head`.
pub(super) fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|e| e.downcast_ref::<io::Error>())
        .any(|e| e.kind() == io::ErrorKind::BrokenPipe)
}

/// A table without ruled lines, as `kubectl` prints them. Line breaks in cells are escaped.
pub(super) struct Table(comfy_table::Table);

impl Table {
    pub(super) fn add_row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.0.add_row(cells.into_iter().map(|cell| text::line(&cell).into_owned()));
    }
}

pub(super) fn table(header: &[&str]) -> Table {
    let mut table = comfy_table::Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header);
    Table(table)
}

/// The table as text, without blanks at the end of lines.
pub(super) fn render(table: &Table) -> String {
    let mut out = String::new();
    for line in table.0.to_string().lines() {
        out.push_str(line.trim_end().strip_prefix(' ').unwrap_or(line.trim_end()));
        out.push('\n');
    }
    out
}

/// A time for a table: whole seconds.
pub(super) fn moment(time: Time) -> String {
    Time(time.seconds().saturating_mul(1_000_000_000)).to_string()
}

/// A length of time for a table.
pub(super) fn duration(nanos: u64) -> String {
    let s = nanos / 1_000_000_000;
    match s {
        0..60 => format!("{s}s"),
        60..3600 => format!("{}m{:02}s", s / 60, s % 60),
        3600..86_400 => format!("{}h{:02}m", s / 3600, s % 3600 / 60),
        _ => format!("{}d{:02}h", s / 86_400, s % 86_400 / 3600),
    }
}
