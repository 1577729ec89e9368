//! The host's name servers, from resolv.conf (resolv.conf(5)), read again when it changes.
//!
//! The relay asks them from the host, so that a stub on 127.0.0.53 can be asked as it is; should it not
//! answer, those that systemd-resolved itself asks come behind it.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

/// Larger files are no resolv.conf.
const BYTES: u64 = 64 << 10;
/// Name servers of one file at most, as in libc.
const SERVERS: usize = 3;
/// Search domains of one file at most, as in libc.
const SEARCH: usize = 6;
/// The file is looked at no more often than this.
const CHECK: Duration = Duration::from_secs(1);

pub(super) struct Resolvers {
    path: PathBuf,
    behind_stub: PathBuf,
    servers: Vec<SocketAddr>,
    changed: Option<SystemTime>,
    checked: Option<Instant>,
}

impl Resolvers {
    pub(super) fn new(path: &Path, behind_stub: &Path) -> Self {
        Self {
            path: path.into(),
            behind_stub: behind_stub.into(),
            servers: Vec::new(),
            changed: None,
            checked: None,
        }
    }

    /// Best first; without a file the local one, as in libc.
    pub(super) fn get(&mut self) -> Vec<SocketAddr> {
        if self.checked.is_none_or(|checked| checked.elapsed() >= CHECK) {
            self.checked = Some(Instant::now());
            let changed = std::fs::metadata(&self.path).and_then(|about| about.modified()).ok();
            if changed.is_none() || changed != self.changed {
                self.changed = changed;
                self.read();
            }
        }
        self.servers.clone()
    }

    fn read(&mut self) {
        self.servers = parse(&contents(&self.path));
        if self.servers.is_empty() {
            self.servers.push(([127, 0, 0, 1], 53).into());
        }
        let is_stub = |one: &SocketAddr| matches!(one.ip(), IpAddr::V4(ip) if ip.octets()[..3] == [127, 0, 0]);
        if self.servers.iter().any(is_stub) {
            for server in parse(&contents(&self.behind_stub)) {
                if !self.servers.contains(&server) {
                    self.servers.push(server);
                }
            }
        }
    }
}

/// Domains in which short names are looked up: the last `search` or `domain` line of resolv.conf.
pub(super) fn search_domains(path: &Path) -> Vec<String> {
    let text = contents(path);
    let names = |line: &str| {
        let mut words = line.split_whitespace().map(str::to_owned);
        let is_list = matches!(words.next().as_deref(), Some("search" | "domain"));
        is_list.then(|| words.collect::<Vec<_>>())
    };
    let domains = text.lines().rev().find_map(names).unwrap_or_default().into_iter();
    domains.filter(|name| is_domain(name)).take(SEARCH).collect()
}

/// Letters, digits, hyphens, underscores and dots, no longer than a name can be (RFC 1035).
fn is_domain(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_alphanumeric() || b"-_.".contains(&c);
    let labels = || name.trim_end_matches('.').split('.');
    name.len() <= 253
        && name.bytes().all(plain)
        && labels().all(|label| (1..=63).contains(&label.len()))
}

fn contents(path: &Path) -> String {
    match std::fs::metadata(path) {
        Ok(about) if about.is_file() && about.len() <= BYTES => {
            std::fs::read_to_string(path).unwrap_or_default()
        }
        _ => String::new(),
    }
}

/// The `nameserver` lines' addresses; those with a zone can't be had without the interface's index.
fn parse(text: &str) -> Vec<SocketAddr> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_whitespace();
            let is_server = words.next() == Some("nameserver");
            let address: IpAddr = words.next().filter(|_| is_server)?.parse().ok()?;
            Some(SocketAddr::new(address, 53))
        })
        .take(SERVERS)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_come_from_the_file_and_those_behind_a_stub_come_behind_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, behind) = (folder.path().join("resolv.conf"), folder.path().join("behind"));
        let of = |text: &str| text.parse::<SocketAddr>().expect("an address");
        let get = || Resolvers::new(&path, &behind).get();
        assert_eq!(get(), [of("127.0.0.1:53")], "no file");
        std::fs::write(&behind, "nameserver 192.0.2.1\nnameserver 2001:db8::1\n").expect("written");
        std::fs::write(&path, "# x\nsearch lan\nnameserver 127.0.0.53\noptions edns0\n")
            .expect("written");
        assert_eq!(get(), [of("127.0.0.53:53"), of("192.0.2.1:53"), of("[2001:db8::1]:53")]);
        std::fs::write(
            &path,
            "nameserver 198.51.100.1 # x\nnameserver bad\nnameserver fe80::1%eth0\n",
        )
        .expect("written");
        assert_eq!(get(), [of("198.51.100.1:53")]);
    }

    #[test]
    fn search_domains_are_those_of_the_last_line() {
        let folder = tempfile::tempdir().expect("a temporary directory");
        let path = folder.path().join("resolv.conf");
        assert!(search_domains(&path).is_empty());
        let long = "x".repeat(64);
        std::fs::write(&path, format!("domain a\nsearch lan corp.example ../etc b;c {long} .\n"))
            .expect("written");
        assert_eq!(search_domains(&path), ["lan", "corp.example"]);
    }
}
