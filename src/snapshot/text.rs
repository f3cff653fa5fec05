//! Cuts the text of a snapshot into its objects, so that a broken one costs only itself and can be
//! named by its line.
//!
//! Owns positions in text. Must never interpret an object.

use std::borrow::Cow;

/// A piece of text that should be one object, and the line (from 1) where it begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<'a> {
    pub line: usize,
    pub text: &'a str,
    /// The piece is an item of a block sequence: its first line begins with `- `.
    pub item: bool,
    /// Kind and version of the list of which it is an item, if the text has them.
    pub kind: &'a str,
    pub api_version: &'a str,
    /// How the list ends of which it is an item.
    pub end: ListEnd,
}

/// How a list ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum ListEnd {
    /// As `kubectl` ends it, or it is no list.
    #[default]
    Whole,
    /// It ends after an item, without the `metadata` that `kubectl` prints for each list. Either
    /// the file was cut between two lines, or another program wrote it.
    Open,
    /// It was cut short.
    Cut,
}

impl<'a> Piece<'a> {
    fn document(line: usize, text: &'a str) -> Self {
        Self { line, text, item: false, kind: "", api_version: "", end: ListEnd::Whole }
    }
}

/// The text of a file: UTF-8, or UTF-16 with a mark, as PowerShell's `>` writes it.
///
/// # Errors
/// The line, and why it cannot be read.
pub(super) fn decoded(bytes: &[u8]) -> Result<Cow<'_, str>, String> {
    let wide = |rest: &[u8], from: fn([u8; 2]) -> u16| {
        let (pairs, odd) = rest.as_chunks::<2>();
        let text = String::from_utf16(&pairs.iter().map(|p| from(*p)).collect::<Vec<u16>>());
        match text {
            Ok(text) if odd.is_empty() => Ok(Cow::Owned(text)),
            _ => Err("1: not UTF-16 text, though it begins with the mark of it".to_owned()),
        }
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return wide(rest, u16::from_le_bytes),
        [0xfe, 0xff, rest @ ..] => return wide(rest, u16::from_be_bytes),
        _ => {}
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(Cow::Borrowed(text.strip_prefix('\u{feff}').unwrap_or(text))),
        Err(e) => {
            let line = 1 + bytes[..e.valid_up_to()].iter().filter(|b| **b == b'\n').count();
            Err(format!("{line}: not UTF-8 text"))
        }
    }
}

/// Whether a text is a table as `kubectl get` prints it: its first line has titles in capitals.
pub(super) fn is_table(text: &str) -> bool {
    let Some(line) = text.lines().find(|l| !l.trim().is_empty()) else { return false };
    let mut words = line.split_whitespace();
    let first = words.next().unwrap_or("");
    let title = |w: &str| w.chars().all(|c| c.is_ascii_uppercase() || "()-/".contains(c));
    matches!(first, "NAMESPACE" | "NAME")
        && words.next().is_some()
        && line.split_whitespace().all(title)
}

/// Cuts a YAML stream at `---`, and each `List` as `kubectl` prints it at its items.
///
/// An item's lines are indented deeper than its dash, block scalars included, so a dash in that
/// column begins the next item.
pub(super) fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    for document in documents(text) {
        if !items(document, &mut out) {
            out.push(document);
        }
    }
    out.retain(|p| {
        p.text.lines().any(|l| !l.trim().is_empty() && !l.trim_start().starts_with('#'))
    });
    out
}

fn documents(text: &str) -> Vec<Piece<'_>> {
    let mut out = Vec::new();
    let (mut start, mut start_line) = (0, 1);
    let mut at = 0;
    for (n, line) in text.split_inclusive('\n').enumerate() {
        let bare = line.trim_end();
        if bare == "---" || bare == "..." || line.starts_with("--- ") {
            out.push(Piece::document(start_line, &text[start..at]));
            start = at + line.len();
            start_line = n + 2;
        }
        at += line.len();
    }
    out.push(Piece::document(start_line, &text[start..]));
    out
}

/// The value of a top-level key, if it is on the line of the key.
fn top_level_value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let value = |l: &'a str| l.strip_prefix(key)?.strip_prefix(':').map(str::trim);
    text.lines().find_map(value).map(|v| v.trim_matches(['"', '\'']))
}

/// Cuts a `List` at its items; false if the document is none.
fn items<'a>(document: Piece<'a>, out: &mut Vec<Piece<'a>>) -> bool {
    let kind = top_level_value(document.text, "kind");
    // `kubectl` prints the kind of a List after its items. Without it, the end is missing.
    let cut = kind.is_none() && document.text.lines().any(|l| l.trim_end() == "items:");
    if !cut && !kind.is_some_and(|k| k.ends_with("List")) {
        return false;
    }
    let (kind, api_version) =
        (kind.unwrap_or(""), top_level_value(document.text, "apiVersion").unwrap_or(""));
    let mut end = if cut { ListEnd::Cut } else { ListEnd::Whole };
    let piece =
        |line, text| Piece { line, text, item: true, kind, api_version, end: ListEnd::Whole };
    let mut at = 0;
    let mut in_items = false;
    let mut column = None;
    let mut current: Option<(usize, usize)> = None;
    let mut found = Vec::new();
    for (n, line) in document.text.split_inclusive('\n').enumerate() {
        let here = document.line + n;
        let indent = line.len() - line.trim_start_matches(' ').len();
        let dash = line[indent..].starts_with("- ") || line[indent..].trim_end() == "-";
        if in_items && dash && column.is_none_or(|c| c == indent) {
            column = Some(indent);
            if let Some((from, at_line)) = current.replace((at, here)) {
                found.push(piece(at_line, &document.text[from..at]));
            }
        } else if in_items && indent == 0 && !line.trim().is_empty() && !line.starts_with('#') {
            in_items = false;
            if let Some((from, at_line)) = current.take() {
                found.push(piece(at_line, &document.text[from..at]));
            }
        }
        if line.trim_end() == "items:" {
            in_items = true;
        }
        at += line.len();
    }
    if let Some((from, at_line)) = current {
        if !document.text.ends_with('\n') {
            end = ListEnd::Cut;
        } else if top_level_value(document.text, "metadata").is_none() {
            end = end.max(ListEnd::Open);
        }
        found.push(piece(at_line, &document.text[from..]));
    }
    if found.is_empty() {
        return false;
    }
    out.extend(found.into_iter().map(|piece| Piece { end, ..piece }));
    true
}

/// A name for a piece that could not be read: the first `kind:` and `name:` in its text.
pub(super) fn guess_name(text: &str) -> String {
    let value = |key: &str| {
        let lines = text.lines().map(|l| l.trim_start().trim_start_matches("- ").trim_start());
        lines
            .filter_map(|l| l.strip_prefix(key))
            .map(|v| v.trim().trim_matches('"').to_owned())
            .find(|v| !v.is_empty())
    };
    match (value("kind:"), value("name:")) {
        (Some(kind), Some(name)) => format!("{kind} {name}"),
        (Some(kind), None) => kind,
        _ => "an object".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_is_cut_at_its_items_and_each_has_its_line() {
        let text = "apiVersion: v1\nitems:\n- kind: A\n  data: |\n    - x\n- kind: B\nkind: \
                    List\n---\n# only a comment\n---\nkind: C\n";
        let got: Vec<(usize, &str, bool)> =
            pieces(text).iter().map(|p| (p.line, p.text, p.item)).collect();
        assert_eq!(
            got,
            [
                (3, "- kind: A\n  data: |\n    - x\n", true),
                (6, "- kind: B\n", true),
                (11, "kind: C\n", false)
            ]
        );
    }

    #[test]
    fn a_list_without_its_end_is_recognised() {
        let end = |text: &str| pieces(text)[0].end;
        let whole = "apiVersion: v1\nitems:\n- kind: A\n- kind: B\nkind: List\nmetadata:\n  \
                     resourceVersion: \"\"\n";
        assert_eq!(end(whole), ListEnd::Whole);
        assert_eq!(end("apiVersion: v1\nitems:\n- kind: A\n- kind: B\n"), ListEnd::Cut);
        assert_eq!(end("kind: List\nitems:\n- kind: A\n- ki"), ListEnd::Cut);
        assert_eq!(end("kind: List\nitems:\n- kind: A\n"), ListEnd::Open);
        assert_eq!(end("kind: List\nmetadata: {}\nitems:\n- kind: A\n"), ListEnd::Whole);
    }

    #[test]
    fn indented_items_are_cut_too() {
        let text = "kind: List\nitems:\n  - kind: A\n    list:\n      - 1\n  - kind: B\n";
        let got: Vec<usize> = pieces(text).iter().map(|p| p.line).collect();
        assert_eq!(got, [3, 6]);
    }

    #[test]
    fn the_name_of_a_broken_object_is_guessed_from_its_text() {
        assert_eq!(guess_name("- kind: Pod\n  metadata:\n    name: web-0\n"), "Pod web-0");
        assert_eq!(guess_name("\t\t"), "an object");
    }
}
