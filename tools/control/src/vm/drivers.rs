//! Devices that a guest never used, because its kernel lacks a driver: one line each.
//!
//! Invariant: nothing is said of a device that nobody asked for, nor twice of the same.

use virtio::{Kind, Use};

/// What a kind of device is called, what Linux calls its first one, and the driver's option.
struct Driver {
    kind: u16,
    name: &'static str,
    config: &'static str,
    label: fn(usize) -> String,
}

/// Devices that a user asks for, by type (virtio 1.2, 5). Entropy, balloon and the like are there
/// unasked, and a guest does without them.
const DRIVERS: &[Driver] = &[
    Driver { kind: 1, name: "virtio-net", config: "VIRTIO_NET", label: |n| format!(" (eth{n})") },
    Driver { kind: 2, name: "virtio-blk", config: "VIRTIO_BLK", label: |n| disk(n) },
    Driver { kind: 3, name: "virtio-console", config: "VIRTIO_CONSOLE", label: |n| console(n) },
    Driver { kind: 18, name: "virtio-input", config: "VIRTIO_INPUT", label: |n| input(n) },
    Driver { kind: 26, name: "virtio-fs", config: "VIRTIO_FS", label: |_| String::new() },
];

/// The network is there unasked; an initrd of the user's may well do without.
const UNASKED: u16 = Kind::Network as u16;

fn disk(number: usize) -> String {
    let letter = char::from(b'a' + (number % 26) as u8);
    format!(" (vd{letter})")
}

fn console(number: usize) -> String {
    format!(" (hvc{number})")
}

fn input(number: usize) -> String {
    [" (keyboard)", " (tablet)"].get(number).map_or_else(String::new, |&name| name.into())
}

/// Watches what a guest does with its devices.
#[derive(Debug)]
pub(super) struct Unused {
    /// Our init runs in the guest and loads drivers.
    session: bool,
    /// Of which devices it was said, by their place.
    said: Vec<usize>,
}

impl Unused {
    pub(super) fn new(session: bool) -> Self {
        Self { session, said: Vec::new() }
    }

    /// Lines about devices that are not used until now.
    pub(super) fn lines(&mut self, devices: &[(Kind, Use)]) -> Vec<String> {
        let mut lines = Vec::new();
        for (place, (kind, used)) in devices.iter().enumerate() {
            let number = devices[..place].iter().filter(|before| before.0 == *kind).count();
            let wanted = self.session || *kind as u16 != UNASKED;
            let driver = DRIVERS.iter().find(|driver| driver.kind == *kind as u16 && wanted);
            let config = match (driver, used) {
                (None, _) | (_, Use::Driven) => continue,
                (Some(driver), Use::Found) => driver.config,
                (Some(_), Use::Never) => "VIRTIO_PCI",
            };
            if let Some(driver) = driver.filter(|_| !self.said.contains(&place)) {
                let (name, label) = (driver.name, (driver.label)(number));
                let line = format!("the guest never used {name}{label}: CONFIG_{config}?");
                if !lines.contains(&line) {
                    lines.push(line); // of several shares once
                }
                self.said.push(place);
            }
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_device_and_option_once() {
        let devices = [
            (Kind::Entropy, Use::Never),
            (Kind::Block, Use::Driven),
            (Kind::Block, Use::Found),
            (Kind::Network, Use::Never),
        ];
        let mut unused = Unused::new(true);
        let lines = unused.lines(&devices);
        let disk = "the guest never used virtio-blk (vdb): CONFIG_VIRTIO_BLK?";
        let network = "the guest never used virtio-net (eth0): CONFIG_VIRTIO_PCI?";
        assert_eq!(lines, [disk, network]);
        assert!(unused.lines(&devices).is_empty(), "said already");
        assert_eq!(Unused::new(false).lines(&devices), [disk], "nobody asked for a network");
    }
}
