//! Why a VM cannot start, a sentence for each.

use std::path::PathBuf;

use thiserror::Error;

use crate::fetch::FetchError;
use crate::initramfs::InitramfsError;
use crate::kernel::KernelError;

/// Why a VM cannot start.
#[derive(Debug, Error)]
pub enum RunError {
    /// `-c 0`.
    #[error("a VM needs at least one CPU: -c 1")]
    NoCpus,
    /// More than an APIC can name.
    #[error("a VM has at most {most} CPUs, not {cpus}")]
    TooManyCpus {
        /// Asked for.
        cpus: u32,
        /// Possible.
        most: u32,
    },
    /// The order of several vCPUs is the host's.
    #[error("--deterministic is for one CPU, not {cpus}: -c 1")]
    DeterministicCpus {
        /// Asked for.
        cpus: u32,
    },
    /// An engine that does not count instructions.
    #[error("--deterministic needs an engine that counts instructions: --engine soft")]
    DeterministicEngine,
    /// Something that other programs put into the guest at moments of their own.
    #[error("{option} lets the host in while the guest runs, which --deterministic cannot repeat")]
    DeterministicInput {
        /// What.
        option: &'static str,
    },
    /// `--device` with a name or an option that is none.
    #[error("--device {text}: {why}")]
    Device {
        /// As it was given.
        text: String,
        /// What is wrong.
        why: String,
    },
    /// The events' file is not there.
    #[error("cannot read input events from {}", .path.display())]
    InputEvents {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The sockets cannot be made.
    #[error(transparent)]
    Vsock(#[from] virtio::vsock::VsockError),
    /// The events' file cannot be made.
    #[error("cannot write the events to {}", .path.display())]
    Trace {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Less than any kernel boots with.
    #[error("{wanted} MiB of memory is too small for any kernel: at least {least} MiB")]
    MemoryTooSmall {
        /// Asked for, in MiB.
        wanted: u64,
        /// Needed, in MiB.
        least: u64,
    },
    /// More than the host has.
    #[error("{wanted} MiB of memory is more than this host has ({host} MiB)")]
    MemoryTooLarge {
        /// Asked for, in MiB.
        wanted: u64,
        /// The host's, in MiB.
        host: u64,
    },
    /// The memory could not be had.
    #[error("cannot allocate the guest's memory")]
    Memory(#[from] memory::MemoryError),
    /// `--engine kvm` where there is none.
    #[error("--engine kvm cannot have /dev/kvm: {0}")]
    Kvm(String),
    /// No kernel.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// None found, and fetching one failed.
    #[error("{tried}\n{error}")]
    NoKernel {
        /// Where it was searched for.
        tried: KernelError,
        /// Why none was fetched.
        error: FetchError,
    },
    /// The kernel file is none.
    #[error("cannot boot {}", .path.display())]
    KernelFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The initrd cannot be read.
    #[error("cannot read the initrd {}", .path.display())]
    InitrdUnreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The initrd file is none.
    #[error("cannot use {} as an initrd", .path.display())]
    InitrdFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        #[source]
        source: firmware::kernel::InitrdError,
    },
    /// More disks than names for them.
    #[error("a VM has at most {most} disks, not {disks}")]
    TooManyDisks {
        /// Asked for.
        disks: usize,
        /// Possible.
        most: usize,
    },
    /// A disk image cannot be attached.
    #[error(transparent)]
    Disk(#[from] crate::disk::DiskError),
    /// `-d` with a directory.
    #[error("{path} is a directory, not a disk image: `--share {path}` shows it to the guest as one", path = .0.display())]
    FolderAsDisk(PathBuf),
    /// A directory cannot be shared.
    #[error(transparent)]
    Share(#[from] fs::ShareError),
    /// A place in the guest that is none.
    #[error("cannot share a directory at {}: a place in the guest is an absolute path below /", .at.display())]
    ShareAt {
        /// The place.
        at: PathBuf,
    },
    /// Two shares at one place.
    #[error("two directories are shared at {}: leave out one, or say `:/another/path`", .at.display())]
    ShareTwice {
        /// The place.
        at: PathBuf,
    },
    /// More shares than there is room for.
    #[error("a VM has at most {most} shares, not {shares}")]
    TooManyShares {
        /// Asked for.
        shares: usize,
        /// Possible.
        most: usize,
    },
    /// A kernel without a driver for shares.
    #[error("the kernel {} has no {what}, which --share takes", .kernel.display())]
    ShareUnsupported {
        /// The kernel.
        kernel: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// A kernel without a driver for the host's user space.
    #[error("the kernel {} has no {what}, which --root host takes: --root none", .kernel.display())]
    RootUnsupported {
        /// The kernel.
        kernel: PathBuf,
        /// What it lacks.
        what: &'static str,
    },
    /// The network cannot be had.
    #[error(transparent)]
    Network(#[from] super::network::NetError),
    /// The initrd was there, and could not be written into the guest's memory.
    #[error("cannot load the initrd")]
    Initrd(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A command for a guest that has no init of ours.
    #[error(
        "{0} boots untouched, so there is nothing to run the command `{1}`; leave out one of them"
    )]
    CommandWithoutInit(&'static str, String),
    /// The initramfs cannot be made.
    #[error(transparent)]
    Initramfs(#[from] InitramfsError),
    /// The engine failed to start.
    #[error("the {engine} engine cannot start")]
    Engine {
        /// Its name.
        engine: &'static str,
        /// Why.
        #[source]
        source: engine::EngineError,
    },
    /// The machine cannot be built.
    #[error("cannot build the machine")]
    Machine(#[source] Box<dyn std::error::Error + Send + Sync>),
}
