//! What a kernel zeroed at its start and has not used since goes back to the host.
//!
//! A Linux that has come as far as its first virtio driver has cleared its .bss and its hash tables, freed
//! its initramfs, looked through the BIOS area: 10 MiB of zeros that the host would hold for good.
//!
//! Invariant: nobody writes to RAM between the look and the release. The only processor waits for the
//! access that sets the first device going, and no device has been active before.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use memory::GuestMemory;

/// What the first device to be set going calls first; `None` with several processors, which would go on
/// writing meanwhile.
pub(crate) fn before_first_device(
    memory: &Arc<GuestMemory>,
    cpus: u32,
) -> Option<Arc<dyn Fn() + Send + Sync>> {
    let memory = memory.clone();
    let is_done = AtomicBool::new(false);
    let sweep = move || {
        if !is_done.swap(true, Ordering::Relaxed) {
            // A host that keeps them is no worse off.
            let _ = memory.release_zeros();
        }
    };
    (cpus == 1).then(|| Arc::new(sweep) as _)
}
