//! The user network behind a card.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use net::host::{Sockets, search_domains};
use net::{Config, Forward, Incoming, Network, Outgoing, Watch};
use protocol::Network as JobNetwork;
use rustix::rand::{GetRandomFlags, getrandom};
use virtio::net::{Backend, Header, Net, Offload};
use virtio::{Device, Waiter};

use super::NetError;
use crate::vm::run::HOSTNAME;

/// Bits of the guest's network.
const PREFIX: u8 = 24;

/// A card on a network of its own for a guest of so many processors, with ports forwarded, and what the guest
/// need not ask for.
pub(super) fn open(
    loopback: bool,
    forwards: &[Forward],
    cpus: u32,
) -> Result<(Box<dyn Device>, JobNetwork), NetError> {
    let mut seed = [0; 8];
    getrandom(&mut seed, GetRandomFlags::empty()).map_err(|error| NetError::Host(error.into()))?;
    let config = Config {
        hostname: HOSTNAME.into(),
        host_loopback: loopback,
        seed: u64::from_ne_bytes(seed),
        search: search_domains(),
        ..Config::default()
    };
    let job = JobNetwork::Known {
        address: config.ipv4.guest.octets(),
        prefix: PREFIX,
        gateway: config.ipv4.gateway.octets(),
        resolver: resolver_file(&config).into_bytes(),
    };
    let (mac, mtu) = (config.guest_mac, config.mtu);
    let sockets = Sockets::new().map_err(NetError::Host)?;
    let mut network = Network::new(config, sockets)?;
    for forward in forwards {
        network.stack().add_forward(*forward)?;
    }
    Ok((Box::new(Net::new(Box::new(User(network)), mac, mtu, cpus)), job))
}

fn resolver_file(config: &Config) -> String {
    let search = match config.search.is_empty() {
        true => String::new(),
        false => format!("search {}\n", config.search.join(" ")),
    };
    format!("{search}nameserver {}\n", config.ipv4.dns)
}

struct User(Network);

struct UserWaiter(Arc<Watch>);

impl Waiter for UserWaiter {
    fn wait(&self) {
        self.0.wait();
    }

    fn wake(&self) {
        self.0.wake();
    }

    fn event(&self) -> Option<Arc<OwnedFd>> {
        Some(self.0.event())
    }
}

impl Backend for User {
    fn poll(&mut self) {
        self.0.poll();
    }

    fn send(&mut self, header: &Header, frame: &[u8]) {
        let partial_checksum = header.flags & Header::NEEDS_CHECKSUM != 0;
        self.0.stack().guest_sends_with(frame, Incoming { partial_checksum });
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)> {
        self.0.stack().next_frame(buffer).map(|frame| (header(&frame), frame.length))
    }

    fn settle(&mut self) {
        self.0.settle();
    }

    fn set_offload(&mut self, offload: Offload) {
        let Offload { checksum, tcp4, tcp6 } = offload;
        self.0.stack().set_offload(net::Offload { checksum, tcp4, tcp6 });
    }

    fn set_mac(&mut self, mac: [u8; 6]) {
        self.0.stack().set_guest_mac(mac);
    }

    fn reset(&mut self) {
        self.0.stack().reset();
    }

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(UserWaiter(self.0.watch()))
    }

    fn is_shared(&self) -> bool {
        false
    }

    fn takes_large(&self) -> bool {
        true
    }
}

/// What rides beside a frame, as the driver has it.
fn header(frame: &Outgoing) -> Header {
    let mut header = Header::default();
    if let Some(sum) = frame.checksum {
        header.flags = Header::NEEDS_CHECKSUM;
        (header.checksum_start, header.checksum_offset) = (sum.start, sum.offset);
    }
    if let Some(segments) = frame.segments {
        header.segmentation = if segments.ipv6 { Header::TCP6 } else { Header::TCP4 };
        (header.header_length, header.segment) = (segments.header_length, segments.size);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_is_told_where_names_are_looked_up() {
        let config = Config { search: vec!["lan".into(), "example".into()], ..Config::default() };
        assert_eq!(resolver_file(&config), "search lan example\nnameserver 10.0.2.3\n");
        assert_eq!(resolver_file(&Config::default()), "nameserver 10.0.2.3\n");
    }

    #[test]
    fn a_large_segment_keeps_its_numbers() {
        let frame = Outgoing {
            length: 4000,
            checksum: Some(net::PartialChecksum { start: 34, offset: 16 }),
            segments: Some(net::Segments { ipv6: true, header_length: 54, size: 1440 }),
        };
        let expected = Header {
            flags: Header::NEEDS_CHECKSUM,
            segmentation: Header::TCP6,
            header_length: 54,
            segment: 1440,
            checksum_start: 34,
            checksum_offset: 16,
        };
        assert_eq!(header(&frame), expected);
        let small = Outgoing { length: 60, checksum: None, segments: None };
        assert_eq!(header(&small), Header::default());
    }
}
