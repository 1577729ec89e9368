//! The 8254 interval timer and the port-0x61 logic around it (Intel 8254 data sheet; PC/AT).
//!
//! ```text
//! 0x40-0x42 counters: 0 drives IRQ 0, 1 refresh, 2 the speaker      0x43 control word
//! 0x61: gate 2 (0), speaker (1), parity enables (3:2) | read: refresh toggle (4), OUT 2 (5)
//! ```
//! A pure model: time comes in with every access; [`Pit::advance`] tells how often OUT 0 rose and
//! [`Pit::next_event`] when it will next. Invariant: catching up costs the same however late.

mod channel;
mod clock;
#[cfg(test)]
mod tests;

pub use channel::Counting;
pub use clock::FREQUENCY_HZ;

use channel::Channel;

/// Ticks of half a refresh period, about 15 us: port 0x61 bit 4 toggles with it.
const REFRESH_TICKS: u64 = 18;
/// Port 0x61 bits that a guest sets.
const PORT_61_WRITABLE: u8 = 0x0f;

/// Saved state of one counter. Ticks are relative to the moment of saving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitChannelV1 {
    /// 0-5.
    pub mode: u8,
    /// Counts in BCD.
    pub bcd: bool,
    /// Control word bits 5:4: 1 low byte, 2 high byte, 3 both.
    pub access: u8,
    /// The gate input.
    pub gate: bool,
    /// The count register, 1-65536.
    pub count: u32,
    /// It was written since the control word.
    pub written: bool,
    /// The counting element has it.
    pub loaded: bool,
    /// What the counting element started from.
    pub reload: u32,
    /// Elapsed ticks, as a wrapped difference: -1 if the load comes with the next tick.
    pub counting: Counting,
    /// Mode 1 was triggered while its output was low.
    pub retriggered: bool,
    /// Ticks until the counting element takes the count register.
    pub load_in: Option<u64>,
    /// The first byte of a two-byte write.
    pub write_low: Option<u8>,
    /// The second byte of a two-byte read is next.
    pub read_high_next: bool,
    /// Latched by command.
    pub latched_count: Option<u16>,
    /// Latched by command.
    pub latched_status: Option<u8>,
}

/// Saved state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PitV1 {
    /// The counters.
    pub channels: [PitChannelV1; 3],
    /// Nanoseconds since the last tick.
    pub phase_ns: u64,
    /// Ticks since the refresh toggle last was at the start of its cycle.
    pub refresh_phase: u64,
    /// Rises of OUT 0 not yet taken by [`Pit::advance`].
    pub edges: u64,
    /// Port 0x61 as written; bit 0 is the gate of counter 2.
    pub port_61: u8,
}

/// The timer.
#[derive(Clone, Debug)]
pub struct Pit {
    channels: [Channel; 3],
    /// When tick 0 was; wraps.
    origin_ns: u64,
    /// Tick 0 of the refresh toggle, before the origin.
    refresh_phase: u64,
    /// Up to here the edges of OUT 0 are counted.
    counted: u64,
    edges: u64,
    port_61: u8,
}

impl Pit {
    /// After power-up: no counter has a count, OUTs are high, gate 2 is low.
    pub const fn new(now_ns: u64) -> Self {
        Self {
            channels: [Channel::new(true), Channel::new(true), Channel::new(false)],
            origin_ns: now_ns,
            refresh_phase: 0,
            counted: 0,
            edges: 0,
            port_61: 0,
        }
    }

    /// From saved state; time goes on from `now_ns`.
    pub fn from_state(state: &PitV1, now_ns: u64) -> Self {
        let mut channels = [0, 1, 2].map(|i: usize| Channel::from_state(&state.channels[i], 0));
        for (index, channel) in channels.iter_mut().enumerate() {
            channel.set_gate(index < 2 || state.port_61 & 1 != 0, 0);
        }
        Self {
            channels,
            // Less than a tick, or the origin would not be tick 0.
            origin_ns: now_ns.wrapping_sub(state.phase_ns.min(clock::ns(1) - 1)),
            refresh_phase: state.refresh_phase % (2 * REFRESH_TICKS),
            counted: 0,
            edges: state.edges,
            port_61: state.port_61 & PORT_61_WRITABLE,
        }
    }

    /// State to save.
    pub fn save(&self, now_ns: u64) -> PitV1 {
        let mut at = self.clone();
        let tick = at.catch_up(now_ns);
        PitV1 {
            channels: [0, 1, 2].map(|i: usize| at.channels[i].save(tick)),
            phase_ns: now_ns.wrapping_sub(self.origin_ns).saturating_sub(clock::ns(tick)),
            refresh_phase: (self.refresh_phase + tick) % (2 * REFRESH_TICKS),
            edges: at.edges,
            port_61: at.port_61,
        }
    }

    /// How often OUT 0 rose since the last call: 0, 1, or more if the caller is late. Each is an
    /// edge on IRQ 0; a late caller may send just one.
    pub fn advance(&mut self, now_ns: u64) -> u64 {
        self.catch_up(now_ns);
        core::mem::take(&mut self.edges)
    }

    /// When OUT 0 next rises, in nanoseconds; possibly already past. May change with any write.
    pub fn next_event(&self) -> Option<u64> {
        if self.edges != 0 {
            return Some(self.origin_ns.wrapping_add(clock::ns(self.counted)));
        }
        let edge = self.channels[0].next_edge(self.counted)?;
        Some(self.origin_ns.wrapping_add(clock::ns(edge)))
    }

    /// The level of OUT 0.
    pub fn output(&self, now_ns: u64) -> bool {
        let mut channel = self.channels[0].clone();
        let tick = self.tick(now_ns);
        channel.settle(tick);
        channel.out(tick)
    }

    /// The speaker's cone: OUT 2 where port 0x61 lets it through.
    pub fn speaker(&self, now_ns: u64) -> bool {
        let mut channel = self.channels[2].clone();
        let tick = self.tick(now_ns);
        channel.settle(tick);
        self.port_61 & 2 != 0 && channel.out(tick)
    }

    /// IN from 0x40-0x43 or 0x61; others read as ones.
    pub fn read(&mut self, port: u16, now_ns: u64) -> u8 {
        let tick = self.catch_up(now_ns);
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].read(tick),
            0x61 => {
                let refresh = ((self.refresh_phase + tick) / REFRESH_TICKS) & 1;
                self.port_61 | (refresh as u8) << 4 | u8::from(self.channels[2].out(tick)) << 5
            }
            _ => 0xff,
        }
    }

    /// OUT to one of those ports. OUT 0 may rise at once: call [`Self::advance`] afterwards.
    pub fn write(&mut self, port: u16, value: u8, now_ns: u64) {
        let tick = self.catch_up(now_ns);
        let before = self.channels[0].out(tick);
        match port {
            0x40..=0x42 => self.channels[usize::from(port - 0x40)].write(value, tick),
            0x43 => self.control(value, tick),
            0x61 => {
                self.port_61 = value & PORT_61_WRITABLE;
                self.channels[2].set_gate(value & 1 != 0, tick);
            }
            _ => {}
        }
        if !before && self.channels[0].out(tick) {
            self.edges = self.edges.saturating_add(1);
        }
    }

    fn control(&mut self, value: u8, tick: u64) {
        let select = usize::from(value >> 6);
        let Some(channel) = self.channels.get_mut(select) else {
            // The read-back command: bits 5 and 4 are active low.
            for (index, channel) in self.channels.iter_mut().enumerate() {
                if value & 2 << index == 0 {
                    continue;
                }
                if value & 0x20 == 0 {
                    channel.latch_count(tick);
                }
                if value & 0x10 == 0 {
                    channel.latch_status(tick);
                }
            }
            return;
        };
        if value & 0x30 == 0 {
            channel.latch_count(tick);
        } else {
            channel.set_control(value);
        }
    }

    /// Counts the edges of OUT 0 and settles every counter; the tick of `now_ns`. Time that goes
    /// back stands still.
    fn catch_up(&mut self, now_ns: u64) -> u64 {
        let tick = self.tick(now_ns);
        let edges = self.channels[0].take_edges(self.counted, tick);
        self.edges = self.edges.saturating_add(edges);
        self.counted = tick;
        self.channels[1].settle(tick);
        self.channels[2].settle(tick);
        tick
    }

    fn tick(&self, now_ns: u64) -> u64 {
        let elapsed = now_ns.wrapping_sub(self.origin_ns);
        let elapsed = if elapsed as i64 >= 0 { elapsed } else { 0 };
        clock::ticks(elapsed).max(self.counted)
    }
}
