//! What the dynamic loader would want to know of an ELF file (System V gABI, chapter 5).
//!
//! Invariant: any file may be given; a table that points outside of it counts as absent; a few KiB
//! are read, however large it is.

use firmware::source::Source;

/// What a program or library asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Needs {
    /// PT_INTERP: the dynamic loader's path.
    pub(super) interpreter: Option<Vec<u8>>,
    /// DT_NEEDED: names of libraries.
    pub(super) libraries: Vec<Vec<u8>>,
    /// DT_RUNPATH, or DT_RPATH: directories, `$ORIGIN` unresolved.
    pub(super) run_path: Vec<Vec<u8>>,
}

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_INTERP: u32 = 3;
const DT_NEEDED: u64 = 1;
const DT_STRTAB: u64 = 5;
const DT_RPATH: u64 = 15;
const DT_RUNPATH: u64 = 29;
const PROGRAM_HEADER: u64 = 56;

/// More program headers or dynamic entries than any program has, in bytes.
const LARGEST_TABLE: u64 = 64 << 10;
/// The longest path or name that is taken.
const LONGEST: u64 = 4096;

/// The needs of an x86-64 ELF file; `None` for anything else.
pub(super) fn needs(file: &dyn Source) -> Option<Needs> {
    const CLASS_64_LITTLE: [u8; 2] = [2, 1];
    const MACHINE_X86_64: u16 = 62;
    let header = &part(file, 0, 64)?;
    if &header[..4] != b"\x7fELF"
        || header[4..6] != CLASS_64_LITTLE
        || u16_at(header, 18)? != MACHINE_X86_64
    {
        return None;
    }
    let segments = segments(file, header)?;
    let of_kind = |kind| segments.iter().find(move |segment| segment.kind == kind);
    let mut needs = Needs::default();
    if let Some(segment) = of_kind(PT_INTERP) {
        needs.interpreter = string(file, segment.offset);
    }
    if let Some(table) = of_kind(PT_DYNAMIC)
        .and_then(|segment| part(file, segment.offset, segment.size.min(LARGEST_TABLE)))
    {
        dynamic(file, &segments, &table, &mut needs);
    }
    Some(needs)
}

fn part(file: &dyn Source, offset: u64, size: u64) -> Option<Vec<u8>> {
    let inside = offset.checked_add(size).is_some_and(|end| end <= file.size());
    let mut bytes = vec![0; if inside { size as usize } else { return None }];
    file.read_at(offset, &mut bytes).ok()?;
    Some(bytes)
}

/// The NUL-terminated string at `offset`.
fn string(file: &dyn Source, offset: u64) -> Option<Vec<u8>> {
    const MOST_ARE_SHORTER: u64 = 128;
    let left = file.size().checked_sub(offset)?;
    for size in [MOST_ARE_SHORTER, LONGEST] {
        let mut bytes = part(file, offset, size.min(left))?;
        if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
            bytes.truncate(end);
            return Some(bytes);
        }
    }
    None
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

fn segments(file: &dyn Source, header: &[u8]) -> Option<Vec<Segment>> {
    let size = u64::from(u16_at(header, 54)?);
    let count = u64::from(u16_at(header, 56)?);
    if size < PROGRAM_HEADER {
        return Some(Vec::new());
    }
    let table = part(file, u64_at(header, 32)?, (size * count).min(LARGEST_TABLE))?;
    let entries = table.chunks_exact(size as usize);
    entries
        .map(|entry| {
            Some(Segment {
                kind: u32_at(entry, 0)?,
                offset: u64_at(entry, 8)?,
                address: u64_at(entry, 16)?,
                size: u64_at(entry, 32)?,
            })
        })
        .collect()
}

fn dynamic(file: &dyn Source, segments: &[Segment], table: &[u8], needs: &mut Needs) {
    let entries: Vec<(u64, u64)> = table
        .chunks_exact(16)
        .filter_map(|entry| Some((u64_at(entry, 0)?, u64_at(entry, 8)?)))
        .take_while(|(tag, _)| *tag != 0)
        .collect();
    let Some((_, strings)) = entries.iter().find(|(tag, _)| *tag == DT_STRTAB) else {
        return;
    };
    let Some(strings) = file_offset(segments, *strings) else {
        return;
    };
    let string = |offset: u64| string(file, strings.checked_add(offset)?);
    let run_path = |wanted| {
        entries.iter().find(|(tag, _)| *tag == wanted).and_then(|(_, value)| string(*value))
    };
    if let Some(path) = run_path(DT_RUNPATH).or_else(|| run_path(DT_RPATH)) {
        needs.run_path = path.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
    }
    let libraries = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    needs.libraries = libraries.filter_map(|(_, value)| string(*value)).collect();
}

/// Where in the file an address of the program lies.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find(|segment| address >= segment.address && address - segment.address < segment.size)
        .and_then(|segment| segment.offset.checked_add(address - segment.address))
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_test_needs_the_c_library() {
        let own = std::fs::read("/proc/self/exe").expect("a process can read itself");
        let needs = needs(&own).expect("the test is an x86-64 ELF file");
        assert!(needs.interpreter.is_some_and(|path| path.starts_with(b"/")));
        assert!(needs.libraries.iter().any(|name| name.starts_with(b"libc.")));
    }

    #[test]
    fn damaged_files_are_read_without_harm() {
        let own = std::fs::read("/proc/self/exe").expect("a process can read itself");
        assert_eq!(needs(b""), None);
        assert_eq!(needs(b"#!/bin/sh\n"), None);
        for length in (0..4096).step_by(7) {
            let _ = needs(&&own[..length]);
        }
        let mut wild = own[..4096].to_vec();
        wild[32..40].fill(0xff);
        assert_eq!(needs(&wild), None);
    }
}
