//! Sections through bytes, whole and damaged.

use super::*;
use crate::section::State;

/// Some fields of every sort.
#[derive(Clone, Debug, PartialEq, Eq)]
struct ThingV2 {
    on: bool,
    small: u16,
    large: u64,
    name: Vec<u8>,
    more: Vec<u32>,
    perhaps: Option<u8>,
}

impl State for ThingV2 {
    const KIND: Kind = Kind(*b"thng");
    const VERSION: u16 = 2;
    const MOST_BYTES: usize = 64;

    fn encode(&self, to: &mut Encoder) {
        to.bool(self.on);
        to.u16(self.small);
        to.u64(self.large);
        to.bytes(&self.name);
        to.list(&self.more, |to, one| to.u32(*one));
        to.option(self.perhaps.as_ref(), |to, one| to.u8(*one));
    }

    fn decode(from: &mut Decoder<'_>) -> Result<Self, SnapshotError> {
        Ok(Self {
            on: from.bool()?,
            small: from.u16()?,
            large: from.u64()?,
            name: from.bytes(8, "a name")?,
            more: from.list(4, "numbers", |from| from.u32())?,
            perhaps: from.option(|from| from.u8())?,
        })
    }
}

fn thing() -> ThingV2 {
    let (name, more) = (b"oak".to_vec(), vec![1, 0xffff_ffff]);
    ThingV2 { on: true, small: 0x1234, large: 1 << 63, name, more, perhaps: Some(7) }
}

fn sections() -> Vec<Section> {
    let empty = Section { kind: Kind(*b"none"), version: 1, bytes: Vec::new() };
    vec![thing().to_section(), empty, thing().to_section()]
}

#[test]
fn what_was_saved_comes_back() {
    let bytes = write(&sections());
    let read = read(&bytes, Limits::default()).expect("sound");
    assert_eq!(read, sections());
    assert_eq!(ThingV2::from_section(&read[0]), Ok(thing()));
    assert_eq!(write(&read), bytes);
    assert_eq!(super::read(&write(&[]), Limits::default()), Ok(Vec::new()));
}

#[test]
fn every_bit_counts() {
    let bytes = write(&sections());
    for bit in 0..bytes.len() * 8 {
        let mut damaged = bytes.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(read(&damaged, Limits::default()).is_err(), "bit {bit}");
    }
}

#[test]
fn every_missing_end_is_seen() {
    let bytes = write(&sections());
    for length in 0..bytes.len() {
        let cut = read(&bytes[..length], Limits::default());
        let have = length as u64;
        assert!(
            matches!(cut, Err(SnapshotError::Truncated { have: h, want }) if h == have && want > have),
            "{length}: {cut:?}"
        );
    }
    let longer = [&bytes[..], &[0]].concat();
    assert_eq!(read(&longer, Limits::default()), Err(SnapshotError::Trailing(1)));
}

#[test]
fn limits_hold() {
    let bytes = write(&sections());
    let few = Limits { sections: 2, ..Limits::default() };
    assert_eq!(read(&bytes, few), Err(SnapshotError::TooMany { count: 3, most: 2 }));
    let small = Limits { section_bytes: 16, ..Limits::default() };
    let length = sections()[0].bytes.len() as u64;
    let kind = ThingV2::KIND;
    assert_eq!(read(&bytes, small), Err(SnapshotError::TooLarge { kind, length, most: 16 }));
}

#[test]
fn another_format_is_named() {
    let mut bytes = write(&[]);
    bytes[8] = 9;
    let sum = crc32(&[&bytes[..16]]).to_le_bytes();
    bytes[16..20].copy_from_slice(&sum);
    let refused = read(&bytes, Limits::default());
    assert_eq!(refused, Err(SnapshotError::Format { found: 9, known: 1 }));
    assert_eq!(read(b"QFI\xfb", Limits::default()), Err(SnapshotError::Signature));
}

#[test]
fn a_section_is_taken_for_nothing_else() {
    let sound = thing().to_section();
    let kind = ThingV2::KIND;
    let wrong = |change: fn(&mut Section)| {
        let mut section = sound.clone();
        change(&mut section);
        ThingV2::from_section(&section).expect_err("changed")
    };
    let other = Kind(*b"othr");
    assert_eq!(
        wrong(|one| one.kind = Kind(*b"othr")),
        SnapshotError::Kind { found: other, wanted: kind }
    );
    assert_eq!(wrong(|one| one.version = 3), SnapshotError::Version { kind, found: 3, known: 2 });
    assert_eq!(wrong(|one| one.bytes.push(0)), SnapshotError::Trailing(1));
    let length = sound.bytes.len() as u64;
    let short = SnapshotError::Truncated { want: length, have: length - 1 };
    assert_eq!(wrong(|one| one.bytes.truncate(one.bytes.len() - 1)), short);
    assert_eq!(wrong(|one| one.bytes[0] = 2), SnapshotError::Value("a yes or no"));
    assert_eq!(wrong(|one| one.bytes[11] = 9), SnapshotError::Value("a name"));
    assert_eq!(wrong(|one| one.bytes[18] = 0xff), SnapshotError::Value("numbers"));
    let most = SnapshotError::TooLarge { kind, length: 65, most: 64 };
    assert_eq!(wrong(|one| one.bytes.resize(65, 0)), most);
}
