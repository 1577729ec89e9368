//! The network as the guest sees it: addresses, names, limits of what it may reach.
//!
//! The IPv4 side has the addresses that users know from QEMU's user network; the IPv6 side is a
//! unique local prefix (RFC 4193). Invariant: a [`Config`] that passed [`Config::check`] fits every
//! message that is made of it.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Smallest MTU: what IPv6 asks of every link (RFC 8200, section 5).
pub const MTU_MIN: u16 = 1280;
/// Largest MTU: a multiple of 8 within what an IPv4 packet's length can say.
pub const MTU_MAX: u16 = 65_520;

/// What a network is like. `Config::default()` is a network like QEMU's, with IPv6.
#[derive(Clone, Debug)]
pub struct Config {
    /// The guest's own Ethernet address: frames from any other are dropped.
    pub guest_mac: [u8; 6],
    /// The address of everybody else on the link.
    pub gateway_mac: [u8; 6],
    /// Bytes of an IP packet on the link, [`MTU_MIN`] to [`MTU_MAX`]; told by DHCP and in router advertisements.
    pub mtu: u16,
    /// The name that DHCP gives the guest; empty for none.
    pub hostname: String,
    /// Domains in which the guest looks up short names, told by DHCP as far as they fit.
    pub search: Vec<String>,
    /// IPv4 addresses of the gateway, of the name server and of the guest, in one /24.
    pub ipv4: Ipv4Plan,
    /// The IPv6 side; `None` is a link without IPv6.
    pub ipv6: Option<Ipv6Plan>,
    /// Whether the gateway's address leads to the host's loopback address. Services that listen there
    /// often trust whoever reaches them, so no is the default.
    pub host_loopback: bool,
    /// Whether the guest reaches 169.254.0.0/16: on a cloud machine the service there hands out the
    /// machine's credentials, so no is the default.
    pub link_local: bool,
    /// Start of initial sequence numbers and ports: random outside of tests.
    pub seed: u64,
}

/// The IPv4 addresses of the link, all in one /24.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv4Plan {
    /// Default route and DHCP server.
    pub gateway: Ipv4Addr,
    /// The relay to the host's name servers.
    pub dns: Ipv4Addr,
    /// The one address that the guest may have.
    pub guest: Ipv4Addr,
}

/// The IPv6 addresses of the link: a /64 in which the guest chooses its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ipv6Plan {
    /// The prefix; its low 64 bits are zero.
    pub prefix: Ipv6Addr,
}

/// Why a [`Config`] can't be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ConfigError {
    /// Out of range.
    #[error("the network's MTU of {0} bytes is out of range: give one from {MTU_MIN} to {MTU_MAX}")]
    Mtu(u16),
    /// RFC 1123 names only, so that the guest takes it.
    #[error(
        "the guest's host name {0:?} is none: give 1 to 63 letters, digits and hyphens, no hyphen at either end"
    )]
    Hostname(String),
    /// Not in one /24, not private or not distinct.
    #[error(
        "the network's addresses {gateway}, {dns} and {guest} must be three of one private /24, such as \
         10.0.2.2, 10.0.2.3 and 10.0.2.15"
    )]
    Addresses {
        /// As given.
        gateway: Ipv4Addr,
        /// As given.
        dns: Ipv4Addr,
        /// As given.
        guest: Ipv4Addr,
    },
    /// A multicast or zero Ethernet address.
    #[error(
        "{0:02x?} is no address of one Ethernet card: the lowest bit of its first byte must be 0"
    )]
    Mac([u8; 6]),
}

impl Default for Config {
    fn default() -> Self {
        Self {
            guest_mac: [0x52, 0x54, 0x00, 0x12, 0x34, 0x56],
            gateway_mac: [0x52, 0x55, 0x0a, 0x00, 0x02, 0x02],
            mtu: 1500,
            hostname: "oneroof".into(),
            search: Vec::new(),
            ipv4: Ipv4Plan {
                gateway: Ipv4Addr::new(10, 0, 2, 2),
                dns: Ipv4Addr::new(10, 0, 2, 3),
                guest: Ipv4Addr::new(10, 0, 2, 15),
            },
            // fd, then "oneroof" in ASCII.
            ipv6: Some(Ipv6Plan {
                prefix: Ipv6Addr::new(0xfd6f, 0x6e65, 0x726f, 0x6f66, 0, 0, 0, 0),
            }),
            host_loopback: false,
            link_local: false,
            seed: 0,
        }
    }
}

/// What is at an address that the guest sends to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// The gateway itself: no host address, unless `host_loopback`.
    Gateway,
    /// The name server.
    Dns,
    /// The world: reached through the host.
    Outside(IpAddr),
    /// Nothing that a guest may reach.
    Nowhere,
}

impl Config {
    /// Whether the parts fit each other and the protocols.
    ///
    /// # Errors
    /// The first part that doesn't, and what to give instead.
    pub fn check(&self) -> Result<(), ConfigError> {
        if !(MTU_MIN..=MTU_MAX).contains(&self.mtu) {
            return Err(ConfigError::Mtu(self.mtu));
        }
        let name = self.hostname.as_bytes();
        let plain = name.iter().all(|&c| c.is_ascii_alphanumeric() || c == b'-');
        if name.len() > 63 || !plain || name.first() == Some(&b'-') || name.last() == Some(&b'-') {
            return Err(ConfigError::Hostname(self.hostname.clone()));
        }
        let Ipv4Plan { gateway, dns, guest } = self.ipv4;
        let inside = |one: Ipv4Addr| {
            one.octets()[..3] == gateway.octets()[..3] && !matches!(one.octets()[3], 0 | 255)
        };
        let distinct = gateway != dns && gateway != guest && dns != guest;
        if !(inside(gateway) && inside(dns) && inside(guest) && distinct && gateway.is_private()) {
            return Err(ConfigError::Addresses { gateway, dns, guest });
        }
        for mac in [self.guest_mac, self.gateway_mac] {
            if mac[0] & 1 != 0 || mac == [0; 6] {
                return Err(ConfigError::Mac(mac));
            }
        }
        Ok(())
    }

    /// What is at `address`, as the guest sees it.
    pub(crate) fn place(&self, address: IpAddr) -> Place {
        match address {
            IpAddr::V4(address) => self.place_v4(address),
            IpAddr::V6(address) => self.place_v6(address),
        }
    }

    /// Where on the host a TCP connection or datagram to `to` goes; name service apart.
    pub(crate) fn outside(&self, to: SocketAddr) -> Option<SocketAddr> {
        match self.place(to.ip()) {
            Place::Outside(address) => Some(SocketAddr::new(address, to.port())),
            Place::Gateway if self.host_loopback => Some(match to {
                SocketAddr::V4(_) => (Ipv4Addr::LOCALHOST, to.port()).into(),
                SocketAddr::V6(_) => (Ipv6Addr::LOCALHOST, to.port()).into(),
            }),
            Place::Gateway | Place::Dns | Place::Nowhere => None,
        }
    }

    /// Whether `address` may stand as sender in a packet of the guest.
    pub(crate) fn is_guest(&self, address: IpAddr) -> bool {
        match address {
            IpAddr::V4(address) => address == self.ipv4.guest,
            IpAddr::V6(address) => self.ipv6.is_some_and(|plan| {
                let own = plan.holds(address) || address.is_unicast_link_local();
                own && ![plan.gateway(), plan.dns(), plan.router()].contains(&address)
            }),
        }
    }

    fn place_v4(&self, address: Ipv4Addr) -> Place {
        let [a, b, c, d] = address.octets();
        if address == self.ipv4.gateway {
            Place::Gateway
        } else if address == self.ipv4.dns {
            Place::Dns
        } else if [a, b, c] == self.ipv4.gateway.octets()[..3]
            || matches!(a, 0 | 127 | 224..)
            || (address.is_link_local() && !self.link_local)
            || [a, b, c, d] == [255; 4]
        {
            Place::Nowhere
        } else {
            Place::Outside(address.into())
        }
    }

    fn place_v6(&self, address: Ipv6Addr) -> Place {
        let Some(plan) = self.ipv6 else { return Place::Nowhere };
        if address == plan.gateway() || address == plan.router() {
            Place::Gateway
        } else if address == plan.dns() {
            Place::Dns
        } else if plan.holds(address)
            || address.is_multicast()
            || address.is_unicast_link_local()
            // ::, ::1, and IPv4 addresses in disguise, 127.0.0.1 among them
            || address.to_ipv4().is_some()
            // 6to4 and NAT64 with local use lead to IPv4 addresses, too
            || matches!(address.segments()[..2], [0x2002, _] | [0x64, 0xff9b])
        {
            Place::Nowhere
        } else {
            Place::Outside(address.into())
        }
    }
}

impl Ipv6Plan {
    fn with(self, low: u64) -> Ipv6Addr {
        Ipv6Addr::from(u128::from(self.prefix) >> 64 << 64 | u128::from(low))
    }

    /// The gateway, ...::2.
    #[must_use]
    pub fn gateway(self) -> Ipv6Addr {
        self.with(2)
    }

    /// The name server, ...::3.
    #[must_use]
    pub fn dns(self) -> Ipv6Addr {
        self.with(3)
    }

    /// The link-local address that router advertisements come from, fe80::2.
    #[must_use]
    pub fn router(self) -> Ipv6Addr {
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 2)
    }

    fn holds(self, address: Ipv6Addr) -> bool {
        u128::from(address) >> 64 == u128::from(self.prefix) >> 64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_to_the_hosts_loopback_unless_asked() {
        let mut config = Config::default();
        for address in [
            "127.0.0.1",
            "127.0.0.53",
            "0.0.0.0",
            "10.0.2.2",
            "10.0.2.3",
            "10.0.2.77",
            "255.255.255.255",
            "224.0.0.251",
            "169.254.169.254",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "::127.0.0.1",
            "fe80::1",
            "ff02::1",
            "fd6f:6e65:726f:6f66::2",
            "fd6f:6e65:726f:6f66::9",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ] {
            let to = SocketAddr::new(address.parse().expect("an address"), 80);
            assert_eq!(config.outside(to), None, "{to}");
        }
        for address in ["192.0.2.7:80", "10.0.3.2:80", "[2001:db8::1]:443"] {
            let to = address.parse().expect("an address");
            assert_eq!(config.outside(to), Some(to), "{to}");
        }
        config.host_loopback = true;
        let gateway = |text: &str| config.outside(text.parse().expect("an address"));
        assert_eq!(gateway("10.0.2.2:80"), Some(([127, 0, 0, 1], 80).into()));
        assert_eq!(gateway("[fd6f:6e65:726f:6f66::2]:80"), Some((Ipv6Addr::LOCALHOST, 80).into()));
        assert_eq!(gateway("127.0.0.1:80"), None);
    }

    #[test]
    fn configurations_that_do_not_fit_are_named() {
        let with = |change: fn(&mut Config)| {
            let mut config = Config::default();
            change(&mut config);
            config.check()
        };
        assert_eq!(with(|_| ()), Ok(()));
        assert_eq!(with(|c| c.mtu = 576), Err(ConfigError::Mtu(576)));
        assert!(matches!(with(|c| c.hostname = "a_b".into()), Err(ConfigError::Hostname(_))));
        assert!(matches!(with(|c| c.hostname = "x".repeat(64)), Err(ConfigError::Hostname(_))));
        let dns = |c: &mut Config| c.ipv4.dns = Ipv4Addr::new(10, 0, 3, 3);
        assert!(matches!(with(dns), Err(ConfigError::Addresses { .. })));
        assert!(matches!(with(|c| c.guest_mac = [0xff; 6]), Err(ConfigError::Mac(_))));
    }
}
