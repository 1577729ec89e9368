//! Lanes: what goes through them in any order is what is on the disk and in guest memory.

mod common;

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::*;
use disk::{Create, Disk, DiskError, Format, Lane, Pieces, create};
use memory::{GuestMemory, PAGE_SIZE, RamOffset};
use rustix::event::{EventfdFlags, eventfd};
use x86::GuestPhys;

const SIZE: usize = 4 << 20;
const RAM: u64 = 8 << 20;

fn guest() -> Arc<GuestMemory> {
    Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("8 MiB can be had"))
}

fn qcow2(folder: &Folder) -> std::path::PathBuf {
    let image = folder.path("image.qcow2");
    let wish = Create {
        format: Format::Qcow2,
        size: Some(SIZE as u64),
        cluster_size: Some(4096),
        backing: None,
    };
    create(&image, &wish).expect("there is room");
    image
}

type Open = fn(Arc<Disk>, Arc<GuestMemory>, Bell) -> Lane;

/// What ends a wait beside the alarm.
type Bell = Option<Arc<OwnedFd>>;

/// Every kind of lane, over an image of zeros.
fn each(check: impl Fn(Arc<Disk>, Open)) {
    let folder = Folder::new();
    let open: Open = |disk, memory, bell| {
        let (lane, why) = Lane::open(disk, memory, bell);
        why.into_iter().for_each(|why| println!("{why}"));
        lane
    };
    let raw = |name: &str| {
        let path = folder.file(name, &vec![0; SIZE]);
        Arc::new(Disk::open(&path, &options(Some(Format::Raw), false)).expect("a raw image"))
    };
    check(raw("uring"), open);
    check(raw("threads"), Lane::on_threads);
    check(Arc::new(common::open(&qcow2(&folder))), open);
    let probed = folder.file("probed", &vec![0; SIZE]);
    check(Arc::new(common::open(&probed)), open);
}

/// A length cut into pieces, which lie in guest memory from `at` on with gaps between them.
fn pieces(random: &mut Random, mut at: u64, length: u64) -> Pieces {
    let (mut pieces, mut done) = (Vec::new(), 0);
    while done < length {
        let run = (random.below(5000) + 1).min(length - done);
        at += random.below(300);
        pieces.push((RamOffset(at), run as u32));
        (at, done) = (at + run, done + run);
    }
    pieces
}

fn land(lane: &mut Lane, mut left: usize) -> Vec<(u32, Result<(), DiskError>)> {
    let mut landed = Vec::new();
    while left > 0 {
        let before = landed.len();
        lane.reap(true, &mut |tag, done| landed.push((tag, done)));
        left -= landed.len() - before;
    }
    landed.sort_by_key(|(tag, _)| *tag);
    landed
}

#[test]
fn what_is_written_is_read_and_marked() {
    each(|disk, open| {
        let memory = guest();
        let mut lane = open(disk.clone(), memory.clone(), None);
        let mut random = Random(5);
        let mut model = vec![0; SIZE];
        for _ in 0..20 {
            // Eight writes to parts of the disk that do not overlap, then all of them read back.
            let mut spans = Vec::new();
            for tag in 0..8_u32 {
                let eighth = SIZE as u64 / 8;
                let length = (random.below(120) + 1) * 512;
                let offset = u64::from(tag) * eighth + random.below((eighth - length) / 512) * 512;
                let place = u64::from(tag) * 0x2_0000;
                let data = random.bytes(length as usize);
                memory.write_bytes(RamOffset(place), &data);
                model[offset as usize..][..data.len()].copy_from_slice(&data);
                lane.write(
                    tag,
                    offset,
                    vec![(RamOffset(place), 100), (RamOffset(place + 100), length as u32 - 100)],
                );
                spans.push((offset, length));
            }
            let landed = land(&mut lane, 8);
            assert!(landed.iter().zip(0..).all(|((tag, done), n)| *tag == n && done.is_ok()));
            lane.flush(77);
            assert!(matches!(&land(&mut lane, 1)[..], [(77, Ok(()))]));
            memory.dirty().drain(|_| {});
            let mut read = Vec::new();
            for (tag, (offset, length)) in (0..).zip(&spans) {
                let cut = pieces(&mut random, 0x40_0000 + u64::from(tag) * 0x2_0000, *length);
                lane.read(tag, *offset, cut.clone());
                read.push(cut);
            }
            for ((tag, done), n) in land(&mut lane, 8).into_iter().zip(0_u32..) {
                done.unwrap_or_else(|error| panic!("{}", chain(&error)));
                assert_eq!(tag, n);
            }
            for (cut, (offset, length)) in read.iter().zip(&spans) {
                let mut wanted = &model[*offset as usize..][..*length as usize];
                for (place, run) in cut {
                    let mut bytes = vec![0; *run as usize];
                    memory.read_bytes(*place, &mut bytes);
                    assert!(bytes == wanted[..bytes.len()]);
                    wanted = &wanted[bytes.len()..];
                    assert!(memory.dirty().is_set(place.0 / PAGE_SIZE));
                    assert!(memory.dirty().is_set((place.0 + u64::from(*run) - 1) / PAGE_SIZE));
                }
            }
        }
        drop(lane);
        assert!(contents(&disk) == model);
    });
}

#[test]
fn what_fails_is_told_and_the_rest_goes_on() {
    let folder = Folder::new();
    let raw = folder.file("raw", &[7; 8192]);
    for lane in [Lane::on_threads, |disk, memory, bell| Lane::open(disk, memory, bell).0] {
        let disk =
            Arc::new(Disk::open(&raw, &options(Some(Format::Raw), true)).expect("a raw image"));
        let memory = guest();
        let mut lane = lane(disk, memory.clone(), None);
        lane.read(1, 0, vec![(RamOffset(0), 512)]);
        lane.write(2, 512, vec![(RamOffset(0), 512)]);
        lane.read(3, 8192 - 512, vec![(RamOffset(4096), 1024)]);
        lane.flush(4);
        let landed = land(&mut lane, 4);
        assert!(landed[0].1.is_ok() && landed[3].1.is_ok());
        assert!(matches!(landed[1].1, Err(DiskError::ReadOnly(_))));
        assert!(matches!(landed[2].1, Err(DiskError::OutOfRange { .. })));
        let mut byte = [0];
        memory.read_bytes(RamOffset(511), &mut byte);
        assert_eq!(byte, [7]);
        std::fs::write(&raw, [7; 512]).expect("a temporary directory");
        lane.read(5, 4096, vec![(RamOffset(0), 512)]);
        let gone = land(&mut lane, 1);
        assert!(matches!(gone[0].1, Err(DiskError::Truncated { .. })), "{gone:?}");
        std::fs::write(&raw, [7; 8192]).expect("a temporary directory");
    }
}

#[test]
fn a_header_that_would_be_believed_is_refused_here_too() {
    let folder = Folder::new();
    let raw = folder.file("raw", &[0; 8192]);
    let memory = guest();
    memory.write_bytes(RamOffset(0), b"QFI\xfb\0\0\0\x03");
    let mut lane = Lane::open(Arc::new(common::open(&raw)), memory, None).0;
    lane.write(1, 0, vec![(RamOffset(0), 512)]);
    assert!(matches!(land(&mut lane, 1)[0].1, Err(DiskError::ForeignHeader { .. })));
    lane.write(2, 4096, vec![(RamOffset(0), 512)]);
    assert!(land(&mut lane, 1)[0].1.is_ok());
}

#[test]
fn alarms_at_any_moment_lose_nothing() {
    each(|disk, open| {
        let mut lane = open(disk, guest(), None);
        let alarm = lane.alarm();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    alarm();
                    std::thread::yield_now();
                }
            });
            for round in 0..300_u32 {
                let count = round % 5 + 1;
                for tag in 0..count {
                    match tag % 3 {
                        2 => lane.flush(tag),
                        _ => lane.read(tag, u64::from(tag) * 65536, vec![(RamOffset(0), 65536)]),
                    }
                }
                assert_eq!(land(&mut lane, count as usize).len(), count as usize);
            }
            stop.store(true, Ordering::Relaxed);
        });
        // With nothing begun there is nothing to wait for.
        lane.reap(true, &mut |tag, _| panic!("{tag} was told before"));
        // One that goes with work unfinished waits for it.
        (0..8).for_each(|tag| lane.read(tag, 0, vec![(RamOffset(0), 1 << 20)]));
        drop(lane);
        alarm();
    });
}

#[test]
fn a_bell_ends_waits_and_is_left_to_its_owner() {
    each(|disk, open| {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let event = Arc::new(event.expect("a descriptor can be had"));
        let mut lane = open(disk, guest(), Some(event.clone()));
        let begin = |lane: &mut Lane| {
            lane.read(0, 0, vec![(RamOffset(0), 65536)]);
            lane.flush(1); // beside the read it is left to others
        };
        rustix::io::write(&*event, &3_u64.to_ne_bytes()).expect("there is room");
        let mut in_vain = 0;
        for _ in 0..300 {
            begin(&mut lane);
            let mut landed = 0;
            while landed < 2 {
                let before = landed;
                lane.reap(true, &mut |_, done| landed += usize::from(done.is_ok()));
                in_vain += usize::from(landed == before);
            }
        }
        assert!(in_vain > 0, "no wait was ended by the bell");
        let mut count = [0; 8];
        rustix::io::read(&*event, &mut count).expect("nobody read it");
        assert_eq!(u64::from_ne_bytes(count), 3);
        for _ in 0..300 {
            begin(&mut lane);
            assert_eq!(land(&mut lane, 2).len(), 2);
        }
    });
}

#[test]
fn bells_at_any_moment_lose_nothing() {
    each(|disk, open| {
        let event = eventfd(0, EventfdFlags::NONBLOCK | EventfdFlags::CLOEXEC);
        let event = Arc::new(event.expect("a descriptor can be had"));
        let mut lane = open(disk, guest(), Some(event.clone()));
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    rustix::io::write(&*event, &1_u64.to_ne_bytes()).expect("there is room");
                    std::thread::yield_now();
                }
            });
            for round in 0..300_u32 {
                let count = round % 5 + 1;
                for tag in 0..count {
                    match tag % 3 {
                        2 => lane.flush(tag),
                        _ => lane.read(tag, u64::from(tag) * 65536, vec![(RamOffset(0), 65536)]),
                    }
                }
                let mut landed = 0;
                while landed < count {
                    let before = landed;
                    lane.reap(true, &mut |_, done| landed += u32::from(done.is_ok()));
                    if landed == before {
                        // As its owner does: after a wait for nothing.
                        let _ = rustix::io::read(&*event, &mut [0; 8]);
                    }
                }
            }
            stop.store(true, Ordering::Relaxed);
        });
    });
}

#[test]
fn a_copy_on_write_disk_has_a_lane() {
    let folder = Folder::new();
    let raw = folder.file("raw", &vec![1; SIZE]);
    let cow = disk::OpenOptions { copy_on_write: true, ..disk::OpenOptions::default() };
    let disk = Arc::new(Disk::open(Path::new(&raw), &cow).expect("there is room"));
    let memory = guest();
    memory.write_bytes(RamOffset(0), &[9; 4096]);
    let mut lane = Lane::open(disk, memory.clone(), None).0;
    lane.write(0, 4096, vec![(RamOffset(0), 4096)]);
    land(&mut lane, 1);
    lane.read(1, 0, vec![(RamOffset(1 << 20), 3 * 4096)]);
    land(&mut lane, 1);
    let mut back = [0; 3 * 4096];
    memory.read_bytes(RamOffset(1 << 20), &mut back);
    assert!(
        back[..4096] == [1; 4096] && back[4096..8192] == [9; 4096] && back[8192..] == [1; 4096]
    );
    assert!(std::fs::read(&raw).expect("still there") == vec![1; SIZE]);
}

#[test]
fn large_requests_over_clusters_of_every_kind_are_whole() {
    let folder = Folder::new();
    let mut random = Random(11);
    let mut model = random.bytes(SIZE);
    model[SIZE / 2..].iter_mut().for_each(|byte| *byte ^= 0x40);
    let raw = folder.file("raw", &model);
    let cow = disk::OpenOptions { copy_on_write: true, ..disk::OpenOptions::default() };
    let disk = Arc::new(Disk::open(Path::new(&raw), &cow).expect("there is room"));
    let memory = guest();
    let mut lane = Lane::open(disk.clone(), memory.clone(), None).0;
    for round in 0..12 {
        for _ in 0..6 {
            let length = (random.below(600) + 1) * 512;
            let offset = random.below((SIZE as u64 - length) / 512) * 512;
            let place = &mut model[offset as usize..][..length as usize];
            if random.below(3) == 0 {
                disk.write_zeroes(offset, length).expect("it is writable");
                place.fill(0);
                continue;
            }
            place.copy_from_slice(&random.bytes(length as usize));
            let cut = pieces(&mut random, 0, length);
            let mut done = 0;
            for (at, run) in &cut {
                memory.write_bytes(*at, &place[done..][..*run as usize]);
                done += *run as usize;
            }
            lane.write(0, offset, cut);
            assert!(matches!(&land(&mut lane, 1)[..], [(0, Ok(()))]));
        }
        for offset in (0..SIZE as u64).step_by(1 << 20) {
            let cut = pieces(&mut random, 2 << 20, 1 << 20);
            lane.read(1, offset, cut.clone());
            assert!(matches!(&land(&mut lane, 1)[..], [(1, Ok(()))]));
            let mut wanted = &model[offset as usize..][..1 << 20];
            for (at, run) in cut {
                let mut bytes = vec![0; run as usize];
                memory.read_bytes(at, &mut bytes);
                let (head, rest) = wanted.split_at(bytes.len());
                assert!(bytes == head, "round {round}, after byte {offset}");
                wanted = rest;
            }
        }
    }
}
