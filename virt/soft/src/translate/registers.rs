//! Which host registers the guest's have, and which are the translator's own.
//!
//! Thirteen of the guest's sixteen general registers live in the host registers of the same name,
//! RSP included. Three are taken: those that compilers use least (counted in cc1, libc, python3:
//! R9 to R11 together appear about as often as R15 alone).

/// First scratch register: addresses.
pub(crate) const S0: u8 = 10;
/// Second scratch register: table indices, values.
pub(crate) const S1: u8 = 11;
/// Holds the budget.
pub(crate) const BUDGET: u8 = 9;

/// RSP.
pub(crate) const RSP: u8 = 4;
/// RCX.
pub(crate) const RCX: u8 = 1;
/// RAX.
pub(crate) const RAX: u8 = 0;

/// Whether a guest register lives in its slot.
#[inline]
pub(crate) fn is_taken(register: u8) -> bool {
    matches!(register, 9..=11)
}
