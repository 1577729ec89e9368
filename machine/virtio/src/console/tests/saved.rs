//! A console that is saved with input and messages waiting.

use super::*;
use crate::state::ModelV1;
use crate::testing::Machine;

fn output(port: usize, heard: &Heard) -> Output {
    let heard = heard.clone();
    Box::new(move |bytes: &[u8]| heard.lock().expect("not poisoned").push((port, bytes.to_vec())))
}

fn say(machine: &mut Machine, slot: u16, port: u32, event: u16) {
    machine.queues[CONTROL_TRANSMIT]
        .write(TO_DEVICE, &Message { port, event, value: 1 }.encode(&[]));
    machine.offer(CONTROL_TRANSMIT, slot, &[(TO_DEVICE, 8, false)]);
}

#[test]
fn the_guest_is_told_and_gets_what_waited() {
    let heard = Heard::default();
    let more = |heard: &Heard| vec![("agent".to_string(), output(1, heard))];
    let console = Console::with_ports(output(0, &heard), more(&heard));
    let hand = console.control();
    let mut machine = Machine::new(|_| Box::new(console), SIZE | MULTIPORT, true);
    hand.resize(100, 40);
    say(&mut machine, 0, 1, event::PORT_READY);
    say(&mut machine, 1, 0, event::PORT_READY);
    assert_eq!(hand.input(1, b"abcdef"), 6);
    assert_eq!(hand.input(0, &[7; MOST_INPUT + 1]), MOST_INPUT, "no more room");
    machine.offer(4, 0, &[(TO_GUEST, 4, true)]);
    assert_eq!(machine.queues[4].read(TO_GUEST, 4), b"abcd");
    let mut hand = None;
    let again = heard.clone();
    let mut machine = machine.reborn(|_, state| {
        let ModelV1::Console(state) = state else { panic!("a console: {state:?}") };
        let (first, more) = (output(0, &again), more(&again));
        let console = Console::restore(first, more, state).expect("sound");
        hand = Some(console.control());
        Box::new(console)
    });
    let hand = hand.expect("it was made");
    assert_eq!((machine.read(0x2000, 2), machine.read(0x2002, 2)), (100, 40));
    let mut messages = Vec::new();
    for slot in 0..6_u16 {
        machine.offer(CONTROL_RECEIVE, slot, &[(TO_GUEST, 64, true)]);
        let queue = &machine.queues[CONTROL_RECEIVE];
        if queue.used_index() > slot {
            messages.push(queue.read(TO_GUEST, queue.used(slot).1 as usize));
        }
    }
    let told = [(1, event::PORT_NAME), (1, event::PORT_OPEN), (0, event::CONSOLE_PORT)];
    let rest = [(0, event::RESIZE), (0, event::PORT_OPEN)];
    assert_eq!(events(&messages), [&told[..], &rest].concat());
    assert_eq!((&messages[0][8..], &messages[3][8..]), (&b"agent"[..], &[100, 0, 40, 0][..]));
    machine.offer(4, 1, &[(TO_GUEST, 8, true)]);
    assert_eq!(
        (machine.queues[4].used(1), machine.queues[4].read(TO_GUEST, 2)),
        ((1, 2), b"ef".into())
    );
    let (sender, room) = std::sync::mpsc::channel();
    hand.on_room(move || sender.send(()).expect("the test listens"));
    machine.offer(0, 0, &[(TO_GUEST, 8, true)]);
    assert_eq!(machine.queues[0].used(0), (0, 8));
    assert!(room.try_recv().is_ok(), "who waited for room hears of it");
    machine.queues[5].write(TO_DEVICE, b"out");
    machine.offer(5, 0, &[(TO_DEVICE, 3, false)]);
    assert_eq!(*heard.lock().expect("not poisoned"), [(1, b"out".to_vec())]);
}

#[test]
fn what_no_console_comes_to_is_refused() {
    let heard = Heard::default();
    let sound = Console::new(output(0, &heard)).saved();
    let restore = |change: fn(&mut ConsoleV1)| {
        let mut state = sound.clone();
        change(&mut state);
        Console::restore(output(0, &heard), Vec::new(), &state).map(drop)
    };
    assert_eq!(restore(|_| {}), Ok(()));
    let port = PortV1 { ready: false, input: vec![0; MOST_INPUT + 1] };
    assert!(restore(|state| state.ports.push(state.ports[0].clone())).is_err(), "another port");
    let mut state = sound.clone();
    state.ports[0] = port;
    assert!(Console::restore(output(0, &heard), Vec::new(), &state).is_err(), "too much input");
    for message in [(1, event::PORT_ADD, 1), (0, event::PORT_NAME, 1), (0, 99, 1)] {
        let mut state = sound.clone();
        state.messages = vec![message];
        let refused = Console::restore(output(0, &heard), Vec::new(), &state);
        assert!(refused.is_err(), "{message:?}");
    }
    let mut console = Console::restore(output(0, &heard), Vec::new(), &sound).expect("sound");
    let other = console.resume(MULTIPORT, Waker::none());
    assert!(other.is_err(), "the driver knew of one port");
}
