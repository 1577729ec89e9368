//! A connection's next segment, written into the device's buffer.
//!
//! Invariant: what is written fits into the buffer and, unless the guest takes larger segments, into the MTU.

use std::net::IpAddr;
use std::time::Duration;

use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    IPV4_HEADER_LEN, IPV6_HEADER_LEN, IpProtocol, TCP_HEADER_LEN, TcpControl, TcpPacket, TcpRepr,
    TcpSeqNumber,
};

use super::connection::{Connection, State};
use super::receive::SCALE;
use super::send::Piece;
use crate::config::Config;
use crate::frame::{self, FRAME_MAX, Offload, Outgoing, PartialChecksum, Segments};
use crate::host::Stream;

/// Where a checksum stands in a TCP header.
const CHECKSUM_OFFSET: usize = 16;

/// Bytes of options at most: three blocks of what came early, or a SYN's.
const OPTIONS: usize = 28;

/// Payload of one segment on a link of this MTU.
pub(super) fn link_mss(config: &Config, address: IpAddr) -> usize {
    let ip = if address.is_ipv4() { IPV4_HEADER_LEN } else { IPV6_HEADER_LEN };
    usize::from(config.mtu) - ip - TCP_HEADER_LEN
}

/// What frames go out through.
pub(super) struct Outlet<'a> {
    pub(super) config: &'a Config,
    pub(super) offload: Offload,
    pub(super) now: Duration,
}

impl<S: Stream> Connection<S> {
    /// Whether [`Connection::emit`] would write something.
    pub(super) fn has_output(&self) -> bool {
        match self.state {
            State::Connecting => false,
            State::SynReceived | State::SynSent => {
                self.send.next == self.send.una || self.send.resend
            }
            State::Open | State::TimeWait => {
                self.ack_due
                    || self.duplicates_due > 0
                    || self.probe_due
                    || self.send.piece(self.send.segment_max).is_some()
            }
        }
    }

    /// Writes the next segment; `None` if there is none, or the buffer too small for it.
    pub(super) fn emit(&mut self, outlet: &Outlet<'_>, buffer: &mut [u8]) -> Option<Outgoing> {
        if buffer.len() < frame::headers_length(self.flow.guest.ip()) + TCP_HEADER_LEN + OPTIONS {
            return None;
        }
        match self.state {
            State::Connecting => None,
            State::SynReceived | State::SynSent => {
                if self.send.next != self.send.una && !self.send.resend {
                    return None;
                }
                self.send.syn_went_out(outlet.now);
                Some(self.write(outlet, Kind::Syn, buffer))
            }
            State::Open | State::TimeWait => {
                if self.duplicates_due > 0 {
                    self.duplicates_due -= 1;
                    return Some(self.write(outlet, Kind::Bare, buffer));
                }
                if let Some(piece) = self.send.piece(self.most(outlet, buffer.len())) {
                    self.send.went_out(piece, outlet.now);
                    return Some(self.write(outlet, Kind::Data(piece), buffer));
                }
                if self.probe_due {
                    self.probe_due = false;
                    return Some(self.write(outlet, Kind::Probe, buffer));
                }
                self.ack_due.then(|| self.write(outlet, Kind::Bare, buffer))
            }
        }
    }

    /// The largest payload of one frame: whole segments, as many as go into one packet and the buffer.
    fn most(&self, outlet: &Outlet<'_>, buffer: usize) -> usize {
        let mss = self.send.segment_max;
        let headers = frame::headers_length(self.flow.guest.ip()) + TCP_HEADER_LEN;
        let room = buffer.min(FRAME_MAX) - headers;
        let large =
            if self.flow.guest.is_ipv4() { outlet.offload.tcp4 } else { outlet.offload.tcp6 };
        if large && outlet.offload.checksum && room > mss {
            room / mss * mss
        } else {
            room.min(mss)
        }
    }

    fn write(&mut self, outlet: &Outlet<'_>, kind: Kind, buffer: &mut [u8]) -> Outgoing {
        let shift = if self.scaling { SCALE } else { 0 };
        let is_syn = matches!(kind, Kind::Syn);
        let announced = (self.receive.window() >> if is_syn { 0 } else { shift }).min(0xffff);
        let (at, piece) = match kind {
            Kind::Syn => (self.send.una, None),
            Kind::Data(piece) => (piece.at, Some(piece)),
            Kind::Probe => (self.send.una.wrapping_sub(1), None),
            Kind::Bare => (self.send.next, None),
        };
        let first_syn = self.state == State::SynSent;
        // Never beside data, which needs the room: whatever leaves or finds a gap owes a bare acknowledgement.
        let tells = self.send.selective && matches!(kind, Kind::Bare);
        let segment = TcpRepr {
            src_port: self.flow.remote.port(),
            dst_port: self.flow.guest.port(),
            control: control(is_syn, piece, self.send.buffer.len()),
            seq_number: TcpSeqNumber(at as i32),
            ack_number: (!first_syn).then_some(TcpSeqNumber(self.receive.next as i32)),
            window_len: announced as u16,
            window_scale: (is_syn && (self.scaling || first_syn)).then_some(SCALE),
            max_seg_size: is_syn.then(|| link_mss(outlet.config, self.flow.guest.ip()) as u16),
            sack_permitted: is_syn && (self.send.selective || first_syn),
            sack_ranges: if tells { self.receive.early_blocks() } else { [None; 3] },
            timestamp: None,
            payload: &[],
        };
        self.receive.announce(if is_syn { announced } else { announced << shift });
        self.ack_due &= is_syn;
        self.frame(outlet, &segment, piece, buffer)
    }

    fn frame(
        &self,
        outlet: &Outlet<'_>,
        segment: &TcpRepr<'_>,
        piece: Option<Piece>,
        buffer: &mut [u8],
    ) -> Outgoing {
        let ends = (self.flow.remote.ip(), self.flow.guest.ip());
        let header = segment.header_len();
        let payload = piece.map_or(0, |piece| piece.length);
        let at = frame::ip(outlet.config, ends, IpProtocol::Tcp, header + payload, buffer);
        let bytes = &mut buffer[at..at + header + payload];
        let mut unsummed = ChecksumCapabilities::default();
        unsummed.tcp = smoltcp::phy::Checksum::None;
        let (from, to) = (ends.0.into(), ends.1.into());
        segment.emit(&mut TcpPacket::new_unchecked(&mut *bytes), &from, &to, &unsummed);
        if let Some(piece) = piece {
            copy_out(&self.send.buffer, piece.offset, &mut bytes[header..]);
        }
        let length = at + header + payload;
        if !outlet.offload.checksum {
            TcpPacket::new_unchecked(bytes).fill_checksum(&from, &to);
            return Outgoing { length, checksum: None, segments: None };
        }
        let partial = frame::pseudo_header_sum(ends, IpProtocol::Tcp, header + payload);
        bytes[CHECKSUM_OFFSET..CHECKSUM_OFFSET + 2].copy_from_slice(&partial.to_be_bytes());
        let segments = (payload > self.send.segment_max).then_some(Segments {
            ipv6: ends.1.is_ipv6(),
            header_length: (at + header) as u16,
            size: self.send.segment_max as u16,
        });
        let checksum = PartialChecksum { start: at as u16, offset: CHECKSUM_OFFSET as u16 };
        Outgoing { length, checksum: Some(checksum), segments }
    }
}

enum Kind {
    Syn,
    Data(Piece),
    Bare,
    /// Before the window, so that the guest answers (RFC 9293, section 3.8.4).
    Probe,
}

fn control(syn: bool, piece: Option<Piece>, buffered: usize) -> TcpControl {
    match piece {
        _ if syn => TcpControl::Syn,
        Some(piece) if piece.fin => TcpControl::Fin,
        Some(piece) if piece.offset + piece.length == buffered => TcpControl::Psh,
        _ => TcpControl::None,
    }
}

fn copy_out(from: &std::collections::VecDeque<u8>, offset: usize, to: &mut [u8]) {
    let (front, back) = from.as_slices();
    let of_front = front.get(offset..).unwrap_or_default();
    let count = of_front.len().min(to.len());
    to[..count].copy_from_slice(&of_front[..count]);
    let rest = &mut to[count..];
    if !rest.is_empty() {
        let start = offset + count - front.len();
        rest.copy_from_slice(&back[start..start + rest.len()]);
    }
}

/// A reset in answer to `segment`, which belongs to no connection (RFC 9293, section 3.10.7.1).
pub(super) fn reset_for(segment: &TcpRepr<'_>) -> TcpRepr<'static> {
    let seq_number = segment.ack_number.unwrap_or(TcpSeqNumber(0));
    let ack = segment.seq_number + segment.segment_len();
    reset(
        segment.dst_port,
        segment.src_port,
        seq_number,
        segment.ack_number.is_none().then_some(ack),
    )
}

/// A reset.
pub(super) fn reset(
    src_port: u16,
    dst_port: u16,
    seq_number: TcpSeqNumber,
    ack_number: Option<TcpSeqNumber>,
) -> TcpRepr<'static> {
    TcpRepr {
        src_port,
        dst_port,
        control: TcpControl::Rst,
        seq_number,
        ack_number,
        window_len: 0,
        window_scale: None,
        max_seg_size: None,
        sack_permitted: false,
        sack_ranges: [None; 3],
        timestamp: None,
        payload: &[],
    }
}
