//! Loopback and the network card: addresses, routes, the resolver's file.
//!
//! What the host knows is set at once, without a packet; a lease is asked for by a thread. Nobody
//! waits for either. Invariant: without a network the guest runs all the same, and it is told why.

mod dhcp;

use std::path::Path;

use protocol::Network;

use crate::sys::net::{self, Address};
use dhcp::Lease;

/// The one card there is; no rule renames it.
const CARD: &str = "eth0";
const RESOLVER: &str = "/etc/resolv.conf";

/// Brings loopback up.
pub(crate) fn loopback() -> Option<String> {
    let failed = |error| format!("cannot bring the loopback interface up: {error}");
    net::bring_up("lo").err().map(failed)
}

/// Configures the card, or begins to; gives what did not work.
pub(crate) fn card(network: &Network) -> Option<String> {
    let configured = match network {
        Network::None => return None,
        _ if !Path::new("/sys/class/net").join(CARD).exists() => {
            let missing = if crate::modules::has_virtio() { "NET" } else { "PCI" };
            return Some(format!(
                "there is no network in this guest: its kernel has no driver for the card \
                 (CONFIG_VIRTIO_{missing}), so there is no {CARD}"
            ));
        }
        Network::Known { address, prefix, gateway, resolver } => {
            // The guest is alone on its link: no address is looked for before it is used.
            let _ = std::fs::write(format!("/proc/sys/net/ipv6/conf/{CARD}/accept_dad"), "0");
            let address = Address { address: *address, prefix: *prefix };
            configure(address, Some(*gateway), resolver)
        }
        Network::Dhcp => {
            // What a host's says does not hold here.
            let _ = std::fs::remove_file(RESOLVER);
            begin_dhcp()
        }
    };
    configured.err().map(|error| format!("cannot configure {CARD}: {error}"))
}

/// Asks for a lease in the background.
fn begin_dhcp() -> Result<(), String> {
    net::bring_up(CARD).map_err(|error| error.to_string())?;
    let thread = std::thread::Builder::new().name("dhcp".into());
    let spawned = thread.spawn(|| dhcp::run(CARD, apply));
    spawned.map(drop).map_err(|error| error.to_string())
}

fn configure(address: Address, gateway: Option<[u8; 4]>, resolver: &[u8]) -> Result<(), String> {
    net::set_address(CARD, address).map_err(|error| format!("its address: {error}"))?;
    net::bring_up(CARD).map_err(|error| error.to_string())?;
    if let Some(gateway) = gateway {
        net::add_default_route(gateway).map_err(|error| format!("its default route: {error}"))?;
    }
    // A host's may be a link to what only its own resolver has.
    let _ = std::fs::remove_file(RESOLVER);
    std::fs::write(RESOLVER, resolver).map_err(|error| format!("{RESOLVER}: {error}"))
}

/// Uses a lease. What fails is in the kernel's log, where the one who looks for the network looks.
fn apply(lease: &Lease) {
    let mut resolver = String::new();
    if !lease.search.is_empty() {
        resolver = format!("search {}\n", lease.search);
    }
    for [a, b, c, d] in &lease.name_servers {
        resolver.push_str(&format!("nameserver {a}.{b}.{c}.{d}\n"));
    }
    let address = Address { address: lease.address, prefix: lease.prefix };
    if let Err(error) = configure(address, lease.gateway, resolver.as_bytes()) {
        let _ =
            std::fs::write("/dev/kmsg", format!("oneroof-init: cannot use the lease: {error}\n"));
    }
}
