//! The network: what a guest reaches, what reaches it, and that all of it comes whole.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv6Addr, TcpListener, TcpStream, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{Output, Report, Verdict, run, setup};
use crate::cpu;
use crate::net::{Server, pattern_sum};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: u64 = 1 << 20;
const GATEWAY: &str = "10.0.2.2";
const GATEWAY6: &str = "fd6f:6e65:726f:6f66::2";

/// What every case needs.
struct Bench<'a> {
    roof: &'a Path,
    kernel: &'a Path,
    /// The guest's client.
    client: PathBuf,
    v4: Server,
    v6: Option<Server>,
}

/// The cases.
pub(crate) fn cases(report: &mut Report, root: &Path, roof: &Path, kernel: &Path) {
    // The guest has a /tmp of its own, and the target folder may lie in the host's.
    let folder = tempfile::tempdir_in("/var/tmp");
    let bench = folder.as_ref().map_err(|error| anyhow::anyhow!("{error}")).and_then(|folder| {
        let client = folder.path().join("workloads");
        std::fs::copy(cpu::build_workloads(root)?, &client)?;
        let v4 = Server::start(IpAddr::from([127, 0, 0, 1]))?;
        let v6 = Server::start(Ipv6Addr::LOCALHOST.into()).ok();
        Ok(Bench { roof, kernel, client, v4, v6 })
    });
    let bench = match bench {
        Ok(bench) => bench,
        Err(error) => return report.case("network", || Err(error)),
    };
    transfers(report, &bench);
    services(report, &bench);
    report.case("network_a_forwarded_port_leads_into_the_guest", || bench.forwarded());
    report.case("network_forwards_tell_of_services_that_are_slow_dead_or_reset", || {
        bench.forwarded_to_bad_services()
    });
    report.case("network_a_port_in_use_or_a_missing_tap_is_told", || bench.refused());
    report.case("network_the_host_s_loopback_is_out_of_reach_unless_asked_for", || bench.closed());
    report.case("network_a_guest_on_a_tap_device_gets_a_lease", || bench.tap());
}

fn transfers(report: &mut Report, bench: &Bench<'_>) {
    for cpus in ["1", "2"] {
        report.case(&format!("network_64_mib_go_each_way_with_{cpus}_cpus"), || {
            bench.both_ways(&bench.v4.seen_at(GATEWAY), 64 * MIB, &["-c", cpus])
        });
    }
    report.case("network_each_of_two_cpus_has_queues_of_its_own_and_uses_them", || bench.queues());
    report.case("network_64_mib_go_each_way_over_ipv6", || match &bench.v6 {
        Some(server) => bench.both_ways(&server.seen_at(GATEWAY6), 64 * MIB, &[]),
        None => Ok(Verdict::Skipped("this host has no IPv6".into())),
    });
    report.case("network_8_mib_go_each_way_without_msi", || {
        bench.both_ways(&bench.v4.seen_at(GATEWAY), 8 * MIB, &["-p", "pci=nomsi"])
    });
    report.case("network_a_peer_that_reads_slowly_gets_everything", || {
        let bytes = 4 * MIB;
        let seen = bench.client("slow", &bench.v4.seen_at(GATEWAY), bytes, &[])?;
        seen.expect(seen.stdout.starts_with(&sum_line(bytes)), "the sum of 4 MiB")
    });
    report.case("network_a_thousand_connections_are_open_at_once", || {
        let script = format!("ulimit -n 4096; $0 net echo {} 1000", bench.v4.seen_at(GATEWAY));
        let seen = bench.shell(&[LOOPBACK], &script)?;
        seen.expect(seen.stdout == "1000 echoes\n", "1000 echoes")
    });
    report.case("network_datagrams_of_all_sizes_come_back", || {
        let mut server = bench.v4.seen_at(GATEWAY);
        let mut wanted = 1;
        if let Some(v6) = &bench.v6 {
            server = format!("{server} {}", v6.seen_at(GATEWAY6));
            wanted = 2;
        }
        let script = format!("for to in {server}; do $0 net udp $to 200; done");
        let seen = bench.shell(&[LOOPBACK], &script)?;
        seen.expect(seen.stdout == "200 datagrams\n".repeat(wanted), "200 datagrams each")
    });
    report.case("network_resets_and_refusals_are_told", || {
        let server = bench.v4.seen_at(GATEWAY);
        // A port that was free a moment ago.
        let free = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let script =
            format!("$0 net reset {server} 1; $0 net receive {GATEWAY}:{free} 1 2>&1; true");
        let seen = bench.shell(&[LOOPBACK], &script)?;
        let told = seen.stdout.starts_with("ConnectionReset\n") && seen.stdout.contains("refused");
        seen.expect(told, "ConnectionReset and refused")
    });
}

fn services(report: &mut Report, bench: &Bench<'_>) {
    report.case("network_a_dhcp_client_gets_what_init_has_set", || {
        if let Err(why) = setup::need(&["busybox"], &["busybox-static"]) {
            return Ok(Verdict::Skipped(why));
        }
        let script = "printf '#!/bin/sh\\nbusybox env\\n' > /tmp/told; chmod +x /tmp/told; \
                      busybox udhcpc -i eth0 -n -q -f -s /tmp/told 2>/dev/null | sort; \
                      cat /etc/resolv.conf; busybox ip -4 a show eth0; \
                      busybox ping -c 2 10.0.2.2 && busybox ping -c 1 10.0.2.3";
        let seen = bench.shell(&[], script)?;
        let told = [
            "ip=10.0.2.15\n",
            "router=10.0.2.2\n",
            "dns=10.0.2.3\n",
            "subnet=255.255.255.0\n",
            "mtu=1500\n",
            "hostname=oneroof\n",
            "nameserver 10.0.2.3\n",
            "inet 10.0.2.15/24",
            "2 packets received",
            "1 packets received",
        ];
        let missing = told.iter().find(|words| !seen.stdout.contains(**words));
        seen.expect(missing.is_none(), &format!("{missing:?}"))
    });
    report.case("network_ipv6_is_there_when_the_command_starts", || {
        let script = "grep -q ^fd6f6e65726f6f66 /proc/net/if_inet6 || sleep 0.1; \
                      busybox ping -c 1 -W 5 fd6f:6e65:726f:6f66::2";
        let seen = bench.shell(&[], script)?;
        seen.expect(seen.stdout.contains("1 packets received"), "an answer of the gateway")
    });
    report.case("network_names_are_looked_up_by_the_host_s_servers", || bench.names());
    report.case("network_none_is_no_card", || {
        let seen = bench.shell(&["--net", "none"], "ls /sys/class/net /sys/bus/pci/drivers")?;
        let none = seen.stdout.contains("lo\n") && !seen.stdout.contains("eth0");
        seen.expect(none, "lo and nothing else")
    });
}

const LOOPBACK: &str = "--net=user,loopback";

/// What the client says of a pattern of so many bytes that came whole.
fn sum_line(bytes: u64) -> String {
    format!("{bytes} {:016x} ", pattern_sum(bytes))
}

impl Bench<'_> {
    fn command(&self, options: &[&str]) -> Command {
        let mut line = Command::new(self.roof);
        line.args(["run", "--engine", "soft", "-q"]).args(options).arg(self.kernel).arg("--");
        line
    }

    /// A script whose `$0` is the client.
    fn shell(&self, options: &[&str], script: &str) -> Result<Output> {
        run(self.command(options).args(["sh", "-c", script]).arg(&self.client), "", LIMIT)
    }

    fn client(&self, what: &str, to: &str, amount: u64, options: &[&str]) -> Result<Output> {
        let mut line = self.command(&[&[LOOPBACK], options].concat());
        run(line.arg(&self.client).args(["net", what, to, &amount.to_string()]), "", LIMIT)
    }

    fn both_ways(&self, to: &str, bytes: u64, options: &[&str]) -> Result<Verdict> {
        let script = format!("$0 net receive {to} {bytes} && $0 net send {to} {bytes}");
        let seen = self.shell(&[&[LOOPBACK], options].concat(), &script)?;
        let line = sum_line(bytes);
        let mut lines = seen.stdout.lines();
        let both =
            [lines.next(), lines.next()].map(|told| told.is_some_and(|l| l.starts_with(&line)));
        for told in seen.stdout.lines().filter_map(|told| told.strip_prefix(&line)) {
            println!("  {told}");
        }
        seen.expect(both == [true; 2], &format!("{line}twice"))
    }

    /// Connections both ways of the second processor, then of the first: each has its frames on its own queues.
    fn queues(&self) -> Result<Verdict> {
        const LIST: &str = "ls /sys/class/net/eth0/queues";
        let one = self.shell(&["-c", "1"], LIST)?;
        if one.stdout != "rx-0\ntx-0\n" {
            return one.expect(false, "one pair of queues for one processor");
        }
        let to = self.v4.seen_at(GATEWAY);
        let script = format!(
            "told() {{ grep -e '-input\\.' /proc/interrupts; }}; {LIST}; told; for cpu in 1 0; do \
             for way in receive send receive send; do \
             taskset -c $cpu $0 net $way {to} {} & done; wait; told; done",
            4 * MIB
        );
        let seen = self.shell(&[LOOPBACK, "-c", "2"], &script)?;
        let named = seen.stdout.starts_with("rx-0\nrx-1\ntx-0\ntx-1\n");
        let whole = seen.stdout.matches(&sum_line(4 * MIB)).count() == 8;
        let [first, second] = ["-input.0", "-input.1"].map(|name| growth(&seen.stdout, name));
        println!("  interrupts of the receive queues: {first:?}, {second:?}");
        let own = matches!((&first[..], &second[..]), ([a, b], [c, d]) if c > a && b > d);
        seen.expect(
            named && whole && own,
            "two pairs of queues, 8 sums, interrupts of its own each",
        )
    }

    /// The first name that this host can look up is what the guest finds, too.
    fn names(&self) -> Result<Verdict> {
        let found = Command::new("getent").args(["ahostsv4", "deb.debian.org"]).output()?;
        let text = String::from_utf8_lossy(&found.stdout).into_owned();
        let Some(address) = text.split_whitespace().next() else {
            return Ok(Verdict::Skipped("this host finds no deb.debian.org".into()));
        };
        let seen = self.shell(&[], "getent ahostsv4 deb.debian.org")?;
        let known: Vec<&str> = text.split_whitespace().step_by(3).collect();
        let same = seen.stdout.split_whitespace().next().is_some_and(|one| known.contains(&one));
        seen.expect(same, &format!("{address} or another of the host's"))
    }

    /// TCP and UDP from the host to the guest.
    fn forwarded(&self) -> Result<Verdict> {
        if let Err(why) = setup::need(&["busybox"], &["busybox-static"]) {
            return Ok(Verdict::Skipped(why));
        }
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let udp = UdpSocket::bind("127.0.0.1:0")?.local_addr()?.port();
        let (forward, datagrams) = (format!("{port}:80"), format!("127.0.0.1:{udp}:7/udp"));
        let script = "seq 1 200000 > /tmp/numbers; $0 net answer 0.0.0.0:7 1000 & \
                      busybox httpd -f -h /tmp";
        let mut line = self.command(&["-P", &forward, "-P", &datagrams]);
        line.args(["sh", "-c", script]).arg(&self.client).stdin(Stdio::null());
        let mut guest = line.stdout(Stdio::null()).spawn()?;
        let got = fetch(port).and_then(|body| Ok((body, echo(udp)?)));
        guest.kill()?;
        guest.wait()?;
        let (body, echo) = got?;
        let numbers: String = (1..=200_000).map(|number| format!("{number}\n")).collect();
        Ok(match (body.ends_with(&numbers), echo.as_str()) {
            (true, "hello guest") => Verdict::Passed,
            (whole, echo) => Verdict::Failed(format!("the file: {whole}; the echo: {echo:?}")),
        })
    }

    /// What the host's clients see of guest services that answer late, are not there, or end with data unread.
    fn forwarded_to_bad_services(&self) -> Result<Verdict> {
        if let Err(why) = setup::need(&["busybox"], &["busybox-static"]) {
            return Ok(Verdict::Skipped(why));
        }
        let mut ports = [0; 3];
        for port in &mut ports {
            *port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        }
        let [slow, reset, dead] = ports;
        let script = "busybox nc -ll -p 2 -e sleep 0.5 & busybox nc -ll -p 1 -e \
                      sh -c 'read x; for n in 1 2 3; do sleep 0.3; echo $n; done'";
        let forwards =
            [(slow, 1), (reset, 2), (dead, 3)].map(|(host, guest)| format!("{host}:{guest}"));
        let mut line = self.command(&["-P", &forwards[0], "-P", &forwards[1], "-P", &forwards[2]]);
        line.args(["sh", "-c", script]).stdin(Stdio::null()).stdout(Stdio::null());
        let mut guest = line.spawn()?;
        let begun = Instant::now();
        // Until the guest listens, its port answers with a reset.
        let slow = loop {
            match ask(slow) {
                Err(_) if begun.elapsed() < LIMIT => {
                    std::thread::sleep(Duration::from_millis(100));
                }
                got => break got,
            }
        };
        let (reset, dead) = (ask(reset), ask(dead));
        guest.kill()?;
        guest.wait()?;
        let is_reset = |got: &std::io::Result<String>| {
            got.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset)
        };
        let all = slow.as_ref().is_ok_and(|text| text == "1\n2\n3\n");
        Ok(match all && is_reset(&reset) && is_reset(&dead) {
            true => Verdict::Passed,
            false => Verdict::Failed(format!("slow {slow:?}, reset {reset:?}, dead {dead:?}")),
        })
    }

    /// What can't be is said before a guest starts.
    fn refused(&self) -> Result<Verdict> {
        let (tcp, udp) = (TcpListener::bind("127.0.0.1:0")?, UdpSocket::bind("127.0.0.1:0")?);
        let tcp = format!("-P{}:80", tcp.local_addr()?.port());
        let udp = format!("-P{}:80/udp", udp.local_addr()?.port());
        for (option, words) in [
            (&*tcp, "the address is in use; choose another host port"),
            (&*udp, "the address is in use; choose another host port"),
            ("--net=tap=a-name-of-17-char", "no name of an interface"),
            ("--net=tap=roof-nothere", "has no interface roof-nothere"),
        ] {
            let seen = run(self.command(&[option]).arg("true"), "", LIMIT)?;
            if seen.status != Some(125) || !seen.stderr.contains(words) {
                return seen.expect(false, &format!("125 and {words:?} for {option}"));
            }
        }
        Ok(Verdict::Passed)
    }

    fn closed(&self) -> Result<Verdict> {
        let mut servers = self.v4.seen_at(GATEWAY);
        if let Some(v6) = &self.v6 {
            servers = format!("{servers} {}", v6.seen_at(GATEWAY6));
        }
        let port = self.v4.port;
        let servers = format!("{servers} 127.0.0.1:{port} 10.0.2.3:{port}");
        let script = format!("for to in {servers}; do $0 net receive $to 8 2>&1; done");
        let seen = self.shell(&[], &script)?;
        let refused = seen.stdout.lines().filter(|line| line.contains("refused")).count();
        let (all, told) = (servers.split(' ').count(), seen.stdout.lines().count());
        seen.expect(refused == all && told == all, &format!("{all} refusals"))
    }

    /// A lease from a server of this host, and bytes both ways.
    fn tap(&self) -> Result<Verdict> {
        if let Err(why) = setup::need(&["busybox", "ip"], &["busybox-static", "iproute2"]) {
            return Ok(Verdict::Skipped(why));
        }
        let name = format!("roof{}", std::process::id() % 100_000);
        let ip = |arguments: &str| -> Result<bool> {
            let told = Command::new("ip").args(arguments.split(' ')).output()?;
            Ok(told.status.success())
        };
        if !ip(&format!("tuntap add {name} mode tap"))? {
            return Ok(Verdict::Skipped("no tap device can be made here".into()));
        }
        let verdict = self.on_tap(&name, &ip);
        ip(&format!("tuntap del {name} mode tap"))?;
        verdict
    }

    fn on_tap(&self, name: &str, ip: &dyn Fn(&str) -> Result<bool>) -> Result<Verdict> {
        const HOST: &str = "192.168.213.1";
        let up =
            ip(&format!("addr add {HOST}/24 dev {name}"))? && ip(&format!("link set {name} up"))?;
        anyhow::ensure!(up, "the tap device has an address and is up");
        let folder = tempfile::tempdir()?;
        let (config, leases) = (folder.path().join("config"), folder.path().join("leases"));
        std::fs::File::create(&leases)?;
        let text = format!(
            "start 192.168.213.20\nend 192.168.213.30\ninterface {name}\nlease_file {}\n\
             option subnet 255.255.255.0\noption router {HOST}\noption dns 192.0.2.53\n\
             option domain example\noption lease 600\n",
            leases.display()
        );
        std::fs::write(&config, text)?;
        let mut server = Command::new("busybox");
        server.args(["udhcpd", "-f"]).arg(&config).stdout(Stdio::null()).stderr(Stdio::null());
        let mut server = server.spawn()?;
        let peer = Server::start(HOST.parse()?)?;
        let script = format!(
            "for n in $(seq 100); do grep -q nameserver /etc/resolv.conf 2>/dev/null && break; \
             sleep 0.1; done; cat /etc/resolv.conf; $0 net receive {to} {MIB} && \
             $0 net send {to} {MIB}",
            to = peer.seen_at(HOST)
        );
        // Two processors: the card spreads what the interface's one queue has.
        let seen = self.shell(&[&format!("--net=tap={name}"), "-c", "2"], &script);
        server.kill()?;
        server.wait()?;
        let (seen, line) = (seen?, sum_line(MIB));
        let lease = seen.stdout.starts_with("search example\nnameserver 192.0.2.53\n");
        let whole = seen.stdout.matches(&line).count() == 2;
        seen.expect(lease && whole, "the lease's name server, and the sum twice")
    }
}

/// How often an interrupt of this name came, on all processors, between each two of the times that
/// /proc/interrupts was told.
fn growth(text: &str, name: &str) -> Vec<u64> {
    let lines = text.lines().filter(|line| line.ends_with(name));
    let count = |line: &str| -> u64 {
        line.split_whitespace().skip(1).map_while(|word| word.parse::<u64>().ok()).sum()
    };
    let counts: Vec<_> = lines.map(count).collect();
    counts.windows(2).map(|pair| pair[1] - pair[0]).collect()
}

/// The body of /numbers, once the guest serves it.
fn fetch(port: u16) -> Result<String> {
    let begun = Instant::now();
    loop {
        let mut text = String::new();
        let got = TcpStream::connect(("127.0.0.1", port)).and_then(|mut stream| {
            stream.set_read_timeout(Some(LIMIT))?;
            stream.write_all(b"GET /numbers HTTP/1.0\r\n\r\n")?;
            stream.read_to_string(&mut text)
        });
        match got {
            Ok(_) if text.ends_with("200000\n") => return Ok(text),
            _ if begun.elapsed() < LIMIT => std::thread::sleep(Duration::from_millis(100)),
            got => {
                return Err(anyhow::anyhow!(
                    "no file from the guest: {got:?}, {} bytes",
                    text.len()
                ));
            }
        }
    }
}

/// What a service says to a line.
fn ask(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(60)))?;
    stream.write_all(b"unread\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

/// A datagram's way to the guest and back.
fn echo(port: u16) -> Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0")?;
    socket.connect(("127.0.0.1", port))?;
    socket.set_read_timeout(Some(Duration::from_secs(2)))?;
    let mut buffer = [0; 100];
    for _ in 0..20 {
        socket.send(b"hello guest")?;
        if let Ok(count) = socket.recv(&mut buffer) {
            return Ok(String::from_utf8_lossy(&buffer[..count]).into_owned());
        }
    }
    Err(anyhow::anyhow!("no datagram came back")).context("UDP")
}
