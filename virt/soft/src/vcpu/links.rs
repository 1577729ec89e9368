//! The branches of one region of code memory that can be linked: as many as there are sites, so they
//! are packed.
//!
//! ```text
//! word 0   site 27 | unused 2 | patched 1 | has a patch 1 | has a slot 1
//! word 1   place of the jump's distance, or number of the slot
//! word 2   place of the code that leaves
//! word 3   the next link on the list of those that lead to the same block
//! word 4   with a patch: number of the recipe, from 1 on; with a slot: `Link::through`
//! ```

use engine::EngineError;

use crate::sys::table::Table;
use crate::translate::Link;
use crate::translate::flags::Recipe;

/// More links than a block has.
const RESERVE: usize = 4096;
const SITE: u32 = (1 << 27) - 1;
const PATCHED: u32 = 1 << 29;
const HAS_PATCH: u32 = 1 << 30;
const HAS_SLOT: u32 = 1 << 31;

/// The links of one region, by number within it.
pub(super) struct Links {
    packed: Table<[u32; 5]>,
    recipes: Vec<Recipe>,
}

impl Links {
    /// Links of a region that is full with so many bytes.
    pub(super) fn new(bytes: usize) -> Result<Self, EngineError> {
        let most = bytes / size_of::<[u32; 5]>() + RESERVE;
        Ok(Self { packed: Table::new(most)?, recipes: Vec::new() })
    }

    pub(super) fn len(&self) -> usize {
        self.packed.len()
    }

    /// Bytes that they take.
    pub(super) fn bytes(&self) -> usize {
        self.packed.bytes() + self.recipes.len() * size_of::<Recipe>()
    }

    /// Adds a link that is on no list.
    pub(super) fn push(&mut self, link: &Link) {
        assert!(link.site & !SITE == 0, "numbers leave bits for what a link has");
        let (has, at, more) = match (link.patch, link.slot) {
            (Some(at), None) => {
                assert!(link.through == 0, "only slots lead through other code");
                self.recipes.extend(link.recipe);
                (HAS_PATCH, at, link.recipe.map_or(0, |_| self.recipes.len() as u32))
            }
            (None, Some(slot)) => {
                assert!(link.recipe.is_none(), "loops close within their page");
                (HAS_SLOT, slot, link.through)
            }
            _ => unreachable!("a branch has one way to be linked"),
        };
        self.packed.push([link.site | has, at, link.stub, 0, more]);
    }

    pub(super) fn get(&self, index: usize) -> Link {
        let [first, at, stub, _, more] = self.packed[index];
        let patched = first & HAS_PATCH != 0;
        Link {
            site: first & SITE,
            patch: patched.then_some(at),
            slot: (!patched).then_some(at),
            stub,
            through: if patched { 0 } else { more },
            recipe: (patched && more != 0).then(|| self.recipes[more as usize - 1]),
        }
    }

    /// Whether a link is on a block's list.
    pub(super) fn is_patched(&self, index: usize) -> bool {
        self.packed[index][0] & PATCHED != 0
    }

    /// Puts a link on a list, in front of another.
    pub(super) fn put_on_list(&mut self, index: usize, next: u32) {
        self.packed[index][0] |= PATCHED;
        self.packed[index][3] = next;
    }

    /// Takes a link off its list, whose order is the caller's.
    pub(super) fn take_off_list(&mut self, index: usize) {
        self.packed[index][0] &= !PATCHED;
    }

    /// The next one on the list.
    pub(super) fn next(&self, index: usize) -> u32 {
        self.packed[index][3]
    }

    pub(super) fn clear(&mut self) {
        self.packed.clear();
        self.recipes = Vec::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::flags::{Maker, Source};

    #[test]
    fn what_goes_in_comes_out() {
        let recipe =
            Recipe { maker: Maker::Sub, size: 4, dst: 3, src: Source::Immediate(-5), drift: 0 };
        let link = Link { site: SITE, patch: None, slot: None, stub: 9, through: 0, recipe: None };
        let all = [
            Link { patch: Some(u32::MAX), ..link },
            Link { patch: Some(0), recipe: Some(recipe), site: 0, ..link },
            Link { slot: Some(0), through: 77, ..link },
        ];
        let mut links = Links::new(1 << 20).unwrap();
        all.iter().for_each(|link| links.push(link));
        for (index, link) in all.iter().enumerate() {
            assert!(!links.is_patched(index));
            links.put_on_list(index, u32::MAX - 1);
            assert_eq!(format!("{:?}", links.get(index)), format!("{link:?}"));
            assert!(links.is_patched(index) && links.next(index) == u32::MAX - 1);
            links.take_off_list(index);
            assert!(!links.is_patched(index));
        }
    }
}
