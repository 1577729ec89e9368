//! A file of the host: positional reads and writes, and what else images need.
//!
//! Invariant: nothing but a regular file or a block device gets past [`HostFile::open`].

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::FallocateFlags;

use crate::error::DiskError;
use crate::locks;

/// The logical block of files, and of devices that do not say.
const BLOCK: u32 = 512;

/// Zeros that are written where the host cannot make them.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// An open file with its path for messages.
#[derive(Debug)]
pub(crate) struct HostFile {
    file: File,
    path: PathBuf,
    is_device: bool,
    /// Whether the file system made no hole when asked.
    no_holes: AtomicBool,
}

impl HostFile {
    pub(crate) fn open(path: &Path, writable: bool) -> Result<Self, DiskError> {
        let trouble = |source| DiskError::open(path, writable, source);
        // Looked at first: opening some device nodes does things.
        let is_device = kind(path, &std::fs::metadata(path).map_err(trouble)?)?;
        // A device that is written to is nobody else's: what is mounted, swap or part of another is refused.
        let alone = if is_device && writable { libc::O_EXCL } else { 0 };
        let opened = std::fs::OpenOptions::new()
            .read(true)
            .write(writable)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | alone)
            .open(path);
        match opened {
            Ok(file) => Self::new(file, path),
            Err(error) if alone != 0 && error.kind() == io::ErrorKind::ResourceBusy => {
                Err(claimed(path))
            }
            Err(source) => Err(trouble(source)),
        }
    }

    /// Takes a file that is open already.
    pub(crate) fn new(file: File, path: &Path) -> Result<Self, DiskError> {
        let status = file
            .metadata()
            .map_err(|source| DiskError::Open { path: path.to_path_buf(), source })?;
        let is_device = kind(path, &status)?;
        Ok(Self { file, path: path.to_path_buf(), is_device, no_holes: AtomicBool::new(false) })
    }

    /// A new file; there must be none of that name.
    pub(crate) fn create(path: &Path) -> Result<Self, DiskError> {
        let made = std::fs::OpenOptions::new().read(true).write(true).create_new(true).open(path);
        match made {
            Ok(file) => Self::new(file, path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                Err(DiskError::Exists(path.to_path_buf()))
            }
            Err(source) => Err(DiskError::Open { path: path.to_path_buf(), source }),
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn is_device(&self) -> bool {
        self.is_device
    }

    /// Device and inode: the same for the same file under any name.
    pub(crate) fn identity(&self) -> Result<(u64, u64), DiskError> {
        let status = self.file.metadata().map_err(|error| self.trouble("look at", 0, error))?;
        Ok((status.dev(), status.ino()))
    }

    /// Bytes that the host has allocated for it; all of a device.
    pub(crate) fn allocated(&self) -> u64 {
        if self.is_device {
            return self.size().unwrap_or(0);
        }
        self.file.metadata().map_or(0, |status| status.blocks() * 512)
    }

    /// Its length in bytes; a device's capacity.
    pub(crate) fn size(&self) -> Result<u64, DiskError> {
        use std::io::{Seek, SeekFrom};
        // Nothing here uses the file position.
        (&self.file).seek(SeekFrom::End(0)).map_err(|error| self.trouble("measure", 0, error))
    }

    /// The smallest unit of reads and writes, in bytes.
    pub(crate) fn block_size(&self) -> u32 {
        if !self.is_device {
            return BLOCK;
        }
        rustix::fs::ioctl_blksszget(&self.file)
            .ok()
            .filter(|size| size.is_power_of_two() && (512..=65536).contains(size))
            .unwrap_or(BLOCK)
    }

    /// Reads until the buffer is full or the file ends; gives how much came.
    pub(crate) fn read_some(&self, offset: u64, into: &mut [u8]) -> Result<usize, DiskError> {
        let mut done = 0;
        while done < into.len() {
            match rustix::io::pread(&self.file, &mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(count) => done += count,
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.trouble("read", offset + done as u64, error.into())),
            }
        }
        Ok(done)
    }

    /// Reads all of it; `what` is missing if the file ends before.
    pub(crate) fn read_all(
        &self,
        offset: u64,
        into: &mut [u8],
        what: &'static str,
    ) -> Result<(), DiskError> {
        if self.read_some(offset, into)? < into.len() {
            return Err(self.truncated(what, offset));
        }
        Ok(())
    }

    pub(crate) fn write_all(&self, offset: u64, mut from: &[u8]) -> Result<(), DiskError> {
        let mut at = offset;
        while !from.is_empty() {
            match rustix::io::pwrite(&self.file, from, at) {
                Ok(0) => return Err(self.trouble("write", at, io::ErrorKind::WriteZero.into())),
                Ok(count) => {
                    from = &from[count..];
                    at += count as u64;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(self.trouble("write", at, error.into())),
            }
        }
        Ok(())
    }

    /// What was written is on the medium when this returns.
    pub(crate) fn sync(&self) -> Result<(), DiskError> {
        rustix::fs::fdatasync(&self.file).map_err(|error| self.trouble("flush", 0, error.into()))
    }

    pub(crate) fn set_len(&self, length: u64) -> Result<(), DiskError> {
        self.file.set_len(length).map_err(|error| self.trouble("resize", length, error))
    }

    /// Gives a range's space back to the host, which reads as zeros then; `false` if it cannot.
    pub(crate) fn punch(&self, offset: u64, length: u64) -> Result<bool, DiskError> {
        if length == 0 || self.no_holes.load(Ordering::Relaxed) {
            return Ok(length == 0);
        }
        self.allocate(FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, length)
    }

    /// Makes a range inside the file read as zeros, with its space kept where the host can do so.
    pub(crate) fn zero(&self, offset: u64, length: u64) -> Result<(), DiskError> {
        let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
        if length == 0 || self.allocate(flags, offset, length)? || self.punch(offset, length)? {
            return Ok(());
        }
        let mut at = offset;
        while at < offset + length {
            let count = (offset + length - at).min(ZEROS.len() as u64);
            self.write_all(at, &ZEROS[..count as usize])?;
            at += count;
        }
        Ok(())
    }

    fn allocate(&self, flags: FallocateFlags, offset: u64, length: u64) -> Result<bool, DiskError> {
        loop {
            return match rustix::fs::fallocate(&self.file, flags, offset, length) {
                Ok(()) => Ok(true),
                Err(rustix::io::Errno::INTR) => continue,
                Err(
                    rustix::io::Errno::OPNOTSUPP
                    | rustix::io::Errno::NOSYS
                    | rustix::io::Errno::NODEV
                    | rustix::io::Errno::INVAL,
                ) => {
                    if flags.contains(FallocateFlags::PUNCH_HOLE) {
                        self.no_holes.store(true, Ordering::Relaxed);
                    }
                    Ok(false)
                }
                Err(error) => Err(self.trouble("discard in", offset, error.into())),
            };
        }
    }

    /// Where the hole around `offset` ends, if it lies in one: the host has nothing but zeros there.
    pub(crate) fn hole_end(&self, offset: u64, size: u64) -> Option<u64> {
        use rustix::fs::SeekFrom;
        match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Some(data.min(size)),
            Err(rustix::io::Errno::NXIO) if offset < size => Some(size),
            _ => None,
        }
    }

    pub(crate) fn truncated(&self, what: &'static str, offset: u64) -> DiskError {
        DiskError::Truncated { path: self.path.clone(), what, offset }
    }

    pub(crate) fn corrupt(&self, what: impl Into<String>) -> DiskError {
        DiskError::corrupt(&self.path, what)
    }

    fn trouble(&self, what: &'static str, offset: u64, error: io::Error) -> DiskError {
        DiskError::io(&self.path, what, offset, error)
    }
}

impl Drop for HostFile {
    fn drop(&mut self) {
        // A child that was forked just now has the same description until it executes.
        locks::unlock(&self.file);
    }
}

/// Why a device cannot be had alone: another program that locks disks has it, or the host itself.
fn claimed(path: &Path) -> DiskError {
    let path = path.to_path_buf();
    let by = std::fs::File::open(&path).ok().and_then(|file| locks::lock(&file, true).err());
    match by {
        Some(by) => DiskError::InUse { path, by },
        None => DiskError::DeviceInUse(path),
    }
}

/// Whether it is a block device; an error if it is no regular file either.
fn kind(path: &Path, status: &std::fs::Metadata) -> Result<bool, DiskError> {
    let kind = status.file_type();
    let what = match () {
        () if kind.is_file() => return Ok(false),
        () if kind.is_block_device() => return Ok(true),
        () if kind.is_dir() => "a directory",
        () if kind.is_fifo() => "a pipe",
        () if kind.is_socket() => "a socket",
        () => "a character device",
    };
    Err(DiskError::NotAnImage { path: path.to_path_buf(), what })
}
