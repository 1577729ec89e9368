//! The user-mode network: a guest's Ethernet frames end here, on the sockets of the user who runs it.
//!
//! No root, no helper process; [`Tap`] is the other way, for those who have a tap device. [`Stack`] is the network as a pure state machine over
//! [`Host`], the seam to the host's sockets; [`host::Sockets`] are real ones, [`Network`] puts both together
//! and [`Watch`] is where the thread that drives them waits. A device model gives frames to [`Stack::guest_sends`] and takes them from
//! [`Stack::next_frame`], which makes TCP segments of what the host sent only when there is room for them in the guest.
//!
//! Invariants: nothing a guest sends panics or blocks; every table and every buffer is bounded; a guest
//! reaches neither the host's loopback address nor an address of its own choice as sender.
#![deny(unsafe_code)]

mod config;
mod context;
mod dhcp;
mod dns;
mod forward;
mod fragments;
mod frame;
pub mod host;
mod icmp;
mod link;
mod network;
mod slab;
mod stack;
mod sys;
mod tap;
mod tcp;
mod udp;

pub use config::{Config, ConfigError, Ipv4Plan, Ipv6Plan, MTU_MAX, MTU_MIN};
pub use context::Counters;
pub use forward::{Forward, ForwardError, Protocol};
pub use frame::{FRAME_MAX, Incoming, Offload, Outgoing, PartialChecksum, Segments};
pub use host::{Datagrams, Host, Key, Ready, Stream};
pub use network::{Network, NetworkError, Watch};
pub use stack::Stack;
pub use tap::{TAP_HEADER, Tap, TapError, TapWatch};

/// How much of everything there is at most.
pub mod limits {
    pub use crate::dns::QUERIES;
    pub use crate::forward::FORWARDS;
    pub use crate::fragments::DATAGRAMS;
    pub use crate::frame::QUEUE_FRAMES;
    pub use crate::icmp::PINGS;
    pub use crate::tcp::CONNECTIONS;
    pub use crate::udp::FLOWS;
}
