//! Port and MMIO accesses: order, width, batches, and completion before a kick returns.

use engine::{Budget, Exit};

use super::support::{Access, CODE, HOLE, Recorder, machine, run, run_until};

const HALT: [u8; 2] = [0xfa, 0xf4];

#[test]
fn ports_of_every_width_in_order() {
    let Some(machine) = machine(1) else { return };
    #[rustfmt::skip]
    let code = [
        0xb8, 0x34, 0x12,       // mov ax, 0x1234
        0xe6, 0x10,             // out 0x10, al
        0xe7, 0x12,             // out 0x12, ax
        0xe5, 0x14,             // in ax, 0x14
        0x66, 0xe7, 0x18,       // out 0x18, eax
        0x66, 0xe5, 0x20,       // in eax, 0x20
        0xfa, 0xf4,             // cli; hlt
    ];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    let expected = [
        Access::Out(0x10, vec![0x34]),
        Access::Out(0x12, vec![0x34, 0x12]),
        Access::In(0x14, 2),
        Access::Out(0x18, vec![0x10, 0x11, 0, 0]),
        Access::In(0x20, 4),
    ];
    assert_eq!(io.trace, expected);
    let state = vcpu.state().unwrap();
    assert_eq!(state.gpr[0], 0x1514_1312);
    assert_eq!(state.rip, CODE + code.len() as u64);
    assert_eq!(state.activity, x86::Activity::Halted);
}

#[test]
fn string_port_instructions_keep_each_element() {
    let Some(machine) = machine(1) else { return };
    #[rustfmt::skip]
    let code = [
        0xba, 0x50, 0x00,       // mov dx, 0x50
        0xbf, 0x00, 0x20,       // mov di, 0x2000
        0xb9, 0x06, 0x00,       // mov cx, 6
        0xf3, 0x6d,             // rep insw
        0xbe, 0x00, 0x20,       // mov si, 0x2000
        0xb9, 0x06, 0x00,       // mov cx, 6
        0xf3, 0x6f,             // rep outsw
        0xfa, 0xf4,             // cli; hlt
    ];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    let mut expected = vec![Access::In(0x50, 2); 6];
    let words = (0..6u8).map(|n| Access::Out(0x50, vec![0x10 + 2 * n, 0x11 + 2 * n]));
    expected.extend(words);
    assert_eq!(io.trace, expected);
    assert_eq!(machine.byte(0x200b), 0x1b);
}

#[test]
fn mmio_reads_and_writes() {
    let Some(machine) = machine(1) else { return };
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0x80,                   // mov ax, 0x8000
        0x8e, 0xc0,                         // mov es, ax
        0x26, 0xa2, 0x04, 0x00,             // mov es:[4], al
        0x26, 0x66, 0xa1, 0x08, 0x00,       // mov eax, es:[8]
        0x26, 0xa3, 0x0c, 0x00,             // mov es:[12], ax
        0x26, 0x83, 0x06, 0x10, 0x00, 0x01, // add word es:[16], 1
        0xfa, 0xf4,                         // cli; hlt
    ];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    let expected = [
        Access::Write(HOLE + 4, vec![0]),
        Access::Read(HOLE + 8, 4),
        Access::Write(HOLE + 12, vec![0x10, 0x11]),
        Access::Read(HOLE + 16, 2),
        Access::Write(HOLE + 16, vec![0x15, 0x15]),
    ];
    assert_eq!(io.trace, expected);
    assert_eq!(vcpu.state().unwrap().gpr[0], 0x1312_1110);
}

#[test]
fn a_kick_during_an_access_returns_after_the_instruction() {
    let Some(machine) = machine(1) else { return };
    // in ax, 0x14 is the instruction in whose callback the kick comes.
    let code = [0xe6, 0x80, 0xe5, 0x14, 0xe6, 0x81, HALT[0], HALT[1]];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder { stop: Some((0x80, vcpu.kicker())), ..Recorder::default() };
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
    assert_eq!(vcpu.state().unwrap().rip, CODE + 2);
    assert_eq!(io.trace, [Access::Out(0x80, vec![0])]);

    struct KickOnIn(Recorder, std::sync::Arc<dyn engine::Kick>);
    impl engine::GuestIo for KickOnIn {
        fn port_in(&mut self, port: u16, data: &mut [u8]) {
            self.0.port_in(port, data);
            self.1.kick();
        }
        fn port_out(&mut self, _: u16, _: &[u8]) {}
        fn mmio_read(&mut self, _: memory::GuestPhys, _: &mut [u8]) {}
        fn mmio_write(&mut self, _: memory::GuestPhys, _: &[u8]) {}
        fn end_of_interrupt(&mut self, _: u8) {}
        fn acknowledge_pic(&mut self) -> Option<u8> {
            None
        }
    }
    let mut io = KickOnIn(Recorder::default(), vcpu.kicker());
    assert_eq!(vcpu.run(&mut io, Budget::Unlimited).unwrap(), Exit::Interrupted);
    let state = vcpu.state().unwrap();
    assert_eq!((state.rip, state.gpr[0]), (CODE + 4, 0x1110));
}

#[test]
fn a_wide_access_across_the_edge_of_ram_arrives_in_pieces() {
    let Some(machine) = machine(1) else { return };
    #[rustfmt::skip]
    let code = [
        0xb8, 0x00, 0x70,                         // mov ax, 0x7000
        0x8e, 0xc0,                               // mov es, ax
        0x66, 0xb8, 0x44, 0x33, 0x22, 0x11,       // mov eax, 0x11223344
        0xbf, 0xfe, 0xff,                         // mov di, 0xfffe
        0x26, 0x88, 0x05,                         // mov es:[di], al
        0xb8, 0x00, 0x80,                         // mov ax, 0x8000
        0x8e, 0xc0,                               // mov es, ax
        0x26, 0x66, 0xa3, 0x03, 0x00,             // mov es:[3], eax, misaligned
        0xfa, 0xf4,                               // cli; hlt
    ];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    assert_eq!(machine.byte(HOLE - 2), 0x44);
    assert_eq!(io.trace, [Access::Write(HOLE + 3, vec![0x00, 0x80, 0x22, 0x11])]);
}

#[test]
fn a_step_over_an_access_finishes_it() {
    let Some(machine) = machine(1) else { return };
    let code = [0xe5, 0x14, 0x40, 0xe6, 0x80, HALT[0], HALT[1]];
    let mut vcpu = machine.boot(&code);
    let mut io = Recorder::default();
    let mut rips = vec![];
    for _ in 0..4 {
        let exit = run_until(&mut *vcpu, &mut io, Budget::Instructions(1));
        assert_eq!(exit, Exit::BudgetSpent);
        rips.push(vcpu.state().unwrap().rip - CODE);
    }
    assert_eq!(rips, [2, 3, 5, 6]);
    let state = vcpu.state().unwrap();
    assert_eq!((state.gpr[0], state.rflags & 0x100), (0x1111, 0));
    assert_eq!(io.trace, [Access::In(0x14, 2), Access::Out(0x80, vec![0x11])]);
    // Then freely to the end.
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
}
