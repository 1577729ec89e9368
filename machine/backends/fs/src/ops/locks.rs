//! GETLK, SETLK, SETLKW, INTERRUPT: locks of ranges and flock(2), which the host's programs see.
//!
//! A lock of a range belongs to a process of the guest (its `owner`): each owner has an open file
//! description of its own for a file, with the host's OFD locks on it. flock(2) belongs to the
//! guest's open file, so it is taken on ours. Waiting is asking again: nothing of the host's is held
//! up by it.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use crate::limits::MOST_LOCK_OWNERS;
use crate::server::{Done, Reply, Server, answer_bytes, lock};
use crate::sys::ranges::{self, Range, UNLOCKED};
use crate::wire::{Args, Header, Out};

/// The request is a flock(2).
const WHOLE_FILE: u32 = 1;
const READERS: u32 = 0; // F_RDLCK

/// A lock, as asked for.
struct Asked {
    handle: u64,
    owner: u64,
    range: Range,
    whole: bool,
}

/// One try at a lock.
type Try = Box<dyn Fn() -> Result<(), Errno> + Send>;

impl Asked {
    fn decode(mut args: Args<'_>) -> Result<Self, Errno> {
        let (handle, owner) = (args.u64()?, args.u64()?);
        let (start, end, kind) = (args.u64()?, args.u64()?, args.u32()?);
        args.take(4)?;
        let whole = args.u32()? & WHOLE_FILE != 0;
        Ok(Self { handle, owner, range: Range { kind, start, end }, whole })
    }
}

impl Server {
    /// The open file description that an owner's locks of a file are on.
    fn owner_file(&self, node: u64, owner: u64) -> Result<Arc<OwnedFd>, Errno> {
        let mut owners = lock(&self.owners);
        if let Some(file) = owners.get(&(node, owner)) {
            return Ok(file.clone());
        }
        if owners.len() >= MOST_LOCK_OWNERS {
            return Err(Errno::NOLCK);
        }
        // A lock for writing wants a file open for writing, as in the guest.
        let file = self.reopen(node, OFlags::RDWR).or_else(|_| self.reopen(node, OFlags::RDONLY));
        let file = Arc::new(file?);
        owners.insert((node, owner), file.clone());
        Ok(file)
    }

    pub(crate) fn get_lock(&self, node: u64, args: Args<'_>) -> Done {
        let asked = Asked::decode(args)?;
        if !self.locks {
            return Err(Errno::NOSYS);
        }
        let found = ranges::get(&*self.owner_file(node, asked.owner)?, asked.range)?;
        let out = Out::default().u64(found.start).u64(found.end).u32(found.kind).u32(0);
        Ok(Reply::Bytes(out.0))
    }

    /// What trying to take this lock, or giving it back, does.
    fn attempt(&self, node: u64, asked: &Asked) -> Result<Try, Errno> {
        if !self.locks {
            return Err(Errno::NOSYS);
        }
        let range = asked.range;
        if asked.whole {
            let file = self.handles.file(asked.handle)?;
            let operation = match range.kind {
                UNLOCKED => FlockOperation::NonBlockingUnlock,
                READERS => FlockOperation::NonBlockingLockShared,
                _ => FlockOperation::NonBlockingLockExclusive,
            };
            return Ok(Box::new(move || flock(&file.fd, operation)));
        }
        let file = self.owner_file(node, asked.owner)?;
        Ok(Box::new(move || ranges::set(&*file, range)))
    }

    pub(crate) fn set_lock(&self, node: u64, args: Args<'_>) -> Done {
        self.attempt(node, &Asked::decode(args)?)?()?;
        Ok(Reply::Bytes(Vec::new()))
    }

    pub(crate) fn wait_for_lock(&self, header: &Header, args: Args<'_>) -> Done {
        let attempt = self.attempt(header.node, &Asked::decode(args)?)?;
        match attempt() {
            Err(Errno::AGAIN | Errno::ACCESS) => {}
            done => return done.map(|()| Reply::Bytes(Vec::new())),
        }
        let (unique, waiting) = (header.unique, self.waiting.clone());
        lock(&waiting).insert(unique, false);
        Ok(Reply::Later(Box::new(move || {
            let mut table = lock(&waiting);
            let done = match table.get(&unique) {
                Some(false) => attempt(),
                _ => Err(Errno::INTR),
            };
            if let Err(Errno::AGAIN | Errno::ACCESS) = done {
                return None;
            }
            let done = done.map(|()| Vec::new());
            table.remove(&unique);
            Some(answer_bytes(unique, done))
        })))
    }

    pub(crate) fn interrupt(&self, mut args: Args<'_>) -> Done {
        let unique = args.u64()?;
        if let Some(interrupted) = lock(&self.waiting).get_mut(&unique) {
            *interrupted = true;
        }
        Ok(Reply::Nothing)
    }
}
