//! What people fetch in a guest: package lists by apt-get, a large file by curl.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Result;

use super::{Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);
const MIB: usize = 100;

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    report.case("curl_fetches_a_large_file_whole", || large(roof, kernel));
    report.case("apt_get_update_works_in_the_guest", || lists(roof, kernel));
}

fn large(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["curl"], &["curl"]) {
        return Ok(Verdict::Skipped(why));
    }
    let piece: Vec<u8> =
        (0..1_u32 << 18).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("file");
    std::fs::write(&file, piece.repeat(MIB))?;
    let mut host = Command::new("sha256sum");
    let sum = run(host.stdin(std::fs::File::open(&file)?).arg(&file), "", LIMIT)?;
    let sum = sum.stdout.split(' ').next().unwrap_or_default().to_owned();
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let url = format!("http://10.0.2.2:{}/", listener.local_addr()?.port());
    // Ends with this process.
    std::thread::spawn(move || {
        listener.incoming().flatten().for_each(|stream| drop(serve(stream, &piece)));
    });
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft", "--net", "user,loopback"]).arg(kernel);
    let script = format!("curl -sS {url} | sha256sum");
    let seen = run(line.args(["--", "sh", "-c", &script]), "", LIMIT)?;
    seen.expect(seen.stdout.starts_with(&sum) && sum.len() == 64, &sum)
}

/// Answers one request with the whole file.
fn serve(mut stream: TcpStream, piece: &[u8]) -> std::io::Result<()> {
    let mut lines = BufReader::new(stream.try_clone()?).lines();
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let length = piece.len() * MIB;
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n")?;
    (0..MIB).try_for_each(|_| stream.write_all(piece))
}

/// Where the host itself can; what apt writes stays in the guest's memory.
fn lists(roof: &Path, kernel: &Path) -> Result<Verdict> {
    let script = "apt-get -o Dir::State::Lists=$(mktemp -d) -o APT::Sandbox::User=root update 2>&1";
    let host = run(Command::new("sh").args(["-c", script]), "", LIMIT);
    let works = |seen: &super::Output| {
        seen.status == Some(0) && seen.stdout.contains("Get:") && !seen.stdout.contains("Err:")
    };
    if !host.is_ok_and(|host| works(&host)) {
        return Ok(Verdict::Skipped("apt-get update does not work on this host either".into()));
    }
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft", "-m", "1G"]).arg(kernel);
    let seen = run(line.args(["--", "sh", "-c", "apt-get update 2>&1"]), "", LIMIT)?;
    let fetched = seen.stdout.contains("Reading package lists") && !seen.stdout.contains("Err:");
    seen.expect(seen.status == Some(0) && fetched, "package lists without errors")
}
