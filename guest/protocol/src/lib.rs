//! What guest init and host control say to one another: the session's frames and the job file.
//!
//! The session runs over the second serial port, so the format survives a byte stream that starts
//! with garbage or loses a byte: every frame is marked, bounded and checksummed, and the decoder
//! looks for the next good one. Invariant: both sides are compiled from this crate, and
//! [`VERSION`] changes when the meaning of any byte does.
#![forbid(unsafe_code)]

mod crc;
mod frame;
mod job;
mod message;

pub use frame::{Decoder, MAX_PAYLOAD, encode_frame};
pub use job::{
    HostRoot, Job, JobError, Module, ModuleTrigger, Network, Share, ShareMode, User, WindowSize,
};
pub use message::{FromGuest, ToGuest};

/// The protocol's version, said by init in its first message and checked in the job file.
pub const VERSION: u16 = 2;

/// How many bytes of standard input may be on their way: sent by the host and not yet reported
/// as [`FromGuest::Consumed`]. Below the 64 KiB that a Linux tty buffers without flow control.
pub const STDIN_WINDOW: usize = 16 * 1024;

/// The host's vsock port (virtio 1.2, 5.10) that leads to the session: from the guest's
/// [`FromGuest::Moved`] on, its messages are there and no more on the serial port; the host's from its
/// own [`ToGuest::Moved`] on. "ROOF", so that no service has it.
pub const SESSION_PORT: u32 = 0x524f_4f46;

/// Where init finds its job inside the initramfs.
pub const JOB_PATH: &str = "/oneroof/job";
