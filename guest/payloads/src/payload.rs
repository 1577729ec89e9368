//! What a payload is, as plain data: bytes, a start, what must be seen, how it must end.

/// One tiny guest.
#[derive(Clone, Debug)]
pub struct Payload {
    /// `group::name`, unique.
    pub name: &'static str,
    /// What it shows, in a sentence.
    pub description: &'static str,
    /// Bytes to lay into RAM before the start.
    pub segments: Vec<Segment>,
    /// How vCPU 0 begins; the others wait for a start-up IPI.
    pub start: Start,
    /// Bytes of RAM from guest-physical 0.
    pub memory_bytes: u64,
    /// Number of vCPUs.
    pub cpus: u32,
    /// CPUID bits without which it cannot run.
    pub needs: Vec<Feature>,
    /// What the host does when the guest writes an index into this list to [`crate::ports::ACTION`].
    pub actions: Vec<Action>,
    /// Accesses that each vCPU must make, in order. vCPUs beyond the list must make none.
    pub traces: Vec<Vec<Access>>,
    /// What must hold when it has ended.
    pub facts: Vec<Fact>,
    /// How it ends.
    pub end: End,
}

/// Bytes at a guest-physical address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Guest-physical address.
    pub address: u64,
    /// What lies there.
    pub bytes: Vec<u8>,
}

/// The state in which vCPU 0 begins, interrupts off. What is not said is as after RESET.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// Real mode; SS:SP is 0:`crate::layout::STACK16`, the other segments 0.
    Real {
        /// CS and IP: execution begins at `segment * 16 + offset`.
        segment: u16,
        /// IP.
        offset: u16,
    },
    /// 32-bit protected mode, paging off, flat segments of the descriptor table at
    /// [`crate::layout::GDT`], ESP = [`crate::layout::STACK`].
    Protected {
        /// EIP.
        eip: u32,
    },
    /// Long mode, CPL 0: page tables at [`crate::layout::PML4`], TR loaded, NXE, SSE enabled,
    /// RSP = [`crate::layout::STACK`].
    Long {
        /// RIP.
        rip: u64,
    },
}

/// How a payload ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// It writes this value to [`crate::ports::EXIT`].
    Exit(u8),
    /// HLT with interrupts off, on every vCPU.
    Halted,
    /// Triple fault.
    Shutdown,
}

/// A bit of CPUID.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature {
    /// EAX.
    pub leaf: u32,
    /// ECX.
    pub subleaf: u32,
    /// 0-3: EAX, EBX, ECX, EDX.
    pub register: u8,
    /// 0-31.
    pub bit: u8,
    /// Its name in the manual.
    pub name: &'static str,
}

/// What the host does on request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Signals an MSI before the OUT that asked for it is complete.
    Msi {
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
    /// Signals an MSI a few milliseconds later, from another thread.
    MsiLater {
        /// Message address.
        address: u64,
        /// Message data.
        data: u32,
    },
    /// Injects an NMI into a vCPU.
    Nmi {
        /// Which.
        cpu: u32,
    },
    /// Injects an NMI a few milliseconds later, from another thread.
    NmiLater {
        /// Which.
        cpu: u32,
    },
}

/// Port or memory-mapped, in or out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// IN.
    PortIn,
    /// OUT.
    PortOut,
    /// A load.
    MmioRead,
    /// A store.
    MmioWrite,
}

/// One access as a device sees it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Access {
    /// Which kind.
    pub direction: Direction,
    /// Port number or guest-physical address.
    pub address: u64,
    /// Width in bytes.
    pub width: u8,
    /// The value moved, zero-extended.
    pub value: u64,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { direction, address, width, value } = self;
        write!(f, "{direction:?} {address:#x} {width} bytes {value:#x}")
    }
}

/// Something that must hold at the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A general-purpose register of vCPU 0, by its number in instruction encodings.
    Register {
        /// 0-15: RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8-R15.
        number: u8,
        /// Its value.
        value: u64,
    },
    /// Eight bytes of RAM.
    Memory {
        /// Guest-physical address.
        address: u64,
        /// Little-endian value.
        value: u64,
    },
    /// An XMM register of vCPU 0.
    Xmm {
        /// 0-15.
        number: u8,
        /// Its value.
        value: u128,
    },
}
