//! The session: bytes between the host's link and the command, until the command ends.
//!
//! Invariants: one thread moves everything; at most [`protocol::STDIN_WINDOW`] bytes of input are
//! held; all output that was written before the command ended is sent before its status.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use protocol::{FromGuest, Job, MAX_PAYLOAD, ToGuest};
use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;

use crate::bulk::Bulk;
use crate::command::Running;
use crate::link::Link;

/// The terminal's end-of-file character, as set by default (termios VEOF).
const END_OF_TRANSMISSION: u8 = 0x04;

/// Runs the job's command to its end; gives its code and signal.
pub(crate) fn run(job: &Job, link: &mut Link) -> Result<(u8, u8), String> {
    let running = match Running::start(job) {
        Ok(running) => running,
        Err(not_started) => {
            let message = format!("oneroof: {}\n", not_started.message);
            let message = if job.terminal { message.replace('\n', "\r\n") } else { message };
            link.send(&FromGuest::Stderr(message.into_bytes()))?;
            return Ok((not_started.code, 0));
        }
    };
    link.send(&FromGuest::Started)?;
    let mut session = Session { running, input: Input::default(), bulk: Bulk::new(&job.modules) };
    for stream in [
        &session.running.streams.input,
        &session.running.streams.output,
        &session.running.streams.error,
    ]
    .into_iter()
    .flatten()
    .chain(&session.running.streams.terminal)
    {
        rustix::io::ioctl_fionbio(stream, true)
            .map_err(|error| format!("cannot make a stream non-blocking: {error}"))?;
    }
    session.pump(link)?;
    session.drain_output(link)?;
    Ok(session.running.status())
}

struct Session {
    running: Running,
    input: Input,
    bulk: Bulk,
}

/// Input on its way to the command.
#[derive(Default)]
struct Input {
    pending: Vec<u8>,
    /// No more will come.
    ended: bool,
}

/// What poll reported, by role.
#[derive(Clone, Copy, Default)]
struct Ready {
    link: bool,
    ended: bool,
    output: bool,
    error: bool,
    input: bool,
    bulk: bool,
}

impl Session {
    fn pump(&mut self, link: &mut Link) -> Result<(), String> {
        loop {
            let ready = self.wait(link)?;
            if ready.link {
                while let Some(message) = link.receive()? {
                    self.take(message);
                }
            }
            if ready.output {
                self.forward_output(link)?;
            }
            if ready.error {
                self.forward_error(link)?;
            }
            if ready.input || ready.link {
                self.feed(link)?;
            }
            if ready.bulk
                && let Some(socket) = self.bulk.take()
            {
                link.move_to(socket)?;
            }
            if ready.ended {
                return Ok(());
            }
        }
    }

    fn wait(&self, link: &Link) -> Result<Ready, String> {
        let streams = &self.running.streams;
        type Role = fn(&mut Ready);
        let input = streams.input.as_ref().filter(|_| !self.input.pending.is_empty());
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags, Role)> = vec![
            (link.source(), PollFlags::IN, |r| r.link = true),
            (self.running.ended.as_fd(), PollFlags::IN, |r| r.ended = true),
        ];
        let optional: [(Option<&OwnedFd>, PollFlags, Role); 3] = [
            (self.output_stream(), PollFlags::IN, |r| r.output = true),
            (streams.error.as_ref(), PollFlags::IN, |r| r.error = true),
            (input, PollFlags::OUT, |r| r.input = true),
        ];
        for (stream, flags, role) in optional {
            watched.extend(stream.map(|stream| (stream.as_fd(), flags, role)));
        }
        let bulk: Role = |r| r.bulk = true;
        watched.extend(self.bulk.done().map(|done| (done, PollFlags::IN, bulk)));
        let mut polled: Vec<PollFd<'_>> =
            watched.iter().map(|(fd, flags, _)| PollFd::from_borrowed_fd(*fd, *flags)).collect();
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(format!("cannot wait for the session: {error}")),
        }
        let mut ready = Ready::default();
        for (fd, (_, _, role)) in polled.iter().zip(&watched) {
            if !fd.revents().is_empty() {
                role(&mut ready);
            }
        }
        Ok(ready)
    }

    fn take(&mut self, message: ToGuest) {
        match message {
            ToGuest::Stdin(data) => self.input.pending.extend_from_slice(&data),
            ToGuest::StdinEnd => {
                if self.running.streams.terminal.is_some() {
                    self.input.pending.push(END_OF_TRANSMISSION);
                } else {
                    self.input.ended = true;
                }
            }
            ToGuest::Resize(size) => self.running.resize(size),
            ToGuest::Signal(number) => self.running.signal(number),
            ToGuest::Moved => {} // the link's own
        }
    }

    /// Gives the command as much input as it takes, and the host as much credit.
    fn feed(&mut self, link: &mut Link) -> Result<(), String> {
        let mut consumed = 0;
        if let Some(stream) = &self.running.streams.input {
            while consumed < self.input.pending.len() {
                match rustix::io::write(stream, &self.input.pending[consumed..]) {
                    Ok(count) => consumed += count,
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => break,
                    Err(_) => {
                        // EPIPE: the command closed its input. The rest goes nowhere.
                        self.running.streams.input = None;
                        break;
                    }
                }
            }
        }
        if self.running.streams.input.is_none() {
            consumed = self.input.pending.len();
        }
        self.input.pending.drain(..consumed);
        if self.input.ended && self.input.pending.is_empty() {
            self.running.streams.input = None;
        }
        if consumed > 0 {
            self.bulk.note(consumed);
            link.send(&FromGuest::Consumed(consumed as u32))?;
        }
        Ok(())
    }

    fn output_stream(&self) -> Option<&OwnedFd> {
        let streams = &self.running.streams;
        streams.output.as_ref().or(streams.terminal.as_ref())
    }

    /// Sends one read's worth of output. True if there may be more.
    fn forward_output(&mut self, link: &mut Link) -> Result<bool, String> {
        let Some(stream) = self.output_stream() else {
            return Ok(false);
        };
        let (data, open) = read_some(stream);
        if !open {
            self.running.streams.output = None;
            self.running.streams.terminal = None;
        }
        let more = !data.is_empty();
        if more {
            self.bulk.note(data.len());
            link.send(&FromGuest::Stdout(data))?;
        }
        Ok(more)
    }

    /// Sends one read's worth of standard error. True if there may be more.
    fn forward_error(&mut self, link: &mut Link) -> Result<bool, String> {
        let Some(stream) = &self.running.streams.error else {
            return Ok(false);
        };
        let (data, open) = read_some(stream);
        if !open {
            self.running.streams.error = None;
        }
        let more = !data.is_empty();
        if more {
            link.send(&FromGuest::Stderr(data))?;
        }
        Ok(more)
    }

    /// Sends what the command left in its pipes or its terminal. Others may still hold the other
    /// ends; what they write later is lost with them.
    fn drain_output(&mut self, link: &mut Link) -> Result<(), String> {
        while self.forward_output(link)? {}
        while self.forward_error(link)? {}
        Ok(())
    }
}

/// What there is to read, and whether the stream is still open.
fn read_some(stream: &OwnedFd) -> (Vec<u8>, bool) {
    let mut data = vec![0; MAX_PAYLOAD];
    loop {
        match rustix::io::read(stream, &mut data) {
            Ok(0) => return (Vec::new(), false),
            Ok(count) => {
                data.truncate(count);
                return (data, true);
            }
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return (Vec::new(), true),
            Err(_) => return (Vec::new(), false), // EIO: the terminal's last user is gone
        }
    }
}
