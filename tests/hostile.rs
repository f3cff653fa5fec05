//! Hostile input: names in declared calls, batches, exports and snapshots that try to be read as
//! something else, and texts that cost more to read than to write.

mod common;

#[path = "hostile/declared.rs"]
mod declared;
#[path = "hostile/exchange.rs"]
mod exchange;
#[path = "hostile/lab.rs"]
mod lab;
#[path = "hostile/names.rs"]
mod names;
#[path = "hostile/snapshots.rs"]
mod snapshots;
