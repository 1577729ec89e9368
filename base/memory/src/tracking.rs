//! One bit per 4 KiB page of RAM, set by many threads: dirty pages, pages that hold decoded code.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};

/// A bitmap over the pages of guest RAM, indexed by page number within RAM (`RamOffset` / 4096).
#[derive(Debug)]
pub struct PageBitmap {
    words: Box<[AtomicU64]>,
}

impl PageBitmap {
    /// All bits clear, for `pages` pages.
    pub fn new(pages: u64) -> Self {
        Self { words: (0..pages.div_ceil(64)).map(|_| AtomicU64::new(0)).collect() }
    }

    /// Whether the page's bit is set. Pages past the end read as clear.
    #[inline]
    pub fn is_set(&self, page: u64) -> bool {
        self.words
            .get((page / 64) as usize)
            .is_some_and(|word| word.load(Ordering::Relaxed) >> (page % 64) & 1 != 0)
    }

    /// Sets the page's bit; true if it was clear before.
    #[inline]
    pub fn set(&self, page: u64) -> bool {
        let bit = 1 << (page % 64);
        let word = &self.words[(page / 64) as usize];
        word.load(Ordering::Relaxed) & bit == 0 && word.fetch_or(bit, Ordering::AcqRel) & bit == 0
    }

    /// Clears the page's bit; true if it was set before.
    pub fn clear(&self, page: u64) -> bool {
        let bit = 1 << (page % 64);
        self.words[(page / 64) as usize].fetch_and(!bit, Ordering::AcqRel) & bit != 0
    }

    /// Takes all set bits: calls `each` with every page that was set, leaving all clear.
    pub fn drain(&self, mut each: impl FnMut(u64)) {
        for (index, word) in self.words.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            let mut bits = word.swap(0, Ordering::AcqRel);
            while bits != 0 {
                each(index as u64 * 64 + u64::from(bits.trailing_zeros()));
                bits &= bits - 1;
            }
        }
    }
}

/// Who is told that a page of decoded code changed.
pub type CodeListener = Arc<dyn Fn(u64) + Send + Sync>;

/// Holds the listener.
#[derive(Default)]
pub(crate) struct Listener(RwLock<Option<CodeListener>>);

impl Listener {
    pub(crate) fn set(&self, listener: Option<CodeListener>) {
        *self.0.write().expect("no holder panics") = listener;
    }

    #[cold]
    pub(crate) fn tell(&self, page: u64) {
        let listener = self.0.read().expect("no holder panics").clone();
        if let Some(listener) = listener {
            listener(page);
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Listener")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn set_reports_the_first_time_only() {
        let map = PageBitmap::new(130);
        assert!(map.set(129));
        assert!(!map.set(129));
        assert!(map.is_set(129));
        assert!(!map.is_set(128));
        assert!(!map.is_set(100_000));
        let mut seen = vec![];
        map.drain(|page| seen.push(page));
        assert_eq!(seen, [129]);
        assert!(!map.is_set(129));
    }
}
