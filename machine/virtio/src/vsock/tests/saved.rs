//! Connections that are saved, with and without the host's end.

use super::*;
use crate::features::VERSION_1;
use crate::state::ModelV1;
use crate::testing::Machine;

const RECEIVED: u64 = 0x4_0000;

fn machine(host: &InMemory) -> Machine {
    let device = Vsock::new(CID, Box::new(host.clone()));
    let mut machine = Machine::new(|_| Box::new(device), VERSION_1, true);
    for slot in 0..8 {
        offer_room(&mut machine, slot);
    }
    machine
}

fn offer_room(machine: &mut Machine, slot: u16) {
    machine.offer(RECEIVE, slot, &[(RECEIVED + 0x1000 * u64::from(slot), 1024, true)]);
}

fn send(machine: &mut Machine, header: Header, data: &[u8]) {
    let bytes = [&header.encode()[..], data].concat();
    machine.queues[TRANSMIT].write(SENT, &bytes);
    machine.offer(TRANSMIT, 0, &[(SENT, bytes.len() as u32, false)]);
}

/// The packet in a buffer that the device used.
fn packet(machine: &Machine, slot: u16) -> (Header, Vec<u8>) {
    assert!(machine.queues[RECEIVE].used_index() > slot, "it has come");
    let (_, length) = machine.queues[RECEIVE].used(slot);
    let bytes = machine.queues[RECEIVE].read(RECEIVED + 0x1000 * u64::from(slot), length as usize);
    (Header::decode(bytes[..HEADER].try_into().expect("a header")), bytes[HEADER..].to_vec())
}

fn host(reopens: bool) -> InMemory {
    InMemory(Arc::new(Mutex::new(World { room: 3, reopens, ..World::default() })))
}

fn reborn(machine: Machine, host: &InMemory) -> Machine {
    machine.reborn(|_, state| {
        let ModelV1::Vsock(state) = state else { panic!("sockets: {state:?}") };
        Box::new(Vsock::restore(Box::new(host.clone()), state).expect("sound"))
    })
}

#[test]
fn a_connection_whose_stream_is_there_goes_on_in_both_directions() {
    let host = host(true);
    let mut machine = machine(&host);
    send(&mut machine, from_guest(operation::REQUEST, 0), &[]);
    assert_eq!(packet(&machine, 0).0.operation, operation::RESPONSE);
    send(&mut machine, from_guest(operation::DATA, 10), b"0123456789");
    assert_eq!(host.world().from_guest[&KEY], b"012", "the host takes no more");
    let ModelV1::Vsock(state) = machine.save().model else { panic!("sockets") };
    let saved = &state.mux.expect("it has a driver").connections[&(1024, 7)];
    assert_eq!((&saved.inbound[..], saved.forwarded), (&b"3456789"[..], 3));
    let mut machine = reborn(machine, &host);
    assert_eq!(host.world().live, 1);
    host.world().room = usize::MAX;
    host.world().to_guest.entry(KEY).or_default().extend(b"answer");
    host.world().stirred.push(Stirred { key: KEY, hung_up: false });
    machine.ring(RECEIVE as u64);
    assert_eq!(host.world().from_guest[&KEY], b"0123456789");
    let (header, data) = packet(&machine, 1);
    assert_eq!(
        (header.operation, header.forwarded, &data[..]),
        (operation::DATA, 10, &b"answer"[..])
    );
    let state = machine.save();
    let ModelV1::Vsock(state) = state.model else { panic!("sockets") };
    let mux = state.mux.expect("it has a driver");
    assert_eq!((mux.connections[&(1024, 7)].sent, mux.turn), (6, Some((1024, 7))));
}

#[test]
fn a_connection_whose_stream_is_gone_is_reset() {
    let host = host(false);
    let mut machine = machine(&host);
    send(&mut machine, from_guest(operation::REQUEST, 0), &[]);
    let mut machine = reborn(machine, &host);
    let (header, _) = packet(&machine, 1);
    assert_eq!((header.operation, header.destination_port), (operation::RESET, 1024));
    assert_eq!(host.world().live, 0);
    send(&mut machine, from_guest(operation::REQUEST, 0), &[]);
    assert_eq!(packet(&machine, 2).0.operation, operation::RESPONSE, "and can be made again");
}

#[test]
fn what_no_device_comes_to_is_refused() {
    let host = host(true);
    let mut machine = machine(&host);
    send(&mut machine, from_guest(operation::REQUEST, 0), &[]);
    let ModelV1::Vsock(sound) = machine.save().model else { panic!("sockets") };
    drop(machine);
    let restore = |change: &dyn Fn(&mut MuxV1)| {
        let mut state = sound.clone();
        change(state.mux.as_mut().expect("it has a driver"));
        Vsock::restore(Box::new(host.clone()), &state).map(drop)
    };
    let one = |change: fn(&mut ConnectionV1)| {
        restore(&|mux| change(mux.connections.get_mut(&(1024, 7)).expect("it lives")))
    };
    assert_eq!(restore(&|_| {}), Ok(()));
    assert!(restore(&|mux| mux.next_host_port = 7).is_err());
    assert!(restore(&|mux| mux.resets = vec![(1, 1); 5000]).is_err());
    assert!(one(|saved| saved.inbound = vec![0; BUFFER as usize + 1]).is_err());
    assert!(one(|saved| saved.outbound = vec![0; (64 << 10) + 1]).is_err());
    assert!(one(|saved| saved.closed = 4).is_err());
    for guest_cid in [0, 2, u32::MAX] {
        let state = VsockV1 { guest_cid, mux: None };
        assert!(Vsock::restore(Box::new(host.clone()), &state).is_err(), "{guest_cid}");
    }
    let state = VsockV1 { guest_cid: CID, mux: None };
    let mut device = Vsock::restore(Box::new(host.clone()), &state).expect("sound");
    assert!(device.resume(VERSION_1, Waker::none()).is_err(), "a driver and none");
}
