//! The host's bytes on their way to the guest: what is sent, acknowledged, lost and sent again.
//!
//! RFC 9293 (3.8.1 retransmission, 3.8.6 windows), RFC 6298 (timeout), RFC 6675 (recovery with a guest that tells
//! which bytes it has), RFC 6582 (with one that does not). There is no congestion window, hence no estimate of what
//! is in flight: the only link is the guest's receive queue, which takes segments one by
//! one when it has room. Invariant: `buffer` begins at `una` (SYN and FIN apart) and holds at
//! most `capacity` bytes.

use std::collections::VecDeque;
use std::time::Duration;

use super::scoreboard::Scoreboard;
use super::sequence::{self, Sequence};

const RTO_FIRST: Duration = Duration::from_secs(1);
const RTO_MIN: Duration = Duration::from_millis(200);
const RTO_MAX: Duration = Duration::from_secs(60);
/// Acknowledgements that bring no progress after which something is lost.
const DUPLICATES: u8 = 3;
/// Retransmissions without an answer until the guest is taken to be gone: some minutes.
const RETRIES: u8 = 10;

pub(super) struct Send {
    /// The oldest position that is not acknowledged.
    pub(super) una: Sequence,
    /// The next position to send.
    pub(super) next: Sequence,
    pub(super) buffer: VecDeque<u8>,
    pub(super) capacity: usize,
    /// The guest's window from `una` on.
    pub(super) window: usize,
    pub(super) scale: u8,
    /// Largest payload of one segment.
    pub(super) segment_max: usize,
    /// The host has no more to send.
    pub(super) finished: bool,
    pub(super) syn_acked: bool,
    fin_sent: bool,
    pub(super) fin_acked: bool,
    /// The oldest segment is to be sent again.
    pub(super) resend: bool,
    /// The guest tells which bytes it has (RFC 2018).
    pub(super) selective: bool,
    scoreboard: Scoreboard,
    window_from: (Sequence, Sequence),
    duplicates: u8,
    /// What had been sent when a loss was found: once that is acknowledged, all is well again.
    recover: Option<Sequence>,
    /// How far losses have been sent again (`HighRxt`); while recovering.
    repaired: Sequence,
    /// The loss was found by the timer: nothing is known of what the guest has.
    timed_out: bool,
    timing: Option<(Sequence, Duration)>,
    smoothed: Option<(Duration, Duration)>,
    timeout: Duration,
    retries: u8,
    pub(super) timer: Option<Duration>,
    probe: bool,
}

/// What to send next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    pub(super) at: Sequence,
    /// Where in the buffer, and how many bytes.
    pub(super) offset: usize,
    pub(super) length: usize,
    pub(super) fin: bool,
}

/// What a segment of the guest acknowledges.
pub(super) struct Acknowledgement {
    pub(super) number: Sequence,
    /// The segment's own position.
    pub(super) at: Sequence,
    /// As in the header.
    pub(super) window: u16,
    /// It has neither data nor flags.
    pub(super) bare: bool,
    /// What the guest has behind `number`.
    pub(super) blocks: [Option<(Sequence, Sequence)>; 3],
}

impl Send {
    pub(super) fn new(first: Sequence, capacity: usize) -> Self {
        Self {
            una: first,
            next: first,
            buffer: VecDeque::new(),
            capacity,
            window: 0,
            scale: 0,
            segment_max: 536,
            finished: false,
            syn_acked: false,
            fin_sent: false,
            fin_acked: false,
            resend: false,
            selective: false,
            scoreboard: Scoreboard::default(),
            window_from: (0, 0),
            duplicates: 0,
            recover: None,
            repaired: first,
            timed_out: false,
            timing: None,
            smoothed: None,
            timeout: RTO_FIRST,
            retries: 0,
            timer: None,
            probe: false,
        }
    }

    pub(super) fn room(&self) -> usize {
        self.capacity.saturating_sub(self.buffer.len())
    }

    fn in_flight(&self) -> usize {
        sequence::after(self.next, self.una) as usize
    }

    /// Bytes of data in flight: SYN is acknowledged before there is data, FIN comes last.
    fn sent(&self) -> usize {
        self.in_flight().min(self.buffer.len())
    }

    /// The next piece of at most `most` bytes, if the window has room for it.
    pub(super) fn piece(&self, most: usize) -> Option<Piece> {
        if !self.syn_acked || self.fin_acked {
            return None;
        }
        if self.resend && self.in_flight() > 0 {
            let hole = self.scoreboard.hole(self.una, self.segment_max);
            let end = hole.map_or(usize::MAX, |hole| sequence::after(hole.end, self.una) as usize);
            let length = self.sent().min(self.segment_max).min(most).min(end);
            let fin = self.fin_sent && length == self.buffer.len();
            return Some(Piece { at: self.una, offset: 0, length, fin });
        }
        self.repair(most, true).or_else(|| self.fresh(most)).or_else(|| self.repair(most, false))
    }

    /// What is to be sent again by what the guest has told (RFC 6675, `NextSeg`, rules 1 and 3).
    fn repair(&self, most: usize, lost: bool) -> Option<Piece> {
        let until = self.recover?;
        let start =
            if sequence::after(self.repaired, self.una) > 0 { self.repaired } else { self.una };
        let hole =
            self.scoreboard.hole(start, self.segment_max).filter(|hole| hole.lost || !lost)?;
        let offset = sequence::after(hole.start, self.una) as usize;
        // What was sent after the loss was found is the next recovery's.
        let end = if sequence::after(hole.end, until) > 0 { until } else { hole.end };
        let span = sequence::after(end, hole.start).max(0) as usize;
        let length = self.buffer.len().saturating_sub(offset).min(span).min(most);
        let fin = self.fin_sent && length < span && offset + length == self.buffer.len();
        (length > 0 || fin).then_some(Piece { at: hole.start, offset, length, fin })
    }

    /// What has not been sent yet.
    fn fresh(&self, most: usize) -> Option<Piece> {
        let sent = self.sent();
        let unsent = self.buffer.len() - sent;
        let usable = self.window.saturating_sub(sent);
        let mut length = unsent.min(usable).min(most);
        if self.probe && length == 0 && sent == 0 {
            length = unsent.min(1);
        }
        // A small piece waits for a larger window while acknowledgements are due (RFC 9293, 3.8.6.2.1).
        if length < unsent && length < self.segment_max && sent > 0 {
            length = 0;
        }
        let fin = self.finished && !self.fin_sent && length == unsent;
        (length > 0 || fin).then_some(Piece { at: self.next, offset: sent, length, fin })
    }

    /// Notes that `piece` went out.
    pub(super) fn went_out(&mut self, piece: Piece, now: Duration) {
        let end = sequence::plus(piece.at, piece.length + usize::from(piece.fin));
        if sequence::after(piece.at, self.next) < 0 {
            self.resend &= piece.at != self.una;
            self.timing = None;
            if sequence::after(end, self.repaired) > 0 {
                self.repaired = end;
            }
        } else {
            self.next = end;
            self.fin_sent |= piece.fin;
            self.probe = false;
            self.timing.get_or_insert((self.next, now));
        }
        self.arm(now);
    }

    /// Notes that a SYN went out.
    pub(super) fn syn_went_out(&mut self, now: Duration) {
        if self.next == self.una {
            self.next = sequence::plus(self.una, 1);
            self.timing = Some((self.next, now));
        } else {
            self.timing = None;
        }
        self.resend = false;
        self.timer = Some(now + self.timeout);
    }

    fn arm(&mut self, now: Duration) {
        self.timer.get_or_insert(now + self.timeout);
    }

    /// Whether an acknowledgement is of something that was sent.
    pub(super) fn can_acknowledge(&self, ack: Sequence) -> bool {
        sequence::after(ack, self.next) <= 0
    }

    /// Takes an acknowledgement.
    pub(super) fn acknowledged(&mut self, ack: &Acknowledgement, now: Duration) {
        let window = usize::from(ack.window) << self.scale;
        let count = sequence::after(ack.number, self.una);
        if count < 0 {
            return;
        }
        let same_window = window == self.window;
        let (from_at, from_ack) = self.window_from;
        let newer = sequence::after(ack.at, from_at);
        if newer > 0 || (newer == 0 && sequence::after(ack.number, from_ack) >= 0) || count > 0 {
            self.window = window;
            self.window_from = (ack.at, ack.number);
        }
        if count > 0 {
            self.advance(ack.number, count as usize, now);
        }
        let told = self.note_blocks(ack);
        let plain = ack.bare && same_window && window > 0;
        if count == 0 && self.in_flight() > 0 && if self.selective { told } else { plain } {
            self.duplicates = self.duplicates.saturating_add(1);
        }
        self.look_for_loss();
        self.watch(now);
    }

    /// Notes what the guest says it has; says whether that is more than before.
    fn note_blocks(&mut self, ack: &Acknowledgement) -> bool {
        let mut more = false;
        for block in ack.blocks.iter().flatten().filter(|_| self.selective && self.syn_acked) {
            more |= self.scoreboard.add(*block, self.una, self.next);
        }
        more
    }

    fn look_for_loss(&mut self) {
        if self.recover.is_some() || self.in_flight() == 0 {
            return;
        }
        let lost = self.scoreboard.hole(self.una, self.segment_max).is_some_and(|hole| hole.lost);
        if lost || self.duplicates >= DUPLICATES {
            self.recover_from(false);
        }
    }

    /// The oldest segment is lost, perhaps others with it.
    fn recover_from(&mut self, timed_out: bool) {
        self.duplicates = 0;
        self.recover = Some(self.next);
        self.repaired = self.una;
        self.timed_out = timed_out;
        self.resend = true;
    }

    fn advance(&mut self, ack: Sequence, mut count: usize, now: Duration) {
        self.una = ack;
        self.scoreboard.acknowledged(ack);
        if !self.syn_acked {
            self.syn_acked = true;
            count -= 1;
        }
        let data = count.min(self.buffer.len());
        self.buffer.drain(..data);
        self.fin_acked |= self.fin_sent && count > data;
        if self.buffer.is_empty() && self.buffer.capacity() > 65_536 {
            self.buffer = VecDeque::new();
        }
        if let Some((end, since)) = self.timing
            && sequence::after(ack, end) >= 0
        {
            self.measured(now.saturating_sub(since));
            self.timing = None;
        }
        self.duplicates = 0;
        self.retries = 0;
        self.timeout = self.first_timeout();
        match self.recover {
            // The next hole: it is lost, too, unless it is on its way again, or will be known for lost.
            Some(end) if sequence::after(ack, end) < 0 => {
                let known = self.selective && !self.timed_out;
                let under_way = self.selective && sequence::after(self.repaired, ack) > 0;
                self.resend = !known && !under_way;
            }
            _ => (self.recover, self.resend) = (None, false),
        }
        self.timer = (self.in_flight() > 0).then(|| now + self.timeout);
    }

    /// Keeps a timer while anything is in flight, or waits for a closed window to open.
    pub(super) fn watch(&mut self, now: Duration) {
        let waits = self.syn_acked && self.in_flight() == 0 && !self.buffer.is_empty();
        if waits && self.window == 0 {
            self.arm(now);
        } else if self.in_flight() == 0 {
            self.timer = None;
        }
    }

    /// The timer has expired: says whether to go on.
    pub(super) fn expired(&mut self, now: Duration) -> bool {
        self.timeout = (self.timeout * 2).min(RTO_MAX);
        self.timer = Some(now + self.timeout);
        self.timing = None;
        if self.in_flight() > 0 && (self.window > 0 || !self.syn_acked) {
            self.retries += 1;
            self.scoreboard.clear();
            self.recover_from(true);
        } else if self.in_flight() > 0 {
            // A probe of a closed window is answered, though not acknowledged: no limit while the guest
            // answers, which the table's idle timeout sees.
            self.resend = true;
        } else {
            self.probe = true;
        }
        self.retries <= RETRIES
    }

    /// RFC 6298, section 2.
    fn measured(&mut self, rtt: Duration) {
        let (smoothed, variation) = match self.smoothed {
            None => (rtt, rtt / 2),
            Some((smoothed, variation)) => {
                ((smoothed * 7 + rtt) / 8, (variation * 3 + smoothed.abs_diff(rtt)) / 4)
            }
        };
        self.smoothed = Some((smoothed, variation));
    }

    fn first_timeout(&self) -> Duration {
        self.smoothed.map_or(RTO_FIRST, |(smoothed, variation)| {
            (smoothed + variation * 4).clamp(RTO_MIN, RTO_MAX)
        })
    }
}
