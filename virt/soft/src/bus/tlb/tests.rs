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

/// Addresses whose jumps have the same first place.
const ALIKE: [u64; 3] = [0x40_1000, 0x44_0ffc, 0x48_0ff8];

#[test]
fn jumps_with_one_place_are_found_and_forgotten_in_both() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, true));
    for (number, linear) in (0..).zip(ALIKE) {
        tlb.set_jump(linear, 1 + number, 0x1000 + number);
    }
    assert_eq!(tlb.jump(ALIKE[0]), None, "the third took its second place");
    assert_eq!(tlb.jump(ALIKE[2]), Some(0x1002));
    // Found in its second place, and from then on in its first.
    for _ in 0..2 {
        assert_eq!(tlb.jump(ALIKE[1]), Some(0x1001));
        assert_eq!(tlb.jump(ALIKE[2]), Some(0x1002));
        tlb.redirect(ALIKE[1], 0x1001, 0x2001);
        tlb.redirect(ALIKE[1], 0x2001, 0x1001);
    }
    tlb.redirect(ALIKE[1], 0x1001, 0x2001);
    assert_eq!(tlb.jump(ALIKE[1]), Some(0x2001));
    assert_eq!(tlb.jump(ALIKE[2]), Some(0x1002));
    let gone = |number: u64, code| [((1 + number) << 12 | ALIKE[number as usize] & 0xfff, code)];
    tlb.forget_blocks(&gone(1, 0x2001));
    assert_eq!(tlb.jump(ALIKE[1]), None, "it was in its second place");
    assert_eq!(tlb.jump(ALIKE[2]), Some(0x1002));
    tlb.forget_blocks(&gone(2, 0x1002));
    assert_eq!(tlb.jump(ALIKE[2]), None);
    assert!(tlb.code_in_use().is_empty());
}

#[test]
fn a_place_holds_two_jumps_and_forgotten_ones_push_none_out() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, true));
    tlb.set_jump(ALIKE[0] + 4, 1, 0x5000);
    tlb.set_jump(ALIKE[0], 1, 0x1000);
    tlb.set_jump(ALIKE[1], 2, 0x1001);
    assert_eq!(tlb.jump(ALIKE[0] + 4), Some(0x5000), "it lies beside them");
    tlb.forget_blocks(&[(2 << 12 | ALIKE[1] & 0xfff, 0x1001)]);
    tlb.set_jump(ALIKE[2], 3, 0x1002);
    assert_eq!(tlb.jump(ALIKE[1]), None);
    assert_eq!(tlb.jump(ALIKE[2]), Some(0x1002));
    assert_eq!(tlb.jump(ALIKE[0]), Some(0x1000));
}

#[test]
fn no_address_has_a_jump_that_was_not_set() {
    let mut tlb = tlb();
    tlb.switch(&context(0x1001, true));
    for linear in (0..0x2_0000).chain([u64::MAX, u64::MAX << 16, 0xffff << 16]) {
        assert_eq!(tlb.jump(linear), None, "{linear:#x}");
    }
}
