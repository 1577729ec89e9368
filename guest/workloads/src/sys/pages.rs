//! Fresh anonymous pages (mmap(2)).

use std::io::Error;
use std::ptr;

const PAGE: usize = 4096;

/// Maps, writes once to each, reads back and unmaps so many small pages; how many held the write.
pub(crate) fn touch(pages: usize) -> Result<u64, Error> {
    let length = pages * PAGE;
    // SAFETY: a new private mapping at an address of the kernel's choice touches nothing of ours.
    let start = unsafe {
        libc::mmap(
            ptr::null_mut(),
            length,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
            -1,
            0,
        )
    };
    if start == libc::MAP_FAILED {
        return Err(Error::last_os_error());
    }
    // SAFETY: the advice concerns the mapping just made; it keeps huge pages out of the count.
    unsafe { libc::madvise(start, length, libc::MADV_NOHUGEPAGE) };
    let first = start.cast::<u8>();
    let mut held = 0;
    for page in 0..pages {
        // SAFETY: the offset lies inside the mapping, which nobody else knows and is writable.
        held += unsafe {
            let byte = first.add(page * PAGE);
            byte.write_volatile(page as u8);
            u64::from(byte.read_volatile() == page as u8)
        };
    }
    // SAFETY: exactly the mapping made above; no pointer into it is used afterwards.
    match unsafe { libc::munmap(start, length) } {
        0 => Ok(held),
        _ => Err(Error::last_os_error()),
    }
}
