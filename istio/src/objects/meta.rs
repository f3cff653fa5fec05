//! Metadata that every object has.
//!
//! Owns how `null` and absent fields are read. Must never decide whether a name is valid.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize};

use sidecarta_model::{Labels, Time};

/// `null` and absent alike give the default: `kubectl` prints both.
pub(crate) fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    d: D,
) -> Result<T, D::Error> {
    Ok(Option::<T>::deserialize(d)?.unwrap_or_default())
}

/// What every object says of itself (`ObjectMeta` of `meta/v1`).
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectMeta {
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub namespace: String,
    #[serde(default, deserialize_with = "nullable")]
    pub uid: String,
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(default, deserialize_with = "nullable")]
    pub labels: Labels,
    #[serde(default, deserialize_with = "nullable")]
    pub annotations: BTreeMap<String, String>,
    #[serde(default)]
    pub creation_timestamp: Option<Time>,
    #[serde(default)]
    pub deletion_timestamp: Option<Time>,
    #[serde(default, deserialize_with = "nullable")]
    pub owner_references: Vec<OwnerReference>,
}

/// An object that another belongs to (`OwnerReference` of `meta/v1`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OwnerReference {
    pub kind: String,
    pub name: String,
    #[serde(default, deserialize_with = "nullable")]
    pub controller: bool,
}

/// Any object of which only metadata and specification matter.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct SpecObject<S> {
    pub metadata: ObjectMeta,
    #[serde(default = "Option::default")]
    pub spec: Option<S>,
}
