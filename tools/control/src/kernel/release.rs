//! A kernel's release from its setup header, without reading the whole file.
//!
//! The x86 boot protocol (kernel Documentation/arch/x86/boot.rst): "HdrS" at 0x202; at 0x20E the
//! place of the version string, less 0x200. Invariant: any file may be given.

use std::io::{self, Read};

/// The real-mode part of a bzImage is at most 64 sectors.
const SETUP: u64 = 64 * 512;

/// The release (`6.1.0-1-amd64`) of a bzImage; `None` for any other file.
pub fn release_of(file: impl Read) -> io::Result<Option<String>> {
    let mut head = Vec::new();
    file.take(SETUP).read_to_end(&mut head)?;
    Ok(release_in(&head))
}

fn release_in(head: &[u8]) -> Option<String> {
    if head.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let place = u16::from_le_bytes(head.get(0x20e..0x210)?.try_into().ok()?);
    if place == 0 {
        return None;
    }
    let text = head.get(usize::from(place) + 0x200..)?;
    let end = text.iter().position(|byte| matches!(byte, 0 | b' '))?;
    let release = std::str::from_utf8(&text[..end]).ok()?;
    let sane = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | '+' | '~');
    (!release.is_empty() && release.chars().all(sane)).then(|| release.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn setup(text: &[u8]) -> Vec<u8> {
        let mut head = vec![0; 0x3000];
        head[0x202..0x206].copy_from_slice(b"HdrS");
        head[0x20e..0x210].copy_from_slice(&0x2000u16.to_le_bytes());
        head[0x2200..0x2200 + text.len()].copy_from_slice(text);
        head
    }

    #[test]
    fn the_release_is_the_first_word() {
        let head = setup(b"6.1.0-1-cloud-amd64 (builder@host) #1 SMP\0");
        assert_eq!(
            release_of(&head[..]).expect("reads memory").as_deref(),
            Some("6.1.0-1-cloud-amd64")
        );
    }

    #[test]
    fn hostile_headers_have_none() {
        assert_eq!(release_in(b""), None);
        assert_eq!(release_in(b"\x7fELF"), None);
        assert_eq!(release_in(&setup(b"../../etc x\0")), None);
        let mut far = setup(b"6.1 \0");
        far[0x20e..0x210].fill(0xff);
        assert_eq!(release_in(&far), None);
    }
}
