//! The guest's network card: which network it is on, opened before the guest starts.
//!
//! Everything that can be wrong with it is found here: ports in use, a tap device that is not there.
//! Invariants: nothing of the host's loopback is within the guest's reach unless asked for; a run that
//! must repeat has no network, since what comes in by one never repeats.

mod tap;
mod user;

use std::fmt;
use std::str::FromStr;

use net::{Forward, ForwardError, NetworkError, TapError};
use protocol::Network as JobNetwork;
use thiserror::Error;
use virtio::Device;

use super::config::RunConfig;

/// The network a card is on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum NetChoice {
    /// No card.
    #[default]
    None,
    /// The user's own: connections go out by this process' sockets.
    User {
        /// The gateway's address leads to the host's loopback address.
        loopback: bool,
    },
    /// An interface of the host.
    Tap(String),
}

/// The network, and which ports of the host lead into the guest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct NetConfig {
    /// Which.
    pub choice: NetChoice,
    /// On [`NetChoice::User`] only.
    pub forwards: Vec<Forward>,
}

/// Why the network can't be had.
#[derive(Debug, Error)]
pub enum NetError {
    /// `--net x`.
    #[error("{0:?} is no network: none, user, `user,loopback` or tap=NAME")]
    Unknown(String),
    /// Ports lead nowhere.
    #[error(
        "a forwarded port (-P) needs the user network, not --net {0}; leave out one of the two"
    )]
    ForwardWithout(NetChoice),
    /// A guest without Linux has no network unless asked for.
    #[error(
        "a kernel that is no Linux gets no network unless asked for: add --net user to forward ports (-P)"
    )]
    ForwardToBare,
    /// Packets come when they come.
    #[error(
        "--deterministic and --net {0} exclude one another: what comes by a network never repeats"
    )]
    Deterministic(NetChoice),
    /// A port.
    #[error(transparent)]
    Forward(#[from] ForwardError),
    /// A tap device.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// The user network.
    #[error(transparent)]
    User(#[from] NetworkError),
    /// The host gives no random numbers or descriptors.
    #[error("cannot set the network up")]
    Host(#[source] std::io::Error),
}

impl FromStr for NetChoice {
    type Err = NetError;

    fn from_str(text: &str) -> Result<Self, NetError> {
        Ok(match text {
            "none" => Self::None,
            "user" => Self::User { loopback: false },
            "user,loopback" => Self::User { loopback: true },
            _ => match text.strip_prefix("tap=") {
                Some(name) => Self::Tap(name.to_owned()),
                None => return Err(NetError::Unknown(text.to_owned())),
            },
        })
    }
}

impl fmt::Display for NetChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::None => f.write_str("none"),
            Self::User { loopback: false } => f.write_str("user"),
            Self::User { loopback: true } => f.write_str("user,loopback"),
            Self::Tap(name) => write!(f, "tap={name}"),
        }
    }
}

impl NetConfig {
    /// The options that give it again.
    pub(super) fn as_options(&self, words: &mut Vec<String>) {
        words.extend(["--net".into(), super::config::quoted(&self.choice.to_string())]);
        for forward in &self.forwards {
            words.extend(["-P".into(), super::config::quoted(&forward.to_string())]);
        }
    }
}

/// What the user wants, understood.
#[derive(Debug)]
pub(super) struct Wish {
    /// `None`: as we think best.
    choice: Option<NetChoice>,
    forwards: Vec<Forward>,
}

/// A card that can be plugged in.
pub(super) struct Card {
    pub(super) config: NetConfig,
    pub(super) device: Option<Box<dyn Device>>,
    /// What our init is told.
    pub(super) job: JobNetwork,
}

impl Wish {
    /// Reads the options.
    pub(super) fn of(config: &RunConfig) -> Result<Self, NetError> {
        let forwards: Result<Vec<Forward>, _> =
            config.forwards.iter().map(|text| text.parse()).collect();
        let forwards = forwards?;
        let mut choice = config.net.as_deref().map(str::parse).transpose()?;
        let is_user = matches!(choice, None | Some(NetChoice::User { .. }));
        if let Some(other) = choice.clone().filter(|_| !is_user && !forwards.is_empty()) {
            return Err(NetError::ForwardWithout(other));
        }
        if config.deterministic.is_some() {
            match choice.take() {
                None if !forwards.is_empty() => {
                    return Err(NetError::Deterministic(NetChoice::User { loopback: false }));
                }
                None | Some(NetChoice::None) => choice = Some(NetChoice::None),
                Some(other) => return Err(NetError::Deterministic(other)),
            }
        }
        Ok(Self { choice, forwards })
    }

    /// Opens what it takes. `bare`: the guest is no Linux.
    pub(super) fn open(self, bare: bool, cpus: u32) -> Result<Card, NetError> {
        let Self { choice, forwards } = self;
        let choice = match choice {
            None if bare && !forwards.is_empty() => return Err(NetError::ForwardToBare),
            None if bare => NetChoice::None,
            None => NetChoice::User { loopback: false },
            Some(choice) => choice,
        };
        let (device, job) = match &choice {
            NetChoice::None => (None, JobNetwork::None),
            NetChoice::User { loopback } => {
                let (device, job) = user::open(*loopback, &forwards, cpus)?;
                (Some(device), job)
            }
            NetChoice::Tap(name) => (Some(tap::open(name, cpus)?), JobNetwork::Dhcp),
        };
        Ok(Card { config: NetConfig { choice, forwards }, device, job })
    }
}

#[cfg(test)]
mod tests {
    use super::super::config::Deterministic;
    use super::*;

    fn wish(net: Option<&str>, forwards: &[&str]) -> RunConfig {
        RunConfig {
            net: net.map(str::to_owned),
            forwards: forwards.iter().map(|text| (*text).to_owned()).collect(),
            ..RunConfig::default()
        }
    }

    #[test]
    fn networks_are_read_and_told_again() {
        for text in ["none", "user", "user,loopback", "tap=tap0"] {
            let choice: NetChoice = text.parse().expect(text);
            assert_eq!(choice.to_string(), text);
        }
        for text in ["", "bridge", "tap", "user,"] {
            assert!(matches!(text.parse::<NetChoice>(), Err(NetError::Unknown(_))), "{text}");
        }
        let config = NetConfig {
            choice: NetChoice::User { loopback: false },
            forwards: vec!["8080:80".parse().expect("a forward")],
        };
        let mut words = Vec::new();
        config.as_options(&mut words);
        assert_eq!(words.join(" "), "--net user -P 127.0.0.1:8080:80");
    }

    #[test]
    fn what_excludes_one_another_is_refused() {
        let refused = |config: &RunConfig| Wish::of(config).expect_err("refused");
        let error = refused(&wish(Some("none"), &["8080:80"]));
        assert!(matches!(error, NetError::ForwardWithout(NetChoice::None)));
        assert!(matches!(refused(&wish(None, &["80"])), NetError::Forward(_)));
        let repeatable =
            |config| RunConfig { deterministic: Some(Deterministic::default()), ..config };
        let error = refused(&repeatable(wish(Some("user"), &[])));
        assert!(matches!(error, NetError::Deterministic(_)));
        let error = refused(&repeatable(wish(None, &["8080:80"])));
        assert!(matches!(error, NetError::Deterministic(_)));
        let card = Wish::of(&repeatable(wish(None, &[]))).and_then(|wish| wish.open(false, 1));
        assert_eq!(card.expect("no network at all").config.choice, NetChoice::None);
        let bare = Wish::of(&wish(None, &["8080:80"])).expect("a wish").open(true, 1);
        assert!(matches!(bare.map(|card| card.config), Err(NetError::ForwardToBare)));
    }
}
