//! The serial line to the host, raw, carrying [`protocol`] frames.
//!
//! Invariant: writing blocks until the kernel has taken every byte, so a slow host slows the
//! command down and nothing is lost; reading never blocks.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{Decoder, FromGuest, ToGuest};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

pub(crate) struct Link {
    line: OwnedFd,
    decoder: Decoder,
    wire: Vec<u8>,
}

impl Link {
    /// Opens the line and puts it into raw mode.
    pub(crate) fn open(path: &str) -> Result<Self, Errno> {
        let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
        let line = rustix::fs::open(path, flags, Mode::empty())?;
        let mut settings = tcgetattr(&line)?;
        settings.make_raw();
        // Reads give what there is, at once: VMIN and VTIME of zero.
        settings.special_codes[rustix::termios::SpecialCodeIndex::VMIN] = 0;
        settings.special_codes[rustix::termios::SpecialCodeIndex::VTIME] = 0;
        settings.set_speed(115_200)?;
        tcsetattr(&line, OptionalActions::Now, &settings)?;
        Ok(Self { line, decoder: Decoder::default(), wire: Vec::new() })
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &FromGuest) -> Result<(), String> {
        self.wire.clear();
        message.encode(&mut self.wire);
        let mut rest = self.wire.as_slice();
        while !rest.is_empty() {
            match rustix::io::write(&self.line, rest) {
                Ok(count) => rest = &rest[count..],
                Err(Errno::INTR) => {}
                Err(error) => return Err(format!("cannot write to the session's line: {error}")),
            }
        }
        Ok(())
    }

    /// The next message that has come, if any.
    pub(crate) fn receive(&mut self) -> Result<Option<ToGuest>, String> {
        let mut bytes = [0; 4096];
        loop {
            while let Some((kind, payload)) = self.decoder.next_frame() {
                if let Some(message) = ToGuest::decode(kind, &payload) {
                    return Ok(Some(message));
                }
            }
            match rustix::io::read(&self.line, &mut bytes) {
                Ok(0) | Err(Errno::AGAIN) => return Ok(None),
                Ok(count) => self.decoder.push(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(format!("cannot read the session's line: {error}")),
            }
        }
    }

    /// Waits until the last byte has left the port.
    pub(crate) fn drain(&self) {
        // A failure here costs the last bytes at worst, and there is nobody left to tell.
        let _ = tcdrain(&self.line);
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.line.as_fd()
    }
}
