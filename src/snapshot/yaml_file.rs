//! Files of YAML.
//!
//! Owns how a piece of text becomes objects. Must never interpret an object.

use super::object::{ItemDefaults, ObjectText};
use super::reader::FileReader;
use super::text::{Piece, guess_name};
use crate::yaml;

impl FileReader<'_> {
    /// Reads an object or a list; false if the piece is not valid YAML.
    pub(super) fn read_yaml(&mut self, piece: Piece<'_>) -> bool {
        let parsed: Result<yaml::Value, _> = if piece.item {
            yaml::from_str::<Vec<yaml::Value>>(piece.text)
                .map(|v| v.into_iter().next().unwrap_or_default())
        } else {
            yaml::from_str(piece.text)
        };
        let value = match parsed {
            Ok(value) => value,
            Err(yaml::YamlError::Deep(deep)) => {
                self.too_deep(deep.within(piece.line, 1), piece.text);
                return true;
            }
            Err(e) => {
                let line = piece.line + e.line().map_or(0, |l| l.saturating_sub(1));
                let what = guess_name(piece.text);
                self.problem(line, format_args!("{what} cannot be read and is skipped: {e}"));
                return false;
            }
        };
        self.take_value(piece, value, ItemDefaults::of_list(piece.kind, piece.api_version));
        true
    }

    /// Takes an object, or the items of a list: a list in flow style, or one within another list.
    /// The text was not cut at its items. Its depth has been checked.
    fn take_value(&mut self, piece: Piece<'_>, mut value: yaml::Value, defaults: ItemDefaults<'_>) {
        // `<<` merges are rare in snapshots and cheap to apply.
        let _ = value.apply_merge();
        let word =
            |key: &str| value.get(key).and_then(yaml::Value::as_str).unwrap_or("").to_owned();
        let (kind, api_version) = (word("kind"), word("apiVersion"));
        let items = match &mut value {
            yaml::Value::Sequence(items) => Some(std::mem::take(items)),
            other => {
                other.get_mut("items").and_then(yaml::Value::as_sequence_mut).map(std::mem::take)
            }
        };
        match items {
            Some(items) => {
                for item in items {
                    self.take_value(piece, item, ItemDefaults::of_list(&kind, &api_version));
                }
            }
            None => {
                let object = ObjectText::Yaml(value);
                if let Some(envelope) = self.envelope(piece.line, &object, defaults) {
                    self.take(piece.line, piece.text, &object, &envelope);
                }
            }
        }
    }
}
