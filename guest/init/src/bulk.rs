//! A faster way to the host than the serial line, for commands that write or read much.
//!
//! The modules it takes are loaded, and the host called, by a thread of its own, once there has been
//! more than [`MUCH`]: whoever says less never pays for it. Invariant: where anything about it fails,
//! the line goes on as before.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{Receiver, channel};

use protocol::Module;

use crate::{modules, sys};

/// Bytes in either direction that are worth another way.
const MUCH: usize = 64 << 10;

/// The way, while it is not there.
pub(crate) struct Bulk {
    modules: Vec<Module>,
    moved: usize,
    coming: Option<Coming>,
    tried: bool,
}

struct Coming {
    /// At its end when the thread has done what it could.
    done: OwnedFd,
    socket: Receiver<OwnedFd>,
}

impl Bulk {
    pub(crate) fn new(modules: &[Module]) -> Self {
        Self { modules: modules.to_vec(), moved: 0, coming: None, tried: false }
    }

    /// So many more bytes went over the line.
    pub(crate) fn note(&mut self, bytes: usize) {
        self.moved = self.moved.saturating_add(bytes);
        if self.moved > MUCH && !std::mem::replace(&mut self.tried, true) {
            self.coming = Self::start(std::mem::take(&mut self.modules));
        }
    }

    fn start(modules: Vec<Module>) -> Option<Coming> {
        let (done, writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).ok()?;
        let (sender, socket) = channel();
        let body = move || {
            modules::load_bulk(&modules);
            if let Ok(socket) = sys::vsock::connect_host(protocol::SESSION_PORT) {
                // A session that is over wants none.
                let _ = sender.send(socket);
            }
            drop(writer);
        };
        std::thread::Builder::new().name("bulk".into()).spawn(body).ok()?;
        Some(Coming { done, socket })
    }

    /// Becomes readable when [`Bulk::take`] is worth a call.
    pub(crate) fn done(&self) -> Option<BorrowedFd<'_>> {
        self.coming.as_ref().map(|coming| coming.done.as_fd())
    }

    /// The stream, if there is one now.
    pub(crate) fn take(&mut self) -> Option<OwnedFd> {
        self.coming.take()?.socket.try_recv().ok()
    }
}
