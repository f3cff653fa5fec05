//! YAML in and out: the only module that names the YAML library.
//!
//! Owns the bound on depth, and the guard for what readers of YAML 1.1 (`kubectl`'s among them) and
//! of 1.2 read differently: words that 1.1 takes for booleans, numbers or dates, which the library
//! leaves bare, and characters that are line breaks in 1.1 alone. Must never change a value, only
//! how it is quoted.

pub mod depth;

use std::borrow::Cow;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use depth::TooDeep;

pub use serde_yaml::{Value, from_value};

/// Why a text cannot be read, or a value not be written.
#[derive(Debug, thiserror::Error)]
pub enum YamlError {
    /// The library refuses it.
    #[error(transparent)]
    Library(#[from] serde_yaml::Error),
    /// It nests too deep.
    #[error("{place} of line {line}", place = .0, line = .0.line)]
    Deep(#[from] TooDeep),
}

impl YamlError {
    /// The line, from 1, where the error has a place.
    pub fn line(&self) -> Option<usize> {
        match self {
            Self::Library(e) => e.location().map(|l| l.line()),
            Self::Deep(e) => Some(e.line),
        }
    }
}

/// Reads one YAML document, in time that grows as the text does.
///
/// # Errors
/// With line and column, on malformed text, duplicate keys, a wrong type, or more than
/// [`depth::LIMIT`] collections within each other.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, YamlError> {
    depth::check_yaml(text)?;
    Ok(serde_yaml::from_str(text)?)
}

/// Reads all documents of a text, in time that grows as it does.
///
/// # Errors
/// With line and column, on malformed text, duplicate keys, or more than [`depth::LIMIT`]
/// collections within each other.
pub fn documents(text: &str) -> Result<Vec<Value>, YamlError> {
    depth::check_yaml(text)?;
    let all = serde_yaml::Deserializer::from_str(text);
    all.map(|document| Ok(Value::deserialize(document)?)).collect()
}

/// Writes a value as one YAML document in printable ASCII, quoted so that YAML 1.1 and 1.2 readers
/// agree on every scalar.
///
/// # Errors
/// When the value cannot be YAML (a map with complex keys).
///
/// ```
/// // YAML 1.1 reads a bare `no` as false.
/// let labels = std::collections::BTreeMap::from([("canary", "no")]);
/// assert_eq!(sidecarta_text::yaml::to_string(&labels).unwrap(), "canary: 'no'\n");
/// ```
pub fn to_string<T: Serialize>(value: &T) -> Result<String, YamlError> {
    let text = serde_yaml::to_string(value)?;
    // The library escapes some characters itself, and writes such a key behind `? `, on lines of
    // another form than the guard reads.
    let has_long_key = text.contains("? ");
    if !has_long_key && text.bytes().all(|b| matches!(b, b'\n' | b' '..=b'~')) {
        return Ok(guard(&text));
    }
    // The library writes other characters as they are. Strings with such stand in double quotes:
    // a word takes the place of each while the library writes.
    let mut words = Words::new(&text);
    let mut value = serde_yaml::to_value(value)?;
    words.replace(&mut value);
    Ok(words.restore(&guard(&serde_yaml::to_string(&value)?)))
}

/// Strings that this module writes itself, and the words that replace them while the library writes
/// the rest.
struct Words {
    /// Begins each word, and nothing else in the text.
    prefix: String,
    strings: Vec<String>,
}

impl Words {
    fn new(text: &str) -> Self {
        let mut prefix = String::from("string-x-");
        while text.contains(&prefix) {
            prefix.insert(7, 'x');
        }
        Self { prefix, strings: Vec::new() }
    }

    fn replace(&mut self, value: &mut Value) {
        match value {
            Value::String(s) if s.bytes().any(|b| !matches!(b, b' '..=b'~')) => {
                let word = format!("{}{}-", self.prefix, self.strings.len());
                self.strings.push(std::mem::replace(s, word));
            }
            Value::Sequence(all) => all.iter_mut().for_each(|v| self.replace(v)),
            Value::Mapping(all) => {
                for (mut key, mut value) in std::mem::take(all) {
                    self.replace(&mut key);
                    self.replace(&mut value);
                    all.insert(key, value);
                }
            }
            Value::Tagged(tagged) => self.replace(&mut tagged.value),
            _ => {}
        }
    }

    fn restore(&self, text: &str) -> String {
        let mut parts = text.split(self.prefix.as_str());
        let mut out = parts.next().unwrap_or_default().to_owned();
        for part in parts {
            let (number, rest) = part.split_once('-').unwrap_or((part, ""));
            let string = number.parse().ok().and_then(|n: usize| self.strings.get(n));
            out.push_str(&crate::yaml_string(string.map_or("", String::as_str)));
            out.push_str(rest);
        }
        out
    }
}

/// Quotes the plain scalars that YAML 1.1 reads otherwise. Works on what the library writes: block
/// style, one scalar a line, strings with line breaks as block scalars (whose lines are left
/// alone).
fn guard(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    let mut block: Option<usize> = None;
    for line in text.split_inclusive('\n') {
        let body = line.trim_end_matches('\n');
        let indent = body.len() - body.trim_start_matches(' ').len();
        if let Some(at) = block {
            if body.is_empty() || indent > at {
                out.push_str(line);
                continue;
            }
            block = None;
        }
        let mut rest = &body[indent..];
        out.push_str(&body[..indent]);
        let mut depth = indent;
        while let Some(item) = rest.strip_prefix("- ") {
            out.push_str("- ");
            depth += 2;
            rest = item;
        }
        let (key, value) = split_key(rest);
        if let Some(key) = key {
            out.push_str(&quote(key));
            out.push(':');
            if !value.is_empty() {
                out.push(' ');
            }
        }
        if matches!(value.as_bytes().first(), Some(b'|' | b'>')) {
            // A block scalar's lines are indented deeper than the line with its key or dash.
            block = Some(if key.is_some() { depth } else { depth.saturating_sub(2) });
            out.push_str(value);
        } else {
            out.push_str(&quote(value));
        }
        if line.ends_with('\n') {
            out.push('\n');
        }
    }
    out
}

/// Splits `key: value` or `key:`; a line that is only a scalar has no key.
fn split_key(text: &str) -> (Option<&str>, &str) {
    let bytes = text.as_bytes();
    let end = match bytes.first() {
        Some(&q @ (b'"' | b'\'')) => closing(bytes, q),
        _ => None,
    };
    let from = end.unwrap_or(0);
    if end.is_some() && text[from..].is_empty() {
        return (None, text);
    }
    match text[from..].find(": ") {
        Some(i) => (Some(&text[..from + i]), &text[from + i + 2..]),
        None => match text.strip_suffix(':') {
            Some(key) => (Some(key), ""),
            None => (None, text),
        },
    }
}

/// Where the quoted scalar at the beginning ends.
fn closing(bytes: &[u8], quote: u8) -> Option<usize> {
    let mut i = 1;
    while i < bytes.len() {
        match bytes[i] {
            b'\\' if quote == b'"' => i += 1,
            b if b == quote && quote == b'\'' && bytes.get(i + 1) == Some(&b'\'') => i += 1,
            b if b == quote => return Some(i + 1),
            _ => {}
        }
        i += 1;
    }
    None
}

fn quote(scalar: &str) -> Cow<'_, str> {
    if ambiguous(scalar) { format!("'{scalar}'").into() } else { scalar.into() }
}

/// Whether a plain scalar that YAML 1.2 reads as a string is something else in YAML 1.1 (types
/// `bool`, `int`, `float`, `timestamp`, `merge`, `value` of yaml.org/type). Real booleans, numbers
/// and null come as YAML 1.2 spells them and stay bare.
fn ambiguous(s: &str) -> bool {
    const WORDS: [&str; 8] = ["y", "n", "yes", "no", "on", "off", "=", "<<"];
    if WORDS.contains(&s.to_ascii_lowercase().as_str()) {
        return true;
    }
    let Some(first) = s.strip_prefix(['-', '+']).unwrap_or(s).bytes().next() else { return false };
    if !(first.is_ascii_digit() || first == b'.') {
        return false;
    }
    let only = |extra: &str| s.bytes().all(|b| b.is_ascii_digit() || extra.as_bytes().contains(&b));
    // 1_000, 0x_ff, 0b1_0 · sexagesimal 12:30:45 · timestamps 2026-01-01 and 2026-01-01T12:30:45Z
    let underscored =
        s.contains('_') && s.bytes().all(|b| b.is_ascii_hexdigit() || b"_.+-xXoOeE:".contains(&b));
    let sexagesimal = s.contains(':') && only("+-:._");
    let dated = s.len() >= 8 && s.as_bytes().get(4) == Some(&b'-') && only("-:.TtZz +");
    underscored || sexagesimal || dated
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_key_that_the_library_writes_on_lines_of_its_own_is_read_back() {
        let value = BTreeMap::from([("\u{feff}\n---\n", vec!["=\n---\n"])]);
        let text = to_string(&value).unwrap();
        assert_eq!(text, "\"\\ufeff\\n---\\n\":\n- \"=\\n---\\n\"\n");
    }

    /// What a YAML 1.1 reader takes for something other than a string, written down independently
    /// from the regular expressions on yaml.org/type (as whole-string rules).
    fn yaml11_not_a_string(s: &str) -> bool {
        let bool_words =
            "y|Y|yes|Yes|YES|n|N|no|No|NO|true|True|TRUE|false|False|FALSE|on|On|ON|off|Off|OFF";
        if bool_words.split('|').any(|w| w == s)
            || ["~", "null", "Null", "NULL", "", "=", "<<"].contains(&s)
        {
            return true;
        }
        let body = s.strip_prefix(['-', '+']).unwrap_or(s);
        let digits =
            |t: &str, set: &str| !t.is_empty() && t.chars().all(|c| set.contains(c) || c == '_');
        let sexagesimal = body.contains(':')
            && body.starts_with(|c: char| c.is_ascii_digit())
            && body.split(':').enumerate().all(|(i, p)| {
                let p = p.split('.').next().unwrap_or(p);
                !p.is_empty()
                    && p.chars().all(|c| c.is_ascii_digit() || (i == 0 && c == '_'))
                    && (i == 0 || p.len() <= 2)
            });
        let int = digits(body, "0123456789") && body.starts_with(|c: char| c.is_ascii_digit());
        let parts: Vec<&str> = s.split(['-', 'T', 't', ' ']).collect();
        let date = parts.len() >= 3
            && parts[0].len() == 4
            && parts[..3]
                .iter()
                .all(|p| !p.is_empty() && p.len() <= 4 && p.chars().all(|c| c.is_ascii_digit()));
        sexagesimal || int || date
    }

    fn written(s: &str) -> String {
        to_string(&BTreeMap::from([("k", s)])).unwrap()
    }

    #[test]
    fn words_of_yaml_1_1_are_quoted() {
        for word in
            ["on", "OFF", "yes", "No", "y", "N", "2026-01-01", "1_000", "12:30:45", "=", "<<"]
        {
            assert_eq!(written(word), format!("k: '{word}'\n"));
        }
        for word in
            ["reviews", "v1", "bookinfo/reviews.bookinfo.svc.cluster.local", "~/*", "one", "online"]
        {
            assert_eq!(written(word), format!("k: {word}\n"));
        }
    }

    #[test]
    fn keys_are_guarded_and_block_scalars_are_left_alone() {
        let map = BTreeMap::from([("on", "x"), ("text", "yes\non\n")]);
        assert_eq!(to_string(&map).unwrap(), "'on': x\ntext: |\n  yes\n  on\n");
        assert_eq!(to_string(&vec!["off", "a: b"]).unwrap(), "- 'off'\n- 'a: b'\n");
        assert_eq!(to_string(&BTreeMap::from([("n", 12)])).unwrap(), "'n': 12\n");
    }

    proptest! {
        #[test]
        fn whatever_is_written_reads_back_as_the_same_string(
            s in "\\PC*|[-+0-9_:.eTZ ]{1,12}|(on|off|y|n|yes|no|=|<<)[: #]?.{0,3}",
            k in "\\PC{1,8}",
        ) {
            let map = BTreeMap::from([(k, vec![s.clone()])]);
            let text = to_string(&map).unwrap();
            prop_assert_eq!(from_str::<BTreeMap<String, Vec<String>>>(&text).unwrap(), map);
        }

        #[test]
        fn what_yaml_1_1_reads_otherwise_never_stands_bare(
            s in "[-+]?[0-9_:.]{1,10}|[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}|[a-zA-Z=<~]{1,5}",
        ) {
            if yaml11_not_a_string(&s) {
                let text = written(&s);
                let value = text.trim_start_matches("k: ").trim_end();
                prop_assert!(value.starts_with(['\'', '"']), "{} stands bare", value);
            }
        }
    }
}
