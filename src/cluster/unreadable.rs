//! Addresses of an object that cannot be read.
//!
//! Owns reporting them, once for each object. Must never guess an address.

use std::collections::BTreeSet;
use std::str::FromStr;

use super::objects::read;

/// Addresses and ranges of one object that cannot be read.
#[derive(Default)]
pub(super) struct Unreadable {
    /// Each is its field and its text.
    all: BTreeSet<String>,
}

impl Unreadable {
    /// Reads an address or a range, or adds it to those that cannot be read.
    pub(super) fn or_read<T: FromStr>(&mut self, field: &str, text: &str) -> Option<T> {
        read(text, |text| {
            self.all.insert(format!("{field} {text:?}"));
        })
    }

    /// Adds an address that could not be read elsewhere: field and text.
    pub(super) fn add(&mut self, text: String) {
        self.all.insert(text);
    }

    /// Reports what could not be read, as one problem.
    pub(super) fn report(self, object: std::fmt::Arguments<'_>, problems: &mut Vec<String>) {
        if self.all.is_empty() {
            return;
        }
        let all = self.all.into_iter().collect::<Vec<_>>().join(", ");
        problems.push(format!(
            "{object}: no address can be read in {all}: connections that concern it are resolved \
             as if the object had none; mend the object"
        ));
    }
}
