//! The live agent on a node of network namespaces: real packets, real kernel, real filter.

mod common;
#[path = "view/fake.rs"]
#[allow(clippy::unwrap_used)] // a test that cannot go on should say where
mod fake;
#[path = "live/netns.rs"]
mod netns;
#[path = "live/world.rs"]
mod world;

#[path = "live/api.rs"]
mod api;
#[path = "live/coverage.rs"]
mod coverage;
#[path = "live/delivery.rs"]
mod delivery;
#[path = "live/devices.rs"]
mod devices;
#[path = "live/forged.rs"]
mod forged;
#[path = "live/frames.rs"]
mod frames;
#[path = "live/health.rs"]
mod health;
#[path = "live/names.rs"]
mod names;
#[path = "live/pods.rs"]
mod pods;
#[path = "live/prometheus.rs"]
mod prometheus;
#[path = "live/share.rs"]
mod share;
#[path = "live/traffic.rs"]
mod traffic;
