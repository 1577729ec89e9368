//! Blocks come, are linked, get gates, lose their page and make way by regions, in random order;
//! whatever is left must lead to what is left.

use x86::GuestPhys;

use std::sync::Arc;

use memory::GuestMemory;

use super::*;
use crate::translate::facts::Gates;

/// So little that a region holds a few dozen blocks.
const BYTES: usize = 4_280_000;
const PAGES: u64 = 12;
const STEPS: u32 = 12_000;

struct World {
    library: Library,
    tlb: Tlb,
    random: u64,
    /// Every number that was given out since its region was last dropped.
    blocks: Vec<u32>,
    links: Vec<u32>,
    regions_dropped: u32,
}

impl World {
    fn new() -> Self {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), PAGES << 12)]).unwrap());
        let mut tlb = Tlb::new(&memory, 1).unwrap();
        tlb.switch(&interp::Context::default());
        let library = Library::new(BYTES).unwrap();
        let (blocks, links) = (Vec::new(), Vec::new());
        Self { library, tlb, random: 1, blocks, links, regions_dropped: 0 }
    }

    fn below(&mut self, bound: usize) -> usize {
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.random >> 33) as usize % bound
    }

    /// JNZ within the page, JMP to the next one.
    fn add(&mut self) {
        if self.library.is_full() {
            let next = (self.library.code.current() + 1) % REGIONS;
            self.library.make_room(&mut self.tlb);
            self.blocks.retain(|&block| parts(block).0 != next);
            self.links.retain(|&link| parts(link).0 != next);
            self.regions_dropped += 1;
        }
        let ram = (self.below(PAGES as usize) << 12 | self.below(250) << 4) as u64;
        let gates = Gates { bases: false, unchecked: false, ..Gates::ALL };
        let page = (self.below(2) == 0).then_some(0xffff_8000_0000_0000 | ram & !0xfff);
        let source = Source {
            bytes: &[0x75, 0x20, 0xe9, 0, 0x10, 0, 0],
            offset: ram as u32 & 0xfff,
            page,
            second_page: None,
            gates,
            entry: None,
            registers: None,
            path: None,
            closes: false,
            pages: &[],
        };
        let second = (self.below(10) == 0).then(|| (ram >> 12) + 1);
        let key = Key { ram, page, gates, entry: None };
        let region = self.library.code.current();
        let before = self.library.regions[region].links.len();
        let made = self.library.add(key, second, &[], &source, &mut self.tlb, &mut |_| true);
        self.blocks.push(made);
        let after = self.library.regions[region].links.len();
        self.links.extend((before..after).map(|index| number(region, index)));
    }

    fn step(&mut self) {
        self.blocks.retain(|&block| self.library.is_live(block));
        let (block, link) = (self.below(self.blocks.len().max(1)), self.below(usize::MAX >> 34));
        let Some(&block) = self.blocks.get(block) else { return self.add() };
        match self.below(20) {
            0 => {
                let page = self.below(PAGES as usize) as u64;
                self.library.drop_page(page, &mut self.tlb);
            }
            1 if !self.library.is_full() => {
                self.library.gate(block, &mut self.tlb);
            }
            2 => {
                let code = self.library.address(block);
                let linear = self.linear(block);
                self.tlb.set_jump(linear, self.library.block(block).ram() >> 12, code);
            }
            3..8 => self.add(),
            _ => {
                let link = self.links[link % self.links.len()];
                // Code of a block that was dropped does not run, so it asks for no links.
                let owner = self.library.site(self.library.link_at(link).site).block;
                if self.library.is_live(owner) && !self.library.is_patched(link) {
                    let linear = self.linear(block);
                    self.library.link(link, block, linear, &mut self.tlb);
                }
            }
        }
    }

    /// One of the linear addresses a block's place in RAM has.
    fn linear(&mut self, block: u32) -> u64 {
        (self.below(3) as u64 * PAGES << 12) + self.library.block(block).ram()
    }

    /// Where live code can go to.
    fn entrances(&self) -> Vec<u64> {
        let live = self.blocks.iter().filter(|&&block| self.library.is_live(block));
        live.flat_map(|&block| [self.library.address(block), self.library.body(block)]).collect()
    }

    fn check(&mut self) {
        let entrances = self.entrances();
        for target in self.tlb.code_in_use() {
            assert!(entrances.contains(&target), "a jump or slot leads to what is no more");
        }
        for &link in &self.links {
            let Link { patch, stub, site, .. } = self.library.link_at(link);
            let Some(patch) = patch else { continue };
            let owner = self.library.site(site).block;
            if !self.library.is_live(owner) {
                continue;
            }
            let bytes = self.library.code.read(patch);
            let target = patch.wrapping_add(4).wrapping_add(u32::from_le_bytes(bytes));
            let patched = self.library.is_patched(link);
            assert_eq!(target != stub, patched, "a branch is linked or leads to its stub");
            let lives = entrances.contains(&self.library.code.address(target));
            assert!(!patched || lives, "a branch leads to what is no more");
        }
        for &block in &self.blocks {
            if let Some(gate) = self.library.block(block).gate() {
                let region = self.library.code.region(gate.place);
                let (own, current) = (parts(block).0, self.library.code.current());
                let age = |region| (current + REGIONS - region) % REGIONS;
                assert!(age(region) <= age(own), "no gate goes before its block");
            }
            let key = self.library.key(block);
            assert_eq!(self.library.find(&key), Some(block));
            assert!(self.library.on_page(key.ram >> 12).contains(&block));
        }
        let listed: usize = self.library.by_page.values().map(Vec::len).sum();
        assert!(listed <= 2 * self.blocks.len(), "lists name only what lives");
    }
}

#[test]
fn what_is_left_leads_to_what_is_left() {
    let mut world = World::new();
    for step in 0..STEPS {
        world.step();
        if step % 20 == 0 {
            world.blocks.retain(|&block| world.library.is_live(block));
            world.check();
        }
    }
    assert!(world.regions_dropped > 2 * REGIONS as u32, "{} regions", world.regions_dropped);
    world.library.clear(&mut world.tlb);
    assert!(
        world.tlb.code_in_use().is_empty()
            && world.library.by_place.iter().all(|&first| first == NONE)
    );
}

#[test]
fn nothing_grows_while_one_page_is_written_and_run_for_ever() {
    let mut world = World::new();
    let mut most = 0;
    for _ in 0..20_000 {
        world.add();
        world.library.drop_page(3, &mut world.tlb);
        let regions = world.library.regions.iter();
        most = most.max(regions.map(|region| region.sites.len() + region.slots).sum());
        world.blocks.retain(|&block| world.library.is_live(block));
    }
    assert!(world.regions_dropped > 100 && most < 20_000, "{most} of {}", world.regions_dropped);
}

/// Bytes of code in the whole pages of a region.
fn code_in(world: &World, region: usize) -> usize {
    let code = &world.library.code;
    let std::ops::Range { start, end } = code.addresses(region);
    let place = |address: u64| code.place(address).expect("a region's");
    let places = place(start).next_multiple_of(4096)..place(end - 1) & !4095;
    places.step_by(4).map(|at| code.read(at)).filter(|bytes| *bytes != [0; 4]).count() * 4
}

#[test]
fn clearing_gives_the_code_of_all_regions_back() {
    let mut world = World::new();
    while world.library.code.current() < 2 {
        world.add();
    }
    assert!((0..2).all(|region| code_in(&world, region) > 0));
    world.library.clear(&mut world.tlb);
    assert!((0..3).all(|region| code_in(&world, region) == 0));
    assert_eq!(world.library.code.current(), 0);
    world.blocks.clear();
    world.links.clear();
    (0..10).for_each(|_| world.add());
}
