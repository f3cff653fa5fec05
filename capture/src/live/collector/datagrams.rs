//! How many datagrams of a pod are read.
//!
//! Nothing marks the first datagram to a destination, so all that a pod sends are read. A pod that
//! floods would fill its ring with them; of its datagrams the kernel passes a sample.
//!
//! Owns changing the filter. Must never change the rule of an interface because of another one.

use std::time::Duration;

use super::Collector;

impl Collector {
    /// Changes the rules of interfaces whose pods began or ended to flood. `tick`: the time since
    /// the last call.
    pub(super) fn limit_datagrams(&mut self, tick: Duration) {
        let settings = &self.config.handle;
        if settings.sample <= 1 {
            return;
        }
        for w in self.watched.values_mut().filter(|w| w.of_pod) {
            let Some(handle) = &mut w.handle else { continue };
            let rule = w.datagrams.next_rule(handle.datagrams(), settings.sample, tick);
            if rule == handle.datagrams() {
                continue;
            }
            match handle.set_datagrams(rule, settings) {
                Ok(()) => tracing::info!(interface = %w.name, datagrams = ?rule, "filter changed"),
                Err(error) => {
                    tracing::warn!(interface = %w.name, %error, "its filter cannot be changed");
                }
            }
        }
    }
}
