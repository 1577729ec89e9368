//! A tap device: an interface of the host whose other end is the guest's card.
//!
//! The administrator makes it, gives it to a user and connects it; here it is only opened. Frames
//! come and go with virtio's own header, so large segments and unfinished checksums stay as they are.
//! Invariant: nothing but [`TapWatch::wait`] waits; what the host does not take at once is dropped.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};

use crate::frame::Offload;
use crate::sys::tun;

/// Bytes of the header before each frame (virtio 1.2, 5.1.6), the number of buffers left out.
pub const TAP_HEADER: usize = 10;
const DEVICE: &str = "/dev/net/tun";
/// Longest name (IFNAMSIZ less the zero).
const NAME_MAX: usize = 15;

/// Why a tap device can't be had.
#[derive(Debug, thiserror::Error)]
pub enum TapError {
    /// Not a name that an interface can have.
    #[error("{0:?} is no name of an interface: give 1 to 15 characters without slash or space")]
    Name(String),
    /// Nobody made it.
    #[error(
        "this host has no interface {0}; an administrator makes one with `ip tuntap add {0} mode tap \
         user NAME && ip link set {0} up`, or use --net user, which needs none"
    )]
    Missing(String),
    /// It belongs to somebody else.
    #[error(
        "this user may not use the tap device {0}: an administrator gives it away with `ip tuntap add {0} \
         mode tap user NAME`; or use --net user, which needs no permission"
    )]
    NotPermitted(String),
    /// Another VM has it.
    #[error("the tap device {0} is in use by another program")]
    InUse(String),
    /// The interface is there, but of another kind.
    #[error(
        "the interface {0} is no tap device (or one of several queues): `ip tuntap list` lists those there are"
    )]
    NotTap(String),
    /// The host cannot.
    #[error("can't open {DEVICE} for the tap device {name}; is the module tun there?")]
    Device {
        /// Asked for.
        name: String,
        /// What the host said.
        source: io::Error,
    },
}

/// An open tap device.
pub struct Tap {
    file: File,
    watch: Arc<TapWatch>,
    dropped: u64,
}

/// Where to wait for a tap device.
pub struct TapWatch {
    tap: OwnedFd,
    wake: Arc<OwnedFd>,
    /// All that was there has been read, so that the next frame is worth a wake-up.
    drained: AtomicBool,
}

impl Tap {
    /// Opens an interface of this name.
    ///
    /// # Errors
    /// What is in the way, and what to do.
    pub fn open(name: &str) -> Result<Self, TapError> {
        let owned = || name.to_owned();
        let plain = |c: char| !c.is_whitespace() && c != '/' && !c.is_control();
        let sound = (1..=NAME_MAX).contains(&name.len()) && name.chars().all(plain);
        if !sound || name == "." || name == ".." {
            return Err(TapError::Name(owned()));
        }
        let interface = Path::new("/sys/class/net").join(name);
        if !interface.exists() {
            return Err(TapError::Missing(owned()));
        }
        if !interface.join("tun_flags").exists() {
            return Err(TapError::NotTap(owned()));
        }
        let flags = (rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::CLOEXEC).bits();
        let open = File::options().read(true).write(true).custom_flags(flags as i32).open(DEVICE);
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::PermissionDenied => TapError::NotPermitted(owned()),
            io::ErrorKind::ResourceBusy => TapError::InUse(owned()),
            io::ErrorKind::InvalidInput => TapError::NotTap(owned()),
            _ => TapError::Device { name: owned(), source },
        };
        let file = open.map_err(failed)?;
        tun::attach(&file, name.as_bytes()).map_err(failed)?;
        tun::set_offload(&file, 0).map_err(failed)?;
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let watch = TapWatch {
            tap: file.as_fd().try_clone_to_owned().map_err(failed)?,
            wake: Arc::new(wake.map_err(|error| failed(error.into()))?),
            drained: AtomicBool::new(false),
        };
        Ok(Self { file, watch: Arc::new(watch), dropped: 0 })
    }

    /// Where to wait.
    pub fn watch(&self) -> Arc<TapWatch> {
        self.watch.clone()
    }

    /// What may be given to the guest from now on.
    pub fn set_offload(&mut self, offload: Offload) {
        let large = |on: bool, bit: u32| if on && offload.checksum { bit } else { 0 };
        let flags = large(true, 1) | large(offload.tcp4, 2) | large(offload.tcp6, 4);
        // The kernel knows all three; without them frames are only smaller.
        let _ = tun::set_offload(&self.file, flags);
    }

    /// Sends a frame behind its header.
    pub fn send(&mut self, header: [u8; TAP_HEADER], frame: &[u8]) {
        let whole = with_count(header);
        let sent = (&self.file).write_vectored(&[IoSlice::new(&whole), IoSlice::new(frame)]);
        self.dropped += u64::from(sent.is_err());
    }

    /// The next frame and its header; its length.
    pub fn receive(&mut self, buffer: &mut [u8]) -> Option<([u8; TAP_HEADER], usize)> {
        let mut header = [0; tun::HEADER_BYTES];
        loop {
            let mut parts = [IoSliceMut::new(&mut header), IoSliceMut::new(buffer)];
            match (&self.file).read_vectored(&mut parts) {
                Ok(count) if count > header.len() => {
                    let header = header.first_chunk().expect("twelve bytes");
                    return Some((*header, count - tun::HEADER_BYTES));
                }
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    self.watch.drained.store(true, Ordering::Release);
                    return None;
                }
            }
        }
    }

    /// Frames that the host did not take.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }
}

/// The header as the kernel has it, with a number of buffers that means nothing.
fn with_count(header: [u8; TAP_HEADER]) -> [u8; tun::HEADER_BYTES] {
    let mut whole = [0; tun::HEADER_BYTES];
    whole[..TAP_HEADER].copy_from_slice(&header);
    whole
}

impl TapWatch {
    /// Waits for a frame, if all earlier ones were read, or for [`TapWatch::wake`].
    pub fn wait(&self) {
        let mut watched = vec![PollFd::new(&self.wake, PollFlags::IN)];
        if self.drained.swap(false, Ordering::AcqRel) {
            watched.push(PollFd::new(&self.tap, PollFlags::IN));
        }
        // An error is a wait that ended early.
        let _ = poll(&mut watched, None);
        if !watched[0].revents().is_empty() {
            let _ = rustix::io::read(&self.wake, &mut [0; 8]);
        }
    }

    /// The eventfd that [`TapWatch::wake`] adds to. What was added is taken by a wait alone.
    pub fn event(&self) -> Arc<OwnedFd> {
        self.wake.clone()
    }

    /// Ends a wait, now or the next one.
    pub fn wake(&self) {
        // Full means that it has been told already.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tap_device_is_told_apart() {
        let error = |name: &str| Tap::open(name).map(drop).expect_err(name);
        for name in ["", "a b", "a/b", "..", "a-name-that-is-too-long"] {
            assert!(matches!(error(name), TapError::Name(_)), "{name:?}");
        }
        assert!(matches!(error("oneroof-none"), TapError::Missing(_)));
        assert!(matches!(error("lo"), TapError::NotTap(_)));
    }
}
