//! The block device at work: requests of all queues go to one lane, and come back in any order.
//!
//! ```text
//! a round: queues -> Requests::begin -> Lane      at most DEPTH in flight
//!          Lane::reap (waits if there was nothing else to do) -> status -> used rings, a signal each
//!                                                  `-> Late, where requests are delayed -^
//! ```
//!
//! What ends the wait early is the worker's alarm, or the bell, if doorbells ring one in the kernel.
//!
//! Invariant: a chain is in `flights` exactly while the lane has its buffers.

use std::sync::Arc;
use std::time::Instant;

use super::disk::{DiskError, Lane};
use super::request::{Requests, finish_landed};
use crate::bells::Bell;
use crate::device::{Alarm, Handler, Queues, Waiter};
use crate::faults::Late;
use crate::queue::{Broken, Chain};

/// Requests that the host works at or that wait to be due, at most.
const DEPTH: usize = 256;

pub(super) struct BlockHandler {
    requests: Requests,
    queues: usize,
    way: Way,
    /// By tag.
    flights: Vec<Option<Flight>>,
    free: Vec<u32>,
    /// Done, but not yet due: the queue and its chain.
    late: Late<(usize, Chain)>,
    /// Where the worker waits, if doorbells in the kernel ring it.
    bell: Option<Arc<Bell>>,
}

/// A chain that the lane works at.
struct Flight {
    queue: usize,
    chain: Chain,
    /// When it was taken, if it is to be delayed.
    begun: Option<Instant>,
}

enum Way {
    /// A lane is wanted, and had at the first round: it belongs to the worker's thread.
    Unknown,
    OneByOne,
    Lane(Box<dyn Lane>),
}

impl BlockHandler {
    pub(super) fn new(
        requests: Requests,
        queues: usize,
        one_by_one: bool,
        late: Late<(usize, Chain)>,
        bell: Option<Arc<Bell>>,
    ) -> Self {
        let way = if one_by_one { Way::OneByOne } else { Way::Unknown };
        Self { requests, queues, way, flights: Vec::new(), free: Vec::new(), late, bell }
    }

    fn choose_way(&mut self, queues: &mut Queues) {
        let memory = (0..self.queues).find_map(|index| Some(queues.get(index)?.memory().clone()));
        let event = self.bell.as_ref().and_then(|bell| bell.event());
        let lane = memory.and_then(|memory| self.requests.disk().clone().lane(&memory, event));
        self.way = lane.map_or(Way::OneByOne, Way::Lane);
    }

    /// Takes what the driver made available, and asks for the doorbell at the next; true: some was
    /// done at once.
    fn begin(&mut self, queues: &mut Queues, index: usize) -> Result<bool, Broken> {
        let Way::Lane(lane) = &mut self.way else { return Ok(false) };
        let Some(queue) = queues.get(index) else { return Ok(false) };
        let mut done = false;
        queue.silence_doorbell();
        for _ in 0..queue.size() {
            if self.flights.len() - self.free.len() + self.late.len() >= DEPTH {
                break;
            }
            let Some(mut chain) = queue.pop()? else { break };
            let begun = self.late.begin();
            let tag = self.free.last().copied().unwrap_or(self.flights.len() as u32);
            if self.requests.begin(&mut chain, &mut **lane, tag)? {
                let flight = Some(Flight { queue: index, chain, begun });
                match self.free.pop() {
                    Some(tag) => self.flights[tag as usize] = flight,
                    None => self.flights.push(flight),
                }
            } else if let Some(begun) = begun {
                self.late.push(begun, (index, chain));
            } else {
                queue.put(chain);
                done = true;
            }
        }
        // Before any wait, so that what comes meanwhile ends it. With everything late only time helps.
        if self.late.len() < DEPTH && queue.arm_doorbell() {
            queues.again();
        }
        Ok(done)
    }

    /// As [`Self::begin`] without a lane.
    fn serve(&mut self, queues: &mut Queues, index: usize) -> Result<(), Broken> {
        let Self { requests, late, .. } = self;
        queues.take(index, |mut chain| {
            let begun = late.begin().filter(|_| late.len() < DEPTH);
            requests.serve(&mut chain)?;
            let Some(begun) = begun else { return Ok(Some(chain)) };
            late.push(begun, (index, chain));
            Ok(None)
        })
    }

    /// Gives back what is due; true: something was.
    fn give_late(&mut self, queues: &mut Queues) -> bool {
        let before = self.late.len();
        while let Some((index, chain)) = self.late.pop() {
            queues.get(index).expect("its chain came from there").put(chain);
        }
        self.late.len() < before
    }

    /// Gives back what the lane is done with. It was a doorbell that ended a wait for nothing: it is heard, and
    /// the queues are to be looked at.
    fn reap(&mut self, queues: &mut Queues, wait: bool) {
        let Way::Lane(lane) = &mut self.way else { return };
        let (flights, free, late) = (&mut self.flights, &mut self.free, &mut self.late);
        let before = free.len();
        lane.reap(wait, &mut |tag: u32, done: Result<(), DiskError>| {
            let flight = flights.get_mut(tag as usize).and_then(Option::take);
            let flight = flight.expect("a lane tells of what it was given, once");
            let Flight { queue, mut chain, begun } = flight;
            free.push(tag);
            finish_landed(&mut chain, done);
            match begun {
                Some(begun) => late.push(begun, (queue, chain)),
                None => queues.get(queue).expect("its chain came from there").put(chain),
            }
        });
        if wait
            && free.len() == before
            && let Some(bell) = &self.bell
        {
            bell.hear();
        }
    }

    /// Shows the driver what was given back.
    fn publish(&self, queues: &mut Queues) {
        for index in 0..self.queues {
            let Some(queue) = queues.get(index) else { continue };
            queue.publish();
            queues.signal(index);
        }
    }

    fn in_flight(&self) -> bool {
        self.free.len() < self.flights.len()
    }
}

impl Handler for BlockHandler {
    fn process(&mut self, queues: &mut Queues) -> Result<(), Broken> {
        if matches!(self.way, Way::Unknown) {
            self.choose_way(queues);
        }
        let mut done = self.give_late(queues);
        for index in 0..self.queues {
            match self.way {
                Way::OneByOne => self.serve(queues, index)?,
                _ => done |= self.begin(queues, index)?,
            }
        }
        self.reap(queues, self.in_flight() && !done);
        self.publish(queues);
        if self.in_flight() {
            queues.again();
        }
        Ok(())
    }

    fn quiesce(&mut self, queues: &mut Queues) {
        while self.in_flight() {
            self.reap(queues, true);
        }
        for (index, chain) in self.late.take_all() {
            queues.get(index).expect("its chain came from there").put(chain);
        }
        self.publish(queues);
    }

    fn is_busy(&self) -> bool {
        self.in_flight()
    }

    fn alarm(&self) -> Option<Alarm> {
        match (&self.way, &self.bell) {
            (Way::Lane(_), Some(bell)) => {
                let bell = bell.clone();
                Some(Arc::new(move || bell.wake()))
            }
            (Way::Lane(lane), None) => Some(lane.alarm()),
            (Way::Unknown | Way::OneByOne, _) => None,
        }
    }
}
