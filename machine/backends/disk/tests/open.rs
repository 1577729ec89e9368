//! What may be opened, how, with whom; and hosts without room.

mod common;

use std::path::Path;

use common::*;
use disk::{Create, Disk, DiskError, Format, OpenOptions, create};

fn assert_says(text: &str, words: &[&str]) {
    for word in words {
        assert!(text.contains(word), "`{word}` is missing in: {text}");
    }
}

fn qcow2(folder: &Folder, name: &str, backing: Option<&Path>) -> std::path::PathBuf {
    let image = folder.path(name);
    let wish = Create {
        format: Format::Qcow2,
        size: Some(1 << 20),
        cluster_size: None,
        backing: backing.map(Path::to_path_buf),
    };
    create(&image, &wish).unwrap_or_else(|error| panic!("{}", chain(&error)));
    image
}

/// A qcow2 image that names any backing file at all.
fn naming(folder: &Folder, name: &str, backing: &str, format: Option<&str>) -> std::path::PathBuf {
    let image = qcow2(folder, name, None);
    let mut bytes = std::fs::read(&image).expect("just made");
    let mut at = 112;
    if let Some(format) = format {
        bytes[at..at + 4].copy_from_slice(&0xe279_2aca_u32.to_be_bytes());
        bytes[at + 4..at + 8].copy_from_slice(&(format.len() as u32).to_be_bytes());
        bytes[at + 8..at + 8 + format.len()].copy_from_slice(format.as_bytes());
        at += 8 + format.len().next_multiple_of(8);
    }
    at += 8;
    bytes[8..16].copy_from_slice(&(at as u64).to_be_bytes());
    bytes[16..20].copy_from_slice(&(backing.len() as u32).to_be_bytes());
    bytes[at..at + backing.len()].copy_from_slice(backing.as_bytes());
    std::fs::write(&image, bytes).expect("a temporary directory");
    image
}

#[test]
fn what_is_no_image_is_refused_with_its_name() {
    let folder = Folder::new();
    let default = OpenOptions::default();
    assert_says(
        &refusal(&folder.path("none"), &default),
        &["no disk image", "none", "roof disk create"],
    );
    assert_says(&refusal(&folder.path("."), &default), &["a directory"]);
    assert_says(&refusal(Path::new("/dev/null"), &default), &["a character device"]);
    assert_says(
        &refusal(&folder.file("empty", b""), &default),
        &["empty file", "roof disk create"],
    );
    let raw = folder.file("raw", &[1; 512]);
    assert_says(&refusal(&raw, &options(Some(Format::Qcow2), false)), &["no qcow2 image"]);
    let foreign = folder.file("foreign", b"vhdxfile");
    assert_says(&refusal(&foreign, &default), &["VHDX", "qemu-img convert", "format=raw"]);
    assert_eq!(
        Disk::open(&foreign, &options(Some(Format::Raw), false)).expect("said").capacity(),
        512
    );
}

#[test]
fn odd_sizes_are_rounded_with_zeros() {
    let folder = Folder::new();
    let disk = open(&folder.file("raw", &[7; 700]));
    assert_eq!((disk.capacity(), disk.block_size()), (1024, 512));
    let mut expected = vec![7; 700];
    expected.resize(1024, 0);
    assert!(contents(&disk) == expected);
    disk.write_at(1000, &[9; 24]).expect("there is room");
    expected[1000..].fill(9);
    assert!(contents(&disk) == expected);
    disk.write_zeroes(690, 320).expect("there is room");
    expected[690..1010].fill(0);
    assert!(contents(&disk) == expected);
    assert!(matches!(disk.write_at(1020, &[0; 5]), Err(DiskError::OutOfRange { .. })));
    assert!(matches!(disk.read_at(u64::MAX, &mut [0; 5]), Err(DiskError::OutOfRange { .. })));
}

#[test]
fn a_file_cut_short_says_so() {
    let folder = Folder::new();
    let raw = folder.file("raw", &[7; 8192]);
    let disk = open(&raw);
    std::fs::write(&raw, [7; 100]).expect("a temporary directory");
    let error = disk.read_at(4096, &mut [0; 512]).expect_err("it is gone");
    assert_says(&error.to_string(), &["cut short"]);
    let image = qcow2(&folder, "image", None);
    let disk = open(&image);
    disk.write_at(0, &[1; 200_000]).expect("there is room");
    drop(disk);
    let whole = std::fs::read(&image).expect("just made");
    std::fs::write(&image, &whole[..whole.len() - 200_000]).expect("a temporary directory");
    let disk = open_read_only(&image);
    let error = disk.read_at(100_000, &mut [0; 100_000]).expect_err("it is gone");
    assert_says(&error.to_string(), &["cut short", "data"]);
    drop(disk);
    for length in [0, 4, 71, 100, 0x10000, 0x20000, 0x30000] {
        let short = folder.file("short", &whole[..length]);
        let options = OpenOptions::default();
        if length > 4 {
            assert_says(&refusal(&short, &options), &["cut short"]);
        }
    }
}

#[test]
fn a_guest_cannot_make_a_probed_raw_image_something_else() {
    let folder = Folder::new();
    let raw = folder.file("raw", &[0; 4096]);
    let disk = open(&raw);
    disk.write_at(0, b"QF").expect("half of it is nothing");
    for (at, piece) in [(2, b"I\xfb".as_slice()), (0, b"QFI\xfb\0\0\0\x03"), (0, b"vhdxfile")] {
        let error = disk.write_at(at, piece).expect_err("it would be believed");
        assert!(matches!(error, DiskError::ForeignHeader { .. }), "{error}");
        assert_says(&error.to_string(), &["format=raw"]);
    }
    disk.write_at(0, b"QEDx").expect("nothing");
    assert!(disk.write_zeroes(3, 1).is_err());
    assert!(disk.discard(3, 1).is_err());
    drop(disk);
    assert_eq!(open(&raw).format(), Format::Raw);
    let disk = Disk::open(&raw, &options(Some(Format::Raw), false)).expect("said to be");
    disk.write_at(0, b"QFI\xfb\0\0\0\x03").expect("what the guest does is its own");
    assert_eq!(disk.format(), Format::Raw);
}

#[test]
fn readers_share_and_writers_do_not() {
    let folder = Folder::new();
    for image in [folder.file("raw", &[0; 4096]), qcow2(&folder, "qcow2", None)] {
        let reader = open_read_only(&image);
        let another = open_read_only(&image);
        assert!(matches!(reader.write_at(0, &[1]), Err(DiskError::ReadOnly(_))));
        let text = refusal(&image, &OpenOptions::default());
        assert_says(&text, &["in use by this same roof", "ro", "cow"]);
        drop((reader, another));
        let writer = open(&image);
        assert_says(&refusal(&image, &options(None, true)), &["in use"]);
        assert_says(&refusal(&image, &OpenOptions::default()), &["in use"]);
        let cow = OpenOptions { copy_on_write: true, ..OpenOptions::default() };
        assert_says(&refusal(&image, &cow), &["in use"]);
        if has_qemu_img() {
            let taken = std::process::Command::new("qemu-img").arg("check").arg(&image).output();
            let taken = String::from_utf8_lossy(&taken.expect("found before").stderr).into_owned();
            assert!(taken.contains("lock") || taken.contains("does not support"), "{taken}");
        }
        drop(writer);
        open(&image);
    }
}

#[test]
fn a_base_is_not_written_while_an_image_uses_it() {
    let folder = Folder::new();
    let base = folder.file("base", &[0; 1 << 20]);
    let image = qcow2(&folder, "image", Some(&base));
    let disk = open(&image);
    assert_says(&refusal(&base, &OpenOptions::default()), &["in use"]);
    open_read_only(&base);
    drop(disk);
    open(&base);
}

#[test]
fn only_files_beside_an_image_are_opened_for_it() {
    let (folder, elsewhere) = (Folder::new(), Folder::new());
    let secret = elsewhere.file("secret", &[0x77; 4096]);
    let name = secret.to_str().expect("UTF-8");
    let default = OpenOptions::default();
    let image = naming(&folder, "a", name, Some("raw"));
    assert_says(&refusal(&image, &default), &["secret", "outside of its folder", "--backing"]);
    let allowed = OpenOptions { backing: vec![secret.clone()], ..OpenOptions::default() };
    assert_eq!(contents(&Disk::open(&image, &allowed).expect("named"))[0], 0x77);
    std::os::unix::fs::symlink(&secret, folder.path("link")).expect("a temporary directory");
    let image = naming(&folder, "b", "link", Some("raw"));
    assert_says(&refusal(&image, &default), &["outside of its folder"]);
    for protocol in ["nbd://host/disk", "json:{\"driver\":\"file\"}", "fat:/etc"] {
        let image = naming(&folder, "c", protocol, Some("raw"));
        assert_says(&refusal(&image, &default), &["no plain file name"]);
        std::fs::remove_file(image).expect("just made");
    }
    let image = naming(&folder, "d", "gone", Some("raw"));
    assert_says(&refusal(&image, &default), &["backing file", "gone", "No such file"]);
    let image = naming(&folder, "e", "d", Some("vmdk"));
    assert_says(&refusal(&image, &default), &["\"vmdk\""]);
    let image = naming(&folder, "f", "f", Some("qcow2"));
    assert_says(&refusal(&image, &default), &["its own backing file"]);
    naming(&folder, "g", "h", Some("qcow2"));
    let image = naming(&folder, "h", "g", Some("qcow2"));
    assert_says(&refusal(&image, &default), &["its own backing file"]);
    // A raw image whose guest wrote this header, and an image that does not say that it is raw.
    folder.file("loot", &[1; 512]);
    naming(&folder, "guest", "loot", Some("raw"));
    let image = naming(&folder, "i", "guest", None);
    assert_says(&refusal(&image, &default), &["format it does not say"]);
    let image = naming(&folder, "j", "guest", Some("raw"));
    assert_eq!(&contents(&open(&image))[..3], b"QFI");
}

#[test]
fn chains_end() {
    let folder = Folder::new();
    qcow2(&folder, "0", None);
    for number in 1..=65_u32 {
        naming(&folder, &number.to_string(), &(number - 1).to_string(), Some("qcow2"));
    }
    assert_eq!(contents(&open(&folder.path("64")))[..4], [0; 4]);
    assert_says(&refusal(&folder.path("65"), &OpenOptions::default()), &["more than 64"]);
}

#[test]
fn copy_on_write_vanishes() {
    let folder = Folder::new();
    for image in [folder.file("raw", &[3; 65536]), qcow2(&folder, "qcow2", None)] {
        let before = std::fs::read(&image).expect("just made");
        let cow = OpenOptions { copy_on_write: true, ..OpenOptions::default() };
        let disk = Disk::open(&image, &cow).expect("there is room");
        let second = Disk::open(&image, &cow).expect("both only read the image");
        assert!(!disk.read_only());
        disk.write_at(1000, &[9; 3000]).expect("there is room");
        disk.flush().expect("there is room");
        assert_eq!(contents(&disk)[1000..4000], [9; 3000]);
        assert!(contents(&second)[1000..4000].iter().all(|byte| *byte != 9));
        drop((disk, second));
        assert!(std::fs::read(&image).expect("still there") == before);
    }
}

#[test]
fn a_full_host_is_told_and_harms_nothing() {
    let folder = Folder::new();
    let place = folder.path("small");
    std::fs::create_dir(&place).expect("a temporary directory");
    let mut mount = std::process::Command::new("mount");
    let mount = mount.args(["-t", "tmpfs", "-o", "size=1m", "none"]).arg(&place).output();
    if !mount.is_ok_and(|output| output.status.success()) {
        println!("skipped: no small file system can be mounted here (needs root)");
        return;
    }
    let outcome = std::panic::catch_unwind(|| fill(&folder, &place));
    let mut unmount = std::process::Command::new("umount");
    let _ = unmount.arg("-l").arg(&place).status();
    outcome.unwrap_or_else(|panic| std::panic::resume_unwind(panic));
}

fn fill(folder: &Folder, place: &Path) {
    let image = place.join("image");
    let wish = Create {
        format: Format::Qcow2,
        size: Some(8 << 20),
        cluster_size: Some(4096),
        backing: None,
    };
    create(&image, &wish).expect("an empty image is small");
    let disk = open(&image);
    let mut written = vec![0; 8 << 20];
    let mut failed = 0;
    for number in 0..400_usize {
        let data = Random(number as u64).bytes(10_000);
        let at = number * 20_001 % ((8 << 20) - 10_000);
        match disk.write_at(at as u64, &data) {
            Ok(()) => written[at..at + 10_000].copy_from_slice(&data),
            Err(error) => {
                assert!(error.is_no_space(), "{}", chain(&error));
                assert_says(&error.to_string(), &["no room", "make space"]);
                failed += 1;
                // A part may have been written.
                disk.read_at(at as u64, &mut written[at..at + 10_000]).expect("readable");
            }
        }
    }
    assert!(failed > 10, "{failed} writes did not fit");
    assert!(contents(&disk) == written);
    // With room again, all goes on.
    disk.discard(0, 4 << 20).expect("a flush needs no room for long");
    written[..4 << 20].fill(0);
    let flushed = disk.flush();
    assert!(flushed.is_ok() || flushed.is_err_and(|error| error.is_no_space()));
    drop(disk);
    if has_qemu_img() {
        assert_no_corruption(&image);
        assert_same(folder, &image, "qcow2", &written);
    }
}
