//! One VM on the software engine.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use engine::{Capabilities, Engine, EngineError, MsiMessage, Vcpu, VirtualTime, VmConfig};
use x86::cpuid::{CpuidEntry, Vendor};

use crate::clock::Clock;
use crate::cpuid;
use crate::shared::Shared;
use crate::vcpu::SoftVcpu;

/// How guest code is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Execution {
    /// Hot code is translated, the rest interpreted.
    #[default]
    Translate,
    /// Everything is interpreted.
    Interpret,
    /// Translator and interpreter run in lockstep; the first difference is our mistake, reported
    /// and fatal. Slow.
    Check,
}

/// What a VM on the software engine can be asked to be.
#[derive(Clone, Debug, Default)]
pub struct SoftOptions {
    /// The processors' vendor; the host's if `None`.
    pub vendor: Option<Vendor>,
    /// How guest code is executed.
    pub execution: Execution,
    /// Instructions make the time; one vCPU only.
    pub virtual_time: Option<Arc<VirtualTime>>,
    /// Bound on each vCPU's translated code; 64 MiB if `None`. At least 4 MiB and a bit.
    pub code_bytes: Option<usize>,
    /// Code counts as hot at once: slower, but short programs see all that long ones do. For tests.
    pub hurried: bool,
}

/// The software engine.
pub struct SoftEngine {
    shared: Arc<Shared>,
    created: Mutex<HashSet<u32>>,
}

impl SoftEngine {
    /// A VM with this RAM and number of vCPUs, of the host's vendor.
    pub fn new(config: VmConfig) -> Result<Self, EngineError> {
        Self::with_options(config, SoftOptions::default())
    }

    /// Likewise, as asked.
    pub fn with_options(config: VmConfig, options: SoftOptions) -> Result<Self, EngineError> {
        if config.cpus == 0 || config.cpus > 255 {
            return Err(EngineError::Unsupported { engine: "soft", what: "this number of vCPUs" });
        }
        if options.execution == Execution::Check && config.cpus > 1 {
            return Err(EngineError::Unsupported {
                engine: "soft,check",
                what: "more than one vCPU: another one's stores are no difference",
            });
        }
        if options.virtual_time.is_some() && config.cpus > 1 {
            return Err(EngineError::Unsupported {
                engine: "soft",
                what: "virtual time with more than one vCPU: their order is the host's",
            });
        }
        let khz = Clock::of(options.virtual_time.is_some()).khz();
        let table = cpuid::table(config.cpus, khz, options.vendor);
        let shared = Arc::new(Shared::new(config.memory, table, config.cpus, &options));
        let told = Arc::downgrade(&shared);
        shared.memory.listen_for_code(Some(Arc::new(move |page| {
            if let Some(shared) = told.upgrade() {
                shared.code_changed(page);
            }
        })));
        Ok(Self { shared, created: Mutex::default() })
    }
}

impl Engine for SoftEngine {
    fn capabilities(&self) -> &Capabilities {
        &self.shared.capabilities
    }

    fn cpuid(&self) -> &[CpuidEntry] {
        &self.shared.cpuid
    }

    fn create_vcpu(&self, index: u32) -> Result<Box<dyn Vcpu>, EngineError> {
        let known = (index as usize) < self.shared.vcpus.len();
        let fresh = self.created.lock().expect("no holder panics").insert(index);
        if !known || !fresh {
            return Err(EngineError::Unsupported { engine: "soft", what: "this vCPU index" });
        }
        Ok(Box::new(SoftVcpu::new(self.shared.clone(), index)?))
    }

    fn signal_msi(&self, message: MsiMessage) -> Result<(), EngineError> {
        self.shared.deliver_msi(message);
        Ok(())
    }

    fn set_pic_output(&self, high: bool) {
        self.shared.set_pic_output(high);
    }

    fn inject_nmi(&self, index: u32) -> Result<(), EngineError> {
        let vcpu = self
            .shared
            .vcpus
            .get(index as usize)
            .ok_or(EngineError::Unsupported { engine: "soft", what: "this vCPU index" })?;
        vcpu.notify_nmi();
        Ok(())
    }
}
