//! The first 64 KiB of a payload: page tables, descriptor tables, TSS (SDM vol. 3, 3.4, 4.5, 7.7).

use crate::layout;

/// Page-table entry bits.
pub(crate) mod page {
    pub(crate) const P: u64 = 1;
    pub(crate) const W: u64 = 2;
    pub(crate) const U: u64 = 4;
    pub(crate) const A: u64 = 1 << 5;
    pub(crate) const D: u64 = 1 << 6;
    pub(crate) const PS: u64 = 1 << 7;
    pub(crate) const G: u64 = 1 << 8;
    pub(crate) const NX: u64 = 1 << 63;
}

/// RSP0 and ESP0.
const STACK_0: u64 = 0x8_4000;
const BYTES: usize = 0x1_0000;

/// Memory below 64 KiB, without code.
pub(crate) struct Image {
    bytes: Vec<u8>,
}

impl Image {
    pub(crate) fn new(bits: u32) -> Self {
        let mut image = Self { bytes: vec![0; BYTES] };
        image.put(layout::GDT, &layout::gdt(bits == 64));
        match bits {
            64 => {
                image.identity_map();
                image.put(layout::TSS + 4, &STACK_0.to_le_bytes());
                image.put(layout::TSS + 0x24, &layout::STACK_IST.to_le_bytes());
                image.put(layout::TSS + 0x66, &layout::TSS_BYTES.to_le_bytes());
            }
            32 => {
                image.put(layout::TSS + 4, &(STACK_0 as u32).to_le_bytes());
                image.put(layout::TSS + 8, &layout::selector::DATA.to_le_bytes());
                image.put(layout::TSS + 0x66, &0x68u16.to_le_bytes());
            }
            _ => {}
        }
        image
    }

    /// 4 GiB where they are: the first 2 MiB in 4 KiB supervisor pages, the rest in 2 MiB pages.
    /// Upper levels say user, so that a page's own entry decides.
    pub(crate) fn identity_map(&mut self) {
        let all = page::P | page::W | page::U;
        self.put_u64(layout::PML4, layout::PDPT | all);
        for gib in 0..4 {
            let directory = layout::DIRECTORIES + gib * 0x1000;
            self.put_u64(layout::PDPT + gib * 8, directory | all);
            for entry in 0..512 {
                let at = gib << 30 | entry << 21;
                self.put_u64(directory + entry * 8, at | page::P | page::W | page::PS);
            }
        }
        self.put_u64(layout::DIRECTORIES, layout::PAGE_TABLE | all);
        for number in 0..512 {
            let entry = number << 12 | page::P | page::W;
            self.put_u64(layout::PAGE_TABLE + number * 8, entry);
        }
    }

    pub(crate) fn put(&mut self, address: u64, bytes: &[u8]) {
        self.bytes[address as usize..][..bytes.len()].copy_from_slice(bytes);
    }

    pub(crate) fn put_u64(&mut self, address: u64, value: u64) {
        self.put(address, &value.to_le_bytes());
    }

    pub(crate) fn u64_at(&self, address: u64) -> u64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.bytes[address as usize..][..8]);
        u64::from_le_bytes(bytes)
    }

    /// A gate of the IDT: 16 bytes at 64 bits, 8 at 32, a far pointer at 16.
    pub(crate) fn gate(&mut self, bits: u32, vector: u8, offset: u32, dpl: u8, ist: u8) {
        let index = u64::from(vector);
        let (low, high) = (u64::from(offset & 0xffff), u64::from(offset >> 16));
        let access = 0x8e00 | u64::from(dpl) << 13;
        let descriptor =
            |selector: u16| low | u64::from(selector) << 16 | access << 32 | high << 48;
        match bits {
            64 => {
                let gate = descriptor(layout::selector::CODE64) | u64::from(ist) << 32;
                self.put_u64(layout::IDT + index * 16, gate);
            }
            32 => self.put_u64(layout::IDT + index * 8, descriptor(layout::selector::CODE32)),
            _ => self.put(index * 4, &offset.to_le_bytes()),
        }
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }
}
