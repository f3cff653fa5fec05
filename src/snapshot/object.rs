//! The text of one object, parsed as far as needed.
//!
//! Owns that objects of YAML and of JSON are read by the same rules. Must never guess a value that
//! an object lacks.

use serde::de::DeserializeOwned;

use crate::cluster::objects::{AnyObject, CheckNames, Envelope, ObjectError, read_checked};
use crate::yaml;

/// An object of a file.
pub(super) enum ObjectText<'a> {
    Yaml(yaml::Value),
    Json(&'a str),
}

impl ObjectText<'_> {
    fn parse<T: DeserializeOwned>(&self) -> Result<T, String> {
        match self {
            Self::Yaml(value) => T::deserialize(value).map_err(|e| e.to_string()),
            Self::Json(text) => serde_json::from_str(text).map_err(|e| e.to_string()),
        }
    }

    /// The object, if its fields have the right types and its names are valid.
    pub fn object<T: DeserializeOwned + CheckNames>(&self) -> Result<T, ObjectError<String>> {
        match self {
            Self::Yaml(value) => read_checked(value).map_err(with_text),
            Self::Json(text) => {
                read_checked(&mut serde_json::Deserializer::from_str(text)).map_err(with_text)
            }
        }
    }

    /// The object; `None` if its kind is none that the indexes or the mesh know.
    pub fn known(&self, envelope: &Envelope) -> Option<Result<AnyObject, ObjectError<String>>> {
        Some(match self {
            Self::Yaml(value) => AnyObject::read(envelope, value)?.map_err(with_text),
            Self::Json(text) => {
                AnyObject::read(envelope, &mut serde_json::Deserializer::from_str(text))?
                    .map_err(with_text)
            }
        })
    }

    /// Kind and version. Both come first in what `kubectl` prints, so the text is not read further
    /// than them.
    ///
    /// # Errors
    /// A sentence, when the text is no object.
    pub fn envelope(&self) -> Result<Envelope, String> {
        if let Self::Json(text) = self {
            let mut found = Envelope::default();
            // To stop early is an error for the parser, and none here.
            let _ = Envelope::find(&mut serde_json::Deserializer::from_str(text), &mut found);
            if found.complete() {
                return Ok(found);
            }
        }
        self.parse()
    }
}

fn with_text<E: ToString>(refused: ObjectError<E>) -> ObjectError<String> {
    match refused {
        ObjectError::Type(e) => ObjectError::Type(e.to_string()),
        ObjectError::Name(e) => ObjectError::Name(e),
    }
}

/// What a list says of items that do not say it themselves: the items of a `PodList` are pods.
#[derive(Clone, Copy, Default)]
pub(super) struct ItemDefaults<'a> {
    kind: &'a str,
    api_version: &'a str,
}

impl<'a> ItemDefaults<'a> {
    /// The defaults of a list of this kind. A plain `List` says nothing of its items.
    pub fn of_list(kind: &'a str, api_version: &'a str) -> Self {
        match kind.strip_suffix("List") {
            Some(kind) if !kind.is_empty() => Self { kind, api_version },
            _ => Self::default(),
        }
    }

    /// Completes the envelope of an item without a kind.
    pub fn complete(self, envelope: &mut Envelope) {
        if envelope.kind.is_empty() && !self.kind.is_empty() {
            envelope.kind = self.kind.to_owned();
            envelope.api_version = self.api_version.to_owned();
        }
    }
}
