//! What the dynamic loader would want to know of an ELF file (System V gABI, chapter 5).
//!
//! Invariant: any bytes may be given; a table that points outside of them counts as absent.

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
const PROGRAM_HEADER: usize = 56;

/// The needs of an x86-64 ELF file; `None` for anything else.
pub(super) fn needs(file: &[u8]) -> Option<Needs> {
    const CLASS_64_LITTLE: [u8; 2] = [2, 1];
    const MACHINE_X86_64: u16 = 62;
    let header = file.get(..64)?;
    if &header[..4] != b"\x7fELF"
        || header[4..6] != CLASS_64_LITTLE
        || u16_at(file, 18)? != MACHINE_X86_64
    {
        return None;
    }
    let segments = segments(file)?;
    let of_kind = |kind| segments.iter().find(move |segment| segment.kind == kind);
    let mut needs = Needs::default();
    if let Some(data) = of_kind(PT_INTERP).and_then(|segment| segment.data(file)) {
        needs.interpreter = Some(c_string(data).to_vec());
    }
    if let Some(table) = of_kind(PT_DYNAMIC).and_then(|segment| segment.data(file)) {
        dynamic(file, &segments, table, &mut needs);
    }
    Some(needs)
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

impl Segment {
    fn data<'a>(&self, file: &'a [u8]) -> Option<&'a [u8]> {
        let start = usize::try_from(self.offset).ok()?;
        let end = start.checked_add(usize::try_from(self.size).ok()?)?;
        file.get(start..end)
    }
}

fn segments(file: &[u8]) -> Option<Vec<Segment>> {
    let table = usize::try_from(u64_at(file, 32)?).ok()?;
    let size = usize::from(u16_at(file, 54)?);
    let count = usize::from(u16_at(file, 56)?);
    if size < PROGRAM_HEADER {
        return Some(Vec::new());
    }
    let mut segments = Vec::new();
    for index in 0..count {
        let at = table.checked_add(index * size)?;
        segments.push(Segment {
            kind: u32_at(file, at)?,
            offset: u64_at(file, at.checked_add(8)?)?,
            address: u64_at(file, at.checked_add(16)?)?,
            size: u64_at(file, at.checked_add(32)?)?,
        });
    }
    Some(segments)
}

fn dynamic(file: &[u8], segments: &[Segment], table: &[u8], needs: &mut Needs) {
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
    let string = |offset: u64| {
        let start = usize::try_from(strings.checked_add(offset)?).ok()?;
        Some(c_string(file.get(start..)?))
    };
    let run_path = |wanted| {
        entries.iter().find(|(tag, _)| *tag == wanted).and_then(|(_, value)| string(*value))
    };
    if let Some(path) = run_path(DT_RUNPATH).or_else(|| run_path(DT_RPATH)) {
        needs.run_path = path.split(|byte| *byte == b':').map(<[u8]>::to_vec).collect();
    }
    let libraries = entries.iter().filter(|(tag, _)| *tag == DT_NEEDED);
    needs.libraries =
        libraries.filter_map(|(_, value)| string(*value).map(<[u8]>::to_vec)).collect();
}

/// Where in the file an address of the program lies.
fn file_offset(segments: &[Segment], address: u64) -> Option<u64> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find(|segment| address >= segment.address && address - segment.address < segment.size)
        .and_then(|segment| segment.offset.checked_add(address - segment.address))
}

fn c_string(bytes: &[u8]) -> &[u8] {
    bytes.split(|byte| *byte == 0).next().unwrap_or_default()
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
            let _ = needs(&own[..length]);
        }
        let mut wild = own[..4096].to_vec();
        wild[32..40].fill(0xff);
        assert_eq!(needs(&wild), None);
    }
}
