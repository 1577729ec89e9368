//! A driver with and without several ports.

mod saved;

use super::control::event;
use super::*;
use crate::testing::{Guest, Recorder};

const BUFFERS: u16 = 16;
const TO_DEVICE: u64 = 0x5_0000;
const TO_GUEST: u64 = 0x6_0000;

/// Ports and what came out of them.
type Heard = Arc<Mutex<Vec<(usize, Vec<u8>)>>>;

struct Bench {
    queues: Vec<Guest>,
    seen: Vec<u16>,
    active: Queues,
    handler: Box<dyn Handler>,
    control: ConsoleControl,
    heard: Heard,
}

fn bench(features: u64) -> Bench {
    let heard = Heard::default();
    let output = |port: usize| -> Output {
        let heard = heard.clone();
        Box::new(move |bytes: &[u8]| {
            heard.lock().expect("not poisoned").push((port, bytes.to_vec()))
        })
    };
    let mut console = Console::with_ports(output(0), vec![("agent".into(), output(1))]);
    let control = console.control();
    let first = Guest::new(BUFFERS);
    let queues: Vec<Guest> = (0..6).map(|index| first.beside(index * 0x9000)).collect();
    let signals = crate::signals::Signals::new(Arc::new(Recorder::default()), 6);
    let worker = Arc::new(crate::Worker::new(Kind::Console, true, signals, None));
    let handler = console.activate(features, worker.waker());
    let active = queues.iter().map(|queue| Some(queue.queue(0).expect("sound"))).collect();
    Bench { seen: vec![0; 6], active: Queues::new(active), queues, handler, control, heard }
}

impl Bench {
    fn go(&mut self) {
        self.handler.process(&mut self.active).expect("sound rings");
    }

    fn send(&mut self, queue: usize, bytes: &[u8]) {
        self.queues[queue].write(TO_DEVICE, bytes);
        self.queues[queue].offer_chain(0, &[(TO_DEVICE, bytes.len() as u32, false)]);
        self.go();
    }

    fn say(&mut self, port: u32, event: u16, value: u16) {
        self.send(CONTROL_TRANSMIT, &Message { port, event, value }.encode(&[]));
    }

    /// Offers one buffer at a time until nothing comes.
    fn receive(&mut self, queue: usize, size: u32) -> Vec<Vec<u8>> {
        let mut all = Vec::new();
        loop {
            let guest = &mut self.queues[queue];
            if guest.used_index() == self.seen[queue] && all.len() < 50 {
                guest.offer_chain(0, &[(TO_GUEST, size, true)]);
                self.handler.process(&mut self.active).expect("sound rings");
            }
            let guest = &self.queues[queue];
            if guest.used_index() == self.seen[queue] {
                return all;
            }
            let (_, length) = guest.used(self.seen[queue]);
            self.seen[queue] = self.seen[queue].wrapping_add(1);
            all.push(guest.read(TO_GUEST, length as usize));
        }
    }
}

fn events(messages: &[Vec<u8>]) -> Vec<(u32, u16)> {
    let decode = |bytes: &Vec<u8>| Message::decode(bytes[..8].try_into().expect("eight"));
    messages.iter().map(decode).map(|message| (message.port, message.event)).collect()
}

#[test]
fn a_driver_of_one_port_reads_and_writes() {
    let mut bench = bench(SIZE);
    bench.send(1, b"hello");
    assert_eq!(*bench.heard.lock().expect("not poisoned"), [(0, b"hello".to_vec())]);
    assert_eq!(bench.control.input(0, b"abcdef"), 6);
    assert_eq!(bench.receive(0, 4), [b"abcd".to_vec(), b"ef".to_vec()]);
}

#[test]
fn ports_are_told_of_named_and_sized() {
    let mut bench = bench(SIZE | MULTIPORT);
    bench.control.resize(132, 50);
    bench.say(0, event::DEVICE_READY, 1);
    let added = bench.receive(CONTROL_RECEIVE, 64);
    assert_eq!(events(&added), [(0, event::PORT_ADD), (1, event::PORT_ADD)]);
    assert_eq!(bench.control.input(0, b"early"), 5);
    bench.say(0, event::PORT_READY, 1);
    let told = bench.receive(CONTROL_RECEIVE, 64);
    let wanted = [event::CONSOLE_PORT, event::RESIZE, event::PORT_OPEN];
    assert_eq!(events(&told), wanted.map(|event| (0, event)));
    assert_eq!(told[1][8..], [132, 0, 50, 0]);
    assert_eq!(bench.receive(0, 64), [b"early".to_vec()]);
    bench.say(1, event::PORT_READY, 1);
    let told = bench.receive(CONTROL_RECEIVE, 64);
    assert_eq!(events(&told), [(1, event::PORT_NAME), (1, event::PORT_OPEN)]);
    assert_eq!(told[0][8..], *b"agent");
    bench.send(5, b"from the agent");
    assert_eq!(bench.heard.lock().expect("not poisoned").last().expect("it came").0, 1);
}

#[test]
fn only_the_last_size_waits_and_nothing_grows() {
    let mut bench = bench(MULTIPORT);
    for port in [0, 1, 2, u32::MAX] {
        for _ in 0..20 {
            bench.say(port, event::DEVICE_READY, 1);
            bench.say(port, event::PORT_READY, 1);
            bench.say(port, 0xffff, 7);
        }
    }
    for rows in 1..100 {
        bench.control.resize(80, rows);
    }
    let told = bench.receive(CONTROL_RECEIVE, 64);
    assert_eq!(told.len(), 7, "{:?}", events(&told));
    assert_eq!(told.last().expect("some")[8..], [80, 0, 99, 0]);
    bench.send(CONTROL_TRANSMIT, &[1, 2, 3]);
    bench.send(CONTROL_TRANSMIT, &[0; 100]);
}

#[test]
fn input_is_bounded_and_tells_of_room() {
    let mut bench = bench(0);
    let told = Arc::new(Mutex::new(0));
    let count = told.clone();
    bench.control.on_room(move || *count.lock().expect("not poisoned") += 1);
    assert_eq!(bench.control.input(0, &vec![1; MOST_INPUT + 1]), MOST_INPUT);
    assert_eq!(bench.control.input(7, b"no such port"), 0);
    bench.go();
    assert_eq!(*told.lock().expect("not poisoned"), 0);
    bench.receive(0, 4096);
    assert_eq!(*told.lock().expect("not poisoned"), 1);
}

#[test]
fn the_configuration_has_size_and_ports() {
    let console = Console::new(Box::new(|_: &[u8]| {}));
    console.control().resize(80, 25);
    let mut config = [0; 12];
    console.config_read(0, &mut config);
    assert_eq!(config, [80, 0, 25, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(console.queue_sizes().len(), 4);
}
