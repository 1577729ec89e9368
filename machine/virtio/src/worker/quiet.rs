//! Standing still: a device whose state is saved does nothing on its own.
//!
//! ```text
//! quiesce: Wanted -> the thread ends its round -> Handler::quiesce -> Reached;   Quiet dropped: goes on
//! ```
//!
//! Invariant: while it is Reached, no handler is called, whoever rings.

use std::sync::{Arc, MutexGuard, PoisonError};

use super::{Mailbox, Worker};
use crate::state::{ModelV1, RingsV1};

/// How far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Stillness {
    #[default]
    No,
    Wanted,
    Reached,
}

/// A device that stands still: its worker touches neither guest memory nor the host until this is dropped.
#[derive(Debug)]
#[must_use = "the device goes on when this is dropped"]
pub struct Quiet(Arc<Worker>);

impl Quiet {
    /// A worker that stands still from the beginning.
    pub(crate) fn from_start(worker: Worker) -> Self {
        worker.lock().quiet = Stillness::Reached;
        Self(Arc::new(worker))
    }

    /// Whether it is this worker that stands still.
    pub(crate) fn is_of(&self, worker: &Arc<Worker>) -> bool {
        Arc::ptr_eq(&self.0, worker)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let mut mailbox = self.0.lock();
        mailbox.quiet = Stillness::No;
        drop(mailbox);
        self.0.ring(); // which looks at whatever came meanwhile
    }
}

impl Worker {
    /// The one that stands still.
    pub(crate) fn of(quiet: &Quiet) -> Arc<Self> {
        quiet.0.clone()
    }

    /// Waits until the host has done what it was given and the device stands still. Its thread runs, or it
    /// is inline.
    pub(crate) fn quiesce(self: &Arc<Self>) -> Quiet {
        let mut mailbox = self.lock();
        assert!(mailbox.quiet == Stillness::No, "a device is quiesced once at a time");
        mailbox.quiet = Stillness::Wanted;
        if self.inline {
            while mailbox.busy {
                mailbox = self.wait(mailbox);
            }
            mailbox = self.calm(mailbox);
        } else {
            mailbox.alarm();
            self.rouse(&mut mailbox);
        }
        while mailbox.busy || mailbox.quiet == Stillness::Wanted && mailbox.job.is_some() {
            mailbox = self.wait(mailbox);
        }
        mailbox.quiet = Stillness::Reached;
        Quiet(self.clone())
    }

    /// What its handler adds to the model's state, and its queues' rings; `None`: it is not active.
    pub(crate) fn save(&self, model: &mut ModelV1) -> Option<Vec<Option<RingsV1>>> {
        let mailbox = self.lock();
        assert!(mailbox.quiet == Stillness::Reached, "a device is saved while it stands still");
        mailbox.job.as_ref().map(|job| {
            job.handler.save(model);
            job.queues.save()
        })
    }

    /// The handler's last work before it stands still, without the lock.
    pub(super) fn calm<'a>(
        &'a self,
        mut mailbox: MutexGuard<'a, Mailbox>,
    ) -> MutexGuard<'a, Mailbox> {
        if let Some(mut job) = mailbox.job.take() {
            mailbox.busy = true;
            drop(mailbox);
            job.handler.quiesce(&mut job.queues);
            let (signals, _) = job.queues.take_results();
            mailbox = self.lock();
            mailbox.busy = false;
            self.signals.queues(signals);
            match mailbox.stopped {
                true => {
                    drop(mailbox);
                    drop(job);
                    mailbox = self.lock();
                }
                false => mailbox.job = Some(job),
            }
        }
        mailbox.quiet = Stillness::Reached;
        self.changed.notify_all();
        mailbox
    }

    pub(super) fn wait<'a>(&self, mailbox: MutexGuard<'a, Mailbox>) -> MutexGuard<'a, Mailbox> {
        self.changed.wait(mailbox).unwrap_or_else(PoisonError::into_inner)
    }
}
