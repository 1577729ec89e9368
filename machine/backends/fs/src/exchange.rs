//! One request and the room for its answer, as a transport has them.
//!
//! File contents go between files and the transport's memory without a stop in between, where the
//! transport can. [`Buffers`] is an exchange over plain vectors, for tests and transports that copy.

use std::io;
use std::os::fd::BorrowedFd;

/// One request on its way. Reading and writing go forward only, but for [`Exchange::write_start`].
pub trait Exchange {
    /// Bytes of the request that are left to read.
    fn readable(&self) -> usize;

    /// Bytes of room that are left for the answer.
    fn writable(&self) -> usize;

    /// Copies the next bytes of the request; gives how many there were.
    fn read(&mut self, into: &mut [u8]) -> usize;

    /// Appends bytes to the answer; gives how many had room.
    fn write(&mut self, from: &[u8]) -> usize;

    /// Leaves out `count` bytes at the start of the answer, for [`Exchange::write_start`].
    fn reserve(&mut self, count: usize);

    /// Writes the bytes that were left out at the start.
    fn write_start(&mut self, from: &[u8]);

    /// Appends at most `count` bytes of a file to the answer; gives how many.
    ///
    /// # Errors
    /// As pread(2).
    fn read_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize>;

    /// Writes the next `count` bytes of the request to a file; gives how many.
    ///
    /// # Errors
    /// As pwrite(2).
    fn write_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize>;
}

/// An exchange in vectors.
#[derive(Clone, Debug, Default)]
pub struct Buffers {
    request: Vec<u8>,
    read: usize,
    room: usize,
    /// The answer so far.
    pub answer: Vec<u8>,
}

impl Buffers {
    /// A request, and how long its answer may be.
    pub fn new(request: Vec<u8>, room: usize) -> Self {
        Self { request, read: 0, room, answer: Vec::new() }
    }
}

impl Exchange for Buffers {
    fn readable(&self) -> usize {
        self.request.len() - self.read
    }

    fn writable(&self) -> usize {
        self.room - self.answer.len()
    }

    fn read(&mut self, into: &mut [u8]) -> usize {
        let count = into.len().min(self.readable());
        into[..count].copy_from_slice(&self.request[self.read..self.read + count]);
        self.read += count;
        count
    }

    fn write(&mut self, from: &[u8]) -> usize {
        let count = from.len().min(self.writable());
        self.answer.extend_from_slice(&from[..count]);
        count
    }

    fn reserve(&mut self, count: usize) {
        let count = count.min(self.writable());
        self.answer.resize(self.answer.len() + count, 0);
    }

    fn write_start(&mut self, from: &[u8]) {
        let count = from.len().min(self.answer.len());
        self.answer[..count].copy_from_slice(&from[..count]);
    }

    fn read_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize> {
        let mut bytes = vec![0; count.min(self.writable())];
        let count = rustix::io::pread(file, &mut bytes, at)?;
        Ok(self.write(&bytes[..count]))
    }

    fn write_file(&mut self, file: BorrowedFd<'_>, at: u64, count: usize) -> io::Result<usize> {
        let mut bytes = vec![0; count.min(self.readable())];
        self.read(&mut bytes);
        Ok(rustix::io::pwrite(file, &bytes, at)?)
    }
}
