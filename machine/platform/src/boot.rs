//! Boot: firmware's bytes into guest memory, its registers into the boot processor.

use firmware::acpi::{AcpiTables, Ecam, IoApic, PlatformTables, PmRegisters, Window};
use firmware::boot::{self, BootProtocol, BootRequest};
use firmware::kernel::Kernel;
use firmware::layout as place;
use firmware::smbios::{self, SystemInfo};
use firmware::source::{Sink, Source};
use firmware::unpack::MAX_UNPACKED;
use memory::GuestMemory;
use x86::lapic::reg;
use x86::{CpuState, GuestPhys};

use crate::error::MachineError;
use crate::layout::{
    ECAM, IOAPIC, LAPIC, PCI_HOLE, PCI_WINDOW_SIZE, PM_BASE, PVPANIC, RESET_CONTROL, isa_irq,
};
use crate::serial::SERIAL_PORTS;

/// Any error of whoever gives bytes.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// An initial RAM disk of known size, poured into guest memory piece by piece.
pub trait Initrd {
    /// Bytes in it.
    fn size(&self) -> u64;

    /// Hands all of it to `to`, in order. Pieces of some 100 KiB are best.
    ///
    /// # Errors
    /// Its own, and those of `to`.
    fn pour(&self, to: &mut dyn FnMut(&[u8]) -> Result<(), BoxError>) -> Result<(), BoxError>;
}

impl<T: AsRef<[u8]>> Initrd for T {
    fn size(&self) -> u64 {
        self.as_ref().len() as u64
    }

    fn pour(&self, to: &mut dyn FnMut(&[u8]) -> Result<(), BoxError>) -> Result<(), BoxError> {
        to(self.as_ref())
    }
}

/// What a machine starts with.
#[derive(Clone, Copy)]
pub struct Boot<'a> {
    /// The kernel, as `Kernel::parse` made it of the file.
    pub kernel: &'a Kernel,
    /// Its file.
    pub file: &'a dyn Source,
    /// Initial RAM disk, or the module of a multiboot kernel.
    pub initrd: Option<&'a dyn Initrd>,
    /// Command line.
    pub command_line: &'a str,
    /// How to enter the kernel.
    pub protocol: BootProtocol,
}

impl<'a> Boot<'a> {
    /// A kernel alone, entered as fits it.
    pub fn new(kernel: &'a Kernel, file: &'a dyn Source) -> Self {
        Self { kernel, file, initrd: None, command_line: "", protocol: BootProtocol::Auto }
    }
}

impl std::fmt::Debug for Boot<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Boot").field("command_line", &self.command_line).finish_non_exhaustive()
    }
}

/// Guest memory that a loader writes.
struct Ram<'a>(&'a GuestMemory);

impl Sink for Ram<'_> {
    fn write(&mut self, address: GuestPhys, bytes: &[u8]) -> Result<(), BoxError> {
        Ok(self.0.write_physical(address, bytes)?)
    }
}

/// What of the machine's configuration the tables tell.
pub(crate) struct Described {
    pub(crate) cpus: u32,
    pub(crate) serial_ports: usize,
    pub(crate) name: String,
}

/// Writes kernel, tables and start-up structures; sets the boot processor's registers.
pub(crate) fn place(
    memory: &GuestMemory,
    machine: &Described,
    boot: &Boot<'_>,
    cpu: &mut CpuState,
) -> Result<(), MachineError> {
    let layout = crate::memory_layout(memory.size());
    let acpi = AcpiTables::build(&tables(machine), place::ACPI_TABLES);
    let request = BootRequest {
        initrd: boot.initrd.map(Initrd::size),
        command_line: boot.command_line,
        protocol: boot.protocol,
        memory: &layout,
        rsdp: Some(acpi.rsdp),
        framebuffer: None,
        max_unpacked: MAX_UNPACKED,
    };
    let loaded = boot::load(boot.kernel, boot.file, &request, &mut Ram(memory))?;
    if let (Some(initrd), Some(address)) = (boot.initrd, loaded.initrd) {
        pour(initrd, address, memory).map_err(MachineError::Initrd)?;
    }
    let info = SystemInfo {
        version: env!("CARGO_PKG_VERSION").into(),
        uuid: [0; 16],
        serial: machine.name.clone(),
        ram: layout.ram(),
    };
    let smbios = smbios::build(&info, place::SMBIOS);
    // A machine of less than a MiB has no BIOS area, and kernels for it want no tables.
    for (address, bytes) in [(acpi.rsdp, &acpi.bytes), (place::SMBIOS, &smbios)] {
        if memory.locate(address).is_some() {
            memory.write_physical(address, bytes)?;
        }
    }
    loaded.enter(cpu);
    virtual_wire(cpu);
    Ok(())
}

/// The initrd to its place, and no byte of it past its end.
fn pour(initrd: &dyn Initrd, address: GuestPhys, memory: &GuestMemory) -> Result<(), BoxError> {
    let mut done = 0;
    initrd.pour(&mut |bytes| {
        let end = done + bytes.len() as u64;
        if end > initrd.size() {
            return Err("it has more bytes than it said".into());
        }
        memory.write_physical(GuestPhys(address.0 + done), bytes)?;
        done = end;
        Ok(())
    })
}

/// Firmware leaves the local APIC on, passing the 8259 pair's interrupts and NMIs to the boot
/// processor (MultiProcessor Specification 1.4, 3.6.2.2).
fn virtual_wire(cpu: &mut CpuState) {
    const SOFTWARE_ENABLED: u32 = 1 << 8 | 0xff;
    const EXTINT: u32 = 7 << 8;
    const NMI: u32 = 4 << 8;
    cpu.lapic.registers[reg::SVR] = SOFTWARE_ENABLED;
    cpu.lapic.registers[reg::LVT_LINT0] = EXTINT;
    cpu.lapic.registers[reg::LVT_LINT1] = NMI;
}

fn tables(machine: &Described) -> PlatformTables {
    PlatformTables {
        apic_ids: (0..machine.cpus).collect(),
        lapic_address: LAPIC.0 as u32,
        ioapic: IoApic { id: 0, address: IOAPIC.0 as u32 },
        ecam: Ecam { base: ECAM, last_bus: 255 },
        mmio32: Window { first: PCI_HOLE, last: GuestPhys(PCI_HOLE.0 + PCI_WINDOW_SIZE - 1) },
        mmio64: None,
        pm: PmRegisters {
            pm1_event: PM_BASE,
            pm1_control: PM_BASE + 4,
            timer: PM_BASE + 8,
            timer_32bit: true,
            sci: isa_irq::SCI,
            s5_type: devices::acpi_pm::SLEEP_TYPE_S5,
        },
        reset: (RESET_CONTROL, 6),
        serial: SERIAL_PORTS[..machine.serial_ports].to_vec(),
        i8042: true,
        rtc: true,
        vga: false,
        pvpanic: Some(PVPANIC),
    }
}
