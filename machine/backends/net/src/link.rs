//! Who is at which Ethernet address, and how a guest finds its router: ARP (RFC 826), neighbor
//! discovery (RFC 4861) with name servers (RFC 8106).
//!
//! Everybody but the guest is at the gateway's Ethernet address; the guest's is known from the start, so
//! nothing is ever looked up, and nothing that the guest claims is believed.

use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, EthernetAddress, EthernetProtocol, Icmpv6Packet, IpProtocol,
    NdiscNeighborFlags, NdiscPrefixInfoFlags, NdiscPrefixInformation, NdiscRepr, NdiscRouterFlags,
    RawHardwareAddress,
};

use crate::config::{Config, Ipv6Plan, Place};
use crate::context::Context;
use crate::frame;

/// Lifetime of routes and name servers that are advertised.
const ROUTER: Duration = Duration::from_secs(1800);
/// Lifetime of addresses that the guest makes of the prefix.
const PREFIX: Duration = Duration::from_secs(86_400);
/// A router advertisement without being asked for.
pub(crate) const ADVERTISE: Duration = Duration::from_secs(600);
/// Option type, length in units of 8 bytes (RFC 8106, section 5.1).
const RDNSS: [u8; 4] = [25, 3, 0, 0];

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// Answers who has an address of ours. The guest's own and those of nobody are not ours: what
/// probes for an address in use must not find one.
pub(crate) fn arp<H>(cx: &mut Context<H>, payload: &[u8]) -> Option<()> {
    let packet = ArpPacket::new_checked(payload).ok()?;
    let ArpRepr::EthernetIpv4 { operation, source_protocol_addr, target_protocol_addr, .. } =
        ArpRepr::parse(&packet).ok()?
    else {
        return None;
    };
    let ours = [cx.config.ipv4.gateway, cx.config.ipv4.dns].contains(&target_protocol_addr);
    if operation != ArpOperation::Request || !ours {
        return Some(());
    }
    let reply = ArpRepr::EthernetIpv4 {
        operation: ArpOperation::Reply,
        source_hardware_addr: EthernetAddress(cx.config.gateway_mac),
        source_protocol_addr: target_protocol_addr,
        target_hardware_addr: EthernetAddress(cx.config.guest_mac),
        target_protocol_addr: source_protocol_addr,
    };
    let mut bytes = vec![0; smoltcp::wire::ETHERNET_HEADER_LEN + reply.buffer_len()];
    let at = frame::ethernet(&cx.config, EthernetProtocol::Arp, &mut bytes);
    reply.emit(&mut ArpPacket::new_unchecked(&mut bytes[at..]));
    cx.push(bytes);
    Some(())
}

/// A message of neighbor discovery.
pub(crate) fn neighbor<H>(cx: &mut Context<H>, from: Ipv6Addr, message: &NdiscRepr<'_>) {
    let Some(plan) = cx.config.ipv6 else { return };
    match message {
        NdiscRepr::RouterSolicit { .. } => advertise_router(cx, plan),
        NdiscRepr::NeighborSolicit { target_addr, .. } => {
            let target = IpAddr::V6(*target_addr);
            if matches!(cx.config.place(target), Place::Gateway | Place::Dns) {
                advertise_neighbor(cx, from, *target_addr);
            }
        }
        _ => (),
    }
}

fn advertise_neighbor<H>(cx: &mut Context<H>, asker: Ipv6Addr, target: Ipv6Addr) {
    let mut flags = NdiscNeighborFlags::ROUTER | NdiscNeighborFlags::OVERRIDE;
    let to = if asker.is_unspecified() { ALL_NODES } else { asker };
    flags.set(NdiscNeighborFlags::SOLICITED, !asker.is_unspecified());
    let lladdr = Some(RawHardwareAddress::from_bytes(&cx.config.gateway_mac));
    let reply = NdiscRepr::NeighborAdvert { flags, target_addr: target, lladdr };
    send(cx, target, to, &reply, &[]);
}

/// Tells the guest of router, prefix, MTU and name server.
pub(crate) fn advertise_router<H>(cx: &mut Context<H>, plan: Ipv6Plan) {
    let advert = NdiscRepr::RouterAdvert {
        hop_limit: 64,
        flags: NdiscRouterFlags::empty(),
        router_lifetime: ROUTER.into(),
        reachable_time: Duration::ZERO.into(),
        retrans_time: Duration::ZERO.into(),
        lladdr: Some(RawHardwareAddress::from_bytes(&cx.config.gateway_mac)),
        mtu: Some(u32::from(cx.config.mtu)),
        prefix_info: Some(NdiscPrefixInformation {
            prefix_len: 64,
            flags: NdiscPrefixInfoFlags::ON_LINK | NdiscPrefixInfoFlags::ADDRCONF,
            valid_lifetime: PREFIX.into(),
            preferred_lifetime: PREFIX.into(),
            prefix: plan.prefix,
        }),
    };
    let mut rdnss = RDNSS.to_vec();
    rdnss.extend((ROUTER.as_secs() as u32).to_be_bytes());
    rdnss.extend(plan.dns().octets());
    send(cx, plan.router(), ALL_NODES, &advert, &rdnss);
}

fn send<H>(
    cx: &mut Context<H>,
    from: Ipv6Addr,
    to: Ipv6Addr,
    message: &NdiscRepr<'_>,
    more: &[u8],
) {
    let length = message.buffer_len();
    cx.packet((from.into(), to.into()), IpProtocol::Icmpv6, length + more.len(), |bytes| {
        message.emit(&mut Icmpv6Packet::new_unchecked(&mut bytes[..length]));
        bytes[length..].copy_from_slice(more);
        Icmpv6Packet::new_unchecked(bytes).fill_checksum(&from, &to);
    });
}

/// Whether an Ethernet destination is the gateway or a group it may be in.
pub(crate) fn is_for_us(config: &Config, to: EthernetAddress) -> bool {
    to.0 == config.gateway_mac || to.is_broadcast() || to.is_multicast()
}
