//! Saved state as a stranger's file has it (base/snapshot), and as state of virtio devices that is damaged in
//! spite of its sums (machine/virtio).

use std::sync::{Arc, Mutex};

use memory::GuestMemory;
use snapshot::{Limits, Section, SnapshotError};
use virtio::block::Block;
use virtio::console::Console;
use virtio::input::Input;
use virtio::net::Net;
use virtio::state::{ModelV1, StateError, VirtioV1};
use virtio::vsock::Vsock;
use virtio::{Balloon, Quiet, Rings, Rng, VirtioPci};
use x86::GuestPhys;

use crate::cursor::Cursor;
use crate::network_card::link;
use crate::virtio::Small;
use crate::virtio_devices::{
    Bench, Fickle, HostSide, Made, Nobody, around, balloon_host, bench, console_host,
    keyboard_host, mend, negotiate, sink, step, tablet_host, vsock_host,
};

const RAM: u64 = 0x4_0000;
const STEPS: usize = 128;
/// Sections of state that is damaged are small: a guest's input, a few packets.
const LIMITS: Limits = Limits { sections: 16, section_bytes: 1 << 20 };

/// Bytes as a file, and as a driver's doing with damage to what its device saves.
///
/// # Panics
/// Reading or restoring panicked; what was read does not write as the same; a device was made that cannot be
/// saved and restored again, or had again after a reset.
pub fn saved_state(data: &[u8]) {
    file(data);
    let mut cursor = Cursor::new(data);
    let mut bench = some_bench(cursor.u8());
    negotiate(&mut bench, cursor.u64() | 1 << 32);
    for _ in 0..usize::from(cursor.u8() & 63) {
        step(&mut bench, &mut cursor);
    }
    let quiet = bench.function.quiesce();
    let sound = bench.function.save(&quiet);
    let mut sections = sound.to_sections();
    assert_eq!(VirtioV1::from_sections(&sections), Ok(sound), "it comes back as it was");
    for _ in 0..cursor.u8() & 7 {
        damage(&mut sections, &mut cursor);
    }
    bench.function.worker().stop();
    drop(quiet);
    let Ok(state) = VirtioV1::from_sections(&sections) else { return };
    assert_one_form(&state, &sections);
    let Ok((mut bench, quiet)) = restored(&state, &bench.memory) else { return };
    let again = bench.function.save(&quiet);
    let others = Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("256 KiB can be had"));
    let (twin, still) = restored(&again, &others).expect("what was accepted once is sound");
    assert_eq!(twin.function.save(&still).transport, again.transport);
    drop(quiet);
    for _ in 0..STEPS {
        if cursor.is_empty() {
            break;
        }
        step(&mut bench, &mut cursor);
    }
    mend(&mut bench);
}

fn file(data: &[u8]) {
    let whole = snapshot::read(data, LIMITS);
    if let Ok(sections) = &whole {
        assert_eq!(snapshot::write(sections), data, "what is read writes as the same");
    }
    // The same bytes behind sound heads and sums.
    let at = usize::from(data.first().copied().unwrap_or(0)).min(data.len());
    let (first, second) = data.split_at(at);
    let section = |name: &[u8; 4], version: u16, bytes: &[u8]| Section {
        kind: snapshot::Kind(*name),
        version,
        bytes: bytes.to_vec(),
    };
    let names = [b"vblk", b"vnet", b"vfs ", b"vcon", b"vsok", b"vrng", b"vbal", b"vinp"];
    // The card's have two versions.
    let version = if data.len() % 16 == 9 { 2 } else { 1 };
    let sections = [section(b"vpci", 1, first), section(names[data.len() % 8], version, second)];
    let bytes = snapshot::write(&sections);
    assert_eq!(snapshot::read(&bytes, LIMITS).as_deref(), Ok(&sections[..]));
    if let Ok(state) = VirtioV1::from_sections(&sections) {
        assert_one_form(&state, &sections);
    }
}

/// Each state has one form; what an earlier version saved is written as the latest.
fn assert_one_form(state: &VirtioV1, sections: &[Section; 2]) {
    let mut now = state.to_sections();
    if now[1].version > sections[1].version {
        assert_eq!(VirtioV1::from_sections(&now).as_ref(), Ok(state), "it comes back as it was");
        now[1] = sections[1].clone();
    }
    assert_eq!(&now, sections, "each state has one form");
}

fn some_bench(which: u8) -> Bench {
    let memory = || Arc::new(GuestMemory::new(&[(GuestPhys(0), RAM)]).expect("256 KiB can be had"));
    match which % 7 {
        5 => around(Box::new(Block::new(Small::empty(), "hostile", 2)), nobody(), memory()),
        6 => {
            let (link, seen) = link(8, &[3, 90, 200]);
            let pairs = u32::from(which / 7 % 4);
            let card = Net::new(Box::new(link), [0x52, 0x54, 0, 1, 2, 3], 1500, pairs);
            let host = move |cursor: &mut Cursor<'_>| {
                seen.lock().expect("no holder panics").add(u32::from(cursor.u8() & 15));
            };
            around(Box::new(card), Box::new(host), memory())
        }
        which => bench(which),
    }
}

/// A host that does nothing.
fn nobody() -> HostSide {
    Box::new(|_| {})
}

/// Bytes that change, go or come.
fn damage(sections: &mut [Section; 2], cursor: &mut Cursor<'_>) {
    let what = cursor.u8();
    let section = &mut sections[usize::from(what & 1)];
    let at = usize::from(cursor.u16());
    let length = section.bytes.len();
    let bytes = cursor.u32().to_le_bytes();
    let count = [1, 2, 4][usize::from(what >> 1) % 3];
    match what >> 4 {
        0 => section.bytes.truncate(at),
        1 => section.bytes.extend(&bytes[..count]),
        2 => section.version = cursor.u16(),
        3 => section.kind.0[at & 3] = bytes[0],
        _ if length > 0 => {
            for (offset, byte) in (at % length..length).zip(&bytes[..count]) {
                section.bytes[offset] = *byte;
            }
        }
        _ => {}
    }
}

/// A device made from a state over some memory.
fn restored(state: &VirtioV1, memory: &Arc<GuestMemory>) -> Result<(Bench, Quiet), StateError> {
    let (device, host) = device(&state.model, memory)?;
    let queues = device.queue_sizes().len() as u16;
    let to = Arc::new(Nobody);
    let (function, quiet) =
        VirtioPci::restore(device, memory.clone(), to, Rings::Inline, &state.transport)?;
    Ok((Bench { function, memory: memory.clone(), queues, host }, quiet))
}

fn device(model: &ModelV1, memory: &Arc<GuestMemory>) -> Result<Made, StateError> {
    Ok(match model {
        ModelV1::Balloon(state) => {
            let balloon = Balloon::restore(memory.clone(), state);
            let host = balloon_host(balloon.control());
            (Box::new(balloon), host)
        }
        ModelV1::Block(state) => (Box::new(Block::restore(Small::empty(), state)?), nobody()),
        ModelV1::Console(state) => {
            let console = Console::restore(sink(), vec![("agent".into(), sink())], state)?;
            let host = console_host(console.control());
            (Box::new(console), host)
        }
        ModelV1::Input(state) if state.product == 1 => {
            let (device, keyboard) = Input::restore_keyboard(state)?;
            (Box::new(device), keyboard_host(keyboard))
        }
        ModelV1::Input(state) => {
            let (device, tablet) = Input::restore_tablet(state)?;
            (Box::new(device), tablet_host(tablet))
        }
        ModelV1::Net(state) => {
            let (link, _) = link(8, &[3, 90, 200]);
            (Box::new(Net::restore(Box::new(link), state)?), nobody())
        }
        ModelV1::Rng(state) => (Box::new(Rng::restore(Arc::new(|_| Ok(())), *state)), nobody()),
        ModelV1::Vsock(state) => {
            let whims = Arc::new(Mutex::default());
            let device = Vsock::restore(Box::new(Fickle(whims.clone())), state)?;
            (Box::new(device), vsock_host(whims))
        }
        ModelV1::Fs(_) => return Err(SnapshotError::Value("a folder, which is not here").into()),
    })
}
