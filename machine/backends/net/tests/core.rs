//! The core without any network: a scripted guest, made of frames by smoltcp's `wire`, over a host that
//! does what the test says, at times that the test says.

#[path = "common/script.rs"]
mod script;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use net::Config;
use script::{GATEWAY, GUEST, Script, WORLD};
use smoltcp::phy::ChecksumCapabilities;
use smoltcp::wire::{
    ArpOperation, ArpPacket, ArpRepr, DhcpMessageType, DhcpPacket, DhcpRepr, EthernetAddress,
    EthernetProtocol, Icmpv4Packet, Icmpv4Repr, IpProtocol, Ipv4Packet, TcpControl, TcpRepr,
};

#[test]
fn the_guest_hears_of_a_connection_only_when_the_host_has_it() {
    let mut script = Script::new();
    script.tcp(TcpControl::Syn, 999, None, 1000, &[]);
    assert_eq!(script.wires.borrow().to, Some((WORLD, 80).into()));
    assert_eq!(script.seen(), None, "the host still connects");
    script.wires.borrow_mut().refused = true;
    script.event();
    let reset = script.seen().expect("a reset");
    assert_eq!((reset.control, reset.ack), (TcpControl::Rst, Some(1000)));
    assert_eq!(script.stack.flows().0, 0);
}

#[test]
fn a_lost_segment_is_sent_again_after_three_duplicates_and_by_time() {
    let mut script = Script::new();
    let first = script.connection();
    script.wires.borrow_mut().to_guest.extend([1; 400]);
    script.event();
    let sent: Vec<u32> =
        std::iter::from_fn(|| script.seen()).map(|one| one.at.wrapping_sub(first)).collect();
    assert_eq!(sent, [0, 100, 200, 300]);
    for _ in 0..3 {
        assert_eq!(script.seen(), None);
        script.tcp(TcpControl::None, 1000, Some(first), 1000, &[]);
    }
    let again = script.seen().expect("fast retransmission");
    assert_eq!((again.at, again.payload.len()), (first, 100));
    assert_eq!(script.seen(), None);
    // Nothing comes back: the timer sends it again, later each time, and gives up at last.
    let (mut now, mut waits) = (Duration::ZERO, Vec::new());
    while script.stack.flows().0 > 0 {
        let due = script.stack.deadline().expect("a timer");
        script.stack.advance(due);
        if let Some(again) = script.seen() {
            if again.control == TcpControl::Rst {
                break;
            }
            assert_eq!(again.at, first);
            waits.push(due - now);
            now = due;
        }
    }
    assert!(waits.len() >= 5 && waits.windows(2).skip(1).all(|two| two[0] <= two[1]), "{waits:?}");
    assert_eq!((script.stack.flows().0, script.wires.borrow().aborted), (0, true));
}

#[test]
fn segments_out_of_order_reach_the_host_in_order_and_ask_for_what_is_missing() {
    let mut script = Script::new();
    let first = script.connection();
    for (at, text) in [(1003, b"def"), (1006, b"ghi")] {
        script.tcp(TcpControl::Psh, at, Some(first), 1000, text);
        assert_eq!(script.seen().expect("a duplicate").ack, Some(1000));
    }
    script.tcp(TcpControl::Psh, 1000, Some(first), 1000, b"abcd");
    assert_eq!(script.wires.borrow().from_guest, b"abcdefghi");
    assert_eq!(script.seen().expect("an acknowledgement").ack, Some(1009));
    script.tcp(TcpControl::Fin, 1009, Some(first), 1000, b"!");
    assert!(script.wires.borrow().finished);
    assert_eq!(script.seen().expect("an acknowledgement").ack, Some(1011));
}

#[test]
fn a_reset_after_both_ends_does_not_take_from_the_host_what_it_has_yet_to_pass_on() {
    for both in [true, false] {
        let mut script = Script::new();
        let first = script.connection();
        script.tcp(TcpControl::Fin, 1000, Some(first), 1000, b"all");
        script.wires.borrow_mut().ended = both;
        script.event();
        while script.seen().is_some() {}
        let ack = first.wrapping_add(u32::from(both));
        script.tcp(TcpControl::None, 1004, Some(ack), 1000, &[]);
        script.tcp(TcpControl::Rst, 1004, None, 0, &[]);
        assert_eq!((script.stack.flows().0, script.wires.borrow().aborted), (0, !both));
    }
}

#[test]
fn name_service_over_tcp_goes_to_the_next_server_when_one_refuses_or_is_silent() {
    let mut script = Script::new();
    let servers: Vec<SocketAddr> = (1..=3).map(|n| ([192, 0, 2, n], 53).into()).collect();
    script.wires.borrow_mut().resolvers = servers.clone();
    script.remote = Ipv4Addr::new(10, 0, 2, 3);
    let syn = TcpRepr { dst_port: 53, ..Script::plain(TcpControl::Syn, 999, None, 1000, &[]) };
    script.segment(&syn);
    assert_eq!(script.wires.borrow().to, Some(servers[0]));
    script.wires.borrow_mut().refused = true;
    script.event();
    assert_eq!(script.wires.borrow().to, Some(servers[1]));
    script.wires.borrow_mut().refused = false;
    script.stack.advance(script.stack.deadline().expect("a timer"));
    assert_eq!(script.wires.borrow().to, Some(servers[2]));
    assert_eq!(script.seen(), None, "the host still connects");
    assert!(script.stack.deadline() < Some(Duration::from_secs(4 + 120)));
    script.wires.borrow_mut().connected = true;
    script.event();
    assert_eq!(script.seen().map(|seen| seen.control), Some(TcpControl::Syn));
    // When the last one refuses, the guest is told.
    script.stack.reset();
    (script.wires.borrow_mut().refused, script.wires.borrow_mut().connected) = (true, false);
    script.segment(&syn);
    for _ in 0..2 {
        assert_eq!(script.seen().map(|seen| seen.control), None);
        script.event();
    }
    assert_eq!(script.seen().map(|seen| seen.control), Some(TcpControl::Rst));
    assert_eq!(script.stack.flows().0, 0);
}

#[test]
fn a_closed_window_is_probed_and_a_full_host_closes_ours() {
    let mut script = Script::new();
    let first = script.connection();
    script.tcp(TcpControl::None, 1000, Some(first), 0, &[]);
    script.wires.borrow_mut().to_guest.extend([1; 50]);
    script.event();
    assert_eq!(script.seen(), None, "the window is closed");
    script.stack.advance(script.stack.deadline().expect("a timer"));
    let probe = script.seen().expect("a probe");
    assert_eq!((probe.at, probe.payload.len()), (first, 1));
    script.tcp(TcpControl::None, 1000, Some(first.wrapping_add(1)), 1000, &[]);
    assert_eq!(script.seen().expect("the rest").payload.len(), 49);
    // Ours, unscaled as the guest asked.
    script.wires.borrow_mut().room = 0;
    let (mut at, mut window) = (1000, u32::MAX);
    while window > 0 {
        script.tcp(TcpControl::Psh, at, Some(first.wrapping_add(50)), 1000, &[2; 1000]);
        let seen = script.seen().expect("an acknowledgement");
        let ack = seen.ack.expect("always");
        assert!(ack == at + 1000 || u32::from(seen.window) < 1000);
        if ack == at {
            break;
        }
        (at, window) = (ack, u32::from(seen.window));
    }
    assert!((60_000..66_000).contains(&(at - 1000)), "{} bytes are held", at - 1000);
    script.wires.borrow_mut().room = usize::MAX;
    script.event();
    assert!(script.seen().expect("the window opens").window > 30_000);
    assert_eq!(script.wires.borrow().from_guest.len() as u32, at - 1000);
}

#[test]
fn dhcp_gives_the_one_address_with_name_server_mtu_and_name() {
    let mut script = Script::new();
    let mac = EthernetAddress(Config::default().guest_mac);
    let mut ask = |kind, requested| {
        let request = DhcpRepr {
            message_type: kind,
            transaction_id: 77,
            secs: 0,
            client_hardware_address: mac,
            client_ip: Ipv4Addr::UNSPECIFIED,
            your_ip: Ipv4Addr::UNSPECIFIED,
            server_ip: Ipv4Addr::UNSPECIFIED,
            router: None,
            subnet_mask: None,
            relay_agent_ip: Ipv4Addr::UNSPECIFIED,
            broadcast: false,
            requested_ip: requested,
            client_identifier: None,
            server_identifier: None,
            parameter_request_list: None,
            dns_servers: None,
            max_size: None,
            lease_duration: None,
            renew_duration: None,
            rebind_duration: None,
            additional_options: &[],
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut DhcpPacket::new_unchecked(&mut bytes)).expect("room");
        script.udp((Ipv4Addr::UNSPECIFIED, 68).into(), (Ipv4Addr::BROADCAST, 67).into(), &bytes);
        let (_, bytes) = script.packet().expect("an answer");
        bytes[8..].to_vec()
    };
    for (kind, requested, expected) in [
        (DhcpMessageType::Discover, None, DhcpMessageType::Offer),
        (DhcpMessageType::Request, Some(GUEST), DhcpMessageType::Ack),
        (DhcpMessageType::Request, Some(WORLD), DhcpMessageType::Nak),
    ] {
        let bytes = ask(kind, requested);
        let packet = DhcpPacket::new_checked(&bytes[..]).expect("a message");
        let reply = DhcpRepr::parse(&packet).expect("sound");
        assert_eq!((reply.message_type, reply.transaction_id), (expected, 77));
        let option =
            |kind| packet.options().find(|one| one.kind == kind).map(|one| one.data.to_vec());
        if expected == DhcpMessageType::Nak {
            assert_eq!(option(6), None);
        } else {
            assert_eq!((reply.your_ip, reply.router), (GUEST, Some(GATEWAY)));
            assert_eq!(option(6), Some(vec![10, 0, 2, 3]));
            assert_eq!(option(26), Some(1500_u16.to_be_bytes().to_vec()));
            assert_eq!(option(12), Some(b"oneroof".to_vec()));
        }
    }
}

#[test]
fn the_gateway_answers_arp_and_ping_and_others_do_not_without_ping_sockets() {
    let mut script = Script::new();
    for (target, answered) in
        [(GATEWAY, true), (GUEST, false), (Ipv4Addr::new(10, 0, 2, 99), false)]
    {
        let request = ArpRepr::EthernetIpv4 {
            operation: ArpOperation::Request,
            source_hardware_addr: EthernetAddress(Config::default().guest_mac),
            source_protocol_addr: GUEST,
            target_hardware_addr: EthernetAddress([0; 6]),
            target_protocol_addr: target,
        };
        let mut bytes = vec![0; request.buffer_len()];
        request.emit(&mut ArpPacket::new_unchecked(&mut bytes));
        script.stack.guest_sends(&Script::ethernet(EthernetProtocol::Arp, &bytes));
        assert_eq!(script.stack.next_frame(&mut script.buffer).is_some(), answered, "{target}");
    }
    for (target, answered) in [(GATEWAY, true), (WORLD, false)] {
        let echo = Icmpv4Repr::EchoRequest { ident: 3, seq_no: 4, data: b"ping" };
        let mut bytes = vec![0; echo.buffer_len()];
        echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &ChecksumCapabilities::default());
        script.ip(GUEST, target, IpProtocol::Icmp, &bytes);
        let reply = script.packet();
        assert_eq!(reply.is_some(), answered, "{target}");
        if let Some((_, bytes)) = reply {
            let packet = Icmpv4Packet::new_checked(&bytes[..]).expect("a message");
            let reply =
                Icmpv4Repr::parse(&packet, &ChecksumCapabilities::default()).expect("sound");
            assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 3, seq_no: 4, data: b"ping" });
        }
    }
}

#[test]
fn senders_other_than_the_guest_are_dropped_and_counted() {
    let mut script = Script::new();
    script.udp((Ipv4Addr::new(10, 0, 2, 16), 9).into(), (WORLD, 9).into(), b"x");
    script.udp((WORLD, 9).into(), (WORLD, 9).into(), b"x");
    let mut frame = Script::ethernet(EthernetProtocol::Ipv4, &[0; 40]);
    frame[6] ^= 2;
    script.stack.guest_sends(&frame);
    assert_eq!((script.stack.counters().spoofed, script.stack.flows()), (3, (0, 0)));
    assert!(script.wires.borrow().from_guest.is_empty());
}

#[test]
fn what_is_longer_than_the_link_s_packets_goes_in_fragments() {
    let mut script = Script::new();
    let payload: Vec<u8> = (0..5000).map(|at| (at / 7) as u8).collect();
    script.udp((GUEST, 5000).into(), (WORLD, 9).into(), &payload);
    assert_eq!(script.wires.borrow().from_guest, payload);
    let echo = Icmpv4Repr::EchoRequest { ident: 1, seq_no: 2, data: &payload };
    let mut bytes = vec![0; echo.buffer_len()];
    let sums = ChecksumCapabilities::default();
    echo.emit(&mut Icmpv4Packet::new_unchecked(&mut bytes), &sums);
    script.ip(GUEST, GATEWAY, IpProtocol::Icmp, &bytes);
    let (mut whole, mut more) = (Vec::new(), true);
    while more {
        let frame = script.stack.next_frame(&mut script.buffer).expect("another fragment");
        assert!(frame.length <= 1514);
        let packet = Ipv4Packet::new_checked(&script.buffer[14..frame.length]).expect("a packet");
        assert!(packet.verify_checksum() && !packet.dont_frag());
        assert_eq!(usize::from(packet.frag_offset()), whole.len());
        whole.extend_from_slice(packet.payload());
        more = packet.more_frags();
    }
    let packet = Icmpv4Packet::new_checked(&whole[..]).expect("a message");
    let reply = Icmpv4Repr::parse(&packet, &sums).expect("a sound sum");
    assert_eq!(reply, Icmpv4Repr::EchoReply { ident: 1, seq_no: 2, data: &payload });
    assert!(script.stack.next_frame(&mut script.buffer).is_none());
}

#[test]
fn a_thousand_and_more_flows_stay_within_the_tables() {
    let mut script = Script::new();
    for port in 1..3000 {
        script.udp((GUEST, port).into(), (WORLD, 9).into(), b"x");
    }
    assert_eq!(script.stack.flows().1, net::limits::FLOWS);
    script.stack.advance(Duration::from_secs(200));
    assert_eq!(script.stack.flows().1, 0, "idle flows end");
}
