//! Why there is no KVM engine on this host, in words that say what to do.

use std::io;

use engine::EngineError;
use thiserror::Error;

/// A KVM engine could not be made.
#[derive(Debug, Error)]
pub enum KvmError {
    /// No device node.
    #[error(
        "/dev/kvm does not exist: load the kvm_intel or kvm_amd module, \
         and see that virtualization is switched on in the firmware"
    )]
    Missing,
    /// The node is there, nothing is behind it.
    #[error(
        "/dev/kvm is there but no hypervisor answers behind it: this processor has no \
         virtualization, or the firmware has switched it off"
    )]
    NoHardware,
    /// The user may not open it.
    #[error(
        "no permission to open /dev/kvm: add yourself to the kvm group \
         (sudo usermod -aG kvm \"$USER\") and log in again"
    )]
    Denied,
    /// Something else owns the virtualization extensions.
    #[error(
        "the processor's virtualization is busy: another hypervisor (VirtualBox, VMware, \
         Xen) holds it; stop it and try again"
    )]
    Busy,
    /// An API from before 2007, or not KVM at all.
    #[error("/dev/kvm speaks API version {version}, this program needs 12")]
    Version {
        /// What it said.
        version: i32,
    },
    /// A capability that every kernel since 4.12 has is missing.
    #[error("the host's KVM lacks {what}: it needs Linux 4.12 or later")]
    Lacks {
        /// The capability.
        what: &'static str,
    },
    /// The VM asked for cannot be.
    #[error("the host's KVM allows {most} vCPUs, not {asked}")]
    TooManyCpus {
        /// How many were asked for.
        asked: u32,
        /// How many it allows.
        most: u32,
    },
    /// RAM where KVM keeps pages of its own.
    #[error("guest RAM at {start:#x}..{end:#x} covers the pages that KVM keeps below 4 GiB")]
    Layout {
        /// First byte of the region.
        start: u64,
        /// First byte after it.
        end: u64,
    },
    /// A host call failed.
    #[error("{call} failed")]
    Host {
        /// Which call.
        call: &'static str,
        /// What it said.
        #[source]
        source: io::Error,
    },
    /// The first vCPU could not be set up.
    #[error(transparent)]
    Vcpu(#[from] EngineError),
}

impl From<KvmError> for EngineError {
    fn from(error: KvmError) -> Self {
        match error {
            KvmError::Vcpu(error) => error,
            KvmError::Host { call, source } => Self::Host { call, source },
            other => Self::Host { call: "opening /dev/kvm", source: io::Error::other(other) },
        }
    }
}

/// Names the failed call of an engine that is already running.
pub(crate) fn failed(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> EngineError {
    move |error| EngineError::Host { call, source: error.into() }
}

/// Names the failed call of an engine in the making.
pub(crate) fn refused(call: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |error| KvmError::Host { call, source: error.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_permission_error_names_the_group() {
        assert!(KvmError::Denied.to_string().contains("kvm group"));
        let engine = EngineError::from(KvmError::Denied);
        let EngineError::Host { source, .. } = engine else { panic!("kept as a host error") };
        assert!(source.to_string().contains("kvm group"));
    }
}
