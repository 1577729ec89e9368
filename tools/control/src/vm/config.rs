//! What the user wants, and what that comes to.
//!
//! Invariant: [`Effective`] has no defaults left in it; as a command line it gives the same VM.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::host;
use crate::initramfs::Terminal;
use crate::kernel::Kernel;

use x86::cpuid::Vendor as CpuVendor;

use super::choose::{Choice, EngineChoice, EngineKind};
use super::disks::DiskConfig;
use super::error::RunError;
use super::extras::Extras;
use super::network::NetConfig;
use super::shares::{Root, Share, ShareWish};

/// The most vCPUs of a VM: the ids an 8-bit local APIC has, less the broadcast one.
const MOST_CPUS: u32 = 255;
/// Memory for one vCPU, and for each further one, in MiB.
const FIRST_CPU_MIB: u64 = 512;
const NEXT_CPU_MIB: u64 = 256;
/// A default never takes more of the host's memory than this, in percent.
const MOST_OF_HOST: u64 = 80;
/// vCPUs on KVM unless told otherwise, at most.
const MOST_DEFAULT_CPUS: u32 = 4;
/// Below this no PC has booted Linux for a long time.
const LEAST_MIB: u64 = 16;

/// What the user wants. `None` is "as you think best".
#[derive(Clone, Debug, Default)]
pub struct RunConfig {
    /// The kernel: a file, or a name in the cache.
    pub kernel: Option<PathBuf>,
    /// The engine.
    pub engine: EngineChoice,
    /// vCPUs.
    pub cpus: Option<u32>,
    /// Guest memory in MiB.
    pub memory_mib: Option<u64>,
    /// An initrd to boot untouched, instead of the generated one.
    pub initrd: Option<PathBuf>,
    /// Disk images, in the order of their names in the guest: /dev/vda, /dev/vdb.
    pub disks: Vec<DiskConfig>,
    /// The guest's root directory.
    pub root: Root,
    /// Directories of the host.
    pub shares: Vec<ShareWish>,
    /// The command runs as the invoking user, not as root.
    pub as_user: bool,
    /// The network: `none`, `user`, `user,loopback` or `tap=NAME`.
    pub net: Option<String>,
    /// Ports of this host that lead into the guest, `[ADDRESS:]HOST:GUEST[/udp]` each.
    pub forwards: Vec<String>,
    /// More kernel command line, after ours.
    pub append: Option<String>,
    /// Ends the VM after this time.
    pub timeout: Option<Duration>,
    /// The command and its arguments; empty for a shell.
    pub command: Vec<OsString>,
    /// The user's terminal, if the guest shall have one.
    pub terminal: Option<Terminal>,
    /// The kernel logs everything to its console.
    pub verbose: bool,
    /// The machine has the devices of kvm-unit-tests: pc-testdev and the debug-exit port.
    pub test_devices: bool,
    /// The processors' vendor if not the host's; the software engine only.
    pub cpu_vendor: Option<CpuVendor>,
    /// Every run is the same run; the software engine with one vCPU only.
    pub deterministic: Option<Deterministic>,
    /// Devices beyond disks.
    pub extras: Extras,
    /// All the input there will be, given to the guest when it asks, at moments that depend on the
    /// guest alone; `None`: it comes through [`super::Controls`].
    pub input: Option<Vec<u8>>,
}

/// How a run is made repeatable: instructions make the time, random numbers come from a seed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deterministic {
    /// Where all random numbers come from.
    pub seed: u64,
    /// Where a line for every event goes.
    pub trace: Option<PathBuf>,
}

/// What will run.
#[derive(Clone, Debug)]
pub struct Effective {
    /// The engine and why.
    pub engine: Choice,
    /// The kernel.
    pub kernel: Kernel,
    /// vCPUs.
    pub cpus: u32,
    /// Guest memory in MiB.
    pub memory_mib: u64,
    /// The whole kernel command line.
    pub command_line: String,
    /// The user's part of it.
    pub append: Option<String>,
    /// The user's initrd.
    pub initrd: Option<PathBuf>,
    /// Disk images.
    pub disks: Vec<DiskConfig>,
    /// The host's root directory is the guest's.
    pub host_root: bool,
    /// Directories of the host.
    pub shares: Vec<Share>,
    /// The command runs as the invoking user.
    pub as_user: bool,
    /// The network.
    pub net: NetConfig,
    /// The time limit.
    pub timeout: Option<Duration>,
    /// The command.
    pub command: Vec<OsString>,
    /// The kernel logs everything.
    pub verbose: bool,
    /// The machine has test devices.
    pub test_devices: bool,
    /// The processors' vendor if not the host's.
    pub cpu_vendor: Option<CpuVendor>,
    /// The run is repeatable.
    pub deterministic: Option<Deterministic>,
    /// Devices beyond disks.
    pub extras: Extras,
    /// Our init runs in the guest.
    pub session: bool,
}

/// What makes a kernel boot fast and talk early here; see the README of each option in the
/// kernel's admin-guide/kernel-parameters.
const COMMAND_LINE: &[&str] = &[
    "console=ttyS0",
    "earlyprintk=serial,ttyS0,115200",
    "panic=-1",
    "tsc=reliable",
    "no_timer_check",
    "8250.nr_uarts=4",
    "cryptomgr.notests",
    "random.trust_cpu=on",
];

impl RunConfig {
    /// vCPUs on this engine.
    pub(super) fn cpus(&self, engine: EngineKind) -> Result<u32, RunError> {
        match (self.cpus, engine) {
            (Some(0), _) => Err(RunError::NoCpus),
            (Some(cpus), _) if cpus > 1 && self.deterministic.is_some() => {
                Err(RunError::DeterministicCpus { cpus })
            }
            (Some(cpus), _) if cpus > MOST_CPUS => {
                Err(RunError::TooManyCpus { cpus, most: MOST_CPUS })
            }
            (Some(cpus), _) => Ok(cpus),
            (None, EngineKind::Soft(_)) => Ok(1),
            (None, EngineKind::Kvm) => Ok(host::cpus().min(MOST_DEFAULT_CPUS)),
        }
    }

    /// Guest memory in MiB.
    pub(super) fn memory_mib(&self, cpus: u32) -> Result<u64, RunError> {
        let host = host::memory_mib();
        let Some(wanted) = self.memory_mib else {
            let scaled = FIRST_CPU_MIB + NEXT_CPU_MIB * u64::from(cpus - 1);
            let limit = host.map_or(scaled, |host| host.total * MOST_OF_HOST / 100);
            return Ok(scaled.min(limit).max(LEAST_MIB));
        };
        if wanted < LEAST_MIB {
            return Err(RunError::MemoryTooSmall { wanted, least: LEAST_MIB });
        }
        match host {
            Some(host) if wanted > host.total => {
                Err(RunError::MemoryTooLarge { wanted, host: host.total })
            }
            _ => Ok(wanted),
        }
    }

    /// The kernel's command line.
    pub(super) fn command_line(&self) -> String {
        let mut words = COMMAND_LINE.to_vec();
        if !self.verbose && self.initrd.is_none() {
            words.extend(["quiet", "loglevel=4"]);
        }
        if self.initrd.is_none() {
            words.push("rdinit=/init");
        }
        if let Some(console) = self.extras.console() {
            // The early console goes when this one comes; a serial one would say everything twice.
            words.retain(|word| *word != "console=ttyS0");
            words.push(console);
        }
        words.extend(self.append.as_deref());
        words.join(" ")
    }
}

impl Effective {
    /// The guest's console is its output, because none of our init is in it.
    pub fn shows_console(&self) -> bool {
        !self.session
    }

    /// The session can have a stream beside its line. In a deterministic run it cannot: when the host
    /// makes room in it is the host's doing.
    pub(super) fn has_stream(&self) -> bool {
        self.session && self.deterministic.is_none()
    }

    /// The command that gives this VM again, for a shell.
    pub fn as_command(&self) -> String {
        let mut words: Vec<String> = vec!["roof".into(), "run".into()];
        words.extend(["--engine".into(), self.engine.kind.name().into()]);
        words.extend(["-c".into(), self.cpus.to_string()]);
        words.extend(["-m".into(), format!("{}M", self.memory_mib)]);
        if let Some(initrd) = &self.initrd {
            words.extend(["-i".into(), quoted_path(initrd)]);
        }
        for disk in &self.disks {
            words.extend(["-d".into(), quoted(&disk.to_string())]);
        }
        if self.session {
            let root = if self.host_root { "host" } else { "none" };
            words.extend(["--root".into(), root.into()]);
        }
        for share in &self.shares {
            words.extend(["--share".into(), quoted(&share.to_string())]);
        }
        if self.as_user {
            words.push("--as-user".into());
        }
        self.net.as_options(&mut words);
        if let Some(append) = &self.append {
            words.extend(["-p".into(), quoted(append)]);
        }
        if let Some(timeout) = self.timeout {
            words.extend(["--timeout".into(), timeout.as_secs_f64().to_string()]);
        }
        if self.verbose {
            words.push("-v".into());
        }
        if self.test_devices {
            words.push("--test-devices".into());
        }
        if let Some(vendor) = self.cpu_vendor {
            words.extend(["--cpu-vendor".into(), vendor.name().into()]);
        }
        if let Some(Deterministic { seed, trace }) = &self.deterministic {
            words.extend(["--deterministic".into(), "--seed".into(), seed.to_string()]);
            if let Some(trace) = trace {
                words.extend(["--trace-events".into(), quoted_path(trace)]);
            }
        }
        words.extend(self.extras.words().iter().map(|word| quoted(word)));
        words.push(quoted_path(&self.kernel.path));
        if !self.command.is_empty() {
            words.push("--".into());
            words.extend(self.command.iter().map(|word| quoted(&word.to_string_lossy())));
        }
        words.join(" ")
    }
}

fn quoted_path(path: &Path) -> String {
    quoted(&path.to_string_lossy())
}

/// A word as a shell takes it.
pub(super) fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', "'\\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("/boot/vmlinuz-6.1"), "/boot/vmlinuz-6.1");
        assert_eq!(quoted("exit 7"), "'exit 7'");
        assert_eq!(quoted("it's"), "'it'\\''s'");
        assert_eq!(quoted(""), "''");
    }

    #[test]
    fn impossible_sizes_are_refused_each_with_its_own_words() {
        let with = |cpus, memory_mib| RunConfig { cpus, memory_mib, ..RunConfig::default() };
        assert!(matches!(
            with(Some(0), None).cpus(EngineKind::Soft(soft::Execution::default())),
            Err(RunError::NoCpus)
        ));
        assert!(matches!(
            with(Some(10_000), None).cpus(EngineKind::Kvm),
            Err(RunError::TooManyCpus { .. })
        ));
        assert!(matches!(with(None, Some(1)).memory_mib(1), Err(RunError::MemoryTooSmall { .. })));
        assert!(matches!(
            with(None, Some(1 << 40)).memory_mib(1),
            Err(RunError::MemoryTooLarge { .. })
        ));
        let two =
            RunConfig { deterministic: Some(Deterministic::default()), ..with(Some(2), None) };
        assert!(matches!(
            two.cpus(EngineKind::Soft(soft::Execution::default())),
            Err(RunError::DeterministicCpus { cpus: 2 })
        ));
        assert_eq!(
            with(None, None).cpus(EngineKind::Soft(soft::Execution::default())).expect("a default"),
            1
        );
        let four = with(None, None).memory_mib(4).expect("a default");
        assert!((LEAST_MIB..=FIRST_CPU_MIB + 3 * NEXT_CPU_MIB).contains(&four));
    }

    #[test]
    fn a_users_initrd_keeps_the_kernels_own_log_and_init() {
        let own = RunConfig { append: Some("foo=1".into()), ..RunConfig::default() }.command_line();
        assert!(own.contains(" quiet ") && own.contains("rdinit=/init") && own.ends_with(" foo=1"));
        let theirs = RunConfig { initrd: Some("x".into()), ..RunConfig::default() }.command_line();
        assert!(
            !theirs.contains("quiet")
                && !theirs.contains("rdinit")
                && theirs.starts_with("console=ttyS0")
        );
    }
}
