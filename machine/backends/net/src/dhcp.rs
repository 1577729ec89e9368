//! The DHCP server for one guest (RFC 2131, 2132): it always offers the same address.
//!
//! Invariant: the lease is a function of the configuration, so nothing is remembered. A
//! request for any other address is refused, so that a guest with an old lease asks anew.

use std::net::{Ipv4Addr, SocketAddr};

use smoltcp::wire::{
    DHCP_CLIENT_PORT, DHCP_SERVER_PORT, DhcpMessageType, DhcpOption, DhcpPacket, DhcpRepr,
};

use crate::context::Context;

const LEASE_SECONDS: u32 = 86_400;

// Option codes (RFC 2132, RFC 1035's domain apart).
const OPTION_DNS: u8 = 6;
const OPTION_HOSTNAME: u8 = 12;
const OPTION_MTU: u8 = 26;
const OPTION_SEARCH: u8 = 119; // RFC 3397

/// Answers a datagram to the server's port; `None` if it is no DHCP message of the guest.
pub(crate) fn datagram<H>(cx: &mut Context<H>, payload: &[u8]) -> Option<()> {
    let packet = DhcpPacket::new_checked(payload).ok()?;
    let request = DhcpRepr::parse(&packet).ok()?;
    if request.client_hardware_address.0 != cx.config.guest_mac {
        return None;
    }
    let plan = cx.config.ipv4;
    let wanted =
        request.requested_ip.or((!request.client_ip.is_unspecified()).then_some(request.client_ip));
    let to_us = request.server_identifier.is_none_or(|server| server == plan.gateway);
    let answer = match request.message_type {
        DhcpMessageType::Discover => DhcpMessageType::Offer,
        DhcpMessageType::Request if !to_us => return Some(()),
        DhcpMessageType::Request if wanted.is_some_and(|wanted| wanted == plan.guest) => {
            DhcpMessageType::Ack
        }
        DhcpMessageType::Request => DhcpMessageType::Nak,
        DhcpMessageType::Inform => DhcpMessageType::Ack,
        _ => return Some(()),
    };
    let inform = request.message_type == DhcpMessageType::Inform;
    reply(cx, &request, answer, inform);
    Some(())
}

fn reply<H>(cx: &mut Context<H>, request: &DhcpRepr<'_>, answer: DhcpMessageType, inform: bool) {
    let plan = cx.config.ipv4;
    let granted = answer != DhcpMessageType::Nak;
    let (mtu, hostname) = (cx.config.mtu.to_be_bytes(), cx.config.hostname.clone());
    let dns = plan.dns.octets();
    let mut options = Vec::new();
    if granted {
        options.push(DhcpOption { kind: OPTION_DNS, data: &dns });
        options.push(DhcpOption { kind: OPTION_MTU, data: &mtu });
    }
    if granted && !hostname.is_empty() {
        options.push(DhcpOption { kind: OPTION_HOSTNAME, data: hostname.as_bytes() });
    }
    let search = search_list(&cx.config.search);
    if granted && !search.is_empty() {
        options.push(DhcpOption { kind: OPTION_SEARCH, data: &search });
    }
    let leased = granted && !inform;
    let message = DhcpRepr {
        message_type: answer,
        transaction_id: request.transaction_id,
        secs: 0,
        client_hardware_address: request.client_hardware_address,
        client_ip: if inform { request.client_ip } else { Ipv4Addr::UNSPECIFIED },
        your_ip: if leased { plan.guest } else { Ipv4Addr::UNSPECIFIED },
        server_ip: if granted { plan.gateway } else { Ipv4Addr::UNSPECIFIED },
        router: granted.then_some(plan.gateway),
        subnet_mask: granted.then_some(Ipv4Addr::new(255, 255, 255, 0)),
        relay_agent_ip: Ipv4Addr::UNSPECIFIED,
        broadcast: request.broadcast,
        requested_ip: None,
        client_identifier: None,
        server_identifier: Some(plan.gateway),
        parameter_request_list: None,
        dns_servers: None,
        max_size: None,
        lease_duration: leased.then_some(LEASE_SECONDS),
        renew_duration: None,
        rebind_duration: None,
        additional_options: &options,
    };
    // BOOTP's size, which some clients insist on (RFC 1542, section 2.1).
    let mut bytes = vec![0; message.buffer_len().max(300)];
    message
        .emit(&mut DhcpPacket::new_unchecked(&mut bytes))
        .expect("the buffer has the message's size");
    let broadcast = request.broadcast || !granted || request.client_ip.is_unspecified() && !leased;
    let to = if broadcast { Ipv4Addr::BROADCAST } else { plan.guest };
    let from = SocketAddr::from((plan.gateway, DHCP_SERVER_PORT));
    cx.datagram(from, (to, DHCP_CLIENT_PORT).into(), &bytes);
}

/// Domains as RFC 3397 has them, as many as one option holds.
fn search_list(domains: &[String]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for domain in domains {
        let before = bytes.len();
        let labels = domain.trim_end_matches('.').split('.');
        for label in labels.filter(|label| (1..=63).contains(&label.len())) {
            bytes.push(label.len() as u8);
            bytes.extend(label.bytes());
        }
        bytes.push(0);
        if bytes.len() > usize::from(u8::MAX) {
            bytes.truncate(before);
            break;
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::search_list;

    #[test]
    fn search_domains_are_labels_and_never_too_many() {
        assert_eq!(search_list(&["a.bc".into(), "d.".into()]), b"\x01a\x02bc\0\x01d\0");
        let many = vec!["twelve.bytes".to_owned(); 40];
        assert_eq!(search_list(&many).len(), 255 / 14 * 14);
    }
}
