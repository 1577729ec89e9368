//! A tap device behind a card.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use net::{Tap, TapWatch};
use virtio::net::{Backend, Header, Net, Offload};
use virtio::{Device, Waiter};

use super::NetError;

/// An interface without a readable MTU has Ethernet's.
const MTU: u16 = 1500;

/// A card on an interface of the host, for a guest of so many processors. The host has one queue for all of
/// the card's: one thread would read them.
pub(super) fn open(name: &str, cpus: u32) -> Result<Box<dyn Device>, NetError> {
    let tap = Tap::open(name)?;
    let about = Path::new("/sys/class/net").join(name);
    let mtu = std::fs::read_to_string(about.join("mtu")).ok();
    let mtu = mtu.and_then(|text| text.trim().parse().ok()).unwrap_or(MTU);
    Ok(Box::new(Net::new(Box::new(OnTap(tap)), address(name), mtu, cpus)))
}

/// An Ethernet address that is the same for each guest on this interface of this host, and no one
/// else's: servers give it the same lease again.
fn address(name: &str) -> [u8; 6] {
    let mut hasher = DefaultHasher::new();
    std::fs::read("/etc/machine-id").unwrap_or_default().hash(&mut hasher);
    name.hash(&mut hasher);
    let [a, b, c, ..] = hasher.finish().to_le_bytes();
    [0x52, 0x54, 0x00, a, b, c]
}

struct OnTap(Tap);

struct OnTapWaiter(Arc<TapWatch>);

impl Waiter for OnTapWaiter {
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

impl Backend for OnTap {
    fn poll(&mut self) {}

    fn send(&mut self, header: &Header, frame: &[u8]) {
        self.0.send(header.encode(), frame);
    }

    fn receive(&mut self, buffer: &mut [u8]) -> Option<(Header, usize)> {
        let (header, length) = self.0.receive(buffer)?;
        Some((Header::decode(header), length))
    }

    fn settle(&mut self) {}

    fn set_offload(&mut self, offload: Offload) {
        let Offload { checksum, tcp4, tcp6 } = offload;
        self.0.set_offload(net::Offload { checksum, tcp4, tcp6 });
    }

    /// The interface takes frames for any address.
    fn set_mac(&mut self, _mac: [u8; 6]) {}

    fn reset(&mut self) {}

    fn waiter(&self) -> Arc<dyn Waiter> {
        Arc::new(OnTapWaiter(self.0.watch()))
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn takes_large(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_card_s_address_is_its_interface_s_own() {
        assert_eq!(address("tap0"), address("tap0"));
        assert_ne!(address("tap0"), address("tap1"));
        assert_eq!(address("tap0")[0] & 1, 0, "one card's, not a group's");
    }
}
