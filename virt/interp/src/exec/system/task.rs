//! Hardware task switching (SDM vol. 3, chapter 7).
//!
//! Invariant: what faults before the commit point leaves the old task untouched (`Stop::Fault`);
//! what faults after it happens in the new task, whose RIP stands (`Stop::TrapAfter`).

use x86::{Cr0, Cr4, Dr6, Exception, Flags, Segment, Vector, segment::attr};

use super::segments::{Blame, DS, ES, Entry, FS, GS, VM86_ATTRIBUTES, is_null, null_segment};
use super::stack::Frame;
use crate::bus::{Bus, Flush};
use crate::cpu::{Cpu, Exec, Stop, Trap};
use crate::flags::LazyFlags;
use crate::operand::SS;

/// What switches tasks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switch {
    /// JMP.
    Jump,
    /// CALL: nests.
    Call,
    /// IRET with NT.
    Return,
    /// A task gate in the IDT: nests, and may push an error code.
    Event {
        /// Pushed on the new task's stack.
        error_code: Option<u32>,
    },
}

impl Switch {
    fn nests(self) -> bool {
        matches!(self, Self::Call | Self::Event { .. })
    }
}

/// The dynamic part of a TSS, either size.
struct TaskImage {
    wide: bool,
    cr3: u64,
    eip: u64,
    eflags: u64,
    registers: [u64; 8],
    /// ES, CS, SS, DS, FS, GS.
    selectors: [u16; 6],
    ldt: u16,
    trap: bool,
}

/// Offsets in a 32-bit and a 16-bit TSS (SDM vol. 3, figures 7-2, 7-10).
struct Layout {
    size: u64,
    eip: u64,
    selectors: u64,
    selector_stride: u64,
    selector_count: u64,
    ldt: u64,
    last: u64,
}

const WIDE: Layout = Layout {
    size: 4,
    eip: 0x20,
    selectors: 0x48,
    selector_stride: 4,
    selector_count: 6,
    ldt: 0x60,
    last: 0x67,
};
const NARROW: Layout = Layout {
    size: 2,
    eip: 0x0e,
    selectors: 0x22,
    selector_stride: 2,
    selector_count: 4,
    ldt: 0x2a,
    last: 0x2b,
};

fn layout(tss: &Segment) -> &'static Layout {
    if tss.kind() & 8 != 0 { &WIDE } else { &NARROW }
}

impl<B: Bus> Cpu<B> {
    /// The TSS descriptor a task gate names: in the GDT, available, present.
    pub fn task_gate_target(&mut self, selector: u16, blame: Blame) -> Exec<Entry> {
        if is_null(selector) || selector & 4 != 0 {
            return Err(self.selector_fault(blame, selector));
        }
        let entry = self.descriptor(selector, blame)?;
        if !matches!(entry.kind(), 1 | 9) {
            return Err(self.selector_fault(blame, selector));
        }
        if !entry.is_present() {
            return Err(self.not_present(blame, selector));
        }
        Ok(entry)
    }

    /// IRET with NT: back to the task in the current TSS's link field.
    pub fn return_task(&mut self) -> Exec {
        let blame = Blame { vector: Vector::InvalidTss, external: 0 };
        let link: u16 = self.table_load(self.state.tr.base)?;
        if is_null(link) || link & 4 != 0 {
            return Err(self.selector_fault(blame, link));
        }
        let entry = self.descriptor(link, blame)?;
        if !matches!(entry.kind(), 3 | 11) {
            return Err(self.selector_fault(blame, link));
        }
        if !entry.is_present() {
            return Err(self.not_present(blame, link));
        }
        let image = self.rflags() & !(Flags::NT | Flags::RF).bits();
        self.switch_task(entry, Switch::Return, image, 0)
    }

    /// Switches to the task of a checked TSS descriptor. `image` is RFLAGS as saved in the old
    /// task; the saved EIP is RIP.
    pub fn switch_task(&mut self, entry: Entry, switch: Switch, image: u64, external: u32) -> Exec {
        let blame = Blame { vector: Vector::InvalidTss, external };
        let tss = entry.segment();
        if u64::from(tss.limit) < layout(&tss).last {
            return Err(self.selector_fault(blame, entry.selector));
        }
        let task = self.read_task(&tss)?;
        let paging = self.has_cr0(Cr0::PG);
        if paging && task.wide && self.has_cr4(Cr4::PAE) && !self.bus.pdptes_valid(task.cr3) {
            return Err(self.gp0());
        }
        self.save_task(image)?;
        self.exchange_busy(entry, switch)?;
        self.commit_task(entry, switch, &task);
        self.finish_task(&task, switch, blame).map_err(|trap| self.in_new_task(trap))
    }

    /// A fault after the commit point belongs to the new task: RIP is not to be moved back.
    #[cold]
    fn in_new_task(&mut self, trap: Trap) -> Trap {
        if let Stop::Fault(exception) = self.stop {
            self.stop = Stop::TrapAfter(exception);
        }
        trap
    }

    fn task_field(&mut self, at: u64, wide: bool) -> Exec<u64> {
        if wide {
            self.table_load::<u32>(at).map(u64::from)
        } else {
            self.table_load::<u16>(at).map(u64::from)
        }
    }

    fn read_task(&mut self, tss: &Segment) -> Exec<TaskImage> {
        let (at, fields) = (tss.base, layout(tss));
        let wide = fields.size == 4;
        let mut task = TaskImage {
            wide,
            cr3: 0,
            eip: self.task_field(at + fields.eip, wide)?,
            eflags: self.task_field(at + fields.eip + fields.size, wide)?,
            registers: [0; 8],
            selectors: [0; 6],
            ldt: self.table_load(at + fields.ldt)?,
            trap: false,
        };
        let registers = at + fields.eip + 2 * fields.size;
        for index in 0..8 {
            let value = self.task_field(registers + index * fields.size, wide)?;
            task.registers[index as usize] = value;
        }
        for index in 0..fields.selector_count {
            let from = at + fields.selectors + index * fields.selector_stride;
            task.selectors[index as usize] = self.table_load(from)?;
        }
        if wide {
            task.cr3 = u64::from(self.table_load::<u32>(at + 0x1c)?);
            task.trap = self.table_load::<u8>(at + 0x64)? & 1 != 0;
        }
        Ok(task)
    }

    fn save_field(&mut self, at: u64, wide: bool, value: u64) -> Exec {
        if wide { self.table_store(at, value as u32) } else { self.table_store(at, value as u16) }
    }

    fn save_task(&mut self, image: u64) -> Exec {
        let tr = self.state.tr;
        let fields = layout(&tr);
        let wide = fields.size == 4;
        let at = tr.base.wrapping_add(fields.eip);
        let rip = self.rip();
        self.save_field(at, wide, rip)?;
        self.save_field(at.wrapping_add(fields.size), wide, image)?;
        for index in 0..8 {
            let value = self.regs[index as usize];
            self.save_field(at.wrapping_add((2 + index) * fields.size), wide, value)?;
        }
        for index in 0..fields.selector_count {
            let selector = self.segment(index as u8).selector;
            let to = fields.selectors + index * fields.selector_stride;
            self.table_store(tr.base.wrapping_add(to), selector)?;
        }
        Ok(())
    }

    /// Busy bits and the back link (SDM vol. 3, table 7-2).
    fn exchange_busy(&mut self, entry: Entry, switch: Switch) -> Exec {
        let old = self.state.tr.selector;
        if switch.nests() {
            self.table_store(entry.segment().base, old)?;
        } else {
            let at = self.state.gdtr.base.wrapping_add(u64::from(old & !7) + 5);
            let access: u8 = self.table_load(at)?;
            self.table_store(at, access & !2)?;
        }
        if switch != Switch::Return {
            let access = (entry.raw.0 >> 40) as u8 | 2;
            self.table_store(entry.at.wrapping_add(5), access)?;
        }
        Ok(())
    }

    /// The commit point: everything but the hidden parts of segment registers.
    fn commit_task(&mut self, entry: Entry, switch: Switch, task: &TaskImage) {
        let mut tr = entry.segment();
        tr.attributes |= 2;
        self.state.tr = tr;
        self.state.cr0 |= Cr0::TS.bits();
        if task.wide && self.has_cr0(Cr0::PG) {
            self.state.cr3 = task.cr3;
        }
        let mut eflags = task.eflags & 0x3f_7fd5 | Flags::FIXED.bits();
        if switch.nests() {
            eflags |= Flags::NT.bits();
        }
        self.state.rflags = eflags;
        self.flags = LazyFlags::from_bits(eflags);
        self.regs[..8].copy_from_slice(&task.registers);
        self.state.ldtr = null_segment(task.ldt);
        let cpl = if eflags & Flags::VM.bits() != 0 { 3 } else { task.selectors[1] as u8 & 3 };
        for (index, selector) in task.selectors.into_iter().enumerate() {
            self.state.segments[index] = null_segment(selector);
        }
        self.state.segments[usize::from(SS)].attributes = u16::from(cpl) << 5;
        // Local breakpoints do not outlive their task.
        self.state.dr7 &= !0x155;
        self.bus.set_watchpoints(self.state.dr, self.state.dr7);
        self.state.sti_shadow = false;
        self.state.mov_ss_shadow = false;
        self.stepping = false;
        self.set_rip(task.eip);
        self.refresh();
        if task.wide && self.has_cr0(Cr0::PG) {
            self.bus.flush(Flush::NonGlobal);
        }
    }

    /// Loads LDTR and the segment registers in the new task, pushes an error code, traps on T.
    fn finish_task(&mut self, task: &TaskImage, switch: Switch, blame: Blame) -> Exec {
        self.load_task_ldt(task.ldt, blame)?;
        if self.has_flag(Flags::VM) {
            for (index, selector) in task.selectors.into_iter().enumerate() {
                let segment = Segment::real_mode(selector, VM86_ATTRIBUTES);
                self.state.segments[index] = segment;
            }
            self.refresh();
        } else {
            self.load_task_segments(&task.selectors, blame)?;
        }
        if let Switch::Event { error_code: Some(code) } = switch {
            let mut frame = Frame::current(self, blame.external);
            frame.push_sized(self, if task.wide { 4 } else { 2 }, u64::from(code))?;
            frame.commit(self);
        }
        let cs = *self.segment(1);
        self.check_target(&cs, task.eip, blame.external)?;
        if task.trap {
            self.stop = Stop::TrapAfter(Exception::debug(Dr6::BT.bits()));
            return Err(Trap);
        }
        Ok(())
    }

    fn load_task_ldt(&mut self, selector: u16, blame: Blame) -> Exec {
        if is_null(selector) {
            return Ok(());
        }
        if selector & 4 != 0 {
            return Err(self.selector_fault(blame, selector));
        }
        let entry = self.descriptor(selector, blame)?;
        if entry.kind() != 2 || !entry.is_present() {
            return Err(self.selector_fault(blame, selector));
        }
        self.state.ldtr = entry.segment();
        Ok(())
    }

    fn load_task_segments(&mut self, selectors: &[u16; 6], blame: Blame) -> Exec {
        let selector = selectors[1];
        let cpl = selector as u8 & 3;
        if is_null(selector) {
            return Err(self.fault_code(Vector::InvalidTss, blame.external));
        }
        let entry = self.descriptor(selector, blame)?;
        let code = entry.segment();
        let matches = if code.attributes & attr::DOWN_CONFORMING != 0 {
            code.dpl() <= cpl
        } else {
            code.dpl() == cpl
        };
        if !matches {
            return Err(self.selector_fault(blame, selector));
        }
        let cs = self.code_segment(entry, cpl, blame)?;
        self.set_segment(1, cs);
        self.refresh();
        let ss = self.stack_segment(selectors[usize::from(SS)], cpl, blame)?;
        self.set_segment(SS, ss);
        self.refresh();
        for index in [ES, DS, FS, GS] {
            let segment = self.data_segment(selectors[usize::from(index)], cpl, blame)?;
            self.set_segment(index, segment);
        }
        Ok(())
    }
}
