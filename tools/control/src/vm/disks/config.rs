//! A disk as the user wants it: `FILE[,ro|rw|cow][,format=F][,backing=FILE]`.
//!
//! Invariant: what [`DiskConfig`] is shown as is read back as the same.

use std::fmt;
use std::path::PathBuf;

use crate::disk::Format;

/// What a guest may do to an image.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Access {
    /// Write to files; of block devices it gets a copy on write.
    #[default]
    Usual,
    /// Only read.
    ReadOnly,
    /// Write, to block devices, too.
    Write,
    /// Write to a temporary file that vanishes; the image is only read.
    CopyOnWrite,
}

/// A disk image to attach.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiskConfig {
    /// The file or block device.
    pub path: PathBuf,
    /// What the guest may do to it.
    pub access: Access,
    /// Its format if it is not to be detected.
    pub format: Option<Format>,
    /// Backing files that may be opened wherever they are.
    pub backing: Vec<PathBuf>,
}

impl fmt::Display for DiskConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.path.display())?;
        match self.access {
            Access::Usual => {}
            Access::ReadOnly => write!(f, ",ro")?,
            Access::Write => write!(f, ",rw")?,
            Access::CopyOnWrite => write!(f, ",cow")?,
        }
        if let Some(format) = self.format {
            write!(f, ",format={}", format.name())?;
        }
        self.backing.iter().try_for_each(|file| write!(f, ",backing={}", file.display()))
    }
}
