//! Options of `roof run` for devices beyond disks.

use std::path::PathBuf;

use clap::Args;
use control::vm::Extras;

/// See [`Extras`].
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Options {
    /// Connect host programs and the guest's vsock ports by Unix sockets
    ///
    /// A program that connects to FILE and writes "CONNECT <port>" and a newline is connected with that
    /// port of the guest. What the guest connects with port n of the host (CID 2) leads to whoever
    /// listens at FILE_n.
    #[arg(long, value_name = "FILE")]
    vsock: Option<PathBuf>,
}

impl Options {
    pub(super) fn extras(&self) -> Extras {
        Extras { vsock: self.vsock.clone() }
    }
}
