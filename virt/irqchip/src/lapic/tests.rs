//! What the SDM says about the local APIC, asserted.

use super::*;
use crate::ipi::{BROADCAST, Shorthand};
use std::vec::Vec;

const T0: Now = Now { ns: 1_000, tsc: 10_000 };

fn at(ns: u64) -> Now {
    Now { ns: T0.ns + ns, tsc: T0.tsc + ns }
}

/// An enabled APIC in xAPIC mode.
fn xapic(id: u32) -> Lapic {
    let mut lapic = Lapic::new(id);
    assert_eq!(lapic.write(0xf0, 0x1ff, T0), Effect::None);
    lapic
}

fn x2apic(id: u32) -> Lapic {
    let mut lapic = xapic(id);
    let base = lapic.apic_base();
    lapic.set_apic_base(base | BASE_X2APIC, 40).unwrap();
    lapic
}

fn fixed(lapic: &mut Lapic, vector: u8) -> Accepted {
    lapic.accept(&Ipi::fixed(vector, 0))
}

fn write(lapic: &mut Lapic, offset: u32, value: u32) {
    assert_eq!(lapic.write(offset, value, T0), Effect::None);
}

#[test]
fn power_up_state() {
    let mut lapic = Lapic::new(3);
    assert_eq!(lapic.read(0x20, T0), 3 << 24);
    assert_eq!(lapic.read(0x30, T0) & 0xff, 0x14);
    assert_eq!(lapic.read(0xe0, T0), 0xffff_ffff);
    assert_eq!(lapic.read(0xf0, T0), 0xff);
    for lvt in (0x320..=0x370).step_by(0x10) {
        assert_eq!(lapic.read(lvt, T0), 1 << 16);
    }
    assert_eq!(lapic.page(), Some(GuestPhys(0xfee0_0000)));
    assert_eq!(lapic.apic_base() & BASE_BSP, 0);
    assert_eq!(Lapic::new(0).apic_base() & BASE_BSP, BASE_BSP);
}

#[test]
fn software_disabled_refuses_fixed_but_not_nmi_init_sipi() {
    let mut lapic = Lapic::new(0);
    assert_eq!(fixed(&mut lapic, 0x40), Accepted::Nothing);
    let ipi = |delivery, vector| Ipi { delivery, ..Ipi::fixed(vector, 0) };
    assert_eq!(lapic.accept(&ipi(DeliveryMode::Nmi, 0)), Accepted::Nmi);
    assert_eq!(lapic.accept(&ipi(DeliveryMode::Init, 0)), Accepted::Init);
    assert_eq!(lapic.accept(&ipi(DeliveryMode::StartUp, 0x9a)), Accepted::Sipi(0x9a));
    assert_eq!(lapic.accept(&ipi(DeliveryMode::Smi, 0)), Accepted::Nothing);
    let deassert = Ipi { trigger: Trigger::Level, level: false, ..ipi(DeliveryMode::Init, 0) };
    assert_eq!(lapic.accept(&deassert), Accepted::Nothing);
}

#[test]
fn priority_classes_nest() {
    let mut lapic = xapic(0);
    assert_eq!(fixed(&mut lapic, 0x41), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0x41));
    assert_eq!(lapic.read(0xa0, T0), 0x40);
    // Same class waits, higher class nests.
    assert_eq!(fixed(&mut lapic, 0x4f), Accepted::Nothing);
    assert_eq!(lapic.pending(), None);
    assert_eq!(fixed(&mut lapic, 0x50), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0x50));
    assert_eq!(lapic.end_of_interrupt(), None);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.end_of_interrupt(), None);
    assert_eq!(lapic.acknowledge(), Some(0x4f));
    assert_eq!(lapic.acknowledge(), None);
}

#[test]
fn task_priority_holds_its_class_and_below() {
    let mut lapic = xapic(0);
    lapic.set_cr8(4);
    assert_eq!(lapic.read(0x80, T0), 0x40);
    assert_eq!(fixed(&mut lapic, 0x4f), Accepted::Nothing);
    write(&mut lapic, 0x80, 0x3f);
    assert_eq!(lapic.cr8(), 3);
    assert_eq!(lapic.pending(), Some(0x4f));
    // PPR = TPR where its class is not lower than the one in service.
    assert_eq!(lapic.read(0xa0, T0), 0x3f);
    assert_eq!(lapic.acknowledge(), Some(0x4f));
    write(&mut lapic, 0x80, 0x4a);
    assert_eq!(lapic.read(0xa0, T0), 0x4a);
}

#[test]
fn level_interrupts_broadcast_their_end() {
    let mut lapic = xapic(0);
    let level = Ipi { trigger: Trigger::Level, ..Ipi::fixed(0x62, 0) };
    assert_eq!(lapic.accept(&level), Accepted::Wake);
    assert_eq!(lapic.read(0x180 + 0x30, T0), 1 << 2);
    assert_eq!(lapic.read(0x200 + 0x30, T0), 1 << 2);
    assert_eq!(lapic.acknowledge(), Some(0x62));
    assert_eq!(lapic.read(0x100 + 0x30, T0), 1 << 2);
    assert_eq!(lapic.write(0xb0, 0, T0), Effect::EndOfInterrupt(0x62));
    // As an edge the same vector does not.
    assert_eq!(fixed(&mut lapic, 0x62), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0x62));
    assert_eq!(lapic.write(0xb0, 0, T0), Effect::None);
    // An EOI with nothing in service does nothing.
    assert_eq!(lapic.write(0xb0, 0, T0), Effect::None);
}

#[test]
fn broadcast_suppression_needs_the_version_bit() {
    for (version, expected) in
        [(0x0005_0014, Effect::EndOfInterrupt(0x62)), (0x0105_0014, Effect::None)]
    {
        let mut state = xapic(0).save(T0);
        state.registers[reg::VERSION] = version;
        let mut lapic = Lapic::from_state(&state, 0xfee0_0900, 0, T0);
        write(&mut lapic, 0xf0, 0x11ff);
        let level = Ipi { trigger: Trigger::Level, ..Ipi::fixed(0x62, 0) };
        assert_eq!(lapic.accept(&level), Accepted::Wake);
        assert_eq!(lapic.acknowledge(), Some(0x62));
        assert_eq!(lapic.write(0xb0, 0, T0), expected);
    }
}

#[test]
fn illegal_vectors_are_errors() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x370, 0xfe);
    assert_eq!(fixed(&mut lapic, 15), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0xfe));
    // ESR shows errors only after a write latches them.
    assert_eq!(lapic.read(0x280, T0), 0);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, T0), ESR_RECEIVE_ILLEGAL);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, T0), 0);
    write(&mut lapic, 0x300, 0x000c_000f);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, T0), ESR_SEND_ILLEGAL);
    assert_eq!(lapic.read(0x3f0, T0), 0);
    write(&mut lapic, 0x280, 0);
    assert_eq!(lapic.read(0x280, T0), ESR_ILLEGAL_REGISTER);
}

#[test]
fn icr_becomes_an_ipi() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x310, 0x0200_0000);
    let Effect::Send(ipi) = lapic.write(0x300, 0x0000_c500, T0) else { panic!("not sent") };
    assert_eq!(ipi.delivery, DeliveryMode::Init);
    assert_eq!((ipi.destination, ipi.level, ipi.trigger), (2, true, Trigger::Level));
    let Effect::Send(ipi) = lapic.write(0x300, 0x0000_4608, T0) else { panic!("not sent") };
    assert_eq!((ipi.delivery, ipi.vector), (DeliveryMode::StartUp, 8));
    let Effect::Send(ipi) = lapic.write(0x300, 0x000c_40fd, T0) else { panic!("not sent") };
    assert_eq!((ipi.shorthand, ipi.vector), (Shorthand::Others, 0xfd));
    write(&mut lapic, 0x310, 0xff00_0000);
    let Effect::Send(ipi) = lapic.write(0x300, 0x0000_0840, T0) else { panic!("not sent") };
    assert_eq!((ipi.destination, ipi.mode), (BROADCAST, DestinationMode::Logical));
    // Self is served at home, and delivery status never reads as busy.
    write(&mut lapic, 0x300, 0x0004_1051);
    assert_eq!(lapic.pending(), Some(0x51));
    assert_eq!(lapic.read(0x300, T0), 0x0004_0051);
}

#[test]
fn destinations_physical_flat_and_cluster() {
    let mut lapic = xapic(5);
    assert!(lapic.matches(DestinationMode::Physical, 5));
    assert!(!lapic.matches(DestinationMode::Physical, 4));
    assert!(lapic.matches(DestinationMode::Physical, BROADCAST));
    write(&mut lapic, 0xd0, 0x2000_0000);
    assert!(lapic.matches(DestinationMode::Logical, 0x21));
    assert!(!lapic.matches(DestinationMode::Logical, 0xdf));
    write(&mut lapic, 0xe0, 0x0fff_ffff);
    write(&mut lapic, 0xd0, 0x2400_0000);
    assert!(lapic.matches(DestinationMode::Logical, 0x26));
    assert!(!lapic.matches(DestinationMode::Logical, 0x22));
    assert!(!lapic.matches(DestinationMode::Logical, 0x16));
    assert!(lapic.matches(DestinationMode::Logical, BROADCAST));
    assert_eq!(Identity::from_bits(lapic.identity().to_bits()), lapic.identity());
}

#[test]
fn x2apic_logical_id_is_derived() {
    let mut lapic = x2apic(0x25);
    assert_eq!(lapic.read_msr(0x802, T0), Ok(0x25));
    assert_eq!(lapic.read_msr(0x80d, T0), Ok(0x0002_0020));
    assert!(lapic.matches(DestinationMode::Logical, 0x0002_0021));
    assert!(!lapic.matches(DestinationMode::Logical, 0x0001_0020));
    assert!(!lapic.matches(DestinationMode::Logical, 0x0002_0010));
    assert!(lapic.matches(DestinationMode::Physical, 0x25));
    assert_eq!(Identity::from_bits(lapic.identity().to_bits()), lapic.identity());
}

#[test]
fn routing_picks_processors() {
    let cpus: Vec<Identity> = (0..4).map(|id| xapic(id).identity()).collect();
    let route = |ipi: Ipi, from| ipi.targets(from, cpus.iter().copied()).collect::<Vec<_>>();
    assert_eq!(route(Ipi::fixed(0x40, 2), None), [2]);
    assert_eq!(route(Ipi::fixed(0x40, BROADCAST), None), [0, 1, 2, 3]);
    let others = Ipi { shorthand: Shorthand::Others, ..Ipi::fixed(0x40, 0) };
    assert_eq!(route(others, Some(1)), [0, 2, 3]);
    let own = Ipi { shorthand: Shorthand::ToSelf, ..Ipi::fixed(0x40, 0) };
    assert_eq!(route(own, Some(3)), [3]);
    let lowest = Ipi { delivery: DeliveryMode::LowestPriority, ..Ipi::fixed(0x41, BROADCAST) };
    assert_eq!(route(lowest, None), [1]);
    assert_eq!(route(Ipi { destination: 9, ..lowest }, None), []);
}

#[test]
fn x2apic_access_rules() {
    let mut lapic = x2apic(1);
    assert_eq!(lapic.page(), None);
    // Reading a write-only or reserved register.
    for msr in [0x80b, 0x80e, 0x831, 0x83f, 0x800, 0x809, 0x80c, 0x840, 0x82f] {
        assert_eq!(lapic.read_msr(msr, T0), Err(Exception::GP0), "{msr:#x}");
    }
    // Writing a read-only or reserved one, or reserved bits.
    for (msr, value) in [
        (0x802, 0),
        (0x803, 0),
        (0x80a, 0),
        (0x80d, 0),
        (0x80e, 0),
        (0x810, 0),
        (0x820, 0),
        (0x839, 0),
        (0x80b, 1),
        (0x828, 1),
        (0x808, 0x100),
        (0x80f, 0x1_0000),
        (0x83f, 0x100),
        (0x838, 1 << 32),
        (0x83e, 0x10),
        (0x830, 1 << 13),
        (0x830, 1 << 20),
    ] {
        assert_eq!(lapic.write_msr(msr, value, T0), Err(Exception::GP0), "{msr:#x}");
    }
    assert_eq!(lapic.write_msr(0x83f, 0x77, T0), Ok(Effect::None));
    assert_eq!(lapic.pending(), Some(0x77));
    assert_eq!(lapic.acknowledge(), Some(0x77));
    assert_eq!(lapic.write_msr(0x80b, 0, T0), Ok(Effect::None));
    let Ok(Effect::Send(ipi)) = lapic.write_msr(0x830, 0x0001_0003_0000_0840, T0) else {
        panic!("not sent")
    };
    assert_eq!((ipi.destination, ipi.mode), (0x0001_0003, DestinationMode::Logical));
    assert_eq!(lapic.read_msr(0x830, T0), Ok(0x0001_0003_0000_0840));
    // In xAPIC mode the MSRs fault; in x2APIC mode the page is not there.
    assert_eq!(xapic(0).read_msr(0x802, T0), Err(Exception::GP0));
    assert_eq!(lapic.read(0x20, T0), 0);
}

#[test]
fn apic_base_transitions() {
    let both = BASE_ENABLE | BASE_X2APIC;
    let mut lapic = xapic(1);
    let base = 0xfee0_0000;
    assert_eq!(lapic.set_apic_base(base | BASE_X2APIC, 40), Err(Exception::GP0));
    assert_eq!(lapic.set_apic_base(1 << 40 | base | BASE_ENABLE, 40), Err(Exception::GP0));
    assert_eq!(lapic.set_apic_base(base | BASE_ENABLE | 1, 40), Err(Exception::GP0));
    lapic.set_apic_base(base | both, 40).unwrap();
    assert!(lapic.software_enabled());
    assert_eq!(lapic.set_apic_base(base | BASE_ENABLE, 40), Err(Exception::GP0));
    lapic.set_apic_base(base, 40).unwrap();
    assert_eq!(lapic.mode(), Mode::Disabled);
    assert!(!lapic.matches(DestinationMode::Physical, BROADCAST));
    assert_eq!(lapic.set_apic_base(base | both, 40), Err(Exception::GP0));
    lapic.set_apic_base(0xfed0_0000 | BASE_ENABLE, 40).unwrap();
    assert_eq!(lapic.page(), Some(GuestPhys(0xfed0_0000)));
    assert!(!lapic.software_enabled());
}

#[test]
fn init_keeps_mode_and_id() {
    let mut lapic = x2apic(0x12);
    assert_eq!(fixed(&mut lapic, 0x40), Accepted::Wake);
    lapic.init();
    assert_eq!(lapic.mode(), Mode::X2Apic);
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read_msr(0x802, T0), Ok(0x12));
    assert_eq!(lapic.read_msr(0x80d, T0), Ok(0x0001_0004));
    lapic.reset();
    assert_eq!(lapic.mode(), Mode::XApic);
    assert_eq!(lapic.read(0x20, T0), 0x1200_0000);
}

#[test]
fn one_shot_timer() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x320, 0x30);
    write(&mut lapic, 0x3e0, 0b0011); // divide by 16
    write(&mut lapic, 0x380, 100);
    assert_eq!(lapic.next_event(), Some(Deadline::Ns(T0.ns + 1600)));
    assert_eq!(lapic.read(0x390, T0), 100);
    assert_eq!(lapic.read(0x390, at(160)), 90);
    assert_eq!(lapic.advance(at(1599)), Accepted::Nothing);
    assert_eq!(lapic.advance(at(1600)), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0x30));
    assert_eq!(lapic.read(0x390, at(1700)), 0);
    assert_eq!(lapic.read(0x380, at(1700)), 100);
    assert_eq!(lapic.next_event(), None);
    // Changing to periodic after expiry does not start it.
    assert_eq!(lapic.write(0x320, 0x2_0030, at(1700)), Effect::None);
    assert_eq!(lapic.next_event(), None);
}

#[test]
fn every_divisor() {
    for (code, divisor) in
        [(0b0000, 2), (1, 4), (2, 8), (3, 16), (0b1000, 32), (9, 64), (10, 128), (11, 1)]
    {
        let mut lapic = xapic(0);
        write(&mut lapic, 0x3e0, code);
        write(&mut lapic, 0x380, 10);
        assert_eq!(lapic.next_event(), Some(Deadline::Ns(T0.ns + 10 * divisor)));
    }
}

#[test]
fn periodic_timer_catches_up_in_phase() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x320, 0x2_0030);
    write(&mut lapic, 0x3e0, 0b1011);
    write(&mut lapic, 0x380, 1000);
    assert_eq!(lapic.advance(at(3_250)), Accepted::Wake);
    assert_eq!(lapic.next_event(), Some(Deadline::Ns(T0.ns + 4000)));
    assert_eq!(lapic.read(0x390, at(3_250)), 750);
    assert_eq!(lapic.acknowledge(), Some(0x30));
    assert_eq!(lapic.acknowledge(), None);
    // A masked timer counts on without interrupting.
    write(&mut lapic, 0x320, 0x3_0030);
    assert_eq!(lapic.end_of_interrupt(), None);
    assert_eq!(lapic.advance(at(4_000)), Accepted::Nothing);
    assert_eq!(lapic.next_event(), Some(Deadline::Ns(T0.ns + 5000)));
    // An initial count of 0 stops it.
    write(&mut lapic, 0x380, 0);
    assert_eq!(lapic.next_event(), None);
}

#[test]
fn tsc_deadline_timer() {
    let mut lapic = x2apic(0);
    lapic.set_tsc_deadline(50_000, T0);
    assert_eq!(lapic.next_event(), None, "ignored outside its mode");
    assert_eq!(lapic.write_msr(0x832, 0x4_0031, T0), Ok(Effect::None));
    lapic.set_tsc_deadline(50_000, T0);
    assert_eq!(lapic.tsc_deadline(T0), 50_000);
    assert_eq!(lapic.next_event(), Some(Deadline::Tsc(50_000)));
    // The initial count is not writable in this mode.
    assert_eq!(lapic.write_msr(0x838, 5, T0), Ok(Effect::None));
    assert_eq!(lapic.read_msr(0x838, T0), Ok(0));
    let due = Now { ns: T0.ns, tsc: 50_000 };
    assert_eq!(lapic.advance(due), Accepted::Wake);
    assert_eq!(lapic.acknowledge(), Some(0x31));
    assert_eq!(lapic.tsc_deadline(due), 0);
    assert_eq!(lapic.end_of_interrupt(), None);
    // A deadline in the past fires at once; leaving the mode disarms.
    lapic.set_tsc_deadline(1, due);
    assert_eq!(lapic.pending(), Some(0x31));
    lapic.set_tsc_deadline(90_000, due);
    assert_eq!(lapic.write_msr(0x832, 0x31, due), Ok(Effect::None));
    assert_eq!(lapic.next_event(), None);
}

#[test]
fn lint0_ext_int_follows_the_pin() {
    let mut lapic = xapic(0);
    assert_eq!(lapic.set_lint(Lint::Lint0, true), Accepted::Nothing);
    assert!(!lapic.external_interrupt());
    write(&mut lapic, 0x350, 0x700);
    assert!(lapic.external_interrupt());
    assert_eq!(lapic.set_lint(Lint::Lint0, false), Accepted::Nothing);
    assert!(!lapic.external_interrupt());
    assert_eq!(lapic.set_lint(Lint::Lint0, true), Accepted::ExtInt);
    write(&mut lapic, 0x350, 0x1_0700);
    assert!(!lapic.external_interrupt());
    // Globally disabled, the pin is INTR and the other one is NMI.
    lapic.set_apic_base(0xfee0_0000, 40).unwrap();
    assert!(lapic.external_interrupt());
    assert_eq!(lapic.set_lint(Lint::Lint1, true), Accepted::Nmi);
    assert_eq!(lapic.set_lint(Lint::Lint1, true), Accepted::Nothing);
}

#[test]
fn lint1_nmi_is_an_edge() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x360, 0x400);
    assert_eq!(lapic.set_lint(Lint::Lint1, true), Accepted::Nmi);
    assert_eq!(lapic.set_lint(Lint::Lint1, true), Accepted::Nothing);
    assert_eq!(lapic.set_lint(Lint::Lint1, false), Accepted::Nothing);
}

#[test]
fn lint0_level_repeats_until_low() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x350, 0x8045);
    assert_eq!(lapic.set_lint(Lint::Lint0, true), Accepted::Wake);
    assert_eq!(lapic.read(0x350, T0), 0x8045 | LVT_REMOTE_IRR);
    assert_eq!(lapic.acknowledge(), Some(0x45));
    assert_eq!(lapic.set_lint(Lint::Lint0, true), Accepted::Nothing);
    assert_eq!(lapic.end_of_interrupt(), Some(0x45));
    assert_eq!(lapic.acknowledge(), Some(0x45), "the pin is still high");
    assert_eq!(lapic.set_lint(Lint::Lint0, false), Accepted::Nothing);
    assert_eq!(lapic.end_of_interrupt(), Some(0x45));
    assert_eq!(lapic.pending(), None);
    assert_eq!(lapic.read(0x350, T0), 0x8045);
}

#[test]
fn software_disable_masks_the_lvt() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x320, 0x30);
    assert_eq!(fixed(&mut lapic, 0x50), Accepted::Wake);
    write(&mut lapic, 0xf0, 0xff);
    assert_eq!(lapic.read(0x320, T0), 0x1_0030);
    write(&mut lapic, 0x320, 0x30);
    assert_eq!(lapic.read(0x320, T0), 0x1_0030);
    assert_eq!(lapic.pending(), Some(0x50), "held requests stay (SDM 10.4.7.2)");
}

#[test]
fn performance_events_mask_themselves() {
    let mut lapic = xapic(0);
    write(&mut lapic, 0x340, 0x400);
    assert_eq!(lapic.raise(LocalEvent::Performance), Accepted::Nmi);
    assert_eq!(lapic.raise(LocalEvent::Performance), Accepted::Nothing);
    write(&mut lapic, 0x330, 0x61);
    assert_eq!(lapic.raise(LocalEvent::Thermal), Accepted::Wake);
    assert_eq!(lapic.pending(), Some(0x61));
}

#[test]
fn ext_int_message_is_latched() {
    let mut lapic = xapic(0);
    let message = Ipi { delivery: DeliveryMode::ExtInt, ..Ipi::fixed(0, 0) };
    assert_eq!(lapic.accept(&message), Accepted::ExtInt);
    let state = lapic.save(T0);
    let mut lapic = Lapic::from_state(&state, lapic.apic_base(), 0, T0);
    assert!(lapic.external_interrupt());
    lapic.acknowledge_external();
    assert!(!lapic.external_interrupt());
}

#[test]
fn saved_state_round_trips() {
    let mut lapic = x2apic(0x13);
    lapic.set_cr8(2);
    for vector in [0x21, 0x45, 0x83, 0xf0] {
        let trigger = if vector & 1 == 0 { Trigger::Edge } else { Trigger::Level };
        let _ = lapic.accept(&Ipi { trigger, ..Ipi::fixed(vector, 0) });
    }
    assert_eq!(lapic.acknowledge(), Some(0xf0));
    assert_eq!(fixed(&mut lapic, 3), Accepted::Nothing);
    lapic.write_msr(0x83e, 0b1010, T0).map(|_| ()).unwrap();
    lapic.write_msr(0x832, 0x2_0040, T0).map(|_| ()).unwrap();
    lapic.write_msr(0x838, 1000, T0).map(|_| ()).unwrap();
    let later = at(12_800);
    let state = lapic.save(later);
    assert_eq!(state.timer_remaining_ns, Some(128_000 - 12_800));
    assert_eq!(state.registers[reg::TIMER_CURRENT], 900);
    let elsewhere = Now { ns: 5, tsc: 77 };
    let mut copy = Lapic::from_state(&state, lapic.apic_base(), 0x13, elsewhere);
    assert_eq!(copy.save(elsewhere), state);
    assert_eq!(copy.identity(), lapic.identity());
    assert_eq!(copy.next_event(), Some(Deadline::Ns(5 + 128_000 - 12_800)));
    assert_eq!(copy.end_of_interrupt(), lapic.end_of_interrupt());
    assert_eq!(copy.acknowledge(), Some(0x83));
    copy.write_msr(0x828, 0, elsewhere).map(|_| ()).unwrap();
    assert_eq!(copy.read_msr(0x828, elsewhere), Ok(u64::from(ESR_RECEIVE_ILLEGAL)));
    assert_ne!(copy.save(elsewhere), state);
}

#[test]
fn hostile_state_does_not_panic() {
    let state = LapicState {
        registers: [u32::MAX; 64],
        tsc_deadline: u64::MAX,
        timer_remaining_ns: Some(u64::MAX),
    };
    for base in [0, 0x400, 0x800, 0xc00, u64::MAX] {
        for lvt_timer in [0, 1 << 17, 2 << 17, 3 << 17] {
            let mut state = state.clone();
            state.registers[reg::LVT_TIMER] = lvt_timer;
            let mut lapic = Lapic::from_state(&state, base, u32::MAX, at(u64::MAX / 2));
            while lapic.acknowledge().is_some() {}
            while lapic.isr.highest() != 0 {
                let _ = lapic.end_of_interrupt();
            }
            for offset in 0..0x1000 {
                let _ = lapic.read(offset, at(u64::MAX / 2));
                let _ = lapic.write(offset, u32::MAX, at(u64::MAX / 2));
                let _ = lapic.write_msr(0x800 + offset, u64::MAX, at(0));
                let _ = lapic.read_msr(0x800 + offset, at(1));
            }
            let _ = lapic.advance(Now { ns: u64::MAX, tsc: u64::MAX });
            let _ = lapic.save(Now::default());
        }
    }
}
