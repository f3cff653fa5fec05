//! The durable records: each record is merged into its row, each batch is applied once.
//!
//! Owns the layout on disk, durability, and the detection of torn stores; the only module that
//! knows sled. Must never write after its first write error, and never open a store that lost its
//! rows as if it were a new one.
//!
//! `layout` has the files of the directory, `keys` the keys of the rows. All rows are in one named
//! tree of sled, so that a batch and the mark that it is merged are one atomic write.

mod alerts;
mod apply;
mod backup;
mod caught;
mod changes;
mod copy;
mod counted;
mod database;
mod error;
mod export;
mod flush;
mod fold;
mod handle;
mod import;
mod keys;
mod layout;
mod lock;
mod marker;
mod new_dir;
mod open;
mod pages;
mod parse;
mod queue;
mod records;
mod saved_view;
mod schema;
mod scratch;
mod seal;
mod unverified;

pub use apply::Applied;
pub use error::StoreError;
pub use fold::{DOMAINS, LISTED};
pub use handle::Store;
pub use import::ImportedExport;
pub use open::Access;
pub use schema::SCHEMA;
pub use unverified::UnverifiedChanges;

#[cfg(test)]
mod tests;
