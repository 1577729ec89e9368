//! The file system device (virtio 1.2, 5.11): FUSE requests on a queue, for a [`FileSystem`] to
//! answer.
//!
//! ```text
//! queue 0  FORGET and INTERRUPT, which nothing else may hold up
//! queue 1  everything else: answered on the worker's thread, or later, out of the pool
//! ```
//!
//! Invariants: threads of the pool touch no memory of the guest: what they come to is written by the
//! worker's thread. Requests that wait are never more than the queue has descriptors.

mod pool;
mod saved;

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::Arc;

use crate::device::{Device, Handler, Kind, Queues, read_image};
use crate::queue::{Broken, Chain};
use crate::state::ModelV1;
use crate::worker::Waker;
use pool::Pool;
pub use saved::FsV1;

const URGENT: usize = 0;
const REQUESTS: usize = 1;
/// A request has as many pieces as its file contents have pages, so that more room is of no use.
const DEPTH: u16 = 512;
/// Bytes of the tag in the configuration space (5.11.4).
pub const TAG_BYTES: usize = 36;
/// Bytes of the configuration space: the tag, and how many request queues there are.
const CONFIG_BYTES: usize = TAG_BYTES + 4;

/// Work that may take long. Called until it gives the answer's bytes; `None`: not yet, ask again in
/// some milliseconds.
pub type Task = Box<dyn FnMut() -> Option<Vec<u8>> + Send>;

/// What became of a request.
pub enum Served {
    /// Its answer, if it wants one, is written.
    Done,
    /// Its answer will come out of this.
    Later(Task),
}

/// Whatever answers FUSE requests. May be called from several threads at once; does not wait for
/// more than the host's caches and disks.
pub trait FileSystem: Send + Sync + Debug {
    /// Reads a request from the chain and writes its answer. Whatever the request says is the
    /// guest's problem alone.
    fn serve(&self, request: &mut Chain) -> Served;

    /// Whether it lies on this host, so that what is cached comes at once and nothing hangs.
    fn is_local(&self) -> bool;
}

/// A file system as the guest sees it.
#[derive(Clone, Debug)]
pub struct Fs {
    files: Arc<dyn FileSystem>,
    config: [u8; CONFIG_BYTES],
    threads: usize,
}

impl Fs {
    /// `tag` is the name to mount it by, of which the guest sees 36 bytes; at most `threads` do what
    /// takes long. With none it is done in place, for runs that must repeat.
    pub fn new(files: Arc<dyn FileSystem>, tag: &str, threads: usize) -> Self {
        let mut config = [0; CONFIG_BYTES];
        for (to, from) in config[..TAG_BYTES].iter_mut().zip(tag.bytes()) {
            *to = from;
        }
        config[TAG_BYTES..].copy_from_slice(&1_u32.to_le_bytes());
        Self { files, config, threads }
    }
}

impl Device for Fs {
    fn kind(&self) -> Kind {
        Kind::FileSystem
    }

    fn queue_sizes(&self) -> &[u16] {
        &[DEPTH, DEPTH]
    }

    fn features(&self) -> u64 {
        0
    }

    fn config_read(&self, offset: u64, data: &mut [u8]) {
        read_image(&self.config, offset, data);
    }

    fn activate(&mut self, _features: u64, waker: Waker) -> Box<dyn Handler> {
        Box::new(FsHandler {
            files: self.files.clone(),
            pool: Pool::new(self.threads, waker),
            waiting: HashMap::new(),
            next: 0,
        })
    }

    fn save(&self) -> ModelV1 {
        ModelV1::Fs(self.saved())
    }
}

struct FsHandler {
    files: Arc<dyn FileSystem>,
    pool: Pool,
    /// Requests whose answer is being made, by the pool's ticket.
    waiting: HashMap<u64, Chain>,
    next: u64,
}

impl Handler for FsHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        self.finish(queues);
        queues.serve(URGENT, |chain| {
            // What is not for this queue is not waited for.
            if let Served::Later(mut task) = self.files.serve(chain)
                && let Some(answer) = task()
            {
                chain.write(&answer);
            }
            Ok(())
        })?;
        queues.take(REQUESTS, |mut chain| match self.files.serve(&mut chain) {
            Served::Done => Ok(Some(chain)),
            Served::Later(task) => match self.pool.run(self.next, task) {
                Some(answer) => {
                    chain.write(&answer);
                    Ok(Some(chain))
                }
                None if self.waiting.len() >= usize::from(DEPTH) => {
                    Err(Broken::Protocol("more requests than the queue has descriptors"))
                }
                None => {
                    self.waiting.insert(self.next, chain);
                    self.next += 1;
                    Ok(None)
                }
            },
        })
    }

    /// What is in the host's caches is; where it is a network away nothing may hold up a vCPU.
    fn is_short(&self) -> bool {
        self.files.is_local()
    }

    /// What waits for others (a lock) has done nothing yet and is asked anew.
    fn quiesce(&mut self, queues: &mut Queues) {
        self.pool.quiesce();
        self.finish(queues);
        let Some(queue) = queues.get(REQUESTS) else { return };
        let mut waiting: Vec<_> = self.waiting.drain().collect();
        waiting.sort_unstable_by_key(|(ticket, _)| *ticket);
        waiting.into_iter().for_each(|(_, chain)| queue.put_back(chain));
    }
}

impl FsHandler {
    /// Gives back the requests whose answers have been made.
    fn finish(&mut self, queues: &mut Queues) {
        let done = self.pool.take_done();
        if done.is_empty() {
            return;
        }
        for (ticket, answer) in done {
            if let (Some(mut chain), Some(queue)) =
                (self.waiting.remove(&ticket), queues.get(REQUESTS))
            {
                chain.write(&answer);
                queue.push(chain);
            }
        }
        queues.signal(REQUESTS);
    }
}

#[cfg(test)]
mod tests;
