//! Code that one vCPU changes and another runs (SDM vol. 3, 8.1.3).
//!
//! Who decodes a page first makes every store to it slow ([`SoftBus::watch_code_page`]): sets the
//! page's bit in `memory.code()`, then waits until no other vCPU can store there by an entry or a
//! look at the bit from before. A vCPU answers between instructions; one that is outside (asleep,
//! in a device, not in `run`) answers before it goes on, so nobody waits for it. Whoever stores to
//! such a page drops what the others decoded from it ([`SoftBus::code_written`]): they find that
//! in their inboxes at the next boundary, at the latest after a serialising instruction, all of
//! which leave their block.
//!
//! Invariants: bytes are decoded only while the page's bit is set and everybody has answered.
//! Bits and the answers they need change under one lock; who waits for the lock is outside, who
//! has it waits for nothing but answers. A vCPU that stores to a page has its own bit of the page
//! in `written` before it looks at the page's bit in `memory.code()`.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU64, Ordering, fence};
use std::sync::{Mutex, MutexGuard};

use memory::{PageBitmap, RamOffset};

use crate::bus::SoftBus;
use crate::cache::signal;
use crate::shared::{Shared, VcpuShared, attention};

/// More pages than this in an inbox stand for all.
const MOST_PAGES: usize = 1024;

/// Pages that others speak of.
#[derive(Debug, Default)]
pub(crate) struct Pages {
    some: BTreeSet<u64>,
    all: bool,
}

impl Pages {
    fn add(&mut self, page: u64) {
        self.some.insert(page);
        if self.some.len() > MOST_PAGES {
            self.some.clear();
            self.all = true;
        }
    }

    /// The pages; `None` for all there are.
    pub(crate) fn listed(self) -> Option<BTreeSet<u64>> {
        (!self.all).then_some(self.some)
    }
}

/// What others want a vCPU to do about code.
#[derive(Debug, Default)]
struct Inbox {
    /// Pages whose decoded code is to be dropped.
    stale: Pages,
    /// Pages that stores must not reach unseen any more.
    protect: Pages,
    /// Requests to protect so far.
    asked: u64,
}

/// A vCPU's part in this.
pub(crate) struct Presence {
    /// It may be within an instruction.
    inside: AtomicBool,
    /// It may be within translated code, which looks up only when its budget is spent.
    translated: AtomicBool,
    /// Thread that it runs on.
    thread: AtomicI32,
    inbox: Mutex<Inbox>,
    /// Requests to protect that were answered.
    answered: AtomicU64,
    /// Pages that it may store to without looking at `memory.code()`.
    written: PageBitmap,
    /// Pages that it may have decoded.
    decoded: PageBitmap,
}

impl Presence {
    pub(crate) fn new(pages: u64) -> Self {
        Self {
            inside: AtomicBool::new(false),
            translated: AtomicBool::new(false),
            thread: AtomicI32::new(0),
            inbox: Mutex::default(),
            answered: AtomicU64::new(0),
            written: PageBitmap::new(pages),
            decoded: PageBitmap::new(pages),
        }
    }

    fn inbox(&self) -> MutexGuard<'_, Inbox> {
        self.inbox.lock().expect("no holder panics")
    }

    /// From here on nobody waits for this vCPU. It executes nothing until it has come inside.
    pub(crate) fn go_outside(&self) {
        self.inside.store(false, Ordering::SeqCst);
    }

    /// Translated code begins or has ended. Only a hint: who asks for attention in the very moment
    /// of the beginning may miss it.
    #[inline(always)]
    pub(crate) fn set_translated(&self, translated: bool) {
        self.translated.store(translated, Ordering::Relaxed);
    }

    /// Makes translated code leave at its next poll.
    pub(crate) fn interrupt(&self) {
        if self.translated.load(Ordering::SeqCst) {
            signal::kick(self.thread.load(Ordering::Relaxed));
        }
    }
}

impl VcpuShared {
    /// Asks for a page's protection; returns the request's number.
    fn ask_to_protect(&self, page: u64) -> u64 {
        let asked = {
            let mut inbox = self.presence.inbox();
            inbox.protect.add(page);
            inbox.asked += 1;
            inbox.asked
        };
        self.notify_awake(attention::CODE);
        asked
    }

    /// Waits until a request is answered or need not be.
    fn await_answer(&self, asked: u64) {
        let mut turns = 0u32;
        while self.presence.inside.load(Ordering::SeqCst)
            && self.presence.answered.load(Ordering::Acquire) < asked
        {
            turns += 1;
            if turns < 200 {
                std::hint::spin_loop();
            } else {
                // It may have begun translated code just when we rang.
                if turns.is_multiple_of(64) {
                    self.presence.interrupt();
                }
                std::thread::yield_now();
            }
        }
    }

    /// Tells of a page whose decoded code is stale.
    fn tell_stale(&self, page: u64) {
        self.presence.inbox().stale.add(page);
        self.notify_awake(attention::CODE);
    }

    /// Pages whose blocks are to be dropped.
    pub(crate) fn take_stale(&self) -> Pages {
        std::mem::take(&mut self.presence.inbox().stale)
    }
}

impl Shared {
    /// Bytes of a page changed behind the vCPUs' backs, by a device or in a page table: whoever
    /// decoded it decodes it anew. The bit stays set, so this needs no lock: a vCPU that decodes
    /// right now either sees the new bytes or has set the bit before we looked.
    pub(crate) fn code_changed(&self, page: u64) {
        for vcpu in self.vcpus.iter().filter(|vcpu| vcpu.presence.decoded.is_set(page)) {
            vcpu.tell_stale(page);
        }
    }
}

impl SoftBus {
    /// From here on others wait for this vCPU's answers; answers what was asked before.
    pub(crate) fn come_inside(&mut self) {
        self.own.presence.inside.store(true, Ordering::SeqCst);
        if self.own.attention.load(Ordering::SeqCst) & attention::CODE != 0 {
            self.protect_pages();
        }
    }

    /// Notes which thread this vCPU is on, and comes inside.
    pub(crate) fn begin_run(&mut self) {
        self.own.presence.thread.store(signal::this_thread(), Ordering::Relaxed);
        self.come_inside();
    }

    /// Locks what may be held for long: others do not wait for this vCPU meanwhile. To be called
    /// only where no look at `memory.code()` from before counts afterwards.
    pub(crate) fn lock_outside<'a>(&mut self, mutex: &'a Mutex<()>) -> MutexGuard<'a, ()> {
        if let Ok(guard) = mutex.try_lock() {
            return guard;
        }
        self.own.presence.go_outside();
        let guard = mutex.lock().expect("no holder panics");
        self.come_inside();
        guard
    }

    /// Answers requests: stores to these pages are slow from here on.
    pub(crate) fn protect_pages(&mut self) {
        let (pages, asked) = {
            let mut inbox = self.own.presence.inbox();
            (std::mem::take(&mut inbox.protect), inbox.asked)
        };
        match pages.listed() {
            Some(pages) => pages.into_iter().for_each(|page| self.protect_page(page)),
            None => {
                self.own.presence.written.drain(|_| ());
                self.tlb.protect_all();
            }
        }
        self.own.presence.answered.store(asked, Ordering::Release);
    }

    fn protect_page(&mut self, page: u64) {
        if self.own.presence.written.clear(page) {
            self.tlb.protect_ram_page(RamOffset(page << 12));
        }
    }

    /// Stores to this page are about to happen or to become fast: `memory.code()` must be looked at
    /// after this.
    #[inline]
    pub(crate) fn note_written(&self, page: u64) {
        if self.own.presence.written.set(page) {
            fence(Ordering::SeqCst);
        }
    }

    /// From here on, stores to this page are seen, and none is under way.
    pub(crate) fn watch_code_page(&mut self, page: u64) {
        let shared = self.shared.clone();
        let _alone = self.lock_outside(&shared.code_changes);
        self.own.presence.decoded.set(page);
        if !self.memory.code().set(page) {
            return;
        }
        fence(Ordering::SeqCst);
        self.protect_page(page);
        let others = || shared.vcpus.iter().filter(|vcpu| vcpu.index != self.own.index);
        let asked: Vec<_> = others()
            .filter(|vcpu| vcpu.presence.written.is_set(page))
            .map(|vcpu| (vcpu, vcpu.ask_to_protect(page)))
            .collect();
        for (vcpu, asked) in asked {
            vcpu.await_answer(asked);
        }
    }

    /// A store is about to change a page that holds decoded code: every vCPU that may have decoded
    /// it drops what it has. Nobody decodes it anew before this instruction has ended, because
    /// that needs our answer.
    #[cold]
    pub(crate) fn code_written(&mut self, offset: RamOffset) {
        let page = offset.0 >> 12;
        let shared = self.shared.clone();
        let _alone = self.lock_outside(&shared.code_changes);
        if !self.memory.code().is_set(page) {
            return;
        }
        for vcpu in &shared.vcpus {
            if vcpu.presence.decoded.clear(page) && vcpu.index != self.own.index {
                vcpu.tell_stale(page);
            }
        }
        self.stale_pages.push(page);
        self.cut = true;
        self.memory.code().clear(page);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use memory::GuestMemory;
    use x86::GuestPhys;

    use super::*;
    use crate::bus::tlb::Kind;
    use crate::engine::SoftOptions;

    const PAGE: u64 = 3;
    const LINEAR: u64 = 0x7000;

    /// Two vCPUs; the first has an entry for stores to the page.
    fn pair() -> [SoftBus; 2] {
        let memory = Arc::new(GuestMemory::new(&[(GuestPhys(0), 0x1_0000)]).unwrap());
        let shared = Shared::new(memory, Vec::new(), 2, &SoftOptions::default());
        let shared = Arc::new(shared);
        let mut buses = [0, 1].map(|index| {
            let own = shared.vcpus[index].clone();
            let mut bus = SoftBus::new(shared.clone(), own).unwrap();
            bus.begin_run();
            bus
        });
        buses[0].note_written(PAGE);
        buses[0].tlb.switch(&interp::Context::default());
        buses[0].tlb.insert(Kind::Write, LINEAR, RamOffset(PAGE << 12), 4096, false);
        buses
    }

    #[test]
    fn a_page_is_decoded_when_all_who_may_store_there_have_answered() {
        let [mut writer, mut reader] = pair();
        let reads = std::thread::spawn(move || reader.watch_code_page(PAGE));
        while writer.own.attention.load(Ordering::Acquire) & attention::CODE == 0 {
            std::thread::yield_now();
        }
        std::thread::sleep(Duration::from_millis(20));
        assert!(!reads.is_finished(), "the writer may be in the middle of a store");
        assert!(writer.tlb.lookup(Kind::Write, LINEAR, 8).is_some());
        writer.protect_pages();
        reads.join().unwrap();
        assert!(writer.tlb.lookup(Kind::Write, LINEAR, 8).is_none());
    }

    #[test]
    fn nobody_waits_for_a_processor_that_is_outside() {
        let [mut writer, mut reader] = pair();
        writer.own.presence.go_outside();
        reader.watch_code_page(PAGE);
        assert!(writer.tlb.lookup(Kind::Write, LINEAR, 8).is_some(), "it has not looked yet");
        writer.come_inside();
        assert!(writer.tlb.lookup(Kind::Write, LINEAR, 8).is_none());
    }

    #[test]
    fn nobody_waits_for_a_processor_that_never_stored_there() {
        let [writer, mut reader] = pair();
        reader.watch_code_page(PAGE + 1);
        assert_eq!(writer.own.attention.load(Ordering::Acquire), 0);
    }

    #[test]
    fn two_that_decode_at_once_and_may_store_to_each_other_s_page_do_not_wait_for_ever() {
        for _ in 0..200 {
            let mut buses = pair();
            for bus in &mut buses {
                bus.note_written(PAGE);
                bus.note_written(PAGE + 1);
            }
            let both = buses.into_iter().zip([PAGE, PAGE + 1]).map(|(mut bus, page)| {
                std::thread::spawn(move || {
                    bus.watch_code_page(page);
                    bus.own.presence.go_outside();
                })
            });
            both.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
        }
    }

    #[test]
    fn a_store_to_code_tells_those_who_decoded_it() {
        let [mut writer, mut reader] = pair();
        writer.own.presence.go_outside();
        reader.watch_code_page(PAGE);
        writer.come_inside();
        writer.code_written(RamOffset(PAGE << 12));
        assert!(!writer.memory.code().is_set(PAGE));
        assert_ne!(reader.own.attention.load(Ordering::Acquire) & attention::CODE, 0);
        let stale = reader.own.take_stale().listed().expect("one page is not all");
        assert_eq!(stale.into_iter().collect::<Vec<_>>(), [PAGE]);
        writer.code_written(RamOffset(PAGE << 12));
        assert!(reader.own.take_stale().listed().unwrap().is_empty(), "it has nothing any more");
    }

    #[test]
    fn very_many_pages_stand_for_all() {
        let [_, reader] = pair();
        (0..=MOST_PAGES as u64).for_each(|page| reader.own.tell_stale(page));
        assert_eq!(reader.own.take_stale().listed(), None);
    }
}
