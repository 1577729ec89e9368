//! Local APICs, IOAPIC, 8259 pair and 8254 under any order of accesses, messages and times
//! (virt/irqchip).

use ::irqchip::{
    Accepted, Effect, IoApic, Ipi, Lapic, Lint, LocalEvent, Msi, Now, Pic, Pit, lapic, pic, pit,
};
use x86::msr;

use crate::cursor::Cursor;

const PIC_PORTS: [u16; 8] = [0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1, 0x22, 0xffff];
const PIT_PORTS: [u16; 6] = [0x40, 0x41, 0x42, 0x43, 0x61, 0x44];
const TSC_KHZ: u64 = 3_000_000;
const OPERATIONS: usize = 4096;

/// Bytes as a list of operations on two processors' local APICs and the chips around them.
///
/// # Panics
/// A vector that may not be pending, or saved state that does not come back as it was.
pub fn irqchip(data: &[u8]) {
    let mut cursor = Cursor::new(data);
    let mut board = Board::new();
    for _ in 0..OPERATIONS {
        if cursor.is_empty() {
            break;
        }
        board.step(&mut cursor);
        board.check();
    }
    board.saved_state_comes_back();
}

struct Board {
    lapics: [Lapic; 2],
    ioapic: IoApic,
    pic: Pic,
    pit: Pit,
    ns: u64,
    sent: Vec<Msi>,
}

impl Board {
    fn new() -> Self {
        Self {
            lapics: [Lapic::new(0), Lapic::new(1)],
            ioapic: IoApic::new(),
            pic: Pic::new(),
            pit: Pit::new(0),
            ns: 0,
            sent: Vec::new(),
        }
    }

    fn now(&self) -> Now {
        let ticks = u128::from(self.ns) * u128::from(TSC_KHZ) / 1_000_000;
        Now { ns: self.ns, tsc: ticks as u64 }
    }

    fn step(&mut self, cursor: &mut Cursor<'_>) {
        let (operation, cpu) = (cursor.u8(), usize::from(cursor.u8() & 1));
        match operation % 16 {
            0..=2 => self.lapic_page(cpu, cursor),
            3 => self.lapic_msr(cpu, cursor),
            4 => {
                let _ = self.lapics[cpu].acknowledge();
                if self.lapics[cpu].external_interrupt() {
                    let _ = self.pic.acknowledge();
                    self.lapics[cpu].acknowledge_external();
                }
            }
            5 => {
                let lint = cursor.pick(&[Lint::Lint0, Lint::Lint1]);
                let accepted = self.lapics[cpu].set_lint(lint, cursor.u8() & 1 != 0);
                self.accepted(cpu, accepted);
                let event = cursor.pick(&[LocalEvent::Performance, LocalEvent::Thermal]);
                let accepted = self.lapics[cpu].raise(event);
                self.accepted(cpu, accepted);
            }
            6 => self.lapics[cpu].set_cr8(cursor.u8()),
            7 => self.apic_base(cpu, cursor),
            8 => self.route(None, Msi { address: cursor.u64(), data: cursor.u32() }.decode()),
            9 | 10 => self.ioapic_access(cursor),
            11 => {
                let pin = usize::from(cursor.u8() % 32);
                let high = cursor.u8() & 1 != 0;
                self.sent.extend(self.ioapic.set_line(pin, high));
                self.pic.set_line((pin & 15) as u8, high);
            }
            12 => self.pic_access(cursor),
            13 => self.pit_access(cursor),
            14 => self.time(cursor),
            _ => self.saved_state_comes_back(),
        }
        for message in std::mem::take(&mut self.sent) {
            self.route(None, message.decode());
        }
        let output = self.pic.output();
        let accepted = self.lapics[0].set_lint(Lint::Lint0, output);
        self.accepted(0, accepted);
    }

    fn lapic_page(&mut self, cpu: usize, cursor: &mut Cursor<'_>) {
        let now = self.now();
        let offset = u32::from(cursor.u16()) & if cursor.u8() & 7 == 0 { 0xfff } else { 0xff0 };
        if cursor.u8() & 1 == 0 {
            let _ = self.lapics[cpu].read(offset, now);
        } else {
            let effect = self.lapics[cpu].write(offset, cursor.u32(), now);
            self.effect(cpu, effect);
        }
    }

    fn lapic_msr(&mut self, cpu: usize, cursor: &mut Cursor<'_>) {
        let now = self.now();
        let number = msr::X2APIC_FIRST + u32::from(cursor.u8());
        match cursor.u8() % 4 {
            0 => {
                let _ = self.lapics[cpu].read_msr(number, now);
            }
            1 => {
                let _ = self.lapics[cpu].tsc_deadline(now);
            }
            2 => self.lapics[cpu].set_tsc_deadline(cursor.u64(), now),
            _ => {
                let wide = cursor.u8() & 1 != 0;
                let value = if wide { cursor.u64() } else { cursor.u32().into() };
                if let Ok(effect) = self.lapics[cpu].write_msr(number, value, now) {
                    self.effect(cpu, effect);
                }
            }
        }
    }

    fn apic_base(&mut self, cpu: usize, cursor: &mut Cursor<'_>) {
        let modes = [0x000, 0x800, 0xc00, 0x400];
        let value = 0xfee0_0000 | cursor.pick(&modes) | u64::from(cursor.u8()) << 32;
        match cursor.u8() % 8 {
            0 => self.lapics[cpu].init(),
            1 => self.lapics[cpu].reset(),
            2 => drop(self.lapics[cpu].set_apic_base(cursor.u64(), 48)),
            _ => drop(self.lapics[cpu].set_apic_base(value, 48)),
        }
    }

    fn ioapic_access(&mut self, cursor: &mut Cursor<'_>) {
        let select = cursor.u8();
        let sent = &mut self.sent;
        self.ioapic.write(0, u32::from(select), &mut |message| sent.push(message));
        let offset = cursor.pick(&[0x10, 0x10, 0x10, 0, 0x20, 0x40, 0x44]);
        let _ = self.ioapic.read(offset);
        self.ioapic.write(offset, cursor.u32(), &mut |message| sent.push(message));
        let _ = self.ioapic.route(usize::from(select));
    }

    fn pic_access(&mut self, cursor: &mut Cursor<'_>) {
        let port = cursor.pick(&PIC_PORTS);
        match cursor.u8() % 4 {
            0 => drop(self.pic.read(port)),
            1 if self.pic.output() => drop(self.pic.acknowledge()),
            _ => self.pic.write(port, cursor.u8()),
        }
    }

    fn pit_access(&mut self, cursor: &mut Cursor<'_>) {
        let port = cursor.pick(&PIT_PORTS);
        match cursor.u8() % 3 {
            0 => drop(self.pit.read(port, self.ns)),
            _ => self.pit.write(port, cursor.u8(), self.ns),
        }
    }

    /// Time goes on: by any amount, or exactly to a deadline.
    fn time(&mut self, cursor: &mut Cursor<'_>) {
        let shift = cursor.u8() % 48;
        let next = match cursor.u8() % 4 {
            0 => self.pit.next_event(),
            1 => match self.lapics[0].next_event() {
                Some(lapic::Deadline::Ns(ns)) => Some(ns),
                _ => None,
            },
            _ => Some(self.ns.saturating_add(u64::from(cursor.u32()) << shift)),
        };
        // Some centuries: the clock of a machine does not wrap.
        self.ns = self.ns.max(next.unwrap_or(self.ns)).min(1 << 62);
        let _ = self.pit.advance(self.ns);
        let _ = (self.pit.output(self.ns), self.pit.speaker(self.ns));
        let now = self.now();
        for cpu in 0..2 {
            let accepted = self.lapics[cpu].advance(now);
            self.accepted(cpu, accepted);
        }
        assert!(self.pit.next_event().is_none_or(|at| at > self.ns), "it has caught up");
    }

    fn effect(&mut self, cpu: usize, effect: Effect) {
        match effect {
            Effect::None => {}
            Effect::Send(ipi) => self.route(Some(cpu), ipi),
            Effect::EndOfInterrupt(vector) => {
                let sent = &mut self.sent;
                self.ioapic.end_of_interrupt(vector, &mut |message| sent.push(message));
            }
        }
    }

    fn route(&mut self, source: Option<usize>, ipi: Ipi) {
        let identities = self.lapics.each_ref().map(Lapic::identity);
        let targets: Vec<usize> = ipi.targets(source, identities.into_iter()).collect();
        for cpu in targets {
            let accepted = self.lapics[cpu].accept(&ipi);
            self.accepted(cpu, accepted);
        }
    }

    fn accepted(&mut self, cpu: usize, accepted: Accepted) {
        if accepted == Accepted::Init {
            self.lapics[cpu].init();
        }
    }

    fn check(&self) {
        for lapic in &self.lapics {
            if let Some(vector) = lapic.pending() {
                assert!(vector >= 16, "vectors 0-15 are never requested");
                assert_ne!(lapic.mode(), lapic::Mode::Disabled, "it is as if there were none");
            }
        }
    }

    /// What is saved is restored, and saved again as the same.
    fn saved_state_comes_back(&mut self) {
        let now = self.now();
        for (cpu, lapic) in self.lapics.iter_mut().enumerate() {
            // The timer as it stands now, not as of the last look.
            let _ = lapic.advance(now);
            let saved = lapic.save(now);
            let again = Lapic::from_state(&saved, lapic.apic_base(), cpu as u32, now);
            assert_eq!(again.save(now), saved, "local APIC {cpu}");
            assert_eq!(again.pending(), lapic.pending());
        }
        let saved = self.ioapic.save();
        assert_eq!(IoApic::from_state(&saved).save(), saved);
        let saved: pic::PicV1 = self.pic.save();
        let again = Pic::from_state(&saved);
        assert_eq!(again.save(), saved);
        assert_eq!(again.output(), self.pic.output());
        let saved: pit::PitV1 = self.pit.save(self.ns);
        let again = Pit::from_state(&saved, self.ns);
        assert_eq!(again.save(self.ns), saved);
        // Ticks are no whole nanoseconds: a new origin may round the other way.
        let edges = [&self.pit, &again].map(|pit| pit.next_event().unwrap_or(u64::MAX));
        assert!(edges[0].abs_diff(edges[1]) <= 1, "{edges:?}");
    }
}
