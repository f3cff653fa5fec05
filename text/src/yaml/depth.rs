//! Checks how deep a text nests, before a library reads it.
//!
//! Owns the bound. The YAML library visits every open flow collection for each token, so that its
//! time grows with the square of the depth. JSON libraries have no bound where values are skipped.
//! One pass here, linear in the length of the text, refuses what is deeper than any Kubernetes
//! object. Must never refuse a text for brackets that stand in strings or comments.

use std::fmt;

/// Collections within each other, at most. Objects of Kubernetes have some twenty; the libraries
/// refuse values deeper than this anyway, only later.
pub const LIMIT: usize = 128;

/// Where a text exceeds [`LIMIT`]: line and column from 1, the latter in bytes. Its message
/// does not include the line: the caller knows where the text began.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooDeep {
    /// Line.
    pub line: usize,
    /// Column.
    pub column: usize,
}

impl fmt::Display for TooDeep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {LIMIT} collections within each other at column {}", self.column)
    }
}

impl std::error::Error for TooDeep {}

impl TooDeep {
    /// The same position for a text that begins at this line and column of a larger one.
    #[must_use]
    pub fn within(self, line: usize, column: usize) -> Self {
        let column = if self.line == 1 { column + self.column - 1 } else { self.column };
        Self { line: line + self.line - 1, column }
    }

    fn at(text: &[u8], offset: usize) -> Self {
        let before = &text[..offset.min(text.len())];
        let line = 1 + before.iter().filter(|b| **b == b'\n').count();
        let column = 1 + before.iter().rev().take_while(|b| **b != b'\n').count();
        Self { line, column }
    }
}

/// Checks a text of JSON, whether it is valid or not.
///
/// # Errors
/// When it nests deeper than [`LIMIT`].
pub fn check_json(text: &str) -> Result<(), TooDeep> {
    let bytes = text.as_bytes();
    let (mut depth, mut at) = (0usize, 0);
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = after_quoted(bytes, at),
            b'[' | b'{' => {
                depth += 1;
                if depth > LIMIT {
                    return Err(TooDeep::at(bytes, at));
                }
                at += 1;
            }
            b']' | b'}' => {
                depth = depth.saturating_sub(1);
                at += 1;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// Checks a text of YAML, whether it is valid or not.
///
/// # Errors
/// When it nests deeper than [`LIMIT`], in flow or in block style.
pub fn check_yaml(text: &str) -> Result<(), TooDeep> {
    if is_flat(text.as_bytes()) {
        return Ok(());
    }
    Scanner { text: text.as_bytes(), at: 0, blocks: Vec::new(), flow: 0, deepest: 0 }.check()
}

/// Whether so few collections can begin in a text that none is too deep, however it is read: true
/// of most objects, and asked in a fraction of the time.
fn is_flat(text: &[u8]) -> bool {
    let openers = text.iter().filter(|b| matches!(b, b'[' | b'{')).count();
    let indicators = |line: &[u8]| line.iter().take_while(|b| b" -?:\t".contains(b)).count();
    openers <= LIMIT
        && text.split(|b| *b == b'\n').map(indicators).max().unwrap_or(0) + openers < LIMIT
}

/// Reads just enough of YAML (1.1 and 1.2 alike) to distinguish collections from scalars and
/// comments.
struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
    /// Columns of the open block collections.
    blocks: Vec<usize>,
    /// Open flow collections.
    flow: usize,
    deepest: usize,
}

impl Scanner<'_> {
    fn check(&mut self) -> Result<(), TooDeep> {
        while self.at < self.text.len() {
            self.block_line()?;
        }
        Ok(())
    }

    fn peek(&self, ahead: usize) -> Option<u8> {
        self.text.get(self.at + ahead).copied()
    }

    /// A blank, a line break or the end.
    fn blank(&self, ahead: usize) -> bool {
        self.peek(ahead).is_none_or(|b| b" \t\r\n".contains(&b))
    }

    fn skip_blanks(&mut self) {
        while matches!(self.peek(0), Some(b' ' | b'\t' | b'\r')) {
            self.at += 1;
        }
    }

    fn skip_line(&mut self) {
        let rest = &self.text[self.at..];
        self.at += rest.iter().position(|b| *b == b'\n').map_or(rest.len(), |n| n + 1);
    }

    fn counted(&mut self) -> Result<(), TooDeep> {
        let depth = self.blocks.len() + self.flow;
        self.deepest = self.deepest.max(depth);
        if depth > LIMIT { Err(TooDeep::at(self.text, self.at)) } else { Ok(()) }
    }

    /// A line that begins in no flow collection and in no scalar.
    fn block_line(&mut self) -> Result<(), TooDeep> {
        let start = self.at;
        while self.peek(0) == Some(b' ') {
            self.at += 1;
        }
        let indent = self.at - start;
        self.skip_blanks();
        let marker = |m: &[u8]| self.text[start..].starts_with(m) && indent == 0 && self.blank(3);
        if marker(b"---") || marker(b"...") {
            self.blocks.clear();
            self.at += 3;
            self.skip_blanks();
            return self.node(start, None);
        }
        match self.peek(0) {
            None | Some(b'\n' | b'#') => {
                self.skip_line();
                return Ok(());
            }
            Some(b'%') if indent == 0 => {
                self.skip_line();
                return Ok(());
            }
            _ => {}
        }
        while self.blocks.last().is_some_and(|b| *b >= indent) {
            self.blocks.pop();
        }
        let parent = self.blocks.last().copied();
        self.blocks.push(indent);
        self.counted()?;
        self.node(start, parent)
    }

    /// What stands in a line of block style: indicators, a key, and a value. `parent`: the column
    /// that a scalar's later lines must exceed; `None` where no collection contains it.
    fn node(&mut self, line: usize, mut parent: Option<usize>) -> Result<(), TooDeep> {
        loop {
            self.skip_blanks();
            match self.peek(0) {
                None | Some(b'\n' | b'#') => {
                    self.skip_line();
                    return Ok(());
                }
                Some(b'-' | b'?' | b':') if self.blank(1) => {
                    parent = Some(self.at - line);
                    self.at += 1;
                    self.skip_blanks();
                    if !matches!(self.peek(0), None | Some(b'\n' | b'#')) {
                        self.blocks.push(self.at - line);
                        self.counted()?;
                    }
                }
                // A tag or an anchor stands before what it is of.
                Some(b'!' | b'&') => {
                    while !self.blank(0) {
                        self.at += 1;
                    }
                }
                Some(b'|' | b'>') => {
                    self.skip_line();
                    self.skip_deeper(parent, false);
                    return Ok(());
                }
                Some(b'[' | b'{') => {
                    self.flow()?;
                    parent = self.key(parent);
                }
                Some(b'"' | b'\'') => {
                    self.at = after_quoted(self.text, self.at);
                    parent = self.key(parent);
                }
                Some(_) => {
                    let key = self.plain();
                    if !key {
                        self.skip_line();
                        self.skip_deeper(parent, true);
                        return Ok(());
                    }
                    parent = self.blocks.last().copied();
                }
            }
        }
    }

    /// Behind a scalar or collection: whether it was a key, of which the value follows.
    fn key(&mut self, parent: Option<usize>) -> Option<usize> {
        self.skip_blanks();
        if self.peek(0) == Some(b':') && self.blank(1) {
            self.at += 1;
            return self.blocks.last().copied();
        }
        parent
    }

    /// Skips a plain scalar in its line, and the colon behind it: whether it is a key.
    fn plain(&mut self) -> bool {
        loop {
            match self.peek(0) {
                None | Some(b'\n') => return false,
                Some(b':') if self.blank(1) => {
                    self.at += 1;
                    return true;
                }
                Some(b' ' | b'\t') if self.peek(1) == Some(b'#') => return false,
                Some(_) => self.at += 1,
            }
        }
    }

    /// Skips the later lines of a scalar: those that are indented deeper than its collection. A
    /// comment ends a plain one.
    fn skip_deeper(&mut self, parent: Option<usize>, plain: bool) {
        loop {
            let rest = &self.text[self.at..];
            let line = &rest[..rest.iter().position(|b| *b == b'\n').unwrap_or(rest.len())];
            let indent = line.iter().take_while(|b| **b == b' ').count();
            let marker = [&b"---"[..], b"..."].iter().any(|m| line.starts_with(m));
            let empty = line.trim_ascii().is_empty();
            // Outside all collections, only a plain scalar may go on in the first column.
            let inside = parent.map_or(plain || indent > 0, |p| indent > p);
            if rest.is_empty()
                || !empty && (!inside || marker || plain && line.trim_ascii().starts_with(b"#"))
            {
                return;
            }
            self.skip_line();
        }
    }

    /// A flow collection as a whole.
    fn flow(&mut self) -> Result<(), TooDeep> {
        // Whether a token may begin here, and whether the last one may be a key without a blank
        // behind its colon (JSON's).
        let (mut begins, mut json) = (true, false);
        while let Some(byte) = self.peek(0) {
            match byte {
                b'[' | b'{' => {
                    self.flow += 1;
                    self.counted()?;
                    (begins, json) = (true, false);
                }
                b']' | b'}' => {
                    self.flow -= 1;
                    (begins, json) = (false, true);
                    if self.flow == 0 {
                        self.at += 1;
                        return Ok(());
                    }
                }
                b'"' | b'\'' if begins => {
                    self.at = after_quoted(self.text, self.at);
                    (begins, json) = (false, true);
                    continue;
                }
                b'#' if self.at == 0 || b" \t\r\n".contains(&self.text[self.at - 1]) => {
                    self.skip_line();
                    continue;
                }
                // Blanks end no plain scalar: a quote behind them is a part of it.
                b' ' | b'\t' | b'\r' | b'\n' => {}
                // A tag or an anchor stands before what it is of.
                b'!' | b'&' if begins => {
                    while !self.blank(1) && !self.peek(1).is_some_and(|b| b",[]{}".contains(&b)) {
                        self.at += 1;
                    }
                }
                b'?' if begins && self.blank(1) => {}
                b',' => (begins, json) = (true, false),
                b':' => (begins, json) = (begins || json || self.blank(1), false),
                _ => (begins, json) = (false, false),
            }
            self.at += 1;
        }
        Ok(())
    }
}

/// Behind the quoted scalar that begins here.
fn after_quoted(text: &[u8], from: usize) -> usize {
    let quote = text[from];
    let mut at = from + 1;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'\\' if quote == b'"' => at += 1,
            b if b == quote && quote == b'\'' && text.get(at + 1) == Some(&quote) => at += 1,
            b if b == quote => return at + 1,
            _ => {}
        }
        at += 1;
    }
    text.len()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_yaml::Value;

    use super::*;

    #[test]
    fn a_depth_beyond_the_bound_is_refused_where_it_is_exceeded() {
        let flow = |n: usize| format!("a: {}x{}\n", "[".repeat(n), "]".repeat(n));
        assert_eq!(check_yaml(&flow(LIMIT - 1)), Ok(()));
        // However long the text goes on, the position is the same: nothing behind it was read.
        for n in [LIMIT, 1_000, 1_000_000] {
            let column = "a: ".len() + LIMIT;
            assert_eq!(check_yaml(&flow(n)), Err(TooDeep { line: 1, column }));
        }
        let maps = "\n{a: ".repeat(1_000);
        assert_eq!(check_yaml(&maps), Err(TooDeep { line: LIMIT + 1, column: 1 }));
        let hidden = "[ # ]\n".repeat(1_000);
        assert_eq!(check_yaml(&hidden), Err(TooDeep { line: LIMIT, column: 1 }));
        let plain = format!("[a 'b, {}", "[".repeat(1_000));
        assert!(check_yaml(&plain).is_err_and(|e| e.line == 1), "a quote in a plain scalar");
        let block = format!("a:\n  {}x\n", "- ".repeat(1_000));
        assert!(check_yaml(&block).is_err_and(|e| e.line == 2 && e.column <= 2 * LIMIT + 2));
        let keys = format!("{}x\n", "? ".repeat(1_000));
        assert!(check_yaml(&keys).is_err_and(|e| e.line == 1));
        let json = |n: usize| format!("{{\"a\":\n{}{}}}", "[".repeat(n), "]".repeat(n));
        assert_eq!(check_json(&json(LIMIT - 1)), Ok(()));
        assert_eq!(check_json(&json(1_000_000)), Err(TooDeep { line: 2, column: LIMIT }));
    }

    #[test]
    fn brackets_in_scalars_and_comments_are_none() {
        let many = "[{".repeat(1_000);
        let texts = [
            format!(
                "a: \"{many}\"\nb: 'it''s {many}'\nc: x{many}\n# {many}\nd: |\n  {many}\n   \
                 {many}\ne: y\n"
            ),
            format!("a:\n- |\n {many}\n- >-\n  {many}\n- b: |\n    {many}\n  c: 1\n"),
            format!("a: two words\n  {many}\nb: !!str \"{many}\"\n'c: [': {many}x\n")
                .replace(": [{", ": x[{"),
            format!("a: [\"{many}\", !x '{many}', ? '{many}', {{\"b\":\"{many}\"}}] # {many}\n"),
            format!("--- |\n {many}\n--- # {many}\nx: 1\n"),
            format!("a: |\n{}\n", format!("  {}{many}\n", " ".repeat(300)).repeat(3)),
        ];
        for text in texts {
            for document in serde_yaml::Deserializer::from_str(&text) {
                assert!(<Value as serde::Deserialize>::deserialize(document).is_ok(), "{text}");
            }
            assert_eq!(check_yaml(&text), Ok(()), "{text}");
        }
        assert_eq!(check_json(&format!("{{\"a\\\"\": \"{many}\\\\\"}}")), Ok(()));
    }

    fn depth(value: &Value) -> usize {
        match value {
            Value::Sequence(all) => 1 + all.iter().map(depth).max().unwrap_or(0),
            Value::Mapping(all) => {
                1 + all.iter().map(|(k, v)| depth(k).max(depth(v))).max().unwrap_or(0)
            }
            Value::Tagged(tagged) => depth(&tagged.value),
            _ => 0,
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// The scanner follows columns, so that a sequence in the column of its key counts as one
        /// with it: it may see half of the depth, and never less.
        #[test]
        fn no_depth_is_hidden_from_the_scanner(
            text in "([-?:!&|>'\"\\[\\]{},#ab \n]|- |: |\n {0,3}|\\[|\\]|a: ){1,40}",
        ) {
            let Ok(value) = serde_yaml::from_str::<Value>(&text) else { return Ok(()) };
            let mut scanner =
                Scanner { text: text.as_bytes(), at: 0, blocks: Vec::new(), flow: 0, deepest: 0 };
            prop_assert_eq!(scanner.check(), Ok(()));
            let deepest = scanner.deepest;
            prop_assert!(deepest * 2 >= depth(&value), "{text:?} has {deepest}");
        }
    }
}
