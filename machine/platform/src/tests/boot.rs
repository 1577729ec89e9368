//! A kernel and its tables in guest memory.

use firmware::kernel::Kernel;
use x86::{CpuState, GuestPhys, Reg};

use crate::fake::{machine, once};
use crate::{Boot, MachineConfig, MachineError};

/// A multiboot file of a header and two bytes of code, loaded at 1 MiB.
fn kernel() -> Vec<u8> {
    const MAGIC: u32 = 0x1bad_b002;
    const FLAGS: u32 = 1 << 16;
    let base = 0x10_0000;
    let checksum = 0_u32.wrapping_sub(MAGIC).wrapping_sub(FLAGS);
    let words = [MAGIC, FLAGS, checksum, base, base, 0, 0, base + 32];
    let mut file: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    file.extend([0xeb, 0xfe]);
    file.resize(4096, 0x90);
    file
}

#[test]
fn a_multiboot_kernel_is_placed_with_its_tables() {
    let file = kernel();
    let kernel = Kernel::parse(&file).expect("multiboot");
    let (_, mut machine) = machine(vec![once(|_| {})], MachineConfig::default());
    let boot = Boot { initrd: Some(b"module"), command_line: "a=b", ..Boot::new(&kernel, &file) };
    machine.load(&boot).expect("fits");
    let read = |address, count| {
        let mut bytes = vec![0; count];
        machine.memory().read_physical(GuestPhys(address), &mut bytes).expect("RAM");
        bytes
    };
    assert_eq!(read(0x10_0020, 2), [0xeb, 0xfe]);
    let module = u64::from_le_bytes(read(0x3_0000, 8).try_into().expect("eight bytes"));
    assert_eq!(read(module & 0xffff_ffff, 6), b"module");
    assert_eq!(read(0xe_0000, 8), b"RSD PTR ");
    assert_eq!(read(0xf_0000, 5), b"_SM3_");
    machine.start().expect("starts");
    let states = machine.cpu_states().expect("runs");
    let state = states[0].as_ref().expect("a state");
    assert_eq!(state.gpr[Reg::Rax as usize], 0x2bad_b002);
    assert!((0x10_0020..0x10_0040).contains(&state.rip), "{:#x}", state.rip);
    assert!(matches!(machine.load(&boot), Err(MachineError::Started)));
}

#[test]
fn raw_guests_are_written_as_they_are() {
    let (_, mut machine) = machine(vec![once(|_| {})], MachineConfig::default());
    let state = CpuState { rip: 0x7c00, ..CpuState::reset(0) };
    machine.load_raw(&[(GuestPhys(0x7c00), &[0xf4])], &state).expect("RAM");
    let mut byte = [0];
    machine.memory().read_physical(GuestPhys(0x7c00), &mut byte).expect("RAM");
    assert_eq!(byte, [0xf4]);
    let outside = machine.load_raw(&[(GuestPhys(8 << 20), &[0])], &state);
    assert!(matches!(outside, Err(MachineError::Memory(_))));
}
