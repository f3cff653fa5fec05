//! What of an object's addresses cannot be read.
//!
//! Owns naming it, once for each object. Must never guess an address.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::objects::read;

/// What of an object's addresses cannot be read.
#[derive(Default)]
pub(super) struct Unreadable {
    /// Field and text.
    all: BTreeSet<String>,
}

impl Unreadable {
    /// Reads an address or a range, or notes that it cannot be read.
    pub(super) fn or_read<T: FromStr>(&mut self, field: &str, text: &str) -> Option<T> {
        read(text, |text| {
            self.all.insert(format!("{field} {text:?}"));
        })
    }

    /// Adds what could not be read elsewhere: field and text.
    pub(super) fn add(&mut self, text: String) {
        self.all.insert(text);
    }

    /// Names what could not be read.
    pub(super) fn name(self, object: std::fmt::Arguments<'_>, problems: &mut Vec<String>) {
        if self.all.is_empty() {
            return;
        }
        let all = self.all.into_iter().collect::<Vec<_>>().join(", ");
        problems.push(format!(
            "{object}: no address can be read in {all}: connections that concern it are resolved as if the object had none; mend the \
             object"
        ));
    }
}
