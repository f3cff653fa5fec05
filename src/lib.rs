//! Sidecarta learns what each workload of an Istio mesh calls, and writes its least-privilege
//! `Sidecar`.
//!
//! Data flows one way: frame → segment → observation → attribution → resolution → dependency →
//! store → generation. Imports follow it; `ARCHITECTURE.md` draws it.

pub mod agent;
pub mod alert;
pub mod attribute;
pub mod cli;
mod clock;
pub mod cluster;
pub mod generate;
pub mod http;
pub mod learn;
mod life;
pub mod novelty;
pub mod observed;
mod ops;
mod parallel;
mod present;
mod private;
pub mod reach;
pub mod recorder;
pub mod records;
pub mod resolve;
mod serve;
pub mod snapshot;
pub mod store;
pub mod verify;
pub mod view;

pub use sidecarta_istio::{mesh, scope};
pub use sidecarta_model as model;
pub use sidecarta_text::{self as text, yaml};
