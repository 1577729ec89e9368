//! `-d FILE[,ro|rw|cow][,format=F][,backing=FILE]`.
//!
//! A path may have commas: options are taken from the end, up to the first word that is none.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use clap::builder::{OsStringValueParser, TypedValueParser};
use control::disk::Format;
use control::vm::{Access, DiskConfig};

/// Reads the option's value.
pub(super) fn parser() -> impl TypedValueParser<Value = DiskConfig> {
    OsStringValueParser::new().try_map(|text| parse(&text))
}

fn parse(text: &OsString) -> Result<DiskConfig, String> {
    let mut disk = DiskConfig::default();
    let mut rest = text.as_bytes();
    while let Some(comma) = rest.iter().rposition(|byte| *byte == b',') {
        if !take(&mut disk, &rest[comma + 1..])? {
            break;
        }
        rest = &rest[..comma];
    }
    disk.backing.reverse();
    disk.path = OsStr::from_bytes(rest).into();
    match rest.is_empty() {
        true => Err("the disk image's name is missing before the comma".into()),
        false => Ok(disk),
    }
}

/// One option; false: that is none.
fn take(disk: &mut DiskConfig, word: &[u8]) -> Result<bool, String> {
    let access = match word {
        b"ro" => Access::ReadOnly,
        b"rw" => Access::Write,
        b"cow" => Access::CopyOnWrite,
        _ => {
            if let Some(name) = word.strip_prefix(b"format=") {
                let name = String::from_utf8_lossy(name);
                let format = Format::by_name(&name);
                let unknown = || format!("there is no disk format `{name}`: raw or qcow2");
                disk.format = Some(format.ok_or_else(unknown)?);
                return Ok(true);
            }
            let file = word.strip_prefix(b"backing=").filter(|file| !file.is_empty());
            disk.backing.extend(file.map(|file| OsStr::from_bytes(file).into()));
            return Ok(file.is_some());
        }
    };
    if disk.access != Access::Usual && disk.access != access {
        return Err("ro, rw and cow exclude each other".into());
    }
    disk.access = access;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(path: &str) -> DiskConfig {
        DiskConfig { path: path.into(), ..DiskConfig::default() }
    }

    #[test]
    fn a_disk_is_a_path_and_perhaps_options() {
        let parsed = |text: &str| parse(&text.into()).expect("sound");
        assert_eq!(parsed("a.img"), disk("a.img"));
        let read_only = DiskConfig { access: Access::ReadOnly, ..disk("a,b.img") };
        assert_eq!(parsed("a,b.img,ro"), read_only);
        assert_eq!(parsed("a.img,r0"), disk("a.img,r0"));
        let all = DiskConfig {
            access: Access::CopyOnWrite,
            format: Some(Format::Qcow2),
            backing: vec!["/b/1".into(), "2".into()],
            ..disk("x")
        };
        assert_eq!(parsed("x,backing=/b/1,format=qcow2,backing=2,cow"), all);
        assert_eq!(parsed(&all.to_string()), all);
        assert_eq!(parsed("x,rw,format=raw").to_string(), "x,rw,format=raw");
    }

    #[test]
    fn options_that_cannot_be_are_refused() {
        let refused = |text: &str| parse(&text.into()).expect_err("it is wrong");
        assert!(refused("a,format=vmdk").contains("raw or qcow2"));
        assert!(refused("a,ro,rw").contains("exclude"));
        assert!(refused(",ro").contains("missing"));
    }
}
