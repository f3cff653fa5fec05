//! The marker file: it says that a directory is a store, of which schema, and how many rows the
//! store had when it was last written.
//!
//! Owns its form. Must never leave half a marker behind.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::{ErrorKind, Write};
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::schema::SCHEMA;
use crate::private;

const FILE: &str = "sidecarta.json";
/// The marker while it is written.
const UNFINISHED: &str = "sidecarta.json.new";
const FORMAT: &str = "sidecarta-store";

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Marker {
    pub format: String,
    pub schema: u32,
    /// Rows that were written, at least.
    pub rows: u64,
    /// As `rows`, without transient rows. Markers of older programs lack it.
    #[serde(default)]
    pub lasting: Option<u64>,
    /// What was missing of an export that was imported here: it was made of a damaged store.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub salvaged: Option<String>,
}

impl Default for Marker {
    fn default() -> Self {
        Self {
            format: FORMAT.to_owned(),
            schema: SCHEMA,
            rows: 0,
            lasting: Some(0),
            salvaged: None,
        }
    }
}

impl Marker {
    /// Reads the marker; `None` where there is none.
    pub fn read(dir: &Path) -> Result<Option<Self>, StoreError> {
        let path = dir.join(FILE);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(StoreError::Io {
                    what: "open the store at",
                    path: dir.to_owned(),
                    error,
                });
            }
        };
        match serde_json::from_str::<Self>(&text) {
            Ok(marker) if marker.format == FORMAT => Ok(Some(marker)),
            Ok(_) => Err(StoreError::NotAStore(dir.to_owned())),
            Err(e) => Err(StoreError::Torn {
                path: dir.to_owned(),
                why: format!("its marker {FILE} cannot be read: {e}"),
            }),
        }
    }

    /// Whether this is the name of a marker that was not written to its end.
    pub fn is_unfinished(name: &OsStr) -> bool {
        name == UNFINISHED
    }

    /// Whether there is a marker.
    pub fn is_in(dir: &Path) -> bool {
        dir.join(FILE).exists()
    }

    /// Removes the marker of a store that is not to be created after all.
    pub fn remove(dir: &Path) {
        let _ = fs::remove_file(dir.join(FILE));
        let _ = fs::remove_file(dir.join(UNFINISHED));
    }

    /// Writes the marker whole or not at all.
    pub fn write(&self, dir: &Path) -> Result<(), StoreError> {
        let path = dir.join(FILE);
        let new = dir.join(UNFINISHED);
        let text = serde_json::to_string(self).unwrap_or_default();
        private::create(&new)
            .and_then(|mut f| f.write_all(text.as_bytes()).and_then(|()| f.sync_all()))
            .and_then(|()| fs::rename(&new, &path))
            .and_then(|()| File::open(dir)?.sync_all())
            .map_err(|error| StoreError::Io { what: "write", path, error })
    }
}
