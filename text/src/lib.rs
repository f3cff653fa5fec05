//! Escaping of foreign strings for output, with one function for each medium; and reading and
//! writing of YAML ([`yaml`]).
//!
//! Owns escaping. Names come from packets, files and other programs, and any of them can contain
//! line breaks, control sequences, bidirectional marks or markup. Must never let a foreign string
//! be read as anything but text, and never drop a character: a character that is not allowed is
//! escaped (`\n`, `\u{2028}`).

#![warn(unreachable_pub)]

pub mod yaml;

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character is printed on a line of a terminal without an escape: no control, no format
/// character (bidirectional marks, joiners, BOM), no line or paragraph separator, no blank but the
/// space, nothing unassigned. The standard library's tables say so (`char::escape_debug`).
fn shows(c: char) -> bool {
    match c {
        ' '..='~' => true,
        '\0'..='\u{9f}' => false,
        c => c.escape_debug().len() == 1,
    }
}

/// Printable ASCII (RFC 20): what every reader of every version reads alike.
fn ascii(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// Replaces each character that is not allowed by its escape. Borrows where all are allowed.
fn escape(text: &str, may_stand: impl Fn(char) -> bool) -> Cow<'_, str> {
    let Some(at) = text.find(|c| !may_stand(c)) else { return text.into() };
    let (head, tail) = text.split_at(at);
    let mut out = String::with_capacity(text.len() + 16);
    out.push_str(head);
    for c in tail.chars() {
        if may_stand(c) {
            out.push(c);
        } else if matches!(c, '\n' | '\r' | '\t') {
            out.extend(c.escape_default());
        } else {
            out.extend(c.escape_unicode());
        }
    }
    out.into()
}

/// For a comment of YAML: printable ASCII alone. A comment ends at a line break, and YAML 1.1 has
/// more of them than 1.2 (NEL, U+2028, U+2029; yaml.org/spec/1.1 section 4.1.4).
///
/// ```
/// assert_eq!(sidecarta_text::comment("cart\u{2028}kind: Role"), "cart\\u{2028}kind: Role");
/// ```
pub fn comment(text: &str) -> Cow<'_, str> {
    escape(text, ascii)
}

/// For one line of a terminal, or a cell of a table.
///
/// ```
/// assert_eq!(sidecarta_text::line("naïve\u{1b}[2J"), "naïve\\u{1b}[2J");
/// ```
pub fn line(text: &str) -> Cow<'_, str> {
    escape(text, shows)
}

/// For several lines of a terminal: as [`line()`], and line breaks stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    escape(text, |c| c == '\n' || shows(c))
}

/// For a message of several lines: those after the first are indented, so that none of them can
/// pass for a message of its own.
pub fn message(text: &str) -> Cow<'_, str> {
    match lines(text) {
        short if !short.contains('\n') => short,
        long => {
            let rest = long.trim_end().split('\n').map(str::trim_start).collect::<Vec<_>>();
            rest.join("\n  ").into()
        }
    }
}

/// For a field of a log in text form.
pub fn log_field(text: &str) -> Cow<'_, str> {
    line(text)
}

/// For JSON that is printed: characters that a terminal interprets are written as JSON's own
/// escapes (RFC 8259 section 7), so that the value stays the same. Outside strings, JSON is ASCII.
pub fn json(document: &str) -> Cow<'_, str> {
    let fine = |c: char| c == '\n' || shows(c);
    if document.chars().all(fine) {
        return document.into();
    }
    let mut out = String::with_capacity(document.len() + 16);
    for c in document.chars() {
        if fine(c) || c == '\t' || c == '\r' {
            out.push(c);
        } else {
            for unit in c.encode_utf16(&mut [0; 2]) {
                // Writing to a string cannot fail.
                let _ = write!(out, "\\u{unit:04x}");
            }
        }
    }
    out.into()
}

/// For a scalar of YAML in double quotes, quotes included: readers of YAML 1.1 and of 1.2 read the
/// same string (sections 5.6 and 7.3.1 of the two specifications).
pub fn yaml_string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        let _ = match c {
            '"' | '\\' => write!(out, "\\{c}"),
            '\n' => write!(out, "\\n"),
            '\t' => write!(out, "\\t"),
            c if ascii(c) => write!(out, "{c}"),
            c if u32::from(c) <= 0xff => write!(out, "\\x{:02x}", u32::from(c)),
            c if u32::from(c) <= 0xffff => write!(out, "\\u{:04x}", u32::from(c)),
            c => write!(out, "\\U{:08x}", u32::from(c)),
        };
    }
    out.push('"');
    out
}

/// For a label of Mermaid in double quotes, quotes not included. What could end the label, begin a
/// directive (`%%{`), Markdown or HTML is an entity code (`#34;`), as Mermaid's flowchart syntax
/// has them.
pub fn mermaid(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in line(text).chars() {
        let plain = c.is_alphanumeric() || " -_.,:/*~|()".contains(c);
        let _ = if plain { write!(out, "{c}") } else { write!(out, "#{};", u32::from(c)) };
    }
    out
}

/// For a string of DOT in double quotes, quotes not included. Labels know escapes (`\N`) and HTML
/// entities (graphviz.org/docs/attr-types/escString).
pub fn dot(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in line(text).chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            '&' => out.push_str("&amp;"),
            c => out.push(c),
        }
    }
    out
}

/// Whether a character begins markup where text is shown as Markdown or HTML: links, images, code,
/// tags.
fn markup(c: char) -> bool {
    matches!(c, '[' | ']' | '`' | '<' | '>' | '!')
}

/// For texts that others show as text, Markdown or HTML: notes of Events, annotations of alerts.
pub fn annotation(text: &str) -> Cow<'_, str> {
    escape(text, |c| shows(c) && !markup(c))
}

/// For a line of a message to Slack and its kin. Slack's three characters are entities (Slack:
/// "Formatting text for app surfaces"); links, images and mentions of its kin are escaped.
pub fn chat(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let may_stand = |c| shows(c) && (!markup(c) || matches!(c, '<' | '>')) && c != '@';
    for c in escape(text, may_stand).chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Characters that a reader of some medium interprets, and any others.
    pub(crate) fn hostile() -> impl Strategy<Value = String> {
        let odd = prop::sample::select(
            "\n\r\t\0\u{7}\u{8}\u{1b}\u{7f}\u{85}\u{9b}\u{a0}\u{ad}\u{200b}\u{200e}\u{202e}\u{2028}\
             \u{2029}\u{2066}\u{3164}\u{feff}\u{fffe}\u{e000}\u{e0041}\u{10ffff}\
             \"'\\`<>&|#%{}[]()*_~!@:;-éΩ漢"
                .chars()
                .collect::<Vec<char>>(),
        );
        let any = prop_oneof![odd, any::<char>(), prop::char::range(' ', '~')];
        prop::collection::vec(any, 0..24).prop_map(|all| all.into_iter().collect())
    }

    /// Written down independently of the standard library's tables.
    fn interpreted(c: char) -> bool {
        let n = u32::from(c);
        n < 0x20
            || (0x7f..=0xa0).contains(&n)
            || n == 0xad
            || n == 0x61c
            || n == 0x180e
            || (0x200b..=0x200f).contains(&n)
            || (0x2028..=0x202f).contains(&n)
            || (0x2060..=0x206f).contains(&n)
            || n == 0xfeff
            || (0xe000..=0xf8ff).contains(&n)
            || n >= 0xe0000
    }

    #[test]
    fn a_plain_text_stays_as_it_is() {
        let text = "shop/web calls a.b.svc.cluster.local:80 (*.example.com | ~/*), 3 %";
        for same in [comment(text), line(text), lines(text), message(text), annotation(text)] {
            assert_eq!(same, text);
        }
        assert_eq!(line("jürgen/漢字"), "jürgen/漢字");
        assert_eq!(comment("jürgen"), "j\\u{fc}rgen");
        assert_eq!(yaml_string("a\u{2028}\"\\\u{e9}\u{1f600}"), r#""a\u2028\"\\\xe9\U0001f600""#);
        assert_eq!(json("\"\u{9b}\u{1f600}\u{e0041}\""), "\"\\u009b\u{1f600}\\udb40\\udc41\"");
    }

    #[test]
    fn what_a_medium_would_interpret_is_escaped() {
        assert_eq!(line("a\u{1b}[2Jb\nc\u{202e}"), "a\\u{1b}[2Jb\\nc\\u{202e}");
        assert_eq!(message("cannot read\n0 Sidecars written"), "cannot read\n  0 Sidecars written");
        assert_eq!(mermaid("a\"]%%{init"), "a#34;#93;#37;#37;#123;init");
        assert_eq!(dot("a\"\\N&#34;"), "a\\\"\\\\N&amp;#34;");
        assert_eq!(
            chat("<!channel> @all ![x](y)"),
            "&lt;\\u{21}channel&gt; \\u{40}all \\u{21}\\u{5b}x\\u{5d}(y)"
        );
        assert_eq!(annotation("![x](http://y)"), "\\u{21}\\u{5b}x\\u{5d}(http://y)");
    }

    proptest! {
        #[test]
        fn nothing_that_a_medium_interprets_stays_unescaped(s in hostile()) {
            for out in [line(&s), log_field(&s), annotation(&s), comment(&s)] {
                prop_assert!(!out.chars().any(interpreted), "{:?}", out);
            }
            prop_assert!(comment(&s).bytes().all(|b| (0x20..0x7f).contains(&b)));
            prop_assert!(!lines(&s).chars().any(|c| c != '\n' && interpreted(c)));
            prop_assert!(message(&s).split('\n').skip(1).all(|l| l.starts_with("  ")));
            let written = chat(&s);
            let begins = ['<', '>', '@', '[', ']', '`', '!'];
            prop_assert!(!written.contains(begins) && !written.chars().any(interpreted));
            let label = mermaid(&s);
            let ends = ['"', '<', '>', '`', '%', '{', '}', '\\'];
            prop_assert!(!label.contains(ends) && !label.chars().any(interpreted));
        }

        #[test]
        fn a_string_of_dot_ends_where_it_is_meant_to(s in hostile()) {
            let label = dot(&s);
            let mut quoted = false;
            for c in label.chars() {
                prop_assert!(c != '"' || quoted);
                quoted = c == '\\' && !quoted;
            }
            prop_assert!(!quoted && !label.chars().any(interpreted));
        }

        #[test]
        fn json_keeps_its_value(s in hostile()) {
            let document = serde_json::to_string_pretty(&[&s]).unwrap();
            let shown = json(&document);
            prop_assert!(!shown.chars().any(|c| c != '\n' && interpreted(c)));
            prop_assert_eq!(serde_json::from_str::<[String; 1]>(&shown).unwrap(), [s]);
        }
    }
}
