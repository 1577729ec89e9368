//! Images of qemu-img's making read as they should; what is written here passes qemu-img's check.

mod common;

use std::path::Path;

use common::*;
use disk::{Create, Format, create};

/// A disk of every sort: text, zeros, noise, an odd end.
fn sample(random: &mut Random, bytes: usize) -> Vec<u8> {
    let mut all = vec![0; bytes];
    for piece in all.chunks_mut(40_000) {
        match random.below(4) {
            0 => {}
            1 => piece.fill(random.next() as u8),
            2 => piece.iter_mut().for_each(|byte| *byte = random.next() as u8),
            _ => piece.iter_mut().enumerate().for_each(|(n, byte)| *byte = (n / 50) as u8),
        }
    }
    all
}

fn convert(
    folder: &Folder,
    raw: &Path,
    name: &str,
    options: &str,
    compress: bool,
) -> std::path::PathBuf {
    let image = folder.path(name);
    let compress = if compress { "-c" } else { "-q" };
    qemu_img(&[
        &"convert", &compress, &"-f", &"raw", &"-O", &"qcow2", &"-o", &options, &raw, &image,
    ]);
    image
}

#[test]
fn every_kind_of_image_is_read_and_written() {
    if !has_qemu_img() {
        return;
    }
    let mut random = Random(1);
    let kinds = [
        ("compat=0.10", false),
        ("compat=1.1", false),
        ("compat=0.10", true),
        ("compat=1.1,compression_type=zlib", true),
        ("compat=1.1,compression_type=zstd", true),
        ("compat=1.1,lazy_refcounts=on", false),
        ("cluster_size=512", false),
        ("cluster_size=512", true),
        ("cluster_size=4096,compression_type=zstd", true),
        ("cluster_size=2M", false),
        ("cluster_size=2M,compression_type=zstd", true),
        ("refcount_bits=1", false),
        ("refcount_bits=4,cluster_size=4096", false),
        ("refcount_bits=64", false),
        ("preallocation=metadata", false),
        ("preallocation=falloc,cluster_size=1024", false),
    ];
    for (kind, compress) in kinds {
        let folder = Folder::new();
        let mut bytes = sample(&mut random, 5_000_192);
        let raw = folder.file("raw", &bytes);
        let image = convert(&folder, &raw, "image", kind, compress);
        let disk = open_read_only(&image);
        assert_eq!(disk.format(), Format::Qcow2);
        assert!(contents(&disk) == bytes, "{kind}, compressed: {compress}");
        drop(disk);

        let disk = open(&image);
        for _ in 0..60 {
            let most = 1 << (12 + random.below(7));
            let length = random.below(most).min(bytes.len() as u64 - 1) + 1;
            let offset = random.below(bytes.len() as u64 - length);
            let part = offset as usize..(offset + length) as usize;
            if random.below(4) == 0 {
                disk.write_zeroes(offset, length).expect("there is room");
                bytes[part].fill(0);
            } else {
                let data = random.bytes(length as usize);
                disk.write_at(offset, &data).unwrap_or_else(|e| panic!("{kind}: {}", chain(&e)));
                bytes[part].copy_from_slice(&data);
            }
        }
        assert!(contents(&disk) == bytes, "{kind}, compressed: {compress}, after writing");
        disk.flush().expect("there is room");
        drop(disk);
        assert_clean(&image);
        assert_same(&folder, &image, "qcow2", &bytes);
    }
}

#[test]
fn what_is_created_here_is_sound_at_every_cluster_size() {
    if !has_qemu_img() {
        return;
    }
    for bits in 9..=21 {
        let folder = Folder::new();
        let image = folder.path("image");
        let size = 3_000_832;
        let wish = Create {
            format: Format::Qcow2,
            size: Some(size),
            cluster_size: Some(1 << bits),
            backing: None,
        };
        create(&image, &wish).expect("there is room");
        assert_clean(&image);
        let disk = open(&image);
        let mut bytes = vec![0; size as usize];
        for (at, length) in [(0, 1), (4096, 70_000), (size - 1, 1), (1 << 20, 1 << 20)] {
            let data = Random(at).bytes(length as usize);
            disk.write_at(at, &data).expect("there is room");
            bytes[at as usize..(at + length) as usize].copy_from_slice(&data);
        }
        disk.flush().expect("there is room");
        drop(disk);
        assert_clean(&image);
        assert_same(&folder, &image, "qcow2", &bytes);
    }
}

#[test]
fn refcount_tables_of_others_grow() {
    if !has_qemu_img() {
        return;
    }
    // One cluster of refcount table covers 8 MiB here.
    let folder = Folder::new();
    let image = folder.path("image");
    qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &"-o", &"cluster_size=512", &image, &"48M"]);
    let mut bytes = vec![0; 48 << 20];
    let disk = open(&image);
    for at in (0..40 << 20).step_by(1 << 20) {
        let data = Random(at).bytes(900_000);
        disk.write_at(at, &data).unwrap_or_else(|error| panic!("{}", chain(&error)));
        bytes[at as usize..at as usize + data.len()].copy_from_slice(&data);
    }
    drop(disk);
    assert_clean(&image);
    assert_same(&folder, &image, "qcow2", &bytes);
}

#[test]
fn snapshots_keep_what_they_hold() {
    if !has_qemu_img() {
        return;
    }
    for kind in ["compat=1.1,cluster_size=4096", "compat=0.10,cluster_size=65536"] {
        let folder = Folder::new();
        let mut random = Random(3);
        let before = sample(&mut random, 1 << 20);
        let raw = folder.file("raw", &before);
        let image = convert(&folder, &raw, "image", kind, false);
        qemu_img(&[&"snapshot", &"-c", &"first", &image]);
        let found = disk::info(&image, None).expect("readable");
        assert_eq!(found.snapshots.len(), 1);
        assert_eq!(found.snapshots[0].name, "first");
        let mut bytes = before.clone();
        let disk = open(&image);
        for at in [0, 70_000, 300_001] {
            let data = random.bytes(50_000);
            disk.write_at(at, &data).expect("there is room");
            bytes[at as usize..at as usize + data.len()].copy_from_slice(&data);
        }
        disk.discard(600_000, 200_000).expect("there is room");
        disk.write_zeroes(600_000, 200_000).expect("there is room");
        bytes[600_000..800_000].fill(0);
        drop(disk);
        assert_clean(&image);
        assert_same(&folder, &image, "qcow2", &bytes);
        let sound = disk::check(&image, None, false, &mut |_, _| {}).expect("readable");
        assert!(sound.is_sound(), "{sound:?}");
        qemu_img(&[&"snapshot", &"-a", &"first", &image]);
        assert_same(&folder, &image, "qcow2", &before);
    }
}

#[test]
fn backing_files_show_through_and_stay_as_they_are() {
    if !has_qemu_img() {
        return;
    }
    for (base_format, compat) in [
        ("raw", "compat=1.1"),
        ("qcow2", "compat=1.1"),
        ("raw", "compat=0.10"),
        ("qcow2", "compat=0.10"),
    ] {
        let folder = Folder::new();
        let mut random = Random(5);
        let below = sample(&mut random, 700_416);
        let raw = folder.file("raw", &below);
        let base = folder.path("base");
        qemu_img(&[&"convert", &"-f", &"raw", &"-O", &base_format, &raw, &base]);
        let image = folder.path("image");
        qemu_img(&[
            &"create",
            &"-q",
            &"-f",
            &"qcow2",
            &"-o",
            &compat,
            &"-F",
            &base_format,
            &"-b",
            &"base",
            &image,
            &"1M",
        ]);
        let mut bytes = below.clone();
        bytes.resize(1 << 20, 0);
        let disk = open(&image);
        assert!(contents(&disk) == bytes, "{base_format}, {compat}");
        for _ in 0..40 {
            let length = random.below(100_000) + 1;
            let offset = random.below((1 << 20) - length);
            let part = offset as usize..(offset + length) as usize;
            if random.below(3) == 0 {
                disk.write_zeroes(offset, length).expect("there is room");
                bytes[part].fill(0);
            } else {
                let data = random.bytes(length as usize);
                disk.write_at(offset, &data).expect("there is room");
                bytes[part].copy_from_slice(&data);
            }
        }
        assert!(contents(&disk) == bytes, "{base_format}, {compat}, after writing");
        drop(disk);
        assert_clean(&image);
        assert_same(&folder, &image, "qcow2", &bytes);
        assert_same(&folder, &base, base_format, &below);
    }
}

#[test]
fn what_is_not_supported_says_so() {
    if !has_qemu_img() {
        return;
    }
    let folder = Folder::new();
    let make = |name: &str, format: &str, options: &str| {
        let image = folder.path(name);
        qemu_img(&[&"create", &"-q", &"-f", &format, &"-o", &options, &image]);
        refusal(&image, &disk::OpenOptions::default())
    };
    let says = |text: &str, word: &str| assert!(text.contains(word), "`{word}` in: {text}");
    says(&make("a", "qcow2", "size=1M,extended_l2=on,cluster_size=64k"), "subclusters");
    // Making one takes qemu-img a second of measuring; the header alone says it.
    make_encrypted(&folder.path("b"));
    says(&refusal(&folder.path("b"), &options(None, true)), "is encrypted");
    let data = format!("size=1M,data_file={}", folder.path("data").display());
    says(&make("c", "qcow2", &data), "another file");
    for format in ["vmdk", "vdi", "vhdx", "qed"] {
        says(&make(format, format, "size=1M"), &format.to_uppercase());
    }
    let info = disk::info(&folder.path("b"), None).expect("its header is readable");
    assert_eq!(info.features, ["encrypted"]);
}

/// An image whose header says that it is encrypted with LUKS.
fn make_encrypted(image: &Path) {
    qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &image, &"1M"]);
    let mut bytes = std::fs::read(image).expect("just made");
    bytes[35] = 2;
    std::fs::write(image, bytes).expect("a temporary directory");
}

#[test]
fn an_image_that_was_not_closed_is_repaired_when_written() {
    if !has_qemu_img() {
        return;
    }
    let folder = Folder::new();
    let bytes = sample(&mut Random(9), 1 << 20);
    let raw = folder.file("raw", &bytes);
    let image = convert(&folder, &raw, "image", "lazy_refcounts=on", false);
    // The dirty bit, and refcounts that were never written.
    let mut file = std::fs::read(&image).expect("just made");
    file[79] |= 1;
    let table = u64::from_be_bytes(file[48..56].try_into().expect("8 bytes")) as usize;
    let block = u64::from_be_bytes(file[table..table + 8].try_into().expect("8 bytes")) as usize;
    file[block + 8..block + 65536].fill(0);
    std::fs::write(&image, &file).expect("a temporary directory");
    let found = disk::check(&image, None, false, &mut |_, _| {}).expect("readable");
    assert!(found.errors > 0 && found.marked, "{found:?}");
    let disk = open_read_only(&image);
    assert!(contents(&disk) == bytes);
    drop(disk);
    let disk = open(&image);
    disk.write_at(0, &[7; 512]).expect("there is room");
    drop(disk);
    assert_clean(&image);
    let found = disk::check(&image, None, false, &mut |_, _| {}).expect("readable");
    assert!(found.is_sound(), "{found:?}");
}

#[test]
fn leaks_and_wrong_counts_are_found_and_mended() {
    if !has_qemu_img() {
        return;
    }
    let folder = Folder::new();
    let bytes = sample(&mut Random(11), 1 << 20);
    let raw = folder.file("raw", &bytes);
    let image = convert(&folder, &raw, "image", "cluster_size=4096", false);
    let mut file = std::fs::read(&image).expect("just made");
    let table = u64::from_be_bytes(file[48..56].try_into().expect("8 bytes")) as usize;
    let block = u64::from_be_bytes(file[table..table + 8].try_into().expect("8 bytes")) as usize;
    file[block + 2 * 20 + 1] = 5; // too often: a leak
    file[block + 2 * 30 + 1] = 0; // too seldom: data in danger
    std::fs::write(&image, &file).expect("a temporary directory");
    let found = disk::check(&image, None, false, &mut |_, _| {}).expect("readable");
    assert_eq!((found.leaks, found.errors), (1, 1), "{found:?}");
    let found = disk::check(&image, None, true, &mut |_, _| {}).expect("writable");
    assert!(found.is_sound() && found.repaired == 2, "{found:?}");
    assert_clean(&image);
    assert_same(&folder, &image, "qcow2", &bytes);
    // An entry past the file's end stays, and the image is not for writing then.
    let l1 = u64::from_be_bytes(file[40..48].try_into().expect("8 bytes")) as usize;
    let mut file = std::fs::read(&image).expect("just mended");
    file[l1 + 1] = 0x7f;
    std::fs::write(&image, &file).expect("a temporary directory");
    let found = disk::check(&image, None, true, &mut |_, _| {}).expect("writable");
    assert!(!found.is_sound() && found.errors == 1, "{found:?}");
}

#[test]
fn sizes_change_both_ways() {
    if !has_qemu_img() {
        return;
    }
    for cluster in [512, 4096, 65536] {
        let folder = Folder::new();
        let image = folder.path("image");
        let base = folder.file("base", &[0x5a; 300_032]);
        let wish = Create {
            format: Format::Qcow2,
            size: Some(200_192),
            cluster_size: Some(cluster),
            backing: Some(base),
        };
        create(&image, &wish).expect("there is room");
        let mut bytes = vec![0x5a; 200_192];
        let disk = open(&image);
        disk.write_at(200_000, &[1; 192]).expect("there is room");
        drop(disk);
        bytes[200_000..].fill(1);
        for size in [5_000_192_usize, 100_352, 100_864, 64 << 20, 512, 1 << 20] {
            let options = disk::OpenOptions::default();
            assert!(
                size >= bytes.len() || disk::resize(&image, &options, size as u64, false).is_err()
            );
            let (old, new) = disk::resize(&image, &options, size as u64, true).expect("room");
            assert_eq!((old, new), (bytes.len() as u64, size as u64));
            bytes.resize(size, 0);
            assert_clean(&image);
            assert_same(&folder, &image, "qcow2", &bytes);
            let disk = open(&image);
            disk.write_at(size as u64 - 100, &[9; 100]).expect("there is room");
            drop(disk);
            bytes[size - 100..].fill(9);
            assert_clean(&image);
            assert_same(&folder, &image, "qcow2", &bytes);
        }
    }
}
