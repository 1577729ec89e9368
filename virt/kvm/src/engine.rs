//! One VM on KVM: memory slots, interrupt topology, CPUID (api.rst, 4.2-4.35).
//!
//! Invariant: the VM's file descriptor never outlives guest RAM, which it maps by host address;
//! every holder of either keeps [`Shared`] alive.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use engine::{Capabilities, Engine, EngineError, KernelPaths, MsiMessage, Vcpu, VmConfig};
use kvm_bindings::{
    KVM_CAP_SPLIT_IRQCHIP, KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS, kvm_cpuid_entry2,
    kvm_enable_cap, kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VcpuFd, VmFd};
use memory::GuestMemory;
use x86::CpuState;
use x86::cpuid::CpuidEntry;

use crate::cpuid;
use crate::error::{KvmError, failed, refused};
use crate::halt::Roll;
use crate::host;
use crate::kick::Doorbell;
use crate::paths::{Doorbells, Paths};
use crate::routes::{LEVEL, ROUTES, Routes, signal};
use crate::state::StateLayout;
use crate::vcpu::KvmVcpu;

/// One page for real mode on processors that cannot run it themselves, three more for a TSS.
const IDENTITY_MAP: u64 = 0xfffb_c000;
const TSS: u64 = IDENTITY_MAP + 0x1000;
const TSS_END: u64 = TSS + 0x3000;

/// What an interrupt message says in data bits 10:8.
const DELIVERY_NMI: u32 = 4 << 8;

/// The engine over /dev/kvm.
pub struct KvmEngine {
    shared: Arc<Shared>,
    paths: Option<Paths>,
    /// vCPUs not yet handed out.
    waiting: Mutex<Vec<Option<VcpuFd>>>,
}

/// What engine and vCPUs share.
pub(crate) struct Shared {
    pub(crate) vm: VmFd,
    pub(crate) capabilities: Capabilities,
    pub(crate) cpuid: Vec<CpuidEntry>,
    pub(crate) layout: StateLayout,
    pub(crate) doorbells: Vec<Arc<Doorbell>>,
    /// Level of the 8259 pair's output.
    pub(crate) pic_output: AtomicBool,
    pub(crate) routes: Routes,
    pub(crate) bells: Doorbells,
    pub(crate) roll: Roll,
    pub(crate) step_blocks_interrupts: bool,
    /// Mapped into the VM; dropped after it.
    _memory: Arc<GuestMemory>,
}

impl KvmEngine {
    /// A VM with this RAM and number of vCPUs.
    pub fn new(config: VmConfig) -> Result<Self, KvmError> {
        let kvm = host::open()?;
        check_config(&kvm, &config)?;
        let vm = host::create_vm(&kvm)?;
        set_up_interrupts(&vm)?;
        set_up_memory(&vm, &config.memory)?;

        let fds = (0..config.cpus)
            .map(|index| vm.create_vcpu(index.into()).map_err(refused("KVM_CREATE_VCPU")))
            .collect::<Result<Vec<_>, _>>()?;
        let tsc_khz = fds[0].get_tsc_khz().ok().filter(|&khz| khz > 0);
        let tsc_khz = tsc_khz.unwrap_or_else(measure_tsc_khz);
        let table = cpuid::table(&kvm, config.cpus, tsc_khz)?;
        set_cpuid(&fds, &table)?;

        let shared = Shared {
            capabilities: Capabilities { name: "kvm", tsc_khz, instruction_budget: false },
            cpuid: cpuid::neutral(cpuid::for_vcpu(&table, 0).as_slice()),
            layout: StateLayout::of(&fds[0], &cpuid::neutral(&table)),
            doorbells: (0..config.cpus).map(|_| Arc::default()).collect(),
            pic_output: AtomicBool::new(false),
            routes: Routes::default(),
            bells: Doorbells::default(),
            roll: Roll::new(config.cpus),
            step_blocks_interrupts: host::can_block_interrupts_in_step(&vm),
            vm,
            _memory: config.memory,
        };
        let waiting = Mutex::new(fds.into_iter().map(Some).collect());
        let has_paths = [Cap::Ioeventfd, Cap::Irqfd, Cap::IrqRouting]
            .into_iter()
            .all(|capability| shared.vm.check_extension(capability));
        let shared = Arc::new(shared);
        let paths = has_paths.then(|| Paths(shared.clone()));
        Ok(Self { shared, paths, waiting })
    }
}

impl Shared {
    /// Delivers a message to local APICs. One that no APIC takes is the guest's loss.
    pub(crate) fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        if message.data & LEVEL == LEVEL {
            self.routes.expect(&self.vm, message)?;
        }
        match self.vm.signal_msi(signal(message)) {
            Ok(_) => Ok(()),
            Err(error) if error.errno() == libc::EPERM => Ok(()),
            Err(error) => Err(failed("KVM_SIGNAL_MSI")(error)),
        }
    }
}

impl Engine for KvmEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn cpuid(&self) -> &[CpuidEntry] {
        &self.shared.cpuid
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let fd = waiting.get_mut(index as usize).and_then(Option::take);
        let fd = fd.ok_or(EngineError::Unsupported { engine: "kvm", what: "this vCPU index" })?;
        let mut vcpu = KvmVcpu::new(self.shared.clone(), fd, index);
        vcpu.set_state(&CpuState::reset(index))?;
        Ok(Box::new(vcpu))
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        self.shared.signal_msi(message)
    }

    fn set_pic_output(&self, high: bool) {
        let before = self.shared.pic_output.swap(high, Ordering::SeqCst);
        if high && !before {
            self.shared.doorbells[0].nudge();
        }
    }

    fn inject_nmi(&self, index: u32) -> Result<(), EngineError> {
        // KVM_NMI would wait until the vCPU leaves KVM_RUN; a message does not.
        let address = 0xfee0_0000 | u64::from(index & 0xff) << 12;
        self.shared.signal_msi(MsiMessage { address, data: DELIVERY_NMI })
    }

    fn kernel_paths(&self) -> Option<&dyn KernelPaths> {
        self.paths.as_ref().map(|paths| paths as &dyn KernelPaths)
    }
}

fn check_config(kvm: &Kvm, config: &VmConfig) -> Result<(), KvmError> {
    let most = kvm.get_max_vcpus().min(255) as u32;
    if config.cpus == 0 || config.cpus > most {
        return Err(KvmError::TooManyCpus { asked: config.cpus, most });
    }
    for region in config.memory.regions() {
        let (start, end) = (region.start.0, region.start.0 + region.size);
        if start < TSS_END && end > IDENTITY_MAP {
            return Err(KvmError::Layout { start, end });
        }
    }
    Ok(())
}

/// Local APICs in the kernel, everything else with the machine; 32-bit APIC ids, so that the id
/// register of an x2APIC reads and writes whole.
fn set_up_interrupts(vm: &VmFd) -> Result<(), KvmError> {
    let split = enable(KVM_CAP_SPLIT_IRQCHIP, ROUTES as u64);
    vm.enable_cap(&split).map_err(refused("KVM_CAP_SPLIT_IRQCHIP"))?;
    let x2apic = enable(KVM_CAP_X2APIC_API, KVM_X2APIC_API_USE_32BIT_IDS.into());
    vm.enable_cap(&x2apic).map_err(refused("KVM_CAP_X2APIC_API"))
}

fn enable(cap: u32, argument: u64) -> kvm_enable_cap {
    kvm_enable_cap { cap, args: [argument, 0, 0, 0], ..Default::default() }
}

fn set_up_memory(vm: &VmFd, memory: &GuestMemory) -> Result<(), KvmError> {
    if vm.check_extension(Cap::SetIdentityMapAddr) {
        vm.set_identity_map_address(IDENTITY_MAP).map_err(refused("KVM_SET_IDENTITY_MAP_ADDR"))?;
    }
    vm.set_tss_address(TSS as usize).map_err(refused("KVM_SET_TSS_ADDR"))?;
    let base = memory.host_base() as u64;
    for (slot, region) in memory.regions().iter().enumerate() {
        let slot = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start.0,
            memory_size: region.size,
            userspace_addr: base + region.offset.0,
        };
        // SAFETY: the range is inside the mapping that `memory` owns, and `Shared` keeps `memory`
        // alive for as long as the VM exists. Other threads access it by single instructions
        // only, as memory.rs asks.
        unsafe { vm.set_user_memory_region(slot) }
            .map_err(refused("KVM_SET_USER_MEMORY_REGION"))?;
    }
    Ok(())
}

fn set_cpuid(fds: &[VcpuFd], table: &[kvm_cpuid_entry2]) -> Result<(), KvmError> {
    for (index, fd) in fds.iter().enumerate() {
        let table = cpuid::for_vcpu(table, index as u32);
        fd.set_cpuid2(&table).map_err(refused("KVM_SET_CPUID2"))?;
    }
    Ok(())
}

/// For hosts whose KVM does not know its TSC's frequency.
fn measure_tsc_khz() -> u32 {
    let (begin, tsc) = (Instant::now(), host::rdtsc());
    std::thread::sleep(Duration::from_millis(5));
    let (elapsed, ticks) = (begin.elapsed(), host::rdtsc().wrapping_sub(tsc));
    (u128::from(ticks) * 1_000_000 / elapsed.as_nanos().max(1)) as u32
}
