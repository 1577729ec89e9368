//! Page tables as data: entry bits, and one walk for every paging mode (SDM vol. 3, 4.3-4.7).
//!
//! The walk asks its caller for table entries and for the atomic setting of accessed and dirty
//! bits; it holds nothing. Invariant: at most five loads a walk, whatever the tables hold.

use crate::addr::{GuestPhys, GuestVirt};
use crate::control::{Cr0, Cr4, Efer};
use crate::exception::{Exception, pf};

/// Physical address width that the software CPU announces and checks reserved bits against.
pub const PHYSICAL_BITS: u32 = 46;

/// Bits of paging-structure entries.
pub mod pte {
    /// Present.
    pub const PRESENT: u64 = 1 << 0;
    /// Writable.
    pub const WRITABLE: u64 = 1 << 1;
    /// User-accessible.
    pub const USER: u64 = 1 << 2;
    /// Accessed.
    pub const ACCESSED: u64 = 1 << 5;
    /// Dirty.
    pub const DIRTY: u64 = 1 << 6;
    /// Page size: this entry maps a large page.
    pub const LARGE: u64 = 1 << 7;
    /// Global.
    pub const GLOBAL: u64 = 1 << 8;
    /// Lowest of the four bits of a leaf's protection key.
    pub const KEY_SHIFT: u32 = 59;
    /// Execute disable.
    pub const NX: u64 = 1 << 63;
    /// Bits 51:12.
    pub const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
}

/// The registers that decide how a walk goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct PagingRegisters {
    pub cr0: u64,
    pub cr3: u64,
    pub cr4: u64,
    pub efer: u64,
    /// RFLAGS.AC, which lifts SMAP for explicit supervisor accesses.
    pub ac: bool,
    /// PKRU: rights of user pages by protection key, under CR4.PKE.
    pub pkru: u32,
    /// IA32_PKRS: likewise of supervisor pages, under CR4.PKS.
    pub pkrs: u32,
}

/// One access to be translated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WalkAccess {
    /// Store, or the load of a read-modify-write.
    pub write: bool,
    /// Instruction fetch.
    pub fetch: bool,
    /// User mode (CPL 3), not an implicit supervisor access.
    pub user: bool,
}

/// Where a linear page lies and what may be done with it by the class of access that walked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translation {
    /// Physical address of the 4 KiB page around the walked address.
    pub page: GuestPhys,
    /// Bytes of the page that mapped it: 4 KiB, 2 MiB, 4 MiB or 1 GiB.
    pub size: u64,
    /// Loads are allowed.
    pub readable: bool,
    /// Stores are allowed and the dirty bit is set.
    pub writable: bool,
    /// Fetches are allowed.
    pub executable: bool,
    /// The G bit, where CR4.PGE honours it.
    pub global: bool,
}

/// How a walk reaches the tables.
pub trait TableMemory {
    /// Loads an entry of 4 or 8 bytes; `None` where there is no memory.
    fn entry(&mut self, at: GuestPhys, bytes: u8) -> Option<u64>;
    /// Atomically replaces an entry if it still is `old`; false if it has changed.
    fn replace(&mut self, at: GuestPhys, bytes: u8, old: u64, new: u64) -> bool;
}

/// Entry seen on the way down.
#[derive(Clone, Copy, Default)]
struct Visited {
    at: GuestPhys,
    value: u64,
}

/// Translates one linear address, setting accessed and dirty bits as the processor does.
///
/// Paging off: identity, everything allowed. Canonicality is the caller's check.
/// On a fault no table is changed. Error: #PF with its error code and address.
pub fn walk(
    memory: &mut impl TableMemory,
    registers: &PagingRegisters,
    address: GuestVirt,
    access: WalkAccess,
) -> Result<Translation, Exception> {
    if registers.cr0 & Cr0::PG.bits() == 0 {
        return Ok(Translation {
            page: GuestPhys(address.0 & 0xffff_f000),
            size: 4096,
            readable: true,
            writable: true,
            executable: true,
            global: false,
        });
    }
    // Another processor may change an entry between our load and our update: start over, as the
    // processor would. Each retry means that somebody else made progress.
    loop {
        if let Some(outcome) = Walk::new(registers, address, access).run(memory) {
            return outcome;
        }
    }
}

/// Whether the four PDPTEs that a PAE CR3 points to may be loaded: no reserved bit set in a
/// present one (SDM vol. 3, 4.4.1). Without memory there, entries read as all ones.
pub fn pdptes_valid(memory: &mut impl TableMemory, cr3: u64) -> bool {
    (0..4).all(|index| {
        let at = GuestPhys((cr3 & 0xffff_ffe0) + index * 8);
        let entry = memory.entry(at, 8).unwrap_or(!0);
        entry & pte::PRESENT == 0 || entry & PDPTE_RESERVED == 0
    })
}

/// Bits that must be 0 in a present PDPTE.
const PDPTE_RESERVED: u64 = !((1u64 << PHYSICAL_BITS) - 1) | 0x1e6;

/// Neither access-disabled nor write-disabled.
#[derive(Clone, Copy)]
struct KeyRights {
    access: bool,
    write: bool,
}

struct Walk<'a> {
    registers: &'a PagingRegisters,
    address: u64,
    access: WalkAccess,
    nx_enabled: bool,
    visited: [Visited; 4],
    depth: usize,
    writable: bool,
    user: bool,
    no_execute: bool,
}

impl<'a> Walk<'a> {
    fn new(registers: &'a PagingRegisters, address: GuestVirt, access: WalkAccess) -> Self {
        Self {
            registers,
            address: address.0,
            access,
            nx_enabled: registers.efer & Efer::NXE.bits() != 0,
            visited: [Visited::default(); 4],
            depth: 0,
            writable: true,
            user: true,
            no_execute: false,
        }
    }

    fn has_cr4(&self, bit: Cr4) -> bool {
        self.registers.cr4 & bit.bits() != 0
    }

    /// `None`: a table entry changed under us, walk again.
    fn run(mut self, memory: &mut impl TableMemory) -> Option<Result<Translation, Exception>> {
        let leaf = if self.registers.efer & Efer::LMA.bits() != 0 {
            self.long(memory)
        } else if self.has_cr4(Cr4::PAE) {
            self.pae(memory)
        } else {
            self.legacy(memory)
        };
        match leaf {
            Ok((base, size)) => self.finish(memory, base, size),
            Err(code) => Some(Err(self.fault(code))),
        }
    }

    fn fault(&self, mut code: u32) -> Exception {
        if self.access.write {
            code |= pf::WRITE;
        }
        if self.access.user {
            code |= pf::USER;
        }
        let reports_fetch = self.nx_enabled && self.has_cr4(Cr4::PAE) || self.has_cr4(Cr4::SMEP);
        if self.access.fetch && reports_fetch {
            code |= pf::FETCH;
        }
        Exception::page_fault(self.address, code)
    }

    /// Loads the entry for 9 (or 10) address bits from `shift`; folds its permissions in.
    fn step(
        &mut self,
        memory: &mut impl TableMemory,
        table: u64,
        shift: u32,
        bytes: u8,
    ) -> Result<u64, u32> {
        let mask = if bytes == 8 { 0x1ff } else { 0x3ff };
        let at = GuestPhys(table + (self.address >> shift & mask) * u64::from(bytes));
        let value = memory.entry(at, bytes).unwrap_or(if bytes == 8 { !0 } else { 0xffff_ffff });
        if value & pte::PRESENT == 0 {
            return Err(0);
        }
        if bytes == 8 {
            let mut reserved = pte::ADDRESS & !((1 << PHYSICAL_BITS) - 1);
            if !self.nx_enabled {
                reserved |= pte::NX;
            }
            if self.registers.efer & Efer::LMA.bits() == 0 {
                reserved |= 0x7ff0_0000_0000_0000;
            }
            if value & reserved != 0 {
                return Err(pf::PRESENT | pf::RESERVED);
            }
        }
        self.visited[self.depth] = Visited { at, value };
        self.depth += 1;
        self.writable &= value & pte::WRITABLE != 0;
        self.user &= value & pte::USER != 0;
        self.no_execute |= bytes == 8 && value & pte::NX != 0;
        Ok(value)
    }

    fn long(&mut self, memory: &mut impl TableMemory) -> Result<(u64, u64), u32> {
        let mut table = self.registers.cr3 & pte::ADDRESS;
        for shift in [39, 30, 21, 12] {
            let entry = self.step(memory, table, shift, 8)?;
            if shift == 12 {
                return Ok((entry & pte::ADDRESS, 1 << 12));
            }
            if entry & pte::LARGE != 0 {
                return self.large(entry, shift);
            }
            table = entry & pte::ADDRESS;
        }
        unreachable!("the last level returns")
    }

    fn large(&self, entry: u64, shift: u32) -> Result<(u64, u64), u32> {
        let size = 1u64 << shift;
        // Bit 12 of a large leaf is PAT; the bits between it and the page's alignment are reserved.
        let reserved = (size - 1) & pte::ADDRESS & !(1 << 12);
        if shift > 30 || entry & reserved != 0 {
            return Err(pf::PRESENT | pf::RESERVED);
        }
        Ok((entry & pte::ADDRESS & !(size - 1), size))
    }

    fn pae(&mut self, memory: &mut impl TableMemory) -> Result<(u64, u64), u32> {
        let at = (self.registers.cr3 & 0xffff_ffe0) + (self.address >> 30 & 3) * 8;
        let pointer = memory.entry(GuestPhys(at), 8).unwrap_or(!0);
        if pointer & pte::PRESENT == 0 {
            return Err(0);
        }
        if pointer & PDPTE_RESERVED != 0 {
            return Err(pf::PRESENT | pf::RESERVED);
        }
        let directory = self.step(memory, pointer & pte::ADDRESS, 21, 8)?;
        if directory & pte::LARGE != 0 {
            return self.large(directory, 21);
        }
        let entry = self.step(memory, directory & pte::ADDRESS, 12, 8)?;
        Ok((entry & pte::ADDRESS, 1 << 12))
    }

    fn legacy(&mut self, memory: &mut impl TableMemory) -> Result<(u64, u64), u32> {
        let directory = self.step(memory, self.registers.cr3 & 0xffff_f000, 22, 4)?;
        if directory & pte::LARGE != 0 && self.has_cr4(Cr4::PSE) {
            // PSE-36: bits 20:13 are address bits 39:32; bit 21 is reserved.
            if directory & 1 << 21 != 0 {
                return Err(pf::PRESENT | pf::RESERVED);
            }
            return Ok((directory & 0xffc0_0000 | (directory >> 13 & 0xff) << 32, 1 << 22));
        }
        let entry = self.step(memory, directory & 0xffff_f000, 12, 4)?;
        Ok((entry & 0xffff_f000, 1 << 12))
    }

    /// What the leaf's protection key allows data accesses (SDM vol. 3, 4.6.2).
    fn key_rights(&self) -> KeyRights {
        let keys = if self.registers.efer & Efer::LMA.bits() == 0 {
            0
        } else if self.user && self.has_cr4(Cr4::PKE) {
            self.registers.pkru
        } else if !self.user && self.has_cr4(Cr4::PKS) {
            self.registers.pkrs
        } else {
            0
        };
        let leaf = self.visited[self.depth - 1].value;
        let bits = keys >> (2 * (leaf >> pte::KEY_SHIFT & 0xf));
        KeyRights { access: bits & 1 == 0, write: bits & 2 == 0 }
    }

    fn finish(
        self,
        memory: &mut impl TableMemory,
        base: u64,
        size: u64,
    ) -> Option<Result<Translation, Exception>> {
        let access = self.access;
        let smap_blocks =
            !access.user && self.user && self.has_cr4(Cr4::SMAP) && !self.registers.ac;
        let wp = self.registers.cr0 & Cr0::WP.bits() != 0;
        let key = self.key_rights();
        let key_allows_write = key.access && (key.write || !access.user && !wp);
        let readable = key.access && if access.user { self.user } else { !smap_blocks };
        let may_write = readable && key_allows_write && (self.writable || !access.user && !wp);
        let smep_blocks = !access.user && self.user && self.has_cr4(Cr4::SMEP);
        let executable = !self.no_execute && if access.user { self.user } else { !smep_blocks };
        let allowed = if access.fetch {
            executable
        } else if access.write {
            may_write
        } else {
            readable
        };
        if !allowed {
            let by_key =
                !access.fetch && !(if access.write { key_allows_write } else { key.access });
            let code = if by_key { pf::PROTECTION_KEY } else { 0 };
            return Some(Err(self.fault(pf::PRESENT | code)));
        }
        let bytes = if self.registers.cr4 & Cr4::PAE.bits() != 0 { 8 } else { 4 };
        let mut dirty = false;
        for (level, visited) in self.visited[..self.depth].iter().enumerate() {
            let leaf = level + 1 == self.depth;
            let mut wanted = visited.value | pte::ACCESSED;
            if leaf && access.write {
                wanted |= pte::DIRTY;
            }
            if wanted != visited.value && !memory.replace(visited.at, bytes, visited.value, wanted)
            {
                return None;
            }
            dirty = wanted & pte::DIRTY != 0;
        }
        let leaf = self.visited[self.depth - 1].value;
        Some(Ok(Translation {
            page: GuestPhys(base | self.address & (size - 1) & !0xfff),
            size,
            readable,
            writable: may_write && dirty,
            executable,
            global: leaf & pte::GLOBAL != 0 && self.has_cr4(Cr4::PGE),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 16 pages of tables; the entries of page n at index n * 512.
    struct Tables([u64; 16 * 512]);

    impl TableMemory for Tables {
        fn entry(&mut self, at: GuestPhys, bytes: u8) -> Option<u64> {
            let word = *self.0.get((at.0 / 8) as usize)?;
            Some(if bytes == 8 { word } else { word >> (at.0 % 8 * 8) & 0xffff_ffff })
        }
        fn replace(&mut self, at: GuestPhys, bytes: u8, old: u64, new: u64) -> bool {
            if self.entry(at, bytes) != Some(old) {
                return false;
            }
            let word = &mut self.0[(at.0 / 8) as usize];
            if bytes == 8 {
                *word = new;
            } else {
                let shift = at.0 % 8 * 8;
                *word = *word & !(0xffff_ffff << shift) | new << shift;
            }
            true
        }
    }

    const LONG: PagingRegisters = PagingRegisters {
        cr0: 1 << 31 | 1 << 16 | 1,
        cr3: 0x1000,
        cr4: 1 << 5 | 1 << 7,
        efer: 1 << 10 | 1 << 8 | 1 << 11,
        ac: false,
        pkru: 0,
        pkrs: 0,
    };
    const READ: WalkAccess = WalkAccess { write: false, fetch: false, user: false };
    const WRITE: WalkAccess = WalkAccess { write: true, ..READ };
    const USER_READ: WalkAccess = WalkAccess { user: true, ..READ };
    const FETCH: WalkAccess = WalkAccess { fetch: true, ..READ };

    fn long_tables(leaf: u64) -> Tables {
        let mut tables = Tables([0; 16 * 512]);
        tables.0[512] = 0x2007;
        tables.0[2 * 512] = 0x3007;
        tables.0[3 * 512 + 1] = 0x4007;
        tables.0[4 * 512 + 3] = leaf;
        tables
    }

    const AT: GuestVirt = GuestVirt(0x20_3123);

    #[test]
    fn a_read_sets_accessed_everywhere_and_dirty_nowhere() {
        let mut tables = long_tables(0x9007);
        let found = walk(&mut tables, &LONG, AT, READ).unwrap();
        assert_eq!(found.page, GuestPhys(0x9000));
        assert!(found.readable && !found.writable && found.executable);
        for index in [512, 2 * 512, 3 * 512 + 1, 4 * 512 + 3] {
            assert_ne!(tables.0[index] & pte::ACCESSED, 0);
            assert_eq!(tables.0[index] & pte::DIRTY, 0);
        }
        assert!(walk(&mut tables, &LONG, AT, WRITE).unwrap().writable);
        assert_ne!(tables.0[4 * 512 + 3] & pte::DIRTY, 0);
    }

    #[test]
    fn protection_keys_bind_data_accesses_and_not_fetches() {
        // Key 2: access-disabled is bit 4, write-disabled bit 5.
        let (disabled, read_only) = (1 << 4, 1 << 5);
        let user_leaf = 0x9007 | 2 << pte::KEY_SHIFT;
        let keyed = |pkru| PagingRegisters { cr4: LONG.cr4 | 1 << 22 | 1 << 24, pkru, ..LONG };
        let go = |leaf, registers: PagingRegisters, access| {
            walk(&mut long_tables(leaf), &registers, AT, access)
        };
        let key = pf::PRESENT | pf::PROTECTION_KEY;
        let fault = |code| Err(Exception::page_fault(AT.0, code));
        assert_eq!(go(user_leaf, keyed(disabled), USER_READ), fault(key | pf::USER));
        assert_eq!(go(user_leaf, keyed(disabled), READ), fault(key));
        assert!(go(user_leaf, keyed(disabled), FETCH).is_ok());
        assert!(go(user_leaf, keyed(disabled >> 2 | disabled << 2), USER_READ).is_ok());
        assert!(!go(user_leaf, keyed(read_only), USER_READ).unwrap().writable);
        assert_eq!(go(user_leaf, keyed(read_only), WRITE), fault(key | pf::WRITE));
        let no_wp = PagingRegisters { cr0: 1 << 31 | 1, ..keyed(read_only) };
        assert!(go(user_leaf, no_wp, WRITE).is_ok());
        assert_eq!(
            go(user_leaf, no_wp, WalkAccess { user: true, ..WRITE }),
            fault(key | pf::WRITE | pf::USER)
        );
        // PKRU is nothing to supervisor pages, and PKRS nothing to user pages.
        let supervisor_leaf = 0x9003 | 2 << pte::KEY_SHIFT;
        assert!(go(supervisor_leaf, keyed(disabled), READ).is_ok());
        let supervisor = PagingRegisters { pkrs: disabled, ..keyed(0) };
        assert_eq!(go(supervisor_leaf, supervisor, READ), fault(key));
        assert!(go(user_leaf, supervisor, READ).is_ok());
        // Without the bits in CR4 there are no keys.
        let off = PagingRegisters { pkru: !0, pkrs: !0, ..LONG };
        assert!(go(user_leaf, off, WRITE).is_ok() && go(supervisor_leaf, off, WRITE).is_ok());
    }

    #[test]
    fn faults_name_their_cause_and_change_nothing() {
        let cases = [
            (0x9006, READ, LONG, 0),
            (0x9003, USER_READ, LONG, pf::PRESENT | pf::USER),
            (0x9005, WRITE, LONG, pf::PRESENT | pf::WRITE),
            (0x9007 | pte::NX, FETCH, LONG, pf::PRESENT | pf::FETCH),
            (0x9007 | 1 << 50, READ, LONG, pf::PRESENT | pf::RESERVED),
            (0x9007, READ, PagingRegisters { cr4: LONG.cr4 | 1 << 21, ..LONG }, pf::PRESENT),
            (
                0x9007,
                FETCH,
                PagingRegisters { cr4: LONG.cr4 | 1 << 20, ..LONG },
                pf::PRESENT | pf::FETCH,
            ),
        ];
        for (leaf, access, registers, code) in cases {
            let mut tables = long_tables(leaf);
            let fault = walk(&mut tables, &registers, AT, access).unwrap_err();
            assert_eq!(fault, Exception::page_fault(AT.0, code), "leaf {leaf:#x} {access:?}");
            assert_eq!(tables.0[512], 0x2007);
        }
        let lifted = PagingRegisters { cr4: LONG.cr4 | 1 << 21, ac: true, ..LONG };
        assert!(walk(&mut long_tables(0x9007), &lifted, AT, READ).is_ok());
        let no_wp = PagingRegisters { cr0: 1 << 31 | 1, ..LONG };
        assert!(walk(&mut long_tables(0x9005), &no_wp, AT, WRITE).is_ok());
    }

    #[test]
    fn large_pages_keep_the_low_bits() {
        let mut tables = long_tables(0);
        tables.0[3 * 512 + 1] = 0x40_0000 | 0x87;
        let found = walk(&mut tables, &LONG, AT, READ).unwrap();
        assert_eq!((found.page, found.size), (GuestPhys(0x40_3000), 1 << 21));
        tables.0[3 * 512 + 1] |= 1 << 13;
        let fault = walk(&mut tables, &LONG, AT, READ).unwrap_err();
        assert_eq!(fault.error_code, pf::PRESENT | pf::RESERVED);
    }

    #[test]
    fn legacy_two_level_with_four_byte_entries() {
        let registers =
            PagingRegisters { cr0: 1 << 31 | 1, cr3: 0x1000, cr4: 1 << 4, ..Default::default() };
        let mut tables = Tables([0; 16 * 512]);
        tables.0[512] = 0x2007 | (0x80_0087 << 32);
        tables.0[2 * 512 + 1] = 0x5007;
        let small = walk(&mut tables, &registers, GuestVirt(0x2004), WRITE).unwrap();
        assert_eq!((small.page, small.writable), (GuestPhys(0x5000), true));
        let large = walk(&mut tables, &registers, GuestVirt(0x40_1000), READ).unwrap();
        assert_eq!((large.page, large.size), (GuestPhys(0x80_1000), 1 << 22));
    }
}
