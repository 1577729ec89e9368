//! The block device at work: requests of all queues go to one lane, and come back in any order.
//!
//! ```text
//! a round: queues -> Requests::begin -> Lane      at most DEPTH in flight
//!          Lane::reap (waits if there was nothing else to do) -> status -> used rings, a signal each
//! ```
//!
//! Invariant: a chain is in `flights` exactly while the lane has its buffers.

use super::disk::{DiskError, Lane};
use super::request::{Requests, finish_landed};
use crate::device::{Alarm, Handler, Queues};
use crate::queue::{Broken, Chain};

/// Requests that the host works at, at most.
const DEPTH: usize = 256;

pub(super) struct BlockHandler {
    requests: Requests,
    queues: usize,
    way: Way,
    /// By tag: the queue and its chain.
    flights: Vec<Option<(usize, Chain)>>,
    free: Vec<u32>,
}

enum Way {
    /// A lane is wanted, and had at the first round: it belongs to the worker's thread.
    Unknown,
    OneByOne,
    Lane(Box<dyn Lane>),
}

impl BlockHandler {
    pub(super) fn new(requests: Requests, queues: usize, one_by_one: bool) -> Self {
        let way = if one_by_one { Way::OneByOne } else { Way::Unknown };
        Self { requests, queues, way, flights: Vec::new(), free: Vec::new() }
    }

    fn choose_way(&mut self, queues: &mut Queues) {
        let memory = (0..self.queues).find_map(|index| Some(queues.get(index)?.memory().clone()));
        let lane = memory.and_then(|memory| self.requests.disk().clone().lane(&memory));
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
            if self.flights.len() - self.free.len() >= DEPTH {
                break;
            }
            let Some(mut chain) = queue.pop()? else { break };
            let tag = self.free.last().copied().unwrap_or(self.flights.len() as u32);
            if self.requests.begin(&mut chain, &mut **lane, tag)? {
                match self.free.pop() {
                    Some(tag) => self.flights[tag as usize] = Some((index, chain)),
                    None => self.flights.push(Some((index, chain))),
                }
            } else {
                queue.put(chain);
                done = true;
            }
        }
        // Before any wait, so that what comes meanwhile ends it.
        if queue.arm_doorbell() {
            queues.again();
        }
        Ok(done)
    }

    /// Gives back what the lane is done with.
    fn reap(&mut self, queues: &mut Queues, wait: bool) {
        let Way::Lane(lane) = &mut self.way else { return };
        let (flights, free) = (&mut self.flights, &mut self.free);
        lane.reap(wait, &mut |tag: u32, done: Result<(), DiskError>| {
            let flight = flights.get_mut(tag as usize).and_then(Option::take);
            let (index, mut chain) = flight.expect("a lane tells of what it was given, once");
            free.push(tag);
            finish_landed(&mut chain, done);
            queues.get(index).expect("its chain came from there").put(chain);
        });
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
        if matches!(self.way, Way::OneByOne) {
            for index in 0..self.queues {
                queues.serve(index, |chain| self.requests.serve(chain))?;
            }
            return Ok(());
        }
        let mut done = false;
        for index in 0..self.queues {
            done |= self.begin(queues, index)?;
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
        self.publish(queues);
    }

    fn is_busy(&self) -> bool {
        self.in_flight()
    }

    fn alarm(&self) -> Option<Alarm> {
        match &self.way {
            Way::Lane(lane) => Some(lane.alarm()),
            Way::Unknown | Way::OneByOne => None,
        }
    }
}
