//! Which pair of queues a frame for the guest goes to: the one on which the guest last sent that flow
//! (virtio 1.2, 5.1.6.5.5, automatic receive steering).
//!
//! A flow is what two addresses and two ports say to one another: its hash is the same in either
//! direction. Fragments and protocols without ports are flows of their addresses; what is no IP packet is
//! none, and goes to the first pair. Invariants: at most [`FLOWS`] flows are known, a new one takes the place of one
//! with a like hash; a pair is always one of those in use; a flow that is not known keeps to one pair,
//! so that its frames stay in order.

/// Flows that are known at most.
const FLOWS: usize = 4096;
/// VLAN tags that are looked behind.
const TAGS: usize = 2;

/// Ethernet types (IEEE 802 numbers).
const IPV4: u16 = 0x0800;
const IPV6: u16 = 0x86dd;
const TAGGED: [u16; 2] = [0x8100, 0x88a8];

/// Protocols that begin with two ports: TCP, UDP, DCCP, SCTP.
const WITH_PORTS: [u8; 4] = [6, 17, 33, 132];
/// More fragments, and the fragment's place, of an IPv4 header's seventh and eighth byte.
const FRAGMENT: u16 = 0x3fff;

/// Where flows were sent last.
#[derive(Debug, Default)]
pub(super) struct Flows {
    /// By the low bits of their hash: the hash and the pair. Empty until the first is sent.
    known: Vec<Option<(u32, u16)>>,
}

impl Flows {
    /// The guest sent this frame on this pair.
    pub(super) fn sent(&mut self, frame: &[u8], pair: usize) {
        let Some(flow) = flow(frame) else { return };
        if self.known.is_empty() {
            self.known.resize(FLOWS, None);
        }
        self.known[flow as usize % FLOWS] = Some((flow, pair as u16));
    }

    /// The pair that this frame for the guest goes to, of so many in use.
    pub(super) fn pair(&self, frame: &[u8], pairs: usize) -> usize {
        let Some(flow) = flow(frame).filter(|_| pairs > 1) else { return 0 };
        let known = self.known.get(flow as usize % FLOWS).copied().flatten();
        let known = known.filter(|(of, _)| *of == flow).map(|(_, pair)| usize::from(pair));
        known.filter(|pair| *pair < pairs).unwrap_or(flow as usize % pairs)
    }
}

/// A frame's flow; `None`: it is no whole IP packet.
fn flow(frame: &[u8]) -> Option<u32> {
    let mut rest = frame.get(12..)?;
    for _ in 0..=TAGS {
        let (kind, packet) = rest.split_first_chunk()?;
        match u16::from_be_bytes(*kind) {
            IPV4 => return ipv4(packet),
            IPV6 => return ipv6(packet),
            kind if TAGGED.contains(&kind) => rest = packet.get(2..)?,
            _ => return None,
        }
    }
    None
}

/// RFC 791, 3.1.
fn ipv4(packet: &[u8]) -> Option<u32> {
    let header: &[u8; 20] = packet.first_chunk()?;
    let whole = u16::from_be_bytes([header[6], header[7]]) & FRAGMENT == 0;
    let behind = packet.get(usize::from(header[0] & 15) * 4..).filter(|_| whole);
    let ports = ports(header[9], behind.unwrap_or_default());
    Some(hash(header[9], [&header[12..16], &header[16..20]], ports))
}

/// RFC 8200, 3; ports behind further headers are not looked for.
fn ipv6(packet: &[u8]) -> Option<u32> {
    let (header, behind) = packet.split_first_chunk::<40>()?;
    Some(hash(header[6], [&header[8..24], &header[24..40]], ports(header[6], behind)))
}

fn ports(protocol: u8, behind: &[u8]) -> [u16; 2] {
    match behind.first_chunk() {
        Some(&[a, b, c, d]) if WITH_PORTS.contains(&protocol) => {
            [u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d])]
        }
        _ => [0; 2],
    }
}

/// Both ends count alike, whichever comes first.
fn hash(protocol: u8, addresses: [&[u8]; 2], ports: [u16; 2]) -> u32 {
    let end = |address: &[u8], port: u16| {
        let (words, _) = address.as_chunks::<4>();
        let word = |hash, word: &[u8; 4]| mixed(hash ^ u64::from(u32::from_le_bytes(*word)));
        words.iter().fold(mixed(u64::from(port) + 1), word)
    };
    let ends = end(addresses[0], ports[0]).wrapping_add(end(addresses[1], ports[1]));
    (mixed(ends ^ u64::from(protocol)) >> 32) as u32
}

/// Each bit of the number changes half of the result's (SplitMix64's last step).
fn mixed(number: u64) -> u64 {
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An IPv4 packet of a protocol between two ends in a frame with these VLAN tags.
    fn frame(protocol: u8, from: (u8, u16), to: (u8, u16), tags: usize) -> Vec<u8> {
        let mut frame = vec![2; 12];
        (0..tags).for_each(|_| frame.extend([0x81, 0, 0, 7]));
        frame.extend([8, 0, 0x45, 0, 0, 60, 1, 2, 0x40, 0, 64, protocol, 0, 0]);
        frame.extend([10, 0, 0, from.0, 10, 0, 0, to.0]);
        frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        frame.resize(74, 0);
        frame
    }

    fn v6(next: u8, from: (u8, u16), to: (u8, u16)) -> Vec<u8> {
        let mut frame = vec![2; 12];
        frame.extend([0x86, 0xdd, 0x60, 0, 0, 0, 0, 20, next, 64]);
        for address in [from.0, to.0] {
            frame.extend([0xfd; 15]);
            frame.push(address);
        }
        frame.extend([from.1.to_be_bytes(), to.1.to_be_bytes()].concat());
        frame.resize(74, 0);
        frame
    }

    #[test]
    fn a_flow_is_the_same_in_both_directions_and_another_one_is_not() {
        let (a, b) = ((2, 40_000), (9, 80));
        let one = flow(&frame(6, a, b, 0)).expect("a flow");
        for same in [frame(6, b, a, 0), frame(6, a, b, 1), frame(6, b, a, 2)] {
            assert_eq!(flow(&same), Some(one));
        }
        let (swapped, port) = (((2, 80), (9, 40_000)), (2, 40_001));
        let others = [
            frame(17, a, b, 0),
            frame(6, port, b, 0),
            frame(6, (3, a.1), b, 0),
            frame(6, swapped.0, swapped.1, 0),
            v6(6, a, b),
        ];
        for other in &others {
            assert!(flow(other).is_some_and(|flow| flow != one), "{other:x?}");
        }
        assert_eq!(flow(&v6(17, a, b)), flow(&v6(17, b, a)));
        assert_ne!(flow(&v6(17, a, b)), flow(&v6(17, port, b)));
    }

    #[test]
    fn fragments_and_what_has_no_ports_are_flows_of_addresses() {
        let (a, b) = ((2, 40_000), (9, 80));
        let fragment = |flags: [u8; 2], from, to| {
            let mut frame = frame(17, from, to, 0);
            frame[20..22].copy_from_slice(&flags);
            flow(&frame).expect("a flow")
        };
        let first = fragment([0x20, 0], a, b);
        assert_eq!(first, fragment([0, 3], (2, 1), (9, 2)), "a later one has no ports");
        assert_ne!(first, fragment([0x20, 0], (3, 40_000), b));
        assert_eq!(flow(&frame(1, a, b, 0)), flow(&frame(1, (2, 1), (9, 2), 0)), "ICMP");
        assert_eq!(flow(&v6(44, a, b)), flow(&v6(44, (2, 1), (9, 2))), "a fragment");
    }

    #[test]
    fn what_is_no_whole_packet_is_no_flow() {
        let whole = frame(6, (2, 1), (9, 2), 0);
        for length in 0..34 {
            assert_eq!(flow(&whole[..length]), None, "{length}");
        }
        assert!(flow(&whole[..34]).is_some(), "the addresses are there");
        assert_eq!(flow(&frame(6, (2, 1), (9, 2), 3)), None, "too many tags");
        let mut arp = whole.clone();
        arp[13] = 6;
        assert_eq!(flow(&arp), None);
        let mut long = whole;
        long[14] = 0x4f;
        assert!(flow(&long[..60]).is_some(), "a header of 60 bytes that ends early has no ports");
        let v6 = v6(6, (2, 1), (9, 2));
        assert_eq!((flow(&v6[..53]), flow(&v6[..54]).is_some()), (None, true));
    }

    #[test]
    fn a_flow_comes_back_on_the_pair_it_was_last_sent_on_while_that_is_in_use() {
        let mut flows = Flows::default();
        let out = |port| frame(6, (2, port), (9, 80), 0);
        let back = |port| frame(6, (9, 80), (2, port), 0);
        let by_hash: Vec<_> = (0..64).map(|port| flows.pair(&back(port), 4)).collect();
        assert!((0..4).all(|pair| by_hash.contains(&pair)), "each pair has some: {by_hash:?}");
        for port in 0..64 {
            flows.sent(&out(port), usize::from(port % 4));
        }
        for port in 0..64 {
            assert_eq!(flows.pair(&back(port), 4), usize::from(port % 4));
        }
        flows.sent(&out(5), 3);
        assert_eq!(flows.pair(&back(5), 4), 3, "it moved");
        for port in 0..64 {
            assert!(flows.pair(&back(port), 2) < 2);
            assert_eq!(flows.pair(&back(port), 1), 0);
        }
        assert_eq!(flows.pair(&back(4), 2), 0, "the pair it was sent on is in use still");
        assert_eq!(flows.pair(&[0xff; 60], 4), 0, "no flow");
    }

    #[test]
    fn no_more_flows_are_known_than_there_is_room_for() {
        let mut flows = Flows::default();
        for port in 0..u16::MAX {
            flows.sent(&frame(17, (2, port), (9, 53), 0), 1);
        }
        assert_eq!(flows.known.len(), FLOWS);
        let back = frame(17, (9, 53), (2, u16::MAX - 1), 0);
        assert_eq!(flows.pair(&back, 2), 1, "the last one is");
    }
}
