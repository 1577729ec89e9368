//! Hostile input for every seam that faces a guest or a stranger's file.
//!
//! Each public function takes bytes, does with them the worst they can say, and panics if
//! something broke: the code under test panicked, an invariant does not hold, an answer did not
//! come in time. The fuzz targets in `fuzz/` call them with what libFuzzer finds, this crate's
//! tests with seeded random bytes, so `cargo test` runs the same code for some seconds.
//!
//! Invariant: a function's work is bounded whatever the bytes, and depends on nothing else (but
//! for the clock that a running machine sees).
#![forbid(unsafe_code)]

mod cursor;
mod disk_images;
mod firmware;
mod host_files;
mod init_protocol;
mod instructions;
mod irqchip;
mod machine;
mod network;
mod network_card;
mod saved_state;
mod shared_folders;
mod virtio;
mod virtio_devices;
mod watchdog;

pub use crate::disk_images::disk_images;
pub use crate::firmware::firmware;
pub use crate::host_files::host_files;
pub use crate::init_protocol::init_protocol;
pub use crate::instructions::instructions;
pub use crate::irqchip::irqchip;
pub use crate::machine::ports_and_mmio;
pub use crate::network::network;
pub use crate::network_card::network_card;
pub use crate::saved_state::saved_state;
pub use crate::shared_folders::shared_folders;
pub use crate::virtio::virtio;
pub use crate::virtio_devices::virtio_devices;

/// A target: its name in `fuzz/` and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("disk_images", disk_images),
    ("firmware", firmware),
    ("host_files", host_files),
    ("init_protocol", init_protocol),
    ("interp", instructions),
    ("irqchip", irqchip),
    ("network", network),
    ("network_card", network_card),
    ("ports_and_mmio", ports_and_mmio),
    ("saved_state", saved_state),
    ("shared_folders", shared_folders),
    ("virtio", virtio),
    ("virtio_devices", virtio_devices),
];
