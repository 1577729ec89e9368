//! Contexts keep their entries apart, and lose them when they should.

use x86::GuestPhys;

use super::*;

fn tlb() -> Tlb {
    let memory = GuestMemory::new(&[(GuestPhys(0), 0x10_0000)]).unwrap();
    Tlb::new(&Arc::new(memory), 1).unwrap()
}

fn context(cr3: u64, user: bool) -> Context {
    Context { cr3, user, cr4: 1 << 17, ..Context::default() }
}

#[test]
fn contexts_keep_their_own_entries_and_flush_apart() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, true));
    tlb.insert(Kind::Read, 0x7000, RamOffset(0x2000), 4096, false);
    assert_eq!(tlb.lookup(Kind::Read, 0x7ff8, 8), Some(RamOffset(0x2ff8)));
    assert_eq!(tlb.lookup(Kind::Read, 0x7ff9, 8), None, "crosses the page");
    assert_eq!(tlb.lookup(Kind::Write, 0x7000, 1), None);
    tlb.switch(&context(0x2002, true));
    assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
    tlb.flush_pcid(2);
    tlb.switch(&context(0x1001, true));
    assert!(tlb.lookup(Kind::Read, 0x7000, 8).is_some());
    let before = tlb.generation();
    tlb.flush_page(0x7abc);
    assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
    assert_ne!(tlb.generation(), before);
}

#[test]
fn kernel_contexts_keep_what_is_global_when_the_space_changes() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, false));
    tlb.insert(Kind::Read, 0x7000, RamOffset(0x2000), 4096, false);
    tlb.insert(Kind::Read, 0x9000, RamOffset(0x3000), 4096, true);
    tlb.switch(&context(0x2002, false));
    assert_eq!(tlb.lookup(Kind::Read, 0x7000, 8), None);
    assert_eq!(tlb.lookup(Kind::Read, 0x9000, 8), Some(RamOffset(0x3000)));
    tlb.flush_pcid(2);
    assert!(tlb.lookup(Kind::Read, 0x9000, 8).is_some());
    tlb.flush_page(0x9000);
    assert_eq!(tlb.lookup(Kind::Read, 0x9000, 8), None);
}

#[test]
fn victims_outlive_the_tlb_by_no_flush() {
    let mut tlb = tlb();
    for _ in 0..2 * GENERATIONS {
        tlb.switch(&context(0x1001, true));
        tlb.insert(Kind::Write, 0x5000, RamOffset(0x4000), 4096, false);
        tlb.flush_all();
        let generation = *tlb.areas.victim_generation(tlb.current);
        let tags = tlb.areas.victims_mut(tlb.current)[5].tags;
        assert!(tags.iter().all(|&tag| tag != 0x5000 | generation));
    }
}

#[test]
fn a_page_inside_a_large_one_flushes_the_whole() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, false));
    tlb.insert(Kind::Read, 0x20_1000, RamOffset(0x1000), 1 << 21, false);
    tlb.flush_page(0x3f_f000);
    assert_eq!(tlb.lookup(Kind::Read, 0x20_1000, 1), None);
}

#[test]
fn empty_slots_never_match() {
    let tlb = tlb();
    for page in 0..1024u64 {
        assert_eq!(tlb.lookup(Kind::Read, page << 12, 1), None);
        assert_eq!(tlb.lookup(Kind::Fetch, !0 << 47 | page << 12, 1), None);
    }
}
