//! Versions of the layout, and what each added.

/// Version of the layout and of the rows' encoding.
///
/// 1: a row for each dependency. 2: pages of dependencies. 3: a seal, which a program that does not
/// know seals would leave outdated.
pub const SCHEMA: u32 = 3;

/// First version with pages.
pub(super) const PAGED: u32 = 2;
/// First version with a seal. An older store gets one with its next write.
pub(super) const SEALED: u32 = 3;
