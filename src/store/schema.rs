//! Versions of the layout.

/// Version of the layout and of the rows' encoding.
///
/// 1: a row for each dependency. 2: pages of them. 3: a seal, which a program that does not know it
/// would leave behind.
pub const SCHEMA: u32 = 3;

/// First version with pages.
pub(super) const PAGED: u32 = 2;
/// First version with a seal. A store becomes one with its next write.
pub(super) const SEALED: u32 = 3;
