//! Finds shared libraries as the dynamic loader does (ld.so(8)): run path, the cache, the defaults.
//!
//! Invariant: the cache file is foreign data; whatever is wrong in it counts as absent.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

const CACHE: &str = "/etc/ld.so.cache";
const CACHE_MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
/// FLAG_ELF_LIBC6 | FLAG_X8664_LIB64 in glibc's ld.so.cache.
const CACHE_FLAGS: u32 = 0x0303;
const DEFAULTS: &[&str] = &[
    "/lib64",
    "/usr/lib64",
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib",
    "/usr/lib",
    "/usr/local/lib",
];

pub(super) struct Libraries {
    cache: HashMap<Vec<u8>, PathBuf>,
}

impl Libraries {
    pub(super) fn of_this_host() -> Self {
        let cache = std::fs::read(CACHE).ok().and_then(|bytes| parse_cache(&bytes));
        Self { cache: cache.unwrap_or_default() }
    }

    /// The library of this name, for an object at `origin` with this run path.
    pub(super) fn find(&self, name: &[u8], origin: &Path, run_path: &[Vec<u8>]) -> Option<PathBuf> {
        let file = Path::new(OsStr::from_bytes(name));
        if name.contains(&b'/') {
            return Some(file.to_path_buf()).filter(|path| path.exists());
        }
        let origin = origin.parent().unwrap_or(Path::new("/"));
        let own = run_path.iter().map(|entry| expand_origin(entry, origin).join(file));
        let cached = self.cache.get(name).cloned();
        let default = DEFAULTS.iter().map(|directory| Path::new(directory).join(file));
        own.chain(cached).chain(default).find(|path| path.exists())
    }
}

fn expand_origin(entry: &[u8], origin: &Path) -> PathBuf {
    for token in [b"$ORIGIN".as_slice(), b"${ORIGIN}"] {
        if let Some(rest) = entry.strip_prefix(token) {
            let rest = rest.strip_prefix(b"/").unwrap_or(rest);
            return origin.join(OsStr::from_bytes(rest));
        }
    }
    PathBuf::from(OsStr::from_bytes(entry))
}

/// Names and paths in glibc's cache: a 48-byte header, 24-byte entries, strings by file offset.
fn parse_cache(bytes: &[u8]) -> Option<HashMap<Vec<u8>, PathBuf>> {
    const HEADER: usize = 48;
    const ENTRY: usize = 24;
    // Older systems put a cache of the previous format before the present one.
    let start = bytes.windows(CACHE_MAGIC.len()).position(|window| window == CACHE_MAGIC)?;
    let bytes = &bytes[start..];
    let word = |at: usize| Some(u32::from_le_bytes(bytes.get(at..at + 4)?.try_into().ok()?));
    let string = |at: u32| bytes.get(at as usize..)?.split(|byte| *byte == 0).next();
    let mut found = HashMap::new();
    for index in 0..word(20)? as usize {
        let at = HEADER.checked_add(index.checked_mul(ENTRY)?)?;
        let (flags, key, value) = (word(at)?, string(word(at + 4)?)?, string(word(at + 8)?)?);
        let capabilities = (word(at + 16)?, word(at + 20)?);
        if flags == CACHE_FLAGS && capabilities == (0, 0) {
            found.entry(key.to_vec()).or_insert_with(|| PathBuf::from(OsStr::from_bytes(value)));
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache() -> Vec<u8> {
        let mut bytes = CACHE_MAGIC.to_vec();
        bytes.extend_from_slice(&2u32.to_le_bytes());
        bytes.resize(48, 0);
        let strings = 48 + 2 * 24;
        for (flags, capabilities) in [(CACHE_FLAGS, 2u64), (CACHE_FLAGS, 0)] {
            bytes.extend_from_slice(&flags.to_le_bytes());
            bytes.extend_from_slice(&(strings as u32).to_le_bytes());
            bytes.extend_from_slice(&(strings as u32 + 9).to_le_bytes());
            bytes.extend_from_slice(&0u32.to_le_bytes());
            bytes.extend_from_slice(&capabilities.to_le_bytes());
        }
        bytes.extend_from_slice(b"libx.so.\0/opt/libx.so.1\0");
        bytes
    }

    #[test]
    fn a_cache_gives_plain_entries_only() {
        let found = parse_cache(&cache()).expect("well formed");
        assert_eq!(found.len(), 1);
        assert_eq!(found.get(b"libx.so.".as_slice()), Some(&PathBuf::from("/opt/libx.so.1")));
    }

    #[test]
    fn a_damaged_cache_counts_as_absent() {
        let bytes = cache();
        for length in 0..bytes.len() - 30 {
            assert!(parse_cache(&bytes[..length]).is_none(), "cut at {length}");
        }
        let mut many = bytes;
        many[20..24].fill(0xff);
        assert!(parse_cache(&many).is_none());
    }

    #[test]
    fn origin_is_the_directory_of_the_object() {
        let origin = Path::new("/opt/app/bin");
        assert_eq!(expand_origin(b"$ORIGIN/../lib", origin), Path::new("/opt/app/bin/../lib"));
        assert_eq!(expand_origin(b"${ORIGIN}", origin), Path::new("/opt/app/bin/"));
        assert_eq!(expand_origin(b"/usr/lib", origin), Path::new("/usr/lib"));
    }
}
