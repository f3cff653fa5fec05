//! One target under libFuzzer: `SIDECARTA_FUZZ` names it. `make fuzz` builds and runs it.

#![no_main]

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<sidecarta_fuzz::FuzzTarget> = LazyLock::new(|| {
    let name = std::env::var("SIDECARTA_FUZZ").unwrap_or_default();
    sidecarta_fuzz::target(&name).unwrap_or_else(|| {
        let names = sidecarta_fuzz::TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>();
        panic!("SIDECARTA_FUZZ names no target ({name:?}): one of {}", names.join(", "))
    })
});

fuzz_target!(|bytes: &[u8]| TARGET(bytes));
