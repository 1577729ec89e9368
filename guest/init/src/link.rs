//! The way to the host, carrying [`protocol`] frames: the second serial line, and a vsock stream
//! in its place once there is one.
//!
//! ```text
//! guest: Moved on the line, everything later on the stream
//! host:  Moved on the line, everything later on the stream
//! ```
//!
//! Invariants: writing blocks until the kernel has taken every byte, so a slow host slows the
//! command down and nothing is lost; reading never blocks; each side's messages keep their order.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use protocol::{Decoder, FromGuest, ToGuest};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, Shutdown, recv, shutdown};
use rustix::termios::{OptionalActions, tcdrain, tcgetattr, tcsetattr};

/// How long the host may take to say that it got the last byte.
const FAREWELL: Duration = Duration::from_secs(2);

pub(crate) struct Link {
    line: OwnedFd,
    decoder: Decoder,
    wire: Vec<u8>,
    stream: Option<Stream>,
}

struct Stream {
    socket: OwnedFd,
    decoder: Decoder,
    /// The host speaks here, too.
    heard: bool,
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
        Ok(Self { line, decoder: Decoder::default(), wire: Vec::new(), stream: None })
    }

    /// Takes a connection with the host in place of the line.
    pub(crate) fn move_to(&mut self, socket: OwnedFd) -> Result<(), String> {
        self.send(&FromGuest::Moved)?;
        self.stream = Some(Stream { socket, decoder: Decoder::default(), heard: false });
        Ok(())
    }

    /// Sends one message.
    pub(crate) fn send(&mut self, message: &FromGuest) -> Result<(), String> {
        self.wire.clear();
        message.encode(&mut self.wire);
        let mut rest = self.wire.as_slice();
        let way = self.stream.as_ref().map_or(&self.line, |stream| &stream.socket);
        while !rest.is_empty() {
            match rustix::io::write(way, rest) {
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
            let stream = self.stream.as_mut().filter(|stream| stream.heard);
            let (decoder, read) = match stream {
                Some(Stream { socket, decoder, .. }) => {
                    let read = |bytes: &mut [u8]| recv(&*socket, bytes, RecvFlags::DONTWAIT);
                    while let Some((kind, payload)) = decoder.next_frame() {
                        if let Some(message) = ToGuest::decode(kind, &payload) {
                            return Ok(Some(message));
                        }
                    }
                    let read = read(&mut bytes).map(|(count, _)| count);
                    (decoder, read)
                }
                None => {
                    while let Some((kind, payload)) = self.decoder.next_frame() {
                        match ToGuest::decode(kind, &payload) {
                            Some(ToGuest::Moved) => {
                                if let Some(stream) = &mut self.stream {
                                    stream.heard = true;
                                }
                            }
                            Some(message) => return Ok(Some(message)),
                            None => {}
                        }
                    }
                    if self.stream.as_ref().is_some_and(|stream| stream.heard) {
                        continue;
                    }
                    let read = rustix::io::read(&self.line, &mut bytes);
                    (&mut self.decoder, read)
                }
            };
            match read {
                Ok(0) | Err(Errno::AGAIN) => return Ok(None),
                Ok(count) => decoder.push(&bytes[..count]),
                Err(Errno::INTR) => {}
                Err(error) => return Err(format!("cannot read the session's line: {error}")),
            }
        }
    }

    /// Where the host's next bytes come from.
    pub(crate) fn source(&self) -> BorrowedFd<'_> {
        match &self.stream {
            Some(stream) if stream.heard => stream.socket.as_fd(),
            _ => self.line.as_fd(),
        }
    }

    /// Waits until the last byte is the host's.
    pub(crate) fn drain(&self) {
        let Some(Stream { socket, .. }) = &self.stream else {
            // A failure here costs the last bytes at worst, and there is nobody left to tell.
            let _ = tcdrain(&self.line);
            return;
        };
        if shutdown(socket, Shutdown::Write).is_err() {
            return;
        }
        let limit = Instant::now() + FAREWELL;
        let mut bytes = [0; 4096];
        // The host ends its direction when it has read ours to the end.
        while !matches!(
            recv(socket, &mut bytes, RecvFlags::DONTWAIT),
            Ok((0, _)) | Err(Errno::CONNRESET)
        ) {
            let left = limit.saturating_duration_since(Instant::now());
            let Ok(left) = Timespec::try_from(left) else { return };
            let mut polled = [PollFd::new(socket, PollFlags::IN)];
            if matches!(poll(&mut polled, Some(&left)), Ok(0)) {
                return;
            }
        }
    }
}
