//! Gates: how a superblock comes to stand for the blocks at its start, in one context.
//!
//! Blocks are shared by all address spaces, superblocks hold in one. So who enters a block that has
//! a gate jumps through a slot of the current context: to the superblock there, or to the block.
//!
//! ```text
//! gate:   jmp  gs:[slot]          block in contexts without superblock, leave, or superblock
//! leave:  mov  r11d, site         a path is to be recorded from here
//!         jmp  leave_native
//! ```

use super::library::Library;
use crate::bus::tlb::Tlb;
use crate::cache::layout::LINKS;
use crate::translate::asm::{Asm, Mem};
use crate::translate::flags::Place;
use crate::translate::registers::S1;
use crate::translate::{Site, SiteKind};

/// A block's gate.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gate {
    /// Place in code memory.
    pub(super) place: u32,
    /// Place of the code that leaves.
    pub(super) leave: u32,
    /// Link slot.
    pub(super) slot: u32,
}

impl Library {
    /// All blocks that begin where one does and that are entered alike: superblocks are not among
    /// them, nor those without groups, which run when the others cannot.
    pub(super) fn siblings(&self, block: u32) -> Vec<u32> {
        let key = self.key(block);
        self.at_place(&key).filter(|&other| self.block(other).gates() == key.gates).collect()
    }

    /// The gate of a block, which gets one if it has none. Only while the library is not full.
    pub(super) fn gate(&mut self, number: u32, tlb: &mut Tlb) -> Gate {
        if let Some(gate) = self.block(number).gate() {
            return gate;
        }
        let site = Site {
            kind: SiteKind::Hot,
            block: number,
            offset: (self.block(number).ram() & 0xfff) as i32,
            executed: 0,
            flags: Place::Native { recipe: None, saved: false },
            lag: 0,
        };
        self.add_gate(number, &site, tlb, |stubs, place, slot, site| {
            let mut asm = Asm::default();
            asm.jmp_mem(Mem::Gs((LINKS as u32 + slot * 8) as i32));
            let leave = asm.here() as u32;
            asm.constant(S1, u64::from(site));
            let from = asm.jmp();
            asm.land_far(from, i64::from(stubs.leave_native) - i64::from(place));
            (asm.bytes, leave)
        })
    }
}
