//! API version and kind of an object of any kind.
//!
//! Owns how they are found without reading the rest of the object. Must never decide which kinds
//! are read.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};

use super::meta::nullable;

/// Just enough of any object to name it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Envelope {
    #[serde(default, deserialize_with = "nullable")]
    pub api_version: String,
    #[serde(default, deserialize_with = "nullable")]
    pub kind: String,
}

impl Envelope {
    /// The group of its API; empty for the core's.
    pub fn group(&self) -> &str {
        self.api_version.rsplit_once('/').map_or("", |(group, _)| group)
    }

    /// Whether both words are there.
    pub fn complete(&self) -> bool {
        !self.api_version.is_empty() && !self.kind.is_empty()
    }

    /// Fills it from the first keys of an object, and fails as soon as it is complete.
    pub fn find<'de, D: Deserializer<'de>>(
        deserializer: D,
        into: &mut Self,
    ) -> Result<(), D::Error> {
        struct Find<'a>(&'a mut Envelope);
        impl<'de> Visitor<'de> for Find<'_> {
            type Value = ();

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
                while !self.0.complete() {
                    let Some(key) = map.next_key::<Cow<'de, str>>()? else { return Ok(()) };
                    match key.as_ref() {
                        "apiVersion" => self.0.api_version = map.next_value()?,
                        "kind" => self.0.kind = map.next_value()?,
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                Err(A::Error::custom("enough"))
            }
        }
        deserializer.deserialize_map(Find(into))
    }
}
