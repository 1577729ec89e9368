//! The meeting point of the threads of one VM: what the guest sends, what the user asks.
//!
//! vCPU threads put bytes in and wait when there are too many (a slow reader slows the guest); the
//! run loop takes everything at once. Invariants: every queue is bounded; after [`Outbox::close`]
//! nobody waits and nothing is kept.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use protocol::WindowSize;

use super::report::Event;

/// Bytes of one stream that wait for the run loop.
const MOST: usize = 256 * 1024;
/// Bytes of standard input that wait for the guest.
const MOST_INPUT: usize = 64 * 1024;
/// Sentences that wait for the run loop.
const MOST_WORDS: usize = 1000;
/// How long the run loop lets bytes gather before it takes them.
const GATHER: Duration = Duration::from_micros(500);

/// What the user asks while the guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wish {
    Resize(WindowSize),
    Signal(u8),
    Quit(u8),
}

/// Everything that came since the last time.
#[derive(Debug, Default)]
pub(super) struct Taken<E> {
    pub(super) console: Vec<u8>,
    pub(super) session: Vec<u8>,
    pub(super) wishes: Vec<Wish>,
    pub(super) words: Vec<Event>,
    pub(super) ended: Option<E>,
}

#[derive(Debug)]
struct State<E> {
    console: Vec<u8>,
    session: Vec<u8>,
    input: VecDeque<u8>,
    input_ended: bool,
    wishes: Vec<Wish>,
    words: Vec<Event>,
    ended: Option<E>,
    /// Input came; the run loop shall look.
    stirred: bool,
    closed: bool,
}

/// `E` is how the machine ended.
#[derive(Debug)]
pub(super) struct Outbox<E> {
    state: Mutex<State<E>>,
    something: Condvar,
    room: Condvar,
}

impl<E> Outbox<E> {
    pub(super) fn new() -> Self {
        let state = State {
            console: Vec::new(),
            session: Vec::new(),
            input: VecDeque::new(),
            input_ended: false,
            wishes: Vec::new(),
            words: Vec::new(),
            ended: None,
            stirred: false,
            closed: false,
        };
        Self { state: Mutex::new(state), something: Condvar::new(), room: Condvar::new() }
    }

    /// A thread that panicked while it held the lock left plain queues behind.
    fn lock(&self) -> MutexGuard<'_, State<E>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes of the first serial port.
    pub(super) fn push_console(&self, bytes: &[u8]) {
        self.push(bytes, |state| &mut state.console);
    }

    /// Bytes of the second serial port.
    pub(super) fn push_session(&self, bytes: &[u8]) {
        self.push(bytes, |state| &mut state.session);
    }

    fn push(&self, bytes: &[u8], queue: fn(&mut State<E>) -> &mut Vec<u8>) {
        let mut state = self.lock();
        while queue(&mut state).len() >= MOST && !state.closed {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if state.closed {
            return;
        }
        let queue = queue(&mut state);
        let was_empty = queue.is_empty();
        queue.extend_from_slice(bytes);
        if was_empty {
            self.something.notify_all();
        }
    }

    /// A sentence for the user, as it will reach them; beyond [`MOST_WORDS`] that wait, the last ones are dropped.
    pub(super) fn push_word(&self, event: Event) {
        let mut state = self.lock();
        if state.words.len() < MOST_WORDS && !state.closed {
            state.words.push(event);
            state.stirred = true;
            self.something.notify_all();
        }
    }

    /// The guest has room for input again.
    pub(super) fn stir(&self) {
        self.lock().stirred = true;
        self.something.notify_all();
    }

    /// The machine has ended.
    pub(super) fn end(&self, how: E) {
        let mut state = self.lock();
        state.ended.get_or_insert(how);
        self.something.notify_all();
    }

    /// Waits until something came, or until `deadline`; takes what there is.
    pub(super) fn take(&self, deadline: Option<Instant>) -> Taken<E> {
        let mut state = self.lock();
        loop {
            let bytes = !state.console.is_empty() || !state.session.is_empty();
            if bytes && state.ended.is_none() {
                drop(state);
                std::thread::sleep(GATHER);
                state = self.lock();
            }
            let asked = !state.wishes.is_empty() || !state.words.is_empty();
            if bytes || state.stirred || state.ended.is_some() || asked {
                break;
            }
            let now = Instant::now();
            state = match deadline {
                Some(deadline) if deadline <= now => break,
                Some(deadline) => {
                    let waited = self.something.wait_timeout(state, deadline - now);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
                None => self.something.wait(state).unwrap_or_else(PoisonError::into_inner),
            };
        }
        state.stirred = false;
        self.room.notify_all();
        Taken {
            console: std::mem::take(&mut state.console),
            session: std::mem::take(&mut state.session),
            wishes: std::mem::take(&mut state.wishes),
            words: std::mem::take(&mut state.words),
            ended: state.ended.take(),
        }
    }

    /// At most `most` bytes of the user's input, and whether that was the last of it.
    pub(super) fn take_input(&self, most: usize) -> (Vec<u8>, bool) {
        let mut state = self.lock();
        let count = most.min(state.input.len());
        let bytes = state.input.drain(..count).collect();
        self.room.notify_all();
        (bytes, state.input_ended && state.input.is_empty())
    }

    /// Nobody waits any more.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.input.clear();
        self.room.notify_all();
        self.something.notify_all();
    }
}

/// What the run loop understands from outside; the machine's way of ending does not matter here.
trait Inbox: Send + Sync {
    fn input(&self, bytes: &[u8]) -> bool;
    fn input_ended(&self);
    fn wish(&self, wish: Wish);
}

impl<E: Send> Inbox for Outbox<E> {
    fn input(&self, bytes: &[u8]) -> bool {
        let mut state = self.lock();
        while state.input.len() >= MOST_INPUT && !state.closed {
            state = self.room.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        if !state.closed {
            state.input.extend(bytes);
            state.stirred = true;
            self.something.notify_all();
        }
        !state.closed
    }

    fn input_ended(&self) {
        let mut state = self.lock();
        state.input_ended = true;
        state.stirred = true;
        self.something.notify_all();
    }

    fn wish(&self, wish: Wish) {
        let mut state = self.lock();
        if !state.closed {
            state.wishes.push(wish);
            self.something.notify_all();
        }
    }
}

/// Steers a VM from other threads; works, and does nothing, after its end.
#[derive(Clone)]
pub struct Controls {
    inbox: Arc<dyn Inbox>,
}

impl Controls {
    pub(super) fn new<E: Send + 'static>(outbox: Arc<Outbox<E>>) -> Self {
        Self { inbox: outbox }
    }

    /// Input for the command, or for the console of an initrd. Waits while the guest takes none;
    /// false when the VM has ended.
    pub fn input(&self, bytes: &[u8]) -> bool {
        self.inbox.input(bytes)
    }

    /// There will be no more input.
    pub fn input_ended(&self) {
        self.inbox.input_ended();
    }

    /// The user's terminal has a new size.
    pub fn resize(&self, size: WindowSize) {
        self.inbox.wish(Wish::Resize(size));
    }

    /// Sends a Linux signal to the command.
    pub fn signal(&self, number: u8) {
        self.inbox.wish(Wish::Signal(number));
    }

    /// Ends the VM now; `signal` is the reason, 0 for the keyboard.
    pub fn quit(&self, signal: u8) {
        self.inbox.wish(Wish::Quit(signal));
    }
}

impl std::fmt::Debug for Controls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Controls")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_wishes_and_the_end_come_through_together() {
        let outbox = Arc::new(Outbox::<u32>::new());
        let controls = Controls::new(outbox.clone());
        outbox.push_console(b"a");
        outbox.push_session(b"b");
        outbox.push_console(b"c");
        controls.signal(2);
        outbox.push_word(Event::Trouble("it broke".into()));
        outbox.end(5);
        outbox.end(6);
        let taken = outbox.take(None);
        assert_eq!((taken.console, taken.session), (b"ac".to_vec(), b"b".to_vec()));
        assert!(matches!(&taken.words[..], [Event::Trouble(text)] if text == "it broke"));
        assert_eq!((taken.wishes, taken.ended), (vec![Wish::Signal(2)], Some(5)));
        let none = outbox.take(Some(Instant::now() + Duration::from_millis(5)));
        assert!(none.console.is_empty() && none.ended.is_none());
    }

    #[test]
    fn input_waits_for_room_and_not_for_the_dead() {
        let outbox = Arc::new(Outbox::<u32>::new());
        let controls = Controls::new(outbox.clone());
        assert!(controls.input(&[1; MOST_INPUT]));
        let other = std::thread::spawn(move || controls.input(b"more"));
        assert_eq!(outbox.take_input(10).0.len(), 10);
        assert!(other.join().expect("it only waits"));
        assert_eq!(
            outbox.take_input(usize::MAX),
            ([vec![1; MOST_INPUT - 10], b"more".to_vec()].concat(), false)
        );
        let controls = Controls::new(outbox.clone());
        controls.input_ended();
        assert_eq!(outbox.take_input(1), (Vec::new(), true));
        outbox.close();
        assert!(!controls.input(b"late"));
    }

    #[test]
    fn a_guest_that_floods_waits_until_the_outbox_closes() {
        let outbox = Arc::new(Outbox::<u32>::new());
        outbox.push_console(&[b'x'; MOST]);
        let guest = {
            let outbox = outbox.clone();
            std::thread::spawn(move || outbox.push_console(b"y"))
        };
        std::thread::sleep(Duration::from_millis(20));
        assert!(!guest.is_finished());
        outbox.close();
        guest.join().expect("released");
    }
}
