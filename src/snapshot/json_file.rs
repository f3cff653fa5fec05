//! Files of JSON.
//!
//! Owns how documents and lists become objects, and their lines. Must never interpret an object.

use std::borrow::Cow;

use serde_json::Deserializer;
use serde_json::value::RawValue;

use super::object::{ItemDefaults, ObjectText};
use super::reader::FileReader;
use crate::yaml;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct JsonList<'a> {
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
    #[serde(borrow, default)]
    kind: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    api_version: Option<Cow<'a, str>>,
}

/// One document of a file, and its length in bytes with the white space before it.
enum Document<'a> {
    List(JsonList<'a>, usize),
    Other(usize),
    Broken(serde_json::Error),
    /// Nothing follows.
    End,
}

/// Reads the next document. It is tried as a list first: most of a snapshot is one list, and its
/// text is long.
fn next_document(rest: &str) -> Document<'_> {
    let is_object = rest.trim_start().starts_with('{');
    if is_object || rest.trim().is_empty() {
        let mut lists = Deserializer::from_str(rest).into_iter::<JsonList<'_>>();
        match lists.next() {
            None => return Document::End,
            Some(Ok(list)) => return Document::List(list, lists.byte_offset()),
            Some(Err(_)) => {}
        }
    }
    let mut documents = Deserializer::from_str(rest).into_iter::<&RawValue>();
    match documents.next() {
        Some(Err(e)) => Document::Broken(e),
        _ => Document::Other(documents.byte_offset()),
    }
}

impl FileReader<'_> {
    /// Reads all objects of a file.
    pub(super) fn read_json(&mut self, text: &str) {
        let mut positions = Positions::starting_at(text, 1);
        let mut at = 0;
        loop {
            let rest = &text[at..];
            let (list, length) = match next_document(rest) {
                Document::End => return,
                Document::Broken(e) => return self.broken(text, e),
                Document::List(list, length) => (Some(list), length),
                Document::Other(length) => (None, length),
            };
            let document = rest[..length].trim_start();
            at += length;
            match list {
                Some(JsonList { items: Some(items), kind, api_version }) => {
                    let kind = kind.as_deref().unwrap_or("");
                    let version = api_version.as_deref().unwrap_or("");
                    let defaults = ItemDefaults::of_list(kind, version);
                    self.take_items(&items, &mut positions, defaults);
                }
                _ => self.take_json(document, &mut positions, ItemDefaults::default()),
            }
        }
    }

    /// Reports that the rest of the file is not valid JSON.
    fn broken(&mut self, text: &str, error: serde_json::Error) {
        // The whole text is read once more, for the line of the error in the file.
        let all = Deserializer::from_str(text).into_iter::<&RawValue>();
        let error = all.filter_map(Result::err).next().unwrap_or(error);
        let line = error.line();
        self.problem(
            line,
            format_args!("not valid JSON, the rest of the file is skipped: {error}"),
        );
        if error.is_eof() {
            self.cut_short();
        }
    }

    fn take_items(
        &mut self,
        items: &[&RawValue],
        positions: &mut Positions<'_>,
        defaults: ItemDefaults<'_>,
    ) {
        for item in items {
            self.take_json(item.get(), positions, defaults);
        }
    }

    /// Takes an object, or the items of a list or an array.
    fn take_json(&mut self, text: &str, positions: &mut Positions<'_>, defaults: ItemDefaults<'_>) {
        let (line, column) = positions.of(text);
        if let Err(deep) = yaml::depth::check_json(text) {
            self.too_deep(deep.within(line, column), text);
            return;
        }
        if text.starts_with('[')
            && let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(text)
        {
            return self.take_items(&items, positions, ItemDefaults::default());
        }
        let object = ObjectText::Json(text);
        let Some(envelope) = self.envelope(line, &object, defaults) else { return };
        // A list within a list. Other kinds may end in the same word, and have no items.
        let kind = envelope.kind.as_str();
        if kind.ends_with("List")
            && let Ok(JsonList { items: Some(items), .. }) = serde_json::from_str(text)
        {
            let defaults = ItemDefaults::of_list(kind, &envelope.api_version);
            let mut positions = Positions::starting_at(text, line);
            return self.take_items(&items, &mut positions, defaults);
        }
        self.take(line, text, &object, &envelope);
    }
}

/// Lines and columns of slices of a text. They are asked for in their order, so that one pass over
/// the text is enough for all objects of a file.
struct Positions<'a> {
    text: &'a str,
    /// Offset, in bytes, up to which lines are counted.
    counted: usize,
    line: usize,
    /// Offset at which that line begins.
    line_start: usize,
}

impl<'a> Positions<'a> {
    /// Of a text whose first line has this number.
    fn starting_at(text: &'a str, line: usize) -> Self {
        Self { text, counted: 0, line, line_start: 0 }
    }

    /// Line and column, counted from 1, of a slice of the text.
    fn of(&mut self, slice: &str) -> (usize, usize) {
        let offset = (slice.as_ptr() as usize).saturating_sub(self.text.as_ptr() as usize);
        let offset = offset.clamp(self.counted, self.text.len());
        let uncounted = self.text.as_bytes()[self.counted..offset].iter().enumerate();
        for (i, _) in uncounted.filter(|(_, byte)| **byte == b'\n') {
            self.line += 1;
            self.line_start = self.counted + i + 1;
        }
        self.counted = offset;
        (self.line, 1 + offset - self.line_start)
    }
}
