//! Random requests against a plain vector, for each format, with reopening in between.

mod common;

use std::path::{Path, PathBuf};

use common::*;
use disk::{Create, Disk, Format, OpenOptions, create};

const SIZE: usize = 1_500_160;

/// What each byte of the disk may be: after a discard it may be what it was, or zero.
struct Model {
    bytes: Vec<u8>,
    discarded: Vec<bool>,
}

fn step(disk: &Disk, model: &mut Model, random: &mut Random) {
    let most = 1 << random.below(19);
    let length = random.below(most).min(SIZE as u64 - 1) + 1;
    let mut offset = random.below(SIZE as u64 - length + 1);
    if random.below(2) == 0 {
        offset &= !0xfff;
    }
    let part = offset as usize..(offset + length) as usize;
    let fine = |done: Result<(), disk::DiskError>| done.unwrap_or_else(|e| panic!("{}", chain(&e)));
    match random.below(10) {
        0..=3 => {
            let data = random.bytes(length as usize);
            fine(disk.write_at(offset, &data));
            model.bytes[part.clone()].copy_from_slice(&data);
            model.discarded[part].fill(false);
        }
        4..=6 => {
            let mut data = vec![0xee; length as usize];
            fine(disk.read_at(offset, &mut data));
            for (at, byte) in part.zip(data) {
                let right = byte == model.bytes[at] || model.discarded[at] && byte == 0;
                assert!(right, "byte {at} is {byte}, not {}", model.bytes[at]);
            }
        }
        7 => {
            fine(disk.discard(offset, length));
            model.discarded[part].fill(true);
        }
        8 => {
            fine(disk.write_zeroes(offset, length));
            model.bytes[part.clone()].fill(0);
            model.discarded[part].fill(false);
        }
        _ => fine(disk.flush()),
    }
}

fn exercise(make: impl Fn(&Folder) -> (PathBuf, Vec<u8>), options: &OpenOptions, seed: u64) {
    let folder = Folder::new();
    let (image, bytes) = make(&folder);
    let mut random = Random(seed);
    let mut model = Model { discarded: vec![false; bytes.len()], bytes };
    for _ in 0..4 {
        let disk = Disk::open(&image, options).unwrap_or_else(|error| panic!("{}", chain(&error)));
        for _ in 0..150 {
            step(&disk, &mut model, &mut random);
        }
        // What a discard left is what it stays.
        let now = contents(&disk);
        for (at, byte) in now.iter().enumerate() {
            let right = *byte == model.bytes[at] || model.discarded[at] && *byte == 0;
            assert!(right, "seed {seed}: byte {at} is {byte}, not {}", model.bytes[at]);
        }
        model.bytes = now;
        model.discarded.fill(false);
        if options.copy_on_write {
            return;
        }
    }
    if has_qemu_img() && !options.copy_on_write {
        let format = Disk::open(&image, options).expect("it did before").format();
        if format == Format::Qcow2 {
            assert_clean(&image);
        }
        assert_same(&folder, &image, format.name(), &model.bytes);
    }
}

fn qcow2(path: &Path, cluster: u64, backing: Option<PathBuf>) {
    let size = Some(SIZE as u64);
    let wish = Create { format: Format::Qcow2, size, cluster_size: Some(cluster), backing };
    create(path, &wish).unwrap_or_else(|error| panic!("{}", chain(&error)));
}

#[test]
fn raw_is_a_vector() {
    let make = |folder: &Folder| (folder.file("image", &[0x11; SIZE]), vec![0x11; SIZE]);
    for seed in 0..3 {
        exercise(make, &options(Some(Format::Raw), false), seed);
        exercise(make, &options(None, false), seed);
    }
}

#[test]
fn qcow2_is_a_vector_at_every_cluster_size() {
    for bits in [9, 10, 12, 16, 18, 21] {
        let make = |folder: &Folder| {
            let image = folder.path("image");
            qcow2(&image, 1 << bits, None);
            (image, vec![0; SIZE])
        };
        exercise(make, &OpenOptions::default(), bits);
    }
}

#[test]
fn qcow2_over_others_is_a_vector() {
    for bits in [9, 12, 16] {
        let make = |folder: &Folder| {
            let base = folder.file("base", &[0x22; 1_000_000]);
            let middle = folder.path("middle");
            qcow2(&middle, 4096, Some(base));
            let mut bytes = vec![0x22; 1_000_000];
            bytes.resize(SIZE, 0);
            let disk = open(&middle);
            disk.write_at(5000, &[0x33; 70_000]).expect("there is room");
            bytes[5000..75_000].fill(0x33);
            drop(disk);
            let image = folder.path("image");
            qcow2(&image, 1 << bits, Some(middle));
            (image, bytes)
        };
        exercise(make, &OpenOptions::default(), bits);
    }
}

#[test]
fn version_2_is_a_vector() {
    if !has_qemu_img() {
        return;
    }
    for backing in [false, true] {
        let make = |folder: &Folder| {
            let image = folder.path("image");
            let mut bytes = vec![0; SIZE];
            let size = SIZE.to_string();
            if backing {
                folder.file("base", &[0x44; 800_256]);
                bytes[..800_256].fill(0x44);
                qemu_img(&[
                    &"create",
                    &"-q",
                    &"-f",
                    &"qcow2",
                    &"-o",
                    &"compat=0.10,cluster_size=4096",
                    &"-F",
                    &"raw",
                    &"-b",
                    &"base",
                    &image,
                    &size,
                ]);
            } else {
                let options = "compat=0.10,cluster_size=4096";
                qemu_img(&[&"create", &"-q", &"-f", &"qcow2", &"-o", &options, &image, &size]);
            }
            (image, bytes)
        };
        exercise(make, &OpenOptions::default(), 7);
    }
}

#[test]
fn copy_on_write_is_a_vector_and_leaves_the_image() {
    let folder = Folder::new();
    let kept = folder.file("kept", &[0x55; SIZE]);
    let options = OpenOptions { copy_on_write: true, ..OpenOptions::default() };
    for seed in 0..3 {
        exercise(|_| (kept.clone(), vec![0x55; SIZE]), &options, seed);
        assert!(std::fs::read(&kept).expect("it is still there") == [0x55; SIZE]);
    }
}

#[test]
fn threads_do_not_disturb_each_other() {
    let folder = Folder::new();
    let image = folder.path("image");
    qcow2(&image, 4096, None);
    let disk = open(&image);
    // Pieces are not of clusters, so neighbours share some.
    let piece = SIZE / 5;
    std::thread::scope(|scope| {
        for number in 0..5_u64 {
            let disk = &disk;
            scope.spawn(move || {
                let mut random = Random(number);
                let first = number as usize * piece;
                let mut own = vec![0; piece];
                for _ in 0..300 {
                    let length = random.below(20_000).min(piece as u64 - 1) as usize + 1;
                    let at = random.below((piece - length) as u64 + 1) as usize;
                    let offset = (first + at) as u64;
                    match random.below(8) {
                        0..=3 => {
                            let data = random.bytes(length);
                            disk.write_at(offset, &data).expect("there is room");
                            own[at..at + length].copy_from_slice(&data);
                        }
                        4 => {
                            disk.write_zeroes(offset, length as u64).expect("there is room");
                            own[at..at + length].fill(0);
                        }
                        5 if random.below(8) == 0 => disk.flush().expect("there is room"),
                        _ => {
                            let mut data = vec![0; length];
                            disk.read_at(offset, &mut data).expect("readable");
                            assert!(data == own[at..at + length]);
                        }
                    }
                }
            });
        }
    });
    drop(disk);
    if has_qemu_img() {
        assert_clean(&image);
    }
}
