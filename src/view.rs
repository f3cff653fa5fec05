//! stub
#![allow(missing_docs)]
use crate::cluster::Cluster;
use std::collections::BTreeMap;
use std::sync::Arc;
#[derive(Clone, Debug)]
pub struct View(Arc<Cluster>);
#[derive(Clone, Debug)]
pub enum KindStatus {
    Listing,
}
impl std::fmt::Display for KindStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("x")
    }
}
pub struct Status {
    pub synced: bool,
    pub kinds: BTreeMap<String, KindStatus>,
}
impl View {
    pub fn fixed(cluster: Cluster) -> Self {
        Self(Arc::new(cluster))
    }
    pub fn current(&self) -> Arc<Cluster> {
        Arc::clone(&self.0)
    }
    pub fn status(&self) -> Status {
        Status { synced: true, kinds: BTreeMap::new() }
    }
}
pub enum Extent {
    Node(String),
    Cluster,
}
impl View {
    pub fn start(
        _c: kube::Client,
        _e: Extent,
        _d: Option<String>,
        _s: tokio::sync::watch::Receiver<bool>,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        unimplemented!()
    }
}
pub async fn client() -> Result<kube::Client, std::io::Error> {
    unimplemented!()
}
