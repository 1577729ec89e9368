//! Disk images opened and locked for a VM, and its random bytes.
//!
//! Invariant: everything about an image that can be wrong is found here, before the guest starts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio::block::{Block, Disk, RawFile};
use virtio::{Device, Rng};

use super::config::{DiskConfig, Effective};
use super::error::RunError;

/// What a guest can have: the names /dev/vda to /dev/vdz.
const MOST: usize = 26;

/// Opens and locks the images.
pub(super) fn open(disks: &[DiskConfig]) -> Result<Vec<Arc<dyn Disk>>, RunError> {
    if disks.len() > MOST {
        return Err(RunError::TooManyDisks { disks: disks.len(), most: MOST });
    }
    let open_one = |disk: &DiskConfig| {
        let file = RawFile::open(&disk.path, disk.read_only)?;
        Ok(Arc::new(file) as Arc<dyn Disk>)
    };
    disks.iter().map(open_one).collect()
}

/// The machine's virtio devices.
pub(super) fn devices(effective: &Effective, disks: Vec<Arc<dyn Disk>>) -> Vec<Box<dyn Device>> {
    let rng = match &effective.deterministic {
        Some(run) => repeatable(run.seed),
        None => Rng::of_host(),
    };
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(rng)];
    for (letter, disk) in ('a'..='z').zip(disks) {
        devices.push(Box::new(Block::new(disk, &format!("oneroof-vd{letter}"))));
    }
    devices
}

/// The same random bytes in every run with this seed (splitmix64).
fn repeatable(seed: u64) -> Rng {
    const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
    let state = AtomicU64::new(seed);
    Rng::new(Arc::new(move |bytes: &mut [u8]| {
        for piece in bytes.chunks_mut(8) {
            let mut word = state.fetch_add(STEP, Ordering::Relaxed).wrapping_add(STEP);
            word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            piece.copy_from_slice(&(word ^ (word >> 31)).to_le_bytes()[..piece.len()]);
        }
        Ok(())
    }))
}
