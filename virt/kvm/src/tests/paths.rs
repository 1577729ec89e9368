//! Doorbells and messages that the kernel delivers by itself.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};
use std::sync::Arc;

use engine::{Engine, Exit, MsiMessage, Sent};
use memory::GuestPhys;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::support::{Access, CODE, HOLE, Machine, Recorder, machine, real_mode, run, with_x2apic};

/// An event for the engine, and the same one to be read.
fn event() -> (Arc<OwnedFd>, EventFd) {
    let reader = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC).unwrap();
    let raw = reader.try_clone().unwrap().into_raw_fd();
    // SAFETY: the copy's descriptor, which it has let go of, is owned by nobody else.
    (Arc::new(unsafe { OwnedFd::from_raw_fd(raw) }), reader)
}

/// Ends its interrupt at the x2APIC, then tells a port.
fn handler(machine: &Machine, vector: u8, at: u16, port: u8) {
    machine.vector(vector, at);
    #[rustfmt::skip]
    machine.write(at.into(), &[
        0x66, 0xb9, 0x0b, 0x08, 0x00, 0x00, // mov ecx, 0x80b
        0x66, 0x31, 0xc0,                   // xor eax, eax
        0x66, 0x31, 0xd2,                   // xor edx, edx
        0x0f, 0x30,                         // wrmsr
        0xe6, port,                         // out port, al
        0xcf,                               // iret
    ]);
}

#[test]
fn a_doorbell_takes_stores_of_any_width_at_its_address_alone_and_gives_it_back() {
    let Some(machine) = machine(1) else { return };
    let paths = machine.engine.kernel_paths().expect("every KVM that is tested has them");
    #[rustfmt::skip]
    let mut vcpu = machine.boot(&[
        0xb8, 0x00, 0x80,       // mov ax, 0x8000
        0x8e, 0xc0,             // mov es, ax
        0x26, 0xa2, 0x00, 0x00, // mov es:[0], al
        0x26, 0xa3, 0x00, 0x00, // mov es:[0], ax
        0x26, 0xa3, 0x02, 0x00, // mov es:[2], ax
        0xfa, 0xf4,             // cli; hlt
    ]);
    let (event, reader) = event();
    paths.add_doorbell(GuestPhys(HOLE), &event).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    assert_eq!(io.trace, [Access::Write(HOLE + 2, vec![0, 0x80])]);
    assert_eq!(reader.read().unwrap(), 2);

    assert!(paths.add_doorbell(GuestPhys(HOLE), &event).is_err(), "one at an address");
    paths.remove_doorbell(GuestPhys(HOLE));
    paths.remove_doorbell(GuestPhys(HOLE));
    vcpu.set_state(&real_mode(CODE)).unwrap();
    let mut io = Recorder::default();
    assert_eq!(run(&mut *vcpu, &mut io), Exit::Halted);
    let width = |access: &Access| match access {
        Access::Write(address, data) => (*address, data.len()),
        _ => panic!("only stores: {access:?}"),
    };
    let stores: Vec<_> = io.trace.iter().map(width).collect();
    assert_eq!(stores, [(HOLE, 1), (HOLE, 2), (HOLE + 2, 2)]);
    assert!(reader.read().is_err(), "the event hears no more");
}

#[test]
fn a_message_that_is_sent_often_gets_a_route_and_a_changed_one_another() {
    let Some(machine) = machine(1) else { return };
    let paths = machine.engine.kernel_paths().expect("every KVM that is tested has them");
    handler(&machine, 0x41, 0x2000, 0x80);
    handler(&machine, 0x51, 0x2100, 0x82);
    // sti; hlt; jmp to the hlt
    let mut vcpu = machine.boot(&[0xfb, 0xf4, 0xeb, 0xfd]);
    vcpu.set_state(&with_x2apic(real_mode(CODE), 0)).unwrap();
    let (one, other) = (paths.message_source().unwrap(), paths.message_source().unwrap());
    let kick = vcpu.kicker();
    let mut ways = |source: &dyn engine::MessageSource, vector: u32, port: u16, times: u32| {
        let message = MsiMessage { address: 0xfee0_0000, data: vector };
        let mut send = || {
            let sent = source.send(message).unwrap();
            let mut io = Recorder { stop: Some((port, kick.clone())), ..Recorder::default() };
            assert_eq!(run(&mut *vcpu, &mut io), Exit::Interrupted);
            assert_eq!(io.trace, [Access::Out(port, vec![0])], "once, and no other");
            sent
        };
        (0..times).filter(|_| send() == Sent::Routed).count()
    };
    assert_eq!(ways(&*one, 0x41, 0x80, 12), 5);
    assert_eq!(ways(&*one, 0x51, 0x82, 12), 5, "called until it has a route of its own");
    assert_eq!(ways(&*one, 0x41, 0x80, 1), 0, "the earlier route is gone");
    assert_eq!(ways(&*other, 0x41, 0x80, 9), 2, "each source has its own");
    assert_eq!(ways(&*one, 0x51, 0x82, 1), 1, "and keeps it");
    // The table is shared with messages whose end is reported.
    let level = MsiMessage { address: 0xfee0_0000, data: 0x51 | 3 << 14 };
    assert_eq!(one.send(level).unwrap(), Sent::Called);
}
