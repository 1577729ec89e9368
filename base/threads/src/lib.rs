//! Named threads whose stacks stay in small pages.
//!
//! Linux backs a mapping that covers an aligned 2 MiB with one large page at the first touch, where transparent huge
//! pages are `always` on (Debian's default). The standard library's stacks are 2 MiB, so one that happens to be aligned
//! costs 2 MiB instead of the 8 KiB that its thread uses. Invariant: a stack here is shorter than a large page, and its
//! guard page keeps it from being merged with the next.
#![forbid(unsafe_code)]

use std::io;
use std::thread::{Builder, JoinHandle};

/// Bytes of stack for each thread.
pub const STACK: usize = 1 << 20;

/// Starts a thread; the name, of which Linux keeps 15 bytes, is what `top -H` and a debugger show.
///
/// Errors: the host's, when it has no room for one more thread.
pub fn spawn<T: Send + 'static>(
    name: &str,
    body: impl FnOnce() -> T + Send + 'static,
) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(STACK).spawn(body)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Bytes of the mapping that this address lies in.
    fn mapping(address: usize) -> usize {
        let maps = fs::read_to_string("/proc/self/maps").expect("procfs");
        let ranges = maps.lines().filter_map(|line| line.split_once(' ')?.0.split_once('-'));
        let number = |word: &str| usize::from_str_radix(word, 16).expect("an address");
        let mut ranges = ranges.map(|(start, end)| number(start)..number(end));
        ranges.find(|range| range.contains(&address)).expect("a mapping").len()
    }

    // One test, for a stack of the test runner's own would serve the next thread once it is free.
    #[test]
    fn threads_have_their_names_and_stacks_shorter_than_a_large_page() {
        const LARGE: usize = 2 << 20;
        let stack = || {
            let here = 0_u8;
            mapping(std::ptr::from_ref(&here).addr())
        };
        let name = || std::thread::current().name().map(str::to_owned);
        let named = spawn("a name", name).expect("a thread").join().expect("no panic");
        assert_eq!(named.as_deref(), Some("a name"));
        let threads: Vec<_> = (0..8).map(|_| spawn("short", stack).expect("a thread")).collect();
        let sizes = threads.into_iter().map(|thread| thread.join().expect("no panic"));
        let sizes: Vec<_> = sizes.collect();
        assert!(sizes.iter().all(|size| (STACK..LARGE).contains(size)), "{sizes:?}");
    }
}
