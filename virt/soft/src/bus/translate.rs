//! The slow path of every access: canonicality, watchpoints, alignment, the walk, TLB fill.

use ::memory::{GuestPhys, GuestVirt, RamOffset};
use interp::Context;
use x86::Exception;
use x86::paging::{PagingRegisters, TableMemory, Translation, WalkAccess, walk};

use super::SoftBus;
use super::tlb::Kind;

/// Where one piece of an access (within one page) goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Ram(RamOffset),
    Device(GuestPhys),
}

/// Page tables in guest RAM.
struct Tables<'a>(&'a ::memory::GuestMemory);

impl TableMemory for Tables<'_> {
    fn entry(&mut self, at: GuestPhys, bytes: u8) -> Option<u64> {
        let (offset, follows) = self.0.locate(at)?;
        if follows < u64::from(bytes) {
            return None;
        }
        Some(if bytes == 8 { self.0.load(offset) } else { self.0.load::<u32>(offset).into() })
    }

    fn replace(&mut self, at: GuestPhys, bytes: u8, old: u64, new: u64) -> bool {
        let Some((offset, _)) = self.0.locate(at) else { return true };
        let replaced = if bytes == 8 {
            self.0.compare_exchange(offset, old, new) == old
        } else {
            self.0.compare_exchange(offset, old as u32, new as u32) == old as u32
        };
        self.0.note_written(offset.0 >> 12);
        replaced
    }
}

fn registers(context: &Context) -> PagingRegisters {
    PagingRegisters {
        cr0: context.cr0,
        cr3: context.cr3,
        cr4: context.cr4,
        efer: context.efer,
        ac: context.ac,
        pkru: context.pkru,
        pkrs: context.pkrs,
    }
}

impl SoftBus {
    /// The page tables, for walks.
    pub(super) fn tables(&self) -> impl TableMemory + '_ {
        Tables(&self.memory)
    }

    /// Translates one linear address for the current privilege, filling the TLB.
    pub(crate) fn translate(&mut self, kind: Kind, linear: u64) -> Result<Place, Exception> {
        let access = WalkAccess {
            write: kind == Kind::Write,
            fetch: kind == Kind::Fetch,
            user: self.context.user,
        };
        let found = self.walk(linear, access, self.context)?;
        let Some((page, _)) = self.memory.locate(found.page) else {
            if let Some(recording) = &mut self.recording {
                recording.refused = true;
                return Err(Exception::GP0);
            }
            return Ok(Place::Device(found.page + (linear & 0xfff)));
        };
        self.fill(kind, linear, page, &found);
        Ok(Place::Ram(RamOffset(page.0 + (linear & 0xfff))))
    }

    /// After a flush, walks again to what outlives it: code pages and windows' pages.
    pub(super) fn revalidate(&mut self) {
        self.revalidate_code();
        self.revalidate_windows();
    }

    /// Walks to every page that translated code jumps to: what is where it was stays linked. A
    /// processor may fetch translations ahead, so this is as exact as any time.
    fn revalidate_code(&mut self) {
        let Some(pages) = self.tlb.take_stale_code() else { return };
        let access = WalkAccess { write: false, fetch: true, user: self.context.user };
        // Of a user's pages, those that are where they were, and the others.
        let (mut same, mut other) = (0u32, 0u32);
        // Large pages answer for all the pages in them.
        let mut known: Option<(u64, u64, u64)> = None;
        for (linear, ram_page) in pages {
            let ram = match known {
                Some((base, size, ram)) if linear.wrapping_sub(base) < size => {
                    Some(ram + (linear - base))
                }
                _ => {
                    let found = self.walk(linear, access, self.context).ok();
                    let place = found.and_then(|found| self.memory.locate(found.page));
                    if let (Some(found), Some((offset, follows))) = (found, place) {
                        // The rest of the large page, as far as it is RAM.
                        let rest = found.size - (linear & (found.size - 1));
                        known = Some((linear, rest.min(follows), offset.0));
                    }
                    place.map(|(offset, _)| offset.0)
                }
            };
            if ram.map(|ram| ram >> 12) == Some(ram_page) {
                same += 1;
            } else {
                other += 1;
                self.tlb.forget_code_page(linear);
            }
        }
        if self.context.user && other > same {
            self.tlb.another_program();
        }
    }

    /// Translates with supervisor privilege whatever the CPL; SMAP applies to implicit accesses
    /// whatever RFLAGS.AC says.
    pub(crate) fn translate_system(
        &mut self,
        linear: u64,
        write: bool,
    ) -> Result<Place, Exception> {
        let context = Context { user: false, ac: false, ..self.context };
        let access = WalkAccess { write, fetch: false, user: false };
        let found = self.walk(linear, access, context)?;
        let Some((page, _)) = self.memory.locate(found.page) else {
            return Ok(Place::Device(found.page + (linear & 0xfff)));
        };
        self.fill_system(linear, page, &found, write);
        Ok(Place::Ram(RamOffset(page.0 + (linear & 0xfff))))
    }

    /// As `fill`, for system accesses.
    fn fill_system(&mut self, linear: u64, page: RamOffset, found: &Translation, write: bool) {
        if write {
            self.memory.dirty().set(page.0 >> 12);
        }
        if self.context.watch || self.recording.is_some() {
            return;
        }
        if write && !self.memory.code().is_set(page.0 >> 12) {
            self.tlb.insert_system(Kind::Write, linear, page, found.size, found.global);
        }
        if !write || found.readable {
            self.tlb.insert_system(Kind::Read, linear, page, found.size, found.global);
        }
    }

    fn walk(
        &self,
        linear: u64,
        access: WalkAccess,
        context: Context,
    ) -> Result<Translation, Exception> {
        if !GuestVirt(linear).is_canonical() {
            return Err(Exception::GP0);
        }
        walk(&mut Tables(&self.memory), &registers(&context), GuestVirt(linear), access)
    }

    /// Walks in the current context, through other eyes.
    pub(super) fn walk_in(
        &self,
        tables: &mut impl TableMemory,
        linear: u64,
        access: WalkAccess,
    ) -> Result<Translation, Exception> {
        if !GuestVirt(linear).is_canonical() {
            return Err(Exception::GP0);
        }
        walk(tables, &registers(&self.context), GuestVirt(linear), access)
    }

    /// Caches what needs no further check.
    pub(super) fn fill(&mut self, kind: Kind, linear: u64, page: RamOffset, found: &Translation) {
        if kind == Kind::Write {
            self.memory.dirty().set(page.0 >> 12);
            self.note_written(page.0 >> 12);
        }
        if self.context.watch || self.context.align_check || self.recording.is_some() {
            return;
        }
        match kind {
            Kind::Fetch => self.tlb.insert(Kind::Fetch, linear, page, found.size, found.global),
            Kind::Read => self.tlb.insert(Kind::Read, linear, page, found.size, found.global),
            Kind::Write => {
                if !self.memory.code().is_set(page.0 >> 12) {
                    self.tlb.insert(Kind::Write, linear, page, found.size, found.global);
                }
                if found.readable {
                    self.tlb.insert(Kind::Read, linear, page, found.size, found.global);
                }
            }
        }
    }

    /// Checks that only the slow path makes: #AC(0), and data breakpoints (which are reported, not
    /// raised: they trap after the instruction).
    pub(crate) fn slow_checks(
        &mut self,
        linear: u64,
        size: u64,
        write: bool,
    ) -> Result<(), Exception> {
        if self.context.watch {
            self.watch.note(linear, size, write);
        }
        if self.context.align_check && size.is_power_of_two() && !linear.is_multiple_of(size) {
            return Err(Exception::with_code(x86::Vector::AlignmentCheck, 0));
        }
        Ok(())
    }
}

impl super::Watchpoints {
    /// Records which enabled data breakpoints an access touches (SDM vol. 3, 17.2.4-5).
    fn note(&mut self, linear: u64, size: u64, write: bool) {
        for index in 0..4 {
            let enabled = self.dr7 >> (index * 2) & 3 != 0;
            let control = self.dr7 >> (16 + index * 4);
            let length = [1, 2, 8, 4][(control >> 2 & 3) as usize];
            let matches = match control & 3 {
                1 => write,
                3 => true,
                _ => false,
            };
            let start = self.dr[index as usize] & !(length - 1);
            if enabled && matches && linear < start + length && start < linear.wrapping_add(size) {
                self.hits |= 1 << index;
            }
        }
    }
}
