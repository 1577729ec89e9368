//! Sockets between guest and host: both ways, with more bytes than any buffer holds.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::conversation::Conversation;
use super::{Report, Verdict, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
const BYTES: usize = 8 << 20;
/// In the guest: sends all it gets at port 1234 back, and what it has sent to the host's port 99.
const SCRIPT: &str = r#"
    $| = 1;
    socket(L, 40, 1, 0) && bind(L, pack("SSLLL", 40, 0, 1234, 0xffffffff, 0)) && listen(L, 4)
        or die "no vsock: $!";
    print "listening\n";
    accept(S, L) or die "accept: $!";
    socket(H, 40, 1, 0) && connect(H, pack("SSLLL", 40, 0, 99, 2, 0)) or die "connect: $!";
    my $sum = 0;
    while (sysread(S, my $b, 65536)) {
        $sum += length $b;
        for my $t (*S, *H) {
            for (my $o = 0; $o < length $b;) { $o += syswrite($t, $b, 65536, $o) // die "write: $!"; }
        }
    }
    shutdown(S, 1);
    close H;
    print "done $sum\n";
"#;

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    for cpus in ["1", "2"] {
        report.case(&format!("bytes_go_through_vsock_both_ways_with_{cpus}_cpus"), || {
            both_ways(roof, kernel, cpus)
        });
    }
}

fn both_ways(roof: &Path, kernel: &Path, cpus: &str) -> Result<Verdict> {
    if !setup::has("perl") {
        return Ok(Verdict::Skipped("this machine has no perl".into()));
    }
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("vm.sock");
    let service = UnixListener::bind(folder.path().join("vm.sock_99"))?;
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft", "-c", cpus, "--vsock"]).arg(&path).arg(kernel);
    let mut guest = Conversation::start(line.args(["--", "perl", "-e", SCRIPT]), LIMIT)?;
    guest.hear("listening")?;
    let nobody = connect(&path, 4321)?;
    ensure!(nobody.1.is_empty(), "nobody listens at 4321, and the host was told {:?}", nobody.1);
    let (mut stream, answer) = connect(&path, 1234)?;
    ensure!(answer.starts_with("OK "), "the guest listens, and the host was told {answer:?}");
    let sent: Vec<u8> =
        (0..BYTES as u32).map(|n| (n.wrapping_mul(0x9e37_79b1) >> 24) as u8).collect();
    let (mut writer, to_send) = (stream.try_clone()?, sent.clone());
    let sender = thread::spawn(move || {
        writer.write_all(&to_send)?;
        writer.shutdown(std::net::Shutdown::Write)
    });
    let receiver = thread::spawn(move || {
        let mut bytes = Vec::new();
        service.accept()?.0.read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    });
    let mut back = Vec::new();
    stream.read_to_end(&mut back)?;
    sender.join().expect("it does not panic").context("sending")?;
    let forwarded = receiver.join().expect("it does not panic").context("receiving")?;
    guest.hear(&format!("done {BYTES}"))?;
    if back != sent || forwarded != sent {
        let why = format!("{} and {} bytes came, some of them others", back.len(), forwarded.len());
        return Ok(Verdict::Failed(why));
    }
    Ok(match (guest.finish()?, path.exists()) {
        (Some(0), false) => Verdict::Passed,
        other => Verdict::Failed(format!("status and socket that is left: {other:?}")),
    })
}

/// A connection with a port of the guest, and the line that it began with.
fn connect(path: &Path, port: u32) -> Result<(UnixStream, String)> {
    let mut stream = UnixStream::connect(path)?;
    writeln!(stream, "CONNECT {port}")?;
    let mut line = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte)? == 1 && byte != [b'\n'] {
        line.push(byte[0]);
    }
    Ok((stream, String::from_utf8_lossy(&line).into_owned()))
}
