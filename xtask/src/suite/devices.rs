//! Devices that a user asks for by name: a fake PCI device, consoles, keyboard and tablet; what
//! `--debug` tells of.

use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};

use super::conversation::Conversation;
use super::{Output, Report, Verdict, run, setup};

/// A slow machine's patience for one boot.
const LIMIT: Duration = Duration::from_secs(300);

/// In the guest: finds the checksum device by its ids, maps its BAR, has the words after the first
/// summed, waits for its interrupt line, prints what it says. Stores are `read`s from a pipe
/// to where the BAR is mapped; 0, 9 and 22 are the numbers of read, mmap and pipe.
const CHECKSUM: &str = r#"
    opendir(D, "/sys/bus/pci/devices");
    my ($dir) = grep { `cat $_/vendor $_/device 2>&1` eq "0x1234\n0x50fa\n" }
        map { "/sys/bus/pci/devices/$_" } readdir D;
    die "no device" unless $dir;
    open(E, ">", "$dir/enable") && syswrite(E, "1") or die "enable: $!";
    close E;
    open(R, "+<", "$dir/resource0") or die "resource0: $!";
    my $at = syscall(9, 0, 4096, 3, 1, fileno(R), 0);
    sub get { unpack("L", unpack("P4", pack("Q", $at + $_[0]))) }
    sub put {
        my ($offset, $bytes) = @_;
        pipe(my $out, my $in);
        syswrite($in, $bytes);
        syscall(0, fileno($out), $at + $offset, length $bytes) == length $bytes or die "put: $!";
    }
    print "identity ", pack("L", get(0)), "\n";
    put(8, $_) for @ARGV;
    printf "sum %08x of %d, status %d\n", get(12), get(16), get(20);
"#;

/// The cases.
pub(crate) fn cases(report: &mut Report, roof: &Path, kernel: &Path) {
    let case = |options: &[&str], command: &[&str]| one(roof, kernel, options, command);
    report.case("a_fake_device_is_found_and_its_bar_read", || {
        if !setup::has("perl") {
            return Ok(Verdict::Skipped("this machine has no perl".into()));
        }
        let perl = ["perl", "-e", CHECKSUM, "Wiki", "pe", "dia"];
        let seen = case(&["-q", "--device", "checksum,block=9"], &perl)?;
        let wanted = "identity SUM1\nsum 11e60398 of 9, status 1\n";
        if seen.status != Some(0) || seen.stdout != wanted {
            return seen.expect(false, wanted);
        }
        let seen = case(&["-q", "--device", "checksum,flip=1"], &perl)?;
        if !seen.stdout.starts_with("identity RUM1\nsum 11e60399 of 8,") {
            return seen.expect(false, "a wrong bit in every read");
        }
        let seen = case(&["-q", "--device", "checksum,lost=0"], &perl)?;
        seen.expect(seen.stderr.contains("no device"), "a device that is lost is not found")
    });
    report.case("an_unknown_device_or_option_is_refused_with_those_that_are", || {
        let seen = case(&["--device", "toaster"], &["true"])?;
        if seen.status != Some(125) || !seen.stderr.contains("checksum") {
            return seen.expect(false, "125 and the names");
        }
        let seen = case(&["--device", "checksum,slices=2"], &["true"])?;
        seen.expect(
            seen.status == Some(125) && seen.stderr.contains("slices"),
            "125 and the option",
        )
    });
    // Once in the command that roof shows, once in the guest.
    report.case("hvc0_is_the_console_with_console_virtio", || {
        let script = "echo said to hvc0 > /dev/hvc0; echo said to the log > /dev/kmsg; \
                      cat /sys/class/tty/console/active; sleep 1";
        let seen = case(&["-v", "--console", "virtio"], &["sh", "-c", script])?;
        let told =
            ["said to hvc0", "said to the log"].map(|line| seen.stderr.matches(line).count());
        let early = seen.stderr.contains("Linux version");
        let holds = seen.stdout == "hvc0\n" && told == [2, 2] && early;
        seen.expect(holds, "hvc0, and each line once, the early ones, too")
    });
    report.case("the_guest_s_terminal_is_as_large_as_ours", || window(roof, kernel));
    report.case("keys_and_pen_reach_evdev", || input(roof, kernel));
    report.case("debug_tells_of_virtio_and_of_what_nobody_answers", || {
        let seen = case(&["--debug", "all"], &["true"])?;
        let told = seen.stderr.contains("virtio-entropy: status 0x0b -> 0x0f")
            && seen.stderr.contains("nobody answers at port");
        if !told {
            return seen.expect(false, "both");
        }
        let seen = case(&["--debug", "all,-all"], &["true"])?;
        let quiet = !seen.stderr.contains("status 0x") && !seen.stderr.contains("nobody answers");
        seen.expect(quiet, "neither")
    });
}

fn one(roof: &Path, kernel: &Path, options: &[&str], command: &[&str]) -> Result<Output> {
    let mut line = Command::new(roof);
    line.args(["run", "--engine", "soft"]).args(options).arg(kernel).arg("--").args(command);
    run(&mut line, "", LIMIT)
}

/// The terminal's first size, and the one that it gets while the guest runs.
fn window(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if let Err(why) = setup::need(&["script"], &["bsdutils"]) {
        return Ok(Verdict::Skipped(why));
    }
    let (roof, kernel) = (roof.display(), kernel.display());
    let guest = "trap \"stty size; exit 4\" WINCH; stty size; while :; do sleep 0.1; done";
    let line = format!(
        "stty rows 50 cols 132; (sleep 12; stty rows 40 cols 100 < /dev/tty) & \
         '{roof}' run -q --engine soft --timeout 60 '{kernel}' -- sh -c '{guest}'"
    );
    let mut command = Command::new("script");
    command.args(["-qec", &line, "/dev/null"]).env("SHELL", "/bin/sh").env("TERM", "dumb");
    let seen = run(&mut command, "", LIMIT)?;
    let sizes = ["50 132", "40 100"].map(|size| seen.stdout.find(size));
    let holds = sizes[0].is_some() && sizes[0] < sizes[1] && seen.status == Some(4);
    seen.expect(holds, "50 132, then 40 100")
}

/// Reads evdev's structures: 16 bytes of time, then type, code and value.
const EVENTS: &str = r#"
    $| = 1;
    my %fd;
    opendir(D, "/sys/class/input");
    for my $n (grep /^event/, readdir D) {
        my $name = `cat /sys/class/input/$n/device/name`;
        open(my $f, "<", "/dev/input/$n") or die "$n: $!";
        $fd{$1} = $f if $name =~ /Oneroof (\w+)/;
    }
    die "no devices" unless $fd{keyboard} && $fd{tablet};
    print "ready\n";
    for my $one (["keyboard", 4], ["tablet", 7]) {
        my ($name, $count) = @$one;
        for (1 .. $count) {
            sysread($fd{$name}, my $b, 24) == 24 or die "read: $!";
            my ($type, $code, $value) = unpack("x16 SSl", $b);
            print "$name $type $code $value\n";
        }
    }
"#;

fn input(roof: &Path, kernel: &Path) -> Result<Verdict> {
    if !setup::has("perl") {
        return Ok(Verdict::Skipped("this machine has no perl".into()));
    }
    let folder = tempfile::tempdir()?;
    let pipe = folder.path().join("events");
    ensure!(Command::new("mkfifo").arg(&pipe).status()?.success(), "mkfifo failed");
    let mut line = Command::new(roof);
    line.args(["run", "-q", "--engine", "soft", "--timeout", "120", "--input-events"]).arg(&pipe);
    let mut guest =
        Conversation::start(line.arg(kernel).args(["--", "perl", "-e", EVENTS]), LIMIT)?;
    guest.hear("ready")?;
    let mut events = std::fs::File::options().write(true).open(&pipe)?;
    events.write_all(b"key 30 1\nkey 30 0\nmove 100 32767\nbutton 0 1\nwheel 0 -1\n")?;
    drop(events);
    for wanted in [
        "keyboard 1 30 1",
        "keyboard 0 0 0",
        "keyboard 1 30 0",
        "keyboard 0 0 0",
        "tablet 3 0 100",
        "tablet 3 1 32767",
        "tablet 0 0 0",
        "tablet 1 272 1",
        "tablet 0 0 0",
        "tablet 2 8 -1",
        "tablet 0 0 0",
    ] {
        let heard = guest.hear("")?;
        ensure!(heard == wanted, "{heard}, not {wanted}");
    }
    Ok(match guest.finish()? {
        Some(0) => Verdict::Passed,
        other => Verdict::Failed(format!("status {other:?}")),
    })
}
