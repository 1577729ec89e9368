//! Files of the host, read in pieces by those who do no I/O of their own.
//!
//! Invariant: the size is the one at opening; a file that has shrunk since is an error.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use firmware::source::Source;
use machine::{BoxError, Initrd};

/// What is poured at a time: a write this large goes into guest memory without a page fault each.
pub(crate) const PIECE: usize = 256 << 10;

/// A regular file.
#[derive(Debug)]
pub(crate) struct FileSource {
    file: File,
    size: u64,
}

impl FileSource {
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        Self::new(File::open(path)?)
    }

    pub(crate) fn new(file: File) -> io::Result<Self> {
        let size = file.metadata()?.len();
        Ok(Self { file, size })
    }
}

impl Source for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, into: &mut [u8]) -> io::Result<()> {
        self.file.read_exact_at(into, offset)
    }
}

impl Initrd for FileSource {
    fn size(&self) -> u64 {
        self.size
    }

    fn pour(&self, to: &mut dyn FnMut(&[u8]) -> Result<(), BoxError>) -> Result<(), BoxError> {
        let mut buffer = vec![0; PIECE.min(self.size as usize)];
        let mut done = 0;
        while done < self.size {
            let count = (self.size - done).min(PIECE as u64) as usize;
            self.file.read_exact_at(&mut buffer[..count], done)?;
            to(&buffer[..count])?;
            done += count as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_poured_whole_and_a_shrunk_one_is_an_error() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        let data: Vec<u8> = (0..PIECE as u32 + 1000).map(|n| (n / 5) as u8).collect();
        std::fs::write(&path, &data).expect("a temporary directory");
        let file = FileSource::open(&path).expect("just written");
        let poured = || {
            let mut all = Vec::new();
            file.pour(&mut |piece| {
                all.extend_from_slice(piece);
                Ok(())
            })
            .map(|()| all)
        };
        assert!(poured().expect("readable") == data);
        std::fs::write(&path, b"short").expect("a temporary directory");
        assert!(poured().is_err());
    }
}
