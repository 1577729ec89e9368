//! Why a directory cannot be shared, a sentence for each.

use std::path::PathBuf;

use thiserror::Error;

/// Why a directory cannot be shared.
#[derive(Debug, Error)]
pub enum ShareError {
    /// It is not there.
    #[error("cannot share {}: there is no such directory", .0.display())]
    Missing(PathBuf),
    /// It is something else.
    #[error("cannot share {}: it is not a directory", .0.display())]
    NotADirectory(PathBuf),
    /// The invoking user may not.
    #[error("cannot share {}: you are not allowed to {what} it; share it read-only (:ro) or another one", .path.display())]
    NotPermitted {
        /// The directory.
        path: PathBuf,
        /// "read" or "write to".
        what: &'static str,
    },
    /// A directory that the kernel makes up.
    #[error("cannot share {}: it is made by the host's kernel, and the guest has its own", .0.display())]
    Kernel(PathBuf),
    /// The host failed.
    #[error("cannot share {}", .path.display())]
    Host {
        /// The directory.
        path: PathBuf,
        /// What it said.
        #[source]
        source: std::io::Error,
    },
}
