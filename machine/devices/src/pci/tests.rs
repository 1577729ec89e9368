//! Configuration space and its two ways in.

use super::*;
use x86::GuestPhys;

fn function() -> ConfigSpace {
    let mut space = host_bridge().0;
    space.add_bar(0, BarKind::Memory32, 0x1000);
    space.add_bar(2, BarKind::Memory64, 1 << 33);
    space.add_bar(4, BarKind::Port, 0x20);
    space
}

fn dword(space: &ConfigSpace, offset: usize) -> u32 {
    let mut data = [0; 4];
    space.read(offset, &mut data);
    u32::from_le_bytes(data)
}

#[test]
fn identity_is_read_only() {
    let mut space = function();
    space.write(0, &[0; 4]);
    space.write(8, &[0; 4]);
    assert_eq!(dword(&space, 0), 0x29c0_8086);
    assert_eq!(dword(&space, 8), 0x0600_0000);
    space.write(0x2c, &[9; 4]);
    assert_eq!(dword(&space, 0x2c), 0x1100_1af4);
    assert_eq!(dword(&space, 0x100), 0, "no extended capabilities");
}

#[test]
fn bars_tell_their_size() {
    let mut space = function();
    for offset in (0x10..0x28).step_by(4) {
        space.write(offset, &[0xff; 4]);
    }
    assert_eq!(dword(&space, 0x10), 0xffff_f000);
    assert_eq!(dword(&space, 0x14), 0);
    assert_eq!(dword(&space, 0x18), 0x0000_0004);
    assert_eq!(dword(&space, 0x1c), 0xffff_fffe);
    assert_eq!(dword(&space, 0x20), 0xffff_ffe1);
}

#[test]
fn windows_follow_bars_and_command() {
    let mut space = function();
    space.write(0x10, &0xc000_0123u32.to_le_bytes());
    space.write(0x1c, &[2, 0, 0, 0]);
    space.write(0x20, &0xc123u32.to_le_bytes());
    assert_eq!(space.windows().count(), 0, "decoding is off");
    space.write(4, &[3, 0]);
    let windows: Vec<_> = space.windows().map(|w| (w.bar, w.base.0, w.size)).collect();
    let expected = [(0, 0xc000_0000, 0x1000), (2, 2 << 32, 1 << 33), (4, 0xc120, 0x20)];
    assert_eq!(windows, expected);
    space.write(4, &[1, 0]);
    assert_eq!(space.windows().next().map(|w| w.base), Some(GuestPhys(0xc120)));
}

#[test]
fn capabilities_form_a_list() {
    let mut space = function();
    let first = space.add_capability(0x09, &[1, 2, 3]);
    let second = space.add_capability(0x11, &[0; 10]);
    assert_eq!((first, second), (0x40, 0x48));
    assert_eq!(dword(&space, 4) >> 16 & 0x10, 0x10);
    assert_eq!(dword(&space, 0x34), 0x48);
    assert_eq!(dword(&space, 0x48) & 0xffff, 0x4011);
    assert_eq!(dword(&space, 0x40), 0x0201_0009);
}

#[test]
fn mechanism_one_decodes() {
    let mut port = ConfigPort::new();
    assert_eq!(port.target(0), None);
    port.write(0xffff_ffff);
    assert_eq!(port.read(), 0x80ff_fffc);
    port.write(0x8001_fa40);
    assert_eq!(port.target(3), Some(ConfigAddress { bus: 1, devfn: 0xfa, offset: 0x43 }));
    assert_eq!(ConfigPort::restore(port.save()), port);
    port.write(0x0001_fa40);
    assert_eq!(port.target(0), None);
    let ecam = decode_ecam(0x01f_f8a0);
    assert_eq!(ecam, ConfigAddress { bus: 1, devfn: 0xff, offset: 0x8a0 });
}

#[test]
fn any_write_keeps_the_invariants() {
    let mut space = function();
    for offset in 0..300 {
        space.write(offset, &[0xff; 8]);
        space.write(offset, &[0x00; 8]);
        space.write(offset, &[0xa5; 8]);
    }
    assert_eq!(dword(&space, 0), 0x29c0_8086);
    assert!(space.windows().all(|w| w.base.0.is_multiple_of(w.size)));
}

#[test]
fn saved_state_round_trips() {
    let mut space = function();
    space.write(4, &[3, 0]);
    space.write(0x10, &0xc000_0000u32.to_le_bytes());
    space.write(0x3c, &[11]);
    assert_ne!(space, function());
    assert_eq!(ConfigSpace::restore(function(), &space.save()), space);
    let mut foreign = space.save();
    foreign.bytes[0] = 0x77;
    assert_eq!(ConfigSpace::restore(function(), &foreign), space, "identity comes from the device");
}
