//! Disk images opened and locked for a VM, and its random bytes.
//!
//! Invariant: everything about an image that can be wrong is found here, before the guest starts.

mod attached;
mod config;

use std::os::unix::fs::FileTypeExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use virtio::block::Block;
use virtio::{Device, Rng};

use super::assemble::End;
use super::config::Effective;
use super::error::RunError;
use super::outbox::Outbox;
use super::report::Event;
use crate::disk::{Disk, OpenOptions};
use attached::{Attached, Told};
pub use config::{Access, DiskConfig};

/// What a guest can have: the names /dev/vda to /dev/vdz.
const MOST: usize = 26;

/// Opens and locks the images; gives also what the user's wishes come to.
pub(super) fn open(disks: &[DiskConfig]) -> Result<(Vec<Disk>, Vec<DiskConfig>), RunError> {
    if disks.len() > MOST {
        return Err(RunError::TooManyDisks { disks: disks.len(), most: MOST });
    }
    let open_one = |disk: &DiskConfig| {
        let disk = settled(disk)?;
        let options = OpenOptions {
            format: disk.format,
            read_only: disk.access == Access::ReadOnly,
            copy_on_write: disk.access == Access::CopyOnWrite,
            backing: disk.backing.clone(),
        };
        Ok((Disk::open(&disk.path, &options)?, disk))
    };
    let opened: Result<Vec<_>, RunError> = disks.iter().map(open_one).collect();
    Ok(opened?.into_iter().unzip())
}

/// A disk whose access is settled: a block device is the host's own, so it is not written to
/// unless that was said.
fn settled(disk: &DiskConfig) -> Result<DiskConfig, RunError> {
    let mut disk = disk.clone();
    // What cannot be looked at cannot be opened either, and is told of then.
    let Ok(status) = std::fs::metadata(&disk.path) else { return Ok(disk) };
    if status.is_dir() {
        return Err(RunError::FolderAsDisk(disk.path));
    }
    if disk.access == Access::Usual && status.file_type().is_block_device() {
        disk.access = Access::CopyOnWrite;
    }
    Ok(disk)
}

/// The machine's virtio devices. What goes wrong with the images is told to the outbox.
pub(super) fn devices(
    effective: &Effective,
    disks: Vec<Disk>,
    outbox: &Arc<Outbox<End>>,
) -> Vec<Box<dyn Device>> {
    let rng = match &effective.deterministic {
        Some(run) => repeatable(run.seed),
        None => Rng::of_host(),
    };
    let mut devices: Vec<Box<dyn Device>> = vec![Box::new(rng)];
    for (letter, disk) in ('a'..='z').zip(disks) {
        let outbox = outbox.clone();
        let tell = Box::new(move |told| {
            outbox.push_word(match told {
                Told::Trouble(text) => Event::Trouble(text),
                Told::Detail(text) => Event::Detail(text),
            });
        });
        let attached = Attached::new(disk, format!("vd{letter}"), tell);
        let serial = format!("oneroof-vd{letter}");
        devices.push(Box::new(Block::new(Arc::new(attached), &serial, effective.cpus)));
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
