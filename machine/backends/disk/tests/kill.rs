//! A writer that dies at any moment: no damage, and every flushed write is there.
//!
//! The parent starts this program again as the writer, which tells each number that it has flushed.

mod common;

use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use common::*;
use disk::{Create, Format, create};

const SIZE: u64 = 64 << 20;
const WRITER: &str = "ONEROOF_DISK_WRITER";
/// Each slot is written again and again with the number of the write, from a place of its own.
const SLOT: u64 = 12 << 10;

fn slot(number: u64) -> u64 {
    number.wrapping_mul(0x9e37_79b9) % (SIZE / SLOT)
}

#[test]
fn a_killed_writer_leaves_a_sound_image() {
    if std::env::var_os(WRITER).is_some() || !has_qemu_img() {
        return;
    }
    let mut killed = 0;
    for (round, cluster) in
        [512, 4096, 65536, 4096, 65536, 512, 4096, 65536].into_iter().enumerate()
    {
        let folder = Folder::new();
        let image = folder.path("image");
        let backing = (round % 2 == 1).then(|| folder.file("base", &vec![0xaa; SIZE as usize]));
        let cluster_size = Some(cluster);
        create(&image, &Create { format: Format::Qcow2, size: Some(SIZE), cluster_size, backing })
            .expect("there is room");
        let mut random = Random(round as u64);
        let mut next = 1;
        for _ in 0..3 {
            let pause = Duration::from_millis(random.below(120) + 5);
            let (flushed, last) = write_and_kill(&image, next, pause);
            assert_no_corruption(&image);
            check_flushed(&image, flushed);
            killed += u64::from(last > 0);
            next = last.max(next) + 1000;
        }
    }
    assert!(killed >= 8, "{killed} writers got as far as to write");
}

/// The flushed writes in order, and the number of the last.
fn write_and_kill(image: &Path, first: u64, pause: Duration) -> (Vec<u64>, u64) {
    let program = std::env::current_exe().expect("this one");
    let mut writer = Command::new(program)
        .args(["--exact", "writer", "--nocapture"])
        .env(WRITER, image)
        .env("ONEROOF_DISK_FIRST", first.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it runs already");
    let lines = BufReader::new(writer.stdout.take().expect("piped")).lines();
    let reader = std::thread::spawn(move || {
        lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("flushed ")?.parse().ok())
            .collect::<Vec<u64>>()
    });
    std::thread::sleep(pause);
    writer.kill().expect("it is ours");
    writer.wait().expect("it is ours");
    let marks = reader.join().expect("it only reads");
    let last = marks.last().copied().unwrap_or(0);
    ((first..=last).collect(), last)
}

fn check_flushed(image: &Path, flushed: Vec<u64>) {
    let disk = open_read_only(image);
    let mut newest = std::collections::HashMap::new();
    for number in flushed {
        newest.insert(slot(number), number);
    }
    for (slot, number) in newest {
        let mut head = [0; 8];
        disk.read_at(slot * SLOT + 100, &mut head).expect("readable");
        let found = u64::from_le_bytes(head);
        // A later write that was not flushed may have come through.
        assert!(found >= number, "slot {slot} has {found}, flushed was {number}");
    }
}

/// Writes until it is killed; a test only by name.
#[test]
fn writer() {
    let Some(image) = std::env::var_os(WRITER) else { return };
    let first = std::env::var("ONEROOF_DISK_FIRST").expect("set by the parent");
    let first: u64 = first.parse().expect("a number");
    let disk = open(Path::new(&image));
    let mut random = Random(first);
    for number in first.. {
        let mut data = random.bytes(random_length(number));
        data[..8].copy_from_slice(&number.to_le_bytes());
        disk.write_at(slot(number) * SLOT + 100, &data).expect("there is room");
        match random.below(12) {
            0 => {
                disk.flush().expect("there is room");
                let mut out = std::io::stdout().lock();
                writeln!(out, "\nflushed {number}").expect("the parent reads");
                out.flush().expect("the parent reads");
            }
            1 => {
                // Between the slots' heads, so that no number is lost.
                let at = slot(random.next()) * SLOT + 8 * 1024;
                disk.discard(at, 4096 - 600).expect("there is room");
            }
            _ => {}
        }
    }
}

fn random_length(number: u64) -> usize {
    (number % 7 * 1000 + 600) as usize
}
