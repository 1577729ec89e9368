//! Which linear page superblocks start at, for each page of RAM they start in.
//!
//! Blocks of the lower half are shared by all places that map their page, so a block's gate is, too;
//! a superblock holds at one place. Invariant: gates lead to superblocks only while code of their
//! page runs at one linear page of the context.

use std::collections::BTreeMap;

/// By page of RAM, in one context.
#[derive(Debug, Default)]
pub(crate) struct Bound(BTreeMap<u64, Bond>);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bond {
    /// Superblocks start at this linear page.
    At(u64),
    /// Code ran at several: no superblocks.
    Several,
}

impl Bound {
    /// Superblocks are to start at a linear page; false if they may not. `code` has the linear
    /// pages that code runs at, with their pages of RAM.
    pub(crate) fn bind(&mut self, linear: u64, ram: u64, code: &BTreeMap<u64, u64>) -> bool {
        let alone = || !code.iter().any(|(&page, &of)| of == ram && page != linear);
        match self.0.get(&ram) {
            Some(&bond) => bond == Bond::At(linear),
            None => {
                let bond = if alone() { Bond::At(linear) } else { Bond::Several };
                self.0.insert(ram, bond);
                bond == Bond::At(linear)
            }
        }
    }

    /// Code is about to run at a linear page: where superblocks of its page of RAM must go, the
    /// linear page that they start at.
    pub(crate) fn meet(&mut self, linear: u64, ram: u64) -> Option<u64> {
        match self.0.get_mut(&ram) {
            Some(bond @ Bond::At(_)) if *bond != Bond::At(linear) => {
                let Bond::At(other) = std::mem::replace(bond, Bond::Several) else { return None };
                Some(other)
            }
            _ => None,
        }
    }

    /// Code no longer runs at a linear page, and no superblock starts there.
    pub(crate) fn release(&mut self, linear: u64, ram: u64) {
        if self.0.get(&ram) == Some(&Bond::At(linear)) {
            self.0.remove(&ram);
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_place_ends_superblocks_of_the_first() {
        let mut bound = Bound::default();
        let mut code = BTreeMap::from([(0x1000, 7)]);
        assert!(bound.bind(0x1000, 7, &code));
        assert_eq!(bound.meet(0x1000, 7), None);
        assert_eq!(bound.meet(0x9000, 8), None);
        assert_eq!(bound.meet(0x5000, 7), Some(0x1000));
        code.insert(0x5000, 7);
        assert!(!bound.bind(0x1000, 7, &code) && !bound.bind(0x5000, 7, &code));
        assert_eq!(bound.meet(0x1000, 7), None, "they went once");
    }

    #[test]
    fn a_page_that_runs_at_two_places_gets_none() {
        let code = BTreeMap::from([(0x1000, 7), (0x5000, 7)]);
        assert!(!Bound::default().bind(0x1000, 7, &code));
    }
}
