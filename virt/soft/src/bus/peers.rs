//! The contexts that one address space runs in by turns: kernel, kernel with RFLAGS.AC, user.
//!
//! SYSCALL, SYSRET, IRET, STAC and CLAC change between them and nothing else, so translated code
//! does it itself by loading the other one's area into GS: only where both run the same kind of
//! code, because jumps go by linear address. Invariant: a peer is a context that
//! holds what its key says, of the family's address space, with no jump left to be validated.

use interp::{CodeKind, Context};
use x86::Cr4;

use super::tlb::{Kind, Tlb};
use ::memory::RamOffset;

/// Which of its family's contexts a context is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Side {
    Kernel = 0,
    /// Kernel, with RFLAGS.AC set: SMAP is lifted.
    Access = 1,
    User = 2,
}

impl Side {
    pub(crate) fn of(context: &Context) -> Self {
        match (context.user, context.ac) {
            (true, _) => Self::User,
            (false, true) => Self::Access,
            (false, false) => Self::Kernel,
        }
    }

    pub(crate) fn from_number(number: u64) -> Self {
        match number {
            0 => Self::Kernel,
            1 => Self::Access,
            2 => Self::User,
            _ => unreachable!("translated code stores what it was given"),
        }
    }
}

/// The peers known, by side.
#[derive(Default)]
pub(super) struct Peers {
    family: Context,
    known: [Option<usize>; 3],
    /// What runs in each.
    codes: [CodeKind; 3],
}

/// What a context has in common with its peers.
fn family(context: &Context) -> Context {
    Context { user: false, ac: false, align_check: false, code: CodeKind::Other, ..*context }
}

impl Peers {
    pub(super) fn get(&self, context: &Context) -> Option<usize> {
        let side = Side::of(context) as usize;
        self.known[side].filter(|_| {
            !context.align_check
                && self.codes[side] == context.code
                && self.family == family(context)
        })
    }

    /// Whether a context is one of them.
    pub(super) fn has(&self, index: usize) -> bool {
        self.known.contains(&Some(index))
    }

    /// Notes the context that became current.
    pub(super) fn note(&mut self, context: &Context, index: usize) {
        let family = family(context);
        if family != self.family {
            *self = Self { family, ..Self::default() };
        }
        if context.align_check {
            return;
        }
        let mut note = |side: Side| {
            self.known[side as usize] = Some(index);
            self.codes[side as usize] = context.code;
        };
        note(Side::of(context));
        if !context.user && context.cr4 & Cr4::SMAP.bits() == 0 {
            // AC means nothing then.
            note(Side::Kernel);
            note(Side::Access);
        }
    }

    /// A context is no longer what it was.
    pub(super) fn forget(&mut self, index: usize) {
        for known in &mut self.known {
            if *known == Some(index) {
                *known = None;
            }
        }
    }
}

impl Tlb {
    /// What GS is in each of the peers that run such code, 0 where it is not known.
    pub(crate) fn peer_areas(&self, code: CodeKind) -> [u64; 3] {
        std::array::from_fn(|side| {
            let known = self.peers.known[side].filter(|_| self.peers.codes[side] == code);
            known.map_or(0, |index| self.gs_base_of(index))
        })
    }

    /// Follows translated code, which went to a peer.
    pub(crate) fn follow(&mut self, side: Side) {
        let index = self.peers.known[side as usize].expect("it was given this area");
        self.make_current(index);
    }

    /// Looks a system access (descriptor tables, TSS) up, whatever the privilege is.
    #[inline]
    pub(crate) fn lookup_system(&self, kind: Kind, linear: u64, size: u64) -> Option<RamOffset> {
        let kernel = self.peers.known[Side::Kernel as usize].filter(|_| !self.is_blind())?;
        self.lookup_in(kernel, kind, linear, size)
    }

    /// Caches a translation for system accesses.
    pub(crate) fn insert_system(
        &mut self,
        kind: Kind,
        linear: u64,
        page: RamOffset,
        mapped_size: u64,
        global: bool,
    ) {
        if let Some(kernel) = self.peers.known[Side::Kernel as usize]
            && !self.is_blind()
        {
            let current = self.exchange_current(kernel);
            self.insert(kind, linear, page, mapped_size, global);
            self.exchange_current(current);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peers_are_of_one_family() {
        let kernel = Context { cr3: 0x1000, cr4: Cr4::SMAP.bits(), ..Context::default() };
        let user = Context { user: true, ..kernel };
        let mut peers = Peers::default();
        peers.note(&kernel, 3);
        peers.note(&user, 4);
        assert_eq!(peers.known, [Some(3), None, Some(4)]);
        assert_eq!(peers.get(&user), Some(4));
        assert_eq!(peers.get(&Context { cr3: 0x2000, ..user }), None);
        assert_eq!(peers.get(&Context { align_check: true, ac: true, ..user }), None);
        peers.forget(3);
        assert_eq!(peers.known, [None, None, Some(4)]);
        peers.note(&Context { cr3: 0x2000, ..kernel }, 3);
        assert_eq!(peers.known, [Some(3), None, None], "of another address space");
    }

    #[test]
    fn without_smap_both_kernel_sides_are_one() {
        let mut peers = Peers::default();
        peers.note(&Context { ac: true, ..Context::default() }, 5);
        assert_eq!(peers.known, [Some(5), Some(5), None]);
    }
}
